"""A record for each image of a data set, computed by several processes that may be stopped at any time."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from tqdm import tqdm

from ..data.rows import Sample, SegmentationData
from ..errors import SetrError
from ..files import append_lines, complete_lines, folder_lock, make_folder, write_json
from ..inference.settings import check_settings
from ..metrics import confusion_matrix, segmentation_scores


SETTINGS_FILE = "settings.json"
RECORD_FILES = "process-{}.jsonl"


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


def start_processes(num_threads: int) -> PartialState:
    """Joins the launched processes, with `num_threads` threads each on a CPU. [`SetrError`] if one is missing."""
    # Without `cpu=True`, accelerate takes each process on a machine without a GPU for the only one. A process that
    # finishes early waits for the others, however long they take.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=7))
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched != state.num_processes:
        raise SetrError(f"{launched} processes were launched, but {state.num_processes} found each other")
    if state.device.type == "cpu":
        torch.set_num_threads(num_threads)
    return state


def read_records(folder: Path) -> dict[int, dict]:
    """The records of all processes, by the index of their image. Raises [`SetrError`] for damaged or double ones."""
    records = {}
    for path in sorted(folder.glob(RECORD_FILES.format("*"))):
        for number, line in enumerate(complete_lines(path), start=1):
            try:
                record = json.loads(line)
                index = record["index"]
            except (ValueError, KeyError, TypeError) as error:
                raise SetrError(f"line {number} of {path} is damaged: delete the file to compute it again") from error
            if index in records:
                raise SetrError(
                    f"line {number} of {path}: {record['name']!r} has another record in {folder}. Two runs must have "
                    "written there at the same time: delete the folder and start one of them"
                )
            records[index] = record
    return records


def read_ahead(data: SegmentationData, groups: list[list[int]]) -> Iterator[list[Sample]]:
    """Reads each group of samples while the one before it is being segmented."""

    def read_group(group: list[int]) -> list[Sample]:
        return [data[index] for index in group]

    with ThreadPoolExecutor(max_workers=1) as pool:
        upcoming = pool.submit(read_group, groups[0]) if groups else None
        for following in [*groups[1:], None]:
            if upcoming is not None:
                samples = upcoming.result()
                upcoming = pool.submit(read_group, following) if following else None
                yield samples


def compute_records(
    folder: Path,
    settings: dict,
    data: SegmentationData,
    work: Callable[[list[Sample]], list[dict]],
    limit: int | None = None,
    batch_size: int = 1,
    is_missing: Callable[[str], bool] = lambda name: False,
) -> list[dict]:
    """The record of each image: those in `folder`, and new ones, which the launched processes compute together and add
    to `folder` one by one.

    Images are taken in groups of `batch_size` neighbours in the data set; each group is computed as a whole and by one
    process. The results therefore depend neither on the number of processes nor on interruptions.

    Args:
        folder (`Path`): For `settings.json` and a file of records for each process; the same for all processes.
        settings (`dict`): Everything the results depend on. A folder with results of other settings is refused.
        data (`SegmentationData`): The samples.
        work (`Callable`): Takes a list of [`Sample`]s and returns for each a record that JSON can hold, see
            [`sample_record`]; `index` and `name` are added here.
        limit (`int`, *optional*): How many images to take; by default all.
        batch_size (`int`, *optional*, defaults to 1): How many samples `work` takes at a time.
        is_missing (`Callable`, *optional*): Whether the image of a name must be computed although it has a record.

    Raises a [`SetrError`] if only some images have annotations, a sample cannot be read, or `folder` holds damaged
    records or those of other settings, is not shared by all processes, or another job writes to it.
    """
    if missing := data.missing_annotations():
        raise SetrError(f"{len(missing)} images have no annotation, the first is {missing[0]!r}")
    state = PartialState()
    names, num_labels = list(data.rows["name"]), len(data.label_set.names)
    wanted = range(len(names) if limit is None else min(limit, len(names)))
    with folder_lock(folder) if state.is_main_process else nullcontext():
        check_settings(folder / SETTINGS_FILE, settings, has_results=any(folder.glob(RECORD_FILES.format("*"))))
        records = read_records(folder)
        groups = [list(wanted[start : start + batch_size]) for start in range(0, len(wanted), batch_size)]
        groups = [group for group in groups if any(i not in records or is_missing(names[i]) for i in group)]
        # Nobody writes before everybody has read: all must divide the same groups.
        state.wait_for_everyone()
        make_folder(folder)
        if state.is_main_process:
            write_json(folder / SETTINGS_FILE, settings)

        mine = groups[state.process_index :: state.num_processes]
        file = folder / RECORD_FILES.format(state.process_index)
        total = sum_records([records[i] for i in wanted if i in records], num_labels)
        share = f", process 1 of {state.num_processes}" if state.num_processes > 1 else ""
        with tqdm(total=sum(map(len, mine)), unit="image", disable=not state.is_main_process) as progress:
            for group, samples in zip(mine, read_ahead(data, mine)):
                new = [{"index": i, "name": names[i], **record} for i, record in zip(group, work(samples))]
                # A killed process may have written a part of a group.
                added = [record for record in new if record["index"] not in records]
                append_lines(file, [json.dumps(record) for record in added])
                total += sum_records(added, num_labels)
                progress.update(len(new))
                progress.set_description(f"mIoU {100 * segmentation_scores(total)['mean_iou']:.2f} %{share}")
        state.wait_for_everyone()
        records = read_records(folder)
        lost = [names[i] for i in wanted if i not in records]
        if lost:
            raise SetrError(
                f"{len(lost)} images have no record, such as {lost[0]!r}: do all processes share {folder}?"
            )
        return [records[i] for i in wanted]
