"""Files and folders that are written whole or not at all, whenever the process is killed."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from .errors import SetrError


# Of a name in most file systems, in bytes; what is written beside it first has a longer one.
LONGEST_NAME = 200


def path_inside(folder: Path, name: str, suffix: str) -> Path:
    """Where a sample called `name`, which may come from anybody's data set, is written: `folder/name` with `suffix`.
    Raises [`SetrError`] if that is not a file in `folder`, or in a folder below it, on every system.
    """
    for part in name.split("/"):
        if (
            not part.isprintable()
            or re.search(r'[<>:"\\|?*]', part)
            or re.fullmatch(r"\s*|\.+|(con|prn|aux|nul|com\d|lpt\d)(\..*)?", part, re.IGNORECASE)
            or len(os.fsencode(part)) > LONGEST_NAME
        ):
            raise SetrError(f"the sample {name!r} cannot have a file of its name: rename it in the data set")
    return folder / f"{name}{suffix}"


def check_is_file(path: Path, most_bytes: int | None = None) -> None:
    """Raises a [`SetrError`] if `path` is not a file, such as a folder or a pipe, or has more than `most_bytes`."""
    if not os.path.isfile(path):
        kind = "a folder" if path.is_dir() else "not a file"
        raise SetrError(f"{path} is {kind}" if os.path.lexists(path) else f"{path} does not exist")
    if most_bytes is not None and path.stat().st_size > most_bytes:
        raise SetrError(f"{path} has {path.stat().st_size:,} bytes, more than the {most_bytes:,} that such a file has")


def read_text(path: Path, most_bytes: int = 2**22) -> str:
    """The text of a file that people write, in UTF-8. Raises a [`SetrError`] that names it if it cannot be read."""
    check_is_file(path, most_bytes)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SetrError(f"{path} is not text in UTF-8: {error}") from None
    except OSError as error:
        raise SetrError(f"{path} cannot be read: {error.strerror}") from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values. Raises `ValueError` if a key occurs twice: the last would win silently."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return content


def no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises `ValueError` if it is not JSON, NaN and infinity included, an object has the
    same key twice, or it is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_keys, parse_constant=no_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def unfinished(path: Path) -> Path:
    """Where `path` is written before it is complete: beside it, hidden, one for each process."""
    return path.with_name(f".{path.stem}.{os.getpid()}.unfinished{path.suffix}")


def make_folder(folder: Path) -> None:
    """Creates a folder and those above it, if missing. Raises [`SetrError`] if a file has the name of one of them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise SetrError(f"{folder} cannot be created: it, or a folder above it, is a file") from None


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yields the path to write to; at the end of the block that file takes the place of `path`, which until then is as
    it was. After an exception nothing is left behind. The suffix is that of `path`: many writers choose the format by
    it. Its folder is created if it is missing; raises [`SetrError`] if that cannot be.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = unfinished(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_is_new(folder: str | Path) -> None:
    """Raises a [`SetrError`] if `folder` exists and is not an empty folder."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SetrError(f"{folder} exists already: name another folder, or remove it first")


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """As [`whole_file`], for a folder that is new, or empty: yields one beside it, which takes its name at the end."""
    folder = Path(folder)
    check_is_new(folder)
    make_folder(folder.parent)
    temporary = unfinished(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
