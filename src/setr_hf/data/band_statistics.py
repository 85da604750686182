"""Mean and standard deviation of each band over the photos of a data set."""

import logging

import numpy as np
from accelerate.utils import gather_object

from ..errors import SetrError
from ..model.bands_setr import scaled_by_type
from .passes import my_samples
from .rows import SegmentationData


logger = logging.getLogger(__name__)

# Number of pixels; mean, and sum of the squared differences from it, of each band.
Moments = tuple[int, np.ndarray, np.ndarray]


def sample_moments(index: int, data: SegmentationData) -> Moments | SetrError:
    """The moments of a photo's intensities, as the image processor rescales them; or why it cannot be read."""
    try:
        photo = np.asarray(data.read(data.undecoded[index]).photo)
    except SetrError as error:
        return error
    pixels = np.asarray(scaled_by_type(photo), dtype=np.float64).reshape(-1, photo.shape[-1])
    pixels = pixels / 255 if photo.dtype == np.uint8 else pixels
    mean = pixels.mean(axis=0)
    return len(pixels), mean, ((pixels - mean) ** 2).sum(axis=0)


def merged(first: Moments, second: Moments) -> Moments:
    """The moments of both (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979, equations 2.1).
    """
    count = first[0] + second[0]
    difference = second[1] - first[1]
    mean = first[1] + difference * (second[0] / count)
    return count, mean, first[2] + second[2] + difference**2 * (first[0] * second[0] / count)


def band_statistics(data: SegmentationData, skip_bad_samples: bool = False) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each band over all photos, of intensities as [`SetrImageProcessor`] rescales them
    by their type: unsigned integers from 0 to 1, floating-point numbers as they are. The deviation of a band that is
    the same everywhere is 1, with a warning. Processes that were launched together share the work and arrive at the
    same result. Raises a [`SetrError`] for a photo that cannot be read, unless it is to be skipped.
    """
    total: Moments | None = None
    for _, moments in my_samples(data, sample_moments, "Measuring bands"):
        if isinstance(moments, SetrError):
            if not skip_bad_samples:
                raise SetrError(f"{moments}. Repair or remove it, or leave out such samples with --skip-bad-samples")
        else:
            total = moments if total is None else merged(total, moments)
    shares = [share for share in gather_object([total]) if share is not None]
    if not shares:
        raise SetrError("the bands have no mean and standard deviation: no photo can be read")
    count, mean, squares = shares[0]
    for share in shares[1:]:
        count, mean, squares = merged((count, mean, squares), share)
    std = np.sqrt(squares / count)
    constant = np.flatnonzero(std <= 1e-7 * np.maximum(1, np.abs(mean)))
    if len(constant):
        logger.warning("The same in all photos, so that nothing is learnt of them: bands %s", constant.tolist())
        std[constant] = 1
    # What preprocessor_config.json shows; more digits than a training run could tell apart.
    return [float(f"{value:.6g}") for value in mean], [float(f"{value:.6g}") for value in std]
