"""The train job as a user runs it: what it trains, and what it refuses before the first step, in one line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from paths import ROOT
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    SwinConfig,
    ViTConfig,
    ViTModel,
    pipeline,
)

from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor
from setr_hf.cli import run_job
from setr_hf.data.public_datasets import CLASS_NAMES
from setr_hf.data.scenes import CLASSES, make_scenes
from setr_hf.errors import SetrError
from setr_hf.files import LOCK_NAME
from setr_hf.training.batch_size import WORLD_SIZE_VARIABLES
from setr_hf.training.output_folder import last_complete_checkpoint
from setr_hf.training.setup import check_memory, initialize_as_mmseg, is_classifier
from setr_hf_cli import find_scripts, load_script


SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
SMALL |= {"decoder_hidden_size": 16, "mla_hidden_size": 8}
NETWORK = ("--config", json.dumps(SMALL))
# 4 photos of 128×160 pixels: a step or two takes seconds.
COMMON = ("--crop-size", 64, "--max-steps", 2, "--per-device-train-batch-size", 2, "--use-cpu")
COMMON += ("--disable-tqdm", "true", "--num-prediction-pictures", 0)


@pytest.fixture(scope="module")
def job():
    return load_script(find_scripts()["train"]).main


@pytest.fixture
def train(job, capsys):
    """A function that runs the job as the command line does; returns its exit status, output and errors."""

    def run(*arguments, status=0):
        result = run_job(lambda: job([str(argument) for argument in arguments]))
        out, err = capsys.readouterr()
        assert result == status, out + err
        return out, err

    return run


@pytest.fixture
def refused(train, tmp_path):
    """A function that runs the job, asserts that it ends in one line before it trains, and returns the line."""

    def run(*arguments):
        output = tmp_path / "refused"
        _, err = train(*arguments, "--output-dir", output, status=2)
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "Traceback" not in err
        assert not list(output.glob("checkpoint-*")) and not list(output.glob("*.safetensors"))
        return err[err.index("error: ") :]

    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def history(folder: Path) -> list[dict]:
    checkpoint = Path(last_complete_checkpoint(folder))
    return json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]


def save_small(folder: Path, names: list[str], **fields) -> Path:
    """A saved model for these classes."""
    config = SetrConfig(**SMALL, image_size=64, id2label=dict(enumerate(names)), **fields)
    SetrForSemanticSegmentation(config).save_pretrained(folder)
    size = {"shortest_edge": 96}
    SetrImageProcessor(do_split_image=True, size=size, crop_size=64, stride=43, antialias=False).save_pretrained(
        folder
    )
    return folder


def test_it_trains_a_model_that_the_pipeline_loads(scene_folder, tmp_path):
    output = tmp_path / "trained"
    command = [
        sys.executable,
        "scripts/train.py",
        "--dataset",
        scene_folder,
        *COMMON,
        *NETWORK,
        "--output-dir",
        output,
    ]
    result = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "all weights are random" in result.stdout
    assert "4 for training, 4 for validation" in result.stdout
    segmenter = pipeline("image-segmentation", model=str(output))
    assert segmenter.image_processor.do_split_image
    assert not segmenter.image_processor.antialias
    segments = segmenter(str(next((scene_folder / "images/val").iterdir())))
    assert {segment["label"] for segment in segments} <= set(CLASSES)
    scores = json.loads((output / "eval_results.json").read_text())
    assert 0 <= scores["eval_mean_iou"] <= 1


def test_it_goes_on_in_fp32_from_a_model_saved_in_half_precision(train, scene_folder, tmp_path):
    model = save_small(tmp_path / "model", CLASSES)
    SetrForSemanticSegmentation.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(model)
    output = tmp_path / "again"
    out, _ = train("--dataset", scene_folder, *COMMON, "--model", model, "--learning-rate", 0, "--output-dir", output)
    assert "eval_mean_iou" in out
    before, after = weights(model), weights(output)
    trained = [name for name in before if "running" not in name and "num_batches" not in name]
    assert all(after[name].dtype == torch.float32 for name in trained)
    assert all(torch.equal(before[name].float(), after[name]) for name in trained)
    processor = SetrImageProcessor.from_pretrained(output)
    assert (processor.size.shortest_edge, processor.stride) == (96, 43)


@pytest.fixture
def benchmark_folder(tmp_path):
    """A small ADEChallengeData2016: its class names, 5 photos for each split, and their annotations."""
    root = tmp_path / "ADEChallengeData2016"
    for split, first in (("training", 0), ("validation", 50)):
        scenes = make_scenes(5, first).rows
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for row in scenes:
            row["image"].save(root / f"images/{split}/{row['name']}.jpg")
            label_map = np.asarray(row["annotation"])
            Image.fromarray((label_map + 1).astype(np.uint8)).save(root / f"annotations/{split}/{row['name']}.png")
    rows = [f"{i}\t0.1\t10\t1\t{name}" for i, name in enumerate(CLASS_NAMES["ade20k"], start=1)]
    (root / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]))
    return root


@pytest.fixture
def small_vit(tmp_path):
    fields = {name: SMALL[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    config = ViTConfig(**fields, intermediate_size=64, image_size=48, patch_size=16)
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


RECIPE = ("--recipe", "setr-pup-large-ade20k-b16", "--use-cpu", "--dataloader-num-workers", 0, *NETWORK)
RECIPE += ("--size", 96, "--test-size", 96, "--crop-size", 64, "--stride", 48, "--num-prediction-pictures", 0)


def test_it_follows_a_recipe_but_for_what_is_overridden(train, benchmark_folder, small_vit, tmp_path):
    output = tmp_path / "out"
    out, _ = train(
        *RECIPE, "--dataset", benchmark_folder, "--encoder", small_vit, "--output-dir", output,
        "--max-steps", 2, "--global-batch-size", 2, "--gradient-accumulation-steps", 2, "--logging-steps", 1,
    )  # fmt: skip
    assert "2 = processes 1 × per device 1 × accumulation 2" in out
    assert "2  (recipe: 16)" in out
    assert f"encoder parameters loaded from {small_vit}" in out
    assert "resized from 3×3 to 4×4 patches" in out
    first, second = [row for row in history(output) if "learning_rate" in row]
    floor, half = 1e-4, 0.5**0.9
    assert (first["learning_rate"], first["head_learning_rate"]) == pytest.approx((0.001, 0.01))
    assert second["learning_rate"] == pytest.approx((0.001 - floor) * half + floor)
    assert second["head_learning_rate"] == pytest.approx((0.01 - floor) * half + floor)
    config = SetrConfig.from_pretrained(output)
    assert config.decoder_type == "pup"
    assert config.semantic_loss_average == "all"
    assert [config.id2label[i] for i in range(150)] == CLASS_NAMES["ade20k"]
    processor = SetrImageProcessor.from_pretrained(output)
    assert processor.do_reduce_labels
    assert processor.stride == 48
    # A tenth of the run, as published, is one step of two here. The recipe drops training batches that are not full;
    # The 5 photos do not fill an evaluation batch, and are evaluated nevertheless.
    assert [row["step"] for row in history(output) if "eval_mean_iou" in row] == [1, 2]


def test_a_recipe_wants_the_classes_of_its_data_set(refused, train, scene_folder, tmp_path):
    error = refused(*RECIPE, "--dataset", scene_folder, "--encoder", "none", "--max-steps", 1)
    assert "150" in error and str(len(CLASSES)) in error and "--other-classes" in error
    output = tmp_path / "own"
    arguments = ("--max-steps", 1, "--global-batch-size", 2, "--encoder", "none", "--output-dir", output)
    train(*RECIPE, "--dataset", scene_folder, "--other-classes", *arguments)
    assert SetrConfig.from_pretrained(output).num_labels == len(CLASSES)


def test_a_recipe_wants_the_names_too(refused, scene_folder):
    names = dict(enumerate(CLASS_NAMES["ade20k"])) | {2: "ceiling of the world"}
    (scene_folder / "labels.json").write_text(json.dumps({"id2label": names}))
    error = refused(*RECIPE, "--dataset", scene_folder, "--encoder", "none")
    assert "'sky'" in error and "'ceiling of the world'" in error and "class 2" in error


def test_a_dry_run_needs_no_data_and_leaves_nothing(job, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = ["--recipe", "setr-mla-large-cityscapes-40k", "--dry-run", "--use-cpu", "--learning-rate", "0.5"]
    assert run_job(lambda: job(arguments)) == 0
    out = capsys.readouterr().out
    assert "google/vit-large-patch16-384" in out
    assert re.search(r"learning_rate +0.5  \(recipe: 0.002\)", out)
    assert list(tmp_path.iterdir()) == []


def test_a_stream_is_trained_on(train, scene_folder, tmp_path):
    output = tmp_path / "streamed"
    train("--dataset", scene_folder, *COMMON, *NETWORK, "--streaming", "--max-steps", 3, "--output-dir", output)
    assert (output / "model.safetensors").is_file()


def unsplit(folder):
    """The same data as photos and annotations that are not parted into splits."""
    for kind in ("images", "annotations"):
        for path in (folder / kind).glob("*/*"):
            path.rename(folder / kind / path.name)
        for split in ("train", "val"):
            (folder / kind / split).rmdir()
    return folder


def test_data_without_validation_split_holds_samples_out_or_goes_without(train, refused, scene_folder, tmp_path):
    arguments = ("--dataset", unsplit(scene_folder), *COMMON, *NETWORK)
    assert "has no split 'validation', only train: --validation-fraction 0.1 holds out" in refused(*arguments)
    out, _ = train(*arguments, "--validation-fraction", 0.25, "--output-dir", tmp_path / "parted")
    assert "6 for training, 2 for validation" in out
    assert json.loads((tmp_path / "parted/eval_results.json").read_text())["eval_mean_iou"] >= 0
    assert "setr-hf evaluate --model parted --dataset path/to/data --validation-fraction 0.25\n" in (
        (tmp_path / "parted/README.md").read_text()
    )
    out, _ = train(*arguments, "--validation-fraction", 0, "--output-dir", tmp_path / "without")
    assert "8 for training, none for validation" in out
    assert (tmp_path / "without/README.md").exists() and not (tmp_path / "without/eval_results.json").exists()


def test_a_recipe_can_do_without_validation(train, scene_folder, tmp_path):
    recipe = ("--recipe", "setr-mla-small-camvid", "--other-classes", "--bf16", "false", "--global-batch-size", 2)
    arguments = ("--dataset", scene_folder, *COMMON, "--save-steps", 2, "--config", json.dumps(SMALL))
    train(*recipe, *arguments, "--validation-fraction", 0, "--output-dir", tmp_path / "out")
    assert not any("eval_mean_iou" in log for log in history(tmp_path / "out"))


def test_sizes_follow_from_the_photos_and_are_said(train, refused, scene_folder, tmp_path):
    arguments = ("--dataset", scene_folder, *NETWORK, *COMMON[2:])
    out, _ = train(*arguments, "--output-dir", tmp_path / "small")
    # The photos are 128 pixels high.
    assert "crops of 128×128, windows 85 apart, photos as large as they are" in out
    processor = SetrImageProcessor.from_pretrained(tmp_path / "small")
    assert (processor.crop_size.height, processor.stride, processor.do_resize) == (128, 85, False)
    assert tuple(SetrConfig.from_pretrained(tmp_path / "small").image_size) == (128, 128)
    limited = json.dumps(SMALL | {"image_size": 48})
    out, _ = train(*arguments, "--config", limited, "--output-dir", tmp_path / "limited")
    assert "crops of 48×48, windows 32 apart, photos resized to a short side of 48" in out
    processor = SetrImageProcessor.from_pretrained(tmp_path / "limited")
    assert (processor.size.shortest_edge, processor.do_resize) == (48, True)
    assert "--stride 200 is more than the crop of 128×128" in refused(*arguments, "--stride", 200)


def test_it_starts_from_a_backbone_by_its_folder(train, refused, scene_folder, tmp_path):
    sizes = {name: SMALL[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    backbone = tmp_path / "dinov2"
    Dinov2Model(Dinov2Config(**sizes, mlp_ratio=2, image_size=98, patch_size=14)).save_pretrained(backbone)
    BitImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(backbone)
    heads = json.dumps({"decoder_hidden_size": 16, "decoder_type": "pup"})
    arguments = ("--dataset", scene_folder, "--backbone", backbone, "--config", heads, *COMMON[2:])
    out, _ = train(*arguments, "--output-dir", tmp_path / "out")
    assert re.search(rf"all [\d,]+ encoder parameters loaded from {backbone}", out)
    assert "random weights" not in out
    assert "crops of 98×98" in out
    processor = SetrImageProcessor.from_pretrained(tmp_path / "out")
    assert (*processor.image_mean, *processor.image_std) == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    assert "trained from the encoder of dinov2" in (tmp_path / "out/README.md").read_text()
    pipeline("image-segmentation", model=str(tmp_path / "out"))(str(next((scene_folder / "images/val").iterdir())))
    assert "--encoder" in refused(*arguments, "--encoder", backbone)
    SwinConfig().save_pretrained(tmp_path / "swin")
    assert "Hierarchical backbones" in refused(*arguments, "--backbone", tmp_path / "swin")
    assert f"(is it {backbone}?)" in refused(*arguments, "--backbone", tmp_path / "dinov3")


def test_a_short_run_logs_its_loss_and_its_command(train, scene_folder, tmp_path):
    arguments = ("--dataset", scene_folder, *COMMON, *NETWORK, "--save-steps", 2)
    train(*arguments, "--output-dir", tmp_path / "short")
    assert [log["step"] for log in history(tmp_path / "short") if "loss" in log] == [1, 2]
    train(*arguments, "--logging-steps", 50, "--hub-token", "hf_x", "--output-dir", tmp_path / "asked")
    assert not [log for log in history(tmp_path / "asked") if "loss" in log]
    commands = (tmp_path / "asked/_commands.txt").read_text().splitlines()
    assert len(commands) == 1 and commands[0].startswith(f"setr-hf train --dataset {scene_folder}")
    assert "--hub-token … --output-dir" in commands[0] and "hf_x" not in commands[0]


def test_bad_samples_of_streams_are_named_or_left_out(train, refused, scene_folder, tmp_path, caplog):
    for split in ("train", "val"):
        next(iter(sorted((scene_folder / "images" / split).iterdir()))).write_bytes(b"")
    options = ["--dataset", scene_folder, *COMMON, *NETWORK, "--streaming", "--max-steps", 3]
    error = refused(*options, "--output-dir", tmp_path / "refused")
    assert "1 of 4 samples cannot be used" in error and "--skip-bad-samples" in error
    train(*options, "--skip-bad-samples", "--output-dir", tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").is_file()
    assert "Left out: 1 of 4 samples cannot be used" in caplog.text


def test_scores_go_to_tensorboard(train, scene_folder, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "log"))
    train("--dataset", scene_folder, *COMMON, *NETWORK, "--report-to", "tensorboard", "--output-dir", tmp_path / "out")
    events = EventAccumulator(str(next((tmp_path / "log").rglob("events*")).parent)).Reload()
    assert "eval/mean_iou" in events.Tags()["scalars"]


def test_windows_that_leave_gaps_are_refused_with_a_model_too(refused, scene_folder, tmp_path):
    model = save_small(tmp_path / "model", CLASSES)
    error = refused("--dataset", scene_folder, *COMMON, "--model", model, "--crop-size", 32)
    assert "stride" in error and "43" in error and "32" in error


def test_a_network_larger_than_the_memory_is_refused_before_it_is_built():
    config = SetrConfig(**SMALL | {"hidden_size": 2**17, "intermediate_size": 2**19, "num_attention_heads": 1})
    with pytest.raises(SetrError, match=r"network of 824,885,003,074 parameters, .* make it smaller"):
        check_memory(config)


def test_new_classifiers_keep_all_other_weights(train, refused, scene_folder, tmp_path):
    model = save_small(tmp_path / "model", [f"kind {i}" for i in range(7)])
    error = refused("--dataset", scene_folder, *COMMON, "--model", model)
    assert "7 classes" in error and str(len(CLASSES)) in error and "--reinitialize-classifier" in error
    output = tmp_path / "out"
    arguments = ("--model", model, "--reinitialize-classifier", "--learning-rate", 0, "--output-dir", output)
    out, _ = train("--dataset", scene_folder, *COMMON, *arguments)
    assert "decode_head.classifier.weight" in out and "decode_head.auxiliary_classifiers.3.weight" in out
    before, after = weights(model), weights(output)
    new = {name for name in before if before[name].shape != after[name].shape}
    assert new == {name for name in before if is_classifier(name)}
    assert len(new) == 6  # weight and bias of the main one, weights of four auxiliary ones
    trained = [name for name in before if name not in new and "running" not in name and "num_batches" not in name]
    assert all(torch.equal(before[name], after[name]) for name in trained)


def test_new_classifiers_are_new_too_where_only_the_names_differ(train, refused, scene_folder, tmp_path):
    model = save_small(tmp_path / "model", [f"kind {i}" for i in range(len(CLASSES))], decoder_type="naive")
    error = refused("--dataset", scene_folder, *COMMON, "--model", model)
    assert "kind 0" in error and CLASSES[0] in error and "--reinitialize-classifier" in error
    output = tmp_path / "out"
    arguments = ("--model", model, "--reinitialize-classifier", "--learning-rate", 0, "--output-dir", output)
    train("--dataset", scene_folder, *COMMON, *arguments)
    before, after = weights(model), weights(output)
    assert not torch.equal(before["decode_head.classifier.weight"], after["decode_head.classifier.weight"])
    assert torch.equal(before["setr.layers.0.mlp.fc1.weight"], after["setr.layers.0.mlp.fc1.weight"])
    assert SetrConfig.from_pretrained(output).id2label == dict(enumerate(CLASSES))


def test_a_model_that_is_no_setr_is_refused(refused, scene_folder, small_vit):
    error = refused("--dataset", scene_folder, *COMMON, "--model", small_vit)
    assert "is a vit" in error and "--encoder" in error


def test_an_encoder_that_does_not_fit_is_refused(refused, scene_folder, small_vit):
    wider = json.dumps({**SMALL, "hidden_size": 48})
    error = refused("--dataset", scene_folder, *COMMON, "--config", wider, "--encoder", small_vit)
    assert str(small_vit) in error and "48" in error


def test_ids_outside_the_classes_are_named_before_the_first_step(refused, scene_folder):
    path = sorted((scene_folder / "annotations/val").iterdir())[1]
    Image.fromarray(np.full((128, 160), 99, dtype=np.uint8)).save(path)
    error = refused("--dataset", scene_folder, *COMMON, *NETWORK)
    assert path.stem in error and "99" in error


def test_images_without_labels_are_named(refused, scene_folder):
    path = sorted((scene_folder / "annotations/train").iterdir())[2]
    path.unlink()
    assert path.stem in refused("--dataset", scene_folder, *COMMON, *NETWORK)


def test_sizes_that_differ_are_named(refused, scene_folder):
    path = sorted((scene_folder / "annotations/train").iterdir())[0]
    Image.fromarray(np.zeros((100, 160), dtype=np.uint8)).save(path)
    error = refused("--dataset", scene_folder, *COMMON, *NETWORK)
    assert path.stem in error and "128" in error and "100" in error


def test_unreadable_files_are_named_or_skipped_and_counted(refused, train, scene_folder, tmp_path):
    path = sorted((scene_folder / "images/train").iterdir())[3]
    path.write_bytes(path.read_bytes()[:200])
    error = refused("--dataset", scene_folder, *COMMON, *NETWORK)
    assert path.name in error
    assert "--skip-bad-samples" in error
    output = tmp_path / "out"
    out, _ = train("--dataset", scene_folder, *COMMON, *NETWORK, "--skip-bad-samples", "--output-dir", output)
    assert "3 for training, 4 for validation" in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_half_precision_without_a_gpu_is_refused(refused, train, scene_folder, tmp_path):
    arguments = ("--dataset", scene_folder, "--crop-size", 64, "--max-steps", 1, *NETWORK)
    error = refused("--recipe", "setr-mla-small-camvid", *arguments)
    assert "bf16" in error and "--use-cpu" in error
    error = refused(*arguments, "--fp16", "--use-cpu")
    assert "fp16" in error and "CUDA" in error
    output = tmp_path / "out"
    train("--recipe", "setr-mla-small-camvid", *arguments, "--use-cpu", "--output-dir", output)
    assert SetrConfig.from_pretrained(output).num_labels == len(CLASSES)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--recipe", "setr-mla-large-ade"], ["setr-mla-large-ade20k-b16"]),
        (["--recipe", "setr-mla-large-ade20k-b16", "--per-device-train-batch-size", 3], ["1 × 16", "2 × 8"]),
        (["--model", "m", "--config", "{}"], ["--config", "--model"]),
        (["--model", "m", "--encoder", "e"], ["--encoder", "--model"]),
        (["--model", "m", "--backbone", "b"], ["--backbone", "--model"]),
        (["--reinitialize-classifier"], ["--model"]),
        (["--other-classes"], ["--recipe"]),
        (["--crop-size", 1, 2, 3], ["--crop-size", "1 2 3"]),
        (["--min-scale", 2, "--max-scale", 1], ["--min-scale 2"]),
        (["--config", "{"], ["--config", "JSON"]),
        (["--config", "[]"], ["JSON object"]),
        (["--config", '{"hiden_size": 3}'], ["hiden_size"]),
        (["--config", '{"hidden_size": 30, "num_attention_heads": 4}'], ["hidden_size 30"]),
        (["--config", '{"hidden_size": "wide"}'], ["hidden_size", "wide"]),
        (["--loss-average", "most"], ["most"]),
        (["--layer-decay", "nan"], ["layer_decay", "got nan"]),
        (["--ema", 1], ["ema", "below 1, got 1"]),
        (["--freeze-encoder", "--layer-decay", 0.5], ["freeze_encoder", "layer_decay"]),
        (["--validation-fraction", 1], ["--validation-fraction", "less than 1, got 1"]),
        (["--validation-fraction", "-0.1"], ["--validation-fraction", "got -0.1"]),
        (["--validation-fraction", "nan"], ["--validation-fraction", "got nan"]),
        (["--validation-fraction", 0.1, "--streaming", "--max-steps", 2], ["--streaming"]),
        (["--validation-fraction", 0, "--eval-strategy", "steps"], ["--eval-strategy"]),
        (["--loss", "lovasz=1"], ["lovasz", "dice"]),
        (["--loss", "dice=much"], ["--loss dice=much", "dice=0.5"]),
        (["--loss", "dice=-1"], ["the weight of dice", "-1"]),
        (["--loss", "dice=nan"], ["the weight of dice", "nan"]),
        (["--loss", "dice", "dice=2"], ["dice twice"]),
        (["--loss", "dice=0"], ["a weight above 0"]),
        (["--loss", "dice", "--class-weights", "1", "2"], ["class_weights has no effect on dice"]),
        (["--loss", "focal", "--label-smoothing", 0.1], ["label_smoothing has no effect on focal"]),
        (["--class-weights", "often"], ["inverse-frequency", "often"]),
        (["--class-weights", "1", "-1"], ["class_weights must hold numbers from 0"]),
        (["--class-weights", "inverse-frequency", "--streaming", "--max-steps", 2], ["--streaming"]),
        (["--label-smoothing", 2], ["label_smoothing must be a number from 0 to 1"]),
        (["--loss", "dice", "--config", '{"semantic_loss": {"focal": 1}}'], ["--config", "semantic_loss"]),
        (["--model", "m", "--binary"], ["--binary", "--reinitialize-classifier"]),
        (["--lr-scheduler-kwargs", '{"hardness": 2}'], ["linear", "hardness"]),
        (["--lr-scheduler-type", "polynomial", "--lr-scheduler-kwargs", '{"min_lr": -1}'], ["polynomial", "-1"]),
        (["--resume-from-checkpoint", "nowhere"], ["nowhere", "is not a complete checkpoint"]),
    ],
)
def test_options_that_cannot_be_followed_are_refused(refused, tmp_path, arguments, named):
    error = refused("--dataset", tmp_path, "--use-cpu", *arguments)
    assert all(text in error for text in named), error


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--learning-rate", "nan"], ["learning_rate", "nan"]),
        (["--learning-rate", "-1"], ["learning_rate", "-1"]),
        (["--num-train-epochs", "inf"], ["num_train_epochs", "inf"]),
        (["--save-steps", "nan"], ["save_steps", "nan"]),
        (["--adam-beta1", 1], ["adam_beta1", "less than 1"]),
        (["--seed", 2**32], ["seed", "4294967295"]),
        (["--head-learning-rate-ratio", 0], ["head_learning_rate_ratio", "0"]),
        (["--per-device-train-batch-size", 0], ["per_device_train_batch_size", "at least 1"]),
        (["--global-batch-size", 0], ["batch", "at least 1"]),
        (["--max-scale", "inf"], ["--max-scale inf"]),
        (["--min-scale", "nan"], ["--min-scale nan"]),
        (["--category-max-ratio", "nan"], ["--category-max-ratio", "nan"]),
        (["--crop-size", 0], ["--crop-size", "0"]),
        (["--crop-size", 100_000], ["--crop-size 100000 100000", "16 megapixels"]),
        (["--crop-size", 64, "--stride", 65], ["--stride 65", "64×64"]),
        (["--stride", 0], ["--stride", "0"]),
        (["--model", ""], ["--model is empty"]),
        (["--metric-for-best-model", "loss"], ["--metric-for-best-model", "mean_iou", "loss"]),
        (["--label-smoothing-factor", 0.1], ["label_smoothing_factor", "0.1"]),
        (["--dataloader-persistent-workers"], ["dataloader_persistent_workers", "dataloader_num_workers"]),
        (["--gradient-checkpointing-kwargs", '{"reentrant": true}'], ["gradient_checkpointing_kwargs", "reentrant"]),
        (["--torch-compile-mode", "fast"], ["torch_compile_mode", "max-autotune"]),
        (["--lr-scheduler-kwargs", "{bad"], ["--lr-scheduler-kwargs", "JSON"]),
        (["--lr-scheduler-kwargs", '{"power": NaN}'], ["--lr-scheduler-kwargs", "NaN"]),
        (["--lr-scheduler-kwargs", '{"power": 1e400}'], ["--lr-scheduler-kwargs", "1e400"]),
        (["--optim-args", "fast"], ["--optim-args", "fast"]),
        (["--report-to", "nobody"], ["--report-to", "nobody"]),
        (["--accelerator-config", '{"speed": 1}'], ["speed"]),
        (["--config", '{"hidden_size": 1000000000}'], ["hidden_size", "1000000000"]),
        (["--config", '{"num_hidden_layers": -1}'], ["num_hidden_layers", "-1"]),
        (["--config", '{"layer_norm_eps": NaN}'], ["--config", "NaN"]),
        (["--config", "[" * 100_000], ["--config", "JSON"]),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_read(refused, tmp_path, arguments, named):
    error = refused("--dataset", "there/is/no/such/data", "--use-cpu", *arguments)
    assert all(text in error for text in named), error
    assert not (tmp_path / "refused").exists()


def test_the_data_is_asked_for(refused):
    assert "--dataset" in refused("--recipe", "setr-mla-large-ade20k-b16", "--use-cpu")


def test_data_that_does_not_fill_a_batch_is_refused(refused, scene_folder):
    arguments = ("--per-device-train-batch-size", 5, "--dataloader-drop-last")
    error = refused("--dataset", scene_folder, *COMMON, *NETWORK, *arguments)
    assert "4 training samples" in error and "5" in error


def test_an_output_folder_in_use_is_refused(train, scene_folder, tmp_path):
    arguments = ("--dataset", scene_folder, *COMMON, *NETWORK, "--output-dir", tmp_path / "out")
    train(*arguments)
    before = weights(tmp_path / "out")
    _, err = train(*arguments, status=2)
    assert str(tmp_path / "out") in err and "resume" in err
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tmp_path / "out").items())


def test_an_output_folder_of_a_running_job_is_refused(refused, scene_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("setr_hf.files.LOCK_TIMEOUT", 0.1)
    (tmp_path / "refused").mkdir()
    with FileLock(tmp_path / "refused" / LOCK_NAME):
        error = refused("--dataset", scene_folder, *COMMON, *NETWORK, "--resume-from-checkpoint", "True")
    assert "another running job" in error


def test_a_killed_run_resumes_to_the_same_weights(train, scene_folder, tmp_path):
    common = [*COMMON, *NETWORK, "--max-steps", 5, "--save-steps", 1, "--seed", 3, "--resume-from-checkpoint", "True"]
    arguments = [str(argument) for argument in ("--dataset", scene_folder, *common)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # The first run starts at the beginning, as there is nothing to resume.
    killed = tmp_path / "killed"
    command = [sys.executable, "scripts/train.py", *arguments, "--output-dir", str(killed)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while last_complete_checkpoint(killed) is None and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "model.safetensors").exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        out, _ = train(*arguments, "--output-dir", killed)
        assert re.search(rf"start +goes on from {killed}/checkpoint-\d", out)
        train(*arguments, "--output-dir", tmp_path / "whole")
    finally:
        torch.set_num_threads(threads)
    resumed, whole = weights(killed), weights(tmp_path / "whole")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_several_gpus_in_one_process_are_refused(job, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name in WORLD_SIZE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    recipe = ["--recipe", "setr-naive-large-cityscapes-40k", "--dataset", str(tmp_path)]
    assert run_job(lambda: job(recipe)) == 2
    error = capsys.readouterr().err
    assert "4 GPUs" in error and "accelerate launch" in error and "--num_processes 4" in error
    assert run_job(lambda: job([*recipe, "--dry-run"])) == 0
    assert "8 = processes 4 × per device 2 × accumulation 1" in capsys.readouterr().out


@pytest.mark.parametrize("decoder_type", ["naive", "pup", "mla"])
def test_decoders_of_mmsegmentations_recipes_start_as_there(decoder_type):
    config = SetrConfig(**SMALL | {"decoder_hidden_size": 64}, decoder_type=decoder_type, num_labels=50)
    model = SetrForSemanticSegmentation(config)
    encoder = {name: tensor.clone() for name, tensor in model.setr.state_dict().items()}
    initialize_as_mmseg(model)
    assert all(torch.equal(tensor, encoder[name]) for name, tensor in model.setr.state_dict().items())
    convolutions = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
    for name, module in convolutions:
        if name.startswith("setr."):
            continue
        fan_out = module.out_channels * module.kernel_size[0] ** 2
        expected = 0.01 if is_classifier(f"{name}.") else (2 / fan_out) ** 0.5
        assert module.weight.std().item() == pytest.approx(expected, rel=0.15), name
        assert module.bias is None or not module.bias.any()
