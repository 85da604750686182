"""What the servers of ADE20K and Cityscapes take: 8-bit PNGs of their own ids, named after the images."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..data.label_sets import LabelSet
from ..data.public_datasets import CITYSCAPES_LABEL_IDS, CLASS_NAMES
from ..errors import SetrError
from ..files import path_inside


# The id that the server of a data set expects for each class.
SERVER_IDS = {"ade20k": range(1, 151), "cityscapes": CITYSCAPES_LABEL_IDS}


def server_ids(label_set: LabelSet) -> np.ndarray:
    """The server's id, uint8, of each class. [`SetrError`] for classes other than ADE20K's and Cityscapes'."""
    names = [name.lower() for name in label_set.names]
    for data_set, ids in SERVER_IDS.items():
        if names == [name.lower() for name in CLASS_NAMES[data_set]]:
            return np.array(ids, dtype=np.uint8)
    raise SetrError(f"only ADE20K and Cityscapes have a server; the classes {', '.join(names[:3])}, … are not theirs")


def submission_files(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The file of each sample's label map, by its name. Raises [`SetrError`] for a name that has no file in `folder`,
    and for one that two samples have: the second label map would take the place of the first.
    """
    counts = Counter(names)
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise SetrError(
            f"{counts[repeated[0]]} samples are called {repeated[0]!r}: a server takes one label map of each"
        )
    return {name: path_inside(folder, name, ".png") for name in counts}
