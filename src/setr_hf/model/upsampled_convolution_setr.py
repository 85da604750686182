"""A convolution of bilinearly upsampled maps, its products computed before the upsampling.

Upsampling treats all channels alike, and a tap of the kernel treats all pixels alike, so the two may change places:
the convolution is the sum, over its taps, of the products of the tap's weights and the maps, upsampled and shifted.
At twice the size that is a quarter of the multiplications. Upsampling and shift are a narrow band matrix for the rows
and one for the columns, in which the edges and the zero padding are as exact as the rest.
"""

from collections.abc import Callable, Iterator
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

    def products_of(self, tile: AxisTile) -> slice:
        """Where the products of the old columns of a tile are among those of all columns."""
        return slice(tile.source.start * self.kernel_size, tile.source.stop * self.kernel_size)

    def convolve(self, image: torch.Tensor, bias: torch.Tensor | None) -> Iterator[tuple[slice, torch.Tensor]]:
        """The bands of the result for an image of shape `(channels, height, width)`: their rows, and their values
        `(rows, columns, out_channels)`, which the next band overwrites.
        """
        pixels = image.permute(1, 2, 0)
        bands, columns = self.tiles
        old_rows, new_rows = (
            max(part.stop - part.start for part in parts)
            for parts in zip(*((tile.source, tile.place) for tile in bands))
        )
        # The same memory for all bands: it stays in the caches, and the system need not clear new memory. Products of
        # a row take the place of those `old_rows` above, which no band needs any more.
        products = pixels.new_zeros(self.kernel_size, old_rows, self.columns.length, self.taps.shape[2])
        mixed = pixels.new_empty(new_rows, self.columns.length * self.kernel_size, self.out_channels)
        result = pixels.new_empty(new_rows, self.columns.new_length, self.out_channels)
        computed = 0
        for band in bands:
            while computed < band.source.stop:
                place = computed % old_rows
                count = min(band.source.stop - computed, old_rows - place)
                rows = pixels[computed : computed + count].flatten(0, 1)
                for tap_products, taps in zip(products, self.taps):
                    torch.mm(rows, taps, out=tap_products[place : place + count].flatten(0, 1))
                computed += count
            band_mixed, band_result = mixed[: len(band.weights)], result[: len(band.weights)]
            weights = pixels.new_zeros(len(band.weights), self.kernel_size, old_rows)
            places = torch.arange(band.source.start, band.source.stop) % old_rows
            weights[:, :, places] = band.weights.unflatten(1, (-1, self.kernel_size)).transpose(1, 2)
            torch.mm(weights.flatten(1), products.flatten(0, 1).flatten(1), out=band_mixed.flatten(1))
            for tile in columns:
                band_result[:, tile.place] = torch.matmul(tile.weights, band_mixed[:, self.products_of(tile)])
            yield band.place, band_result if bias is None else band_result.add_(bias)

    def gradients(self, image: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradients of an image and of `taps`, from that of the result, `(out_channels, rows, columns)`."""
        pixels, gradient = image.permute(1, 2, 0), gradient.permute(1, 2, 0)
        dtype = torch.promote_types(image.dtype, torch.float32)
        pixels_gradient = torch.zeros_like(pixels, dtype=dtype, memory_format=torch.contiguous_format)
        taps_gradient = torch.zeros_like(self.taps, dtype=dtype)
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
        return pixels_gradient.permute(2, 0, 1), taps_gradient


class UpsampledConvolution(torch.autograd.Function):
    """Keeps the maps for the backward pass, and nothing of their upsampled size."""

    @staticmethod
    def forward(ctx, maps, weight, bias, scale_factor, align_corners):  # type: ignore
        ctx.save_for_backward(maps, weight)
        ctx.options = (scale_factor, align_corners)
        bands = Bands(maps, weight, scale_factor, align_corners)
        size = (len(maps), bands.out_channels, *bands.new_size)
        result = torch.empty(size, dtype=maps.dtype, memory_format=torch.channels_last)
        for image, image_result in zip(maps, result):
            for rows, band in bands.convolve(image, bias):
                image_result[:, rows] = band.permute(2, 0, 1)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore
        maps, weight = ctx.saved_tensors
        bands = Bands(maps, weight, *ctx.options)
        maps_gradients, taps_gradients = zip(*map(bands.gradients, maps, gradient))
        taps_gradient = sum(taps_gradients).unflatten(2, (bands.kernel_size, -1))
        bias_gradient = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return (
            torch.stack(maps_gradients).to(maps.dtype),
            taps_gradient.permute(3, 1, 0, 2).to(weight.dtype),
            bias_gradient,
            None,
            None,
        )


def convolve_then(
    maps: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale_factor: int,
    align_corners: bool,
    then: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """As [`upsampled_convolution`], with no more than a band of the upsampled convolution at a time."""
    bands = Bands(maps, weight, scale_factor, align_corners)
    result = None
    for index, image in enumerate(maps):
        for rows, band in bands.convolve(image, bias):
            finished = then(band[None].permute(0, 3, 1, 2))
            if result is None:
                size = (len(maps), finished.shape[1], *bands.new_size)
                result = torch.empty(size, dtype=finished.dtype, memory_format=torch.channels_last)
            result[index, :, rows] = finished[0]
    return result


def upsampled_convolution(
    maps: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale_factor: int,
    align_corners: bool = False,
    then: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """The convolution, with as much zero padding as keeps the size, of maps upsampled bilinearly by a whole factor.

    On other devices than a CPU, and in graphs that are compiled or exported, it is one convolution of the upsampled
    maps, for which they have their own ways.

    Args:
        maps (`torch.FloatTensor` of shape `(batch_size, channels, height, width)`): Before the upsampling.
        weight (`torch.FloatTensor` of shape `(out_channels, channels, kernel_size, kernel_size)`): Of an odd size.
        then (`Callable`, *optional*): A function of each pixel on its own, from `(batch_size, out_channels, …)` to
            `(batch_size, …)`, that the result goes through. Without gradients it takes a band of rows at a time, and
            the result before it is never held whole.
    """
    kernel_size = weight.shape[-1]
    # Tensors without data have no autocast, and may not be asked for it.
    if maps.device.type != "meta" and torch.is_autocast_enabled(maps.device.type):
        dtype = torch.get_autocast_dtype(maps.device.type)
        maps, weight, bias = (tensor if tensor is None else tensor.to(dtype) for tensor in (maps, weight, bias))
    if maps.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        # A 1×1 convolution is the same before the upsampling: bilinear weights sum to 1.
        before, after = (1, scale_factor) if kernel_size == 1 else (scale_factor, 1)
        result = F.conv2d(upsample(maps, before, align_corners), weight, bias, padding=kernel_size // 2)
        result = upsample(result, after, align_corners)
    elif kernel_size == 1:
        # With one thread, torch's convolution would copy the maps to another layout.
        pixels = F.linear(maps.permute(0, 2, 3, 1), weight.flatten(1), bias)
        result = upsample(pixels.permute(0, 3, 1, 2), scale_factor, align_corners)
    elif scale_factor == 1:
        result = F.conv2d(maps, weight, bias, padding=kernel_size // 2)
    elif then is None or torch.is_grad_enabled():
        with torch.autocast("cpu", enabled=False):
            result = UpsampledConvolution.apply(maps, weight, bias, scale_factor, align_corners)
    else:
        return convolve_then(maps, weight, bias, scale_factor, align_corners, then)
    return result if then is None else then(result)
