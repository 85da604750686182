"""Pictures of an evaluation: bars of the IoU of each class, and the confusion matrix."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont


MARGIN = 12
BAR_HEIGHT = 16
BAR_WIDTH = 500
BAR_COLOR = (58, 110, 165)
GRID_COLOR = (205, 205, 205)
TEXT_SIZE = 12
# Colours of the shares 0, 1/4, 1/2, 3/4 and 1 of a true class's pixels.
HEAT_COLORS = np.array([(255, 255, 255), (190, 215, 235), (105, 165, 210), (35, 100, 170), (8, 40, 95)])


def text_width(font: ImageFont.FreeTypeFont, texts: list[str]) -> int:
    return int(max(font.getlength(text) for text in texts)) + 1


def class_bars(classes: list[dict], title: str) -> Image.Image:
    """
    Horizontal bars of the IoU, 0 to 100 %, of each class, the best at the top; absent classes at the bottom, without.

    Args:
        classes: `name` and `iou` (0 to 1, or `None` for an absent class) of each class.
        title: Text above the bars.
    """
    font = ImageFont.load_default(TEXT_SIZE)
    rows = sorted(classes, key=lambda row: -1 if row["iou"] is None else row["iou"], reverse=True)
    left = MARGIN + text_width(font, [row["name"] for row in rows]) + MARGIN
    top = 2 * MARGIN + 2 * TEXT_SIZE
    bottom = top + len(rows) * (BAR_HEIGHT + 4)
    width = left + BAR_WIDTH + MARGIN + text_width(font, ["absent", "100.0 %"]) + MARGIN
    picture = Image.new("RGB", (max(width, text_width(font, [title]) + 2 * MARGIN), bottom + MARGIN), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN), title, fill="black", font=font)
    for percent in range(0, 101, 20):
        x = left + BAR_WIDTH * percent // 100
        draw.line((x, top - 4, x, bottom), fill=GRID_COLOR)
        draw.text((x, top - 4), f"{percent}", fill="gray", font=font, anchor="ms")
    for index, row in enumerate(rows):
        y = top + index * (BAR_HEIGHT + 4)
        middle = y + BAR_HEIGHT // 2
        length = round(BAR_WIDTH * (row["iou"] or 0))
        draw.text((left - MARGIN // 2, middle), row["name"], fill="black", font=font, anchor="rm")
        draw.rectangle((left, y, left + length, y + BAR_HEIGHT), fill=BAR_COLOR)
        value = "absent" if row["iou"] is None else f"{100 * row['iou']:.1f} %"
        draw.text((left + length + MARGIN // 2, middle), value, fill="black", font=font, anchor="lm")
    return picture


def heat_colors(shares: np.ndarray) -> np.ndarray:
    """RGB colours, uint8 of shape `(…, 3)`, of shares from 0 (white) to 1 (dark blue)."""
    stops = np.linspace(0, 1, len(HEAT_COLORS))
    channels = [np.interp(shares, stops, HEAT_COLORS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def confusion_picture(matrix: np.ndarray, names: list[str]) -> Image.Image:
    """
    The confusion matrix as a heat map: in the row of each true class, the share of its pixels that is predicted as
    each class. Rows of classes without labelled pixels stay white.
    """
    cell = max(10, min(32, 900 // len(names)))
    font = ImageFont.load_default(min(TEXT_SIZE, cell))
    label_width = text_width(font, names)
    left = top = MARGIN + label_width + MARGIN // 2
    top += 2 * TEXT_SIZE
    side = cell * len(names)
    labelled = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(labelled, 1)
    heat = Image.fromarray(heat_colors(shares)).resize((side, side), Image.Resampling.NEAREST)
    caption = "share of each true class (row) that is predicted as each class (column)"
    width = max(left + side, MARGIN + text_width(font, [caption])) + MARGIN
    picture = Image.new("RGB", (width, top + side + MARGIN), "white")
    picture.paste(heat, (left, top))
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN), caption, fill="black", font=font)
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=GRID_COLOR)
    for index, name in enumerate(names):
        middle = index * cell + cell // 2
        draw.text((left - MARGIN // 2, top + middle), name, fill="black", font=font, anchor="rm")
        column = Image.new("RGB", (label_width, cell), "white")
        ImageDraw.Draw(column).text((0, cell // 2), name, fill="black", font=font, anchor="lm")
        picture.paste(column.rotate(90, expand=True), (left + index * cell, top - MARGIN // 2 - label_width))
        share = shares[index, index]
        if cell >= 28 and labelled[index]:
            color = "white" if share > 0.5 else "black"
            center = (left + middle, top + middle)
            draw.text(center, f"{100 * share:.0f}", fill=color, font=font, anchor="mm")
    return picture
