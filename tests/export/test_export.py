"""Exported models: their logits and label maps at any size, what is refused, and what is written."""

import json
import sys

import numpy as np
import pytest
import torch
from model_folders import NAMES, save_model
from paths import ROOT, SCRIPTS

from setr_hf import segment
from setr_hf.data.scenes import make_scenes
from setr_hf.errors import SetrError
from setr_hf.export.agreement import agreement, label_maps, layer_losses
from setr_hf.export.formats import FORMATS, quiet
from setr_hf.export.graph import trace
from setr_hf.export.precision import lossy_layers, reduced
from setr_hf.export.running import ExportedModel, load_exported
from setr_hf.export.writing import export_model
from setr_hf.inference.loading import load_model
from setr_hf_cli import load_script


main = load_script(SCRIPTS / "export.py").main

DECODERS = {
    "naive": {"decoder_type": "naive"},
    "pup": {"decoder_type": "pup", "num_hidden_layers": 1},
    "mla": {"decoder_type": "mla", "out_indices": [1, 2], "mla_hidden_size": 8},
}
# Batch size, height and width: whole patches and not, a single row of them, batches of one to three.
SIZES = [(1, 32, 32), (3, 33, 47), (2, 64, 31), (1, 16, 80), (2, 95, 17)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A function that saves a model with a decoder, and returns its folder; each once."""
    root = tmp_path_factory.mktemp("models")

    def save(decoder):
        if not (root / decoder).exists():
            save_model(root / decoder, NAMES, **DECODERS[decoder])
        return root / decoder

    return save


@pytest.fixture(scope="module")
def exported(saved, tmp_path_factory):
    """A function that returns a model, its image processor, and a function that runs it in a format."""
    root, programs, runs = tmp_path_factory.mktemp("exported"), {}, {}

    def export(decoder, format_name):
        model, processor = load_model(saved(decoder))
        form = FORMATS[format_name]
        if (decoder, format_name) not in runs:
            (root / decoder / format_name).mkdir(parents=True)
            path = root / decoder / format_name / form.file_name
            with quiet():
                programs[decoder] = programs.get(decoder) or trace(model)
                form.write(programs[decoder], path)
            assert str(ROOT).encode() not in path.read_bytes(), "a path of this computer"
            runs[decoder, format_name] = form.load(path)
        return model, processor, runs[decoder, format_name]

    return export


@pytest.fixture(scope="module")
def scenes():
    return list(make_scenes(2).rows["image"])


@pytest.mark.parametrize(
    ("decoder", "format_name"),
    [*((decoder, "onnx") for decoder in DECODERS), ("mla", "openvino"), *((d, "torch-export") for d in DECODERS)],
)
def test_logits_are_those_of_the_model_at_every_size(exported, decoder, format_name):
    model, _, run = exported(decoder, format_name)
    for batch_size, height, width in SIZES:
        pixel_values = torch.randn(batch_size, 3, height, width)
        with torch.inference_mode():
            expected = model(pixel_values=pixel_values).logits.numpy()
        found = run(pixel_values.numpy())
        assert found.shape == expected.shape
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("decoder", DECODERS)
def test_label_maps_are_those_of_the_model_for_photos_of_any_size(exported, scenes, decoder):
    model, processor, run = exported(decoder, "onnx")
    # The last ones are so narrow that windows are smaller than the crop, and not whole patches.
    photos = [scenes[0].resize(size) for size in ((160, 128), (75, 131), (33, 32), (400, 50), (41, 300))]
    found = segment(ExportedModel(model.config, run), processor, photos)
    assert agreement(label_maps(model, processor, photos), found).of_pixels >= 0.9999


def stock_label_map(pipe, photo):
    label_map = np.full((photo.height, photo.width), -1)
    for part in pipe(photo):
        label_map[np.asarray(part["mask"]) > 0] = pipe.model.config.label2id[part["label"]]
    return torch.from_numpy(label_map)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_label_maps_of_fifty_photo_sizes_are_those_of_the_stock_pipeline(exported, saved, decoder):
    from transformers import pipeline

    model, processor, run = exported(decoder, "onnx")
    network = ExportedModel(model.config, run)
    pipe = pipeline("image-segmentation", model=str(saved(decoder)), device="cpu")
    sizes = np.random.default_rng(0).integers(20, 200, (50, 2)).tolist()
    photos = [scene.resize(size) for scene, size in zip(make_scenes(50).rows["image"], sizes)]
    found = agreement([stock_label_map(pipe, photo) for photo in photos], segment(network, processor, photos))
    print(f"{decoder}: {len(photos)} sizes, {100 * found.of_pixels:.4f} % of all pixels, least {min(found.of_photos)}")
    assert found.of_pixels >= 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("format_name", FORMATS)
def test_a_backbone_of_patch_14_is_exported(format_name, tmp_path):
    from transformers import Dinov2Config

    backbone = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, mlp_ratio=2, image_size=42, patch_size=14
    )
    fields = {**DECODERS["mla"], "backbone_config": backbone, "patch_size": 14}
    save_model(tmp_path / "model", NAMES, **fields)
    model, _ = load_model(tmp_path / "model")
    form = FORMATS[format_name]
    with quiet():
        form.write(trace(model), tmp_path / form.file_name)
    run = form.load(tmp_path / form.file_name)
    for batch_size, height, width in [(1, 42, 42), (3, 33, 47), (2, 71, 29)]:
        pixel_values = torch.randn(batch_size, 3, height, width)
        with torch.inference_mode():
            expected = model(pixel_values=pixel_values).logits.numpy()
        assert np.abs(run(pixel_values.numpy()) - expected).max() < 1e-4


def test_the_job_writes_a_folder_that_runs_as_it_says(saved, tmp_path, capsys, scenes, monkeypatch):
    scenes[0].save(tmp_path / "photo.png")
    output = tmp_path / "out"
    command = [str(saved("naive")), str(output), "--format", "torch-export", "--photos", str(tmp_path / "photo.png")]
    assert main(command) == 0
    assert sorted(path.name for path in output.iterdir()) == [
        "README.md", "config.json", "model.pt2", "preprocessor_config.json",
    ]  # fmt: skip
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["file", "dtype", "size"] and "100.0000" in row.split()
    assert "auto_map" not in json.loads((output / "config.json").read_text())
    model, processor = load_model(saved("naive"))
    network, own_processor = load_exported(output)
    expected, found = segment(model, processor, scenes), segment(network, own_processor, scenes)
    assert agreement(expected, found).of_pixels >= 0.9999
    monkeypatch.chdir(output)
    names = {}
    exec((output / "README.md").read_text().split("```python\n")[1].split("```")[0], names)
    assert names["logits"].shape == (1, len(NAMES), 32, 32)
    before = {path: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(SetrError, match="out"):
        main(command)
    assert before == {path: path.read_bytes() for path in output.iterdir()}


@pytest.fixture
def with_outliers(saved, tmp_path):
    """A folder of a model with a layer that no lower precision can hold: some weights are so large that 8 bits leave
    nothing of the others, and float16 overflows; their input is always 0, so that in float32 they change nothing.
    """
    model, processor = load_model(saved("naive"))
    with torch.no_grad():
        model.setr.layers[1].mlp.fc1.weight[0] = 0
        model.setr.layers[1].mlp.fc1.bias[0] = 0
        model.setr.layers[1].mlp.fc2.weight[:, 0] = 3e5
    model.save_pretrained(tmp_path / "outliers")
    processor.save_pretrained(tmp_path / "outliers")
    return tmp_path / "outliers"


def test_weights_that_8_bits_cannot_hold_are_refused_by_name(with_outliers, tmp_path, scenes):
    with pytest.raises(SetrError, match=r"nothing is written: .* loses most is setr\.layers\.1\.mlp\.fc2: ") as error:
        export_model(with_outliers, tmp_path / "out", "torch-export", scenes, dtype="int8")
    assert "99.9 % asked" in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outliers"]


def test_a_layer_that_overflows_in_float16_loses_most(with_outliers, scenes):
    model, processor = load_model(with_outliers)
    losses = layer_losses(model, processor, scenes[0], "float16")
    assert losses[0].layer == "setr.layers.1.mlp.fc2" and losses[0].pixels == float("inf")
    assert all(loss.pixels < 0.01 for loss in losses[1:])
    assert {loss.layer for loss in losses} == set(lossy_layers(model, "float16"))


def test_int8_rounds_weights_to_a_scale_for_each_channel(saved):
    model, _ = load_model(saved("mla"))
    small = reduced(model, "int8")
    for name, layer in lossy_layers(model, "int8").items():
        weight, rounded = layer.weight, small.get_submodule(name).weight
        step = weight.abs().flatten(1).amax(1) / 127
        assert ((weight - rounded).abs().flatten(1).amax(1) <= 0.501 * step).all()
        assert small.get_submodule(name).parametrizations.weight.original0.dtype == torch.int8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-agreement", "0"], "min_agreement must be more than 0"),
        (["--min-agreement", "101"], "at most 1"),
        (["--min-agreement", "nan"], "min_agreement"),
        (["--photos", "no/such/photo.jpg"], "photo.jpg"),
        (["--photos", "no/such/*.jpg"], "nothing matches"),
        (["--photos", ""], "not the name of a photo"),
    ],
)
def test_options_out_of_range_are_refused_before_work(saved, tmp_path, options, message):
    with pytest.raises(SetrError, match=message):
        main([str(saved("naive")), str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["--format", "tflite"], ["--dtype", "float8"], ["--min-agreement", "x"]])
def test_unknown_names_are_refused_by_the_parser(options, capsys):
    with pytest.raises(SystemExit) as end:
        main(["model", "out", *options])
    assert end.value.code == 2 and "error: " in capsys.readouterr().err


def test_a_missing_package_is_named_with_what_installs_it(saved, tmp_path, monkeypatch, scenes):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SetrError, match=r"openvino needs openvino: pip install 'setr-hf\[export\]'"):
        export_model(saved("naive"), tmp_path / "out", "openvino", scenes)


def test_what_is_not_a_setr_or_not_an_export_is_refused(tmp_path, scenes):
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit/config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(SetrError, match="is not a SETR: it is a vit"):
        export_model(tmp_path / "vit", tmp_path / "out", "onnx", scenes)
    with pytest.raises(SetrError, match=r"holds no exported model: it has none of model\.onnx"):
        load_exported(tmp_path / "vit")
    with pytest.raises(SetrError, match="no photos"):
        export_model(tmp_path / "vit", tmp_path / "out", "onnx", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vit"]
