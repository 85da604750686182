"""Folders that `save_to_disk` of datasets has written."""

import json
from pathlib import Path

from datasets import Dataset, DatasetDict, load_from_disk

from ..errors import SetrError


# What it writes of a DatasetDict and of a Dataset.
FILES = ("dataset_dict.json", "state.json")


def is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in FILES)


def saved_splits(folder: Path) -> dict[str, Dataset]:
    """The splits in a folder; a Dataset that was saved by itself is `"train"` unless it knows better. Raises
    [`SetrError`] if it cannot be read.
    """
    try:
        saved = load_from_disk(str(folder))
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise SetrError(f"{folder} cannot be read: {error}") from error
    return dict(saved) if isinstance(saved, DatasetDict) else {str(saved.split or "train"): saved}
