"""Label maps as PNG files in the form that the servers of ADE20K and Cityscapes take."""

from pathlib import Path

import numpy as np
from PIL import Image

from ..data.label_sets import LabelSet
from ..data.public_datasets import CITYSCAPES_LABEL_IDS, CLASS_NAMES
from ..errors import SetrError
from ..files import whole_file


# The id that the server of a data set expects for each class.
SERVER_IDS = {"ade20k": range(1, 151), "cityscapes": CITYSCAPES_LABEL_IDS}


def server_ids(label_set: LabelSet) -> np.ndarray:
    """
    The id, uint8, that the server of a data set, known by its class names, expects for each class. Raises
    [`SetrError`] if the classes are neither those of ADE20K nor those of Cityscapes.
    """
    names = [name.lower() for name in label_set.names]
    for data_set, ids in SERVER_IDS.items():
        if names == [name.lower() for name in CLASS_NAMES[data_set]]:
            return np.array(ids, dtype=np.uint8)
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
    """Writes ids, uint8 of shape `(height, width)`, as an 8-bit grayscale PNG."""
    with whole_file(path) as unfinished:
        Image.fromarray(ids).save(unfinished)
