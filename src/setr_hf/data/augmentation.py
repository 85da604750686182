"""The paper's augmentation of photos and their label maps, as torchvision's v2 transforms.

Order, distributions and 8-bit arithmetic are those of the original code, and so is every pixel; but only what the crop
shows is computed, where that code resizes whole images. All randomness comes from torch's global generator.
"""

import copy
import math

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from transformers.image_utils import SizeDict

from ..errors import SetrError
from ..model.bands_setr import scaled_by_type
from ..model.image_processing_setr import IGNORED_LABEL, check_enlarging, resized_size
from ..model.photos_setr import Photo, pil_to_rgb


# Data loaders run a process for each core, and a forked process waits forever for its parent's OpenCV threads.
cv2.setNumThreads(0)

REDRAWN_CROPS = 10
BRIGHTNESS_DELTA = 32
CONTRAST_RANGE = SATURATION_RANGE = (0.5, 1.5)
# OpenCV counts hues from 0 to 179; the upper end is exclusive.
HUE_RANGE = (-18, 18)
LEVELS = np.arange(256, dtype=np.uint8)


def training_transform(
    crop_size: tuple[int, int],
    scale_range: tuple[float, float],
    size: dict[str, int] | None,
    image_mean: list[float],
    image_std: list[float],
    category_max_ratio: float = 0.75,
    photometric_distortion: bool = True,
    horizontal_flip: bool = True,
) -> v2.Compose:
    """Random scale, random crop, mirror, photometric distortion, normalization and padding, as in the paper's code
    (section 4.1: random resize with ratio 0.5 to 2, random crop, random horizontal flip).

    Args:
        crop_size (`tuple[int, int]`): Height and width of the result in pixels.
        scale_range (`tuple[float, float]`): Least and largest ratio of scaling, drawn uniformly; aspect is kept.
        size (`dict[str, int]`, *optional*): The size at ratio 1, in the image processor's terms:
            `{"shortest_edge": 512, "longest_edge": 2048}` fits images into 512 by 2048 pixels. By default each image's
            own.
        image_mean, image_std (`list[float]`): Mean and standard deviation of each channel's intensities of 0 to 1, or
            of floating-point intensities as they are.
        category_max_ratio (`float`, *optional*, defaults to 0.75): Crops are redrawn, up to ten times, while one class
            covers this share of their labelled pixels or more; 1 takes the first.
        photometric_distortion (`bool`, *optional*, defaults to `True`): Whether brightness, contrast, saturation and
            hue vary. Short training from random weights does better without. It is left out for photos of another
            number of bands than three.
        horizontal_flip (`bool`, *optional*, defaults to `True`): Whether half of the images are mirrored.

    Returns:
        `v2.Compose`: From a `tv_tensors.Image` (bands × height × width, uint8 or float32, see [`to_tv_tensors`]) and a
            `tv_tensors.Mask` (a label map, uint8, height × width) to a normalized float32 image and a label map of
            `crop_size`. The part that the image does not fill, at the right and the bottom, is 0 in the image and 255
            in the label map.

    Raises:
        [`SetrError`]: `size` has no `shortest_edge`, a scale is not positive, or image and label map are not as above.
    """
    return v2.Compose(
        [
            RandomScaledCrop(crop_size, scale_range, size, category_max_ratio),
            *([v2.RandomHorizontalFlip()] if horizontal_flip else []),
            *([PhotometricDistortion()] if photometric_distortion and len(image_mean) == 3 else []),
            NormalizeAndPad(crop_size, image_mean, image_std),
        ]
    )


class RandomScaledCrop(v2.Transform):
    """A random window of an image and its label map resized by a random ratio: images bilinearly, label maps to the
    nearest pixel, both as if OpenCV's `resize` of the whole were cropped. An image smaller than the window is taken
    whole.

    Windows are uniform over the resized image. While fewer than two classes are in sight, or one covers
    `category_max_ratio` of the labelled pixels or more, another window is drawn; the tenth redrawn one is kept
    unchecked. For the arguments see [`training_transform`].
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        scale_range: tuple[float, float],
        size: dict[str, int] | None,
        category_max_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < scale_range[0] <= scale_range[1] < math.inf:
            raise SetrError(f"scale_range must be two positive ratios in ascending order, got {scale_range}")
        if size is not None and not ("shortest_edge" in size and set(size) <= {"shortest_edge", "longest_edge"}):
            raise SetrError(
                f"size must hold `shortest_edge`, and `longest_edge` if there is a limit, got {size}: random scales "
                "keep the aspect ratio"
            )
        self.crop_size = crop_size
        self.scale_range = scale_range
        self.size = size
        self.category_max_ratio = category_max_ratio

    def check_inputs(self, flat_inputs: list) -> None:
        images = [tensor for tensor in flat_inputs if isinstance(tensor, tv_tensors.Image)]
        masks = [tensor for tensor in flat_inputs if isinstance(tensor, tv_tensors.Mask)]
        is_pair = len(images) == len(masks) == 1 and images[0].dtype in (torch.uint8, torch.float32)
        if not is_pair or images[0].ndim != 3 or images[0].shape[1:] != masks[0].shape:
            got = [f"{type(tensor).__name__} {tuple(tensor.shape)} {tensor.dtype}" for tensor in images + masks]
            raise SetrError(
                "an Image of shape (bands, height, width) and dtype uint8 or float32 and a Mask of shape (height, "
                f"width) are transformed together, got {', '.join(got) or 'neither'}"
            )

    def make_params(self, flat_inputs: list) -> dict:
        label_map = next(inpt for inpt in flat_inputs if isinstance(inpt, tv_tensors.Mask)).numpy()
        height, width = label_map.shape
        new_size = self.scaled_size(height, width, uniform(*self.scale_range))
        for _ in range(REDRAWN_CROPS + 1):
            window = self.draw_window(new_size)
            crop = nearest_window(label_map, new_size, window)
            if self.category_max_ratio >= 1 or has_variety(crop, self.category_max_ratio):
                break
        return {"size": new_size, "window": window, "label_map": crop}

    def scaled_size(self, height: int, width: int, ratio: float) -> tuple[int, int]:
        """Height and width that an image is resized to at a ratio."""
        size = self.size or {"shortest_edge": min(height, width), "longest_edge": max(height, width)}
        scaled = SizeDict(**{edge: max(1, int(length * ratio)) for edge, length in size.items()})
        return resized_size(height, width, scaled)

    def draw_window(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of a random window within a resized image of `size`."""
        starts = [randint(0, max(side - crop, 0) + 1) for side, crop in zip(size, self.crop_size)]
        ends = [min(start + crop, side) for start, crop, side in zip(starts, self.crop_size, size)]
        rows, columns = map(slice, starts, ends)
        return rows, columns

    def transform(self, inpt: torch.Tensor, params: dict) -> torch.Tensor:
        if isinstance(inpt, tv_tensors.Mask):
            return tv_tensors.wrap(torch.from_numpy(params["label_map"]), like=inpt)
        (height, width), (new_height, new_width) = inpt.shape[-2:], params["size"]
        try:
            check_enlarging(height, width, SizeDict(height=new_height, width=new_width))
        except ValueError as error:
            raise SetrError(error) from error
        return from_pixels(bilinear_window(to_pixels(inpt), params["size"], params["window"]), like=inpt)


class PhotometricDistortion(v2.Transform):
    """Changes brightness, contrast, saturation and hue of 8-bit images, each in half of the cases; label maps pass.

    Brightness moves by up to 32 levels, contrast and saturation are multiplied by 0.5 to 1.5, and hue turns by −36° to
    34° in steps of 2°, OpenCV's unit. Contrast comes before saturation and hue or after them, equally often.
    """

    _transformed_types = (tv_tensors.Image,)

    def check_inputs(self, flat_inputs: list) -> None:
        for tensor in flat_inputs:
            if isinstance(tensor, tv_tensors.Image) and (tensor.dtype != torch.uint8 or tensor.shape[-3] != 3):
                raise SetrError(
                    "colours are distorted of an Image of 3 bands and dtype uint8, got "
                    f"{tuple(tensor.shape)} {tensor.dtype}: pass photometric_distortion=False"
                )

    def make_params(self, flat_inputs: list) -> dict:
        return {
            "brightness": uniform(-BRIGHTNESS_DELTA, BRIGHTNESS_DELTA) if randint(0, 2) else None,
            "contrast": uniform(*CONTRAST_RANGE) if randint(0, 2) else None,
            "contrast_first": bool(randint(0, 2)),
            "saturation": uniform(*SATURATION_RANGE) if randint(0, 2) else None,
            "hue": randint(*HUE_RANGE) if randint(0, 2) else None,
        }

    def transform(self, inpt: tv_tensors.Image, params: dict) -> tv_tensors.Image:
        pixels = to_pixels(inpt)
        # Brightness and an early contrast are looked up at once, which is exact.
        levels = LEVELS
        if params["brightness"] is not None:
            levels = scaled_levels(shift=params["brightness"])
        contrast = None if params["contrast"] is None else scaled_levels(params["contrast"])
        if contrast is not None and params["contrast_first"]:
            levels = contrast[levels]
        if levels is not LEVELS:
            pixels = cv2.LUT(pixels, levels)
        if params["saturation"] is not None:
            pixels = change_hsv(pixels, 1, scaled_levels(params["saturation"]))
        if params["hue"] is not None:
            pixels = change_hsv(pixels, 0, ((LEVELS.astype(int) + params["hue"]) % 180).astype(np.uint8))
        if contrast is not None and not params["contrast_first"]:
            pixels = cv2.LUT(pixels, contrast)
        return from_pixels(pixels, like=inpt)


class NormalizeAndPad(v2.Transform):
    """Normalizes images, to float32, and pads images and label maps to `crop_size` with 0 and 255 at the right and the
    bottom; for the arguments see [`training_transform`]. Raises [`SetrError`] for an input larger than `crop_size`, or
    with another number of bands than `image_mean`.
    """

    def __init__(self, crop_size: tuple[int, int], image_mean: list[float], image_std: list[float]) -> None:
        super().__init__()
        self.crop_size = tuple(crop_size)
        self.normalization = list(zip(image_mean, image_std))
        intensities = np.arange(256) / 255
        self.tables = [((intensities - mean) / std).astype(np.float32) for mean, std in zip(image_mean, image_std)]

    def transform(self, inpt: torch.Tensor, params: dict) -> torch.Tensor:
        height, width = inpt.shape[-2:]
        if height > self.crop_size[0] or width > self.crop_size[1]:
            raise SetrError(f"an input of {height}×{width} pixels cannot be padded to {self.crop_size}: crop it first")
        if isinstance(inpt, tv_tensors.Mask):
            padded = torch.full(self.crop_size, IGNORED_LABEL, dtype=inpt.dtype)
            padded[:height, :width] = inpt
            return tv_tensors.wrap(padded, like=inpt)
        if inpt.shape[0] != len(self.tables):
            raise SetrError(f"it has {inpt.shape[0]} bands, but image_mean has {len(self.tables)}")
        planes = np.zeros((len(self.tables), *self.crop_size), dtype=np.float32)
        if inpt.dtype == torch.uint8:
            for plane, table, result in zip(cv2.split(to_pixels(inpt)), self.tables, planes):
                cv2.LUT(plane, table, dst=result[:height, :width])
        else:
            for plane, (mean, std), result in zip(inpt.as_subclass(torch.Tensor).numpy(), self.normalization, planes):
                result[:height, :width] = (plane - np.float32(mean)) / np.float32(std)
        return tv_tensors.wrap(torch.from_numpy(planes), like=inpt)


def parts_of(transform: v2.Transform) -> list[v2.Transform]:
    return transform.transforms if isinstance(transform, v2.Compose) else [transform]


def why_random(transform: v2.Transform, sizes: set[tuple[int, int]]) -> str | None:
    """Why images of these heights and widths differ each time they go through a [`training_transform`], beyond being
    mirrored or not; `None` if they do not.
    """
    for part in parts_of(transform):
        if isinstance(part, RandomScaledCrop):
            ratio, largest = part.scale_range
            if ratio != largest:
                return f"photos are scaled at random, by {ratio:g} to {largest:g}"
            for size in sorted(sizes, reverse=True):
                height, width = part.scaled_size(*size, ratio)
                if height > part.crop_size[0] or width > part.crop_size[1]:
                    crop = "×".join(map(str, part.crop_size))
                    return f"crops of {crop} are cut at random from photos of {height}×{width}"
        elif isinstance(part, PhotometricDistortion):
            return "colours are distorted at random"
        elif not isinstance(part, (v2.RandomHorizontalFlip, NormalizeAndPad)):
            return f"it is not known whether {type(part).__name__} is random"
    return None


def views(transform: v2.Transform) -> list[v2.Transform]:
    """What a [`training_transform`] that is not random otherwise can do: one thing, or with mirror images two."""
    results = []
    for probability in (0.0, 1.0):
        view = copy.deepcopy(transform)
        flips = [part for part in parts_of(view) if isinstance(part, v2.RandomHorizontalFlip)]
        for flip in flips:
            flip.p = probability
        results.append(view)
        if not flips:
            break
    return results


def uniform(low: float, high: float) -> float:
    return torch.empty((), dtype=torch.float64).uniform_(low, high).item()


def randint(low: int, high: int) -> int:
    """A random integer from `low` up to `high`, exclusive."""
    return int(torch.randint(low, high, ()))


def to_pixels(image: torch.Tensor) -> np.ndarray:
    """A view of `(bands, height, width)` in OpenCV's order, `(height, width, bands)`."""
    return image.as_subclass(torch.Tensor).permute(1, 2, 0).numpy()


def from_pixels(pixels: np.ndarray, like: tv_tensors.Image) -> tv_tensors.Image:
    return tv_tensors.wrap(torch.from_numpy(pixels).permute(2, 0, 1), like=like)


def bilinear_window(pixels: np.ndarray, size: tuple[int, int], window: tuple[slice, slice]) -> np.ndarray:
    """A window of `pixels` resized to `size`, equal to the bit to resizing them all with OpenCV's `INTER_LINEAR`.

    OpenCV computes positions in 32-bit floats from the upper left corner, where the image must therefore start; what
    lies to the right of the window and below it is left out.
    """
    factors = [new_side / side for new_side, side in zip(size, pixels.shape)]
    # A bilinear pixel draws on two neighbours, and the size of the result is rounded.
    reach = [math.ceil(part.stop / factor) + 2 for part, factor in zip(window, factors)]
    part = pixels[: reach[0], : reach[1]]
    if all(round(side * factor) == side for side, factor in zip(part.shape, factors)):
        # OpenCV would copy a part that keeps its size, whatever the factor.
        part = pixels
    resized = cv2.resize(part, None, fx=factors[1], fy=factors[0], interpolation=cv2.INTER_LINEAR)[window]
    return resized if resized.ndim == pixels.ndim else resized[..., None]  # OpenCV drops the axis of a single band.


def nearest_window(label_map: np.ndarray, size: tuple[int, int], window: tuple[slice, slice]) -> np.ndarray:
    """A window of `label_map` resized to `size`, equal to resizing all of it with OpenCV's `INTER_NEAREST`."""
    for axis, (side, new_side, part) in enumerate(zip(label_map.shape, size, window)):
        # OpenCV's scale is the inverse of the inverse.
        positions = np.arange(part.start, part.stop) * (1 / (new_side / side))
        label_map = label_map.take(np.minimum(positions.astype(np.int64), side - 1), axis)
    return label_map


def has_variety(label_map: np.ndarray, category_max_ratio: float) -> bool:
    """Whether there is more than one class and each covers less than `category_max_ratio` of the labelled pixels."""
    counts = cv2.calcHist([label_map], [0], None, [IGNORED_LABEL], [0, IGNORED_LABEL])
    labelled, most = counts.sum(dtype=np.float64), counts.max()
    return most < labelled and most / labelled < category_max_ratio


def scaled_levels(factor: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """The 8-bit levels times `factor` plus `shift`, in 32-bit floats, limited to 0…255 and truncated."""
    levels = LEVELS.astype(np.float32) * np.float32(factor) + np.float32(shift)
    return levels.clip(0, 255).astype(np.uint8)


def change_hsv(pixels: np.ndarray, channel: int, levels: np.ndarray) -> np.ndarray:
    """RGB pixels with their hue (channel 0) or saturation (1) replaced by its entry in `levels`."""
    planes = list(cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)))
    planes[channel] = cv2.LUT(planes[channel], levels)
    return cv2.cvtColor(cv2.merge(planes), cv2.COLOR_HSV2RGB)


def to_tv_tensors(photo: Photo, label_map: np.ndarray) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """A photo and its label map `(height, width)` as the tensors that v2 transforms handle: PIL images of any mode as
    8-bit RGB, arrays `(height, width, bands)` as uint8, or else as float32, see [`scaled_by_type`].
    """
    # Conversion would copy what is RGB already.
    pixels = np.array(pil_to_rgb(photo)) if isinstance(photo, Image.Image) else scaled_by_type(photo)
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)), tv_tensors.Mask(torch.from_numpy(label_map))
