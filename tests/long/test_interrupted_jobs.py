"""Each job is interrupted at many random moments of its whole life; see `interrupted_jobs.py`."""

from collections import Counter

import pytest
from interrupted_jobs import JOBS, check_interrupted, make_inputs


NUM_RUNS = 60
# From the first moment to a while after the longest of them has ended, here.
MOST_SECONDS = 25


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("job", JOBS)
def test_a_job_ends_with_one_line_whenever_it_is_interrupted(inputs, tmp_path, job):
    endings = Counter()
    for seed in range(1, NUM_RUNS + 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        endings[check_interrupted(job, seed, inputs, folder, MOST_SECONDS)[:40]] += 1
    print(f"{job}: {dict(endings)}")
    assert endings["interrupted"] > 0
