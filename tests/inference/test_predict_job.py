"""`setr-hf predict` on models and photos that need care."""

import csv

import numpy as np
import pytest
from model_folders import save_model
from paths import SCRIPTS
from PIL import ExifTags, Image
from transformers import pipeline

from setr_hf.errors import SetrError
from setr_hf_cli import load_script


def predict(*arguments):
    return load_script(SCRIPTS / "predict.py").main([str(part) for part in arguments])


@pytest.mark.parametrize("num_classes, mode", [(256, "L"), (300, "I;16")])
def test_models_of_many_classes(num_classes, mode, tmp_path):
    save_model(tmp_path / "model", [f"class {i}" for i in range(num_classes)])
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    assert predict(tmp_path / "photo.png", "--model", tmp_path / "model", "--output", tmp_path / "out") == 0
    with (
        Image.open(tmp_path / "out/photo.png") as label_map,
        Image.open(tmp_path / "out/photo_overlay.jpg") as overlay,
    ):
        assert label_map.mode == mode
        ids = np.asarray(label_map)
        assert overlay.width >= 70 and overlay.height > 50
    assert ids.max() > 200
    with open(tmp_path / "out/photo.csv", encoding="utf-8") as file:
        assert {int(row["id"]) for row in csv.DictReader(file)} == set(np.unique(ids).tolist())


def test_a_turned_photo_gives_the_label_map_of_the_pipeline(tmp_path):
    save_model(tmp_path / "model", ["sky", "tree", "road", "car"])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 4), np.uint8)
    Image.fromarray(noise, "RGBA").save(tmp_path / "photo.png", exif=exif)
    predict(tmp_path, "--model", tmp_path / "model", "--output", tmp_path / "out")
    label_map = np.asarray(Image.open(tmp_path / "out/photo.png"))
    assert label_map.shape == (70, 50) and len(np.unique(label_map)) > 1
    segmenter = pipeline("image-segmentation", model=str(tmp_path / "model"))
    for segment in segmenter(str(tmp_path / "photo.png")):
        assert (label_map[np.asarray(segment["mask"]) > 0] == segmenter.model.config.label2id[segment["label"]]).all()


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("as_link", [False, True])
@pytest.mark.parametrize("as_folder", [False, True])
def test_results_never_go_where_the_photos_are(name, as_link, as_folder, tmp_path):
    save_model(tmp_path / "model", ["sky", "tree", "road", "car"])
    (tmp_path / "photos").mkdir()
    photo = tmp_path / "photos" / name
    Image.effect_noise((70, 50), 100).convert("RGB").save(photo)
    before = photo.read_bytes()
    output = tmp_path / "photos"
    if as_link:
        output = tmp_path / "link"
        output.symlink_to(tmp_path / "photos")
    arguments = ("--model", tmp_path / "model", "--output", output)
    if as_folder or name == "a.png":
        message = r"holds the photos: name" if as_folder else r"a.png is one of the photos and would be overwritten"
        with pytest.raises(SetrError, match=message):
            predict(tmp_path / "photos" if as_folder else photo, *arguments)
        assert [path.name for path in (tmp_path / "photos").iterdir()] == [name]
    else:
        assert predict(photo, *arguments) == 0
    assert photo.read_bytes() == before


@pytest.mark.parametrize("device", ["banana", "cuda:99", "meta"])
def test_a_device_that_does_not_exist_is_named(device, tmp_path, capsys):
    with pytest.raises(SystemExit):
        predict(tmp_path, "--model", tmp_path, "--output", tmp_path / "out", "--device", device)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and repr(device) in error


def test_class_names_are_no_formulas_in_the_table(tmp_path):
    save_model(tmp_path / "model", ["=1+1", "@tree", "road", "car"])
    Image.effect_noise((70, 50), 100).save(tmp_path / "photo.png")
    predict(tmp_path / "photo.png", "--model", tmp_path / "model", "--output", tmp_path / "out")
    with open(tmp_path / "out/photo.csv", encoding="utf-8") as file:
        assert {row["class"] for row in csv.DictReader(file)} <= {"'=1+1", "'@tree", "road", "car"}
