"""Image processors of SETR, torchvision and PIL backends: photos in, windows out, label maps back from the logits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import validate_typed_dict
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tvF
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
from transformers.image_processing_utils import BatchFeature
from transformers.image_transforms import group_images_by_shape, reorder_images
from transformers.image_transforms import resize as resize_with_pil
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
    infer_channel_dimension_format,
    pil_torch_interpolation_mapping,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import ModelOutput

from .bands_setr import bands_of_pil, check_num_bands, load_photo, read_bands, scaled_by_type
from .confidence_setr import check_temperature, measured
from .label_maps_setr import ScoreTile, grid_of, kept, label_map_of, score_tiles
from .photos_setr import (
    channels_first_rgb,
    check_intensities,
    check_size,
    check_type,
    decoded,
    pil_to_rgb,
    upright,
)


IGNORED_LABEL = 255
# Limits on what is made of a photo, many times what the published protocols need; photos that are larger by themselves
# are not refused.
MAX_ENLARGED_PIXELS = 64 * 10**6
MAX_WINDOW_PIXELS = 16 * 10**6
MAX_WINDOWS = 10_000
MAX_WINDOW_OVERLAP = 16
MAX_LABEL_MAP_PIXELS = 2**30
FLOAT32_MAX = 3e38
RESAMPLINGS = {item.value for item in (*PILImageResampling, *tvF.InterpolationMode)}
NORMALIZATION = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")


class SetrImageProcessorKwargs(ImagesKwargs, total=False):
    r"""antialias (`bool`, *optional*, defaults to `self.antialias`): Whether resizing averages over the pixels it
    drops. The published models were trained and tested without, on OpenCV's bilinear resizing. do_reduce_labels
    (`bool`, *optional*, defaults to `self.do_reduce_labels`): Whether segmentation maps hold 0 for «other» and classes
    from 1: 0 becomes 255, which the loss ignores, and k becomes k − 1. do_split_image (`bool`, *optional*, defaults to
    `self.do_split_image`): Whether to cut each image into overlapping windows of `crop_size`, the paper's test
    protocol. stride (`int`, *optional*, defaults to `self.stride`): Distance in pixels between the starts of
    neighbouring windows; at most `crop_size`. temperature (`float`, *optional*, defaults to `self.temperature`): What
    scores are divided by to become confidences, see `post_process_semantic_segmentation`. It changes no label map.
    threshold (`float`, *optional*, defaults to `self.threshold`): Of binary models, the probability from 0 to 1 above
    which a pixel belongs to the foreground, in post-processing.
    """

    antialias: bool
    do_reduce_labels: bool
    do_split_image: bool
    stride: int
    temperature: float | int
    threshold: float


def resized_size(height: int, width: int, size: SizeDict) -> tuple[int, int]:
    """Height and width in pixels that an image is resized to.

    With `shortest_edge` the aspect ratio is kept, `longest_edge` is an upper limit, and sides are rounded half up, as
    in the original code; with `height` and `width` these are the result.
    """
    if size.height and size.width:
        return size.height, size.width
    if not size.shortest_edge:
        raise ValueError(f"size must hold `height` and `width`, or `shortest_edge`, got {dict(size)}")
    scale = size.shortest_edge / min(height, width)
    if size.longest_edge:
        scale = min(scale, size.longest_edge / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def check_enlarging(height: int, width: int, size: SizeDict) -> None:
    """Raises `ValueError` if resizing would make so many pixels of an image that they may fill the memory."""
    new_height, new_width = resized_size(height, width, size)
    if new_height * new_width > max(MAX_ENLARGED_PIXELS, height * width):
        raise ValueError(
            f"its {height}×{width} pixels would be enlarged to {new_height}×{new_width}, which is more than "
            f"{MAX_ENLARGED_PIXELS // 10**6} megapixels: set a longest_edge in size, or a smaller size"
        )


def is_whole(number: Any) -> bool:
    """Whether a number counts something: whole and positive."""
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool) and 1 <= int(number) < 2**31


def kind_of(image: Any) -> Any:
    """What to call something that should be an image: its shape, or else its type."""
    return tuple(image.shape) if hasattr(image, "shape") else type(image).__name__


def check_sides(name: str, sides: SizeDict | None) -> None:
    """Raises `ValueError` unless all sides that are given are whole numbers of pixels."""
    told = {key: value for key, value in dict(sides or {}).items() if value is not None}
    if not told or not all(is_whole(value) for value in told.values()):
        raise ValueError(f"{name} must hold positive whole numbers of pixels, got {told}")


def is_finite(number: Any) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) < FLOAT32_MAX


def check_normalization(mean: Any, std: Any) -> None:
    """Raises `ValueError` unless these are a mean and a standard deviation, one for each channel or one for all."""
    lists = [list(values) if isinstance(values, (list, tuple)) else [values] for values in (mean, std)]
    for name, values in zip(("image_mean", "image_std"), lists):
        if not values or not all(is_finite(value) for value in values):
            raise ValueError(f"{name} must hold a number for each channel, got {values}")
    if len(lists[0]) != len(lists[1]):
        raise ValueError(f"image_mean is for {len(lists[0])} channels and image_std for {len(lists[1])}")
    if min(lists[1]) <= 0:
        raise ValueError(f"image_std must hold positive numbers, got {lists[1]}")


def num_bands_of(do_normalize: bool, image_mean: Any, do_rescale: bool, rescale_factor: Any) -> int | None:
    """How many bands photos must have with these settings; `None` if they are ordinary ones, made 8-bit RGB."""
    num_bands = len(image_mean) if do_normalize and isinstance(image_mean, (list, tuple)) else 3
    return None if num_bands == 3 and not (do_rescale and rescale_factor is None) else num_bands


def format_of_bands(shape: tuple[int, ...], num_bands: int) -> ChannelDimension:
    """Which axis of an array has the bands, the first if two can be. Raises `ValueError` if none has as many."""
    if num_bands not in (shape[0], shape[-1]):
        check_num_bands(min(shape[0], shape[-1]), num_bands)
    return ChannelDimension.FIRST if shape[0] == num_bands else ChannelDimension.LAST


def resize_each_band(bands: np.ndarray, size: tuple[int, int], resample: PILImageResampling) -> np.ndarray:
    """`(bands, height, width)`, uint8 or float32, resized by Pillow, which knows pictures of up to four bands."""
    height, width = size
    resized = [np.asarray(Image.fromarray(band).resize((width, height), resample)) for band in bands]
    return np.stack(resized)


def whole_sides(sides: Any, name: str) -> list[int]:
    """Height and width as numbers of Python. Raises `ValueError` unless they are whole and positive."""
    try:
        whole = [int(side) for side in sides]
    except (OverflowError, TypeError, ValueError):
        whole = []
    if len(whole) != 2 or min(whole) < 1 or any(a != b for a, b in zip(whole, sides)):
        raise ValueError(f"{name} must be a height and a width in pixels, whole and positive, got {sides}")
    if whole[0] * whole[1] > MAX_LABEL_MAP_PIXELS:
        raise ValueError(f"{name} must have at most {MAX_LABEL_MAP_PIXELS:,} pixels, got {whole[0]}×{whole[1]}")
    return whole


def valid_offsets(rows: list[list[int]], index: int) -> list[list[int]]:
    """The rows of `patch_offsets` that are not padding. Raises `ValueError` unless they lie within one image and can
    cover it.
    """
    rows = [row for row in rows if row[2] > 0]
    area = 0
    for top, left, height, width, image_height, image_width in rows:
        if [image_height, image_width] != rows[0][4:]:
            raise ValueError(f"patch_offsets of image {index} name several sizes of it: {rows[0][4:]} and others")
        if not (0 <= top <= image_height - height and 0 <= left <= image_width - width and width > 0):
            raise ValueError(
                f"patch_offsets of image {index} hold a window that lies outside it: {[top, left, height, width]}"
            )
        area += height * width
    if not rows or area < rows[0][4] * rows[0][5]:
        raise ValueError(f"patch_offsets of image {index} hold {len(rows)} windows, which do not cover it")
    return rows


def check_logits(logits: torch.Tensor, patch_offsets: torch.Tensor | None) -> None:
    """Raises `ValueError` unless logits are finite and of the shape that a model returns."""
    shape = tuple(logits.shape)
    expected = "(batch_size, num_labels, h, w)"
    if patch_offsets is not None:
        expected = "(batch_size, num_windows, num_labels, h, w) with patch_offsets (batch_size, num_windows, 6)"
    is_right = len(shape) == (4 if patch_offsets is None else 5)
    if is_right and patch_offsets is not None:
        is_right = tuple(patch_offsets.shape) == (*shape[:2], 6)
    if not is_right or 0 in shape:
        raise ValueError(f"logits must have the shape {expected}, none of them 0, got {shape}")
    # `logits.isfinite()` would take as much memory again.
    if not torch.stack(logits.aminmax()).isfinite().all():
        raise ValueError(
            "logits are NaN or infinite, and no label can be read from them: the model's weights are not finite, or "
            "they overflow in this precision (float32 and bfloat16 hold larger numbers than float16)"
        )


@contextmanager
def named(image: str) -> Iterator[None]:
    """Says in an error which image it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{image}: {error}") from error


@contextmanager
def types_checked() -> Iterator[None]:
    """Turns the errors of the typed dictionary of settings, several lines long, into a `ValueError` of one line."""
    try:
        yield
    except StrictDataclassError as error:
        raise ValueError(" ".join(str(error).split())) from error


def opencv_taps(
    length: int, new_length: int, device: torch.device, drop_fraction: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two source pixels of each new pixel along a side, and the weight of the second in 1/2048."""
    # OpenCV computes the scale as the inverse of the inverse, which need not be new_length / length's neighbour.
    scale = 1.0 / (new_length / length)
    position = ((torch.arange(new_length, dtype=torch.float64, device=device) + 0.5) * scale - 0.5).float()
    first = position.floor()
    fraction = position - first
    if drop_fraction:
        fraction = torch.where((first < 0) | (first >= length - 1), 0.0, fraction)
    first = first.long()
    weight = (fraction * 2048).round().int()
    return first.clamp(0, length - 1), (first + 1).clamp(0, length - 1), weight


def resize_like_opencv(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear resizing of uint8 `(..., height, width)` without antialias, equal to OpenCV's `INTER_LINEAR` to the
    bit: fixed-point weights of 11 bits, columns first, truncation where OpenCV truncates. The published models were
    trained and tested on such pixels.
    """
    height, width = images.shape[-2:]
    if (height, width) == (2 * size[0], 2 * size[1]):
        # OpenCV averages 2×2 pixels when both sides are halved.
        rows = images[..., ::2, :].int() + images[..., 1::2, :]
        return ((rows[..., ::2] + rows[..., 1::2] + 2) >> 2).to(torch.uint8)
    left, right, weight = opencv_taps(width, size[1], images.device, drop_fraction=True)
    pixels = (images[..., left] * (2048 - weight) + images[..., right] * weight) >> 4
    top, bottom, weight = opencv_taps(height, size[0], images.device, drop_fraction=False)
    weight = weight[:, None]
    above, below = pixels[..., top, :] * (2048 - weight) >> 16, pixels[..., bottom, :] * weight >> 16
    return ((above + below + 2) >> 2).clamp(0, 255).to(torch.uint8)


def resize_without_antialias(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear resizing of `(..., height, width)`; 8-bit images as OpenCV does, floating-point ones as torch does."""
    if images.dtype == torch.uint8:
        return resize_like_opencv(images, size)
    stacked = images.reshape(1, -1, *images.shape[-2:]).float()
    resized = F.interpolate(stacked, size=size, mode="bilinear", align_corners=False)
    return resized.reshape(*images.shape[:-2], *size).to(images.dtype)


def windows_along(side: int, crop: int, stride: int) -> int:
    """How many windows there are along a side."""
    return max(side - crop + stride - 1, 0) // stride + 1


def window_starts(side: int, crop: int, stride: int) -> list[int]:
    """Where the windows along a side begin: every `stride` pixels, the last one shifted back into the image."""
    return [max(min(index * stride, side - crop), 0) for index in range(windows_along(side, crop, stride))]


def window_offsets(height: int, width: int, crop_size: SizeDict, stride: int) -> list[tuple[int, int, int, int]]:
    """Top, left, height and width in pixels of the sliding windows over an image, row by row.

    Windows start every `stride` pixels; the last one of a row or column is shifted back into the image. Along a side
    that is shorter than the crop there is one window, as long as that side.
    """
    tops, lefts = window_starts(height, crop_size.height, stride), window_starts(width, crop_size.width, stride)
    size = (min(crop_size.height, height), min(crop_size.width, width))
    return [(top, left, *size) for top in tops for left in lefts]


def check_windows(height: int, width: int, crop_size: SizeDict, stride: int) -> None:
    """Raises `ValueError` if the windows over an image are too many or too large for the memory."""
    crop_height, crop_width = crop_size.height, crop_size.width
    number = windows_along(height, crop_height, stride) * windows_along(width, crop_width, stride)
    most_pixels = max(MAX_WINDOW_PIXELS, MAX_WINDOW_OVERLAP * height * width)
    if number > MAX_WINDOWS or number * crop_height * crop_width > most_pixels:
        raise ValueError(
            f"its {height}×{width} pixels would be cut into {number:,} windows of {crop_height}×{crop_width}, which "
            f"are too many: set a larger stride than {stride}, a smaller size, or another crop_size"
        )


def label_map_tensor(segmentation_map: Any) -> torch.Tensor:
    """A segmentation map (PIL image, array or tensor) as an int64 tensor of shape `(height, width)`."""
    values = segmentation_map
    if not isinstance(values, torch.Tensor):
        values = np.array(values)
        if values.dtype.kind not in "biuf":
            raise ValueError(f"a segmentation map holds class ids, got values of the type {values.dtype}")
        values = torch.from_numpy(values if values.dtype.kind == "f" else values.astype(np.int64))
    labels = values.to(torch.int64)
    if values.is_floating_point() and not torch.equal(labels.to(values.dtype), values):
        raise ValueError("a segmentation map holds class ids, which are whole numbers, got others or NaN")
    if labels.ndim == 3 and 1 in (labels.shape[0], labels.shape[-1]):
        labels = labels.squeeze(0 if labels.shape[0] == 1 else -1)
    if labels.ndim != 2:
        raise ValueError(
            f"a segmentation map holds one class id per pixel and has the shape (height, width), got "
            f"{tuple(labels.shape)}; maps that encode classes as colours must be converted to ids first"
        )
    return labels


class SetrImageProcessorMixin:
    """Image processor of SETR. By default each image becomes one square `pixel_values`. With `do_split_image=True` it
    is resized, its aspect ratio kept, and cut into overlapping windows, which is the paper's test protocol;
    `post_process_semantic_segmentation` puts the logits of the windows together again.

    Photos have as many bands as `image_mean` and `image_std` have numbers. With three they are made 8-bit RGB, and
    `rescale_factor` is 1/255. With another number they are arrays, or files that [`read_bands`] reads, and
    `rescale_factor` is `None` unless it is given: integers are divided by the largest number of their type, 255 or
    65535, and floating-point numbers are taken as they are. `rescale_factor=None` does so with three bands as well. A
    number multiplies what there is, of any type.

    Returns a `BatchFeature` with

    - `pixel_values` of shape `(batch_size, num_channels, height, width)`, and `labels` of shape `(batch_size, height,
      width)` if segmentation maps were given; or
    - `pixel_windows` of shape `(batch_size, num_windows, num_channels, crop_height, crop_width)` and `patch_offsets`
      of shape `(batch_size, num_windows, 6)`: top, left, height and width of each window and height and width of the
      resized image, in pixels. Images with fewer windows than others are padded with zeros in both.

    Raises:
        `ValueError`: a setting is out of range, such as a `stride` that exceeds `crop_size`; an image, which the error
            counts from 0, is empty, has another number of bands than `image_mean`, holds NaN or intensities of another
            range than 0 to 255, or would be enlarged to more than 64 megapixels; a segmentation map differs in size
            from its image or is not a map of ids; or images of several sizes are to be stacked.

    Example:

    ```python
    >>> from PIL import Image
    >>> from setr_hf import SetrImageProcessor

    >>> processor = SetrImageProcessor(do_split_image=True, size={"shortest_edge": 64}, crop_size=64, stride=43)
    >>> inputs = processor(Image.new("RGB", (120, 80)), return_tensors="pt")
    >>> inputs["pixel_windows"].shape, inputs["patch_offsets"][0].tolist()
    (torch.Size([1, 2, 3, 64, 64]), [[0, 0, 64, 64, 64, 96], [0, 32, 64, 64, 64, 96]])
    ```
    """

    valid_kwargs = SetrImageProcessorKwargs
    model_input_names = ["pixel_values", "pixel_windows", "patch_offsets"]
    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 512, "width": 512}
    default_to_square = True
    crop_size = {"height": 512, "width": 512}
    stride = 341
    threshold = 0.5
    rescale_factor = 1 / 255
    antialias = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_reduce_labels = False
    do_split_image = False
    temperature = 1.0

    def __init__(self, **kwargs: Unpack[SetrImageProcessorKwargs]):
        with types_checked():
            # Fractions may be whole in files, which the types do not admit.
            untyped = {"rescale_factor", "image_mean", "image_std", "threshold"}
            typed = set(self.valid_kwargs.__annotations__) - untyped
            validate_typed_dict(self.valid_kwargs, {name: kwargs[name] for name in typed if name in kwargs})
        super().__init__(**kwargs)
        # `super` takes None for not given.
        is_given = kwargs.get("rescale_factor") is not None
        if not is_given and ("rescale_factor" in kwargs or self.num_bands is not None):
            self.rescale_factor = None
        self._check_settings(**{name: getattr(self, name) for name in self.valid_kwargs.__annotations__})

    @property
    def num_bands(self) -> int | None:
        """How many bands photos must have; `None` if they are ordinary ones, which are made 8-bit RGB."""
        return num_bands_of(self.do_normalize, self.image_mean, self.do_rescale, self.rescale_factor)

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        # Saving would otherwise write one class instead of the two.
        output["auto_map"] = {
            "AutoImageProcessor": {
                "torchvision": "image_processing_setr.SetrImageProcessor",
                "pil": "image_processing_setr.SetrImageProcessorPil",
            }
        }
        return output

    def _standardize_kwargs(self, **kwargs: Any) -> dict:
        try:
            return super()._standardize_kwargs(**kwargs)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            sizes = {name: kwargs.get(name) for name in ("size", "crop_size", "pad_size")}
            raise ValueError(f"these sizes cannot be read: {sizes}: {error}") from error

    def _check_settings(self, **settings: Any) -> None:
        """Raises `ValueError` for settings that are out of range or contradict each other."""
        size, crop_size, stride = settings["size"], settings["crop_size"], settings["stride"]
        if settings["do_resize"]:
            check_sides("size", size)
            if not (size.height and size.width) and not size.shortest_edge:
                raise ValueError(f"size must hold `height` and `width`, or `shortest_edge`, got {dict(size)}")
            # Pillow's resampling filters have numbers as values, torchvision's have names.
            resample = getattr(settings["resample"], "value", settings["resample"])
            if not isinstance(resample, (int, str)) or resample not in RESAMPLINGS:
                raise ValueError(f"resample must be one of Pillow's filters, 0 to 5, got {settings['resample']!r}")
            if not settings["antialias"] and resample not in (PILImageResampling.BILINEAR, "bilinear"):
                raise ValueError(f"resizing without antialias is bilinear, but resample is {settings['resample']!r}")
        threshold = settings["threshold"]
        if not (is_finite(threshold) and 0 <= threshold <= 1):
            raise ValueError(f"threshold must be a probability from 0 to 1, got {threshold!r}")
        factor = settings["rescale_factor"]
        if settings["do_rescale"] and factor is not None and not (is_finite(factor) and factor > 0):
            raise ValueError(f"rescale_factor must be a positive number, got {factor}")
        if settings["do_normalize"]:
            check_normalization(settings["image_mean"], settings["image_std"])
        if settings["do_split_image"]:
            if not (crop_size and crop_size.height and crop_size.width):
                raise ValueError(f"do_split_image needs a crop_size with height and width, got {crop_size}")
            check_sides("crop_size", crop_size)
            if not is_whole(stride) or stride > min(crop_size.height, crop_size.width):
                raise ValueError(
                    f"stride must be between 1 and the crop size {crop_size.height}×{crop_size.width}, or windows "
                    f"would leave gaps; got {stride}"
                )
        check_temperature(settings["temperature"])
        for name in ("do_center_crop", "do_pad"):
            if settings.get(name):
                raise ValueError(f"{type(self).__name__} has no {name}")

    def _validate_preprocess_kwargs(self, **kwargs: Any) -> None:
        # Transformers knows no factor that depends on the type.
        has_factor = kwargs["do_rescale"] and kwargs["rescale_factor"] is not None
        super()._validate_preprocess_kwargs(**{**kwargs, "do_rescale": has_factor})
        self._check_settings(**kwargs)

    def fetch_images(self, images: Any) -> Any:
        """Opens local paths at their full bit depth; the rest, such as web addresses, is left to Transformers."""
        if isinstance(images, (list, tuple)):
            return [self.fetch_images(image) for image in images]
        if isinstance(images, Path) or (isinstance(images, str) and not images.startswith(("http://", "https://"))):
            if self.num_bands is not None:
                return np.moveaxis(read_bands(images, self.num_bands), -1, 0)
            return load_photo(images)
        if not isinstance(images, (str, Image.Image, np.ndarray, torch.Tensor)):
            raise ValueError(f"photos must be PIL images, arrays, tensors or paths, got {type(images).__name__}")
        return super().fetch_images(images)

    def _prepare_images_structure(self, images: ImageInput, expected_ndims: int = 3) -> ImageInput:
        """As in Transformers, but arrays and tensors `(height, width)` are taken for grayscale photos."""

        def with_channels(image: Any) -> Any:
            if isinstance(image, (list, tuple)):
                return [with_channels(item) for item in image]
            return image[None] if getattr(image, "ndim", 3) == 2 else image

        images = self.fetch_images(images)
        try:
            images = super()._prepare_images_structure(with_channels(images), expected_ndims)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            got = [kind_of(image) for image in images[:3]] if isinstance(images, list) else kind_of(images)
            raise ValueError(
                "images must be a photo or a list of photos; arrays are (height, width), (channels, height, width) or "
                f"(height, width, channels), got {got}"
            ) from error
        if not len(images):
            raise ValueError("the list of images is empty")
        return images

    def process_image(
        self,
        image: Image.Image | np.ndarray | torch.Tensor,
        do_convert_rgb: bool | None = None,
        input_data_format: ChannelDimension | str | None = None,
        num_bands: int | None = None,
        by_type: bool = False,
        **kwargs: Any,
    ) -> np.ndarray | torch.Tensor:
        """A photo of any kind to a channels-first array or tensor, upright and, if asked for, RGB. If it must have
        `num_bands`, see [`num_bands_of`], it is not made RGB; `by_type` says whether it is then [`scaled_by_type`].
        """
        if num_bands is not None:
            if isinstance(image, Image.Image):
                image, input_data_format = bands_of_pil(decoded(image), num_bands), ChannelDimension.LAST
            check_type(image)
            input_data_format = input_data_format or format_of_bands(image.shape, num_bands)
            check_num_bands(image.shape[0 if input_data_format == ChannelDimension.FIRST else -1], num_bands)
            image = scaled_by_type(image, by_type)
        elif isinstance(image, Image.Image):
            image = upright(decoded(image))
            image = pil_to_rgb(image) if do_convert_rgb else image
        else:
            check_type(image)
            if str(image.dtype).removeprefix("torch.") in ("uint32", "uint64"):  # torch cannot calculate with them.
                image = image.astype(np.int64) if isinstance(image, np.ndarray) else image.to(torch.int64)
            if isinstance(image, torch.Tensor) and image.dtype == torch.bfloat16 and isinstance(self, PilBackend):
                image = image.float()
            if image.shape[0] == 1 and (input_data_format is None or image.shape[-1] not in (1, 3, 4)):
                input_data_format = ChannelDimension.FIRST
            if input_data_format is None:
                input_data_format = infer_channel_dimension_format(image, num_channels=(1, 3, 4))
            if do_convert_rgb:
                image, input_data_format = channels_first_rgb(image, input_data_format), ChannelDimension.FIRST
        return super().process_image(image, do_convert_rgb=False, input_data_format=input_data_format, **kwargs)

    def preprocess(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None = None,
        **kwargs: Unpack[SetrImageProcessorKwargs],
    ) -> BatchFeature:
        r"""
        Args:
            images (`ImageInput`): A photo or a list of them: PIL images, arrays, tensors or paths. Grayscale, palette,
                RGBA, CMYK, 16-bit and floating-point photos are converted to RGB, unless `image_mean` is for another
                number of bands; EXIF rotation is applied to PIL images and paths. Of an animation the first frame
                counts.
            segmentation_maps (`ImageInput`, *optional*): A map of class ids for each image, of its size.
            kwargs: Any attribute of the processor, for this call.
        """
        with types_checked():
            return super().preprocess(images, segmentation_maps, **kwargs)

    def _preprocess_image_like_inputs(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None,
        do_convert_rgb: bool,
        input_data_format: ChannelDimension | None,
        do_reduce_labels: bool,
        do_split_image: bool,
        crop_size: SizeDict | None,
        stride: int,
        return_tensors: str | None,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        image_mean, rescale_factor = kwargs["image_mean"] if kwargs["do_normalize"] else None, kwargs["rescale_factor"]
        num_channels = len(image_mean) if isinstance(image_mean, (list, tuple)) else None
        by_type = kwargs["do_rescale"] and rescale_factor is None
        options = {"do_convert_rgb": do_convert_rgb, "input_data_format": input_data_format, "device": device}
        options["num_bands"] = num_bands_of(kwargs["do_normalize"], image_mean, kwargs["do_rescale"], rescale_factor)
        options["by_type"], kwargs["by_band"] = by_type, options["num_bands"] is not None
        from_8_bit = kwargs["do_rescale"] and not by_type and abs(rescale_factor * 255 - 1) < 0.01
        prepared = []
        for index, image in enumerate(self._prepare_images_structure(images)):
            with named(f"image {index}"):
                image = self.process_image(image, **options)
                check_size(*image.shape[-2:])
                check_intensities(image, from_8_bit)
                if num_channels not in (None, image.shape[0]):
                    raise ValueError(f"it has {image.shape[0]} channels, but image_mean has {num_channels}")
                if kwargs["do_resize"]:
                    check_enlarging(*image.shape[-2:], kwargs["size"])
                prepared.append(image)
        images = prepared
        data: dict[str, Any] = {}
        if segmentation_maps is not None:
            if do_split_image:
                raise ValueError(
                    "segmentation maps cannot be cut into windows: pass do_split_image=False for training, and "
                    "compare predictions with the original map in evaluation"
                )
            data["labels"] = self._prepare_labels(images, segmentation_maps, do_reduce_labels, **kwargs)
        if by_type:
            images = [self._resize_and_normalize([image], **self._rescaling_of(image, kwargs))[0] for image in images]
        else:
            images = self._resize_and_normalize(images, **kwargs)
        if do_split_image:
            data["pixel_windows"], data["patch_offsets"] = self._split(images, crop_size, stride)
        else:
            data["pixel_values"] = images
            self._check_stackable(images, return_tensors)
        return BatchFeature(data=data, tensor_type=return_tensors)

    def _rescaling_of(self, image: np.ndarray | torch.Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The settings for an image that is [`scaled_by_type`]: only 8-bit ones are still to be rescaled."""
        is_8_bit = image.dtype in (np.uint8, torch.uint8)
        return {**kwargs, "do_rescale": is_8_bit, "rescale_factor": 1 / 255}

    def _check_stackable(self, images: Sequence[np.ndarray | torch.Tensor], return_tensors: str | None) -> None:
        sizes = sorted({tuple(image.shape) for image in images})
        if return_tensors is not None and len(sizes) > 1:
            raise ValueError(
                f"images of the shapes {sizes} cannot be stacked: set a fixed size such as "
                "size={'height': 512, 'width': 512}, or do_split_image=True to cut them into windows"
            )

    def _prepare_labels(
        self,
        images: Sequence[np.ndarray | torch.Tensor],
        segmentation_maps: ImageInput,
        do_reduce_labels: bool,
        do_resize: bool,
        size: SizeDict,
        **kwargs: Any,
    ) -> list[torch.Tensor]:
        maps = self.fetch_images(segmentation_maps)
        is_batch = isinstance(maps, (list, tuple)) or (getattr(maps, "ndim", 2) == 3 and len(images) > 1)
        maps = [label_map_tensor(map_) for map_ in (maps if is_batch else [maps])]
        if len(maps) != len(images):
            raise ValueError(f"got {len(images)} images and {len(maps)} segmentation maps")
        labels = []
        for index, (image, map_) in enumerate(zip(images, maps)):
            if tuple(image.shape[-2:]) != tuple(map_.shape):
                raise ValueError(
                    f"segmentation map {index} is {map_.shape[0]}×{map_.shape[1]} pixels high and wide, but its image "
                    f"is {image.shape[-2]}×{image.shape[-1]}"
                )
            if do_reduce_labels:
                # 0 and 255 become 255, k becomes k − 1.
                map_ = torch.where((map_ == 0) | (map_ == IGNORED_LABEL), IGNORED_LABEL, map_ - 1)
            if do_resize:
                new_size = resized_size(*map_.shape, size)
                # float32 holds ids exactly up to 2^24, and resizing to the nearest pixel makes no new ones.
                map_ = F.interpolate(map_[None, None].float(), new_size, mode="nearest-exact")[0, 0].long()
            labels.append(map_)
        return labels

    def _split(
        self, images: Sequence[np.ndarray | torch.Tensor], crop_size: SizeDict, stride: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tensors = [torch.as_tensor(image) for image in images]
        offsets = []
        for index, image in enumerate(tensors):
            with named(f"image {index}"):
                check_windows(*image.shape[-2:], crop_size, stride)
            offsets.append(window_offsets(*image.shape[-2:], crop_size, stride))
        most = max(len(image_offsets) for image_offsets in offsets)
        first = tensors[0]
        windows = first.new_zeros((len(tensors), most, first.shape[0], crop_size.height, crop_size.width))
        patch_offsets = torch.zeros((len(tensors), most, 6), dtype=torch.int64, device=first.device)
        for index, (image, image_offsets) in enumerate(zip(tensors, offsets)):
            for number, (top, left, height, width) in enumerate(image_offsets):
                windows[index, number, :, :height, :width] = image[:, top : top + height, left : left + width]
                patch_offsets[index, number] = torch.tensor([top, left, height, width, *image.shape[-2:]])
        return windows, patch_offsets

    def post_process_semantic_segmentation(
        self,
        outputs: ModelOutput,
        target_sizes: list[tuple[int, int]] | None = None,
        return_segmentation_scores: bool = False,
        return_confidence: bool = False,
    ) -> list[torch.Tensor] | list[SemanticSegmentationPostProcessorOutput]:
        r"""Label maps from the model's output. Overlapping windows are averaged as logits at the size of the resized
        image; the result is resized bilinearly, corners not aligned, to the target size, where the best class wins. Of
        a binary model, pixels whose probability is above `threshold` are 1, the foreground, and the others 0.

        Args:
            outputs ([`SetrSemanticSegmenterOutput`]): Output of [`SetrForSemanticSegmentation`].
            target_sizes (`list[tuple[int, int]]`, *optional*): Height and width in pixels of each label map, usually
                those of the photo. By default those of the resized image for windows, else those of the logits.
            return_segmentation_scores (`bool`, defaults to `False`): Whether to return the resized logits as well.
            return_confidence (`bool`, defaults to `False`): Whether to return how sure the model is of each pixel's
                class: the largest probability in the softmax of the resized logits divided by `temperature`.

        Returns:
            A `torch.LongTensor` of shape `(height, width)` with class ids for each image; or, with scores or
            confidence, an output for each image with `segmentation`, and with `segmentation_scores` of shape
            `(num_labels, height, width)` or `confidence`, a `torch.FloatTensor` of shape `(height, width)`, 0 to 1.

        Raises:
            `ValueError`: there are more or fewer `target_sizes` than images, one of them is not a positive height and
                width, the batch is empty, logits are not finite, or the windows of an image are not a grid of rows and
                columns that covers it.
        """
        results = []
        for size, tiles in self.scores_in_tiles(outputs, target_sizes):
            device, num_labels = outputs.logits.device, outputs.logits.shape[-3]
            data = {}
            if return_segmentation_scores:
                data["segmentation_scores"] = torch.empty((num_labels, *size), device=device)
                tiles = kept(tiles, data["segmentation_scores"])
            if return_confidence:
                data["confidence"] = torch.empty(size, device=device)
                tiles = measured(tiles, data["confidence"], self.temperature)
            label_map = label_map_of(tiles, size, device, self.logit_threshold)
            data = {"segmentation": label_map, **data}
            results.append(SemanticSegmentationPostProcessorOutput(data=data) if len(data) > 1 else label_map)
        return results

    @property
    def logit_threshold(self) -> float:
        """`threshold` as a logit."""
        return torch.tensor(self.threshold, dtype=torch.float64).logit().item()

    def scores_in_tiles(
        self, outputs: ModelOutput, target_sizes: list[tuple[int, int]] | None = None
    ) -> Iterator[tuple[tuple[int, int], Iterator[ScoreTile]]]:
        """For each image, height and width in pixels of its label map, and the scores that it is read from, a tile at
        a time. Arguments and errors are those of `post_process_semantic_segmentation`.
        """
        logits, patch_offsets = outputs.logits, getattr(outputs, "patch_offsets", None)
        check_logits(logits, patch_offsets)
        if target_sizes is None:
            target_sizes = [None] * len(logits)
        if not isinstance(target_sizes, (list, tuple, np.ndarray, torch.Tensor)):
            raise ValueError(f"target_sizes must be a list of heights and widths, got {target_sizes!r}")
        if len(target_sizes) != len(logits):
            raise ValueError(f"got {len(target_sizes)} target sizes for a batch of {len(logits)} images")
        for index, (image_logits, target_size) in enumerate(zip(logits, target_sizes)):
            offsets = None if patch_offsets is None else valid_offsets(patch_offsets[index].tolist(), index)
            height, width = offsets[0][4:] if offsets else image_logits.shape[-2:]
            if target_size is not None:
                height, width = whole_sides(target_size, f"target_sizes[{index}]")
            image_logits = image_logits[: len(offsets)] if offsets else image_logits
            with named(f"patch_offsets of image {index}"):
                logits_and_grid = grid_of(image_logits, offsets, (height, width))
            yield (height, width), score_tiles(*logits_and_grid)


class SetrImageProcessor(SetrImageProcessorMixin, TorchvisionBackend):
    __doc__ = SetrImageProcessorMixin.__doc__

    def _resize_and_normalize(
        self,
        images: list[torch.Tensor],
        do_resize: bool,
        size: SizeDict,
        resample: PILImageResampling | tvF.InterpolationMode | int,
        antialias: bool,
        disable_grouping: bool | None = None,
        **kwargs: Any,
    ) -> list[torch.Tensor]:
        groups, indices = group_images_by_shape(images, disable_grouping=disable_grouping)
        processed = {}
        for shape, stacked in groups.items():
            if do_resize:
                new_size = resized_size(stacked.shape[-2], stacked.shape[-1], size)
                if antialias:
                    is_mode = isinstance(resample, tvF.InterpolationMode)
                    mode = resample if is_mode else pil_torch_interpolation_mapping[resample]
                    try:
                        stacked = tvF.resize(stacked, new_size, interpolation=mode, antialias=True)
                    except NotImplementedError as error:
                        raise ValueError(f"resample {resample!r} needs the PIL backend: {error}") from error
                else:
                    stacked = resize_without_antialias(stacked, new_size)
            processed[shape] = self.rescale_and_normalize(stacked, *(kwargs[name] for name in NORMALIZATION))
        return reorder_images(processed, indices)


class SetrImageProcessorPil(SetrImageProcessorMixin, PilBackend):
    __doc__ = SetrImageProcessorMixin.__doc__

    def _resize_and_normalize(
        self,
        images: list[np.ndarray],
        do_resize: bool,
        size: SizeDict,
        resample: PILImageResampling,
        antialias: bool,
        by_band: bool = False,
        **kwargs: Any,
    ) -> list[np.ndarray]:
        do_rescale, rescale_factor, do_normalize, image_mean, image_std = (kwargs[name] for name in NORMALIZATION)
        processed = []
        for image in images:
            if do_resize:
                new_size = resized_size(image.shape[-2], image.shape[-1], size)
                if antialias and by_band:
                    image = resize_each_band(image, new_size, resample)
                elif antialias:
                    channels = {"data_format": ChannelDimension.FIRST, "input_data_format": ChannelDimension.FIRST}
                    image = resize_with_pil(image, new_size, resample=resample, **channels)
                else:
                    image = resize_without_antialias(torch.from_numpy(image), new_size).numpy()
            if do_rescale:
                image = self.rescale(image, rescale_factor)
            if do_normalize:
                image = self.normalize(image, image_mean, image_std)
            processed.append(image)
        return processed


__all__ = ["SetrImageProcessor", "SetrImageProcessorPil"]
