"""Pictures of label maps: colours, overlays, legends, and sheets that show predictions beside the ground truth."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from transformers import PreTrainedConfig

from ..model.image_processing_setr import IGNORED_LABEL
from ..model.photos_setr import Photo
from ..text import one_line
from .photos import shown_photo


FONT = ImageFont.load_default(15)
LINE_HEIGHT = 23
LONGEST_TEXT = 200
MARGIN = 8
SWATCH = 14
SWATCH_GAP = 6
SHORTEST_SCALE = 240
IGNORED_COLOR = [0, 0, 0]
# What is said of pixels in which a model was not sure enough.
NO_CLASS = "no class"
# In CIELAB: generated colours are muted, of medium lightness and little chroma, as long as they differ by this much.
MUTED_LIGHTNESS = (30, 90)
MUTED_CHROMA = 45
CLEAR_DIFFERENCE = 20


def distinct_colors(count: int) -> list[list[int]]:
    """RGB colours, 0 to 255, each as far as possible from those before; the first thirty or so are muted."""
    import cv2  # Costs time, and most models have a palette.

    levels = np.linspace(0, 255, 18, dtype=np.uint8)
    candidates = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    lab = cv2.cvtColor(candidates[None] / np.float32(255), cv2.COLOR_RGB2LAB)[0]
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    is_muted = (lightness > MUTED_LIGHTNESS[0]) & (lightness < MUTED_LIGHTNESS[1]) & (chroma < MUTED_CHROMA)
    distance = np.minimum(np.linalg.norm(lab, axis=1), np.linalg.norm(lab - (100, 0, 0), axis=1))
    colors = []
    for _ in range(count):
        muted = np.where(is_muted, distance, 0)
        farthest = (muted if muted.max() >= CLEAR_DIFFERENCE else distance).argmax()
        colors.append(candidates[farthest].tolist())
        distance = np.minimum(distance, np.linalg.norm(lab - lab[farthest], axis=1))
    return colors


def class_colors(config: PreTrainedConfig) -> list[list[int]]:
    """RGB colour, 0 to 255, of each class of a model: its palette, or [`distinct_colors`] if it has none."""
    return getattr(config, "palette", None) or distinct_colors(len(config.id2label))


def color_label_map(label_map: np.ndarray, colors: list[list[int]], ignore_index: int | None = None) -> Image.Image:
    """A label map `(height, width)` in the RGB `colors` of its classes, 0 to 255; `ignore_index`, if any, is black."""
    ignored = label_map == ignore_index
    pixels = np.array(colors, dtype=np.uint8)[np.where(ignored, 0, label_map)]
    pixels[ignored] = IGNORED_COLOR
    return Image.fromarray(pixels)


def overlay(
    photo: Photo,
    label_map: np.ndarray,
    colors: list[list[int]],
    opacity: float = 0.55,
    ignore_index: int | None = None,
) -> Image.Image:
    """A photo with its predicted label map laid over it; `opacity` from 0 (the photo) to 1 (the colours). Where the
    label map is `ignore_index`, if any, the photo is darkened.
    """
    return Image.blend(shown_photo(photo), color_label_map(label_map, colors, ignore_index), opacity)


def class_shares(label_map: np.ndarray) -> dict[int, float]:
    """Share of the area, 0 to 1, of each class in a label map, the largest first."""
    return shares_of(*np.unique(label_map, return_counts=True))


def shares_of(ids: np.ndarray, counts: np.ndarray) -> dict[int, float]:
    """As [`class_shares`], by the class ids that occur and how many pixels have each."""
    return {int(ids[i]): float(counts[i] / counts.sum()) for i in np.argsort(-counts, kind="stable")}


def draw_legend(width: int, entries: list[tuple[str, list[int]]]) -> Image.Image:
    """A white strip with a swatch and a name for each entry, `width` pixels wide, or as wide as the longest entry."""
    entries = [(one_line(name, LONGEST_TEXT), color) for name, color in entries]
    widths = [SWATCH + SWATCH_GAP + int(FONT.getlength(name)) + 2 * MARGIN for name, _ in entries]
    width = max(width, MARGIN + max(widths))
    positions, left, top = [], MARGIN, MARGIN
    for entry_width in widths:
        if left > MARGIN and left + entry_width > width:
            left, top = MARGIN, top + LINE_HEIGHT
        positions.append((left, top))
        left += entry_width
    legend = Image.new("RGB", (width, top + LINE_HEIGHT), "white")
    draw = ImageDraw.Draw(legend)
    for (name, color), (left, top) in zip(entries, positions):
        draw.rectangle((left, top + 2, left + SWATCH, top + 2 + SWATCH), fill=tuple(color), outline="black")
        draw.text((left + SWATCH + SWATCH_GAP, top), name, fill="black", font=FONT)
    return legend


def draw_line(width: int, texts: list[tuple[int, str]]) -> Image.Image:
    """A white strip of `width` pixels with texts, each from the given distance to the left edge."""
    line = Image.new("RGB", (width, LINE_HEIGHT), "white")
    for left, text in texts:
        ImageDraw.Draw(line).text((left, 2), one_line(text, LONGEST_TEXT), fill="black", font=FONT)
    return line


def stack(pictures: list[Image.Image]) -> Image.Image:
    """Pictures below each other on white."""
    sheet = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet


def overlay_with_legend(
    photo: Photo,
    label_map: np.ndarray,
    colors: list[list[int]],
    id2label: dict[int, str],
    ignore_index: int | None = None,
    shares: dict[int, float] | None = None,
) -> Image.Image:
    """A photo with its predicted label map laid over it, and a legend of the classes that occur, the largest first.
    `ignore_index`, if any, stands for no class. `shares` are those of the area if both are only shown smaller.
    """
    entries = [
        (f"{NO_CLASS} {share:.1%}", IGNORED_COLOR) if i == ignore_index else (f"{id2label[i]} {share:.1%}", colors[i])
        for i, share in (shares or class_shares(label_map)).items()
    ]
    picture = overlay(photo, label_map, colors, ignore_index=ignore_index)
    return stack([picture, draw_legend(picture.width, entries)])


def confidence_colors(confidence: np.ndarray) -> np.ndarray:
    """RGB colours, uint8 of shape `(height, width, 3)`, of confidences from 0, dark blue, to 1, yellow."""
    import cv2  # Costs time, and most pictures need none of it.

    levels = np.rint(confidence * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def draw_scale(width: int) -> Image.Image:
    """A white strip with the [`confidence_colors`] from 0 to 100 %, `width` pixels wide, or as wide as it needs."""
    width = max(width, SHORTEST_SCALE)
    strip = Image.new("RGB", (width, LINE_HEIGHT + SWATCH), "white")
    bar_width = width - 2 * MARGIN
    bar = np.tile(np.linspace(0, 1, bar_width, dtype=np.float32), (SWATCH, 1))
    strip.paste(Image.fromarray(confidence_colors(bar)), (MARGIN, 0))
    for share, anchor in ((0.0, "la"), (0.25, "ma"), (0.5, "ma"), (0.75, "ma"), (1.0, "ra")):
        place = (MARGIN + share * bar_width, SWATCH + 2)
        ImageDraw.Draw(strip).text(place, f"{share:.0%}", fill="black", font=FONT, anchor=anchor)
    return strip


def confidence_picture(photo: Photo, confidence: np.ndarray, opacity: float = 0.7) -> Image.Image:
    """A photo under the colours of the confidence in its label map, with its mean and the scale below. `confidence` is
    of shape `(height, width)`, 0 to 1; `opacity` is as in [`overlay`].
    """
    heat = Image.blend(shown_photo(photo), Image.fromarray(confidence_colors(confidence)), opacity)
    mean = f"mean confidence {confidence.mean(dtype=np.float64):.1%}"
    width = max(heat.width, SHORTEST_SCALE)
    return stack([heat, draw_line(width, [(MARGIN, mean)]), draw_scale(width)])


def column_starts(count: int, size: int) -> list[int]:
    """Where the columns of a sheet begin, and at last where it ends."""
    return [MARGIN + column * (size + MARGIN) for column in range(count + 1)]


def draw_headings(texts: Sequence[str], size: int) -> Image.Image:
    """A white strip with a text above each column of pictures of `size` pixels."""
    *lefts, width = column_starts(len(texts), size)
    return draw_line(width, list(zip(lefts, texts)))


def picture_row(photo: Image.Image, others: list[Image.Image], size: int) -> Image.Image:
    """A photo and beside it other pictures, such as label maps in colours, which are not smoothed, all of the photo's
    shape; its longer side is `size` pixels.
    """
    first, *lefts, width = column_starts(len(others) + 1, size)
    scale = size / max(photo.size)
    shown_size = (max(1, round(scale * photo.width)), max(1, round(scale * photo.height)))
    row = Image.new("RGB", (width, shown_size[1] + MARGIN), "white")
    row.paste(photo.resize(shown_size, Image.Resampling.BICUBIC), (first, 0))
    for left, picture in zip(lefts, others):
        row.paste(picture.resize(shown_size, Image.Resampling.NEAREST), (left, 0))
    return row


def comparison_sheet(
    samples: list[tuple[Photo, np.ndarray, np.ndarray]],
    colors: list[list[int]],
    id2label: dict[int, str],
    captions: list[str] | None = None,
    size: int = 360,
    ignore_index: int = IGNORED_LABEL,
) -> Image.Image:
    """Rows of photo, ground truth and prediction, whose longer side is `size` pixels, with a legend of all classes
    that occur. A caption is a line of text above its row; `ignore_index` is that of the true label maps.
    """
    rows = [draw_headings(("photo", "ground truth", "prediction"), size)]
    occurring: set[int] = set()
    has_ignored = False
    for index, (photo, label_map, prediction) in enumerate(samples):
        ignored = label_map == ignore_index
        occurring.update(np.unique(label_map[~ignored]).tolist(), np.unique(prediction).tolist())
        has_ignored |= bool(ignored.any())
        colored = [color_label_map(label_map, colors, ignore_index), color_label_map(prediction, colors)]
        row = picture_row(shown_photo(photo), colored, size)
        rows += [draw_line(row.width, [(MARGIN, captions[index])]), row] if captions else [row]
    entries = [(id2label[i], colors[i]) for i in sorted(occurring)]
    if has_ignored:
        entries.append(("ignored", IGNORED_COLOR))
    return stack([*rows, draw_legend(rows[0].width, entries)])
