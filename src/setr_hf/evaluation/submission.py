"""What the servers of ADE20K and Cityscapes take: 8-bit PNGs of their own ids, named after the images."""

import numpy as np

from ..data.label_sets import LabelSet
from ..data.public_datasets import CITYSCAPES_LABEL_IDS, CLASS_NAMES
from ..errors import SetrError


# The id that the server of a data set expects for each class.
SERVER_IDS = {"ade20k": range(1, 151), "cityscapes": CITYSCAPES_LABEL_IDS}


def server_ids(label_set: LabelSet) -> np.ndarray:
    """The server's id, uint8, of each class. [`SetrError`] for classes other than ADE20K's and Cityscapes'."""
    names = [name.lower() for name in label_set.names]
    for data_set, ids in SERVER_IDS.items():
        if names == [name.lower() for name in CLASS_NAMES[data_set]]:
            return np.array(ids, dtype=np.uint8)
    raise SetrError(f"only ADE20K and Cityscapes have a server; the classes {', '.join(names[:3])}, … are not theirs")
