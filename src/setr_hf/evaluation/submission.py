"""Label maps as PNG files in the form the servers of ADE20K and Cityscapes take."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.label_sets import LabelSet
from ..data.public_datasets import CITYSCAPES_LABEL_IDS, CLASS_NAMES
from ..errors import SetrError
from ..files import whole_file


def ade20k_ids(label_map: np.ndarray) -> np.ndarray:
    """Class ids 0…149 as the benchmark's 1…150."""
    return (label_map + 1).astype(np.uint8)


def cityscapes_ids(label_map: np.ndarray) -> np.ndarray:
    """Train ids 0…18 as the benchmark's label ids 7…33."""
    return np.array(CITYSCAPES_LABEL_IDS, dtype=np.uint8)[label_map]


def server_form(label_set: LabelSet) -> Callable[[np.ndarray], np.ndarray]:
    """
    The function that turns class ids into the ids that the server of a data set expects.

    Args:
        label_set (`LabelSet`): Its class names say which data set it is.

    Raises:
        [`SetrError`]: The classes are neither those of ADE20K nor those of Cityscapes.
    """
    names = [name.lower() for name in label_set.names]
    for data_set, form in (("ade20k", ade20k_ids), ("cityscapes", cityscapes_ids)):
        if names == [name.lower() for name in CLASS_NAMES[data_set]]:
            return form
    raise SetrError(
        f"only ADE20K and Cityscapes have a server to submit to; the classes {', '.join(names[:3])}, … are not theirs"
    )


def submission_file(folder: Path, name: str) -> Path:
    """
    One file per image. Both servers expect the image's name: `ADE_test_00000001.png`, and for Cityscapes a name that
    begins with city, sequence and frame, such as `berlin_000000_000019_leftImg8bit.png`.
    """
    return folder / f"{name}.png"


def write_submission(path: Path, ids: np.ndarray) -> None:
    """Writes ids, uint8 of shape `(height, width)`, as an 8-bit grayscale PNG, whole or not at all."""
    with whole_file(path) as unfinished:
        Image.fromarray(ids).save(unfinished)
