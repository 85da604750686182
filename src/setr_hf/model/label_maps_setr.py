"""Scores and label maps at any size from the logits of windows, a tile of pixels at a time.

Upsampling windows, averaging them where they overlap and resizing the result are linear, and separable: the scores of
a class are rows @ logits @ columns.T, with a matrix for each axis and the logits of all windows side by side. As few
samples as bear on a tile are multiplied, so that nothing is ever held at the size of the image for all classes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.nn import functional as F

from .interpolation_setr import interpolation_matrix, slices


class TileSize(NamedTuple):
    """Pixels of a tile: `rows` × `columns` are computed at a time, of a strip of `strip_rows` that share the products
    along the columns.
    """

    strip_rows: int
    rows: int
    columns: int


# Of 150 classes, on a CPU few enough pixels for its cache, and enough to outweigh the calls and the few samples that a
# pixel comes from; elsewhere enough to keep the device busy.
CPU_TILE = TileSize(128, 32, 128)
DEVICE_TILE = TileSize(512, 256, 512)

# Rows and columns in an image, and their scores `(rows, columns, num_labels)`.
ScoreTile = tuple[slice, slice, torch.Tensor]


class AxisPart(NamedTuple):
    """Samples of a window along an axis, and their weights `(pixels, samples)` in the scores of some pixels."""

    window: int
    samples: slice
    weights: torch.Tensor


class AxisWeights:
    """How the scores along one axis of an image come from the samples of the windows along it.

    Args:
        windows (`Sequence[tuple[int, int]]`): Start and length in pixels of each window.
        length (`int`): That of the axis on which the windows lie.
        num_samples (`int`): How many samples a window has.
        are_resized (`bool`): Whether the samples of a window are resized to its length. If not, each is a pixel, and
            those beyond its length are padding.
        new_length (`int`): What the axis is resized to after windows have been averaged.
        is_mirrored (`bool`): Whether its order is reversed before.

    Raises:
        `ValueError`: a pixel is in none of the windows.
    """

    def __init__(
        self,
        windows: Sequence[tuple[int, int]],
        length: int,
        num_samples: int,
        are_resized: bool,
        new_length: int,
        is_mirrored: bool = False,
    ):
        self.length = new_length
        counts = torch.zeros(length)
        for start, window_length in windows:
            counts[start : start + window_length] += 1
        if not counts.all():
            raise ValueError("windows leave gaps in their image")
        # For each window the first pixel that it has a part in, and the weights (pixels, num_samples) from there on.
        self.parts: list[tuple[int, torch.Tensor]] = []
        for start, window_length in windows:
            pixels = slice(start, start + window_length)
            own = interpolation_matrix(num_samples, window_length) if are_resized else torch.eye(num_samples)
            weights = own[:window_length] / counts[pixels, None]
            if is_mirrored:
                start, weights = length - start - window_length, weights.flip(0)
            if new_length != length:
                placed = F.pad(weights.T, (start, length - start - window_length))
                placed = F.interpolate(placed[None], size=new_length, mode="linear")[0].T
                used = placed.any(1).nonzero()
                # A window may fall between the samples of an axis that shrinks.
                start, stop = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
                weights = placed[start:stop].clone()
            self.parts.append((start, weights))

    def of(self, pixels: slice) -> list[AxisPart]:
        """The samples that some pixels come from, window by window."""
        chosen = []
        for index, (start, weights) in enumerate(self.parts):
            first, stop = max(pixels.start, start), min(pixels.stop, start + len(weights))
            if first < stop:
                part = weights[first - start : stop - start]
                used = part.any(0).nonzero()
                samples = slice(int(used[0]), int(used[-1]) + 1)
                part = F.pad(part[:, samples], (0, 0, first - pixels.start, pixels.stop - stop))
                chosen.append(AxisPart(index, samples, part))
        return chosen


class WindowGrid(NamedTuple):
    """Windows over an image in rows and columns, and how scores at any size come from their logits."""

    rows: AxisWeights
    columns: AxisWeights

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the scores."""
        return self.rows.length, self.columns.length


def grid_of(
    logits: torch.Tensor,
    offsets: Sequence[Sequence[int]] | None,
    size: Sequence[int],
    is_mirrored: bool = False,
) -> tuple[torch.Tensor, WindowGrid]:
    """The logits of an image by rows and columns of windows, and how scores of `size` come from them.

    Args:
        logits (`torch.Tensor` of shape `(num_windows, num_labels, h, w)`, or `(num_labels, h, w)` without `offsets`):
            At the windows' size or a lower resolution. If a window is larger than its logits along a side, they are
            resized to it, else they are cut to it.
        offsets (`Sequence[Sequence[int]]`, *optional*): For each window top, left, height, width, image height and
            image width in pixels. Without them the logits are those of the whole image.
        size (`Sequence[int]`): Height and width in pixels that the image is resized to, bilinearly, corners not
            aligned, after its windows have been averaged.
        is_mirrored (`bool`): Whether the image is turned left to right before it is resized.

    Returns:
        `tuple[torch.Tensor, WindowGrid]`: The logits `(rows, columns, num_labels, h, w)`, and the grid.

    Raises:
        `ValueError`: the windows are not a grid of rows and columns, or leave gaps.
    """
    height, width = logits.shape[-2:]
    if offsets is None:
        logits, offsets = logits[None], [[0, 0, height, width, height, width]]
    rows, columns = (sorted({(offset[axis], offset[axis + 2]) for offset in offsets}) for axis in (0, 1))
    places = {tuple(offset[:4]): index for index, offset in enumerate(offsets)}
    in_order = [places.get((top, left, high, wide)) for top, high in rows for left, wide in columns]
    are_resized = {height < offset[2] or width < offset[3] for offset in offsets}
    if None in in_order or len(in_order) != len(offsets) or len(are_resized) > 1:
        raise ValueError(
            f"the {len(offsets)} windows are not a grid of {len(rows)} rows and {len(columns)} columns, each window "
            "once, all larger than their logits or none"
        )
    if in_order != list(range(len(offsets))):
        logits = logits[in_order]
    image_height, image_width = offsets[0][4:]
    grid = WindowGrid(
        AxisWeights(rows, image_height, height, True in are_resized, size[0]),
        AxisWeights(columns, image_width, width, True in are_resized, size[1], is_mirrored),
    )
    return logits.unflatten(0, (len(rows), len(columns))), grid


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Products of fp32 matrices are computed in fp32, under autocast and where TF32 or bf16 is admitted too."""
    backends = torch.backends.mkldnn if device.type == "cpu" else torch.backends.cuda
    matmul = backends.matmul
    precision = matmul.fp32_precision
    if precision in ("none", "ieee") and not torch.is_autocast_enabled(device.type):
        yield
        return
    try:
        matmul.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.fp32_precision = precision


def by_place(rows: list[AxisPart]) -> tuple[torch.Tensor, torch.Tensor]:
    """The samples of a strip that bear on it, in the order of their places, in which neighbours come from neighbours
    though windows overlap; and their weights `(pixels, samples)`.
    """
    weights = torch.cat([part.weights for part in rows], dim=1)
    totals = weights.sum(0)
    places = (weights * torch.arange(len(weights))[:, None]).sum(0) / totals
    order = places.argsort()[: totals.count_nonzero()]  # Where the total is 0 the place is not a number, and last.
    return order, weights[:, order]


def samples_of(windows: torch.Tensor, rows: list[AxisPart], order: torch.Tensor) -> torch.Tensor:
    """The samples `(n, w, num_labels)` of a strip, in an order, from windows `(rows, num_labels, h, w)` above each
    other. To transpose what lies together in memory is several times as quick as to gather it.
    """
    maps = torch.cat([windows[part.window % len(windows), :, part.samples] for part in rows], dim=1)
    return maps.float().flatten(1).T.contiguous().view(*maps.shape[1:], -1)[order]


@torch.no_grad()
def score_tiles(logits: torch.Tensor, grid: WindowGrid, rows: slice | None = None) -> Iterator[ScoreTile]:
    """The scores of an image in fp32, tile by tile: of all pixels, or of some rows of them.

    Args:
        logits (`torch.Tensor` of shape `(rows, columns, num_labels, h, w)`): Of the grid's windows, on any device and
            in any precision. For some rows of pixels, only the n rows of windows that these lie in are needed, each
            in the place of its number modulo n.
        grid ([`WindowGrid`]): As [`grid_of`] returns it.
        rows (`slice`, *optional*): The rows of pixels; by default all.

    Yields:
        `tuple[slice, slice, torch.FloatTensor]`: Rows, columns and the scores of shape `(rows, columns, num_labels)`,
        on the device of the logits. The tiles of grids of the same size are the same.
    """
    device, num_labels = logits.device, logits.shape[2]
    tile = CPU_TILE if device.type == "cpu" else DEVICE_TILE
    height, width = grid.size
    columns = []
    for pixels in slices(0, width, tile.columns):
        parts = [part._replace(weights=part.weights.to(device)) for part in grid.columns.of(pixels)]
        columns.append((pixels, parts))
    start, stop = (0, height) if rows is None else (rows.start, rows.stop)
    for strip in slices(start, stop, tile.strip_rows):
        row_parts = grid.rows.of(strip)
        order, weights = by_place(row_parts)
        order = order.to(device)
        groups = []
        for pixels in slices(strip.start, strip.stop, tile.rows):
            own = weights[pixels.start - strip.start : pixels.stop - strip.start]
            used = own.any(0).nonzero()
            sources = slice(int(used[0]), int(used[-1]) + 1)
            groups.append((pixels, sources, own[:, sources].to(device)))
        samples: dict[int, torch.Tensor] = {}
        for pixel_columns, column_parts in columns:
            stretched = torch.zeros(len(order), len(column_parts[0].weights), num_labels, device=device)
            with full_precision(device):
                # Those of windows that the columns have passed are let go.
                samples = {
                    index: samples[index] if index in samples else samples_of(logits[:, index], row_parts, order)
                    for index, *_ in column_parts
                }
                for index, chosen, column_weights in column_parts:
                    stretched.baddbmm_(column_weights.expand(len(order), -1, -1), samples[index][:, chosen])
            for pixel_rows, sources, row_weights in groups:
                with full_precision(device):
                    scores = torch.mm(row_weights, stretched[sources].flatten(1))
                yield pixel_rows, pixel_columns, scores.view(len(scores), -1, num_labels)


def probabilities(scores: torch.Tensor) -> torch.Tensor:
    """Of the classes of `(…, num_labels)`, or of the foreground if there is one score."""
    return scores.sigmoid() if scores.shape[-1] == 1 else scores.softmax(-1)


@torch.no_grad()
def mean_probability_tiles(views: Sequence[Iterator[ScoreTile]], weights: Sequence[float]) -> Iterator[ScoreTile]:
    """The class probabilities of an image, averaged over the tiles of scores that several views of it have. Of a
    binary model, whose pixels have one score, they are those of the foreground.

    Args:
        views (`Sequence[Iterator[ScoreTile]]`): For each view its [`score_tiles`], all of the same size and device.
        weights (`Sequence[float]`): Weight of each view in the mean.

    Yields:
        `tuple[slice, slice, torch.FloatTensor]`: Rows, columns and probabilities `(rows, columns, num_labels)`.
    """
    total = sum(weights)
    for tiles in zip(*views):
        rows, columns, scores = tiles[0]
        mean = probabilities(scores) * (weights[0] / total)
        for (_, _, scores), weight in zip(tiles[1:], weights[1:]):
            mean.add_(probabilities(scores), alpha=weight / total)
        yield rows, columns, mean


def kept(tiles: Iterator[ScoreTile], scores: torch.Tensor) -> Iterator[ScoreTile]:
    """The same tiles, which are written to `scores` of shape `(num_labels, height, width)` as they pass."""
    for rows, columns, tile in tiles:
        scores[:, rows, columns] = tile.permute(2, 0, 1)
        yield rows, columns, tile


def best_labels(scores: torch.Tensor, threshold: float = 0.0) -> torch.Tensor:
    """The class of the highest score of each pixel, the first of equals: int64 `(rows, columns)`. Where pixels have
    one score it is 1, the foreground, above the threshold and 0 elsewhere.
    """
    if scores.shape[-1] == 1:
        return (scores[..., 0] > threshold).long()
    # On a CPU, NumPy is several times as fast as torch.
    return torch.from_numpy(scores.numpy().argmax(-1)) if scores.device.type == "cpu" else scores.argmax(-1)


def label_map_of(
    tiles: Iterator[ScoreTile], size: Sequence[int], device: torch.device, threshold: float = 0.0
) -> torch.Tensor:
    """The [`best_labels`] of an image of this height and width in pixels, of which there are all tiles."""
    label_map = torch.empty(tuple(size), dtype=torch.int64, device=device)
    for rows, columns, scores in tiles:
        label_map[rows, columns] = best_labels(scores, threshold)
    return label_map
