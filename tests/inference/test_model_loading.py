"""A model is loaded whole and finite, or refused in one line that names its folder and the file at fault."""

import json
import shutil

import pytest
import torch
from model_folders import save_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSemanticSegmentation, SegformerConfig, SegformerForSemanticSegmentation

from setr_hf import SetrForSemanticSegmentation, SetrImageProcessor
from setr_hf.errors import SetrError
from setr_hf.inference.loading import check_finite, load_model, load_network


KEY = "setr.layers.0.mlp.fc1.weight"


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "model", ["sky", "tree", "road"])
    return tmp_path / "model"


def refusal(folder, call=load_model):
    with pytest.raises(SetrError) as error:
        call(folder)
    line = str(error.value)
    assert str(folder) in line and len(line.splitlines()) == 1
    return line.replace(str(folder), "FOLDER")


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def change_json(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_whole_model_is_loaded_as_it_was_saved(folder, caplog):
    model, processor = load_model(folder)
    assert type(model) is SetrForSemanticSegmentation and not model.training
    assert type(processor) is SetrImageProcessor and processor.do_split_image
    for key, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(model.state_dict()[key], tensor)
    assert load_model(folder, "bfloat16")[0].dtype == torch.bfloat16
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda tensors: tensors.pop(KEY), f"it lacks {KEY}"),
        (lambda tensors: tensors.update(surplus=torch.zeros(2)), "it has the unknown surplus"),
        (lambda tensors: tensors.update({KEY: torch.zeros(3, 3)}), f"it has {KEY} (3, 3) instead of (64, 32)"),
    ],
    ids=["missing", "unknown", "of another shape"],
)
def test_tensors_that_do_not_fit_are_named(folder, change, fault, capfd):
    change_weights(folder, change)
    assert refusal(folder) == f"the weights of FOLDER are not those of its config.json: {fault}"
    assert "LOAD REPORT" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 10**9),
        ("num_hidden_layers", 10**6),
        ("hidden_size", 10**9),
        ("hidden_size", -32),
        ("patch_size", "16"),
        ("layer_norm_eps", float("nan")),
        ("num_labels", 10**8),
    ],
)
def test_absurd_configurations_are_refused(folder, field, value):
    change_json(folder / "config.json", **{field: value})
    refusal(folder)


def test_another_depth_than_the_configuration_says_is_refused(folder):
    change_json(folder / "config.json", num_hidden_layers=1, out_indices=None, out_features=None)
    assert refusal(folder).endswith("it has the unknown setr.layers.1.attention.k_proj.bias and 15 more")
    change_json(folder / "config.json", num_hidden_layers=3)
    assert "it lacks setr.layers.2." in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", [KEY, "decode_head.layers.0.normalization.running_mean"])
def test_weights_and_buffers_that_are_not_finite_are_named(folder, key, value):
    change_weights(folder, lambda tensors: tensors[key].view(-1)[0].fill_(value))
    assert f"the model FOLDER holds NaN or infinite numbers in {key}: " in refusal(folder)


def test_weights_that_overflow_in_half_precision_are_named(folder):
    change_weights(folder, lambda tensors: tensors[KEY].fill_(1e30))
    load_model(folder, "bfloat16")
    assert "weights overflow in float16" in refusal(folder, lambda folder: load_model(folder, "float16"))


def test_a_model_in_memory_is_checked_by_the_same_rule(tiny_model):
    model = tiny_model()
    check_finite(model, "the model")
    model.decode_head.classifier.bias.data[0] = torch.inf
    with pytest.raises(SetrError, match=r"NaN or infinite numbers in decode_head\.classifier\.bias"):
        check_finite(model, "the model")


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.int8, "I8"), (torch.bool, "BOOL"), (torch.complex64, "C64"), (torch.float8_e4m3fn, "F8_E4M3")],
)
def test_weights_that_are_not_floating_point_numbers_are_named(folder, dtype, name):
    change_weights(folder, lambda tensors: tensors.update({KEY: tensors[KEY].to(dtype)}))
    assert refusal(folder).startswith(f"FOLDER/model.safetensors holds {KEY} as {name}, but weights must be")


@pytest.mark.parametrize("length", [0, 4, 5_000, -1])
def test_a_truncated_file_is_named(folder, length):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert "FOLDER/model.safetensors is damaged or incomplete, copy or download it again: " in refusal(folder)


def test_a_missing_shard_is_named(folder):
    model = load_network(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")
    load_model(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    expected = "FOLDER lacks model-00002-of-00003.safetensors, which its model.safetensors.index.json lists"
    assert expected in refusal(folder)


@pytest.mark.parametrize("weight_map", [{"a": "../model.safetensors"}, {"a": 1}, {}, [], None])
def test_an_index_names_files_of_its_folder(folder, weight_map):
    shutil.move(folder / "model.safetensors", folder.parent)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "FOLDER/model.safetensors.index.json has no weight_map of tensors and files of this folder" in refusal(
        folder
    )


def test_pickles_are_not_loaded(folder):
    """The way out that the error names leads to a model that loads."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    line = refusal(folder)
    assert "holds its weights as a pickle, pytorch_model.bin, which can run any code and is not loaded" in line
    SetrForSemanticSegmentation.from_pretrained(folder).save_pretrained(folder.parent / "new")
    load_network(folder.parent / "new")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert refusal(folder).endswith(f"it has no {name}")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "is not valid JSON: Expecting property name"),
        ("[1]", "must hold a JSON object, not a list"),
        ("[" * 100_000, "is not valid JSON: it is nested too deeply"),
        ("", "is not valid JSON"),
        (b"\xff\xfe\x00", "is not text in UTF-8"),
    ],
    ids=["broken", "list", "nested", "empty", "binary"],
)
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_broken_file_of_settings_is_named(folder, name, text, fault):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert f"FOLDER/{name} {fault}" in refusal(folder)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"hidden_size": "32"}, "'hidden_size' expected int, got str (value: '32')"),
        ({"hidden_act": "swoosh"}, "got 'swoosh'"),
        ({"id2label": {"0": "sky", "2": "tree"}}, "id2label must name the classes 0 to 1, but 1 is missing"),
        ({"dtype": "int8"}, "torch.int8"),
        ({"dtype": "nothing"}, "nothing"),
        ({"hidden_size": 2**16, "intermediate_size": 2**16}, "the weights beside it have only"),
    ],
)
def test_a_configuration_that_cannot_be_right_is_refused(folder, fields, fault):
    change_json(folder / "config.json", **fields)
    assert fault in refusal(folder)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"image_std": [0, 0, 0]}, "cannot be loaded: image_std must hold positive numbers, got [0, 0, 0]"),
        ({"size": {"shortest_edge": 0}}, "cannot be loaded: size must hold positive whole numbers"),
        ({"size": "large"}, "cannot be loaded"),
        ({"image_processor_type": "ViTImageProcessor"}, "is a ViTImageProcessor, not a SetrImageProcessor"),
    ],
)
def test_an_image_processor_that_cannot_be_right_is_refused(folder, fields, fault):
    change_json(folder / "preprocessor_config.json", **fields)
    assert f"the image processor of FOLDER {fault}" in refusal(folder)


def test_another_architecture_is_named(tmp_path):
    config = SegformerConfig(hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, depths=[1] * 4)
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    assert refusal(tmp_path) == "the model FOLDER is not a SETR: it is a segformer"


def test_code_beside_the_weights_is_not_run(folder):
    (folder / "configuration_setr.py").write_text("raise AssertionError")
    load_model(folder)
    change_json(folder / "config.json", model_type="mystery")
    assert refusal(folder) == "the model FOLDER is not a SETR: it is a mystery"


def test_transformers_own_way_in_stays_as_it_is(folder):
    """What the Auto classes forgive, such as new classes, they still forgive."""
    model = AutoModelForSemanticSegmentation.from_pretrained(folder, num_labels=7, ignore_mismatched_sizes=True)
    assert model.decode_head.classifier.out_channels == 7
