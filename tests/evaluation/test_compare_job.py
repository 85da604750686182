"""`setr-hf compare`: differences of the classes, agreement, and the bootstrap interval."""

import json

import numpy as np
import pytest
import torch
from model_folders import NAMES, save_model
from paths import SCRIPTS
from PIL import Image

from setr_hf.data.label_sets import LabelSet
from setr_hf.data.rows import Sample
from setr_hf.errors import SetrError
from setr_hf.evaluation.comparison import bootstrap_intervals, compare_records, comparison_record, print_comparison
from setr_hf.evaluation.records import counts_of
from setr_hf_cli import load_script


COMPARE = SCRIPTS / "compare.py"


def records_of(matrices):
    return [{"index": i, "name": str(i), **counts_of(np.array(m))} for i, m in enumerate(matrices)]


def test_known_differences_and_agreement(capsys):
    sample = Sample("a", Image.new("RGB", (4, 1)), np.array([[0, 0, 1, 1]], np.uint8))
    first, second = torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 0]])
    record = {"index": 0, "name": "a", **comparison_record(sample, first, second, 2)}
    comparison = compare_records([record], LabelSet.direct(["a", "b"]))
    assert comparison["agreement"] == 0.5
    assert [row["first"] for row in comparison["classes"]] == [1 / 2, 2 / 3]
    assert [row["second"] for row in comparison["classes"]] == [2 / 3, 1 / 2]
    assert [row["difference"] for row in comparison["classes"]] == pytest.approx([1 / 6, -1 / 6])
    assert comparison["difference"] == pytest.approx(0)
    print_comparison(comparison)
    table = capsys.readouterr().out
    assert "50.00 % of the pixels" in table
    row = ["a", "50.00", "66.67", "+16.67", "+16.67", "to", "+16.67"]
    assert row in [line.split() for line in table.splitlines()]


def test_the_bootstrap_equals_drawing_images_by_hand():
    rng = np.random.default_rng(1)
    first = [rng.integers(0, 50, (3, 3)) for _ in range(20)]
    second = [rng.integers(0, 50, (3, 3)) + 20 * np.eye(3, dtype=int) for _ in range(20)]

    def ious(matrices):
        total = sum(matrices)
        diagonal = total.diagonal()
        iou = diagonal / (total.sum(0) + total.sum(1) - diagonal)
        return np.append(iou, iou.mean())

    draws = np.random.default_rng(7).multinomial(20, np.full(20, 1 / 20), size=300)
    by_hand = [
        ious([m * n for m, n in zip(second, draw)]) - ious([m * n for m, n in zip(first, draw)]) for draw in draws
    ]
    intervals = bootstrap_intervals(records_of(first), records_of(second), 3, draws=300, seed=7)
    np.testing.assert_allclose(intervals, np.percentile(by_hand, [2.5, 97.5], axis=0).T, atol=1e-12)
    assert intervals[-1][0] > 0, "the second model is better by construction"
    assert bootstrap_intervals(records_of(first), records_of(first), 3) == [(0.0, 0.0)] * 4
    absent = [np.pad(matrix, (0, 1)) for matrix in first]
    assert bootstrap_intervals(records_of(absent), records_of(absent), 4)[3] is None


def test_two_models_on_a_folder(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for kind in ("images", "annotations"):
        (tmp_path / "data" / kind / "val").mkdir(parents=True)
    for index in range(4):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / f"data/images/val/{index}.png")
        labels = Image.fromarray(rng.integers(0, 4, (40, 50), np.uint8))
        labels.save(tmp_path / f"data/annotations/val/{index}.png")
    (tmp_path / "data/labels.json").write_text(json.dumps({"id2label": dict(enumerate(NAMES))}))
    save_model(tmp_path / "a", NAMES, seed=0)
    save_model(tmp_path / "b", NAMES, seed=1)

    def run(first, second, output, *more):
        models = [str(tmp_path / first), str(tmp_path / second), *more]
        options = ["--dataset", str(tmp_path / "data"), "--output", str(tmp_path / output), "--threads", "1"]
        assert load_script(COMPARE).main([*models, *options]) == 0
        return json.loads((tmp_path / output / "comparison.json").read_text())

    different, same = run("a", "b", "ab"), run("a", "a", "aa")
    assert 0 < different["agreement"] < 1
    assert different["difference"] == different["second"]["mean_iou"] - different["first"]["mean_iou"] != 0
    assert same["agreement"] == 1.0 and same["difference"] == 0.0 and same["interval"] == [0.0, 0.0]
    assert "95 % bootstrap interval" in capsys.readouterr().out
    (tmp_path / "data/images/val/1.png").write_bytes(b"no image")
    with pytest.raises(SetrError, match="1 of 4 samples cannot be used: the image of 1 "):
        run("a", "b", "bad")
    assert not (tmp_path / "bad/comparison.json").exists()
    skipped = run("a", "b", "bad", "--skip-bad-samples")
    for which in ("first", "second"):
        assert [image["name"] for image in skipped[which]["images"]] == ["0", "2", "3"]
        assert [bad["name"] for bad in skipped[which]["bad_samples"]] == ["1"]
    assert "% of the pixels of 3 of 4 images, 1 bad samples skipped" in capsys.readouterr().out
    save_model(tmp_path / "c", ["one", "two"])
    with pytest.raises(SetrError, match=r"/c: the model has 2 classes, the data set 4"):
        run("a", "c", "ac")
