"""`setr-hf evaluate`: the same counts with any number of processes and after any interruption, and what it writes."""

import json
import re
import shutil
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
def test_processes_share_the_images_and_count_the_same(alone, model_folder, data_set, tmp_path):
    subprocess.run(command(2, model_folder, data_set, tmp_path), check=True)
    records = records_by_process(tmp_path)
    assert [len(indices) for indices in records] == [51, 50]
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


def few_images(data_set, folder, names=NAMES, count=12):
    """A copy of the first images of `data_set`, with classes of these names."""
    for kind in ("images", "annotations"):
        (folder / kind / "val").mkdir(parents=True)
        for index in range(count):
            shutil.copy(data_set / f"{kind}/val/scene_{index:03}.png", folder / kind / "val")
    (folder / "labels.json").write_text(json.dumps({"id2label": dict(enumerate(names))}))
    return folder


def write_annotation(path, change):
    label_map = np.asarray(Image.open(path))
    Image.fromarray(change(label_map)).save(path)


# What is done to the file of a sample, and what is said of it.
DAMAGES = {
    1: (
        "images",
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        "the image of scene_001 .* cannot be read",
    ),
    2: ("images", lambda path: path.write_bytes(b""), "the image of scene_002 .* cannot be read"),
    6: ("annotations", lambda path: write_annotation(path, lambda ids: ids[1:]), "the image of scene_006 is"),
    7: (
        "annotations",
        lambda path: write_annotation(path, lambda ids: ids + 4),
        r"scene_007 holds the ids \[4, 5, 6\]",
    ),
}
GOOD = [index for index in range(12) if index not in DAMAGES]


@pytest.fixture
def spoiled(data_set, tmp_path):
    """Twelve images, four of which cannot be used."""
    folder = few_images(data_set, tmp_path / "spoiled")
    for index, (kind, damage, _) in DAMAGES.items():
        damage(folder / f"{kind}/val/scene_{index:03}.png")
    return folder


def bad_samples_in(text):
    return [line for line in text.splitlines() if line.startswith("bad sample: ")]


def test_an_evaluation_goes_on_past_bad_samples_and_gives_no_scores_without_them(
    model_folder, data_set, spoiled, tmp_path, capsys
):
    advice = "Repair them and start again; .* leave them out with --skip-bad-samples"
    with pytest.raises(SetrError, match=rf"4 of 12 samples cannot be used: the image of scene_001.*{advice}"):
        run_here(model_folder, spoiled, tmp_path / "out")
    output = capsys.readouterr()
    for line, (_, _, reason) in zip(bad_samples_in(output.err), DAMAGES.values(), strict=True):
        assert re.search(reason, line)
    assert "mIoU" not in output.out and [path.name for path in (tmp_path / "out").iterdir()] == ["records"]
    assert records_by_process(tmp_path / "out") == [GOOD]
    named = (tmp_path / "out/records/bad-samples-0.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in named] == ["scene_001", "scene_002", "scene_006", "scene_007"]

    # Started again, it tries the bad ones alone.
    shutil.copy(data_set / "images/val/scene_002.png", spoiled / "images/val")
    assert run_here(model_folder, spoiled, tmp_path / "out", "--skip-bad-samples") == 0
    assert records_by_process(tmp_path / "out") == [[*GOOD, 2]]
    output = capsys.readouterr()
    assert len(bad_samples_in(output.err)) == 3 and "of 9 of 12 images, 3 bad samples skipped" in output.out
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["num_images"] == 9 and [image["index"] for image in results["images"]] == sorted([*GOOD, 2])
    assert [bad["index"] for bad in results["bad_samples"]] == [1, 6, 7]

    for index in (1, 6, 7):
        for kind in ("images", "annotations"):
            shutil.copy(data_set / f"{kind}/val/scene_{index:03}.png", spoiled / kind / "val")
    assert run_here(model_folder, spoiled, tmp_path / "out") == 0
    output = capsys.readouterr()
    assert not bad_samples_in(output.err) and "of 12 images\n" in output.out
    assert records_by_process(tmp_path / "out") == [[*GOOD, 2, 1, 6, 7]]


def test_the_other_images_of_a_group_with_a_bad_sample_are_computed_once(model_folder, spoiled, tmp_path, capsys):
    for _ in range(2):
        with pytest.raises(SetrError, match="4 of 12 samples cannot be used"):
            run_here(model_folder, spoiled, tmp_path / "out", "--batch-size", "3")
        assert records_by_process(tmp_path / "out") == [GOOD]
        assert len(bad_samples_in(capsys.readouterr().err)) == 4


def test_processes_share_bad_samples_as_well(model_folder, spoiled, tmp_path):
    more = ["--skip-bad-samples"]
    assert run_here(model_folder, spoiled, tmp_path / "alone", *more) == 0
    process = subprocess.run(
        command(3, model_folder, spoiled, tmp_path / "shared", *more), check=True, capture_output=True, text=True
    )
    assert len(bad_samples_in(process.stderr)) == 4
    assert records_by_process(tmp_path / "shared") == [[0, 3, 9], [4, 10], [5, 8, 11]]
    for file in ("confusion_matrix.npy", "results.json"):
        assert (tmp_path / "shared" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()


def test_images_without_annotation_are_bad_samples_and_nothing_is_computed_from_bad_samples_alone(
    model_folder, data_set, tmp_path
):
    folder = few_images(data_set, tmp_path / "data", count=2)
    (folder / "annotations/val/scene_000.png").unlink()
    with pytest.raises(SetrError, match=r"1 images have no annotation, the first is 'scene_000'\. Repair them"):
        run_here(model_folder, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run_here(model_folder, folder, tmp_path / "out", "--skip-bad-samples") == 0
    [bad] = json.loads((tmp_path / "out/results.json").read_text())["bad_samples"]
    assert bad == {"index": 0, "name": "scene_000", "reason": "scene_000 has no annotation"}
    (folder / "images/val/scene_001.png").write_bytes(b"no image")
    with pytest.raises(SetrError, match="2 of 2 samples cannot be used"):
        run_here(model_folder, folder, tmp_path / "other", "--skip-bad-samples")


def test_submission_files(data_set, tmp_path):
    save_model(tmp_path / "model", CLASS_NAMES["cityscapes"])
    few_images(data_set, tmp_path / "data", CLASS_NAMES["cityscapes"], count=2)
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
    for partial in (["--limit", "3"], ["--skip-bad-samples"]):
        with pytest.raises(SystemExit):
            run_here(tmp_path / "model", data_set, tmp_path / "out", "--update-card", *partial)
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
