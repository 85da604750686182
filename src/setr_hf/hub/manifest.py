"""A list of all files of a published folder with their checksums, so that anybody can see whether one was changed.

`MANIFEST.json` holds `{"setr_hf": VERSION, "algorithm": "sha256", "files": {NAME: HEX_DIGITS, …}}`, by name in
alphabetical order. It names every file but itself and those of `UNLISTED`.
"""

import json
from importlib.metadata import version
from pathlib import Path

from huggingface_hub.utils.sha import sha_fileobj

from ..errors import SetrError
from ..files import parse_json, read_text, whole_file


MANIFEST = "MANIFEST.json"
SIGNATURE = "model.sig"
# What the Hub itself puts into a new repository.
FILES_OF_THE_HUB = {".gitattributes"}
# The signature is made of the files, the manifest among them.
UNLISTED = {MANIFEST, SIGNATURE, *FILES_OF_THE_HUB}
ALGORITHM = "sha256"


def listed_files(folder: Path) -> dict[str, Path]:
    """The files that a manifest names, by their name relative to the folder. Folders of downloads are left out."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in paths.items() if name not in UNLISTED and not name.startswith(".cache/")}


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return sha_fileobj(file).hex()


def write_manifest(folder: Path) -> None:
    """Writes the manifest of a folder, in place of an earlier one."""
    files = {name: checksum(path) for name, path in listed_files(folder).items()}
    content = {"setr_hf": version("setr-hf"), "algorithm": ALGORITHM, "files": files}
    with whole_file(folder / MANIFEST) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> tuple[str, dict[str, str]]:
    """The version of setr-hf that wrote a manifest, and the checksum of each file. Raises [`SetrError`] if it is not
    one.
    """
    path = folder / MANIFEST
    try:
        content = parse_json(read_text(path))
        files, wanted = content["files"], {"setr_hf", "algorithm", "files"}
        is_manifest = set(content) == wanted and content["algorithm"] == ALGORITHM and isinstance(files, dict)
        if not is_manifest or not all(isinstance(value, str) for value in (content["setr_hf"], *files.values())):
            raise ValueError(f"it must hold {', '.join(sorted(wanted))}")
    except (ValueError, KeyError, TypeError) as error:
        raise SetrError(f"{path} is not a manifest: {error}") from error
    return content["setr_hf"], files


def check_manifest(folder: Path) -> list[str]:
    """A sentence for each file that is missing, is not listed, or has another content than the manifest says, and for
    a manifest that cannot be read.
    """
    try:
        _, listed = read_manifest(folder)
    except SetrError as error:
        return [str(error)]
    found = listed_files(folder)
    findings = [f"{name} is listed in {MANIFEST}, but missing" for name in sorted(listed.keys() - found.keys())]
    findings += [f"{name} is not listed in {MANIFEST}" for name in sorted(found.keys() - listed.keys())]
    changed = [name for name in sorted(listed.keys() & found.keys()) if checksum(found[name]) != listed[name]]
    return findings + [f"{name} is not the file that {MANIFEST} lists: its checksum differs" for name in changed]
