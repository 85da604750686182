"""Pictures of label maps: colours, overlays, legends, and sheets of photo, truth and prediction side by side."""

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from transformers import PreTrainedConfig

from ..model.image_processing_base_setr import IGNORED_LABEL, pil_to_rgb


TEXT_SIZE = 15
MARGIN = 8
SWATCH = 14


def class_colors(config: PreTrainedConfig) -> list[list[int]]:
    """
    RGB colour, 0 to 255, of each class of a model: its palette, or else colours far from each other in hue and light.
    """
    if getattr(config, "palette", None):
        return config.palette
    golden_ratio = (5**0.5 - 1) / 2
    colors = []
    for index in range(config.num_labels):
        lightness, saturation = (0.45, 0.65, 0.55)[index % 3], (0.9, 0.6)[index % 2]
        red, green, blue = colorsys.hls_to_rgb(index * golden_ratio % 1, lightness, saturation)
        colors.append([round(255 * value) for value in (red, green, blue)])
    return colors


def color_label_map(label_map: np.ndarray, colors: list[list[int]]) -> Image.Image:
    """A label map of shape `(height, width)` as a picture; pixels that are not counted (255) are black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colors)] = colors[:IGNORED_LABEL]
    return Image.fromarray(table[label_map])


def overlay(photo: Image.Image, label_map: np.ndarray, colors: list[list[int]], opacity: float = 0.55) -> Image.Image:
    """A photo with its label map laid over it; `opacity` from 0 (the photo) to 1 (the colours)."""
    return Image.blend(pil_to_rgb(photo), color_label_map(label_map, colors), opacity)


def class_shares(label_map: np.ndarray) -> dict[int, float]:
    """Share of the area, 0 to 1, of each class in a label map, the largest first."""
    ids, counts = np.unique(label_map, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {int(ids[i]): float(counts[i] / label_map.size) for i in order}


def draw_legend(width: int, entries: list[tuple[str, list[int]]]) -> Image.Image:
    """A white strip of `width` pixels with a swatch and a name for each entry, wrapped into rows."""
    font = ImageFont.load_default(TEXT_SIZE)
    row_height = TEXT_SIZE + MARGIN
    positions, left, top = [], MARGIN, MARGIN
    for name, _ in entries:
        entry_width = SWATCH + 6 + int(font.getlength(name)) + 2 * MARGIN
        if left > MARGIN and left + entry_width > width:
            left, top = MARGIN, top + row_height
        positions.append((left, top))
        left += entry_width
    legend = Image.new("RGB", (width, top + row_height), "white")
    draw = ImageDraw.Draw(legend)
    for (name, color), (left, top) in zip(entries, positions):
        draw.rectangle((left, top + 2, left + SWATCH, top + 2 + SWATCH), fill=tuple(color), outline="black")
        draw.text((left + SWATCH + 6, top), name, fill="black", font=font)
    return legend


def stack(pictures: list[Image.Image]) -> Image.Image:
    """Pictures below each other on white."""
    sheet = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet


def overlay_with_legend(
    photo: Image.Image, label_map: np.ndarray, colors: list[list[int]], id2label: dict[int, str]
) -> Image.Image:
    """A photo with its label map laid over it and a legend of the classes that occur, the largest area first."""
    entries = [(f"{id2label[i]} {share:.1%}", colors[i]) for i, share in class_shares(label_map).items()]
    return stack([overlay(photo, label_map, colors), draw_legend(photo.width, entries)])


def comparison_sheet(
    samples: list[tuple[Image.Image, np.ndarray, np.ndarray]],
    colors: list[list[int]],
    id2label: dict[int, str],
    width: int = 360,
) -> Image.Image:
    """
    Rows of photo | truth | prediction with a legend of all classes that occur.

    Args:
        samples: Photo, true and predicted label map of the photo's size for each row.
        width (`int`): Width of each picture in pixels.
    """
    font = ImageFont.load_default(TEXT_SIZE)
    columns = ("photo", "truth", "prediction")
    header = Image.new("RGB", (len(columns) * (width + MARGIN) + MARGIN, TEXT_SIZE + 2 * MARGIN), "white")
    for index, title in enumerate(columns):
        ImageDraw.Draw(header).text((MARGIN + index * (width + MARGIN), MARGIN), title, fill="black", font=font)
    rows, occurring = [header], set()
    for photo, truth, prediction in samples:
        occurring.update(np.unique(truth).tolist(), np.unique(prediction).tolist())
        size = (width, round(width * photo.height / photo.width))
        row = Image.new("RGB", (header.width, size[1] + MARGIN), "white")
        pictures = (pil_to_rgb(photo), color_label_map(truth, colors), color_label_map(prediction, colors))
        for index, picture in enumerate(pictures):
            resample = Image.Resampling.NEAREST if index else Image.Resampling.BICUBIC
            row.paste(picture.resize(size, resample), (MARGIN + index * (width + MARGIN), 0))
        rows.append(row)
    entries = [(id2label[i], colors[i]) for i in sorted(occurring - {IGNORED_LABEL})]
    if IGNORED_LABEL in occurring:
        entries.append(("not counted", [0, 0, 0]))
    return stack([*rows, draw_legend(header.width, entries)])
