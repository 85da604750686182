"""The photos that a command line names: files, folders with all that is below them, and patterns."""

import os
import re
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from glob import has_magic
from pathlib import Path

from ..errors import SetrError
from ..files import PHOTO_SUFFIXES
from ..text import listing, one_line


@dataclass
class PhotoFiles:
    """What [`find_photos`] finds.

    Args:
        marker (`str`): Folders that hold a file of this name are left out: they are results.
        photos (`dict[Path, Path]`): Each photo, in order, and its place: its path below the folder, or the fixed part
            of the pattern, that it was found by; for a photo that was named itself, its name.
        searched (`set[Path]`): The folders that were searched, with all that is below them; without links.
        holding (`set[Path]`): Those in which a search found a photo, likewise.
        results (`list[Path]`): The folders that were left out.
        unreadable (`dict[Path, str]`): Folders that cannot be read, and why.
    """

    marker: str
    photos: dict[Path, Path] = field(default_factory=dict)
    searched: set[Path] = field(default_factory=set)
    holding: set[Path] = field(default_factory=set)
    results: list[Path] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)
    # Names without links, by which a file is known whichever way it was found, of photos and of all other files.
    known: set[Path] = field(default_factory=set)
    others: dict[Path, str] = field(default_factory=dict)

    def add(self, path: Path, place: Path, suffixes: Collection[str] | None = None) -> None:
        """Takes a file that is not there yet; if its suffix is none of `suffixes`, counts it among the others."""
        folder = Path(os.path.realpath(path.parent))
        real = folder / path.name  # A link to a photo is a photo of its own.
        if real in self.known:
            return
        if suffixes is not None and path.suffix.lower() not in suffixes:
            self.others[real] = path.suffix.lower()
            return
        self.others.pop(real, None)
        self.known.add(real)
        self.photos[path] = place
        if suffixes is not None:
            self.holding.add(folder)

    def add_folder(self, root: Path, place: Path) -> None:
        """Takes the photos in a folder and in all below it, in the order of their paths."""
        files = (Path(entry.path) for folder in self.folders(root) for entry in self.entries(folder) if is_file(entry))
        for path in sorted(files):
            self.add(path, place / path.relative_to(root), PHOTO_SUFFIXES)

    def add_matches(self, pattern: str) -> None:
        """Takes the files that match a pattern, and the photos in the folders that do. Files must have the suffix of a
        photo, or that of the pattern.
        """
        parts = Path(pattern).parts
        start = next(index for index, part in enumerate(parts) if has_magic(part))
        root = Path(*parts[:start])
        if ".." in parts[start:]:
            raise SetrError(f"{pattern!r} may have .. only before its first *, ? or [")
        self.searched.add(Path(os.path.realpath(root)))
        suffixes = {*PHOTO_SUFFIXES, Path(pattern).suffix.lower()} - {""}
        matches = sorted(set(self.matches(root, parts[start:]))) if os.path.isdir(root) else []
        self.check_is_no_result(root)
        if not matches:
            raise SetrError("; ".join([f"nothing matches the pattern {pattern!r}", *self.unreadable_folders()]))
        for path in matches:
            if os.path.isdir(path):
                self.add_folder(path, path.relative_to(root))
            else:
                self.add(path, path.relative_to(root), suffixes)

    def matches(self, folder: Path, pattern: tuple[str, ...]) -> Iterator[Path]:
        """What matches a pattern's parts in a folder; unlike `glob`, which goes round in circles of links."""
        first, *rest = pattern
        if first == "**":
            for below in self.folders(folder):
                if rest:
                    yield from self.matches(below, tuple(rest))
                else:
                    yield below
            return
        for entry in self.entries(folder, with_hidden=first.startswith(".")):
            if fnmatch(entry.name, first):
                if not rest:
                    yield Path(entry.path)
                elif not is_file(entry):
                    yield from self.matches(Path(entry.path), tuple(rest))

    def folders(self, root: Path) -> Iterator[Path]:
        """A folder and all below it, each once, however many links lead there, and by a path without links, if any."""
        waiting, seen = deque([root]), set()
        while waiting:
            folder = waiting.popleft()
            real = os.path.realpath(folder)
            if real in seen:
                continue
            seen.add(real)
            yield folder
            below = [entry for entry in self.entries(folder) if not is_file(entry)]
            waiting.extendleft(Path(entry.path) for entry in below if not entry.is_symlink())
            waiting.extend(Path(entry.path) for entry in below if entry.is_symlink())

    def entries(self, folder: Path, with_hidden: bool = False) -> list[os.DirEntry]:
        """What is in a folder, in the order of the names; nothing, if it holds results or cannot be read."""
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            self.unreadable[folder] = error.strerror or type(error).__name__
            return []
        if any(entry.name == self.marker for entry in entries):
            if folder not in self.results:
                self.results.append(folder)
            return []
        return [entry for entry in entries if with_hidden or not entry.name.startswith(".")]

    def check_is_no_result(self, root: Path) -> None:
        if root in self.results:
            raise SetrError(f"{root} holds results of this job, not photos: name its photos, or another folder")

    def unreadable_folders(self) -> list[str]:
        """A line for each folder that cannot be read."""
        return [one_line(f"{folder} cannot be read: {reason}") for folder, reason in self.unreadable.items()]

    def left_out(self) -> list[str]:
        """Lines that say what was left out, hidden files and folders aside."""
        lines = [f"left out {folder}: it holds results of this job" for folder in self.results]
        if self.others:
            kinds = [f"{count} {kind or 'with none'}" for kind, count in Counter(self.others.values()).most_common()]
            lines.append(f"left out files without a photo's suffix ({len(self.others)}): {listing(kinds)}")
        return lines


def is_file(entry: os.DirEntry) -> bool:
    """Whether what is in a folder is not a folder itself, nor a link to one."""
    return not (os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir(follow_symlinks=False))


def find_photos(inputs: Iterable[str], marker: str) -> PhotoFiles:
    """The photos that these names stand for, each once, in the order of the names:

    - a file, whatever its suffix, that it exists or not;
    - a folder: the files in it and in all folders below it, links to folders included, that have one of the
      `PHOTO_SUFFIXES`;
    - a pattern that is not the name of a file, as of the shell: `*`, `?` and `[…]` stand for parts of a name, `**` for
      any number of folders.

    Hidden files and folders, whose names start with a dot, are taken only if the name or the pattern says the dot;
    folders that hold a file called `marker`, which results do, are left out.

    Raises [`SetrError`] if a name is empty or holds a null character, nothing matches a pattern, or a folder that is
    named holds results.
    """
    found = PhotoFiles(marker)
    for name in inputs:
        path = Path(name)
        if not name.strip() or "\0" in name:
            raise SetrError(f"{name!r} is not the name of a photo, a folder or a pattern")
        if os.path.isdir(path):
            found.searched.add(Path(os.path.realpath(path)))
            found.add_folder(path, Path())
            found.check_is_no_result(path)
        elif os.path.lexists(path) or not has_magic(name):
            found.add(path, Path(path.name))
        else:
            try:
                found.add_matches(name)
            except re.error as error:  # Of Python 3.10, for [b-a].
                raise SetrError(f"{name!r} is not a pattern: {error}") from error
    return found
