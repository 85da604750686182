"""Data sets on the Hub, and folders of the same form: what can be known of them before their files are downloaded."""

from pathlib import Path, PurePosixPath

from datasets import DatasetBuilder, load_dataset_builder
from huggingface_hub import HfApi, hf_hub_download, is_offline_mode
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFolder

from ..errors import SetrError
from .label_sets import NAMES_FILES, LabelSet, published_label_set, read_names_file


# Where the Hub keeps the parquet form of data sets that have a loading script, in a folder for each config.
PARQUET_REVISION = "refs/convert/parquet"
# The 150-class benchmark of ADE20K, with the config and revision that can be read.
ADE20K_ON_THE_HUB = {
    "zhoubolei/scene_parse_150": ("scene_parsing", PARQUET_REVISION),
    "merve/scene_parse_150": (None, None),
}


def hub_label_set(source: str, config: str | None, revision: str | None) -> LabelSet | None:
    """What is known about the labels of a data set on the Hub: as the benchmark, or by a names file in its root."""
    if source in ADE20K_ON_THE_HUB and config in (None, ADE20K_ON_THE_HUB[source][0]):
        return published_label_set("ade20k")
    # The converted branch has no files but those of parquet.
    revision = None if revision == PARQUET_REVISION else revision
    for name in NAMES_FILES:
        try:
            return read_names_file(Path(hf_hub_download(source, name, repo_type="dataset", revision=revision)))
        except RemoteEntryNotFoundError:
            continue
        except RevisionNotFoundError as error:
            raise SetrError(f"{source} has no revision {revision!r}") from error
        except LocalEntryNotFoundError:
            if not is_offline_mode():
                raise
    return None


def has_loading_script(source: str, revision: str | None) -> bool:
    try:
        hf_hub_download(source, f"{PurePosixPath(source).name}.py", repo_type="dataset", revision=revision)
    except (OSError, HFValidationError):  # There is none, or `datasets` will say why it cannot be asked for.
        return False
    return True


def open_builder(source: str, config: str | None, revision: str | None) -> DatasetBuilder:
    """
    What `datasets` knows about a data set before its files are downloaded.

    Raises:
        `ValueError`: there is no such data set, config or revision, or it needs a loading script.
    """
    usual_config, usual_revision = ADE20K_ON_THE_HUB.get(source, (None, None))
    config, revision = config or usual_config, revision or usual_revision
    if not Path(source).is_dir() and has_loading_script(source, revision):
        raise SetrError(
            f"{source} has a loading script, which datasets does not run any more. The Hub may have converted it: "
            f"pass revision={PARQUET_REVISION!r} and its config"
        )
    if revision != PARQUET_REVISION:
        try:
            return load_dataset_builder(source, config, revision=revision)
        except FileNotFoundError as error:
            raise SetrError(f"{source} is neither a folder here nor a data set of the Hub: {error}") from error
    # This branch has no card that would list the configs: they are its folders.
    config = config or only_config(source)
    try:
        return load_dataset_builder(source, data_dir=config, revision=revision)
    except (FileNotFoundError, ValueError) as error:
        raise SetrError(f"{source} has no config {config!r} at {revision}: {error}") from error


def only_config(source: str) -> str:
    """
    The folder of the one config that a data set has on the branch of converted ones.

    Raises:
        `ValueError`: it has several; lists them.
    """
    entries = HfApi().list_repo_tree(source, revision=PARQUET_REVISION, repo_type="dataset")
    configs = [entry.path for entry in entries if isinstance(entry, RepoFolder)]
    if len(configs) != 1:
        raise SetrError(f"say which config of {source} at {PARQUET_REVISION}: {', '.join(configs)}")
    return configs[0]
