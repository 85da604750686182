"""The folder that results of photos are written to: their names, whether these are free, and which photos are done, so
that a job that was stopped at any time goes on.
"""

import csv
import errno
import io
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import SetrError
from ..files import LOCK_NAME, append_lines, complete_lines, first_repeated, name_key, whole_file, write_json
from ..text import csv_cell, one_line
from .photo_files import PhotoFiles
from .pictures import class_shares, overlay_with_legend
from .settings import check_settings


SETTINGS_FILE = "_settings.json"
RECORDS_FILE = "_records.jsonl"
# What is written for each photo, after its name. The longest is first: if it is too long, there is none of them.
RESULTS = ("_overlay.jpg", ".png", ".csv")
# What a file system says of a name that is too long, or has characters that it does not take.
UNFIT_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


def result_names(photos: dict[Path, Path]) -> list[str]:
    """A name, with slashes after subfolders, for each photo's results: its place, see [`PhotoFiles`], with its suffix
    where needed. Raises [`SetrError`] if two are equal by their [`name_key`], or a subfolder would have the name of a
    file of this job.
    """
    stems = [(place.parent / place.stem).as_posix() for place in photos.values()]
    counts = Counter(map(name_key, stems))
    names = [
        (place.parent / place.name.replace(".", "_")).as_posix() if counts[name_key(stem)] > 1 else stem
        for place, stem in zip(photos.values(), stems)
    ]
    repeated = first_repeated(map(name_key, names))
    if repeated is not None:
        first, second = [photo for photo, name in zip(photos, names) if name_key(name) == repeated][:2]
        raise SetrError(
            f"the results of {first} and {second} would have the same names: rename one, pass the folder above "
            "both, or give each folder its own --output"
        )
    files = {SETTINGS_FILE, RECORDS_FILE, LOCK_NAME, *(name_key(f"{name}{end}") for name in names for end in RESULTS)}
    for photo, place in photos.items():
        for folder in place.parents:
            if name_key(folder.as_posix()) in files:
                raise SetrError(f"{photo}: a file of the results would have the name of its folder: rename {folder}")
    return names


def result_files(folder: Path, name: str) -> list[Path]:
    """Overlay, label map and table of the classes."""
    return [folder / f"{name}{end}" for end in RESULTS]


def check_overwrites_nothing(found: PhotoFiles, folder: Path, names: list[str]) -> None:
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
        for file in result_files(folder, name):
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


def open_records(folder: Path, settings: dict, photos: dict[str, Path]) -> dict[str, dict]:
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
            for file in filter(os.path.lexists, result_files(folder, name)):
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


def is_done(folder: Path, records: dict[str, dict], name: str, photo: Path) -> bool:
    """Whether a photo has all its results, and has not changed since it was read for them."""
    record, state = records.get(name_key(name)), photo_state(photo)
    if record is None or state is None or record["state"] != state:
        return False
    return all(map(os.path.isfile, result_files(folder, name)))


def write_results(
    folder: Path, name: str, photo: Image.Image, label_map: np.ndarray, colors: list[list[int]], id2label: dict
) -> None:
    """`NAME.png` with class ids, 8 bits if they fit, `NAME_overlay.jpg`, and `NAME.csv` with the share of the area of
    each class.
    """
    label_map = label_map.astype(np.uint8 if len(id2label) <= 256 else np.uint16)
    picture, ids, shares = result_files(folder, name)
    encoded = io.BytesIO()
    overlay_with_legend(photo, label_map, colors, id2label).save(encoded, "JPEG", quality=90)
    with whole_file(picture) as unfinished:
        # Pillow does not notice if the disk takes only a part of a JPEG.
        unfinished.write_bytes(encoded.getbuffer())
    with whole_file(ids) as unfinished:
        Image.fromarray(label_map).save(unfinished)
    with whole_file(shares) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "class", "share"])
        table.writerows([i, csv_cell(id2label[i]), f"{share:.6f}"] for i, share in class_shares(label_map).items())


def record_results(
    folder: Path,
    name: str,
    path: Path,
    state: dict[str, int] | None,
    photo: Image.Image,
    label_map: np.ndarray,
    colors: list[list[int]],
    id2label: dict,
) -> str | None:
    """Writes the results of the photo that was read from `path` in this `state`, and its records; or returns a line
    that says why files cannot have their names.
    """
    try:
        add_record(folder, name, path, None)
        write_results(folder, name, photo, label_map, colors, id2label)
        add_record(folder, name, path, state)
    except OSError as error:
        if error.errno not in UNFIT_NAME:
            raise
        return one_line(f"{path}: its results cannot have its name: {error.strerror}")
    return None
