"""Image processor of SETR, PIL backend."""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_transforms import resize
from transformers.image_utils import ChannelDimension, PILImageResampling, SizeDict

from .image_processing_base_setr import SetrImageProcessorKwargs, SetrImageProcessorMixin, resized_size


if TYPE_CHECKING:
    # Makes both backends travel with a model whose code is loaded from the Hub.
    from .image_processing_setr import SetrImageProcessor  # noqa: F401


def resize_without_antialias(image: np.ndarray, size: tuple[int, int], resample: PILImageResampling) -> np.ndarray:
    """
    Resizes `(channels, height, width)` by sampling at pixel centres, as OpenCV does. `Image.resize` cannot: it always
    averages over the pixels it drops.
    """
    height, width = image.shape[-2:]
    scales = (width / size[1], 0, 0, 0, height / size[0], 0)
    channels = [
        Image.fromarray(channel.astype(np.float32)).transform(size[::-1], Image.Transform.AFFINE, scales, resample)
        for channel in image
    ]
    resized = np.stack([np.asarray(channel) for channel in channels])
    if image.dtype == np.uint8:
        resized = np.floor(resized + 0.5).clip(0, 255)
    return resized.astype(image.dtype)


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
                    image = resize_without_antialias(image, new_size, resample)
            if do_rescale:
                image = self.rescale(image, rescale_factor)
            if do_normalize:
                image = self.normalize(image, image_mean, image_std)
            processed.append(image)
        return processed


__all__ = ["SetrImageProcessorPil"]
