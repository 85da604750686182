"""A convolution of bilinearly upsampled maps, its products computed before the upsampling.

Upsampling treats all channels alike, and a tap of the kernel treats all pixels alike, so the two may change places:
the convolution is the sum, over its taps, of the products of the tap's weights and the maps, upsampled and shifted.
At twice the size that is a quarter of the multiplications. Upsampling and shift are a narrow band matrix for the rows
and one for the columns, in which the edges and the zero padding are as exact as the rest.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .interpolation_setr import interpolation_matrix, slices, source_range


# Products in a band of rows and columns in a tile: few enough for the caches of a CPU and for narrow matrices.
BAND_PRODUCTS = 2**22
TILE_COLUMNS = 32


def upsample(maps: torch.Tensor, scale_factor: int, align_corners: bool = False) -> torch.Tensor:
    """Bilinear upsampling of `(batch_size, channels, height, width)` by a whole factor."""
    if scale_factor == 1:
        return maps
    size = (maps.shape[-2] * scale_factor, maps.shape[-1] * scale_factor)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


class AxisTile(NamedTuple):
    """A piece of an upsampled axis, the old samples that it comes from, and the weights
    `(length, kernel_size, old length)` of their products with each tap.
    """

    place: slice
    source: slice
    weights: torch.Tensor


def axis_tiles(
    length: int, tile_length: int, kernel_size: int, scale_factor: int, align_corners: bool, like: torch.Tensor
) -> list[AxisTile]:
    """An axis of `length` samples, upsampled, shifted by each tap of a kernel and cut into tiles."""
    new_length, padding = length * scale_factor, kernel_size // 2
    matrix = interpolation_matrix(length, new_length, like.dtype, like.device, align_corners)
    weights = F.pad(matrix, (0, 0, padding, padding)).unfold(0, kernel_size, 1).transpose(1, 2)
    tiles = []
    for place in slices(0, new_length, tile_length):
        reach = (max(place.start - padding, 0), min(place.stop + padding, new_length))
        source = slice(*source_range(*reach, length, new_length, align_corners))
        tiles.append(AxisTile(place, source, weights[place, :, source]))
    return tiles


class Bands:
    """The upsampled maps cut into bands of rows, and the weights in the order in which a band is computed.

    Its products have the shape `(kernel_size, old rows * old columns, kernel_size * out_channels)`: taps above each
    other come first and taps side by side last, so that one matrix mixes the rows and then one for each tile the
    columns, without a copy.
    """

    def __init__(self, maps: torch.Tensor, weight: torch.Tensor, scale_factor: int, align_corners: bool):
        self.out_channels, channels, self.kernel_size, _ = weight.shape
        self.height, self.width = maps.shape[-2:]
        self.new_size = (self.height * scale_factor, self.width * scale_factor)
        old_rows = max(BAND_PRODUCTS // (self.kernel_size**2 * self.out_channels * self.width), 4)
        axis = (self.kernel_size, scale_factor, align_corners, maps)
        self.rows = [
            band._replace(weights=band.weights.flatten(1))
            for band in axis_tiles(self.height, old_rows * scale_factor, *axis)
        ]
        self.columns = [
            tile._replace(
                source=slice(tile.source.start * self.kernel_size, tile.source.stop * self.kernel_size),
                weights=tile.weights.transpose(1, 2).flatten(1),
            )
            for tile in axis_tiles(self.width, TILE_COLUMNS, *axis)
        ]
        self.taps = weight.permute(2, 3, 0, 1).reshape(self.kernel_size, -1, channels)

    def convolve(self, image: torch.Tensor, bias: torch.Tensor | None) -> Iterator[torch.Tensor]:
        """The bands `(rows, columns, out_channels)` of an image of shape `(channels, height, width)`."""
        pixels = image.permute(1, 2, 0)
        for band in self.rows:
            source = pixels[band.source].flatten(0, 1)
            products = source.new_empty(self.kernel_size, len(source), self.taps.shape[1])
            for row_products, row_taps in zip(products, self.taps):
                torch.mm(source, row_taps.T, out=row_products)
            mixed = torch.mm(band.weights, products.view(band.weights.shape[1], -1))
            mixed = mixed.view(len(mixed), -1, self.out_channels)
            result = mixed.new_empty(len(mixed), self.new_size[1], self.out_channels)
            for tile in self.columns:
                result[:, tile.place] = torch.matmul(tile.weights, mixed[:, tile.source])
            yield result if bias is None else result.add_(bias)

    def gradients(self, image: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradients of an image and of `taps`, from that of the result, `(out_channels, rows, columns)`."""
        pixels, gradient = image.permute(1, 2, 0), gradient.permute(1, 2, 0)
        dtype = torch.promote_types(image.dtype, torch.float32)
        pixels_gradient = torch.zeros_like(pixels, dtype=dtype, memory_format=torch.contiguous_format)
        taps_gradient = torch.zeros_like(self.taps, dtype=dtype)
        for band in self.rows:
            mixed = gradient.new_zeros(len(band.weights), self.width * self.kernel_size, self.out_channels)
            for tile in self.columns:
                mixed[:, tile.source] += torch.matmul(tile.weights.T, gradient[band.place, tile.place])
            products = torch.mm(band.weights.T, mixed.flatten(1))
            products = products.view(self.kernel_size, -1, self.taps.shape[1])
            source, source_gradient = (tensor[band.source].flatten(0, 1) for tensor in (pixels, pixels_gradient))
            for row_products, row_taps, row_gradient in zip(products, self.taps, taps_gradient):
                source_gradient += torch.mm(row_products, row_taps)
                row_gradient += torch.mm(row_products.T, source)
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
            for rows, band in zip(bands.rows, bands.convolve(image, bias)):
                image_result[:, rows.place] = band.permute(2, 0, 1)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore
        maps, weight = ctx.saved_tensors
        bands = Bands(maps, weight, *ctx.options)
        maps_gradients, taps_gradients = zip(*map(bands.gradients, maps, gradient))
        taps_gradient = sum(taps_gradients).unflatten(1, (bands.kernel_size, -1))
        bias_gradient = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return (
            torch.stack(maps_gradients).to(maps.dtype),
            taps_gradient.permute(2, 3, 0, 1).to(weight.dtype),
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
        for rows, band in zip(bands.rows, bands.convolve(image, bias)):
            finished = then(band[None].permute(0, 3, 1, 2))
            if result is None:
                size = (len(maps), finished.shape[1], *bands.new_size)
                result = torch.empty(size, dtype=finished.dtype, memory_format=torch.channels_last)
            result[index, :, rows.place] = finished[0]
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
