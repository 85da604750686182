"""Files and folders that are written whole or not at all, whenever the process is killed and however full the disk."""

import errno
import io
import json
import math
import os
import re
import shutil
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock, Timeout
from rich.filesize import decimal

from .errors import SetrError


# What the names of photos end in, in capitals or not.
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
# The same with those of photos that are arrays of any number of bands.
PHOTO_SUFFIXES = IMAGE_SUFFIXES | {".npy"}
# Of a name in most file systems, in bytes; what is written beside it first has a longer one.
LONGEST_NAME = 200
BLOCK_SIZE = 2**14
# Names that start with "_" are not uploaded by `Trainer.push_to_hub`.
LOCK_NAME = "_running.lock"
# Data loading workers outlive a killed process by 5 seconds; before filelock 4 they hold its lock for as long.
LOCK_TIMEOUT = 10
# How safetensors, torch and numpy say that the disk is full; their errors carry no errno.
FULL_DISK_TEXTS = [r"os error (28|122)", "No space left", "quota exceeded", "PytorchStreamWriter failed"]
FULL_DISK_TEXTS += [r"unexpected pos \d+ vs \d+", r"\d+ requested and \d+ written", "iostream error"]
DISK_IS_FULL = re.compile("|".join(FULL_DISK_TEXTS), re.IGNORECASE)
UNFINISHED = re.compile(r"\.(.*)\.(\d+)\.unfinished(\..*)?", re.DOTALL)
# What this process has begun to write and will delete or rename.
IN_PROGRESS: set[Path] = set()


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


def name_key(name: str) -> str:
    """The same for names that a file system may take for one: those that differ in case, or in how Unicode composes
    their characters.
    """
    return unicodedata.normalize("NFC", name.casefold())


def first_repeated(values: Iterable[str]) -> str | None:
    """The first of the values that was there before; `None` if there is none."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values. Raises `ValueError` if a key occurs twice: the last would win silently."""
    repeated = first_repeated(key for key, _ in pairs)
    if repeated is not None:
        raise ValueError(f"the key {repeated!r} occurs twice")
    return dict(pairs)


def no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def finite(text: str) -> float:
    """A number of JSON. Raises `ValueError` for one such as 1e400, which would become infinite."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large a number")
    return value


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises `ValueError` if it is not JSON, NaN and infinity included, a number is infinite
    when it is read, an object has the same key twice, or it is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_keys, parse_constant=no_number, parse_float=finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_object(text: str) -> dict[str, Any]:
    """As [`parse_json`], for a text that must hold an object."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"it is a {type(value).__name__}")
    return value


def unfinished(path: Path) -> Path:
    """Where `path` is written before it is complete: beside it, hidden, one for each process."""
    return path.with_name(f".{path.stem}.{os.getpid()}.unfinished{path.suffix}")


@cache
def unfinished_in(folder: Path) -> dict[str, list[tuple[Path, int]]]:
    """What was unfinished in a folder when this process first wrote there, or took hold of one: paths and processes by
    the name the file would have had. To look before each file would take longer than writing it, among thousands.
    """
    found = defaultdict(list)
    for path in folder.iterdir():
        if match := UNFINISHED.fullmatch(path.name):
            found[f"{match[1]}{match[3] or ''}"].append((path, int(match[2])))
    return found


def remove_leftovers(path: Path) -> None:
    """Deletes what killed processes left unfinished of `path`. Those of processes that still run stay."""
    for leftover, process in unfinished_in(path.parent.absolute()).get(path.name, []):
        if not is_running(process):
            remove(leftover)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def remove(path: Path) -> None:
    """Deletes a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def removed_at_end(path: Path) -> Iterator[None]:
    """Deletes a file or a folder, if it exists, at the end of the block, or in [`remove_unfinished`]."""
    IN_PROGRESS.add(path)
    try:
        yield
    finally:
        remove(path)
        IN_PROGRESS.discard(path)


def remove_unfinished() -> None:
    """Deletes what this process has not finished, in the way of its end that does not reach the ends of blocks."""
    for path in IN_PROGRESS:
        with suppress(OSError):
            remove(path)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yields a new folder in the system's place for temporary ones, which is deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="setr-hf-"))
    with removed_at_end(folder):
        yield folder


def make_folder(folder: Path) -> None:
    """Creates a folder and those above it, if missing. Raises [`SetrError`] if a file has the name of one of them."""
    with full_disk_named(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise SetrError(f"{folder} cannot be created: it, or a folder above it, is a file") from None


def disk_of(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())


def check_space(path: Path, needed: int) -> None:
    """Raises a [`SetrError`] if the disk of `path` has less than `needed` bytes left."""
    free = shutil.disk_usage(disk_of(path)).free
    if free < needed:
        raise SetrError(
            f"{path} is not written: it needs {decimal(needed)}, its disk has {decimal(free)} left, so "
            f"{decimal(needed - free)} are missing"
        )


@contextmanager
def full_disk_named(path: Path, written: Path | None = None) -> Iterator[None]:
    """Turns an error of a full disk, or of a used up quota, in the block into a [`SetrError`] that names `path` and
    says how much is missing: at least as much as had been `written` of it.
    """
    try:
        yield
    except SetrError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        is_full = number in (errno.ENOSPC, errno.EDQUOT) or (number is None and DISK_IS_FULL.search(str(error)))
        if not is_full:
            raise
        free = shutil.disk_usage(disk_of(path)).free
        size = size_of(written) if written else 0
        raise SetrError(
            f"{path} is not written: its disk is full ({decimal(size)} of it were written, {decimal(free)} are left). "
            f"More than {decimal(size)} are needed: make room or name another folder"
        ) from error


def size_of(path: Path) -> int:
    """Bytes in a file, or in the files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yields the path to write to; at the end of the block that file takes the place of `path`, which until then is as
    it was. After an exception nothing is left behind. The suffix is that of `path`: many writers choose the format by
    it. Its folder is created if it is missing. Raises [`SetrError`] if that cannot be, or the disk is full.
    """
    path = Path(path)
    make_folder(path.parent)
    remove_leftovers(path)
    temporary = unfinished(path)
    with removed_at_end(temporary), full_disk_named(path, temporary):
        yield temporary
        os.replace(temporary, path)


def write_json(path: Path, content: dict) -> None:
    """Writes a JSON file, whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


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
    remove_leftovers(folder)
    temporary = unfinished(folder)
    remove(temporary)
    with removed_at_end(temporary), full_disk_named(folder, temporary):
        temporary.mkdir()
        yield temporary
        check_is_new(folder)  # Another job may have been quicker.
        os.replace(temporary, folder)


def complete_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, one by one, without an incomplete last one, which a killed process may leave."""
    with open(path, "rb") as file:
        yield from (line for line in file if line.endswith(b"\n"))


def end_of_lines(file: io.FileIO) -> int:
    """The length of a file without an incomplete last line. Only the end of it is read."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - BLOCK_SIZE)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def append_lines(path: Path, lines: list[str]) -> None:
    """Adds lines to a file, all or none of them, after dropping an incomplete last one. Raises [`SetrError`] if the
    disk is full.
    """
    if not lines:
        return
    content = "".join(f"{line}\n" for line in lines).encode()
    # Without a buffer, which would be written again when the file is closed.
    with full_disk_named(path), io.FileIO(path, "a+") as file:
        length = end_of_lines(file)
        file.truncate(length)
        written = 0
        try:
            while written < len(content):
                written += file.write(content[written:])
        except OSError:
            file.truncate(length)
            check_space(path, len(content))
            raise


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Holds a folder, which is created if it is missing, so that no other job writes to it at the same time. The lock
    ends with the process, however that ends. A job on another machine is noticed only if the folder is on a file
    system that shares locks between machines. Raises [`SetrError`] if another job holds the folder.
    """
    make_folder(folder)
    path = folder / LOCK_NAME
    lock = FileLock(path)
    try:
        with full_disk_named(path):
            lock.acquire(timeout=LOCK_TIMEOUT)
    except Timeout:
        hint = "wait until it ends, or choose another folder"
        raise SetrError(f"another running job writes to {folder}: {hint}") from None
    IN_PROGRESS.add(path)
    unfinished_in.cache_clear()
    try:
        yield
    finally:
        IN_PROGRESS.discard(path)
        # While the lock is held: whoever waits for it sees that its file is gone, and locks a new one. Windows does
        # not delete open files; there, releasing the lock deletes it.
        with suppress(PermissionError):
            path.unlink(missing_ok=True)
        lock.release()
