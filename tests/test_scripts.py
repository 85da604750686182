"""The jobs as a user runs them: scripts of a checkout, and the console command."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from setr_hf import SetrImageProcessor
from setr_hf.scenes import CLASSES, make_scenes


ROOT = Path(__file__).parents[1]


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


@pytest.fixture
def scene_folder(tmp_path):
    """Generated scenes as a user's own folder of images and annotations."""
    for split, first_seed in (("train", 0), ("val", 100)):
        scenes, _ = make_scenes(4, first_seed)
        for kind, suffix, column in (("images", "jpg", "image"), ("annotations", "png", "annotation")):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
            for row in scenes:
                row[column].save(tmp_path / "data" / kind / split / f"{row['name']}.{suffix}")
    names = {"id2label": dict(enumerate(CLASSES))}
    (tmp_path / "data/labels.json").write_text(json.dumps(names))
    return tmp_path / "data"


def test_predict_writes_map_overlay_and_table_and_names_a_bad_file(model_folder, scene_folder, tmp_path):
    photos = sorted((scene_folder / "images/train").iterdir())
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(photos[0].read_bytes()[:200])
    output = tmp_path / "out"
    arguments = ("scripts/predict.py", *photos, bad, "--model", model_folder, "--output", output)
    result = run(*arguments, status=1)
    assert "bad.jpg" in result.stderr
    assert "4 of 5 photographs" in result.stdout
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


def test_predict_without_photographs_or_model_says_so(model_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    run("scripts/predict.py", tmp_path / "empty", "--model", model_folder, "--output", tmp_path / "o", status=2)
    result = run(
        "scripts/predict.py", model_folder, "--model", tmp_path / "nowhere", "--output", tmp_path / "o", status=2
    )
    assert result.stderr


def test_train_fine_tunes_saves_and_its_folder_serves_the_pipeline(scene_folder, tmp_path):
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    output = tmp_path / "trained"
    common = ("--data", scene_folder, "--crop_size", 64, "--max_steps", 2, "--report_to", "none", "--use_cpu")
    run("scripts/train.py", *common, "--config", json.dumps(fields), "--output_dir", output)
    segmenter = pipeline("image-segmentation", model=str(output))
    assert segmenter.image_processor.do_split_image
    labels = {segment["label"] for segment in segmenter(str(next((scene_folder / "images/val").iterdir())))}
    assert labels <= set(CLASSES)
    result = run("scripts/train.py", *common, "--model", output, "--output_dir", tmp_path / "again")
    assert "eval_mean_iou" in result.stdout


def test_train_names_an_annotation_with_unknown_ids(scene_folder, tmp_path):
    path = next((scene_folder / "annotations/train").iterdir())
    Image.fromarray(np.full((128, 160), 99, dtype=np.uint8)).save(path)
    arguments = ("--data", scene_folder, "--crop_size", 64, "--max_steps", 1, "--report_to", "none", "--use_cpu")
    fields = json.dumps({"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64})
    result = run("scripts/train.py", *arguments, "--config", fields, "--output_dir", tmp_path / "out", status=2)
    assert path.stem in result.stderr
    assert "99" in result.stderr


def test_demo_runs_from_scenes_to_picture_sheet(tmp_path):
    result = run("scripts/demo.py", "--output", tmp_path, "--max-steps", 2)
    assert "mean IoU" in result.stdout
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.width > 3 * 300


def test_the_console_command_runs_the_same_jobs(model_folder, scene_folder, tmp_path):
    jobs = run("-m", "setr_hf.cli", "--help").stdout
    for job in ("demo", "predict", "train"):
        assert job in jobs
    run("-m", "setr_hf.cli", "fly", status=2)
    arguments = ("predict", scene_folder / "images/val", "--model", model_folder, "--output", tmp_path / "out")
    assert "4 of 4 photographs" in run("-m", "setr_hf.cli", *arguments).stdout
