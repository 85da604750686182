"""Checks of every sample of a data set before training starts, instead of a failure in the middle of an epoch."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from tqdm import tqdm

from ..model.image_processing_base_setr import IGNORED_LABEL
from .examples import check_annotations
from .label_sets import NAMES_FILE
from .loading import LabelSet, decode_row, undecoded


logger = logging.getLogger(__name__)

NUM_NAMED = 5


def check_sample(index: int, dataset: Dataset, label_set: LabelSet) -> tuple[str, str | None, np.ndarray]:
    """
    The name of a sample of an [`undecoded`] data set, what is wrong with it, `None` if nothing is, and
    which values occur in its annotation, bool of shape `(256,)`.
    """
    row = dataset[index]
    try:
        decoded = decode_row(row)
        label_set.encode_row(decoded)
    except ValueError as error:
        return row["name"], str(error), np.zeros(256, dtype=bool)
    values = np.asarray(decoded["annotation"]).astype(np.uint8)
    return row["name"], None, np.bincount(values.ravel(), minlength=256) > 0


def check_values(occurring: np.ndarray, label_set: LabelSet):
    """
    Raises a `ValueError` if nothing can be learnt from annotations in all of which only the values `occurring` occur,
    bool of shape `(256,)`.
    """
    values = np.flatnonzero(occurring).tolist()
    if values and (label_set.lookup[values] == IGNORED_LABEL).all():
        raise ValueError(f"no annotation holds a pixel that counts, only the ignored values {values}")
    if len(label_set.id2label) == 2 and values == [0, IGNORED_LABEL] and label_set.lookup[values[1]] == IGNORED_LABEL:
        raise ValueError(
            f"all annotations hold 0 and 255 only, but 255 is the ignored value: {label_set.id2label[1]!r} would "
            f'never be learnt. If 255 stands for it, write "values": {{"0": 0, "255": 1}} into {NAMES_FILE}, beside '
            "id2label"
        )


def listing(problems: list[str]) -> str:
    """The first problems, each on a line, and how many more there are."""
    more = [f"… and {len(problems) - NUM_NAMED} more"] if len(problems) > NUM_NAMED else []
    return "\n".join(f"  {line}" for line in problems[:NUM_NAMED] + more)


def checked_samples(
    dataset: Dataset, label_set: LabelSet, skip_bad_samples: bool = False, num_workers: int | None = None
) -> Dataset:
    """
    The data set, every sample of which has been decoded and can be used: image and annotation can be read and are of
    one size, and the annotation holds ids of the classes. Processes that were launched together share the work and
    come to the same result.

    Args:
        dataset: With the columns `image`, `annotation` and `name`.
        skip_bad_samples: Whether to leave out samples that cannot be used, with a warning, instead of an error.
        num_workers: Threads of each process; by default they divide the CPUs among them.

    Raises:
        `ValueError`: samples cannot be used: names the first, with what is wrong, and counts all. Or the split has no
            annotations, or such that nothing can be learnt from.
    """
    check_annotations(dataset)
    state = PartialState()
    mine = range(state.process_index, len(dataset), state.num_processes)
    check = partial(check_sample, dataset=undecoded(dataset), label_set=label_set)
    bad, blank, occurring = [], [], np.zeros(256, dtype=bool)
    # Pillow decodes without the interpreter's lock.
    with ThreadPoolExecutor(num_workers or max(1, (os.cpu_count() or 1) // state.num_processes)) as pool:
        # `delay`: a small data set is checked before a bar would be of use.
        progress = {"desc": "Checking samples", "unit": "sample", "delay": 3, "disable": not state.is_main_process}
        for index, (name, problem, values) in zip(mine, tqdm(pool.map(check, mine), total=len(mine), **progress)):
            occurring |= values
            if problem is not None:
                bad.append((index, problem))
            elif (label_set.lookup[values] == IGNORED_LABEL).all():
                blank.append((index, name))
    shares = gather_object([(bad, blank, occurring)])
    bad, blank = (sorted(entry for share in shares for entry in share[i]) for i in (0, 1))
    occurring = np.any([share[2] for share in shares], axis=0)

    if bad:
        found = f"{len(bad)} of {len(dataset)} samples cannot be used:\n{listing([problem for _, problem in bad])}"
        if not skip_bad_samples:
            raise ValueError(f"{found}\nRepair or remove them, or go on without them with --skip-bad-samples")
        if len(bad) == len(dataset):
            raise ValueError(found)
        if state.is_main_process:
            logger.warning("Left out: %s", found)
        good = set(range(len(dataset))).difference(index for index, _ in bad)
        dataset = dataset.select(sorted(good))
    check_values(occurring, label_set)
    if blank and state.is_main_process:
        logger.warning(
            "In %d annotations no pixel counts, all are ignored:\n%s", len(blank), listing([name for _, name in blank])
        )
    return dataset
