"""A record for each image: sparse confusion matrices that survive being killed."""

import json

import numpy as np
import pytest

from setr_hf.errors import SetrError
from setr_hf.evaluation.records import counts_of, read_records, sum_records
from setr_hf.files import append_lines


def test_records_sum_to_the_confusion_matrix_of_all_images_that_have_an_annotation():
    matrices = np.random.default_rng(0).integers(0, 3, (5, 4, 4))
    bare = {"cells": None, "counts": None}
    total = sum_records([bare, *map(counts_of, matrices)], 4)
    assert total.dtype == np.int64 and np.array_equal(total, matrices.sum(axis=0))
    assert len(counts_of(np.diag([1, 0, 2, 0]))["cells"]) == 2, "zeros are not stored"


def test_damaged_and_doubled_records_are_errors(tmp_path):
    record = {"index": 0, "name": "a", **counts_of(np.array([[2, 0], [1, 3]]))}
    append_lines(tmp_path / "process-0.jsonl", [json.dumps(record)])
    assert sum_records([read_records(tmp_path)[0]], 2).tolist() == [[2, 0], [1, 3]]
    append_lines(tmp_path / "process-1.jsonl", [json.dumps(record)])
    with pytest.raises(SetrError, match=r"line 1 of .*process-1.jsonl: 'a' has another record"):
        read_records(tmp_path)
    (tmp_path / "process-1.jsonl").write_text("{}\n")
    with pytest.raises(SetrError, match=r"line 1 of .*process-1.jsonl is damaged"):
        read_records(tmp_path)
