"""Whether the borders of a label map lie on edges of its photo, or would after a shift, a turn or a reflection."""

from dataclasses import dataclass

import cv2
import numpy as np


# Photo and label map are compared at this length of the longer side, or at their own if that is less.
LONGER_SIDE = 320
SHORTEST_SIDE = 24
LARGEST_SHIFT = 24
# How far a border may lie from an edge, as annotators draw them.
TOLERANCE = 2
# Fewer border pixels say nothing.
FEWEST_BORDER_PIXELS = 150
# Edges count relative to what surrounds them, up to so many times.
SURROUNDINGS, STRONGEST_EDGE, NOISE = 12, 3, 4
TURNS = {
    "mirrored": lambda ids: ids[:, ::-1],
    "upside down": lambda ids: ids[::-1, ::-1],
    "mirrored top to bottom": lambda ids: ids[::-1],
    "turned by 90° to the left": lambda ids: np.rot90(ids),
    "turned by 90° to the right": lambda ids: np.rot90(ids, -1),
    "mirrored along a diagonal": lambda ids: ids.T,
    "mirrored along the other diagonal": lambda ids: ids[::-1, ::-1].T,
}


@dataclass(frozen=True)
class EdgeScores:
    """How strongly the photo's edges exceed their mean along the borders of the label map: about 0 for a label map of
    another photo, 0.3 to 1.2 for one that fits.

    Args:
        as_it_is (`float`): The score of the label map in its place, but for [`TOLERANCE`].
        best (`float`): The highest score of all shifts up to [`LARGEST_SHIFT`].
        shift (`tuple[int, int]`): How far the label map lies beside that, right and down, in pixels of the photo.
        is_shifted (`bool`): Whether it is beyond what annotators and chance account for.
        turned (`float`): The highest score of the label map turned or mirrored back.
        turn (`str`): How it would have been turned, a key of [`TURNS`].
    """

    as_it_is: float
    best: float
    shift: tuple[int, int]
    is_shifted: bool
    turned: float
    turn: str


def edge_strength(gray: np.ndarray) -> np.ndarray:
    """The length of the gradient of a photo `(height, width)`, relative to its surroundings, around a mean of 0."""
    smooth = cv2.GaussianBlur(gray.astype(np.float32), (0, 0), 1)
    length = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    relative = np.minimum(length / (cv2.GaussianBlur(length, (0, 0), SURROUNDINGS) + NOISE), STRONGEST_EDGE)
    return relative - relative.mean()


def borders(ids: np.ndarray, ignored: int) -> np.ndarray:
    """Where two classes border on each other in a label map `(height, width)`, 0 or 1. Borders to what is ignored are
    no edges of the photo.
    """
    found = np.zeros(ids.shape, dtype=np.float32)
    for axis_ids, axis_found in ((ids, found), (ids.T, found.T)):
        first, second = axis_ids[1:], axis_ids[:-1]
        differs = (first != second) & (first != ignored) & (second != ignored)
        axis_found[1:][differs] = 1
        axis_found[:-1][differs] = 1
    return found


def shift_scores(strength: np.ndarray, border: np.ndarray, most: int) -> np.ndarray:
    """The mean edge strength along the borders for each shift, `(2 * most + 1, 2 * most + 1)`, down and right."""
    padded = cv2.copyMakeBorder(strength, most, most, most, most, cv2.BORDER_CONSTANT, value=0)
    return cv2.matchTemplate(padded, border, cv2.TM_CCORR) / border.sum()


def edge_scores(gray: np.ndarray, values: np.ndarray, lookup: np.ndarray, ignored: int) -> EdgeScores | None:
    """Compares a photo with its annotation, both uint8 `(height, width)`; `lookup` holds the class id of each value.
    `None` if they are too small or hold too few borders to tell.
    """
    scale = min(1.0, LONGER_SIDE / max(gray.shape))
    if scale < 1:
        size = (max(1, round(gray.shape[1] * scale)), max(1, round(gray.shape[0] * scale)))
        gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
        values = cv2.resize(values, size, interpolation=cv2.INTER_NEAREST)
    border = borders(lookup[values], ignored)
    if min(gray.shape) < SHORTEST_SIDE or border.sum() < FEWEST_BORDER_PIXELS:
        return None
    strength = edge_strength(gray)
    scores = shift_scores(strength, border, LARGEST_SHIFT)
    inner = slice(LARGEST_SHIFT - TOLERANCE, LARGEST_SHIFT + TOLERANCE + 1)
    down, right = np.subtract(np.unravel_index(scores.argmax(), scores.shape), LARGEST_SHIFT)
    turned = {
        name: shift_scores(strength, np.ascontiguousarray(turn(border)), TOLERANCE).max()
        for name, turn in TURNS.items()
        if turn(border).shape == border.shape
    }
    turn = max(turned, key=lambda name: turned[name])
    return EdgeScores(
        as_it_is=float(scores[inner, inner].max()),
        best=float(scores.max()),
        shift=(-round(int(right) / scale), -round(int(down) / scale)),
        is_shifted=bool(max(abs(down), abs(right)) > TOLERANCE + 1),
        turned=float(turned[turn]),
        turn=turn,
    )
