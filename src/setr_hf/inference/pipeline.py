"""The segmentation pipeline of Transformers for photos of any number of bands."""

from pathlib import Path
from typing import Any

from transformers import BatchFeature, ImageSegmentationPipeline

from ..model.photos_setr import Photo, size_of_photo
from .photos import read_photo_of_bands
from .sliding_windows import checked_photo, inputs_of


class BandSegmentationPipeline(ImageSegmentationPipeline):
    """`pipeline("image-segmentation", model=…, pipeline_class=BandSegmentationPipeline)`. The stock class makes
    everything RGB by Pillow; this one takes what the model takes: arrays `(height, width, bands)`, and paths of .npy,
    TIFF and other image files, one or a list of them. What it returns is the same.

    Raises [`SetrError`] for photos that cannot be read, or have other bands than the model takes.

    Example:

    ```python
    >>> import numpy as np
    >>> from transformers import pipeline
    >>> from setr_hf import BandSegmentationPipeline, SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor

    >>> config = SetrConfig(
    ...     hidden_size=32, num_hidden_layers=4, num_attention_heads=4, image_size=64, num_labels=5, num_channels=13
    ... )
    >>> processor = SetrImageProcessor(image_mean=[0.1] * 13, image_std=[0.1] * 13, size={"height": 64, "width": 64})
    >>> segmenter = pipeline(
    ...     "image-segmentation",
    ...     model=SetrForSemanticSegmentation(config),
    ...     image_processor=processor,
    ...     pipeline_class=BandSegmentationPipeline,
    ... )
    >>> segments = segmenter(np.zeros((50, 70, 13), dtype=np.uint16))
    >>> segments[0]["mask"].size
    (70, 50)
    ```
    """

    def preprocess(self, image: Photo | str | Path, subtask: str | None = None, timeout: float | None = None) -> Any:
        processor = self.image_processor
        if isinstance(image, str | Path):
            image = read_photo_of_bands(image, processor.num_bands)
        photo = checked_photo(image, 0, processor)
        inputs: BatchFeature = inputs_of(processor, [photo]).to(self.dtype)
        inputs["target_size"] = [size_of_photo(photo)]
        return inputs
