"""Confidence against accuracy: the bins of an evaluation, their expected calibration error, and the temperature."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from data_folders import write_data
from model_folders import NAMES, save_model
from paths import SCRIPTS
from PIL import Image
from transformers.utils import IMAGE_PROCESSOR_NAME

from setr_hf.data.label_sets import LabelSet
from setr_hf.data.rows import Sample
from setr_hf.errors import SetrError
from setr_hf.evaluation.charts import reliability_diagram, save_chart
from setr_hf.evaluation.records import counts_of, find_records
from setr_hf.evaluation.reliability import (
    COUNTS,
    FIXED_POINT,
    NUM_BINS,
    bin_counts,
    calibration_record,
    check_calibration_record,
    summarize_calibration,
)
from setr_hf.evaluation.results import image_mean_iou, print_scores, summarize
from setr_hf.evaluation.temperature import (
    LabelledScores,
    calibration_error,
    fit_temperature,
    negative_log_likelihood,
    sample_scores,
)
from setr_hf.files import append_lines, read_text
from setr_hf.inference.loading import load_model
from setr_hf_cli import load_script


def error_by_hand(confidence, correct):
    """Equation 3 of Guo et al. with a mask for each bin."""
    edges = np.linspace(0, 1, NUM_BINS + 1)
    error = 0.0
    for low, high in pairwise(edges):
        chosen = (confidence >= low) & ((confidence < high) | (high == 1))
        if chosen.any():
            error += chosen.mean() * abs(correct[chosen].mean() - confidence[chosen].mean())
    return error


def record_of(confidence, correct):
    return {"calibration": dict(zip(COUNTS, bin_counts(confidence, correct).tolist()))}


def test_the_error_of_all_images_is_that_of_their_pixels_together():
    rng = np.random.default_rng(0)
    parts = [rng.uniform(0.2, 1, size).astype(np.float32) for size in (1, 500, 3000)]
    correct = [rng.uniform(size=len(part)) < part**2 for part in parts]
    records = [{"calibration": None}, *map(record_of, parts, correct)]
    summary = summarize_calibration(records)
    expected = error_by_hand(np.concatenate(parts).astype(np.float64), np.concatenate(correct))
    assert summary["expected_calibration_error"] == pytest.approx(expected, abs=1e-6) and expected > 0.1
    assert sum(row["pixels"] for row in summary["calibration"]) == 3501
    assert summary == summarize_calibration(records[::-1]), "sums must not depend on their order"


def test_bins_have_their_lower_edge_and_the_last_one_both():
    confidence = np.array([0.0, 1 / 15, 0.5, 1.0, 1.0], np.float32)
    pixels, correct, sums = bin_counts(confidence, np.array([True, False, True, True, False]))
    assert np.flatnonzero(pixels).tolist() == [0, 1, 7, 14] and pixels[14] == 2
    assert correct.sum() == 3 and correct[14] == 1 and sums[14] == 2 * FIXED_POINT


def test_without_labelled_pixels_there_is_no_error():
    for records in ([], [{"calibration": None}], [record_of(np.array([], np.float32), np.array([], bool))]):
        summary = summarize_calibration(records)
        assert summary["expected_calibration_error"] is None
        assert {row["accuracy"] for row in summary["calibration"]} == {None}


def test_a_record_counts_labelled_pixels_alone(tmp_path):
    truth = np.array([[0, 1, 255, 255]], np.uint8)
    prediction = torch.tensor([[0, 0, 1, 0]]), torch.tensor([[0.9, 0.6, 0.5, 0.5]])
    record = calibration_record(Sample("a", Image.new("RGB", (4, 1)), truth), prediction, 2)
    assert record["cells"] == [0, 2] and sum(record["calibration"]["pixels"]) == 2
    check_calibration_record(json.loads(json.dumps(record)), 2, True)
    assert summarize_calibration([record])["expected_calibration_error"] == pytest.approx((0.1 + 0.6) / 2, abs=1e-6)
    bare = calibration_record(Sample("a", Image.new("RGB", (4, 1)), None), prediction, 2)
    assert bare == {"cells": None, "counts": None, "calibration": None}
    check_calibration_record(bare, 2, False)


PIXELS = [0] * 14 + [6]
GOOD = {"pixels": PIXELS, "correct": [0] * 14 + [5], "confidence": [0] * 14 + [6 * FIXED_POINT]}


@pytest.mark.parametrize(
    "calibration",
    [
        None,
        {},
        [PIXELS] * 3,
        {**GOOD, "pixels": PIXELS[1:]},
        {**GOOD, "pixels": [1, *PIXELS[1:]]},
        {**GOOD, "pixels": [-1, 1, *PIXELS[2:]]},
        {**GOOD, "correct": [0] * 14 + [7]},
        {**GOOD, "correct": [0] * 14 + [5.0]},
        {**GOOD, "confidence": [0] * 14 + [6 * FIXED_POINT + 1]},
        {**GOOD, "confidence": [1] + [0] * 14},
        {**GOOD, "confidence": [0] * 14},
        {**GOOD, "confidence": [0] * 14 + [float("nan")]},
        {name: GOOD[name] for name in ("pixels", "correct")},
    ],
)
def test_a_record_without_a_whole_calibration_names_file_and_line(calibration, tmp_path):
    record = {"index": 0, "name": "a", **counts_of(np.array([[2, 0], [1, 3]])), "calibration": GOOD}

    def find():
        return find_records(tmp_path, ["a", "b"], lambda record: check_calibration_record(record, 2, True))

    append_lines(tmp_path / "process-0.jsonl", [json.dumps(record)])
    assert list(find()) == [0]
    append_lines(
        tmp_path / "process-0.jsonl", [json.dumps({**record, "index": 1, "name": "b", "calibration": calibration})]
    )
    with pytest.raises(SetrError, match=r"line 2 of .*process-0.jsonl is damaged"):
        find()


def test_an_image_without_annotation_has_no_calibration():
    with pytest.raises(ValueError, match="calibration of an image that has no annotation"):
        check_calibration_record({"cells": None, "counts": None, "calibration": GOOD}, 2, False)


# By hand, as in Wang et al.: class 2 is only predicted, and lowers the IoU of class 0 alone.
def test_the_mean_iou_of_an_image_is_over_its_labelled_classes():
    assert image_mean_iou(np.array([[2, 0, 2], [0, 4, 0], [0, 0, 0]])) == (2 / 4 + 1) / 2
    assert np.isnan(image_mean_iou(np.zeros((3, 3), int)))


def test_the_table_shows_the_means_over_images_and_the_calibration_error(capsys):
    matrices = [[[3, 1], [0, 4]], [[8, 0], [0, 0]], [[0, 0], [0, 0]]]
    records = [{"index": i, "name": str(i), **counts_of(np.array(m))} for i, m in enumerate(matrices)]
    summary, _ = summarize(records, LabelSet.direct(["sky", "tree"]))
    assert summary["per_image_mean_iou"] == pytest.approx(((3 / 4 + 4 / 5) / 2 + 1) / 2)
    print_scores(summary)
    assert "per-image mIoU 88.75  of 3 images" in capsys.readouterr().out
    print_scores({**summary, **summarize_calibration([record_of(np.array([0.75], np.float32), np.array([True]))])})
    assert "per-image mIoU 88.75  ECE 25.00  of 3 images" in capsys.readouterr().out
    assert summarize([], LabelSet.direct(["sky"]))[0]["per_image_mean_iou"] is None


def test_the_reliability_diagram_shows_each_bin_that_has_pixels(tmp_path):
    bins = summarize_calibration([record_of(np.array([0.3, 0.9, 0.9], np.float32), np.array([False, True, False]))])
    figure = reliability_diagram(bins["calibration"], "ECE")
    upper, lower = figure.axes
    _, line = upper.lines
    assert line.get_xdata() == pytest.approx([30, 90]) and line.get_ydata() == pytest.approx([0, 50])
    assert sum(bar.get_height() for bar in lower.patches) == pytest.approx(100)
    save_chart(figure, tmp_path / "reliability.png")
    with Image.open(tmp_path / "reliability.png") as picture:
        assert min(picture.size) > 300


def labelled_scores(count=20_000, num_labels=6, factor=1.0):
    """Scores times `factor`, and classes drawn from the softmax of the scores: calibrated but for the factor."""
    generator = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(count, num_labels, generator=generator)
    labels = torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0]
    return LabelledScores(factor * scores, labels, torch.ones(count))


@pytest.mark.parametrize("factor", [0.2, 1.0, 3.0])
def test_the_temperature_finds_the_factor_by_which_scores_were_scaled(factor):
    pixels = labelled_scores(factor=factor)
    temperature = fit_temperature(pixels)
    assert temperature == pytest.approx(factor, rel=0.03)
    assert temperature == pytest.approx(factor * fit_temperature(labelled_scores()), rel=1e-4)
    best = negative_log_likelihood(pixels, temperature)
    assert all(negative_log_likelihood(pixels, near * temperature) > best for near in (0.99, 1.01))
    error = calibration_error(pixels, temperature)
    assert error < 0.01 and (factor == 1 or calibration_error(pixels, 1.0) > 5 * error)


def test_the_error_of_sampled_pixels_is_that_of_their_bins():
    pixels = labelled_scores(500)
    confidence, predicted = pixels.scores.double().div(1.5).softmax(-1).max(-1)
    expected = error_by_hand(confidence.numpy(), (predicted == pixels.labels).numpy())
    assert calibration_error(pixels, 1.5) == pytest.approx(expected, abs=1e-5)


def test_a_pixel_of_weight_two_counts_as_two():
    pixels = labelled_scores(200)
    doubled = LabelledScores(*(torch.cat([part, part[:100]]) for part in pixels))
    weighted = pixels._replace(weights=torch.tensor([2.0] * 100 + [1.0] * 100))
    for measure in (fit_temperature, lambda p: negative_log_likelihood(p, 2.0), lambda p: calibration_error(p, 2.0)):
        assert measure(weighted) == pytest.approx(measure(doubled), rel=1e-5)


@pytest.mark.parametrize("right", [True, False])
def test_no_temperature_fits_a_model_that_is_always_right_or_always_wrong(right):
    scores = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    with pytest.raises(SetrError, match="right class in all pixels" if right else "no better than chance"):
        fit_temperature(LabelledScores(scores, torch.tensor([0, 1] if right else [1, 0]), torch.ones(2)))


def tiles_of(scores):
    """Scores `(height, width, num_labels)` in four tiles."""
    for rows in (slice(0, 3), slice(3, 7)):
        for columns in (slice(0, 2), slice(2, 9)):
            yield rows, columns, scores[rows, columns]


@pytest.mark.parametrize("count", [5, 1000])
def test_scores_are_sampled_from_labelled_pixels_alone(count):
    scores = torch.arange(7 * 9 * 3.0).view(7, 9, 3)
    label_map = np.arange(63, dtype=np.uint8).reshape(7, 9) % 3
    label_map[2:5] = 255
    pixels = sample_scores(tiles_of(scores), label_map, 3, count, seed=1)
    assert len(pixels.labels) == min(count, 36) and pixels.weights.sum() == pytest.approx(36)
    places = (pixels.scores[:, 0] / 3).long()
    assert len(places.unique()) == len(places)
    assert torch.equal(pixels.scores, scores.view(-1, 3)[places])
    assert torch.equal(pixels.labels, torch.from_numpy(label_map.flatten()[places]).long())
    assert torch.equal(sample_scores(tiles_of(scores), label_map, 3, count, seed=1).scores, pixels.scores)


@pytest.fixture
def model_folder(tmp_path):
    save_model(tmp_path / "model", NAMES)
    return tmp_path / "model"


@pytest.fixture
def data_folder(model_folder, tmp_path):
    """Six small photos whose classes are drawn from what the model finds probable, with twice its scores: it is less
    sure than it should be.
    """
    model, processor = load_model(model_folder)
    write_data(tmp_path / "data", 6, 40, 48, NAMES)
    generator = torch.Generator().manual_seed(0)
    for path in sorted((tmp_path / "data/images/val").iterdir()):
        inputs = processor(Image.open(path), return_tensors="pt")
        with torch.inference_mode():
            outputs = model(**inputs)
        [result] = processor.post_process_semantic_segmentation(outputs, [(40, 48)], return_segmentation_scores=True)
        probabilities = (2 * result["segmentation_scores"]).softmax(0).flatten(1).T
        drawn = torch.multinomial(probabilities, 1, generator=generator).view(40, 48).to(torch.uint8)
        drawn[:4] = 255
        Image.fromarray(drawn.numpy()).save(tmp_path / f"data/annotations/val/{path.stem}.png")
    return tmp_path / "data"


def calibrate(model, data, *more):
    return load_script(SCRIPTS / "calibrate.py").main([str(model), "--dataset", str(data), "--threads", "1", *more])


def evaluate(model, data, output, *more):
    arguments = ["--model", model, "--dataset", data, "--output", output, "--threads", 1, *more]
    assert load_script(SCRIPTS / "evaluate.py").main(list(map(str, arguments))) == 0
    return json.loads((output / "results.json").read_text())


@pytest.mark.parametrize("protocol", ["single", "multi"])
def test_calibrate_writes_the_temperature_alone_and_evaluate_measures_what_it_is_worth(
    protocol, model_folder, data_folder, tmp_path, capsys
):
    options = ["--protocol", protocol]
    before = evaluate(model_folder, data_folder, tmp_path / "before", *options)
    files = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    capsys.readouterr()
    assert calibrate(model_folder, data_folder, *options) == 0
    printed = capsys.readouterr().out
    settings, earlier = (
        json.loads(text) for text in (read_text(model_folder / IMAGE_PROCESSOR_NAME), files[IMAGE_PROCESSOR_NAME])
    )
    temperature = settings.pop("temperature")
    assert earlier.pop("temperature") == 1 and settings == earlier
    del files[IMAGE_PROCESSOR_NAME]
    assert files == {path.name: path.read_bytes() for path in model_folder.iterdir() if path.name in files}
    assert len(list(model_folder.iterdir())) == len(files) + 1
    if protocol == "single":
        assert temperature == pytest.approx(0.5, rel=0.1)
    with pytest.raises(SetrError, match=rf"temperature was 1.0, now {temperature}"):
        evaluate(model_folder, data_folder, tmp_path / "before", *options)
    after = evaluate(model_folder, data_folder, tmp_path / "after", *options)
    assert (tmp_path / "after/reliability.png").exists() and after["settings"]["temperature"] == temperature
    errors = [results["expected_calibration_error"] for results in (before, after)]
    assert errors[1] < errors[0] / 2
    # All labelled pixels are in the sample: figures are those of evaluate.
    table = [line.split() for line in printed.splitlines()]
    assert table[1][0::3] == ["before", f"{100 * errors[0]:.2f}"] and table[2][0] == "after"
    assert float(table[2][3]) == pytest.approx(100 * errors[1], abs=0.02) and float(table[2][2]) < float(table[1][2])
    assert f"from {6 * 36 * 48:,} of {6 * 36 * 48:,} labelled pixels" in printed
    assert np.array_equal(*(np.load(tmp_path / name / "confusion_matrix.npy") for name in ("before", "after")))


def test_calibrating_twice_fits_the_same_temperature(model_folder, data_folder):
    calibrate(model_folder, data_folder)
    first = (model_folder / IMAGE_PROCESSOR_NAME).read_bytes()
    calibrate(model_folder, data_folder)
    assert (model_folder / IMAGE_PROCESSOR_NAME).read_bytes() == first


def test_what_cannot_be_calibrated_is_named_and_the_model_left_alone(model_folder, data_folder, tmp_path, capsys):
    before = (model_folder / IMAGE_PROCESSOR_NAME).read_bytes()
    with pytest.raises(SetrError, match=r"me/model is not a folder; `hf download ID --local-dir FOLDER` makes one"):
        calibrate("me/model", data_folder)
    with pytest.raises(SetrError, match=r"--limit must be at least 1, got 0"):
        calibrate(model_folder, data_folder, "--limit", "0")
    (data_folder / "annotations/val/3.png").unlink()
    with pytest.raises(SetrError, match=r"3 has no annotation\. Repair it, or leave it out with --skip-bad-samples"):
        calibrate(model_folder, data_folder)
    for path in (data_folder / "annotations/val").iterdir():
        Image.new("L", (48, 40), 255).save(path)
    with pytest.raises(SetrError, match="no temperature can be fitted: no sample has a labelled pixel"):
        calibrate(model_folder, data_folder, "--skip-bad-samples")
    assert "bad sample: 3 has no annotation" in capsys.readouterr().err
    assert (model_folder / IMAGE_PROCESSOR_NAME).read_bytes() == before


def test_an_evaluation_without_labelled_pixels_has_no_calibration_error(model_folder, data_folder, tmp_path, capsys):
    for path in (data_folder / "annotations/val").iterdir():
        Image.new("L", (48, 40), 255).save(path)
    results = evaluate(model_folder, data_folder, tmp_path / "out", "--limit", 2)
    assert results["expected_calibration_error"] is results["per_image_mean_iou"] is None
    assert not (tmp_path / "out/reliability.png").exists() and "ECE –" in capsys.readouterr().out


def test_records_of_an_evaluation_without_calibration_are_refused(model_folder, data_folder, tmp_path):
    evaluate(model_folder, data_folder, tmp_path / "out", "--limit", 2)
    path = tmp_path / "out/records/settings.json"
    settings = json.loads(path.read_text())
    del settings["temperature"]
    path.write_text(json.dumps(settings))
    with pytest.raises(SetrError, match=r"temperature was None, now 1\.0.*choose another output folder"):
        evaluate(model_folder, data_folder, tmp_path / "out")
