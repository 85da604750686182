"""A convolution of bilinearly upsampled maps, its products computed before the upsampling.

Upsampling treats all channels alike, and a tap of the kernel treats all pixels alike, so the two may change places:
the convolution is the sum, over its taps, of the products of the tap's weights and the maps, upsampled and shifted.
At twice the size that is a quarter of the multiplications. Upsampling and shift are a narrow band matrix for the rows
and one for the columns, in which the edges and the zero padding are as exact as the rest.
"""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .interpolation_setr import interpolation_matrix, slices, source_range


# Products in a band of rows and columns in a tile: few enough for the caches of a CPU and for narrow matrices.
BAND_PRODUCTS = 2**21
TILE_COLUMNS = 32


def upsample(maps: torch.Tensor, scale_factor: int, align_corners: bool = False) -> torch.Tensor:
    """Bilinear upsampling of `(batch_size, channels, height, width)` by a whole factor."""
    if scale_factor == 1:
        return maps
    size = (maps.shape[-2] * scale_factor, maps.shape[-1] * scale_factor)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


class AxisTile(NamedTuple):
    """Samples `place` of an upsampled axis, the old ones `source` that bear on each other with them, and the weights
    `(new length, old length * kernel_size)` by which the products of these with each tap of the kernel are added.
    """

    place: slice
    source: slice
    weights: torch.Tensor


class Axis:
    """An axis of `length` samples, upsampled and shifted by each tap of a kernel, to be cut into tiles."""

    def __init__(self, length: int, kernel_size: int, scale_factor: int, align_corners: bool, like: torch.Tensor):
        self.length, self.new_length = length, length * scale_factor
        self.padding, self.align_corners = kernel_size // 2, align_corners
        matrix = interpolation_matrix(length, self.new_length, like.dtype, like.device, align_corners)
        # What lies beyond the edges is 0, unlike the samples that upsampling has there.
        self.weights = F.pad(matrix, (0, 0, self.padding, self.padding)).unfold(0, kernel_size, 1)

    def sources(self, place: slice) -> slice:
        """The old samples that bear on these new ones."""
        start, stop = max(place.start - self.padding, 0), min(place.stop + self.padding, self.new_length)
        return slice(*source_range(start, stop, self.length, self.new_length, self.align_corners))

    def tile(self, place: slice, source: slice) -> AxisTile:
        return AxisTile(place, source, self.weights[place, source].flatten(1))

    def tiles(self, length: int) -> list[AxisTile]:
        """The new axis in tiles of a length, of which neighbours share old samples."""
        return [self.tile(place, self.sources(place)) for place in slices(0, self.new_length, length)]

    def source_tiles(self, length: int) -> list[AxisTile]:
        """The old axis in tiles of a length, of which neighbours share new samples."""
        reach = [self.sources(slice(place, place + 1)) for place in range(self.new_length)]
        tiles = []
        for source in slices(0, self.length, length):
            places = [i for i, own in enumerate(reach) if own.start < source.stop and source.start < own.stop]
            tiles.append(self.tile(slice(places[0], places[-1] + 1), source))
        return tiles


class Bands:
    """The maps cut into bands of rows, and the weights in the order in which a band is computed.

    Taps above each other come first in its products and taps side by side last, so that one matrix mixes the rows and
    then one for each tile the columns, without a copy.
    """

    def __init__(self, maps: torch.Tensor, weight: torch.Tensor, scale_factor: int, align_corners: bool):
        self.out_channels, channels, self.kernel_size, _ = weight.shape
        self.rows, self.columns = (
            Axis(length, self.kernel_size, scale_factor, align_corners, maps) for length in maps.shape[-2:]
        )
        self.new_size = (self.rows.new_length, self.columns.new_length)
        self.scale_factor = scale_factor
        self.old_rows = max(BAND_PRODUCTS // (self.kernel_size**2 * self.out_channels * self.columns.length), 4)
        self.taps = weight.permute(2, 1, 3, 0).reshape(self.kernel_size, channels, -1)

    @cached_property
    def tiles(self) -> tuple[list[AxisTile], list[AxisTile]]:
        """The bands of the result, and the tiles of its columns."""
        return self.rows.tiles(self.old_rows * self.scale_factor), self.columns.tiles(TILE_COLUMNS)

    @cached_property
    def source_tiles(self) -> tuple[list[AxisTile], list[AxisTile]]:
        """The bands of the maps, and the tiles of their columns."""
        return self.rows.source_tiles(self.old_rows), self.columns.source_tiles(TILE_COLUMNS)

    @cached_property
    def slot_weights(self) -> list[torch.Tensor]:
        """For each band of the result the weights `(new rows, kernel_size, slots)` of the products with each tap, of
        which there are slots for as many rows as any band needs. A row takes the slot of its number modulo theirs.
        """
        bands, _ = self.tiles
        num_slots = max(band.source.stop - band.source.start for band in bands)
        result = []
        for band in bands:
            weights = band.weights.new_zeros(len(band.weights), self.kernel_size, num_slots)
            slots = torch.arange(band.source.start, band.source.stop) % num_slots
            weights[:, :, slots] = band.weights.unflatten(1, (-1, self.kernel_size)).transpose(1, 2)
            result.append(weights)
        return result

    def products_of(self, tile: AxisTile) -> slice:
        """Where the products of the old columns of a tile are among those of all columns."""
        return slice(tile.source.start * self.kernel_size, tile.source.stop * self.kernel_size)

    def convolve(self, image: torch.Tensor, bias: torch.Tensor | None) -> Iterator[tuple[slice, torch.Tensor]]:
        """The bands of the result for an image of shape `(channels, height, width)`: their rows, and their values
        `(rows, columns, out_channels)`, which the next band overwrites.
        """
        pixels = image.permute(1, 2, 0)
        bands, columns = self.tiles
        new_rows, num_slots = max(map(len, self.slot_weights)), self.slot_weights[0].shape[2]
        # The same memory for all bands: it stays in the caches, and the system need not clear new memory. The slots
        # that the first and last band do not use have weights of 0, by which no more than numbers may be multiplied.
        products = pixels.new_zeros(self.kernel_size, num_slots, self.columns.length, self.taps.shape[2])
        mixed = pixels.new_empty(new_rows, self.columns.length * self.kernel_size, self.out_channels)
        result = pixels.new_empty(new_rows, self.columns.new_length, self.out_channels)
        computed = 0
        for band, weights in zip(bands, self.slot_weights):
            while computed < band.source.stop:
                slot = computed % num_slots
                count = min(band.source.stop - computed, num_slots - slot)
                rows = pixels[computed : computed + count].flatten(0, 1)
                for tap_products, taps in zip(products, self.taps):
                    torch.mm(rows, taps, out=tap_products[slot : slot + count].flatten(0, 1))
                computed += count
            band_mixed, band_result = mixed[: len(weights)], result[: len(weights)]
            torch.mm(weights.flatten(1), products.flatten(0, 1).flatten(1), out=band_mixed.flatten(1))
            for tile in columns:
                band_result[:, tile.place] = torch.matmul(tile.weights, band_mixed[:, self.products_of(tile)])
            yield band.place, band_result if bias is None else band_result.add_(bias)

    def backpropagate(self, image: torch.Tensor, gradient: torch.Tensor, taps_gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of an image, from that of its result, `(out_channels, rows, columns)`. That of the taps is
        added to `taps_gradient`.
        """
        pixels, gradient = image.permute(1, 2, 0), gradient.permute(1, 2, 0)
        pixels_gradient = torch.zeros_like(pixels, dtype=taps_gradient.dtype, memory_format=torch.contiguous_format)
        bands, columns = self.source_tiles
        for band in bands:
            mixed = gradient.new_empty(len(band.weights), self.columns.length * self.kernel_size, self.out_channels)
            for tile in columns:
                mixed[:, self.products_of(tile)] = torch.matmul(tile.weights.T, gradient[band.place, tile.place])
            # Products of a tap come together here, for matrices as large as may be.
            weights = band.weights.unflatten(1, (-1, self.kernel_size)).permute(2, 1, 0).flatten(0, 1)
            products = torch.mm(weights, mixed.flatten(1)).view(self.kernel_size, -1, self.taps.shape[2])
            source, source_gradient = (tensor[band.source].flatten(0, 1) for tensor in (pixels, pixels_gradient))
            for tap_products, taps, tap_gradient in zip(products, self.taps, taps_gradient):
                source_gradient += torch.mm(tap_products, taps.T)
                tap_gradient += torch.mm(source.T, tap_products)
        return pixels_gradient.permute(2, 0, 1)


# Two operators of their own, which fake tensors need not look into; the name is one for each copy of this file. The
# weight is flat, `(out_channels, channels * kernel_size**2)`.
LIBRARY = __name__.replace(".", "_")


def bands_of(maps: torch.Tensor, weight: torch.Tensor, scale_factor: int, align_corners: bool) -> Bands:
    kernel_size = math.isqrt(weight.shape[1] // maps.shape[1])
    return Bands(maps, weight.unflatten(1, (-1, kernel_size, kernel_size)), scale_factor, align_corners)


def empty_result(maps: torch.Tensor, num_channels: int, scale_factor: int) -> torch.Tensor:
    height, width = (side * scale_factor for side in maps.shape[-2:])
    size = (len(maps), num_channels, height, width)
    return torch.empty(size, dtype=maps.dtype, device=maps.device, memory_format=torch.channels_last)


@torch.library.custom_op(f"{LIBRARY}::convolve", mutates_args=())
def convolve(
    maps: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale_factor: int,
    align_corners: bool,
    rectify: bool,
    classifier: torch.Tensor | None,
    classifier_bias: torch.Tensor | None,
) -> torch.Tensor:
    """The convolution, if wanted its ReLU, and if there is a 1×1 `classifier` `(num_labels, out_channels)`, what that
    makes of it: no more than a band of what precedes the result is held.
    """
    bands = bands_of(maps, weight, scale_factor, align_corners)
    result = empty_result(maps, len(weight if classifier is None else classifier), scale_factor)
    for image, image_result in zip(maps, result.permute(0, 2, 3, 1)):
        for rows, band in bands.convolve(image, bias):
            if rectify:
                band.relu_()
            image_result[rows] = band if classifier is None else F.linear(band, classifier, classifier_bias)
    return result


@convolve.register_fake
def _(maps, weight, bias, scale_factor, align_corners, rectify, classifier, classifier_bias):  # type: ignore
    return empty_result(maps, len(weight if classifier is None else classifier), scale_factor)


@torch.library.custom_op(f"{LIBRARY}::convolve_backward", mutates_args=())
def convolve_backward(
    maps: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, scale_factor: int, align_corners: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of the maps and of the weight."""
    bands = bands_of(maps, weight, scale_factor, align_corners)
    maps_gradient = torch.empty_like(maps)
    taps_gradient = torch.zeros_like(bands.taps, dtype=torch.promote_types(maps.dtype, torch.float32))
    for image, image_gradient, own in zip(maps, maps_gradient, gradient):
        image_gradient.copy_(bands.backpropagate(image, own, taps_gradient))
    weight_gradient = taps_gradient.unflatten(2, (bands.kernel_size, -1)).permute(3, 1, 0, 2).flatten(1)
    return maps_gradient, weight_gradient.to(weight.dtype)


@convolve_backward.register_fake
def _(maps, weight, gradient, scale_factor, align_corners):  # type: ignore
    return torch.empty_like(maps), torch.empty_like(weight)


def keep_maps(ctx, inputs, output):  # type: ignore
    maps, weight, _, *ctx.options = inputs[:5]
    # Nothing of the upsampled size.
    ctx.save_for_backward(maps, weight)


@once_differentiable
def gradients_of_inputs(ctx, gradient):  # type: ignore
    bias_gradient = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
    return *convolve_backward(*ctx.saved_tensors, gradient, *ctx.options), bias_gradient, *[None] * 5


convolve.register_autograd(gradients_of_inputs, setup_context=keep_maps)


def in_autocast(maps: torch.Tensor, *others: torch.Tensor | None) -> Iterator[torch.Tensor | None]:
    """Tensors in the precision of autocast, if it is on."""
    # Tensors without data have no autocast, and may not be asked for it.
    is_on = maps.device.type != "meta" and torch.is_autocast_enabled(maps.device.type)
    dtype = torch.get_autocast_dtype(maps.device.type) if is_on else None
    for tensor in (maps, *others):
        yield tensor if tensor is None or dtype is None else tensor.to(dtype)


def is_ours(maps: torch.Tensor) -> bool:
    """Whether convolutions of these maps are computed here. Other devices than a CPU, and graphs that are compiled or
    exported, have their own ways.
    """
    return maps.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def is_banded(maps: torch.Tensor, weight: torch.Tensor, scale_factor: int) -> bool:
    """Whether a convolution is computed by [`Bands`]."""
    return is_ours(maps) and scale_factor > 1 and weight.shape[-1] > 1


def upsampled_convolution(
    maps: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale_factor: int,
    align_corners: bool = False,
) -> torch.Tensor:
    """The convolution, with as much zero padding as keeps the size, of maps upsampled bilinearly by a whole factor.

    Args:
        maps (`torch.FloatTensor` of shape `(batch_size, channels, height, width)`): Before the upsampling.
        weight (`torch.FloatTensor` of shape `(out_channels, channels, kernel_size, kernel_size)`): Of an odd size.
    """
    maps, weight, bias = in_autocast(maps, weight, bias)
    kernel_size = weight.shape[-1]
    if is_banded(maps, weight, scale_factor):
        with torch.autocast("cpu", enabled=False):
            return convolve(maps, weight.flatten(1), bias, scale_factor, align_corners, False, None, None)
    if kernel_size > 1:
        return F.conv2d(upsample(maps, scale_factor, align_corners), weight, bias, padding=kernel_size // 2)
    # A 1×1 convolution is the same before the upsampling: bilinear weights sum to 1.
    if is_ours(maps):
        # With one thread, torch's convolution would copy the maps to another layout.
        result = F.linear(maps.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    else:
        result = F.conv2d(maps, weight, bias)
    return upsample(result, scale_factor, align_corners)


def upsampled_convolution_and_relu(
    maps: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale_factor: int,
    classifier: tuple[torch.Tensor, torch.Tensor | None] | None = None,
) -> torch.Tensor:
    """ReLU of [`upsampled_convolution`], corners not aligned, and what a 1×1 `classifier` of this weight and bias
    makes of it. Without gradients, no more than a band of rows is held before the result.
    """
    if torch.is_grad_enabled() or not is_banded(maps, weight, scale_factor):
        result = upsampled_convolution(maps, weight, bias, scale_factor).relu_()
        return result if classifier is None else upsampled_convolution(result, *classifier, scale_factor=1)
    tensors = (maps, weight.flatten(1), bias, *(classifier or (None, None)))
    maps, weight, bias, classifier_weight, classifier_bias = in_autocast(*tensors)
    if classifier_weight is not None:
        classifier_weight = classifier_weight.flatten(1)
    with torch.autocast("cpu", enabled=False):
        return convolve(maps, weight, bias, scale_factor, False, True, classifier_weight, classifier_bias)
