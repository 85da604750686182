"""Records of the images of a data set, computed by several processes that may be stopped at any time."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from tqdm import tqdm

from ..data.rows import Sample, SegmentationData
from ..metrics import segmentation_scores


SETTINGS_FILE = "settings.json"
RECORD_FILES = "process-{}.jsonl"


def counts_of(matrix: np.ndarray) -> dict[str, list[int]]:
    """A confusion matrix as its cells that are not 0 (row by row, from 0) and their counts."""
    cells = np.flatnonzero(matrix)
    return {"cells": cells.tolist(), "counts": matrix.ravel()[cells].tolist()}


def matrix_of(counts: dict[str, list[int]], num_labels: int) -> np.ndarray:
    """The confusion matrix, int64 of shape `(num_labels, num_labels)`, that [`counts_of`] has taken apart."""
    matrix = np.zeros(num_labels**2, dtype=np.int64)
    matrix[counts["cells"]] = counts["counts"]
    return matrix.reshape(num_labels, num_labels)


def sum_matrices(records: list[dict], num_labels: int) -> np.ndarray:
    """The confusion matrix of all images with annotations."""
    total = np.zeros((num_labels, num_labels), dtype=np.int64)
    for record in records:
        if record["cells"] is not None:
            total += matrix_of(record, num_labels)
    return total


def check_settings(folder: Path, settings: dict):
    """Raises a `ValueError` if `folder` holds results that were made with other settings."""
    path = folder / SETTINGS_FILE
    if not path.exists():
        if folder.is_dir() and any(folder.glob(RECORD_FILES.format("*"))):
            raise ValueError(f"{folder} holds results without {SETTINGS_FILE}: choose another output folder")
        return
    earlier = json.loads(path.read_text())
    different = [key for key in {**earlier, **settings} if earlier.get(key) != settings.get(key)]
    if different:
        changes = "; ".join(f"{key} was {earlier.get(key)}, now {settings.get(key)}" for key in different)
        raise ValueError(
            f"{folder} holds results made with other settings ({changes}). Use the same to go on there, or choose "
            "another output folder"
        )


def write_text(path: Path, text: str):
    """Writes a file whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def start_processes() -> PartialState:
    """
    Joins the processes that `accelerate launch` or `torchrun` has started, on GPUs or, where there are none, the CPU.

    Raises:
        `ValueError`: they were launched as several but did not come together, and would all do the same work.
    """
    # Without `cpu=True`, accelerate takes each process on a machine without a GPU for the only one. A process that is
    # done early waits for the others, however long they take.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=7))
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched != state.num_processes:
        raise ValueError(f"{launched} processes were launched, but {state.num_processes} came together")
    return state


def complete_lines(path: Path) -> list[bytes]:
    """The lines of a file; a last one without a line end, which a killed process may leave, is not among them."""
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def read_records(folder: Path) -> dict[int, dict]:
    """
    The records of all processes by the index of their image.

    Raises:
        `ValueError`: a file is damaged, or an image has two records; names file and line.
    """
    records = {}
    for path in sorted(folder.glob(RECORD_FILES.format("*"))):
        for number, line in enumerate(complete_lines(path), start=1):
            try:
                record = json.loads(line)
                index = record["index"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} is damaged in line {number}: delete the file to compute it anew") from error
            if index in records:
                raise ValueError(
                    f"{path}, line {number}: {record['name']!r} is in {folder} already. Two runs must have written "
                    "there at the same time: delete the folder and start one of them"
                )
            records[index] = record
    return records


def append_records(path: Path, records: list[dict]):
    """Adds records as lines and drops an incomplete last line that was there before."""
    with open(path, "ab") as file:
        if path.stat().st_size:
            file.truncate(sum(len(line) for line in complete_lines(path)))
        file.write("".join(json.dumps(record) + "\n" for record in records).encode())


def read_ahead(data: SegmentationData, groups: list[list[int]]) -> Iterator[list[Sample]]:
    """Reads each group of samples while the one before is worked on."""

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
    """
    The record of each image: those that `folder` holds already, and new ones, computed together with the other
    processes that were launched and added to the folder as they come.

    Images are taken in groups of `batch_size` that follow each other in the data set; a group is computed as a whole
    and by one process. What is computed therefore depends neither on the number of processes nor on interruptions.

    Args:
        folder: For `settings.json` and a file of records for each process; the same for all processes.
        settings: What the results depend on. A folder with results of other settings is refused.
        work: Takes samples and returns for each a record that JSON can hold, with `cells` and `counts` of its
            confusion matrix ([`counts_of`]) if it has an annotation; `index` and `name` are added here.
        limit: Take only the first `limit` images.
        is_missing: Whether something besides the record is still missing of the image of that name.

    Raises:
        `ValueError`: only some images have annotations; see [`check_settings`], [`read_records`] and
            [`SegmentationData.read`]; or records are missing at the end.
    """
    if missing := data.missing_annotations():
        raise ValueError(f"{len(missing)} images have no annotation, the first is {missing[0]!r}")
    state = PartialState()
    names, num_labels = list(data.rows["name"]), len(data.label_set.names)
    wanted = range(len(names) if limit is None else min(limit, len(names)))
    check_settings(folder, settings)
    records = read_records(folder)
    groups = [list(wanted[start : start + batch_size]) for start in range(0, len(wanted), batch_size)]
    groups = [group for group in groups if any(i not in records or is_missing(names[i]) for i in group)]
    # Nobody writes before everybody has read: all must divide the same groups.
    state.wait_for_everyone()
    folder.mkdir(parents=True, exist_ok=True)
    if state.is_main_process:
        write_text(folder / SETTINGS_FILE, json.dumps(settings, indent=2))

    mine = groups[state.process_index :: state.num_processes]
    file = folder / RECORD_FILES.format(state.process_index)
    total = sum_matrices([records[i] for i in wanted if i in records], num_labels)
    share = f", process 1 of {state.num_processes}" if state.num_processes > 1 else ""
    with tqdm(total=sum(map(len, mine)), unit="image", disable=not state.is_main_process) as progress:
        for group, samples in zip(mine, read_ahead(data, mine)):
            new = [{"index": i, "name": names[i], **record} for i, record in zip(group, work(samples))]
            # Of a group that a killed process left half written, some are there.
            added = [record for record in new if record["index"] not in records]
            append_records(file, added)
            total += sum_matrices(added, num_labels)
            progress.update(len(new))
            progress.set_description(f"mIoU {100 * segmentation_scores(total)['mean_iou']:.2f} %{share}")
    state.wait_for_everyone()
    records = read_records(folder)
    lost = [names[i] for i in wanted if i not in records]
    if lost:
        raise ValueError(f"{len(lost)} images have no result in {folder}, which all processes must share: {lost[:3]}")
    return [records[i] for i in wanted]
