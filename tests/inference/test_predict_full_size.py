"""`setr-hf predict` on photos at their own size: all of them, or those that are too large to be read at once."""

import csv
import json
import sys

import numpy as np
import pytest
import rasterio
from model_folders import NAMES, save_model
from paths import SCRIPTS
from PIL import Image

from setr_hf import segment
from setr_hf.errors import SetrError
from setr_hf.inference.loading import load_model
from setr_hf.inference.output_folder import RECORDS_FILE
from setr_hf_cli import load_script


pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture
def inputs(tmp_path):
    save_model(tmp_path / "model", NAMES)
    (tmp_path / "photos").mkdir()
    for index, size in enumerate([(70, 100), (200, 150)]):
        coarse = np.random.default_rng(index).integers(0, 256, (size[0] // 8, size[1] // 8, 3), np.uint8)
        Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(tmp_path / f"photos/{index}.png")
    return tmp_path


def predict(inputs, *options, output="out"):
    arguments = [inputs / "photos", "--model", inputs / "model", "--output", inputs / output, *options]
    return load_script(SCRIPTS / "predict.py").main([str(argument) for argument in arguments])


def labels_in(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def at_full_size(inputs, index):
    model, processor = load_model(str(inputs / "model"))
    processor.do_resize = False
    return segment(model, processor, [Image.open(inputs / f"photos/{index}.png")])[0].numpy()


def files_in(folder):
    return {path.name for path in folder.iterdir() if not path.name.startswith("_")}


def test_every_photo_is_segmented_at_its_own_size(inputs, capsys):
    assert predict(inputs, "--full-size") == 0
    assert "2 of 2 photos segmented" in capsys.readouterr().out
    ends = ("_labels.tif", "_overlay.jpg", ".csv")
    assert files_in(inputs / "out") == {f"{index}{end}" for index in range(2) for end in ends}
    for index in range(2):
        labels, expected = labels_in(inputs / f"out/{index}_labels.tif"), at_full_size(inputs, index)
        assert np.array_equal(labels, expected) and len(np.unique(labels)) > 1
        with open(inputs / f"out/{index}.csv", encoding="utf-8") as file:
            shares = {int(row["id"]): float(row["share"]) for row in csv.DictReader(file)}
        assert shares == {i: pytest.approx((labels == i).mean(), abs=1e-6) for i in np.unique(labels)}
        with Image.open(inputs / f"out/{index}_overlay.jpg") as overlay:
            assert overlay.height > labels.shape[0]
    assert predict(inputs, "--full-size") == 0
    assert "2 of them by earlier runs" in capsys.readouterr().out
    with pytest.raises(SetrError, match="full_size was True, now None"):
        predict(inputs)


def test_a_photo_that_is_too_large_to_be_read_at_once_is_read_by_windows(inputs, monkeypatch, capsys):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # Pillow refuses twice as many: 1.png alone.
    assert predict(inputs) == 0
    assert "1.png is too large to be read at once: windows lie over it at its full size" in capsys.readouterr().err
    assert files_in(inputs / "out") == {"0.png", "0_overlay.jpg", "0.csv", "1_labels.tif", "1_overlay.jpg", "1.csv"}
    monkeypatch.undo()
    assert np.array_equal(labels_in(inputs / "out/1_labels.tif"), at_full_size(inputs, 1))
    records = [json.loads(line) for line in (inputs / "out" / RECORDS_FILE).read_text().splitlines()]
    assert {record["name"] for record in records if record["state"]} == {"0", "1"}


def test_bad_photos_and_options_are_named(inputs, monkeypatch, capsys):
    for options in (["--protocol", "multi"], ["--confidence"], ["--ignore-below", "0.5"]):
        with pytest.raises(SetrError, match="photos that are read by windows have one scale and no confidence"):
            predict(inputs, "--full-size", *options)
    with monkeypatch.context() as context, pytest.raises(SetrError, match=r"pip install 'setr-hf\[large\]'"):
        context.setitem(sys.modules, "rasterio", None)
        predict(inputs, "--full-size")
    assert not (inputs / "out").exists()
    damaged = inputs / "photos/1.png"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    (inputs / "photos/2.bmp").write_bytes(b"BM")
    assert predict(inputs, "--full-size") == 1
    error = capsys.readouterr().err
    assert "1.png cannot be read as a photo" in error and "2.bmp cannot be read by windows" in error
    assert files_in(inputs / "out") == {"0_labels.tif", "0_overlay.jpg", "0.csv"}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    assert predict(inputs, "--confidence", output="other") == 1
    assert "0.png is too large to be read at once: photos that are read by windows have" in capsys.readouterr().err
