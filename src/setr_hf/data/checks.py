"""Checks every sample of a data set before training starts, so that none fails in the middle of an epoch."""

import logging

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object

from ..errors import SetrError
from ..model.image_processing_setr import IGNORED_LABEL
from ..text import listing
from .label_sets import NAMES_FILE, LabelSet
from .passes import my_samples
from .rows import SegmentationData


logger = logging.getLogger(__name__)


def check_sample(index: int, data: SegmentationData) -> tuple[str, str | None, np.ndarray]:
    """A sample's name, what is wrong with it, if anything, and which of the ids 0 to 255 occur in its label map."""
    row = data.undecoded[index]
    try:
        label_map = data.read_labelled(row).label_map
    except SetrError as error:
        return row["name"], str(error), np.zeros(256, dtype=bool)
    return row["name"], None, np.bincount(label_map.ravel(), minlength=256) > 0


def has_class(occurring: np.ndarray) -> bool:
    return bool(occurring[:IGNORED_LABEL].any())


def check_occurring(occurring: np.ndarray, label_set: LabelSet) -> None:
    """Raises a [`SetrError`] if nothing can be learnt from label maps in which these ids alone occur."""
    if occurring.any() and not has_class(occurring):
        raise SetrError("every pixel of every annotation is ignored")
    is_mask = len(label_set.names) == 2 and label_set.lookup[0] == 0 and label_set.lookup[255] == IGNORED_LABEL
    if is_mask and np.flatnonzero(occurring).tolist() == [0, IGNORED_LABEL]:
        raise SetrError(
            f"all annotations hold 0 and 255 only, but 255 is the ignored value: {label_set.names[1]!r} would never "
            f'be learnt. If 255 stands for it, write "values": {{"0": 0, "255": 1}} into {NAMES_FILE}, beside id2label'
        )


def checked_samples(
    data: SegmentationData, skip_bad_samples: bool = False, num_workers: int | None = None
) -> SegmentationData:
    """The data, which is not a stream, after every sample has been decoded and found usable: photo and annotation can
    be read and have the same size, and the annotation holds ids of the classes. With `skip_bad_samples` those that are
    not are left out, with a warning. Processes that were launched together share the work and arrive at the same
    result; by default each runs as many threads as it has CPUs to itself. Raises a [`SetrError`] that names the first
    bad samples and counts all, or if the split has no annotations, or none that anything can be learnt from.
    """
    data.check_annotations()
    state = PartialState()
    bad, blank, occurring = [], [], np.zeros(256, dtype=bool)
    for index, (name, problem, ids) in my_samples(data, check_sample, "Checking samples", num_workers):
        occurring |= ids
        if problem is not None:
            bad.append((index, problem))
        elif not has_class(ids):
            blank.append((index, name))
    shares = gather_object([(bad, blank, occurring)])
    bad, blank = (sorted(entry for share in shares for entry in share[i]) for i in (0, 1))
    occurring = np.any([share[2] for share in shares], axis=0)

    if bad:
        found, problems = f"{len(bad)} of {len(data)} samples cannot be used", [problem for _, problem in bad]
        if not skip_bad_samples:
            hint = "Repair or remove them, or leave them out with --skip-bad-samples"
            raise SetrError(f"{found}: {listing(problems)}. {hint}")
        if len(bad) == len(data):
            raise SetrError(f"{found}: {listing(problems)}")
        if state.is_main_process:
            logger.warning("Left out: %s: %s", found, listing(problems, most=len(problems)))
        good = set(range(len(data))).difference(index for index, _ in bad)
        data = data.select(sorted(good))
    check_occurring(occurring, data.label_set)
    if blank and state.is_main_process:
        names = [name for _, name in blank]
        logger.warning("In %d of %d annotations every pixel is ignored: %s", len(names), len(data), listing(names))
    return data
