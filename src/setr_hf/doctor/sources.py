"""Whether what the doctor is shown is a model or a data set."""

from pathlib import Path

from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..errors import SetrError
from ..repositories import HubOutOfReach, check_model, files_on_hub


# One of them makes a folder that of a model, which may lack the others.
OF_A_MODEL = (CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)


def is_model(source: str) -> bool:
    """Whether `source` is a model: a folder that holds a file of one, or the id of one on the Hub, or in the cache if
    that is out of reach. Else it may be a data set. Raises [`SetrError`] for a file.
    """
    path = Path(source)
    if path.is_dir():
        return any((path / name).is_file() for name in OF_A_MODEL)
    if path.exists():
        raise SetrError(f"{source} is a file: name the folder of a data set or of a model, or an id on the Hub")
    try:
        return CONFIG_NAME in files_on_hub(source, "model")
    except HubOutOfReach:
        return is_cached_model(source)
    except SetrError:
        return False


def is_cached_model(source: str) -> bool:
    try:
        check_model(source)
    except SetrError:
        return False
    return True
