"""Public SETR checkpoints become ours with the same logits, completely or not at all, and go back."""

import json
import os
import pickle
import runpy
import sys
import types

import checkpoints
import numpy as np
import pytest
import torch
from paths import SCRIPTS
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

from setr_hf import SetrConfig, SetrForSemanticSegmentation
from setr_hf.checkpoints.convert import build_model, convert_checkpoint, convert_tensors, load_original
from setr_hf.checkpoints.detection import Shapes, detect
from setr_hf.checkpoints.export import to_public_state_dict, write_public_checkpoint
from setr_hf.checkpoints.reading import read_checkpoint
from setr_hf.data.public_datasets import CLASS_NAMES, PALETTES


TOLERANCE = {"atol": 1e-5, "rtol": 0}
FULL_SIZE = [
    "ade20k_large_mmseg0_mla",
    "ade20k_large_mmseg0_naive",
    "ade20k_large_mmseg0_pup",
    "ade20k_large_original_mla",
    "ade20k_large_original_naive",
    "ade20k_large_original_pup",
    "cityscapes_base_original_naive",
]


def overrides_for(implementation, decoder, **fields):
    layers = list(checkpoints.AUXILIARY_LAYERS[implementation, decoder])
    return {"num_attention_heads": checkpoints.HEADS, "auxiliary_out_indices": layers} | fields


@pytest.fixture
def save(tmp_path):
    """A function that writes a state dict as a checkpoint of the public form."""

    def write(state_dict, name="checkpoint.pth", meta=None, **options):
        path = tmp_path / name
        torch.save({"meta": meta or {"epoch": 1}, "state_dict": state_dict}, path, **options)
        return path

    return write


@pytest.fixture
def naive_checkpoint(save):
    return save(checkpoints.stand_in("original", "naive"))


@pytest.fixture(scope="session")
def convert_script():
    return runpy.run_path(str(SCRIPTS / "convert.py"))["main"]


@torch.no_grad()
def resized_logits(model, pixel_values):
    """Logits and auxiliary logits at the size of the images."""
    outputs = model(pixel_values, output_auxiliary_logits=True)
    size = pixel_values.shape[-2:]
    auxiliary = outputs.auxiliary_logits or ()
    return checkpoints.resize_to(outputs.logits, size), [checkpoints.resize_to(maps, size) for maps in auxiliary]


def check_logits(model, state_dict, implementation, decoder, size=(64, 64), auxiliary_convs=1):
    pixel_values = torch.randn(2, 3, *size)
    expected = checkpoints.forward(state_dict, implementation, decoder, pixel_values, auxiliary_convs)
    actual = resized_logits(model, pixel_values)
    torch.testing.assert_close(actual, expected, **TOLERANCE)


@pytest.mark.parametrize("implementation, decoder", checkpoints.FORMS)
def test_logits_are_those_of_the_source(save, implementation, decoder):
    state_dict = checkpoints.stand_in(implementation, decoder)
    model, _, report = load_original(save(state_dict), overrides=overrides_for(implementation, decoder))
    assert (report.implementation, report.config.decoder_type) == (implementation, decoder)
    assert report.num_used + len(report.unused) == len(state_dict)
    check_logits(model, state_dict, implementation, decoder)


def test_mmsegmentation_1x_has_no_patch_bias(save):
    state_dict = checkpoints.stand_in("mmseg", "naive", patch_bias=False)
    model, _, _ = load_original(save(state_dict), overrides=overrides_for("mmseg", "naive"))
    assert not model.setr.embeddings.patch_embeddings.bias.any()
    check_logits(model, state_dict, "mmseg", "naive")


@pytest.mark.parametrize("decoder", ["naive", "pup"])
def test_auxiliary_heads_of_two_convolutions(save, decoder):
    state_dict = checkpoints.stand_in("mmseg", decoder, auxiliary_convs=2)
    model, _, report = load_original(save(state_dict), overrides=overrides_for("mmseg", decoder))
    assert report.config.auxiliary_num_convs == 2
    check_logits(model, state_dict, "mmseg", decoder, auxiliary_convs=2)


def test_grids_that_are_not_square_must_be_given(save):
    state_dict = checkpoints.stand_in("mmseg", "mla", grid=(2, 6))
    path = save(state_dict)
    with pytest.raises(ValueError, match=r"12 position embeddings do not form a square.*image_size"):
        load_original(path, overrides=overrides_for("mmseg", "mla"))
    model, _, _ = load_original(path, overrides=overrides_for("mmseg", "mla", image_size=[32, 96]))
    check_logits(model, state_dict, "mmseg", "mla", size=(32, 96))


def test_a_single_auxiliary_head_of_mmsegmentation_is_no_list(save):
    state_dict = {
        key.replace("auxiliary_head.0.", "auxiliary_head."): tensor
        for key, tensor in checkpoints.stand_in("mmseg", "naive").items()
        if not key.startswith(("auxiliary_head.1.", "auxiliary_head.2."))
    }
    overrides = {"num_attention_heads": checkpoints.HEADS, "auxiliary_out_indices": [1]}
    model, _, _ = load_original(save(state_dict), overrides=overrides)
    assert len(model.auxiliary_heads.heads) == 1


@pytest.mark.parametrize("decoder", ["naive", "pup", "mla"])
@pytest.mark.parametrize("source", ["original", "mmseg0", "mmseg1"])
def test_logits_of_the_public_implementations(data_folder, save, source, decoder):
    name = f"tiny_{source}_{decoder}"
    manifest = json.loads((data_folder / "reference" / "manifests" / f"{name}.json").read_text())
    rule = runpy.run_path(str(data_folder / "reference" / "checkpoints.py"))
    state_dict = {key: rule["fill"](key, shape) for key, shape in manifest["state_dict"].items()}
    facts = manifest["source"]
    layers = facts.get("auxiliary_from_layers") or facts["backbone_out_layers"][: None if decoder == "mla" else 3]
    overrides = {"num_attention_heads": facts["heads"], "auxiliary_out_indices": layers}
    model, _, _ = load_original(save(state_dict), overrides=overrides)
    expected = load_file(data_folder / "reference" / "expected" / f"{name}.safetensors")
    logits, auxiliary = resized_logits(model, expected["pixel_values"])
    torch.testing.assert_close(logits, expected["logits"], **TOLERANCE)
    expected_auxiliary = [expected[f"auxiliary_logits.{index}"] for index in range(len(layers))]
    if source != "original" and decoder == "mla":
        expected_auxiliary.reverse()
    assert len(expected) == 2 + len(auxiliary)
    torch.testing.assert_close(auxiliary, expected_auxiliary, **TOLERANCE)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_checkpoints_are_converted_completely(data_folder, name):
    manifest = json.loads((data_folder / "reference" / "manifests" / f"{name}.json").read_text())
    with torch.device("meta"):
        state_dict = {key: torch.empty(shape) for key, shape in manifest["state_dict"].items()}
    facts = manifest["source"]
    detection = detect(Shapes({key: tuple(tensor.shape) for key, tensor in state_dict.items()}), told={})
    config = detection.config
    tensors, _ = convert_tensors(state_dict, detection.implementation, config)
    model = build_model(config, tensors)
    assert model.num_parameters() > 80e6
    assert (config.decoder_type, config.num_labels, config.image_size) == (
        facts["decoder"],
        facts["classes"],
        facts["image_size"],
    )
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (
        facts["hidden_size"],
        facts["layers"],
        facts["heads"],
    )
    depths = {24: {"mla": [6, 12, 18, 24], "naive": [10, 15, 20], "pup": [10, 15, 20]}, 12: {"naive": [3, 6, 9]}}
    expected = depths[facts["layers"]][facts["decoder"]]
    assert config.auxiliary_out_indices == expected + ([24] if name == "ade20k_large_original_pup" else [])


@pytest.mark.parametrize(
    "form", ["zip", "legacy", "module prefix", "bare", "under model", "safetensors", "with optimizer"]
)
def test_forms_of_files(tmp_path, form):
    state_dict = checkpoints.stand_in("original", "naive")
    path = tmp_path / ("file.safetensors" if form == "safetensors" else "file.pth")
    if form == "safetensors":
        save_file(state_dict, path)
    elif form == "bare":
        torch.save(state_dict, path)
    elif form == "under model":
        torch.save({"model": state_dict}, path)
    elif form == "module prefix":
        torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state_dict.items()}}, path)
    elif form == "with optimizer":
        torch.save({"optimizer": {"state": {0: torch.zeros(9)}}, "meta": {}, "state_dict": state_dict}, path)
    else:
        torch.save({"state_dict": state_dict}, path, _use_new_zipfile_serialization=form == "zip")
    model, _, _ = load_original(path, overrides=overrides_for("original", "naive"))
    check_logits(model, state_dict, "original", "naive")


def test_the_number_of_heads_is_assumed_only_where_published(naive_checkpoint):
    with pytest.raises(ValueError, match=r"checkpoint\.pth.*number of attention heads.*num_attention_heads"):
        load_original(naive_checkpoint)


def test_unknown_and_misfitting_fields_are_refused(naive_checkpoint):
    with pytest.raises(ValueError, match="num_attention_heads"):
        load_original(naive_checkpoint, overrides=overrides_for("original", "naive", num_attention_heads="2"))
    with pytest.raises(ValueError, match="num_heads"):
        load_original(naive_checkpoint, overrides={"num_heads": 4})
    overrides = overrides_for("original", "naive", auxiliary_out_indices=[1])
    with pytest.raises(ValueError, match="it has 3 auxiliary heads, but auxiliary_out_indices"):
        load_original(naive_checkpoint, overrides=overrides)
    with pytest.raises(ValueError, match=r"intermediate_size is 128 in the file, but 64 was given"):
        load_original(naive_checkpoint, overrides=overrides_for("original", "naive", intermediate_size=64))


@pytest.mark.parametrize(
    "key",
    [
        "backbone.patch_embed.proj.weight",
        "backbone.pos_embed",
        "backbone.blocks.2.attn.qkv.bias",
        "decode_head.conv_1.weight",
        "decode_head.syncbn_fc_0.running_var",
        "auxiliary_head.1.conv_0.bias",
    ],
)
def test_a_renamed_key_stops_the_conversion_and_is_named(save, tmp_path, key):
    state_dict = checkpoints.stand_in("original", "naive")
    path = save({name + "_" * (name == key): tensor for name, tensor in state_dict.items()})
    with pytest.raises(ValueError) as error:
        convert_checkpoint(path, tmp_path / "out", overrides=overrides_for("original", "naive"))
    assert key in str(error.value) and f"{key}_" in str(error.value)
    assert os.listdir(tmp_path) == [path.name]


def test_an_unknown_key_stops_the_conversion(save):
    state_dict = checkpoints.stand_in("mmseg", "mla") | {"neck.extra.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"Unknown: neck\.extra\.weight"):
        load_original(save(state_dict), overrides=overrides_for("mmseg", "mla"))


def test_other_checkpoints_say_what_they_are(save):
    segformer = {"backbone.layers.0.0.projection.weight": (8, 3, 7, 7), "decode_head.conv_seg.weight": (5, 8, 1, 1)}
    segformer_of_transformers = {"segformer.encoder.norm.weight": (8,), "decode_head.classifier.weight": (5, 8, 1, 1)}
    for shapes in (segformer, segformer_of_transformers):
        with pytest.raises(ValueError, match="SegFormer"):
            load_original(save({key: torch.zeros(shape) for key, shape in shapes.items()}))
    for prefix in ("", "backbone."):
        for naming in ("timm", "mmseg"):
            backbone = {key: torch.zeros(shape) for key, shape in checkpoints.vit_shapes(naming, prefix).items()}
            with pytest.raises(ValueError, match="backbone without decoder"):
                load_original(save(backbone))
    with pytest.raises(ValueError, match="keys begin with weight"):
        load_original(save({"weight": torch.zeros(1)}))


def test_files_that_are_no_checkpoints_say_what_they_are(save, tmp_path, naive_checkpoint):
    truncated, page, empty = tmp_path / "truncated.pth", tmp_path / "page.pth", tmp_path / "empty.pth"
    truncated.write_bytes(naive_checkpoint.read_bytes()[:-5000])
    page.write_text("\n<!DOCTYPE html><html><body>404</body></html>")
    empty.touch()
    legacy = save(checkpoints.stand_in("original", "naive"), "legacy.pth", _use_new_zipfile_serialization=False)
    legacy.write_bytes(legacy.read_bytes()[:-5000])
    noise = tmp_path / "noise.pth"
    noise.write_bytes(bytes(range(256)))
    reasons = {
        truncated: "truncated",
        page: "web page",
        empty: "empty",
        legacy: "truncated",
        noise: "not a file of weights",
        tmp_path / "missing.pth": "does not exist",
    }
    for path, reason in reasons.items():
        with pytest.raises(ValueError, match=reason) as error:
            read_checkpoint(path)
        assert str(path) in str(error.value)
    half = tmp_path / "half.safetensors"
    save_file({"a": torch.zeros(1000)}, half)
    half.write_bytes(half.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"half\.safetensors cannot be read"):
        read_checkpoint(half)


class Calls:
    """Pickled, it calls a function when it is loaded."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle"])
@pytest.mark.parametrize("function, named", [(os.system, "system"), (eval, "eval"), (np.fromfile, "fromfile")])
def test_files_that_would_run_something_are_refused_and_run_nothing(tmp_path, form, function, named):
    marker = tmp_path / "marker"
    argument = {"system": f"touch {marker}", "eval": f"open({str(marker)!r}, 'w')", "fromfile": str(marker)}[named]
    content = {"state_dict": {"weight": torch.zeros(1)}, "meta": Calls(function, argument)}
    path = tmp_path / "file.pth"
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(content["meta"], protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ValueError, match=f"refused.*{named}"):
        read_checkpoint(path)
    assert not marker.exists()


class HistoryBuffer:
    """Pickles as mmengine's does: arrays, a scalar and its own methods, by name."""

    def __init__(self):
        self._log_history, self._count_history = np.array([1.0, 2.0]), np.array([1, 1])
        self.methods = {"mean": HistoryBuffer.mean}

    def __setstate__(self, state):
        raise AssertionError("constructed")

    def mean(self):
        return self._log_history.mean()


@pytest.mark.parametrize("zipped", [True, False])
def test_training_loop_objects_are_stepped_over(save, monkeypatch, tmp_path, zipped):
    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module if name == module.__name__ else types.ModuleType(name))
    monkeypatch.setattr(HistoryBuffer, "__module__", module.__name__)
    state_dict = checkpoints.stand_in("mmseg", "naive")
    hub = {"log_scalars": {"loss": HistoryBuffer()}, "runtime_info": {"lr": np.float64(0.1), "iter": np.int64(3)}}
    meta = {"dataset_meta": {"classes": ("a", "b", "c", "d", "e"), "palette": np.zeros((5, 3))}}
    path = tmp_path / "file.pth"
    content = {"state_dict": state_dict, "message_hub": hub, "meta": meta}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.delitem(sys.modules, name)
    model, _, _ = load_original(path, overrides=overrides_for("mmseg", "naive"))
    assert list(model.config.id2label.values()) == ["a", "b", "c", "d", "e"] and model.config.palette is None
    check_logits(model, state_dict, "mmseg", "naive")


def with_classes(state_dict, num_classes):
    """The state dict with another number of classes."""
    resized = {}
    for key, tensor in state_dict.items():
        is_classifier = tensor.ndim and len(tensor) == checkpoints.CLASSES and "head" in key
        resized[key] = tensor.repeat_interleave(num_classes, dim=0)[:num_classes] if is_classifier else tensor
    return resized


@pytest.mark.parametrize(
    "dataset, num_classes, size, crop, stride, reduce",
    [
        ("ade20k", 150, {"shortest_edge": 512, "longest_edge": 2048}, 512, 341, True),
        ("cityscapes", 19, {"shortest_edge": 1025, "longest_edge": 2049}, 768, 512, False),
        ("pascal_context", 60, {"shortest_edge": 520}, 480, 320, False),
        ("pascal_context_59", 59, {"shortest_edge": 520}, 480, 320, True),
    ],
)
@pytest.mark.parametrize("told", [True, False])
def test_folders_have_the_data_set_s_protocol(save, tmp_path, dataset, num_classes, size, crop, stride, reduce, told):
    path = save(with_classes(checkpoints.stand_in("original", "naive"), num_classes))
    overrides = overrides_for("original", "naive")
    report = convert_checkpoint(path, tmp_path / "out", dataset if told else None, overrides)
    assert ("assumed" in report.labels) == (not told)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert {key: value for key, value in dict(processor.size).items() if value} == size
    assert (processor.crop_size["height"], processor.crop_size["width"], processor.stride) == (crop, crop, stride)
    assert (processor.do_reduce_labels, processor.do_split_image, processor.antialias) == (reduce, True, False)
    config = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "out").config
    assert list(config.id2label.values()) == CLASS_NAMES[dataset]
    assert config.palette == PALETTES[dataset]


def test_names_in_the_file_win(save, tmp_path):
    state_dict = checkpoints.stand_in("mmseg", "naive")
    names, palette = ["sky", "sea ", "sand", "sun", "shell"], [[1, 2, index] for index in range(5)]
    own_names = tmp_path / "names.json"
    own_names.write_text(json.dumps({"id2label": {str(index): f"own {index}" for index in range(5)}}))
    overrides = overrides_for("mmseg", "naive")
    metas = [{"CLASSES": names, "PALETTE": palette}, {"dataset_meta": {"classes": tuple(names), "palette": palette}}]
    for meta in metas:
        model, _, report = load_original(save(state_dict, meta=meta), str(own_names), overrides)
        assert list(model.config.id2label.values()) == ["sky", "sea", "sand", "sun", "shell"]
        assert model.config.palette == palette and "metadata" in report.labels
    model, processor, _ = load_original(save(state_dict), str(own_names), overrides)
    assert model.config.label2id["own 3"] == 3
    assert (processor.crop_size["height"], processor.stride) == (64, 42)
    own_names.write_text(json.dumps(["a", "b"]))
    for dataset, reason in (
        (str(own_names), "2 classes, the checkpoint 5"),
        ("ade20k", "150 classes"),
        ("cocoa", "cocoa"),
    ):
        with pytest.raises(ValueError, match=reason):
            load_original(save(state_dict), dataset, overrides)


def test_own_names_of_a_known_number_are_no_known_data_set(save):
    state_dict = with_classes(checkpoints.stand_in("mmseg", "naive"), 19)
    meta = {"CLASSES": [f"organ {index}" for index in range(19)]}
    model, processor, _ = load_original(save(state_dict, meta=meta), overrides=overrides_for("mmseg", "naive"))
    assert processor.crop_size["height"] == 64 and model.config.palette is None


def test_converted_folders_run_in_the_pipeline(save, tmp_path):
    path = save(checkpoints.stand_in("original", "pup"))
    convert_checkpoint(path, tmp_path / "out", overrides=overrides_for("original", "pup"))
    segmenter = pipeline("image-segmentation", model=str(tmp_path / "out"))
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8))
    segments = segmenter(photo)
    assert segments and all(segment["mask"].size == (130, 90) for segment in segments)


def test_fields_of_classes_can_be_given(naive_checkpoint):
    palette = [[index] * 3 for index in range(5)]
    model, _, _ = load_original(naive_checkpoint, overrides=overrides_for("original", "naive", palette=palette))
    assert model.config.palette == palette


def test_existing_folders_are_refused_and_empty_ones_filled(naive_checkpoint, tmp_path):
    full, empty = tmp_path / "full", tmp_path / "empty"
    for folder in (full, empty):
        folder.mkdir()
    (full / "notes.txt").write_text("mine")
    overrides = overrides_for("original", "naive")
    with pytest.raises(ValueError, match="full exists already"):
        convert_checkpoint(naive_checkpoint, full, overrides=overrides)
    assert os.listdir(full) == ["notes.txt"]
    convert_checkpoint(naive_checkpoint, empty, overrides=overrides)
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= set(os.listdir(empty))


@pytest.mark.parametrize("implementation, decoder", checkpoints.FORMS)
def test_the_way_back_is_the_other_network(save, tmp_path, implementation, decoder):
    state_dict = checkpoints.stand_in(implementation, decoder)
    convert_checkpoint(save(state_dict), tmp_path / "ours", overrides=overrides_for(implementation, decoder))
    write_public_checkpoint(tmp_path / "ours", tmp_path / "back.pth", implementation)

    back, meta = read_checkpoint(tmp_path / "back.pth")
    assert {key: tensor.shape for key, tensor in back.items()} == {k: t.shape for k, t in state_dict.items()}
    assert list(meta["CLASSES"]) == [f"LABEL_{index}" for index in range(checkpoints.CLASSES)]
    ours = SetrForSemanticSegmentation.from_pretrained(tmp_path / "ours")
    check_logits(ours, back, implementation, decoder)

    again, _, report = load_original(tmp_path / "back.pth")
    assert not report.assumptions
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    for field in ("num_attention_heads", "out_indices", "auxiliary_out_indices", "decoder_scale_factor", "image_size"):
        assert getattr(again.config, field) == getattr(ours.config, field)


@pytest.mark.parametrize("implementation", ["original", "mmseg"])
def test_naive_crosses_over(save, implementation):
    """The original's naive heads upsample by 1 or 4 and mmsegmentation's by any factor, so each can be the other's."""
    other = "mmseg" if implementation == "original" else "original"
    state_dict = checkpoints.stand_in(implementation, "naive")
    model, _, _ = load_original(save(state_dict), overrides=overrides_for(implementation, "naive"))
    crossed = to_public_state_dict(model, other)
    again, _, _ = load_original(
        save(crossed, "crossed.pth"),
        overrides=overrides_for(
            other,
            "naive",
            decoder_scale_factor=model.config.decoder_scale_factor,
            auxiliary_scale_factor=model.config.auxiliary_scale_factor,
        ),
    )
    check_logits(again, state_dict, implementation, "naive")


@pytest.mark.parametrize(
    "target, fields, reason",
    [
        ("mmseg", {"decoder_type": "mla"}, "mla_align_corners is True, not False"),
        (
            "original",
            {"decoder_type": "mla", "decoder_hidden_size": 256, "mla_auxiliary_bias": True},
            "auxiliary_bias",
        ),
        ("original", {"decoder_type": "naive"}, "decoder_hidden_size is 16, not 256"),
        ("original", {"decoder_type": "pup", "decoder_hidden_size": 256, "auxiliary_num_convs": 2}, "auxiliary head"),
        ("original", {"decoder_type": "naive", "decoder_hidden_size": 256, "image_size": [32, 64]}, "not a square"),
        ("original", {"decoder_type": "naive", "decoder_hidden_size": 256, "use_class_token": False}, "class_token"),
        ("mmseg", {"decoder_type": "pup", "layer_norm_eps": 1e-12}, "layer_norm_eps is 1e-12"),
        ("mmseg", {"decoder_type": "naive", "image_size": 60}, "not a multiple of the patch size"),
    ],
)
def test_what_the_other_form_cannot_express_is_said(tiny_model, target, fields, reason):
    with pytest.raises(ValueError, match=f"no form in {target}.*{reason}"):
        to_public_state_dict(tiny_model(**fields), target)


def test_the_way_back_writes_a_whole_file_or_none(tiny_model, tmp_path):
    tiny_model(decoder_type="mla").save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match="no form in mmseg"):
        write_public_checkpoint(tmp_path / "ours", tmp_path / "back.pth", "mmseg")
    assert os.listdir(tmp_path) == ["ours"]
    (tmp_path / "back.pth").touch()
    with pytest.raises(ValueError, match=r"back\.pth exists already"):
        write_public_checkpoint(tmp_path / "ours", tmp_path / "back.pth", "original")
    with pytest.raises(ValueError, match="does not hold a converted"):
        write_public_checkpoint(tmp_path / "nothing", tmp_path / "new.pth", "original")


def test_the_script_tells_what_it_did(convert_script, save, tmp_path, capsys):
    path, ours, back = save(checkpoints.stand_in("mmseg", "mla")), tmp_path / "ours", tmp_path / "back.pth"
    with pytest.raises(ValueError, match="num_attention_heads"):
        convert_script([str(path), str(ours)])
    with pytest.raises(SystemExit):
        convert_script([str(path), str(ours), "--config", "[2]"])
    assert "--config: [2] is not a JSON object" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        convert_script([str(path), str(ours), "--config", "[" * 100_000])
    assert "is not a JSON object: it is nested too deeply" in capsys.readouterr().err
    assert convert_script([str(path), str(ours), "--config", '{"num_attention_heads": 2}']) == 0
    told = capsys.readouterr().out
    for line in (
        "implementation   mmsegmentation",
        "model            SETR-mla, 4 layers of width 32",
        "auxiliary heads  4",
        "classes          5",
    ):
        assert line in told.splitlines()
    assert "out_indices [1, 2, 3, 4]" in told and "backbone.cls_token" in told
    assert SetrConfig.from_pretrained(ours).num_attention_heads == 2
    assert convert_script([str(ours), str(back), "--to", "mmseg"]) == 0
    assert "patch_bias=True" in capsys.readouterr().out
    assert set(read_checkpoint(back)[0]) == set(checkpoints.stand_in("mmseg", "mla"))
