"""LoRA as a user of the command line has it: trained, printed, refused, and merged."""

import json
import re
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import ViTConfig, ViTModel, pipeline

from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor
from setr_hf.cli import run_job
from setr_hf.inference.loading import load_model
from setr_hf_cli import find_scripts, load_script


SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
HEADS = {"decoder_type": "naive", "decoder_hidden_size": 8}
COMMON = ("--crop-size", 64, "--max-steps", 2, "--per-device-train-batch-size", 2, "--use-cpu")
COMMON += ("--disable-tqdm", "true", "--num-prediction-pictures", 0)


@pytest.fixture
def run(capsys):
    """A function that runs a job as the command line does; returns its output and errors."""

    def run(job, *arguments, status=0):
        main = load_script(find_scripts()[job]).main
        try:
            result = run_job(lambda: main([str(argument) for argument in arguments]))
        except SystemExit as end:  # Of argparse.
            result = end.code
        out, err = capsys.readouterr()
        assert result == status, out + err
        assert "Traceback" not in err
        return out, err

    return run


@pytest.fixture
def base(tmp_path):
    """A model of other classes than those of the scenes."""
    folder = tmp_path / "base"
    config = SetrConfig(**SIZES, **HEADS, image_size=64, id2label={index: f"kind {index}" for index in range(7)})
    SetrForSemanticSegmentation(config).save_pretrained(folder)
    SetrImageProcessor(do_split_image=True, size={"shortest_edge": 96}, crop_size=64, stride=43).save_pretrained(
        folder
    )
    return folder


def test_a_model_is_adapted_to_other_classes(run, base, scene_folder, tmp_path):
    output = tmp_path / "out"
    arguments = ("--model", base, "--reinitialize-classifier", "--lora", 2, "--lora-alpha", 4, "--lora-dropout", 0.1)
    arguments += ("--memory", "100GB", "--save-steps", 1, "--output-dir", output)
    out, _ = run("train", "--dataset", scene_folder, *COMMON, *arguments)
    counts = "3,584 of 59,360 parameters (6 %)"
    printed = (
        out.index("rank 2, alpha 4, on 24 linear layers of the encoder"),
        out.index(counts),
        out.index("train_loss"),
    )
    assert list(printed) == sorted(printed)
    assert re.search(r"^learning_rate +0\.0005$", out, re.MULTILINE)

    before, after = load_file(base / "model.safetensors"), load_file(output / "model.safetensors")
    encoder = [name for name in before if name.startswith("setr.")]
    linear = {name for name in encoder if ".layers." in name and before[name].ndim == 2}
    assert {name for name in encoder if not before[name].equal(after[name])} == linear
    photo = str(next((scene_folder / "images/val").iterdir()))
    assert pipeline("image-segmentation", model=str(output))(photo)
    model, processor = load_model(output)
    assert processor.size.shortest_edge == 96 and processor.crop_size.height == 64

    card = ModelCard.load(output / "README.md").text
    assert "fine-tuned from base" in card and "LoRA adapters, with PEFT, which are merged into these weights" in card
    assert "| LoRA | rank 2, alpha 4, on 24 linear layers of the encoder |" in card and f"| {counts} |" in card

    _, err = run("predict", photo, "--model", output / "checkpoint-2", "--output", tmp_path / "no", status=2)
    assert f"`setr-hf merge {output / 'checkpoint-2'} NEW_FOLDER` makes one of them" in err
    for source in (output / "checkpoint-2", output / "adapter"):
        merged = tmp_path / f"merged from {source.name}"
        assert str(merged) in run("merge", source, merged)[0]
        again, again_processor = load_model(merged)
        assert again_processor.to_dict() == processor.to_dict() and again.config.id2label == model.config.id2label
        assert all(tensor.equal(again.state_dict()[name]) for name, tensor in model.state_dict().items())
    _, err = run("merge", output, merged, status=2)
    assert str(merged) in err and "exists" in err


def test_an_encoder_is_adapted_and_found_again(run, scene_folder, tmp_path):
    """By the adapter, which names it, and by a resumed run; a recipe's rate is kept."""
    vit, output = tmp_path / "vit", tmp_path / "out"
    ViTModel(ViTConfig(**SIZES, image_size=48), add_pooling_layer=False).save_pretrained(vit)
    network = ("--config", json.dumps(SIZES | HEADS), "--encoder", vit, "--lora", 1, "--save-steps", 1)
    out, _ = run("train", "--dataset", scene_folder, *COMMON, *network, "--output-dir", output)
    assert re.search(r"^trained of the encoder +1,792 of ", out, re.MULTILINE)
    assert json.loads((output / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == str(vit)
    run("merge", output / "adapter", tmp_path / "merged")
    expected, found = load_model(output)[0].state_dict(), load_model(tmp_path / "merged")[0].state_dict()
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())

    shutil.copytree(output / "checkpoint-1", tmp_path / "resumed/checkpoint-1")
    resumed = ("--output-dir", tmp_path / "resumed", "--resume-from-checkpoint", "True")
    run("train", "--dataset", scene_folder, *COMMON, *network, *resumed)
    assert (tmp_path / "resumed/model.safetensors").read_bytes() == (output / "model.safetensors").read_bytes()

    ViTModel(ViTConfig(**SIZES, image_size=48), add_pooling_layer=False).save_pretrained(tmp_path / "other")
    _, err = run("merge", output, tmp_path / "wrong", "--base", tmp_path / "other", status=2)
    assert "was trained on another encoder than that of" in err and not (tmp_path / "wrong").exists()
    out, _ = run("train", "--recipe", "setr-naive-large-cityscapes-40k", "--lora", 8, "--dry-run", "--use-cpu")
    assert not re.search(r"^learning_rate +0\.0005$", out, re.MULTILINE)


def test_random_weights_that_stay_are_warned_of(run, scene_folder, tmp_path, caplog):
    network = ("--config", json.dumps(SIZES | HEADS), "--output-dir", tmp_path / "out", "--save-strategy", "no")
    run("train", "--dataset", scene_folder, *COMMON, *network, "--lora", 2, "--bf16")
    assert "--lora keeps the weights of the encoder, which are random" in caplog.text
    _, err = run("merge", tmp_path / "out", tmp_path / "merged", status=2)
    assert "does not say what its encoder came from" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lora", 0), "rank of LoRA must be a whole number of at least 1, got 0"),
        (("--lora", -1), "at least 1, got -1"),
        (("--lora", "many"), "invalid int value: 'many'"),
        (("--lora", 1.5), "invalid int value: '1.5'"),
        (("--lora",), "expected one argument"),
        (("--lora", 33), "a rank of 33 is larger than the layer setr.layers.0.attention.q_proj, which is 32×32"),
        (("--lora-alpha", 4), "--lora-alpha and --lora-dropout belong to --lora"),
        (("--lora-dropout", 0.1), "--lora-alpha and --lora-dropout belong to --lora"),
        (("--lora", 2, "--lora-alpha", 0), "alpha of LoRA must be a number greater than 0, got 0"),
        (("--lora", 2, "--lora-alpha", "nan"), "alpha of LoRA must be a number greater than 0, got nan"),
        (("--lora", 2, "--lora-dropout", 1), "dropout of LoRA must be at least 0 and less than 1, got 1"),
        (("--lora", 2, "--lora-dropout", -0.1), "dropout of LoRA must be at least 0 and less than 1, got -0.1"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, base, scene_folder, tmp_path, options, message):
    arguments = ("--model", base, "--reinitialize-classifier", "--output-dir", tmp_path / "out", *COMMON, *options)
    _, err = run("train", "--dataset", scene_folder, *arguments, status=2)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_a_folder_without_adapters_is_not_merged(run, base, tmp_path):
    _, err = run("merge", base, tmp_path / "out", status=2)
    assert f"{base} holds no adapter" in err
    _, err = run("merge", tmp_path / "nowhere", tmp_path / "out", status=2)
    assert "nowhere holds no adapter" in err and not (tmp_path / "out").exists()
    assert torch.is_tensor(load_model(base)[0].decode_head.classifier.weight)


def test_a_backbone_is_adapted_and_merged_from_its_own_folder(run, scene_folder, tmp_path):
    ViTModel(ViTConfig(**SIZES, image_size=64), add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    output = tmp_path / "out"
    arguments = ("--dataset", scene_folder, *COMMON, "--config", json.dumps(HEADS), "--lora", 2)
    run("train", *arguments, "--backbone", tmp_path / "vit", "--output-dir", output)
    run("merge", output / "adapter", tmp_path / "whole")
    trained, whole = (load_file(folder / "model.safetensors") for folder in (output, tmp_path / "whole"))
    assert all(torch.equal(trained[name], whole[name]) for name in trained)
    assert any("backbone.encoder" in name for name in trained)
    for option in (("--ema", 0.9), ("--layer-decay", 0.7), ("--freeze-encoder",)):
        _, err = run("train", *arguments, *option, "--output-dir", tmp_path / "no", status=2)
        assert f"error: {option[0]} is for the weights of the encoder" in err
