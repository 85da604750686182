"""The folder that results of photos are written to: their names, whether these are free, and which photos are done, so
that a job that was stopped at any time goes on.
"""

import csv
import errno
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import SetrError
from ..files import LOCK_NAME, append_lines, complete_lines, first_repeated, name_key, whole_file, write_json
from ..text import csv_cell, one_line
from .photo_files import PhotoFiles
from .pictures import NO_CLASS, class_shares, confidence_picture, overlay_with_legend
from .predictions import Prediction
from .settings import check_settings


SETTINGS_FILE = "_settings.json"
RECORDS_FILE = "_records.jsonl"
# What is written for each photo, after its name. The longest is first: if it is too long, there is none of them.
RESULTS = ("_overlay.jpg", ".png", ".csv")
CONFIDENCE_RESULTS = ("_confidence.jpg", "_confidence.png", *RESULTS)
# The label map of a picture that is read by windows, which may have the name of the picture but for this.
LARGE_LABEL_MAP = "_labels.tif"
LARGE_RESULTS = ("_overlay.jpg", LARGE_LABEL_MAP, ".csv")
# What a file system says of a name that is too long, or has characters that it does not take.
UNFIT_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


def result_names(photos: dict[Path, Path], ends: Sequence[str] = RESULTS) -> list[str]:
    """A name, with slashes after subfolders, for each photo's results: its place, see [`PhotoFiles`], with its suffix
    where needed. Raises [`SetrError`] if two files of results, whose names have these `ends`, would have the same name
    by its [`name_key`], or a subfolder that of a file of this job.
    """
    stems = [(place.parent / place.stem).as_posix() for place in photos.values()]
    counts = Counter(map(name_key, stems))
    names = [
        (place.parent / place.name.replace(".", "_")).as_posix() if counts[name_key(stem)] > 1 else stem
        for place, stem in zip(photos.values(), stems)
    ]
    ends = (*ends, LARGE_LABEL_MAP)
    results = [name_key(f"{name}{end}") for name in names for end in ends]
    repeated = first_repeated(results)
    if repeated is not None:
        owners = [photo for photo in photos for _ in ends]
        first, second = [owner for owner, result in zip(owners, results) if result == repeated][:2]
        raise SetrError(
            f"the results of {first} and {second} would have the same names: rename one, pass the folder above "
            "both, or give each folder its own --output"
        )
    files = {SETTINGS_FILE, RECORDS_FILE, LOCK_NAME, *results}
    for photo, place in photos.items():
        for folder in place.parents:
            if name_key(folder.as_posix()) in files:
                raise SetrError(f"{photo}: a file of the results would have the name of its folder: rename {folder}")
    return names


def result_files(folder: Path, name: str, ends: Sequence[str] = RESULTS) -> list[Path]:
    """Overlay, label map and table of the classes; before them, if asked for, picture and map of the confidence."""
    return [folder / f"{name}{end}" for end in ends]


def check_overwrites_nothing(found: PhotoFiles, folder: Path, names: list[str], ends: Sequence[str] = RESULTS) -> None:
    """Raises a [`SetrError`] if results would go where the next run would take them for photos, or leave out photos
    among them, or one would take the place of a photo.
    """
    searched_with_photos = {each for each in with_parents(found.holding) if found.searched & with_parents({each})}
    if folder.exists() and any(map(folder.samefile, searched_with_photos)):
        raise SetrError(f"{folder} holds the photos: name another --output")
    searched = found.searched - with_parents({Path(os.path.realpath(folder))})
    for place in {Path(name).parent for name in names}:
        if searched & with_parents({Path(os.path.realpath(folder / place))}):
            raise SetrError(f"{folder / place} is in a folder that is searched for photos: name another --output")
    taken = {identity(photo) for photo in found.photos if os.path.exists(photo)}
    for name in names:
        for file in result_files(folder, name, (*ends, LARGE_LABEL_MAP)):
            if os.path.exists(file) and identity(file) in taken:
                raise SetrError(f"{file} is one of the photos and would be overwritten: name another --output")


def with_parents(folders: set[Path]) -> set[Path]:
    return {each for folder in folders for each in (folder, *folder.parents)}


def identity(path: Path) -> tuple[int, int]:
    """The same for all names of a file."""
    status = path.stat()
    return status.st_dev, status.st_ino


def photo_state(photo: Path) -> dict[str, int] | None:
    """What changes with the content of a photo, as far as can be told without reading it; `None` if there is none."""
    try:
        status = photo.stat()
    except OSError:
        return None
    return {"size": status.st_size, "modified": status.st_mtime_ns}


def is_another(photo: Path, earlier: str) -> bool:
    """Whether the photo that was at the path `earlier` still is there, and is not this one."""
    return os.path.exists(earlier) and os.path.realpath(photo) != earlier


def read_records(folder: Path) -> dict[str, dict]:
    """The last record of each name, by its [`name_key`]. Raises [`SetrError`] if a line is damaged."""
    path = folder / RECORDS_FILE
    records = {}
    for number, line in enumerate(complete_lines(path) if path.exists() else [], start=1):
        try:
            record = json.loads(line)
            if not isinstance(record["photo"], str) or not isinstance(record["state"], dict | None):
                raise ValueError("photo and state are not those of a photo")
            records[name_key(record["name"])] = record
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SetrError(f"line {number} of {path} is damaged: choose another output folder") from error
    return records


def open_records(
    folder: Path, settings: dict, photos: dict[str, Path], ends: Sequence[str] = RESULTS
) -> dict[str, dict]:
    """The records in `folder`, where the results of `photos`, by their names, shall follow; see [`read_records`].

    Raises [`SetrError`] if the folder holds results of other `settings` or of other photos with these names, or a file
    of somebody else would be overwritten.
    """
    records = read_records(folder)
    check_settings(folder / SETTINGS_FILE, settings, has_results=bool(records))
    for place in sorted(with_parents({Path(name).parent for name in photos})):
        if os.path.lexists(folder / place) and not os.path.isdir(folder / place):
            raise SetrError(f"{folder / place} is not a folder: move it away, or name another --output")
    for name, photo in photos.items():
        record = records.get(name_key(name))
        if record is None:
            for file in filter(os.path.lexists, result_files(folder, name, (*ends, LARGE_LABEL_MAP))):
                raise SetrError(f"{file} is no result of this job: move it away, or name another --output")
        elif record["state"] != photo_state(photo) and is_another(photo, record["photo"]):
            raise SetrError(
                f"{folder} holds the results of {record['photo']}, whose names those of {photo} would have: rename "
                "one, or give each folder its own --output"
            )
    if not (folder / SETTINGS_FILE).exists():
        write_json(folder / SETTINGS_FILE, settings)
    return records


def add_record(folder: Path, name: str, photo: Path, state: dict[str, int] | None) -> None:
    """Notes that all results of a photo have been written, and its `state` when it was read for them; or, if that is
    `None`, that they will be now, so that they are known as results of this job if it is killed meanwhile.
    """
    record = {"name": name, "photo": os.path.realpath(photo), "state": state}
    append_lines(folder / RECORDS_FILE, [json.dumps(record)])


def is_done(folder: Path, records: dict[str, dict], name: str, photo: Path, ends: Sequence[str] = RESULTS) -> bool:
    """Whether a photo has all its results, and has not changed since it was read for them."""
    record, state = records.get(name_key(name)), photo_state(photo)
    if record is None or state is None or record["state"] != state:
        return False
    return any(all(map(os.path.isfile, result_files(folder, name, own_ends))) for own_ends in (ends, LARGE_RESULTS))


def write_jpeg(picture: Image.Image, path: Path) -> None:
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=90)
    with whole_file(path) as unfinished:
        # Pillow does not notice if the disk takes only a part of a JPEG.
        unfinished.write_bytes(encoded.getbuffer())


def write_results(folder: Path, name: str, prediction: Prediction, colors: list[list[int]], id2label: dict) -> None:
    """`NAME.png` with class ids, 8 bits if they fit, `NAME_overlay.jpg`, and `NAME.csv` with the share of the area of
    each class. With the confidence, also `NAME_confidence.png`, whose 255 is 1, and `NAME_confidence.jpg`; the table
    then has its mean in each class and, last, in the whole photo.
    """
    photo, label_map, no_class, confidence = prediction
    if confidence is not None:
        picture, levels = result_files(folder, name, CONFIDENCE_RESULTS)[:2]
        write_jpeg(confidence_picture(photo, confidence), picture)
        with whole_file(levels) as unfinished:
            Image.fromarray(np.rint(confidence * 255).astype(np.uint8)).save(unfinished)
    picture, ids, shares = result_files(folder, name)
    write_jpeg(overlay_with_legend(photo, label_map, colors, id2label, no_class), picture)
    with whole_file(ids) as unfinished:
        Image.fromarray(label_map).save(unfinished)
    write_table(with_confidence(share_table(class_shares(label_map), id2label, no_class), prediction), shares)


def write_table(rows: list[list], path: Path) -> None:
    with whole_file(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def share_table(shares: dict[int, float], id2label: dict, no_class: int | None = None) -> list[list]:
    """The rows of a table of the share of the area of each class."""
    rows = [[i, NO_CLASS if i == no_class else csv_cell(id2label[i]), f"{share:.6f}"] for i, share in shares.items()]
    return [["id", "class", "share"], *rows]


def with_confidence(table: list[list], prediction: Prediction) -> list[list]:
    """The rows of a photo's table with the mean confidence, if there is one; see [`write_results`]."""
    _, label_map, _, confidence = prediction
    if confidence is None:
        return table

    def mean(values: np.ndarray) -> str:
        return f"{values.mean(dtype=np.float64):.6f}"

    header, *rows = table
    rows = [[*row, mean(confidence[label_map == row[0]])] for row in rows]
    return [[*header, "confidence"], *rows, ["", "all", f"{1:.6f}", mean(confidence)]]


def recorded(
    folder: Path, name: str, path: Path, state: dict[str, int] | None, write: Callable[[], None]
) -> str | None:
    """Calls `write`, which writes the results of the photo that was read from `path` in this `state`, between the
    records of it; or returns a line that says why files cannot have their names.
    """
    try:
        add_record(folder, name, path, None)
        write()
        add_record(folder, name, path, state)
    except OSError as error:
        if error.errno not in UNFIT_NAME:
            raise
        return one_line(f"{path}: its results cannot have its name: {error.strerror}")
    return None


def record_results(
    folder: Path,
    name: str,
    path: Path,
    state: dict[str, int] | None,
    prediction: Prediction,
    colors: list[list[int]],
    id2label: dict,
) -> str | None:
    """[`write_results`], as [`recorded`]."""
    return recorded(folder, name, path, state, lambda: write_results(folder, name, prediction, colors, id2label))
