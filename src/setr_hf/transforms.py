"""Augmentation of images and label maps together, in the form of torchvision's v2 transforms."""

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from .image_processing_base_setr import IGNORED_LABEL, SizeDict, pil_to_rgb, resized_size


def training_transform(
    crop_size: tuple[int, int],
    scale_range: tuple[float, float],
    size: dict[str, int] | None,
    image_mean: list[float],
    image_std: list[float],
    category_max_ratio: float = 0.75,
    photometric_distortion: bool = True,
) -> v2.Compose:
    """
    Random scale, random crop, mirror, photometric distortion and normalization, in the order of the paper's code.

    Args:
        crop_size: Height and width of the result in pixels; what an image does not fill is padded with its mean colour
            and ignored labels.
        scale_range: Least and largest ratio of scaling; aspect ratios are kept.
        size: What ratio 1 stands for, in the image processor's terms: `{"shortest_edge": 512, "longest_edge": 2048}` fits
            images into 512 by 2048 pixels; each image's own size if None.
        photometric_distortion: Whether brightness, contrast, saturation and hue vary, each in half of the cases. Short
            training from random weights does better without.

    Returns:
        A transform of a `tv_tensors.Image` (uint8) and a `tv_tensors.Mask` to a normalized float32 image and a mask.
    """
    fill = {tv_tensors.Image: [round(255 * value) for value in image_mean], tv_tensors.Mask: IGNORED_LABEL}
    return v2.Compose(
        [
            RandomScale(scale_range, size),
            v2.RandomCrop(crop_size, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(),
            v2.RandomPhotometricDistort(p=0.5) if photometric_distortion else v2.Identity(),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            v2.Normalize(image_mean, image_std),
        ]
    )


class RandomScale(v2.Transform):
    """
    Resizes to `size`, or the image's own, times a ratio drawn uniformly from `scale_range`: images bilinearly, masks to the nearest pixel.
    """

    def __init__(self, scale_range: tuple[float, float], size: dict[str, int] | None):
        super().__init__()
        self.scale_range = scale_range
        self.size = size

    def make_params(self, flat_inputs):
        height, width = v2.functional.get_size(flat_inputs[0])
        ratio = torch.empty(()).uniform_(*self.scale_range).item()
        size = self.size or {"shortest_edge": min(height, width)}
        size = SizeDict(**{side: int(length * ratio) for side, length in size.items()})
        return {"size": list(resized_size(height, width, size))}

    def transform(self, inpt, params):
        return self._call_kernel(v2.functional.resize, inpt, params["size"], antialias=False)


def to_tv_tensors(image: Image.Image, labels: np.ndarray) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """A photograph and its class ids `(height, width)` as the tensors that v2 transforms know apart."""
    return tv_tensors.Image(pil_to_rgb(image)), tv_tensors.Mask(torch.from_numpy(labels))
