"""The jobs `predict` and `demo` as a user runs them."""

import csv
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from paths import ROOT
from PIL import Image
from transformers import pipeline

from setr_hf import SetrImageProcessor
from setr_hf.cli import run_job
from setr_hf_cli import load_script


def run(*command, status=0):
    result = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == status, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture
def model_folder(tiny_model, tmp_path):
    folder = tmp_path / "model"
    tiny_model(id2label={i: f"class {i}" for i in range(5)}).save_pretrained(folder)
    size = {"shortest_edge": 80, "longest_edge": 240}
    SetrImageProcessor(do_split_image=True, size=size, crop_size=64, stride=43, antialias=False).save_pretrained(
        folder
    )
    return folder


def test_predict_writes_map_overlay_and_table_and_names_a_bad_file(model_folder, scene_folder, tmp_path):
    photos = sorted((scene_folder / "images/train").iterdir())
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(photos[0].read_bytes()[:200])
    output = tmp_path / "out"
    arguments = ("scripts/predict.py", *photos, bad, "--model", model_folder, "--output", output)
    result = run(*arguments, status=1)
    assert "bad.jpg" in result.stderr
    assert "4 of 5 photos" in result.stdout
    segmenter = pipeline("image-segmentation", model=str(model_folder))
    for photo in photos:
        label_map = np.asarray(Image.open(output / f"{photo.stem}.png"))
        expected = np.zeros_like(label_map)
        for segment in segmenter(str(photo)):
            expected[np.asarray(segment["mask"]) > 0] = segmenter.model.config.label2id[segment["label"]]
        assert np.array_equal(label_map, expected)
        with open(output / f"{photo.stem}.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=1e-5)
        assert float(rows[0]["share"]) == pytest.approx((label_map == int(rows[0]["id"])).mean(), abs=1e-6)
        overlay = Image.open(output / f"{photo.stem}_overlay.jpg")
        assert overlay.width == label_map.shape[1]
        assert overlay.height > label_map.shape[0]


def test_predict_without_photographs_or_model_says_so(model_folder, scene_folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    predict = load_script(ROOT / "scripts/predict.py").main
    for inputs, model, message in (
        (tmp_path / "empty", model_folder, f"no photos found in {tmp_path / 'empty'}"),
        (
            scene_folder / "images/val",
            tmp_path / "nowhere",
            f"{tmp_path / 'nowhere'} is neither a folder here nor a model on the Hub",
        ),
    ):
        arguments = [str(inputs), "--model", str(model), "--output", str(tmp_path / "out")]
        assert run_job(partial(predict, arguments)) == 2
        assert capsys.readouterr().err == f"error: {message}\n"


def test_demo_runs_from_photos_to_picture_sheet(scene_folder, tmp_path):
    result = run("scripts/demo.py", "--dataset", scene_folder, "--output", tmp_path, "--max-steps", 1)
    assert "mean IoU" in result.stdout
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.width > 3 * 300


def test_the_console_command_runs_the_same_jobs(model_folder, scene_folder, tmp_path):
    arguments = ("predict", scene_folder / "images/val", "--model", model_folder, "--output", tmp_path / "out")
    assert "4 of 4 photo" in run("-m", "setr_hf_cli", *arguments).stdout
