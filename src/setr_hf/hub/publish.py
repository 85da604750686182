"""Publishes a model on the Hub: checked before anything is sent, in one commit, tagged, and read back."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash
from PIL import Image

from ..errors import SetrError
from ..files import temporary_folder
from ..inference.loading import load_model
from ..inference.sliding_windows import segment
from ..text import one_line
from .manifest import FILES_OF_THE_HUB, checksum, write_manifest
from .signing import sign
from .staging import check_folder, stage_model


DEFAULT_REVISION = "v1.0"
COMMIT_MESSAGE = "Publish with setr-hf"
READER = Path(__file__).with_name("read_back.py")
# A photo of several windows, the same on every machine.
PHOTO_SIDES = (1.5, 2.0)


@dataclass(frozen=True)
class Publication:
    """What [`publish`] has made sure of.

    Args:
        repo_id (`str`): The repository.
        revision (`str`, *optional*): The tag, which stands for `commit`; Spaces have none.
        commit (`str`): The commit that holds the files.
        is_new (`bool`): Whether that commit was made now; `False` if the repository held the files already.
        url (`str`): The page of the repository.
    """

    repo_id: str
    revision: str | None
    commit: str
    is_new: bool
    url: str


@contextmanager
def staged(
    source: str | Path, repo_id: str, revision: str, dataset: str | None = None, key: Path | None = None
) -> Iterator[Path]:
    """A temporary folder with the files of `source` as they are published, checked, with their manifest and, with a
    private `key`, their signature; see [`stage_model`] and [`check_folder`].
    """
    with temporary_folder() as temporary:
        folder = temporary / "model"
        stage_model(Path(source), folder, repo_id, revision, dataset)
        check_folder(folder)
        write_manifest(folder)
        if key is not None:
            sign(folder, key)
        yield folder


def publish(
    source: str | Path,
    repo_id: str,
    *,
    revision: str = DEFAULT_REVISION,
    private: bool = False,
    dataset: str | None = None,
    key: Path | None = None,
) -> Publication:
    """Publishes a model: creates the repository if it is missing, uploads all files in one commit, tags it, and reads
    it back by that tag through the stock pipeline, with the code that travels with it. Interrupted anywhere, the same
    call goes on; what the repository holds already is not sent again, and the same content is never committed twice.
    The token is that of `hf auth login` or HF_TOKEN.

    Args:
        source (`str` or `Path`): A folder that `from_pretrained` loads, the output folder of a training run, or a
            public checkpoint, which is converted first.
        repo_id (`str`): The repository, `owner/name`.
        revision (`str`, *optional*, defaults to `"v1.0"`): The tag of this version, for users to pin.
        private (`bool`, *optional*, defaults to `False`): Whether a new repository is private.
        dataset (`str`, *optional*): Of a public checkpoint, see [`convert_checkpoint`].
        key (`Path`, *optional*): A private key that signs the files, see [`sign`].

    Raises:
        [`SetrError`]: the model is not whole or has files that do not belong on a page, nobody is logged in, the tag
            stands for other files, the Hub refuses or cannot be reached, or what was read back differs.
    """
    api = HfApi()
    check_login(api, repo_id)
    with staged(source, repo_id, revision, dataset, key) as folder:
        publication = publish_folder(api, folder, repo_id, "model", private, revision)
        check_read_back(folder, repo_id, revision)
    return publication


@contextmanager
def hub_errors_named(repo_id: str) -> Iterator[None]:
    """Turns what goes wrong on the way to the Hub into a [`SetrError`] that says how to go on."""
    try:
        yield
    except HFValidationError as error:
        raise SetrError(f"{repo_id} cannot be the name of a repository: {one_line(error)}") from error
    except (HTTPError, OSError, RuntimeError) as error:
        # huggingface_hub raises a RuntimeError from what goes wrong with a large file.
        if isinstance(error, RuntimeError) and not isinstance(error.__cause__, (HTTPError, OSError)):
            raise
        raise SetrError(
            f"{repo_id} is not published completely: {one_line(error, 500)}. Nothing is lost: the same command goes "
            "on from here"
        ) from error


def check_login(api: HfApi, repo_id: str) -> None:
    """Raises a [`SetrError`] if nobody is logged in, or the token is not valid."""
    if get_token() is None:
        raise SetrError(f"{repo_id} cannot be published: nobody is logged in. `hf auth login` stores a token")
    with hub_errors_named(repo_id):
        api.whoami()


def remote_files(api: HfApi, repo_id: str, kind: str, revision: str) -> dict[str, RepoFile]:
    """The files of a revision by name, but for those that are the Hub's own."""
    entries = api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=kind)
    return {
        entry.path: entry for entry in entries if isinstance(entry, RepoFile) and entry.path not in FILES_OF_THE_HUB
    }


def is_same(path: Path, remote: RepoFile) -> bool:
    """Whether a file has the content of one on the Hub, which knows that of a large one by its SHA-256, and that of
    any other by git's hash.
    """
    if remote.lfs:
        return checksum(path) == remote.lfs.sha256
    return git_hash(path.read_bytes()) == remote.blob_id


def needed_operations(folder: Path, theirs: dict[str, RepoFile]) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What makes the files of a revision those of `folder`; nothing if they are."""
    ours = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    changed = [name for name, path in ours.items() if name not in theirs or not is_same(path, theirs[name])]
    return [
        *(CommitOperationAdd(name, ours[name]) for name in changed),
        *(CommitOperationDelete(name) for name in sorted(theirs.keys() - ours.keys())),
    ]


def tag_target(api: HfApi, repo_id: str, revision: str) -> str | None:
    """The commit that a tag stands for; `None` if there is no such tag."""
    return next((tag.target_commit for tag in api.list_repo_refs(repo_id).tags if tag.name == revision), None)


def publish_folder(
    api: HfApi, folder: Path, repo_id: str, kind: str, private: bool, revision: str | None, sdk: str | None = None
) -> Publication:
    """Makes the files of `folder` those of a repository, in at most one commit, and tags it with `revision`."""
    with hub_errors_named(repo_id):
        url = str(api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True, space_sdk=sdk))
        check_visibility(api, repo_id, kind, private)
        tagged = tag_target(api, repo_id, revision) if revision else None
        if tagged is not None:
            if needed_operations(folder, remote_files(api, repo_id, kind, tagged)):
                raise SetrError(f"the tag {revision} of {repo_id} stands for other files: pass another --revision")
            return Publication(repo_id, revision, tagged, False, url)
        head = str(api.repo_info(repo_id, repo_type=kind).sha)
        operations = needed_operations(folder, remote_files(api, repo_id, kind, head))
        if operations:
            head = api.create_commit(
                repo_id, operations, commit_message=COMMIT_MESSAGE, repo_type=kind, parent_commit=head
            ).oid
        if revision:
            api.create_tag(repo_id, tag=revision, revision=head, exist_ok=True)
            if tag_target(api, repo_id, revision) != head:
                raise SetrError(f"the tag {revision} of {repo_id} stands for another commit: pass another --revision")
    return Publication(repo_id, revision, head, bool(operations), url)


def check_visibility(api: HfApi, repo_id: str, kind: str, private: bool) -> None:
    """Raises a [`SetrError`] if a private repository is wanted, and a public one exists."""
    if private and not api.repo_info(repo_id, repo_type=kind).private:
        raise SetrError(f"{repo_id} is on the Hub already and public: make it private there, or take another name")


def check_read_back(folder: Path, repo_id: str, revision: str) -> None:
    """Raises a [`SetrError`] if the published model gives another label map than the one in `folder`. It is read by
    the stock pipeline in a process of its own, with the code that was published and from an empty cache.
    """
    model, processor = load_model(str(folder))
    crop = processor.crop_size
    width, height = (int(side * length) for side, length in zip(PHOTO_SIDES, (crop.width, crop.height)))
    noise = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    photo = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    with temporary_folder() as temporary:
        path, output = temporary / "photo.png", temporary / "label_map.npy"
        photo.save(path)
        caches = {"HF_HUB_CACHE": f"{temporary}/hub", "HF_MODULES_CACHE": f"{temporary}/modules"}
        caches["HF_TOKEN_PATH"] = constants.HF_TOKEN_PATH
        # Run from a file, Python would find the modules of this folder before those of the same name elsewhere.
        command = [sys.executable, "-c", READER.read_text(encoding="utf-8"), repo_id, revision, str(path), str(output)]
        result = subprocess.run(command, env={**os.environ, **caches}, capture_output=True, text=True)
        if result.returncode:
            reason = one_line(result.stderr.strip().rpartition("\n")[2], 500)
            raise SetrError(
                f"{repo_id} is published, but could not be read back at {revision}: {reason}. Start again to check it"
            )
        published = np.load(output, allow_pickle=False)
    expected = segment(model, processor, [photo])[0].numpy()
    if not np.array_equal(published, expected):
        share = (published != expected).mean() if published.shape == expected.shape else 1.0
        raise SetrError(
            f"{repo_id} at {revision} gives another label map than {folder.name} ({100 * share:.2f} % of the pixels): "
            "do not use it, and please report this"
        )
