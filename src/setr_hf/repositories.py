"""Repositories on the Hub: what one request can find out, before something downloads them with many retries."""

import logging
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants, is_offline_mode
from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id

from .errors import SetrError


logger = logging.getLogger(__name__)

TIMEOUT = 10  # seconds
NAMES = {"model": "a model", "dataset": "a data set"}


class HubOutOfReach(SetrError):
    """The Hub cannot be reached, so that only what is in the cache can be read."""


def not_a_folder(source: str) -> str:
    """That a source is not a folder, and the one beside it whose name is much the same."""
    path = Path(source)
    names = [folder.name for folder in path.parent.iterdir() if folder.is_dir()] if path.parent.is_dir() else []
    similar = get_close_matches(path.name, names, n=1)
    return f"{source} is neither a folder here{f' (is it {path.parent / similar[0]}?)' if similar else ''}"


def files_on_hub(source: str, kind: Literal["model", "dataset"], revision: str | None = None) -> list[str]:
    """A repository's files on the Hub. Raises [`HubOutOfReach`], or [`SetrError`] if it or its revision is missing."""
    missing = f"{not_a_folder(source)} nor {NAMES[kind]} on the Hub"
    try:
        validate_repo_id(source)
        ask = HfApi().model_info if kind == "model" else HfApi().dataset_info
        siblings = ask(source, revision=revision, timeout=TIMEOUT).siblings
    except HFValidationError:
        raise SetrError(missing) from None
    except RepositoryNotFoundError as error:
        raise SetrError(f"{missing} that you have access to (`hf auth login` is for private ones)") from error
    except RevisionNotFoundError as error:
        raise SetrError(f"{source} has no revision {revision!r}") from error
    except (HTTPError, OSError) as error:
        raise HubOutOfReach(f"the Hub cannot be reached: {error}") from error
    return [file.rfilename for file in siblings or ()]


def check_model(source: str) -> None:
    """Raises a [`SetrError`] if `source` is neither a folder nor a model on the Hub, or in the cache without it."""
    if Path(source).is_dir():
        return
    try:
        files_on_hub(source, "model")
    except HubOutOfReach as error:
        cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source, repo_type="model") / "snapshots"
        if not cache.is_dir():
            raise SetrError(f"{not_a_folder(source)} nor in the cache, and {error}") from error
        if not is_offline_mode():
            logger.warning("%s comes from the cache, as %s (HF_HUB_OFFLINE=1 saves the retries)", source, error)
