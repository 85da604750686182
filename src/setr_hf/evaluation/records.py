"""A record for each image of a data set, computed by several processes that may be stopped at any time."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from ..data.rows import Sample, SegmentationData
from ..errors import SetrError
from ..files import (
    append_lines,
    check_is_file,
    complete_lines,
    folder_lock,
    make_folder,
    parse_json,
    write_json,
)
from ..inference.segmenter import read_ahead, segment_each
from ..inference.settings import check_settings
from ..metrics import confusion_matrix, segmentation_scores
from ..model.photos_setr import Photo
from ..progress import progress_bar
from ..text import listing, printable


# A [`Segmenter`], or its `with_confidence`: what a model finds in each photo.
Segmenting = Callable[[Sequence[Photo]], list]

SETTINGS_FILE = "settings.json"
RECORD_FILES = "process-{}.jsonl"
BAD_SAMPLE_FILES = "bad-samples-{}.jsonl"
# Far more than a photo has, and so few that no sum of them overflows.
MOST_PIXELS = 2**40
WAYS_OUT = "Repair them and start again; `evaluate` and `compare` leave them out with --skip-bad-samples"


@dataclass(frozen=True)
class Records:
    """The records of images, in the order of the data set. They stay in their files, of which each iteration reads one
    after the other: memory holds only where they are.

    Args:
        places (`dict[int, tuple[Path, int]]`): The file that the record of an image is in, and the byte that its line
            starts at, by the index of the image.
        bad_samples (`list[dict]`): `index`, `name` and `reason` of the images that have no record because they cannot
            be used.
    """

    places: dict[int, tuple[Path, int]]
    bad_samples: list[dict]

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[dict]:
        for index in sorted(self.places):
            path, start = self.places[index]
            with open(path, "rb") as file:
                file.seek(start)
                yield json.loads(file.readline())


def counts_of(matrix: np.ndarray) -> dict[str, list[int]]:
    """The nonzero `cells` of a confusion matrix, numbered row by row from 0, and their `counts`."""
    cells = np.flatnonzero(matrix)
    return {"cells": cells.tolist(), "counts": matrix.ravel()[cells].tolist()}


def sum_records(records: Iterable[dict], num_labels: int) -> np.ndarray:
    """The confusion matrix, int64 of shape `(num_labels, num_labels)`, of all images that have an annotation."""
    total = np.zeros(num_labels**2, dtype=np.int64)
    for record in records:
        if record["cells"] is not None:
            total[record["cells"]] += np.array(record["counts"], dtype=np.int64)
    return total.reshape(num_labels, num_labels)


def sample_record(sample: Sample, prediction: torch.Tensor, num_labels: int) -> dict:
    """[`counts_of`] a predicted label map `(height, width)`; both are `None` if the sample has no annotation."""
    if sample.label_map is None:
        return {"cells": None, "counts": None}
    return counts_of(confusion_matrix(prediction, sample.label_map, num_labels))


def are_numbers(values: Any, low: int, high: int) -> bool:
    """Whether `values` is a list of whole numbers from `low` to `high` − 1."""
    return isinstance(values, list) and all(type(value) is int and low <= value < high for value in values)


def check_sample_record(record: dict, num_labels: int, has_annotations: bool) -> None:
    """Raises `ValueError`, `KeyError` or `TypeError` if `record` does not hold what [`sample_record`] returns."""
    cells, counts = record["cells"], record["counts"]
    if not has_annotations:
        if (cells, counts) != (None, None):
            raise ValueError("it counts pixels of an image that has no annotation")
        return
    if not are_numbers(cells, 0, num_labels**2) or any(first >= second for first, second in pairwise(cells)):
        raise ValueError(f"cells must be a list of ascending numbers from 0 to {num_labels**2 - 1}")
    if not are_numbers(counts, 1, MOST_PIXELS) or len(counts) != len(cells):
        raise ValueError("counts must be a list of numbers of pixels, one for each cell")


def start_processes(num_threads: int | None) -> PartialState:
    """Joins the launched processes, with `num_threads` threads each on a CPU; by default torch's own number, which
    heeds OMP_NUM_THREADS and the CPUs that a process is bound to. [`SetrError`] if a process is missing.
    """
    # Without `cpu=True`, accelerate takes each process on a machine without a GPU for the only one. A process that
    # finishes early waits for the others, however long they take.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=7))
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched != state.num_processes:
        raise SetrError(f"{launched} processes were launched, but {state.num_processes} found each other")
    if num_threads and state.device.type == "cpu":
        torch.set_num_threads(num_threads)
    return state


def find_records(folder: Path, names: list[str], check: Callable[[dict], None]) -> dict[int, tuple[Path, int]]:
    """The [`Records.places`] of all processes' records of the images called `names`. Raises [`SetrError`] for two
    records of an image, and for damaged ones, for which `check` raises an error.
    """
    places: dict[int, tuple[Path, int]] = {}
    for path in sorted(folder.glob(RECORD_FILES.format("*"))):
        check_is_file(path)
        start = 0
        for number, line in enumerate(complete_lines(path), start=1):
            try:
                record = parse_json(line.decode())
                index = record["index"]
                if not are_numbers([index], 0, len(names)) or record["name"] != names[index]:
                    raise ValueError("index and name are not those of an image of the data set")
                check(record)
            except (ValueError, KeyError, TypeError) as error:
                raise SetrError(
                    f"line {number} of {path} is damaged: delete the file to compute its records again "
                    f"({type(error).__name__}: {error})"
                ) from error
            if index in places:
                raise SetrError(
                    f"line {number} of {path}: {names[index]!r} has another record in {folder}. Two runs must have "
                    "written there at the same time: delete the folder and start one of them"
                )
            places[index] = (path, start)
            start += len(line)
    return places


def read_group(data: SegmentationData, group: list[int]) -> dict[int, Sample | SetrError]:
    """The samples of these indices, or why they cannot be used."""
    samples: dict[int, Sample | SetrError] = {}
    for index in group:
        row = data.undecoded[index]
        try:
            samples[index] = data.read_labelled(row) if data.has_annotations else data.read(row)
        except SetrError as error:
            samples[index] = error
    return samples


def segment_samples(segmenters: Sequence[Segmenting], samples: list[Sample]) -> list[tuple[Any, ...] | SetrError]:
    """What each of the `segmenters` predicts for each sample, or why one of them cannot."""

    def segment_by_all(photos: Sequence[Photo]) -> list[tuple[Any, ...]]:
        return list(zip(*(segmenter(photos) for segmenter in segmenters)))

    results = segment_each(segment_by_all, [sample.photo for sample in samples])
    return [
        SetrError(f"{sample.name} cannot be segmented: {result}") if isinstance(result, SetrError) else result
        for sample, result in zip(samples, results)
    ]


def group_records(
    samples: dict[int, Sample | SetrError], segmenters: Sequence[Segmenting], record: Callable[..., dict]
) -> dict[int, dict | SetrError]:
    """The record of each sample of a group, or why it cannot be used; see [`compute_records`]."""
    good = {index: sample for index, sample in samples.items() if isinstance(sample, Sample)}
    records: dict[int, dict | SetrError] = {i: error for i, error in samples.items() if isinstance(error, SetrError)}
    for (index, sample), result in zip(good.items(), segment_samples(segmenters, list(good.values()))):
        records[index] = result if isinstance(result, SetrError) else record(sample, *result)
    return records


def read_bad_samples(folder: Path) -> list[dict]:
    """The [`Records.bad_samples`] that all processes have named."""
    lines = (line for path in folder.glob(BAD_SAMPLE_FILES.format("*")) for line in complete_lines(path))
    return sorted(map(json.loads, lines), key=lambda bad: bad["index"])


def compute_records(
    folder: Path,
    settings: dict,
    data: SegmentationData,
    segmenters: Sequence[Segmenting],
    record: Callable[..., dict] = sample_record,
    check: Callable[[dict, int, bool], None] = check_sample_record,
    limit: int | None = None,
    batch_size: int = 1,
    is_missing: Callable[[str], bool] = lambda name: False,
    skip_bad_samples: bool = False,
) -> Records:
    """The record of each image: those in `folder`, and new ones, which the launched processes compute together and add
    to `folder` one by one.

    Images are taken in groups of `batch_size` neighbours in the data set; each group is computed as a whole and by one
    process. The results therefore depend neither on the number of processes nor on interruptions.

    Samples that cannot be read, or not be segmented, are named in `folder` when they are met, and on the standard
    error stream at the end. They have no record, so the next call tries them again, and only them.

    Args:
        folder (`Path`): For `settings.json` and files of records and bad samples for each process; the same for all
            processes.
        settings (`dict`): Everything the results depend on. A folder with results of other settings is refused.
        data (`SegmentationData`): The samples.
        segmenters (sequence of `Segmenting`): The models.
        record (`Callable`, *optional*): Takes a [`Sample`], what each of the `segmenters` returns for it, such as its
            label map, and the number of classes, and returns the record, which JSON can hold; `index` and `name` are
            added here.
        check (`Callable`, *optional*): Raises an error if a record is not one that `record` returns, as
            [`check_sample_record`] does.
        limit (`int`, *optional*): How many images to take; by default all.
        batch_size (`int`, *optional*, defaults to 1): How many samples are segmented at a time.
        is_missing (`Callable`, *optional*): Whether the image of a name must be computed although it has a record.
        skip_bad_samples (`bool`, *optional*, defaults to `False`): Whether to return the records of the others if
            some samples cannot be used.

    Raises a [`SetrError`] if no sample can be used, or, unless `skip_bad_samples` is set, one cannot, of which those
    without annotation are found before any is computed; or if `folder` holds damaged records or those of other
    settings, is not shared by all processes, its disk is full, or another job writes to it.
    """
    if not skip_bad_samples and (missing := data.missing_annotations()):
        raise SetrError(f"{len(missing)} images have no annotation, the first is {missing[0]!r}. {WAYS_OUT}")
    state = PartialState()
    names, num_labels = list(data.rows["name"]), len(data.label_set.names)
    wanted = range(len(names) if limit is None else min(limit, len(names)))

    def find() -> dict[int, tuple[Path, int]]:
        return find_records(folder, names, lambda record: check(record, num_labels, data.has_annotations))

    with folder_lock(folder) if state.is_main_process else nullcontext():
        check_settings(folder / SETTINGS_FILE, settings, has_results=any(folder.glob(RECORD_FILES.format("*"))))
        places = find()
        groups = [list(wanted[start : start + batch_size]) for start in range(0, len(wanted), batch_size)]
        groups = [group for group in groups if any(i not in places or is_missing(names[i]) for i in group)]
        make_folder(folder)
        if state.is_main_process:
            if not (folder / SETTINGS_FILE).exists():
                write_json(folder / SETTINGS_FILE, settings)
            for path in folder.glob(BAD_SAMPLE_FILES.format("*")):
                path.unlink()
        # Nobody adds records before everybody has read them: all must divide the same groups.
        state.wait_for_everyone()

        mine = groups[state.process_index :: state.num_processes]
        files = [folder / name.format(state.process_index) for name in (RECORD_FILES, BAD_SAMPLE_FILES)]
        total = sum_records(Records({i: places[i] for i in wanted if i in places}, []), num_labels)
        num_bad = 0
        share = f", process 1 of {state.num_processes}" if state.num_processes > 1 else ""
        with progress_bar(sum(map(len, mine)), "image", disable=not state.is_main_process) as progress:
            for samples in read_ahead(partial(read_group, data), mine):
                progress.update(len(samples))
                needed = [i for i in samples if i not in places or is_missing(names[i])]
                if all(isinstance(samples[i], SetrError) for i in needed):
                    # The rest of their group has records.
                    samples = {i: samples[i] for i in needed}
                outcomes = group_records(samples, segmenters, partial(record, num_labels=num_labels))
                added, bad = [], []
                for i in needed:
                    entry, outcome = {"index": i, "name": names[i]}, outcomes[i]
                    if isinstance(outcome, SetrError):
                        bad.append({**entry, "reason": str(outcome)})
                    elif i not in places:  # A killed process may have written a part of a group.
                        added.append({**entry, **outcome})
                append_lines(files[0], list(map(json.dumps, added)))
                append_lines(files[1], list(map(json.dumps, bad)))
                num_bad += len(bad)
                total += sum_records(added, num_labels)
                mean_iou = f"mIoU {100 * segmentation_scores(total)['mean_iou']:.2f} %"
                bad_share = f", {num_bad} bad" if num_bad else ""
                progress.set_description(f"{mean_iou}{bad_share}{share}", refresh=False)
        state.wait_for_everyone()
        bad_samples = read_bad_samples(folder)
        unusable = {entry["index"] for entry in bad_samples}
        places = {i: place for i, place in find().items() if i in wanted and i not in unusable}
        state.wait_for_everyone()
    lost = [names[i] for i in wanted if i not in places and i not in unusable]
    if lost:
        raise SetrError(f"{len(lost)} images have no record, such as {lost[0]!r}: do all processes share {folder}?")
    reasons = [entry["reason"] for entry in bad_samples]
    if state.is_main_process:
        for reason in reasons:
            print(f"bad sample: {printable(reason)}", file=sys.stderr)
    if reasons and (not skip_bad_samples or not places):
        raise SetrError(f"{len(reasons)} of {len(wanted)} samples cannot be used: {listing(reasons)}. {WAYS_OUT}")
    return Records(places, bad_samples)
