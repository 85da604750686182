"""Scores from records, and the table that is printed."""

import numpy as np

from setr_hf.data.label_sets import LabelSet
from setr_hf.evaluation.records import counts_of
from setr_hf.evaluation.results import print_scores, summarize, worst_images


def test_worst_images_are_those_of_lowest_miou_and_ignored_images_are_not_among_them():
    def record(index, matrix):
        return {"index": index, "name": f"n{index}", **counts_of(np.array(matrix))}

    records = [record(0, [[4, 0], [0, 0]]), record(1, [[0, 4], [0, 0]]), record(2, [[0, 0], [0, 0]])]
    summary, matrix = summarize(records, LabelSet.direct(["a", "b"]))
    assert [(image["name"], image["mean_iou"]) for image in worst_images(summary, 3)] == [("n1", 0.0), ("n0", 1.0)]
    assert matrix.tolist() == [[4, 4], [0, 0]]
    assert summary["classes"][0]["iou"] == 0.5 and summary["classes"][1]["iou"] == 0.0


def test_the_table_shows_percentages_and_names_absent_classes(capsys):
    record = {"index": 0, "name": "a", **counts_of(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))}
    summary, _ = summarize([record], LabelSet.direct(["sky", "tree", "sea"]))
    print_scores(summary)
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["sky", "75.00", "75.00", "85.71", "4"] in table
    assert ["sea", "–", "–", "–", "0"] in table
    assert table[-2][:2] == ["mIoU", "77.50"] and table[-1][-1] == "sea"
