"""Image processors of SETR, torchvision and PIL backends: photos in, windows out, label maps back from the logits."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
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

from .photos_setr import channels_first_rgb, pil_to_rgb, upright


IGNORED_LABEL = 255
# Class scores at image size are computed for as many classes at a time as stay below this count (128 MB in fp32).
MAX_SCORES_AT_ONCE = 2**25
NORMALIZATION = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")


class SetrImageProcessorKwargs(ImagesKwargs, total=False):
    r"""antialias (`bool`, *optional*, defaults to `self.antialias`): Whether resizing averages over the pixels it
    drops. The published models were trained and tested without, on OpenCV's bilinear resizing. do_reduce_labels
    (`bool`, *optional*, defaults to `self.do_reduce_labels`): Whether segmentation maps hold 0 for «other» and classes
    from 1: 0 becomes 255, which the loss ignores, and k becomes k − 1. do_split_image (`bool`, *optional*, defaults to
    `self.do_split_image`): Whether to cut each image into overlapping windows of `crop_size`, the paper's test
    protocol. stride (`int`, *optional*, defaults to `self.stride`): Distance in pixels between the starts of
    neighbouring windows; at most `crop_size`.
    """

    antialias: bool
    do_reduce_labels: bool
    do_split_image: bool
    stride: int


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
    pixels = images.int()
    if (height, width) == (2 * size[0], 2 * size[1]):
        # OpenCV averages 2×2 pixels when both sides are halved.
        rows = pixels[..., ::2, :] + pixels[..., 1::2, :]
        return ((rows[..., ::2] + rows[..., 1::2] + 2) >> 2).to(torch.uint8)
    left, right, weight = opencv_taps(width, size[1], images.device, drop_fraction=True)
    pixels = (pixels[..., left] * (2048 - weight) + pixels[..., right] * weight) >> 4
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


def window_offsets(height: int, width: int, crop_size: SizeDict, stride: int) -> list[tuple[int, int, int, int]]:
    """Top, left, height and width in pixels of the sliding windows over an image, row by row.

    Windows start every `stride` pixels; the last one of a row or column is shifted back into the image. Along a side
    that is shorter than the crop there is one window, as long as that side.
    """

    def starts(side: int, crop: int) -> list[int]:
        count = max(side - crop + stride - 1, 0) // stride + 1
        return [max(min(index * stride, side - crop), 0) for index in range(count)]

    return [
        (top, left, min(crop_size.height, height), min(crop_size.width, width))
        for top in starts(height, crop_size.height)
        for left in starts(width, crop_size.width)
    ]


def label_map_tensor(segmentation_map: Any) -> torch.Tensor:
    """A segmentation map (PIL image, array or tensor) as an int64 tensor of shape `(height, width)`."""
    if not isinstance(segmentation_map, torch.Tensor):
        segmentation_map = torch.from_numpy(np.array(segmentation_map, dtype=np.int64))
    labels = segmentation_map.to(torch.int64)
    if labels.ndim == 3 and 1 in (labels.shape[0], labels.shape[-1]):
        labels = labels.squeeze(0 if labels.shape[0] == 1 else -1)
    if labels.ndim != 2:
        raise ValueError(
            f"a segmentation map holds one class id per pixel and has the shape (height, width), got "
            f"{tuple(labels.shape)}; maps that encode classes as colours must be converted to ids first"
        )
    return labels


def resize_scores(scores: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Bilinear resizing of `(num_labels, height, width)`, corners not aligned."""
    if tuple(scores.shape[-2:]) == tuple(size):
        return scores
    return F.interpolate(scores[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def merge_windows(logits: torch.Tensor, offsets: list[list[int]]) -> torch.Tensor:
    """Logits of windows, averaged where windows overlap: `(num_labels, image_height, image_width)`.

    Args:
        logits (`torch.Tensor` of shape `(num_windows, num_labels, h, w)`): At the windows' size or a lower resolution.
        offsets: For each window top, left, height, width, image height and image width in pixels.
    """
    image_height, image_width = offsets[0][4:]
    merged = logits.new_zeros((logits.shape[1], image_height, image_width), dtype=torch.float32)
    counts = logits.new_zeros((image_height, image_width), dtype=torch.float32)
    for window_logits, (top, left, height, width, _, _) in zip(logits.float(), offsets):
        if window_logits.shape[-2] < height or window_logits.shape[-1] < width:
            window_logits = resize_scores(window_logits, (height, width))
        merged[:, top : top + height, left : left + width] += window_logits[:, :height, :width]
        counts[top : top + height, left : left + width] += 1
    return merged.div_(counts)


class SetrImageProcessorMixin:
    """Image processor of SETR. By default each image becomes one square `pixel_values`. With `do_split_image=True` it
    is resized, its aspect ratio kept, and cut into overlapping windows, which is the paper's test protocol;
    `post_process_semantic_segmentation` puts the logits of the windows together again.

    Returns a `BatchFeature` with

    - `pixel_values` of shape `(batch_size, 3, height, width)`, and `labels` of shape `(batch_size, height, width)` if
      segmentation maps were given; or
    - `pixel_windows` of shape `(batch_size, num_windows, 3, crop_height, crop_width)` and `patch_offsets` of shape
      `(batch_size, num_windows, 6)`: top, left, height and width of each window and height and width of the resized
      image, in pixels. Images with fewer windows than others are padded with zeros in both.

    Raises:
        `ValueError`: `stride` exceeds `crop_size`, a segmentation map differs in size from its image or is not a map
        of ids, or images of several sizes are to be stacked.

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
    rescale_factor = 1 / 255
    antialias = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_reduce_labels = False
    do_split_image = False

    def __init__(self, **kwargs: Unpack[SetrImageProcessorKwargs]):
        super().__init__(**kwargs)
        self._check_windows(self.do_split_image, self.crop_size, self.stride)

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

    def _check_windows(self, do_split_image: bool, crop_size: SizeDict | None, stride: int | None) -> None:
        if not do_split_image:
            return
        if not (crop_size and crop_size.height and crop_size.width):
            raise ValueError(f"do_split_image needs a crop_size with height and width, got {crop_size}")
        if not stride or stride < 1 or stride > min(crop_size.height, crop_size.width):
            raise ValueError(
                f"stride must be between 1 and the crop size {crop_size.height}×{crop_size.width}, or windows would "
                f"leave gaps; got {stride}"
            )

    def _validate_preprocess_kwargs(self, **kwargs: Any) -> None:
        super()._validate_preprocess_kwargs(**kwargs)
        self._check_windows(kwargs["do_split_image"], kwargs["crop_size"], kwargs["stride"])
        # Pillow's resampling filters have numbers as values, torchvision's have names.
        resample = getattr(kwargs["resample"], "value", kwargs["resample"])
        is_bilinear = resample in (PILImageResampling.BILINEAR, "bilinear")
        if kwargs["do_resize"] and not kwargs["antialias"] and not is_bilinear:
            raise ValueError(f"resizing without antialias is bilinear, but resample is {kwargs['resample']!r}")
        for name in ("do_center_crop", "do_pad"):
            if kwargs.get(name):
                raise ValueError(f"{type(self).__name__} has no {name}")

    def fetch_images(self, images: Any) -> Any:
        """Opens local paths at their full bit depth; the rest, such as web addresses, is left to Transformers."""
        if isinstance(images, (list, tuple)):
            return [self.fetch_images(image) for image in images]
        if isinstance(images, str) and not images.startswith(("http://", "https://")):
            return Image.open(images)
        return super().fetch_images(images)

    def _prepare_images_structure(self, images: ImageInput, expected_ndims: int = 3) -> ImageInput:
        """As in Transformers, but arrays and tensors `(height, width)` are taken for grayscale photos."""

        def with_channels(image: Any) -> Any:
            if isinstance(image, (list, tuple)):
                return [with_channels(item) for item in image]
            return image[None] if getattr(image, "ndim", 3) == 2 else image

        return super()._prepare_images_structure(with_channels(images), expected_ndims)

    def process_image(
        self,
        image: Image.Image | np.ndarray | torch.Tensor,
        do_convert_rgb: bool | None = None,
        input_data_format: ChannelDimension | str | None = None,
        num_channels: int = 3,
        **kwargs: Any,
    ) -> np.ndarray | torch.Tensor:
        """A photo of any kind to a channels-first array or tensor, upright and, if asked for, RGB. Arrays that have as
        many channels as will be normalized, `num_channels`, are left alone if that is not 3.
        """
        if isinstance(image, Image.Image):
            image = upright(image)
            image = pil_to_rgb(image) if do_convert_rgb else image
        else:
            if image.shape[0] == 1:
                input_data_format = ChannelDimension.FIRST
            if input_data_format is None:
                input_data_format = infer_channel_dimension_format(image, num_channels=(1, 3, 4))
            channel_axis = 0 if input_data_format == ChannelDimension.FIRST else -1
            if do_convert_rgb and (image.shape[channel_axis] != num_channels or num_channels == 3):
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
                RGBA, CMYK and 16-bit photos are converted to RGB; EXIF rotation is applied to PIL images and paths.
            segmentation_maps (`ImageInput`, *optional*): A map of class ids for each image, of its size.
            kwargs: Any attribute of the processor, for this call.
        """
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
        image_mean = kwargs["image_mean"]
        images = self._prepare_image_like_inputs(
            images=images,
            do_convert_rgb=do_convert_rgb,
            input_data_format=input_data_format,
            num_channels=len(image_mean) if isinstance(image_mean, (list, tuple)) else 3,
            device=device,
        )
        data: dict[str, Any] = {}
        if segmentation_maps is not None:
            if do_split_image:
                raise ValueError(
                    "segmentation maps cannot be cut into windows: pass do_split_image=False for training, and "
                    "compare predictions with the original map in evaluation"
                )
            data["labels"] = self._prepare_labels(images, segmentation_maps, do_reduce_labels, **kwargs)
        images = self._resize_and_normalize(images, **kwargs)
        if do_split_image:
            data["pixel_windows"], data["patch_offsets"] = self._split(images, crop_size, stride)
        else:
            data["pixel_values"] = images
            self._check_stackable(images, return_tensors)
        return BatchFeature(data=data, tensor_type=return_tensors)

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
        offsets = [window_offsets(image.shape[-2], image.shape[-1], crop_size, stride) for image in tensors]
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
    ) -> list[torch.Tensor] | list[SemanticSegmentationPostProcessorOutput]:
        r"""Label maps from the model's output. Overlapping windows are averaged as logits at the size of the resized
        image; the result is resized bilinearly, corners not aligned, to the target size, where the best class wins.

        Args:
            outputs ([`SetrSemanticSegmenterOutput`]): Output of [`SetrForSemanticSegmentation`].
            target_sizes (`list[tuple[int, int]]`, *optional*): Height and width in pixels of each label map, usually
                those of the photo. By default those of the resized image for windows, else those of the logits.
            return_segmentation_scores (`bool`, defaults to `False`): Whether to return the resized logits as well.

        Returns:
            A `torch.LongTensor` of shape `(height, width)` with class ids for each image; or, with scores, an output
            with `segmentation` and `segmentation_scores` of shape `(num_labels, height, width)` for each image.

        Raises:
            `ValueError`: there are more or fewer `target_sizes` than images.
        """
        logits, patch_offsets = outputs.logits, getattr(outputs, "patch_offsets", None)
        if target_sizes is None:
            target_sizes = [None] * len(logits)
        if len(target_sizes) != len(logits):
            raise ValueError(f"got {len(target_sizes)} target sizes for a batch of {len(logits)} images")

        results = []
        for image_logits, target_size, index in zip(logits, target_sizes, range(len(logits))):
            offsets = None if patch_offsets is None else [row for row in patch_offsets[index].tolist() if row[2] > 0]
            size = offsets[0][4:] if offsets else image_logits.shape[-2:]
            if target_size is not None:
                size = [int(side) for side in target_size]
            scores_of = partial(self._scores, image_logits, offsets, size)
            if return_segmentation_scores:
                scores = scores_of(slice(None))
                data = {"segmentation": scores.argmax(dim=0), "segmentation_scores": scores}
                results.append(SemanticSegmentationPostProcessorOutput(data=data))
            else:
                chunk_size = max(1, MAX_SCORES_AT_ONCE // (size[0] * size[1]))
                results.append(self._best_labels(scores_of, image_logits.shape[-3], chunk_size))
        return results

    @staticmethod
    def _scores(logits: torch.Tensor, offsets: list[list] | None, size: Sequence[int], classes: slice) -> torch.Tensor:
        if offsets is None:
            return resize_scores(logits[classes].float(), size)
        return resize_scores(merge_windows(logits[: len(offsets), classes], offsets), size)

    @staticmethod
    def _best_labels(scores_of: Callable[[slice], torch.Tensor], num_labels: int, chunk_size: int) -> torch.Tensor:
        """The argmax over classes, with the scores of `chunk_size` classes in memory; the first of equals wins."""
        best_scores, best_labels = scores_of(slice(0, chunk_size)).max(dim=0)
        for start in range(chunk_size, num_labels, chunk_size):
            scores, labels = scores_of(slice(start, start + chunk_size)).max(dim=0)
            better = scores > best_scores
            best_scores = torch.where(better, scores, best_scores)
            best_labels = torch.where(better, labels + start, best_labels)
        return best_labels


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
        mode = resample if isinstance(resample, tvF.InterpolationMode) else pil_torch_interpolation_mapping[resample]
        groups, indices = group_images_by_shape(images, disable_grouping=disable_grouping)
        processed = {}
        for shape, stacked in groups.items():
            if do_resize:
                new_size = resized_size(stacked.shape[-2], stacked.shape[-1], size)
                if antialias:
                    stacked = tvF.resize(stacked, new_size, interpolation=mode, antialias=True)
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
        **kwargs: Any,
    ) -> list[np.ndarray]:
        do_rescale, rescale_factor, do_normalize, image_mean, image_std = (kwargs[name] for name in NORMALIZATION)
        processed = []
        for image in images:
            if do_resize:
                new_size = resized_size(image.shape[-2], image.shape[-1], size)
                if antialias:
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
