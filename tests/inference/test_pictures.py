"""Pictures of label maps, by their pixels."""

import numpy as np
import pytest
from PIL import Image

from setr_hf.data.public_datasets import PALETTES
from setr_hf.inference.pictures import (
    class_colors,
    color_label_map,
    comparison_sheet,
    distinct_colors,
    draw_legend,
    overlay,
    overlay_with_legend,
)


COLORS = [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
NAMES = {0: "sky", 1: "tree", 2: "road"}


def pixels_of_color(picture, color):
    """Rows and columns of the pixels of a colour."""
    return np.nonzero((np.asarray(picture) == color).all(axis=-1))


def test_a_palette_wins_over_generated_colors(tiny_config):
    assert class_colors(tiny_config(num_labels=150, palette=PALETTES["ade20k"])) == PALETTES["ade20k"]
    assert class_colors(tiny_config(num_labels=4)) == distinct_colors(4)


def test_generated_colors_are_distinct_and_the_first_ones_are_not_signal_colors():
    colors = distinct_colors(1000)
    assert len({tuple(color) for color in colors}) == 1000
    assert [0, 0, 0] not in colors, "ignored pixels are black"
    assert distinct_colors(20) == colors[:20]
    differences = np.linalg.norm(np.subtract(colors[:20], np.array(colors[:20])[:, None]), axis=-1)
    assert differences[~np.eye(20, dtype=bool)].min() > 30
    assert all(min(color) > 0 or max(color) < 255 for color in colors[:20])


def test_each_pixel_has_the_color_of_its_class_and_ignored_ones_are_black():
    label_map = np.array([[0, 1], [2, 255]], np.uint8)
    picture = np.asarray(color_label_map(label_map, COLORS, ignore_index=255))
    assert picture.tolist() == [[COLORS[0], COLORS[1]], [COLORS[2], [0, 0, 0]]]


def test_predictions_of_more_than_255_classes_keep_all_their_colors():
    colors = distinct_colors(300)
    label_map = np.array([[0, 254, 255, 256, 299]], np.uint16)
    assert np.asarray(color_label_map(label_map, colors)).tolist() == [[colors[i] for i in label_map[0]]]
    overlay_with_legend(Image.new("RGB", (5, 1)), label_map, colors, {i: f"class {i}" for i in range(300)})


def test_an_overlay_mixes_photo_and_color():
    photo = Image.new("L", (2, 1), 100)
    mixed = np.asarray(overlay(photo, np.array([[0, 1]]), COLORS, opacity=0.5))
    assert mixed.tolist() == [[[150, 50, 50], [50, 150, 50]]]


@pytest.mark.parametrize("width", [20, 40, 75, 160, 1000])
def test_legends_are_never_cut_off(width):
    entries = [(f"{name} with a long name", color) for name, color in zip(NAMES.values(), COLORS)]
    legend = draw_legend(width, entries)
    assert legend.width >= width
    margins = [legend.crop((0, 0, 4, legend.height)), legend.crop((legend.width - 4, 0, *legend.size))]
    assert all(picture.getextrema() == ((255, 255),) * 3 for picture in margins), "text reaches the edge"
    for color in COLORS:
        rows, columns = pixels_of_color(legend, color)
        assert np.ptp(rows) == np.ptp(columns) > 10, "each swatch is whole"


def test_a_legend_wraps_into_rows():
    entries = list(zip(NAMES.values(), COLORS))
    assert draw_legend(40, entries).height > draw_legend(150, entries).height > draw_legend(400, entries).height


def test_an_overlay_of_a_narrow_photo_is_as_wide_as_its_legend():
    photo, label_map = Image.new("RGB", (40, 30), "white"), np.zeros((30, 40), np.uint8)
    picture = overlay_with_legend(photo, label_map, COLORS, {0: "a class with a rather long name"})
    assert picture.width > 200
    rows, columns = pixels_of_color(picture, np.asarray(overlay(photo, label_map, COLORS))[0, 0])
    assert (rows.max(), columns.max()) == (29, 39)


@pytest.fixture
def samples():
    """A landscape photo and a portrait one; in the first prediction class 255 of 300 occurs, in its label map 255."""
    landscape, portrait = Image.new("RGB", (40, 20), (250, 250, 0)), Image.new("RGB", (10, 30), (0, 250, 250))
    label_map = np.zeros((20, 40), np.uint8)
    label_map[:, :20] = 255
    return [
        (landscape, label_map, np.full((20, 40), 255, np.uint16)),
        (portrait, np.ones((30, 10), np.uint8), np.full((30, 10), 2, np.uint8)),
    ]


def test_a_sheet_shows_photo_ground_truth_and_prediction_side_by_side(samples):
    colors = distinct_colors(300)
    id2label = {i: f"class {i}" for i in range(300)}
    sheet = comparison_sheet(samples, colors, id2label, size=120)
    photo_rows, photo_columns = pixels_of_color(sheet, (250, 250, 0))
    assert (np.ptp(photo_rows) + 1, np.ptp(photo_columns) + 1) == (60, 120)
    top, left = photo_rows.min(), photo_columns.min()
    pixels = np.asarray(sheet)
    second, third = left + 120 + left, left + 2 * (120 + left)
    assert (pixels[top : top + 60, second : second + 60] == 0).all(), "ignored pixels are black"
    assert (pixels[top : top + 60, second + 60 : second + 120] == colors[0]).all()
    assert (pixels[top : top + 60, third : third + 120] == colors[255]).all()
    portrait_rows, portrait_columns = pixels_of_color(sheet, (0, 250, 250))
    assert (np.ptp(portrait_rows) + 1, np.ptp(portrait_columns) + 1) == (120, 40)
    for color in (colors[1], colors[2], (0, 0, 0)):
        rows, _ = pixels_of_color(pixels[portrait_rows.max() + 1 :], color)
        assert rows.size, "the legend names every class that occurs, and what is ignored"


def test_captions_stand_above_their_rows(samples):
    id2label = {i: f"class {i}" for i in range(300)}
    plain, captioned = (
        np.asarray(comparison_sheet(samples, distinct_colors(300), id2label, captions, size=120))
        for captions in (None, ["street_1  mean IoU 3.1 %", "street_2  mean IoU 4.5 %"])
    )
    line_height = (len(captioned) - len(plain)) // 2
    for color in ((250, 250, 0), (0, 250, 250)):
        top = pixels_of_color(captioned, color)[0].min()
        assert (captioned[top - line_height : top] < 100).any(), "there is text"


def test_names_without_a_glyph_in_the_font_do_not_matter(samples):
    comparison_sheet(samples, distinct_colors(300), dict.fromkeys(range(300), "空"), ["空", "空"])


def test_names_of_any_origin_are_drawn_in_a_line_of_bounded_length():
    legend = draw_legend(100, [("two\nlines\x1b[2J", [1, 2, 3]), ("x" * 10**6, [4, 5, 6])])
    assert legend.width < 5000 and legend.height < 100
