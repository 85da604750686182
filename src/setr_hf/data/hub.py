"""Data sets on the Hub: what is known of them before their files are downloaded, and when the Hub is out of reach."""

from pathlib import Path, PurePosixPath

import datasets
from datasets import DatasetBuilder, load_dataset_builder
from datasets.packaged_modules.cache.cache import Cache
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

from ..errors import SetrError
from ..repositories import HubOutOfReach, files_on_hub
from .label_sets import NAMES_FILES, LabelSet, published_label_set, read_names_file


# Where the Hub keeps the parquet form of data sets that have a loading script, in a folder for each config.
PARQUET_REVISION = "refs/convert/parquet"
# The 150-class benchmark of ADE20K, with the config and revision that can be read.
ADE20K_ON_THE_HUB = {
    "zhoubolei/scene_parse_150": ("scene_parsing", PARQUET_REVISION),
    "merve/scene_parse_150": (None, None),
}


def open_on_hub(source: str, config: str | None, revision: str | None) -> tuple[DatasetBuilder, LabelSet | None]:
    """A data set on the Hub before its files are downloaded, and its label set if it is the benchmark of ADE20K or has
    a names file. If the Hub is out of reach, what an earlier run left in the cache. Raises [`SetrError`] if there is
    no such data set, config or revision, it needs a loading script, or the cache has no copy either.
    """
    usual_config, usual_revision = ADE20K_ON_THE_HUB.get(source, (None, None))
    is_ade20k = source in ADE20K_ON_THE_HUB and config in (None, usual_config)
    config, revision = config or usual_config, revision or usual_revision
    is_in_reach = True
    try:
        builder = builder_on_hub(source, config, revision, files_on_hub(source, "dataset", revision))
    except HubOutOfReach as error:
        is_in_reach, builder = False, cached_builder(source, config, revision, error)
    if is_ade20k:
        return builder, published_label_set("ade20k")
    # The converted branch holds nothing but parquet files.
    return builder, names_file_on_hub(source, None if revision == PARQUET_REVISION else revision, is_in_reach)


def builder_on_hub(source: str, config: str | None, revision: str | None, files: list[str]) -> DatasetBuilder:
    if f"{PurePosixPath(source).name}.py" in files:
        raise SetrError(
            f"{source} has a loading script, which datasets no longer runs. The Hub may have converted it: pass "
            f"revision={PARQUET_REVISION!r} and its config"
        )
    if revision != PARQUET_REVISION:
        try:
            return load_dataset_builder(source, config, revision=revision)
        except (FileNotFoundError, ValueError) as error:
            raise SetrError(f"{source} cannot be opened: {error}") from error
    # This branch has no card that would list the configs: they are its folders.
    configs = sorted({PurePosixPath(file).parts[0] for file in files if "/" in file})
    if config is None and len(configs) == 1:
        config = configs[0]
    if config not in configs:
        raise SetrError(f"{source} has no config {config!r} at {revision}, only {', '.join(configs)}: pass config")
    return load_dataset_builder(source, data_dir=config, revision=revision, cache_dir=folder_cache(config))


def folder_cache(config: str) -> str:
    """The cache for a folder of the converted branch: in the common one, a checksum stands for the folder's name."""
    return str(Path(datasets.config.HF_DATASETS_CACHE, "converted", config))


def cached_builder(source: str, config: str | None, revision: str | None, reason: HubOutOfReach) -> DatasetBuilder:
    """A data set as an earlier run downloaded it; `load_dataset_builder` would retry for a minute before it looks."""
    name = {"repo_id": source, "dataset_name": PurePosixPath(source).name}
    if revision != PARQUET_REVISION:
        try:
            return Cache(**name, config_name=config, version="auto", hash="auto")
        except ValueError as error:
            if "find cache" in str(error):  # Else there are copies of several configs, and the message lists them.
                raise SetrError(f"{source} is neither a folder here nor in the cache, and {reason}") from error
            raise SetrError(f"{' '.join(str(error).split())}, and {reason}") from error
    cache = Path(folder_cache(config or "*"))
    copies = cache.parent.glob(f"{cache.name}/{source.replace('/', '___')}/*/*/*/dataset_info.json")
    newest = max(copies, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise SetrError(f"{source} is neither a folder here nor in the cache, and {reason}")
    config_name, version, checksum = newest.parts[-4:-1]
    cache_dir = str(newest.parents[4])
    return Cache(**name, config_name=config_name, version=version, hash=checksum, cache_dir=cache_dir)


def names_file_on_hub(source: str, revision: str | None, is_in_reach: bool) -> LabelSet | None:
    """The label set of a names file in the root of a data set, if there is one."""
    missing = RemoteEntryNotFoundError if is_in_reach else LocalEntryNotFoundError
    for name in NAMES_FILES:
        try:
            path = hf_hub_download(
                source, name, repo_type="dataset", revision=revision, local_files_only=not is_in_reach
            )
        except missing:
            continue
        return read_names_file(Path(path))
    return None
