"""Models and data sets by name: a folder here, or a repository on the Hub."""

import logging
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants, is_offline_mode
from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id

from .errors import SetrError


TIMEOUT = 10  # seconds
NAMES = {"model": "a model", "dataset": "a data set"}


def is_cached(repo_id: str, kind: str) -> bool:
    """Whether files of a repository, or the data set that was made of them, are in the caches."""
    caches = [Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type=kind) / "snapshots"]
    if kind == "dataset":
        from datasets import config

        caches.append(Path(config.HF_DATASETS_CACHE) / repo_id.replace("/", "___"))
    return any(cache.is_dir() for cache in caches)


def check_source(source: str, kind: Literal["model", "dataset"]) -> None:
    """
    Checks that there is such a model or data set, with one request at most, before something downloads it with many
    retries. If the Hub cannot be reached, a copy in the cache will do.

    Args:
        source (`str`): A folder, or the id of a repository on the Hub.
        kind (`str`): `"model"` or `"dataset"`.

    Raises:
        [`SetrError`]: `source` is neither a folder here nor on the Hub, or the Hub cannot be reached and the cache
            lacks it.

    Example:

    ```python
    >>> from setr_hf.repositories import check_source

    >>> check_source("outputs/train/no-such-run", "model")
    Traceback (most recent call last):
        ...
    setr_hf.errors.SetrError: outputs/train/no-such-run is neither a folder here nor a model on the Hub
    ```
    """
    if Path(source).is_dir():
        return
    missing = f"{source} is neither a folder here nor {NAMES[kind]} on the Hub"
    try:
        validate_repo_id(source)
        HfApi().repo_info(source, repo_type=kind, timeout=TIMEOUT)
    except HFValidationError:
        raise SetrError(missing) from None
    except RepositoryNotFoundError as error:
        raise SetrError(f"{missing} that you have access to (`hf auth login` is for private ones)") from error
    except (HTTPError, OSError) as error:
        if not is_cached(source, kind):
            raise SetrError(
                f"{source} is neither a folder here nor in the cache, and the Hub cannot be reached: {error}"
            ) from error
        if not is_offline_mode():
            logging.getLogger(__name__).warning(
                "The Hub cannot be reached: %s comes from the cache (HF_HUB_OFFLINE=1 saves the retries)", source
            )


__all__ = ["check_source"]
