"""Image processor of SETR, PIL backend."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers.image_processing_backends import PilBackend
from transformers.image_transforms import resize
from transformers.image_utils import ChannelDimension, PILImageResampling, SizeDict

from .image_processing_base_setr import (
    SetrImageProcessorKwargs,
    SetrImageProcessorMixin,
    resize_without_antialias,
    resized_size,
)


if TYPE_CHECKING:
    # Makes both backends travel with a model whose code is loaded from the Hub.
    from .image_processing_setr import SetrImageProcessor  # noqa: F401


class SetrImageProcessorPil(SetrImageProcessorMixin, PilBackend):
    __doc__ = SetrImageProcessorMixin.__doc__
    valid_kwargs = SetrImageProcessorKwargs

    def _resize_and_normalize(
        self,
        images: list[np.ndarray],
        do_resize: bool,
        size: SizeDict,
        resample: PILImageResampling,
        antialias: bool,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | list[float],
        image_std: float | list[float],
        **kwargs,
    ) -> list[np.ndarray]:
        processed = []
        for image in images:
            if do_resize:
                new_size = resized_size(*image.shape[-2:], size)
                if antialias:
                    first = ChannelDimension.FIRST
                    image = resize(image, new_size, resample=resample, data_format=first, input_data_format=first)
                else:
                    image = resize_without_antialias(torch.from_numpy(image), new_size).numpy()
            if do_rescale:
                image = self.rescale(image, rescale_factor)
            if do_normalize:
                image = self.normalize(image, image_mean, image_std)
            processed.append(image)
        return processed


__all__ = ["SetrImageProcessorPil"]
