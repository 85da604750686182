"""`setr-hf evaluate`: the same counts with any number of processes and after any interruption, and what it writes."""

import json
import subprocess
import sys
import time
from itertools import chain

import numpy as np
import psutil
import pytest
from huggingface_hub import ModelCard
from model_folders import NAMES, save_model
from paths import SCRIPTS
from PIL import Image
from transformers import pipeline

from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor
from setr_hf.data.label_sets import LabelSet, check_classes
from setr_hf.data.loading import load_segmentation_data
from setr_hf.data.public_datasets import CLASS_NAMES
from setr_hf.errors import SetrError
from setr_hf.evaluation.submission import server_ids
from setr_hf.files import folder_lock
from setr_hf.inference.sliding_windows import segment
from setr_hf.metrics import confusion_matrix, segmentation_scores
from setr_hf_cli import load_script


NUM_IMAGES = 101


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(folder, NAMES)
    return folder


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """101 images of different sizes; some pixels are ignored, and class 3 is rare."""
    root = tmp_path_factory.mktemp("data") / "scenes"
    rng = np.random.default_rng(0)
    for kind in ("images", "annotations"):
        (root / kind / "val").mkdir(parents=True)
    for index in range(NUM_IMAGES):
        size = rng.integers(20, 70, 2)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(root / f"images/val/scene_{index:03}.png")
        label_map = rng.choice([0, 1, 2, 255], size).astype(np.uint8)
        label_map[0, 0] = 3 if index % 10 == 0 else 0
        Image.fromarray(label_map).save(root / f"annotations/val/scene_{index:03}.png")
    (root / "labels.json").write_text(json.dumps({"id2label": dict(enumerate(NAMES))}))
    return root


def arguments(model_folder, data_set, output, *more):
    basic = ["--model", model_folder, "--dataset", data_set, "--output", output, "--threads", "1"]
    return [str(part) for part in (*basic, *more)]


def run_here(*args):
    return load_script(SCRIPTS / "evaluate.py").main(arguments(*args))


def command(num_processes, *args):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    return [sys.executable, *(launcher if num_processes > 1 else []), str(SCRIPTS / "evaluate.py"), *arguments(*args)]


def records_by_process(output):
    """The indices of the records that each process has written."""
    files = sorted((output / "records").glob("process-*.jsonl"))
    return [[json.loads(line)["index"] for line in file.read_text().splitlines()] for file in files]


@pytest.fixture(scope="module")
def alone(model_folder, data_set, tmp_path_factory):
    """The results of one process."""
    output = tmp_path_factory.mktemp("alone")
    assert run_here(model_folder, data_set, output) == 0
    return output


def test_one_process_counts_every_pixel_of_every_image_as_the_metric_does(alone, model_folder, data_set):
    model = SetrForSemanticSegmentation.from_pretrained(model_folder).eval()
    processor = SetrImageProcessor.from_pretrained(model_folder)
    data = load_segmentation_data(data_set, "validation")
    expected = sum(
        confusion_matrix(segment(model, processor, [sample.photo])[0], sample.label_map, 4) for sample in data
    )
    matrix = np.load(alone / "confusion_matrix.npy")
    assert matrix.dtype == np.int64 and np.array_equal(matrix, expected)
    assert (matrix.sum(axis=0) > 0).sum() > 1, "a model that predicts one class would hide mistakes"
    results = json.loads((alone / "results.json").read_text())
    assert results["mean_iou"] == segmentation_scores(expected)["mean_iou"]
    assert records_by_process(alone) == [list(range(NUM_IMAGES))]


# Equal matrices would not show that two processes had done the same work: the records must be disjoint as well.
@pytest.mark.parametrize("num_processes, shares", [(2, [51, 50]), (3, [34, 34, 33])])
def test_processes_share_the_images_and_count_the_same(num_processes, shares, alone, model_folder, data_set, tmp_path):
    subprocess.run(command(num_processes, model_folder, data_set, tmp_path), check=True)
    records = records_by_process(tmp_path)
    assert [len(indices) for indices in records] == shares
    assert sorted(chain.from_iterable(records)) == list(range(NUM_IMAGES))
    for file in ("confusion_matrix.npy", "results.json"):
        assert (tmp_path / file).read_bytes() == (alone / file).read_bytes()


def complete_records(output):
    """How many records are complete, while processes are still writing."""
    return sum(file.read_bytes().count(b"\n") for file in (output / "records").glob("process-*.jsonl"))


@pytest.mark.slow
def test_killed_in_the_middle_and_resumed_by_another_number_of_processes(alone, model_folder, data_set, tmp_path):
    launcher = psutil.Popen(command(2, model_folder, data_set, tmp_path))
    while launcher.poll() is None and complete_records(tmp_path) < 10:
        time.sleep(0.001)
    # The launcher first, or it would shut the workers down properly.
    family = [launcher, *launcher.children(recursive=True)]
    for process in family:
        process.kill()
    psutil.wait_procs(family)
    assert 10 <= complete_records(tmp_path) < NUM_IMAGES
    assert not (tmp_path / "results.json").exists()
    with open(tmp_path / "records/process-0.jsonl", "ab") as file:
        file.write(b'{"index": 100, "name": "scene_1')  # killed while writing a line
    assert run_here(model_folder, data_set, tmp_path) == 0
    assert sorted(chain.from_iterable(records_by_process(tmp_path))) == list(range(NUM_IMAGES))
    for file in ("confusion_matrix.npy", "results.json"):
        assert (tmp_path / file).read_bytes() == (alone / file).read_bytes()


def test_a_larger_limit_resumes_and_other_settings_are_refused(model_folder, data_set, tmp_path):
    run_here(model_folder, data_set, tmp_path, "--limit", "3")
    run_here(model_folder, data_set, tmp_path, "--limit", "5")
    assert records_by_process(tmp_path) == [[0, 1, 2, 3, 4]]
    assert json.loads((tmp_path / "results.json").read_text())["num_images"] == 5
    with pytest.raises(SetrError, match=r"protocol was single, now multi.*choose another output folder"):
        run_here(model_folder, data_set, tmp_path, "--limit", "5", "--protocol", "multi")
    other = tmp_path / "other"
    save_model(other, NAMES, seed=1)
    with pytest.raises(SetrError, match="model was"):
        run_here(other, data_set, tmp_path, "--limit", "5")
    assert records_by_process(tmp_path) == [[0, 1, 2, 3, 4]]


def test_results_of_several_scales_name_them(model_folder, data_set, tmp_path):
    run_here(model_folder, data_set, tmp_path, "--limit", "2", "--protocol", "multi", "--scales", "1", "1.5")
    settings = json.loads((tmp_path / "results.json").read_text())["settings"]
    assert settings["protocol"] == "multi" and settings["scales"] == [1.0, 1.5] and settings["mirrored"]


def test_pictures_and_table(alone, capsys, model_folder, data_set):
    run_here(model_folder, data_set, alone)
    table = capsys.readouterr().out
    assert all(name in table for name in NAMES) and "of 101 images" in table
    for name in ("classes.png", "confusion_matrix.png", "worst.png"):
        with Image.open(alone / name) as picture:
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 5, f"{name} is empty"


def test_other_classes_are_refused_before_the_first_image(model_folder, data_set, tmp_path):
    for names, message in (
        (["sky", "tree"], "2 classes, the data set 4"),
        ([*NAMES[:3], "bus"], "'bus' in the model"),
    ):
        save_model(tmp_path / "model", names)
        with pytest.raises(SetrError, match=message):
            run_here(tmp_path / "model", data_set, tmp_path / "output")
        assert not (tmp_path / "output").exists()
    unnamed = SetrConfig(num_labels=4)
    check_classes(unnamed, LabelSet.direct(NAMES))


def test_unreadable_images_are_named(model_folder, data_set, tmp_path):
    for kind in ("images", "annotations"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "val").symlink_to(data_set / kind / "val")
    (tmp_path / "labels.json").write_text((data_set / "labels.json").read_text())
    (tmp_path / "images/val").unlink()
    (tmp_path / "images/val").mkdir()
    (tmp_path / "images/val/scene_000.png").write_bytes(b"no image")
    with pytest.raises(SetrError, match=r"image of scene_000.*cannot be read"):
        run_here(model_folder, tmp_path, tmp_path / "output")


def test_submission_files(data_set, tmp_path):
    save_model(tmp_path / "model", CLASS_NAMES["cityscapes"])
    names = {"id2label": dict(enumerate(CLASS_NAMES["cityscapes"]))}
    for kind in ("images", "annotations"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        (tmp_path / "data" / kind / "val").symlink_to(data_set / kind / "val")
    (tmp_path / "data/labels.json").write_text(json.dumps(names))
    run_here(tmp_path / "model", tmp_path / "data", tmp_path / "out", "--limit", "2", "--submit")
    submission = tmp_path / "out/submission"
    assert sorted(file.name for file in submission.iterdir()) == ["scene_000.png", "scene_001.png"]
    first = (submission / "scene_000.png").read_bytes()
    # A missing label map is written again, although its image has a record.
    (submission / "scene_000.png").unlink()
    run_here(tmp_path / "model", tmp_path / "data", tmp_path / "out", "--limit", "2", "--submit")
    assert (submission / "scene_000.png").read_bytes() == first
    assert records_by_process(tmp_path / "out") == [[0, 1]]
    model = SetrForSemanticSegmentation.from_pretrained(tmp_path / "model").eval()
    photo = Image.open(data_set / "images/val/scene_000.png")
    label_map = segment(model, SetrImageProcessor.from_pretrained(tmp_path / "model"), [photo])[0].numpy()
    with Image.open(submission / "scene_000.png") as picture:
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture), server_ids(LabelSet.direct(CLASS_NAMES["cityscapes"]))[label_map])


def test_only_results_of_a_whole_split_go_into_the_card(model_folder, data_set, tmp_path):
    save_model(tmp_path / "model", NAMES)
    with pytest.raises(SystemExit):
        run_here(tmp_path / "model", data_set, tmp_path / "out", "--limit", "3", "--update-card")
    run_here(tmp_path / "model", data_set, tmp_path / "out", "--update-card")
    expected = round(100 * json.loads((tmp_path / "out/results.json").read_text())["mean_iou"], 2)
    assert ModelCard.load(tmp_path / "model/README.md").data.eval_results[0].metric_value == expected


def test_prediction_job_pipeline_and_evaluation_choose_the_same_classes(data_set, tmp_path):
    """The label map that evaluate writes for the server is the one that predict writes and that the pipeline gives."""
    save_model(tmp_path / "model", CLASS_NAMES["ade20k"])
    (tmp_path / "data").mkdir()
    for kind in ("images", "annotations"):
        (tmp_path / "data" / kind).mkdir()
        (tmp_path / "data" / kind / "val").symlink_to(data_set / kind / "val")
    (tmp_path / "data/labels.json").write_text(json.dumps({"id2label": dict(enumerate(CLASS_NAMES["ade20k"]))}))
    run_here(tmp_path / "model", tmp_path / "data", tmp_path / "out", "--limit", "3", "--submit")
    model, photos = str(tmp_path / "model"), sorted((data_set / "images/val").iterdir())[:3]
    predict = load_script(SCRIPTS / "predict.py")
    assert predict.main([*map(str, photos), "--model", model, "--output", str(tmp_path / "predicted")]) == 0
    segmenter = pipeline("image-segmentation", model=model)
    for photo in photos:
        evaluated = np.asarray(Image.open(tmp_path / "out/submission" / f"{photo.stem}.png")).astype(int) - 1
        assert np.array_equal(evaluated, np.asarray(Image.open(tmp_path / "predicted" / f"{photo.stem}.png")))
        for entry in segmenter(str(photo)):
            chosen = np.asarray(entry["mask"]) > 0
            assert (evaluated[chosen] == segmenter.model.config.label2id[entry["label"]]).all()
        assert len(np.unique(evaluated)) > 1


@pytest.mark.parametrize("option", ["--limit", "--window-batch-size", "--threads"])
def test_counts_below_one_are_refused(option, model_folder, data_set, tmp_path):
    with pytest.raises(SetrError, match=f"{option} must be at least 1, got 0"):
        run_here(model_folder, data_set, tmp_path, option, "0")


def test_a_second_evaluation_into_the_same_folder_is_refused_before_its_first_image(
    model_folder, data_set, tmp_path, monkeypatch
):
    monkeypatch.setattr("setr_hf.files.LOCK_TIMEOUT", 0.1)
    evaluate = load_script(SCRIPTS / "evaluate.py").main
    with folder_lock(tmp_path / "out/records"), pytest.raises(SetrError, match="another running job writes to"):
        evaluate(arguments(model_folder, data_set, tmp_path / "out", "--limit", "2"))
    assert not any((tmp_path / "out").glob("*.json")) and not any((tmp_path / "out/records").iterdir())
    assert evaluate(arguments(model_folder, data_set, tmp_path / "out", "--limit", "2")) == 0
