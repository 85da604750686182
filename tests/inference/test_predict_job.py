"""`setr-hf predict` on models and photos that need care."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from many_photos import small_photo
from model_folders import NAMES, save_model
from paths import SCRIPTS
from PIL import ExifTags, Image
from transformers import pipeline

from setr_hf import SetrImageProcessor, segment
from setr_hf.data.public_datasets import PUBLISHED_SCALES
from setr_hf.errors import SetrError
from setr_hf.inference.loading import load_model
from setr_hf.inference.output_folder import RECORDS_FILE, RESULTS, SETTINGS_FILE
from setr_hf.inference.photos import read_photo
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
    for part in segmenter(str(tmp_path / "photo.png")):
        assert (label_map[np.asarray(part["mask"]) > 0] == segmenter.model.config.label2id[part["label"]]).all()


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


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A model, and photos of several sizes in nested folders, one of them bad."""
    folder = tmp_path_factory.mktemp("several")
    save_model(folder / "model", NAMES)
    for seed, name in enumerate(["photos/b", "photos/day/a", "photos/day/c", "photos/day/night/a", "photos/z"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        small_photo(np.random.default_rng(seed)).save(folder / f"{name}.png")
    (folder / "photos/day/bad.jpg").write_bytes(b"bad")
    return folder


def label_maps(output):
    """The label maps in a folder of results, by their names."""
    return {str(path.relative_to(output)): np.asarray(Image.open(path)) for path in sorted(output.rglob("*.png"))}


@pytest.fixture(scope="module")
def one_by_one(several):
    assert predict(several / "photos", "--model", several / "model", "--output", several / "one by one") == 1
    return label_maps(several / "one by one")


def test_results_lie_in_subfolders_as_the_photos_do(several, one_by_one, capsys):
    names = ["b", "day/a", "day/c", "day/night/a", "z"]
    assert list(one_by_one) == [f"{name}.png" for name in names]
    files = {path.relative_to(several / "one by one").as_posix() for path in (several / "one by one").rglob("*.*")}
    assert files == {*(f"{name}{end}" for name in names for end in RESULTS), RECORDS_FILE, SETTINGS_FILE}
    capsys.readouterr()
    assert predict(several / "photos", "--model", several / "model", "--output", several / "one by one") == 1
    out, err = capsys.readouterr()
    assert out == f"5 of 6 photos segmented into {several}/one by one, 5 of them by earlier runs\n"
    assert err.splitlines()[-1].startswith(f"skipped {several}/photos/day/bad.jpg cannot be read as a photo: ")


@pytest.mark.parametrize("sizes", [("2", "32"), ("9", "3"), ("1", "1")])
def test_label_maps_are_the_same_at_any_batch_size_and_a_bad_photo_spoils_no_other(
    several, one_by_one, sizes, tmp_path
):
    options = ("--batch-size", sizes[0], "--window-batch-size", sizes[1])
    assert predict(several / "photos", "--model", several / "model", "--output", tmp_path / "out", *options) == 1
    for name, label_map in label_maps(tmp_path / "out").items():
        assert (label_map == one_by_one[name]).mean() > 0.999
    assert len(label_maps(tmp_path / "out")) == len(one_by_one)


def test_a_job_goes_on_at_another_batch_size(several, one_by_one, tmp_path, capsys):
    arguments = (several / "photos", "--model", several / "model", "--output", tmp_path)
    predict(several / "photos/z.png", *arguments[1:])
    assert predict(*arguments, "--batch-size", "4") == 1
    assert "5 of 6 photos segmented" in (out := capsys.readouterr().out) and "1 of them by earlier runs" in out
    assert list(label_maps(tmp_path)) == list(one_by_one)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_pipeline_gives_the_same_label_maps_for_the_same_options(several, dtype, tmp_path):
    options = ("--dtype", dtype, "--batch-size", "3")
    predict(several / "photos/**/*.png", "--model", several / "model", "--output", tmp_path, *options)
    maps = label_maps(tmp_path)
    segmenter = pipeline("image-segmentation", model=str(several / "model"), dtype=dtype, device="cpu", batch_size=3)
    assert segmenter.model.dtype == getattr(torch, dtype)
    photos = [str(several / "photos" / name) for name in maps]
    for label_map, parts in zip(maps.values(), segmenter(photos), strict=True):
        expected = np.full(label_map.shape, 255)
        for part in parts:
            expected[np.asarray(part["mask"]) > 0] = segmenter.model.config.label2id[part["label"]]
        assert (label_map == expected).mean() > (0.999 if dtype == "float32" else 0.99)


def test_several_scales_are_those_of_evaluate(several, tmp_path):
    model, processor = load_model(several / "model")
    photo = read_photo(several / "photos/b.png")
    for scales in ((), (0.5, 1.5)):
        options = ("--protocol", "multi", *(["--scales", *scales] if scales else []))
        output = tmp_path / str(scales)
        assert predict(several / "photos/b.png", "--model", several / "model", "--output", output, *options) == 0
        expected = segment(model, processor, [photo], scales or PUBLISHED_SCALES)[0].numpy()
        assert np.array_equal(label_maps(output)["b.png"], expected)
        settings = json.loads((output / SETTINGS_FILE).read_text())
        assert settings["protocol"] == "multi" and tuple(settings["scales"]) == (scales or PUBLISHED_SCALES)
    assert not np.array_equal(expected, segment(model, processor, [photo])[0].numpy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "bfloat16"], "dtype was float32, now bfloat16"),
        (["--protocol", "multi"], "protocol was single, now multi"),
    ],
)
def test_results_of_another_protocol_or_precision_are_refused(several, one_by_one, options, message):
    with pytest.raises(SetrError, match=rf"holds results computed with other settings \({message}"):
        predict(several / "photos", "--model", several / "model", "--output", several / "one by one", *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scales", "1"], "--scales belongs to --protocol multi"),
        (["--protocol", "multi", "--scales", "0"], "--scales must be positive ratios, got 0"),
        (["--protocol", "multi", "--scales", "1", "nan"], "--scales must be positive ratios, got 1 nan"),
        (["--protocol", "multi", "--scales", "inf"], "--scales must be positive ratios, got inf"),
        (["--window-batch-size", "0"], "--window-batch-size must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused_before_work(several, options, message, tmp_path):
    with pytest.raises(SetrError, match=f"^{message}$"):
        predict(several / "photos", "--model", "nowhere", "--output", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--batch-size", "--window-batch-size", "--dtype", "--protocol", "--scales"])
@pytest.mark.parametrize("value", ["", "-1", "1.5", "float8", "99999999999999999999999x", None])
def test_values_that_an_option_does_not_have_are_named(several, option, value, tmp_path, capsys):
    values = [value] * (value is not None)
    with pytest.raises((SystemExit, SetrError)) as error:
        predict(several / "photos", "--model", "nowhere", "--output", tmp_path / "out", option, *values)
    said = str(error.value) + capsys.readouterr().err
    assert option in said
    assert not (tmp_path / "out").exists()


def test_several_scales_need_a_model_of_windows(several, tmp_path):
    save_model(tmp_path / "model", NAMES)
    SetrImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    with pytest.raises(SetrError, match="several scales need sliding windows"):
        predict(several / "photos", "--model", tmp_path / "model", "--output", tmp_path / "out", "--protocol", "multi")
    assert not (tmp_path / "out").exists()


def test_a_scale_that_no_photo_can_be_enlarged_to_is_said_of_each(several, tmp_path, capsys):
    options = ("--protocol", "multi", "--scales", "1e9", "--batch-size", "2")
    assert predict(several / "photos", "--model", several / "model", "--output", tmp_path, *options) == 1
    out, err = capsys.readouterr()
    assert out == f"none of 6 photos segmented into {tmp_path}\n" and err.count("\nskipped ") == 6


def test_results_below_the_photos_are_never_read_as_photos(several, one_by_one, tmp_path, capsys):
    shutil.copytree(several / "photos", tmp_path / "photos")
    arguments = ("--model", several / "model", "--output")
    for _ in range(2):
        for photos in (tmp_path / "photos", tmp_path / "photos/**/*.png"):
            predict(photos, *arguments, tmp_path / "photos/out")
            assert list(label_maps(tmp_path / "photos/out")) == list(one_by_one)
    assert f"left out {tmp_path}/photos/out: it holds results of this job\n" in capsys.readouterr().err
    assert predict(tmp_path / "photos/day/night", *arguments, tmp_path) == 0
    for photos in ("photos", "photos/*/*.png"):
        with pytest.raises(SetrError, match="photos/day holds the photos: name another --output"):
            predict(tmp_path / photos, *arguments, tmp_path / "photos/day")
    (tmp_path / "photos/day/day").mkdir()
    shutil.copy(several / "photos/z.png", tmp_path / "photos/day/day/z.png")
    with pytest.raises(SetrError, match="photos/day is in a folder that is searched for photos: name another"):
        predict(tmp_path / "photos/day", *arguments, tmp_path / "photos")


def test_a_file_where_results_need_a_folder_is_named_before_work(several, tmp_path):
    (tmp_path / "day").write_text("mine")
    with pytest.raises(SetrError, match=f"{tmp_path}/day is not a folder: move it away, or name another --output"):
        predict(several / "photos", "--model", several / "model", "--output", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["day"]


@pytest.mark.parametrize("pattern", ["", "photos/*.txt", "nowhere/*", "photos/*/../../*"])
def test_no_photos_are_no_job(several, pattern, tmp_path):
    (tmp_path / "photos").mkdir()
    for inputs in ([pattern and tmp_path / pattern], [tmp_path / "photos"]):
        with pytest.raises(SetrError, match=r"is not the name|nothing matches|may have \.\.|no photos found in "):
            predict(*inputs, "--model", "nowhere", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
