"""Weights of the classes in the loss, from how often they occur in a data set."""

import numpy as np
from accelerate.utils import gather_object

from .passes import my_samples
from .rows import SegmentationData


INVERSE_FREQUENCY, EFFECTIVE = "inverse-frequency", "effective"
RULES = (INVERSE_FREQUENCY, EFFECTIVE)


def sample_counts(index: int, data: SegmentationData) -> np.ndarray:
    """The pixels of each class in a sample's label map."""
    label_map = data.read_labelled(data.undecoded[index]).label_map
    return np.bincount(label_map.ravel(), minlength=256)[: len(data.label_set.names)]


def count_classes(data: SegmentationData) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of each class in all label maps, and the number of label maps that show it. Processes that were
    launched together share the work and arrive at the same result. Raises a [`SetrError`] for a bad sample.
    """
    num_classes = len(data.label_set.names)
    pixels, photos = np.zeros(num_classes, dtype=np.int64), np.zeros(num_classes, dtype=np.int64)
    for _, counts in my_samples(data, sample_counts, "Counting classes"):
        pixels += counts
        photos += counts > 0
    shares = gather_object([(pixels, photos)])
    return sum(share[0] for share in shares), sum(share[1] for share in shares)


def weights_by_rule(rule: str, pixels: np.ndarray, photos: np.ndarray, num_photos: int) -> list[float]:
    """Weights of the classes from the counts of [`count_classes`]; 0 for classes that do not occur.

    - `"inverse-frequency"`: N / (C n), with n of all N labelled pixels in a class and C classes that occur: the mean
      weight of a pixel is 1.
    - `"effective"`: in proportion to (1 − β) / (1 − βⁿ), with n of all N photos showing a class and β = (N − 1) / N;
      their mean is 1 (Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019, eq. 2 and
      section 3.2). Photos are counted because pixels of one photo are not independent samples.

    Example:

    ```python
    >>> import numpy as np
    >>> from setr_hf.data.class_weights import weights_by_rule

    >>> weights_by_rule("inverse-frequency", np.array([90, 10, 0]), np.array([4, 1, 0]), num_photos=4)
    [0.5556, 5.0, 0.0]
    ```
    """
    occurs = pixels > 0
    weights = np.zeros(len(pixels))
    if rule == INVERSE_FREQUENCY:
        weights[occurs] = pixels.sum() / (occurs.sum() * pixels[occurs])
    else:
        rest = (num_photos - 1) / num_photos
        weights[occurs] = (1 - rest) / (1 - rest ** photos[occurs])
        weights *= occurs.sum() / max(weights.sum(), np.finfo(float).tiny)
    # What config.json shows; more digits than a training run could tell apart.
    return [float(f"{weight:.4g}") for weight in weights]
