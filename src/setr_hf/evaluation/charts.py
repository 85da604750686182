"""Charts of an evaluation: the IoU of each class, the confusion matrix, and how reliable the confidence is. Without
pyplot, which would be global.
"""

import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..files import whole_file
from ..text import one_line


BAR_COLOR = "#3a6ea5"
DPI = 120
# Up to so many classes, the cells of a confusion matrix have room for a number.
MAX_CLASSES_WITH_NUMBERS = 25
LONGEST_NAME = 60


def class_bars(classes: list[dict], title: str) -> Figure:
    """Horizontal bars of each class's `iou`, 0 to 1, the best at the top; absent classes (`None`) have none."""
    rows = sorted(classes, key=lambda row: -1 if row["iou"] is None else row["iou"], reverse=True)
    figure = Figure(figsize=(8, 1 + 0.22 * len(rows)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(rows)), [100 * (row["iou"] or 0) for row in rows], color=BAR_COLOR)
    labels = ["absent" if row["iou"] is None else f"{100 * row['iou']:.1f}" for row in rows]
    axes.bar_label(bars, labels, padding=3, fontsize=8)
    axes.set_yticks(
        range(len(rows)), [one_line(row["name"], LONGEST_NAME) for row in rows], fontsize=8, parse_math=False
    )
    axes.set(xlim=(0, 108), xticks=range(0, 101, 20), ylim=(len(rows) - 0.5, -0.5), axisbelow=True)
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", color="0.85")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def confusion_heat_map(matrix: np.ndarray, names: list[str]) -> Figure:
    """A confusion matrix, truth in the rows, as a heat map of shares; rows without labelled pixels stay white."""
    names = [one_line(name, LONGEST_NAME) for name in names]
    labelled = matrix.sum(axis=1, keepdims=True)
    shares = np.where(labelled > 0, matrix / np.maximum(labelled, 1), np.nan)
    has_numbers = len(names) <= MAX_CLASSES_WITH_NUMBERS
    side = 1.2 + 0.07 * max(map(len, names)) + (0.32 if has_numbers else 0.13) * len(names)
    font_size = 8 if has_numbers else 6
    figure = Figure(figsize=(max(side, 5), side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=font_size, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=font_size, parse_math=False)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.set_title("share of each true class (row) that is predicted as each class (column), in percent", fontsize=8)
    for row, column in np.argwhere(shares >= 0.005) if has_numbers else ():
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", color=color, fontsize=7)
    return figure


def reliability_diagram(bins: list[dict], title: str) -> Figure:
    """The accuracy of the pixels in each bin of confidence over their mean confidence, beside the diagonal on which
    both agree, and below it the share of all pixels in each bin. `bins` are those of [`summarize_calibration`].
    """
    figure = Figure(figsize=(5, 6), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    filled = [row for row in bins if row["pixels"]]
    edges, width = [100 * row["low"] for row in bins], 100 / len(bins)
    bars = {"width": width, "align": "edge", "edgecolor": "white"}
    upper.bar(edges, [100 * (row["accuracy"] or 0) for row in bins], color="0.88", **bars)
    upper.plot([0, 100], [0, 100], color="0.4", linestyle="--", linewidth=1, label="as often right as it is confident")
    means = ([100 * row[name] for row in filled] for name in ("confidence", "accuracy"))
    upper.plot(*means, color=BAR_COLOR, marker="o", markersize=4, label="the pixels of each bin")
    upper.set(ylim=(0, 100), ylabel="accuracy, percent")
    upper.set_title(title, fontsize=10)
    upper.legend(fontsize=8, loc="upper left")
    total = sum(row["pixels"] for row in bins)
    lower.bar(edges, [100 * row["pixels"] / total for row in bins], color=BAR_COLOR, **bars)
    lower.set(xlim=(0, 100), xlabel="confidence, percent", ylabel="pixels, percent")
    for axes in (upper, lower):
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="0.85")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def save_chart(figure: Figure, path: Path) -> None:
    """Writes a chart as PNG."""
    with warnings.catch_warnings(), whole_file(path) as unfinished:
        # Class names in scripts that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(unfinished, dpi=DPI)
