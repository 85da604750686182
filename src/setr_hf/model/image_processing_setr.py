"""Image processor of SETR, torchvision backend."""

from typing import TYPE_CHECKING

import torch
from torchvision.transforms.v2 import functional as tvF
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_transforms import group_images_by_shape, reorder_images
from transformers.image_utils import PILImageResampling, SizeDict, pil_torch_interpolation_mapping

from .image_processing_base_setr import (
    SetrImageProcessorKwargs,
    SetrImageProcessorMixin,
    resize_without_antialias,
    resized_size,
)


if TYPE_CHECKING:
    # Makes both backends travel with a model whose code is loaded from the Hub.
    from .image_processing_pil_setr import SetrImageProcessorPil  # noqa: F401


class SetrImageProcessor(SetrImageProcessorMixin, TorchvisionBackend):
    __doc__ = SetrImageProcessorMixin.__doc__
    valid_kwargs = SetrImageProcessorKwargs

    def _resize_and_normalize(
        self,
        images: list[torch.Tensor],
        do_resize: bool,
        size: SizeDict,
        resample: "PILImageResampling | tvF.InterpolationMode | int",
        antialias: bool,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | list[float],
        image_std: float | list[float],
        disable_grouping: bool | None = None,
        **kwargs,
    ) -> list[torch.Tensor]:
        interpolation = (
            resample if isinstance(resample, tvF.InterpolationMode) else pil_torch_interpolation_mapping[resample]
        )
        groups, indices = group_images_by_shape(images, disable_grouping=disable_grouping)
        processed = {}
        for shape, stacked in groups.items():
            if do_resize:
                new_size = resized_size(*stacked.shape[-2:], size)
                if antialias:
                    stacked = tvF.resize(stacked, new_size, interpolation=interpolation, antialias=True)
                else:
                    stacked = resize_without_antialias(stacked, new_size)
            processed[shape] = self.rescale_and_normalize(
                stacked, do_rescale, rescale_factor, do_normalize, image_mean, image_std
            )
        return reorder_images(processed, indices)


__all__ = ["SetrImageProcessor"]
