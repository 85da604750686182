"""How sure a model is of each pixel: in Python, and as `setr-hf predict` writes it or leaves out what is not sure."""

import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from model_folders import NAMES, save_model
from paths import SCRIPTS
from PIL import Image, ImageOps

from setr_hf import SetrImageProcessor, segment
from setr_hf.errors import SetrError
from setr_hf.inference.loading import load_model
from setr_hf.inference.output_folder import CONFIDENCE_RESULTS, RECORDS_FILE, RESULTS, SETTINGS_FILE
from setr_hf.inference.pictures import confidence_colors, confidence_picture
from setr_hf.model.confidence_setr import confidence_of, measured
from setr_hf_cli import load_script


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """Its temperature is 0.5: it is surer than its logits say."""
    folder = tmp_path_factory.mktemp("models") / "model"
    save_model(folder, NAMES)
    SetrImageProcessor.from_pretrained(folder, temperature=0.5).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("temperature", [0.001, 0.5, 1, 3.0, 1000])
def test_confidence_is_the_largest_probability(temperature):
    scores = 5 * torch.randn(7, 9, 4)
    confidence = confidence_of(scores, temperature)
    torch.testing.assert_close(confidence, scores.div(temperature).softmax(-1).amax(-1))
    assert confidence_of(torch.full((4,), 1e30), temperature) == 0.25


@pytest.mark.parametrize("are_probabilities", [False, True])
def test_a_single_score_is_that_of_the_foreground(are_probabilities):
    foreground = torch.tensor([[0.0, 1e-6, 0.2, 0.5, 0.9, 1.0]])
    scores = foreground if are_probabilities else foreground.logit(eps=1e-7)
    confidence = torch.empty(1, 6)
    [tile] = measured(iter([(slice(0, 1), slice(0, 6), scores[..., None])]), confidence, 0.5, are_probabilities)
    assert torch.equal(tile[2][..., 0], scores), "the label map is read from the same scores"
    sharpened = foreground**2 / (foreground**2 + (1 - foreground) ** 2)
    torch.testing.assert_close(confidence, torch.maximum(sharpened, 1 - sharpened))


def test_probabilities_of_zero_are_no_nan():
    confidence = torch.empty(1, 1)
    tiles = iter([(slice(0, 1), slice(0, 1), torch.tensor([[[0.0, 1.0, 0.0]]]))])
    list(measured(tiles, confidence, 3.0, are_probabilities=True))
    assert confidence.item() == pytest.approx(1)


@pytest.mark.parametrize("is_windowed", [False, True])
def test_post_processing_returns_the_confidence_of_the_label_map(is_windowed):
    logits = torch.randn(2, 2, 5, 8, 8) if is_windowed else torch.randn(2, 5, 8, 8)
    offsets = torch.tensor([[[0, 0, 32, 32, 32, 40], [0, 8, 32, 32, 32, 40]]] * 2) if is_windowed else None
    outputs = SimpleNamespace(logits=logits, patch_offsets=offsets)
    processor, sizes = SetrImageProcessor(temperature=0.7), [(33, 61), (20, 21)]
    results = processor.post_process_semantic_segmentation(outputs, sizes, return_confidence=True)
    label_maps = processor.post_process_semantic_segmentation(outputs, sizes)
    both = processor.post_process_semantic_segmentation(outputs, sizes, True, return_confidence=True)
    for result, label_map, other, size in zip(results, label_maps, both, sizes):
        assert result["confidence"].shape == size and result["confidence"].dtype == torch.float32
        expected = other["segmentation_scores"].div(0.7).softmax(0).amax(0)
        torch.testing.assert_close(result["confidence"], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(other["confidence"], expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(result["segmentation"], label_map)


@pytest.mark.parametrize("do_split_image", [True, False])
def test_segment_returns_the_confidence_of_each_photo(model_folder, do_split_image):
    model, processor = load_model(model_folder)
    if not do_split_image:
        processor = SetrImageProcessor(size={"height": 32, "width": 32}, temperature=0.5)
    photos = [noise(50, 70), noise(33, 21, seed=1)]
    pairs = segment(model, processor, photos, return_confidence=True)
    for photo, label_map, (same, confidence) in zip(photos, segment(model, processor, photos), pairs, strict=True):
        assert torch.equal(label_map, same)
        with torch.inference_mode():
            outputs = model(**processor(photo, return_tensors="pt"))
        [result] = processor.post_process_semantic_segmentation(outputs, [label_map.shape], True)
        expected = result["segmentation_scores"].div(0.5).softmax(0).amax(0)
        torch.testing.assert_close(confidence, expected, atol=1e-5, rtol=1e-5)
        assert confidence.std() > 0.01


def test_several_scales_sharpen_their_averaged_probabilities(model_folder):
    model, processor = load_model(model_folder)
    photo, scales = noise(50, 70), (1.0,)
    [(label_map, confidence)] = segment(model, processor, [photo], scales, return_confidence=True)
    assert torch.equal(label_map, segment(model, processor, [photo], scales)[0])
    views = []
    for view in (photo, ImageOps.mirror(photo)):
        with torch.inference_mode():
            outputs = model(**processor(view, return_tensors="pt"))
        [result] = processor.post_process_semantic_segmentation(outputs, [(50, 70)], True)
        views.append(result["segmentation_scores"].softmax(0))
    sharpened = ((views[0] + views[1].flip(-1)) / 2) ** (1 / 0.5)
    expected = (sharpened / sharpened.sum(0)).amax(0)
    torch.testing.assert_close(confidence, expected, atol=1e-4, rtol=1e-4)


def test_a_temperature_changes_no_label_map_and_old_folders_have_none(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    path = tmp_path / "model/preprocessor_config.json"
    settings = json.loads(path.read_text())
    del settings["temperature"]
    path.write_text(json.dumps(settings))
    (model, old), (_, processor) = load_model(tmp_path / "model"), load_model(model_folder)
    assert (old.temperature, processor.temperature) == (1.0, 0.5)
    photos = [noise(50, 70)]
    for scales in (None, (1.0, 1.5)):
        [(first, sure)], [(second, surer)] = (
            segment(model, each, photos, scales, return_confidence=True) for each in (old, processor)
        )
        assert torch.equal(first, second) and (surer > sure).float().mean() > 0.99


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf"), 1e-300, 10**400, "1", None, True, [1]])
def test_a_temperature_that_is_not_a_positive_number_is_refused(temperature, model_folder, tmp_path):
    with pytest.raises(ValueError, match="temperature"):
        SetrImageProcessor(temperature=temperature)
    shutil.copytree(model_folder, tmp_path / "model")
    path = tmp_path / "model/preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "temperature": temperature}))
    with pytest.raises(SetrError, match=r"image processor of |preprocessor_config\.json is not valid JSON"):
        load_model(tmp_path / "model")


def test_the_picture_has_the_colours_of_its_scale_and_fits_the_smallest_photo():
    colors = confidence_colors(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert colors.shape == (1, 3, 3) and (np.diff(colors.astype(int).sum(-1)) > 0).all(), "brighter where it is surer"
    photo = Image.new("RGB", (300, 20), "gray")
    picture = confidence_picture(photo, np.ones((20, 300), np.float32), opacity=1.0)
    assert picture.width == 300 and picture.height > 60
    assert (np.asarray(picture)[:20] == colors[0, 2]).all()
    assert confidence_picture(Image.new("L", (1, 1)), np.zeros((1, 1), np.float32)).width > 200


def predict(model, output, *photos_and_options):
    arguments = [*photos_and_options, "--model", model, "--output", output]
    return load_script(SCRIPTS / "predict.py").main([str(part) for part in arguments])


def table_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def photo(tmp_path):
    (tmp_path / "photos").mkdir()
    noise(50, 70).save(tmp_path / "photos/a.png")
    return tmp_path / "photos/a.png"


def test_predict_writes_map_picture_and_means(model_folder, photo, tmp_path):
    plain, out = tmp_path / "plain", tmp_path / "out"
    assert predict(model_folder, plain, photo) == predict(model_folder, out, photo, "--confidence") == 0
    [(label_map, confidence)] = segment(*load_model(model_folder), [noise(50, 70)], return_confidence=True)
    with Image.open(out / "a_confidence.png") as levels, Image.open(out / "a_confidence.jpg") as picture:
        assert levels.mode == "L"
        assert np.abs(np.asarray(levels) / 255 - confidence.numpy()).max() <= 0.5 / 255 + 1e-6
        assert picture.width >= 70 and picture.height > 50
    for name in ("a.png", "a_overlay.jpg"):
        assert (out / name).read_bytes() == (plain / name).read_bytes()
    *classes, whole = table_of(out / "a.csv")
    assert [{**row, "confidence": None} for row in classes] == [
        {**row, "confidence": None} for row in table_of(plain / "a.csv")
    ]
    for row in classes:
        mean = confidence[label_map == int(row["id"])].double().mean()
        assert float(row["confidence"]) == pytest.approx(float(mean), abs=1e-6)
    assert (whole["id"], whole["class"], whole["share"]) == ("", "all", "1.000000")
    assert float(whole["confidence"]) == pytest.approx(float(confidence.double().mean()), abs=1e-6)


def test_pixels_that_are_not_sure_enough_get_no_class(model_folder, photo, tmp_path):
    [(label_map, confidence)] = segment(*load_model(model_folder), [noise(50, 70)], return_confidence=True)
    threshold = float(confidence.median())
    assert predict(model_folder, tmp_path / "out", photo, "--ignore-below", threshold) == 0
    with Image.open(tmp_path / "out/a.png") as ids:
        expected = np.where(confidence.numpy() < threshold, 255, label_map.numpy())
        assert ids.mode == "L" and np.array_equal(np.asarray(ids), expected)
    assert 0.4 < (expected == 255).mean() < 0.6
    rows = table_of(tmp_path / "out/a.csv")
    [abstained] = [row for row in rows if row["id"] == "255"]
    assert abstained["class"] == "no class" and float(abstained["share"]) == pytest.approx(
        (expected == 255).mean(), abs=1e-6
    )
    assert set(abstained) == {"id", "class", "share"} and sum(float(row["share"]) for row in rows) == pytest.approx(
        1, abs=1e-5
    )
    with Image.open(tmp_path / "out/a_overlay.jpg") as overlay:
        dark = np.asarray(overlay)[:50, :70].astype(int)[expected == 255].mean()
        assert dark < 0.7 * np.asarray(overlay)[:50, :70].astype(int)[expected != 255].mean()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(f"a{end}" for end in RESULTS),
        RECORDS_FILE,
        SETTINGS_FILE,
    }


@pytest.mark.parametrize("num_labels, mode, no_class", [(255, "L", 255), (256, "I;16", 65535), (300, "I;16", 65535)])
def test_no_class_is_the_id_of_none(num_labels, mode, no_class, photo, tmp_path):
    save_model(tmp_path / "model", [f"class {i}" for i in range(num_labels)])
    options = ["--confidence", "--ignore-below", "1"]
    assert predict(tmp_path / "model", tmp_path / "out", photo, *options) == 0
    with Image.open(tmp_path / "out/a.png") as ids:
        assert ids.mode == mode and set(np.unique(ids).tolist()) == {no_class}
    rows = table_of(tmp_path / "out/a.csv")
    assert [(row["id"], row["class"]) for row in rows] == [(str(no_class), "no class"), ("", "all")]
    assert rows[0]["confidence"] == rows[1]["confidence"]


@pytest.mark.parametrize("value", ["0", "-0.5", "1.01", "60", "nan", "inf"])
def test_a_threshold_that_is_not_a_share_is_refused(value, model_folder, photo, tmp_path):
    with pytest.raises(SetrError, match=r"--ignore-below must be more than 0 and at most 1, got "):
        predict(model_folder, tmp_path / "out", photo, f"--ignore-below={value}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["", "60%", "much"])
def test_a_threshold_that_is_not_a_number_is_refused(value, model_folder, photo, tmp_path, capsys):
    with pytest.raises(SystemExit):
        predict(model_folder, tmp_path / "out", photo, "--ignore-below", value)
    assert "--ignore-below" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("end", CONFIDENCE_RESULTS)
def test_a_result_that_is_missing_is_written_again(end, model_folder, photo, tmp_path):
    out, options = tmp_path / "out", ["--confidence", "--ignore-below", "0.5"]
    predict(model_folder, out, photo, *options)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.name != RECORDS_FILE}
    (out / f"a{end}").unlink()
    assert predict(model_folder, out, photo, *options) == 0
    assert before == {path.name: path.read_bytes() for path in out.iterdir() if path.name != RECORDS_FILE}


def test_results_of_other_options_or_another_temperature_are_refused(model_folder, photo, tmp_path):
    out = tmp_path / "out"
    predict(model_folder, out, photo, "--confidence")
    for options, difference in (
        ([], "confidence was True, now None"),
        (["--confidence", "--ignore-below", "0.5"], "ignore_below was None, now 0.5"),
    ):
        with pytest.raises(SetrError, match=rf"holds results computed with other settings \(.*{difference}"):
            predict(model_folder, out, photo, *options)
    shutil.copytree(model_folder, tmp_path / "model")
    SetrImageProcessor.from_pretrained(model_folder, temperature=2.0).save_pretrained(tmp_path / "model")
    with pytest.raises(SetrError, match=r"\(temperature was 0.5, now 2.0\)"):
        predict(tmp_path / "model", out, photo, "--confidence")
    # Label maps do not depend on it.
    assert (
        predict(model_folder, tmp_path / "plain", photo) == predict(tmp_path / "model", tmp_path / "plain", photo) == 0
    )


def test_no_map_of_the_confidence_takes_the_place_of_a_label_map(model_folder, photo, tmp_path):
    noise(20, 20).save(photo.with_name("A_confidence.png"))
    with pytest.raises(
        SetrError,
        match=r"the results of .*a\.png and .*A_confidence\.png would have the same names|"
        r"the results of .*A_confidence\.png and .*a\.png would have the same names",
    ):
        predict(model_folder, tmp_path / "out", photo.parent, "--confidence")
    assert not (tmp_path / "out").exists()
    assert predict(model_folder, tmp_path / "out", photo.parent) == 0


def test_a_photo_is_not_overwritten_by_a_map_of_the_confidence(model_folder, photo, tmp_path):
    (tmp_path / "out").mkdir()
    other = tmp_path / "out/a_confidence.jpg"
    noise(20, 20).save(other)
    before = other.read_bytes()
    with pytest.raises(SetrError, match=r"a_confidence\.jpg is (one of the photos|no result of this job)"):
        predict(model_folder, tmp_path / "out", photo, "--confidence")
    assert other.read_bytes() == before
