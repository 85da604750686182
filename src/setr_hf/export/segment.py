"""The label map of a photo from the `model.onnx` beside this file, with ONNX Runtime and NumPy alone:
`from segment import segment`. With Pillow, too, `python segment.py PHOTO LABELS.png` writes it as a grayscale image.
"""

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


MODEL_FILE = Path(__file__).with_name("model.onnx")
# Windows that the network takes at a time.
BATCH_SIZE = 2
# Pixels whose scores are computed at a time: few enough for the cache of a CPU, enough to outweigh the calls.
STRIP_ROWS, TILE_ROWS, TILE_COLUMNS = 128, 16, 64


@cache
def load() -> tuple[onnxruntime.InferenceSession, dict[str, Any]]:
    """The network, and the settings by which photos become windows and logits become a label map."""
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(MODEL_FILE, providers=providers)
    return session, json.loads(session.get_modelmeta().custom_metadata_map["segment"])


def check_photo(photo: Any) -> None:
    """Raises `ValueError` unless this is an 8-bit RGB photo."""
    if not isinstance(photo, np.ndarray) or photo.dtype != np.uint8:
        kind = getattr(photo, "dtype", type(photo).__name__)
        raise ValueError(f"photo must be a NumPy array of uint8, intensities from 0 to 255, got {kind}")
    if photo.ndim != 3 or photo.shape[2] != 3 or 0 in photo.shape:
        hint = ": of a grayscale one, np.stack([photo] * 3, axis=2) makes RGB" if photo.ndim == 2 else ""
        raise ValueError(f"photo must have the shape (height, width, 3), none of them 0, got {photo.shape}{hint}")


def resized_size(height: int, width: int) -> tuple[int, int]:
    """Height and width in pixels that a photo is resized to."""
    _, settings = load()
    size = settings["size"]
    if size is None:
        return height, width
    if "height" in size:
        return size["height"], size["width"]
    scale = size["shortest_edge"] / min(height, width)
    if "longest_edge" in size:
        scale = min(scale, size["longest_edge"] / max(height, width))
    new_height, new_width = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
    if new_height * new_width > max(settings["max_enlarged_pixels"], height * width):
        raise ValueError(f"photo of {height}×{width} pixels would be enlarged to {new_height}×{new_width}: cut it")
    return new_height, new_width


def opencv_taps(length: int, new_length: int, drop_fraction: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two old pixels of each new pixel along a side, and the weight of the second in 1/2048."""
    # OpenCV computes the scale as the inverse of the inverse.
    position = ((np.arange(new_length) + 0.5) * (1.0 / (new_length / length)) - 0.5).astype(np.float32)
    first = np.floor(position)
    fraction = position - first
    if drop_fraction:
        fraction[(first < 0) | (first >= length - 1)] = 0
    pixels = first.astype(np.int64)[:, None] + [0, 1]
    return *pixels.clip(0, length - 1).T, np.rint(fraction * 2048).astype(np.int32)[:, None]


def resized_like_opencv(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resizing without antialias, equal to OpenCV's fixed-point arithmetic to the bit."""
    if photo.shape[:2] == (2 * size[0], 2 * size[1]):
        rows = photo[::2].astype(np.int32) + photo[1::2]
        return ((rows[:, ::2] + rows[:, 1::2] + 2) >> 2).astype(np.uint8)
    left, right, weight = opencv_taps(photo.shape[1], size[1], drop_fraction=True)
    top, bottom, row_weight = opencv_taps(photo.shape[0], size[0], drop_fraction=False)
    total: Any = 2
    for rows, row_weights in ((photo[top], 2048 - row_weight), (photo[bottom], row_weight)):
        stretched = (rows[:, left] * (2048 - weight) + rows[:, right] * weight) >> 4
        total = total + (stretched * row_weights[:, None] >> 16)
    return (total >> 2).clip(0, 255).astype(np.uint8)


def tiles(weights: np.ndarray, length: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Pieces of an axis, the old samples that each comes from, and their weights `(length, samples)`."""
    for start in range(0, len(weights), length):
        place = slice(start, start + length)
        samples = np.flatnonzero(weights[place].any(0))
        yield place, samples, weights[place, samples]


def antialiased(image: np.ndarray, new_length: int) -> np.ndarray:
    """Bilinear resizing of the first axis that averages over what it drops, in torch's fixed-point arithmetic."""
    scale = len(image) / new_length
    reach = max(scale, 1.0)
    centers, pixels = scale * (np.arange(new_length)[:, None] + 0.5), np.arange(len(image))
    start, stop = (centers - reach + 0.5).astype(np.int64), (centers + reach + 0.5).astype(np.int64)
    weights = (1 - np.abs((pixels - centers + 0.5) * (1.0 / reach))).clip(0) * ((pixels >= start) & (pixels < stop))
    weights /= weights.sum(1, keepdims=True)
    # As many bits as fit into 16 with the largest weight. Floating-point numbers of 64 bits hold the sums exactly.
    bits = next(bits for bits in range(23) if bits == 22 or int(0.5 + weights.max() * 2 ** (bits + 1)) >= 2**15)
    weights = np.floor(weights * 2**bits + 0.5)
    resized = np.empty((new_length, *image.shape[1:]), np.uint8)
    for place, used, matrix in tiles(weights, 32):
        sums = np.tensordot(matrix, image[used].astype(np.float64), 1)
        resized[place] = np.floor((sums + 2 ** (bits - 1)) / 2**bits).clip(0, 255)
    return resized


def resized(photo: np.ndarray, size: tuple[int, int], antialias: bool) -> np.ndarray:
    """A photo `(height, width, 3)` at another height and width in pixels."""
    if photo.shape[:2] == size:
        return photo
    if not antialias:
        return resized_like_opencv(photo, size)
    columns = antialiased(photo.swapaxes(0, 1), size[1])
    return antialiased(columns.swapaxes(0, 1), size[0])


def interpolated(samples: np.ndarray, new_length: int) -> np.ndarray:
    """Bilinear resizing of the first axis, corners not aligned."""
    position = ((np.arange(new_length) + 0.5) * (len(samples) / new_length) - 0.5).clip(0, len(samples) - 1)
    first = position.astype(np.int64)
    fraction = (position - first).astype(np.float32)[:, None]
    return samples[first] * (1 - fraction) + samples[(first + 1).clip(max=len(samples) - 1)] * fraction


def axis_of(side: int, crop: int | None, new_side: int) -> tuple[list[int], np.ndarray]:
    """Where the windows along a side of the resized photo begin, and how the scores along that of the photo come from
    their logits, `(new_side, windows * samples of each)`: resized to the windows, averaged where these overlap, and
    resized to the photo. Without a crop there is one window, the resized photo, which is resized only once.
    """
    _, settings = load()
    patches = -(-min(side, crop or side) // settings["patch_size"])
    own = np.eye(patches * settings["samples_per_patch"], dtype=np.float32)
    if crop is None:
        return [0], interpolated(own[: -(-len(own) * side // (patches * settings["patch_size"]))], new_side)
    crop, stride = min(side, crop), settings["stride"]
    starts = [max(min(start, side - crop), 0) for start in range(0, max(side - crop, 0) + stride, stride)]
    own = interpolated(interpolated(own, len(own) * settings["upsampling"]), crop)
    weights, counts = np.zeros((side, len(starts), own.shape[1]), np.float32), np.zeros((side, 1), np.float32)
    for index, start in enumerate(starts):
        weights[start : start + crop, index] = own
        counts[start : start + crop] += 1
    return starts, interpolated(weights.reshape(side, -1) / counts, new_side)


def logits_of(windows: list[np.ndarray]) -> np.ndarray:
    """Logits of windows beside each other, from left to right: `(h, windows * w, num_labels)`."""
    session, _ = load()
    batches = [np.stack(windows[start : start + BATCH_SIZE]) for start in range(0, len(windows), BATCH_SIZE)]
    logits = np.concatenate([session.run(None, {"pixels": batch})[0] for batch in batches]).astype(np.float32)
    if not np.isfinite([logits.min(), logits.max()]).all():
        raise ValueError("logits are NaN or infinite, and no label can be read from them: export a float32 model")
    return logits.transpose(2, 0, 3, 1).reshape(logits.shape[2], -1, logits.shape[1])


def segment(photo: np.ndarray) -> np.ndarray:
    """The class id of each pixel, `(height, width)`, of an 8-bit RGB photo `(height, width, 3)` of any size. The names
    of the classes are `load()[1]["class_names"]`.
    """
    check_photo(photo)
    _, settings = load()
    image = resized(photo, resized_size(*photo.shape[:2]), settings["antialias"])
    crop_height, crop_width = settings["crop"] or (None, None)
    tops, row_weights = axis_of(image.shape[0], crop_height, photo.shape[0])
    lefts, column_weights = axis_of(image.shape[1], crop_width, photo.shape[1])
    column_tiles, num_samples = list(tiles(column_weights, TILE_COLUMNS)), row_weights.shape[1] // len(tops)
    label_map = np.empty(photo.shape[:2], np.uint8 if settings["num_labels"] <= 256 else np.int32)
    logits: dict[int, np.ndarray] = {}  # By the row of windows; no more of them than a strip of pixels needs.
    for strip, samples, strip_weights in tiles(row_weights, STRIP_ROWS):
        needed = np.unique(samples // num_samples)
        logits = {row: logits[row] for row in needed if row in logits}
        for row in set(needed) - set(logits):
            band = image[tops[row] :][:crop_height]
            logits[row] = logits_of([band[:, left:][:, :crop_width] for left in lefts])
        mosaic = np.concatenate([logits[row][samples[samples // num_samples == row] % num_samples] for row in needed])
        row_tiles = list(tiles(strip_weights, TILE_ROWS))
        for columns, used, weights in column_tiles:
            stretched = (weights @ mosaic[:, used]).reshape(len(mosaic), -1)
            for rows, rows_used, weights in row_tiles:
                scores = (weights @ stretched[rows_used]).reshape(len(weights), -1, mosaic.shape[2])
                if mosaic.shape[2] == 1:
                    label_map[strip][rows, columns] = scores[..., 0] > settings["logit_threshold"]
                else:
                    label_map[strip][rows, columns] = scores.argmax(-1)
    return label_map


if __name__ == "__main__":
    from PIL import Image, ImageOps

    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with Image.open(sys.argv[1]) as opened:
        Image.fromarray(segment(np.asarray(ImageOps.exif_transpose(opened).convert("RGB")))).save(sys.argv[2])
