"""Files and folders that are written whole or not at all, whenever the process is killed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import SetrError


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
