"""Models whose encoder has weights of 8 or 4 bits, from Python, in the stock pipeline and in jobs."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from model_folders import NAMES, save_model
from paths import SCRIPTS
from PIL import Image
from torch import nn
from transformers import Trainer, TrainingArguments, pipeline

from setr_hf import SetrForSemanticSegmentation
from setr_hf.cli import run_job
from setr_hf.doctor.model_report import examine_model
from setr_hf.errors import SetrError
from setr_hf.inference.loading import check_finite, load_model, load_network
from setr_hf.inference.quantization import (
    QUANTIZATIONS,
    OncePerMessage,
    quantization_config,
    quantization_of,
    stored_tensors,
)
from setr_hf.inference.settings import model_settings
from setr_hf.model.modeling_setr import SetrConvLayer, is_bare
from setr_hf_cli import load_script


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "model", NAMES, hidden_size=64)
    return str(tmp_path / "model")


def installed(name):
    pytest.importorskip(QUANTIZATIONS[name][0])
    return name


def photo(height=40, width=70, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def size(model):
    return sum(tensor.nbytes for _, tensor in stored_tensors(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_linear_layers_are_quantized_and_nothing_else(folder, name, dtype, tmp_path):
    config = quantization_config(installed(name), dtype)
    whole = load_network(folder, dtype)
    model = SetrForSemanticSegmentation.from_pretrained(folder, dtype=dtype, quantization_config=config)
    assert quantization_of(model) == name and quantization_of(whole) is None
    assert model.dtype == dtype and size(model) < 0.8 * size(whole)
    kept = dict(stored_tensors(model))
    for key, tensor in whole.state_dict().items():
        if isinstance(whole.get_submodule(key.rpartition(".")[0]), nn.Linear) and key.endswith("weight"):
            assert key not in kept or not kept[key].is_floating_point()
        else:
            assert torch.equal(kept[key], tensor)

    pixels = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.inference_mode():
        expected, logits = whole(pixels).logits, model(pixels).logits
        assert logits.dtype == dtype
        error = (logits - expected).float().norm() / expected.float().norm()
        # A rounding of 1/254 and one of about 1/10 of the largest weight, through two layers.
        assert 0 < error < (0.3 if name == "bnb-nf4" else 0.05)

    model.save_pretrained(tmp_path / "quantized")
    again = SetrForSemanticSegmentation.from_pretrained(tmp_path / "quantized")
    assert quantization_of(again) == name and size(again) == size(model)
    with torch.inference_mode():
        assert torch.equal(again(pixels).logits, logits)


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_the_pipeline_and_jobs_compute_the_same(folder, name, tmp_path):
    config = quantization_config(installed(name))
    model, processor = load_model(folder, "float32", quantization=name)
    segmenter = pipeline("image-segmentation", model=folder, model_kwargs={"quantization_config": config})
    label_map = np.zeros((40, 70), np.uint8)
    for segment in segmenter(photo()):
        label_map[np.asarray(segment["mask"]) > 0] = NAMES.index(segment["label"])

    photo().save(tmp_path / "photo.png")
    job = load_script(SCRIPTS / "predict.py")
    options = ["--model", folder, "--output", str(tmp_path / "out"), str(tmp_path / "photo.png")]
    assert run_job(lambda: job.main([*options, "--quantization", name])) == 0
    written = tmp_path / "out/photo.png"
    assert np.array_equal(np.asarray(Image.open(written)), label_map)
    assert model_settings(model, processor)["model"] != model_settings(*load_model(folder, "float32"))["model"]


def test_results_with_and_without_are_not_mixed(folder, tmp_path, capsys):
    installed("int8-weight-only")
    photo().save(tmp_path / "photo.png")
    job = load_script(SCRIPTS / "predict.py")
    options = ["--model", folder, "--output", str(tmp_path / "out"), str(tmp_path / "photo.png")]
    assert run_job(lambda: job.main(options)) == 0
    assert run_job(lambda: job.main([*options, "--quantization", "int8-weight-only"])) == 2
    assert "quantization was None, now int8-weight-only" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_weights_that_are_not_finite_are_named(folder, name, tmp_path):
    installed(name)
    model = load_network(folder)
    model.setr.layers[1].mlp.fc1.weight.data[3, 5] = torch.nan
    model.save_pretrained(folder)
    with pytest.raises(SetrError, match=r"NaN or infinite numbers in setr\.layers\.1\.mlp\.fc1\."):
        load_network(folder, "float32", name)


def test_jobs_refuse_a_folder_of_quantized_weights(folder, scene_folder, tmp_path, capsys):
    config = quantization_config(installed("int8-weight-only"))
    saved = tmp_path / "quantized"
    SetrForSemanticSegmentation.from_pretrained(folder, quantization_config=config).save_pretrained(saved)
    load_model(folder)[1].save_pretrained(saved)
    message = f"the model {saved} was saved quantized (torchao), which from_pretrained loads, and jobs do not"
    with pytest.raises(SetrError) as error:
        load_model(saved)
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1
    assert [(finding.kind, finding.meaning) for finding in examine_model(str(saved))[1]] == [
        ("network", str(error.value))
    ]
    job = load_script(SCRIPTS / "train.py")
    options = ["--model", str(saved), "--dataset", str(scene_folder), "--output-dir", str(tmp_path / "run")]
    assert run_job(lambda: job.main([*options, "--use-cpu", "--max-steps", "1", "--crop-size", "32"])) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("value", ["int8", 3, [], {}, {"quant_method": "x\ny"}, {"quant_method": "x" * 10**4}])
def test_any_configuration_of_quantization_is_refused_in_a_line(folder, value):
    path = f"{folder}/config.json"
    with open(path) as file:
        content = json.load(file)
    with open(path, "w") as file:
        json.dump({**content, "quantization_config": value}, file)
    with pytest.raises(SetrError, match="was saved quantized") as error:
        load_model(folder)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 600


def test_a_width_that_4_bits_do_not_fill_is_named(tmp_path):
    installed("bnb-nf4")
    save_model(tmp_path, NAMES)
    with pytest.raises(SetrError, match="a layer of width 32, but bnb-nf4 needs multiples of 64"):
        load_network(tmp_path, "float32", "bnb-nf4")


def test_transformers_trainer_refuses_quantized_weights_without_adapters(folder, tmp_path):
    config = quantization_config(installed("int8-weight-only"))
    model = SetrForSemanticSegmentation.from_pretrained(folder, quantization_config=config)
    with pytest.raises(ValueError, match="attach trainable adapters"):
        Trainer(model, TrainingArguments(str(tmp_path / "run"), report_to=[], use_cpu=True))


def test_convolutions_with_packed_weights_are_left_to_their_library(folder):
    quantization = pytest.importorskip("torchao.quantization")
    layer = SetrConvLayer(16, 16, 3).eval()
    assert is_bare(layer.convolution)
    weight = quantization.Int8Tensor.from_hp(layer.convolution.weight.data, quantization.PerRow())
    layer.convolution.weight = nn.Parameter(weight, requires_grad=False)
    assert not is_bare(layer.convolution)
    # That has no such operator; weights that are taken apart before it would not tell.
    with pytest.raises(NotImplementedError, match=r"aten\.convolution"):
        layer(torch.zeros(1, 16, 4, 4), 2)


def test_a_library_that_cannot_be_loaded_is_named(folder, tmp_path, monkeypatch, capsys):
    for library, _ in QUANTIZATIONS.values():
        monkeypatch.delitem(sys.modules, library, raising=False)
        (tmp_path / f"{library}.py").write_text("raise OSError('library.so: cannot open\\nshared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    photo().save(tmp_path / "photo.png")
    for name, (library, _) in QUANTIZATIONS.items():
        with pytest.raises(SetrError, match=f"{name} needs {library}, which cannot be loaded") as error:
            quantization_config(name)
        assert len(str(error.value).splitlines()) == 1
    job = load_script(SCRIPTS / "predict.py")
    options = ["--model", folder, "--output", str(tmp_path / "out"), str(tmp_path / "photo.png")]
    assert run_job(lambda: job.main([*options, "--quantization", "bnb-nf4"])) == 2
    assert "bnb-nf4 needs bitsandbytes" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_card_tells_of_weights_as_they_are_saved(folder, capsys):
    job = load_script(SCRIPTS / "evaluate.py")
    options = ["--model", folder, "--dataset", "scenes", "--update-card", "--quantization", "int8-dynamic"]
    with pytest.raises(SystemExit):
        job.main(options)
    assert "--update-card takes results of the weights as they are saved" in capsys.readouterr().err


def test_jobs_say_nothing_of_the_libraries(folder, tmp_path):
    """Torch's advice to torchao's authors comes with the first import of Transformers."""
    installed("int8-weight-only")
    photo().save(tmp_path / "photo.png")
    options = ["--model", folder, "--output", tmp_path / "out", tmp_path / "photo.png", "--window-batch-size", "0"]
    command = [sys.executable, SCRIPTS / "predict.py", *options]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "error: --window-batch-size must be at least 1, got 0\n"


def test_what_is_said_at_each_product_is_heard_once():
    logger = logging.getLogger("setr_hf.test_quantization")
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger.addHandler(handler)
    logger.addFilter(OncePerMessage())
    for message in ("cast", "cast", "other", "cast"):
        logger.warning("inputs: %s", message)
    assert [record.getMessage() for record in records] == ["inputs: cast", "inputs: other"]


def test_a_model_without_quantization_is_stored_as_it_is(folder):
    model = load_network(folder)
    state = model.state_dict()
    assert all(tensor.data_ptr() == state[name].data_ptr() for name, tensor in stored_tensors(model))
    assert [name for name, _ in stored_tensors(model)] == list(state)
    check_finite(model, "the model")
