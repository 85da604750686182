"""Which bands of the photos a train job learns from, and how they are normalized."""

from dataclasses import dataclass
from typing import Any

from ..checkpoints.inflation import Normalization, inflate_model
from ..data.band_statistics import band_statistics
from ..data.rows import SegmentationData
from ..errors import SetrError
from ..inference.loading import load_processor
from ..model.modeling_setr import SetrForSemanticSegmentation
from .options import JobArguments


@dataclass(frozen=True)
class BandChoice:
    """How photos are read and normalized.

    Args:
        num_bands (`int`, *optional*): How many bands they have; `None` for ordinary ones, which are made 8-bit RGB.
        normalization (`Normalization`, *optional*): Of their bands, if it is not the image processor's own.
        rows (`tuple`): Names and values for [`print_options`].
    """

    num_bands: int | None = None
    normalization: Normalization | None = None
    rows: tuple[tuple[str, Any], ...] = ()

    @property
    def processor_settings(self) -> dict[str, Any]:
        """What the image processor is made with."""
        settings: dict[str, Any] = {} if self.num_bands is None else {"rescale_factor": None}
        if self.normalization is not None:
            settings |= {"image_mean": [*self.normalization.mean], "image_std": [*self.normalization.std]}
        return settings


def given_normalization(job: JobArguments) -> Normalization | None:
    if job.image_mean is None or job.image_std is None:
        return None
    return Normalization(job.image_mean, job.image_std)


def chosen_bands(job: JobArguments, data: SegmentationData, num_bands: int, start: str = "") -> BandChoice:
    """The choice for photos of `num_bands`: mean and standard deviation that are given, or those of the photos.
    Raises [`SetrError`] if they are given for another number, or cannot be measured.
    """
    given = given_normalization(job)
    if given is not None and len(given) != num_bands:
        raise SetrError(f"--image-mean has {len(given)} numbers, but the photos have {num_bands} bands")
    if given is None and data.is_stream:
        raise SetrError(f"the {num_bands} bands of a stream are not measured: pass --image-mean and --image-std")
    normalization = given or Normalization(*band_statistics(data.with_bands(num_bands), job.skip_bad_samples))
    rows = [("bands", f"{num_bands}, as the photos have{start}; colour distortion, which is for RGB, is left out")]
    for name, values in (("mean", normalization.mean), ("standard deviation", normalization.std)):
        text = " ".join(f"{value:.4g}" for value in values)
        rows.append((f"{name} of the bands", text if given is None else f"{text}, as given"))
    return BandChoice(num_bands, normalization, tuple(rows))


def bands_of_data(job: JobArguments, num_channels: int | None, data: SegmentationData) -> BandChoice:
    """What a new model learns from: the bands that the first photo has, unless `num_channels` says otherwise."""
    found = data.num_bands
    num_bands = found if num_channels is None else num_channels
    if num_bands is None or (num_channels == 3 and found != 3):
        given = given_normalization(job)
        if given is not None and len(given) != 3:
            raise SetrError(f"--image-mean has {len(given)} numbers, but photos are read as RGB")
        return BandChoice(normalization=given)
    return chosen_bands(job, data, num_bands)


def bands_of_model(job: JobArguments, model: SetrForSemanticSegmentation, data: SegmentationData) -> BandChoice:
    """What `job.model` goes on learning from: what it takes or, of an RGB model, other bands that the photos have, for
    which its patch projection is inflated in place. Raises [`SetrError`] if it cannot be.
    """
    processor = load_processor(str(job.model))
    if data.num_bands in (None, 3, model.config.num_channels) or model.config.num_channels != 3:
        if job.image_mean is not None:
            raise SetrError(f"--image-mean and --image-std: {job.model} has its own, which its weights are made for")
        factor = processor.rescale_factor
        if processor.num_bands is not None and factor is not None and abs(255 * factor - 1) > 0.01:
            raise SetrError(
                f"the image processor of {job.model} has rescale_factor {factor:g}, but training rescales by the "
                "type: set it to null, and image_mean and image_std accordingly"
            )
        num_bands = processor.num_bands
        return BandChoice(num_bands, rows=() if num_bands is None else (("bands", f"{num_bands}, as the model has"),))
    assert data.num_bands is not None
    choice = chosen_bands(job, data, data.num_bands, start="; the model's RGB kernels are inflated")
    assert choice.normalization is not None
    inflate_model(model, Normalization(processor.image_mean, processor.image_std), choice.normalization)
    return choice
