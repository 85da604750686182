"""Charts of an evaluation, from a few classes to many, and with names that the font or matplotlib's markup lack."""

import itertools
import warnings

import numpy as np
import pytest
from PIL import Image

from setr_hf.evaluation.charts import class_bars, confusion_heat_map, save_chart


def texts(figure):
    figure.canvas.draw()
    axes = figure.axes[0]
    return [text.get_text() for text in (*axes.get_yticklabels(), *axes.texts)]


@pytest.mark.parametrize("num_classes", [2, 19, 150])
def test_charts_grow_with_the_classes_so_that_names_do_not_overlap(num_classes, tmp_path):
    names = [f"class {i}" for i in range(num_classes)]
    bars = class_bars([{"name": name, "iou": 0.5} for name in names], "IoU")
    heat_map = confusion_heat_map(np.eye(num_classes, dtype=int), names)
    for figure in (bars, heat_map):
        figure.canvas.draw()
        boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
        assert len(boxes) == num_classes
        tops = sorted((box.y0, box.y1) for box in boxes)
        assert all(lower[1] <= upper[0] + 1 for lower, upper in itertools.pairwise(tops))
        assert min(box.x0 for box in boxes) >= 0, "no name is cut off"


def test_bars_are_sorted_and_absent_classes_come_last():
    rows = [{"name": "sea", "iou": None}, {"name": "sky", "iou": 0.25}, {"name": "tree", "iou": 0.75}]
    figure = class_bars(rows, "IoU")
    assert texts(figure) == ["tree", "sky", "sea", "75.0", "25.0", "absent"]
    assert [bar.get_width() for bar in figure.axes[0].patches] == [75, 25, 0]


def test_each_row_of_the_heat_map_holds_the_shares_of_a_true_class():
    figure = confusion_heat_map(np.array([[3, 1], [0, 0]]), ["sky", "tree"])
    shares = figure.axes[0].images[0].get_array()
    assert shares[0].tolist() == [0.75, 0.25] and np.isnan(shares[1].filled(np.nan)).all()
    assert texts(figure) == ["sky", "tree", "75", "25"]


def test_any_class_name_can_be_drawn(tmp_path):
    names = ["空", "a $b$ c_d", "$", "\\frac"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_chart(class_bars([{"name": name, "iou": 0.5} for name in names], "IoU"), tmp_path / "bars.png")
        save_chart(confusion_heat_map(np.eye(4, dtype=int), names), tmp_path / "matrix.png")
    with Image.open(tmp_path / "bars.png") as bars, Image.open(tmp_path / "matrix.png") as matrix:
        assert min(*bars.size, *matrix.size) > 100
