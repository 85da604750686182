"""The paper's test protocol: sliding windows at one scale, or at several scales with mirror images."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, overload

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from PIL import Image
from transformers import BaseImageProcessor, BatchFeature, PreTrainedModel

from ..errors import SetrError
from ..model.bands_setr import bands_last, bands_of_pil
from ..model.confidence_setr import measured
from ..model.image_processing_setr import check_logits
from ..model.label_maps_setr import ScoreTile, grid_of, label_map_of, mean_probability_tiles, score_tiles
from ..model.modeling_setr import SetrSemanticSegmenterOutput
from ..model.photos_setr import Photo, decoded, size_of_photo, upright
from .arguments import WINDOW_BATCH_SIZE
from .photos import upright_rgb


def check_multi_scale(processor: BaseImageProcessor, scales: tuple[float, ...]) -> None:
    """Raises a [`SetrError`] if the processor does not cut windows, or a ratio is not positive."""
    if not processor.do_split_image:
        raise SetrError(
            "several scales need sliding windows, but this model's image processor resizes each photo to one size: "
            "set do_split_image=True, crop_size and stride in its preprocessor_config.json"
        )
    ratios = scales if isinstance(scales, (list, tuple)) else []
    if not ratios or not all(isinstance(ratio, (int, float)) and 0 < ratio < math.inf for ratio in ratios):
        raise SetrError(f"scales must be positive ratios such as (0.5, 1.0, 1.5), got {scales}")


@contextmanager
def users_mistakes() -> Iterator[None]:
    """Makes a [`SetrError`] of what image processors refuse: the photo, the settings or the weights are at fault."""
    try:
        yield
    except ValueError as error:
        raise SetrError(error) from error


@contextmanager
def full_memory_named(photos: list[Any]) -> Iterator[None]:
    """Makes a [`SetrError`] of the errors of a full memory, of a GPU or the computer."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not should_reduce_batch_size(error):
            raise
        height, width = max(map(size_of_photo, photos), key=math.prod)
        raise SetrError(
            f"the memory does not suffice for photos of up to {height}×{width} pixels: use a smaller "
            "window_batch_size (--window-batch-size), or smaller photos"
        ) from error


def preprocessed(processor: BaseImageProcessor, images: Any, **settings: Any) -> BatchFeature:
    with users_mistakes():
        return processor(images, return_tensors="pt", **settings)


def inputs_of(processor: BaseImageProcessor, photos: Sequence[Photo], **settings: Any) -> BatchFeature:
    """What the processor makes of photos that are [`checked_photo`]s."""
    # Whether arrays have the bands first or last need not be guessed; PIL images are what they should be already.
    known = {"do_convert_rgb": False} if processor.num_bands is None else {"input_data_format": "channels_last"}
    return preprocessed(processor, photos, **known, **settings)


def short_sides(processor: BaseImageProcessor, scales: tuple[float, ...]) -> Counter[int]:
    """How often each short side in pixels, at least the crop, occurs among the views; equal ones are computed once."""
    base = processor.size.shortest_edge or min(processor.size.height, processor.size.width)
    crop = min(processor.crop_size.height, processor.crop_size.width)
    return Counter(max(crop, int(scale * base)) for scale in scales)


def window_logits(model: PreTrainedModel, views: list[BatchFeature], window_batch_size: int) -> Iterator[torch.Tensor]:
    """Logits of the windows of each view, `(1, num_windows, num_labels, h, w)`, one view after the other.

    The model runs on the windows of all views together, at most `window_batch_size` at a time; windows of different
    sizes, which occur only in views smaller than the crop, run separately. Each view holds `pixel_windows` and
    `patch_offsets` of one image.
    """
    windows = torch.cat([view["pixel_windows"] for view in views], dim=1)
    offsets = torch.cat([view["patch_offsets"] for view in views], dim=1)
    counts = [view["patch_offsets"].shape[1] for view in views]
    sizes = offsets[0, :, 2:4].tolist()
    computed: list[torch.Tensor] = []
    start = 0
    while start < len(sizes):
        stop = start + 1
        while stop < min(start + window_batch_size, len(sizes)) and sizes[stop] == sizes[start]:
            stop += 1
        height, width = sizes[start]
        # Windows that their images fill are all that a compiled model takes.
        chunk = windows[:, start:stop, :, :height, :width].to(model.device)
        chunk_offsets = offsets[:, start:stop].to(model.device)
        with torch.inference_mode():
            computed.extend(model(pixel_windows=chunk, patch_offsets=chunk_offsets).logits[0])
        while counts and len(computed) >= counts[0]:
            yield torch.stack(computed[: counts[0]])[None]
            computed = computed[counts.pop(0) :]
        start = stop


def single_scale_tiles(
    model: PreTrainedModel, processor: BaseImageProcessor, photos: Sequence[Photo], window_batch_size: int
) -> Iterator[Iterator[ScoreTile]]:
    """For each photo tiles of the scores that the processor, the model and the processor's post-processing give."""
    sizes = [size_of_photo(photo) for photo in photos]
    if not processor.do_split_image:
        inputs = inputs_of(processor, photos).to(model.device)
        with torch.inference_mode():
            outputs = model(**inputs)
        with users_mistakes():
            yield from (tiles for _, tiles in processor.scores_in_tiles(outputs, sizes))
        return
    views = [inputs_of(processor, [photo]) for photo in photos]
    for view, size, logits in zip(views, sizes, window_logits(model, views, window_batch_size)):
        outputs = SetrSemanticSegmenterOutput(logits=logits, patch_offsets=view["patch_offsets"])
        with users_mistakes():
            yield from (tiles for _, tiles in processor.scores_in_tiles(outputs, [size]))


def multi_scale_tiles(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    photo: Photo,
    scales: tuple[float, ...],
    window_batch_size: int,
) -> Iterator[ScoreTile]:
    """The class probabilities of a photo, averaged over all scales and mirror images, tile by tile.

    In every view the short side is `scale` × the processor's, but not less than the crop, and the long side follows
    without a limit; overlapping windows are averaged as logits and resized to the photo's size before the softmax.
    """
    views, mirrored, weights = [], [], []
    as_it_is = {"do_resize": False, "do_rescale": False, "do_normalize": False, "do_convert_rgb": False}
    for short_side, weight in short_sides(processor, scales).items():
        view_size = {"shortest_edge": short_side}
        inputs = inputs_of(processor, [photo], size=view_size, do_split_image=False)
        image = inputs["pixel_values"][0]
        for mirror in (False, True):
            view = image.flip(-1) if mirror else image
            views.append(preprocessed(processor, view, input_data_format="channels_first", **as_it_is))
            mirrored.append(mirror)
            weights.append(weight)
    size = size_of_photo(photo)
    tiles = []
    for view, mirror, logits in zip(views, mirrored, window_logits(model, views, window_batch_size)):
        with users_mistakes():
            check_logits(logits, view["patch_offsets"])
            tiles.append(score_tiles(*grid_of(logits[0], view["patch_offsets"][0].tolist(), size, mirror)))
    return mean_probability_tiles(tiles, weights)


def photo_tiles(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    photos: Sequence[Photo],
    scales: tuple[float, ...] | None,
    window_batch_size: int,
) -> Iterator[Iterator[ScoreTile]]:
    """For each photo, upright and as the processor takes it, see [`checked_photo`], the tiles of its scores at its
    size: logits, or probabilities if there are `scales`. Arguments and errors are those of [`segment`].
    """
    if scales is None:
        yield from single_scale_tiles(model, processor, photos, window_batch_size)
        return
    check_multi_scale(processor, scales)
    for photo in photos:
        yield multi_scale_tiles(model, processor, photo, scales, window_batch_size)


def checked_photo(photo: Any, index: int, processor: BaseImageProcessor) -> Photo:
    """A photo as the processor takes it: an upright PIL image, RGB if it wants that; or an array `(height, width,
    bands)`.
    """
    if not isinstance(photo, Image.Image if processor.num_bands is None else Image.Image | np.ndarray):
        raise SetrError(
            f"photo {index} is of the type {type(photo).__name__}: segment takes PIL images, which read_photo and "
            "PIL.Image.fromarray make, and arrays if the model takes other bands than 8-bit RGB"
        )
    try:
        if isinstance(photo, np.ndarray):
            return bands_last(photo, processor.num_bands)
        if processor.num_bands is not None:
            return bands_of_pil(decoded(photo), processor.num_bands)
        return (upright_rgb if processor.do_convert_rgb else upright)(decoded(photo))
    except ValueError as error:
        raise SetrError(f"photo {index}: {error}") from error


@overload
def segment(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    photos: Sequence[Photo],
    scales: tuple[float, ...] | None = None,
    window_batch_size: int = WINDOW_BATCH_SIZE,
    return_confidence: Literal[False] = False,
) -> list[torch.Tensor]: ...


@overload
def segment(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    photos: Sequence[Photo],
    scales: tuple[float, ...] | None = None,
    window_batch_size: int = WINDOW_BATCH_SIZE,
    *,
    return_confidence: Literal[True],
) -> list[tuple[torch.Tensor, torch.Tensor]]: ...


def segment(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    photos: Sequence[Photo],
    scales: tuple[float, ...] | None = None,
    window_batch_size: int = WINDOW_BATCH_SIZE,
    return_confidence: bool = False,
) -> list[torch.Tensor] | list[tuple[torch.Tensor, torch.Tensor]]:
    """Segments photos by the paper's test protocol.

    Args:
        model ([`SetrForSemanticSegmentation`]): In evaluation mode, on any device.
        processor ([`SetrImageProcessor`]): With `do_split_image=True` for the paper's protocol.
        photos (`list[PIL.Image.Image]` or `list[np.ndarray]`): Of any size and mode; their EXIF orientation is
            applied. Of models of other bands than 8-bit RGB, see [`SetrImageProcessor`], also arrays `(height, width,
            bands)`.
        scales (`tuple[float, ...]`, *optional*): Ratios of the multi-scale protocol, each with its mirror image, see
            [`published_scales`]. By default one scale, the processor's `size`, without a mirror image: then the label
            map is that of `pipeline("image-segmentation")`.
        window_batch_size (`int`, *optional*, defaults to 8): How many windows the model takes at a time, of all
            photos or of all scales of a photo.
        return_confidence (`bool`, *optional*, defaults to `False`): Whether to return how sure the model is of each
            pixel's class: the largest probability in the softmax of its scores divided by the processor's
            `temperature` T. With `scales` the averaged probabilities p are sharpened to p^(1/T), which sum to 1 again.

    Returns:
        `list[torch.LongTensor]`: The label map of each photo, class ids of shape `(height, width)` at the size of the
        upright photo, on the CPU; or pairs of it and the confidence, a `torch.FloatTensor` of the same shape, 0 to 1.

    Raises:
        [`SetrError`]: `scales` is given although the processor does not cut windows, a ratio is not positive,
            `window_batch_size` is less than 1, a photo is not a PIL image or an array, is empty, has another number of
            bands than the model takes, would be enlarged beyond all
            measure or fills the memory, or the logits are not finite.

    Example:

    ```python
    >>> from PIL import Image
    >>> from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor, segment

    >>> config = SetrConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, image_size=64, num_labels=5)
    >>> model = SetrForSemanticSegmentation(config).eval()
    >>> processor = SetrImageProcessor(do_split_image=True, size={"shortest_edge": 64}, crop_size=64, stride=43)
    >>> label_map = segment(model, processor, [Image.new("RGB", (200, 100))])[0]
    >>> label_map.shape
    torch.Size([100, 200])
    ```
    """
    if not isinstance(window_batch_size, int) or window_batch_size < 1:
        raise SetrError(f"window_batch_size must be at least 1, got {window_batch_size!r}")
    photos = [checked_photo(photo, index, processor) for index, photo in enumerate(photos)]
    if not photos:
        return []
    results: list[Any] = []
    threshold = processor.logit_threshold if scales is None else processor.threshold
    with full_memory_named(photos):
        for photo, tiles in zip(photos, photo_tiles(model, processor, photos, scales, window_batch_size)):
            size = size_of_photo(photo)
            if not return_confidence:
                results.append(label_map_of(tiles, size, model.device, threshold).cpu())
                continue
            confidence = torch.empty(size, device=model.device)
            tiles = measured(tiles, confidence, processor.temperature, are_probabilities=scales is not None)
            results.append((label_map_of(tiles, size, model.device, threshold).cpu(), confidence.cpu()))
    return results
