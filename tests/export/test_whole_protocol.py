"""`setr-hf export --whole-protocol`: the label maps of `segment.py` are those of Transformers' pipeline."""

import json
import subprocess
import sys
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from paths import ROOT, SCRIPTS
from PIL import Image
from transformers import pipeline

from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor
from setr_hf.errors import SetrError
from setr_hf.export.whole_protocol import WindowNetwork, load_runtime, segment_settings
from setr_hf_cli import load_script


# Height and width: one pixel, smaller than the crop, the crop, one more, portrait, extreme, halved to the crop.
SIZES = [(1, 1), (7, 5), (20, 30), (32, 32), (33, 65), (90, 60), (12, 300), (64, 96)]
WINDOWS = {"size": {"shortest_edge": 32, "longest_edge": 128}, "crop_size": 32, "stride": 21, "do_split_image": True}
WINDOWS["antialias"] = False
# Only what `segment.py` may import; the rest is as if it were not installed.
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "transformers", "PIL", "onnx", "setr_hf", "cv2"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
folder, photo, label_map = sys.argv[1:]
sys.path.insert(0, folder)
import numpy as np
from segment import segment
np.save(label_map, segment(np.load(photo)))
"""


def photo_of(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def save_model(folder, decoder_type, num_labels=5, **settings):
    """A small model whose classes are about equally frequent."""
    torch.manual_seed(0)
    config = SetrConfig(
        hidden_size=32,
        num_hidden_layers=4 if decoder_type == "mla" else 2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        decoder_type=decoder_type,
        decoder_hidden_size=16,
        mla_hidden_size=8,
        auxiliary_out_indices=[],
        num_labels=num_labels,
    )
    model, processor = SetrForSemanticSegmentation(config).eval(), SetrImageProcessor(**{**WINDOWS, **settings})
    inputs = processor(torch.tensor(photo_of(96, 144)), return_tensors="pt", do_split_image=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5 if "embeddings" in name else parameter[0].numel() ** -0.5)
        model.decode_head.classifier.bias -= model(**inputs).logits.mean((0, 1, 3, 4))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def export(model, output, *options):
    arguments = [str(model), str(output), "--whole-protocol", *options]
    return load_script(SCRIPTS / "export.py").main(arguments)


def label_map_of(segmenter, photo):
    """What the stock pipeline says, as ids."""
    label_map = np.full(photo.shape[:2], -1)
    for part in segmenter(Image.fromarray(photo)):
        label_map[np.asarray(part["mask"]) > 0] = segmenter.model.config.label2id[part["label"]]
    return label_map


def check_sizes(model, output, sizes=SIZES):
    segmenter, runtime = pipeline("image-segmentation", str(model)), load_runtime(output)
    for index, size in enumerate(sizes):
        photo = photo_of(*size, seed=index)
        label_map, expected = runtime.segment(photo), label_map_of(segmenter, photo)
        assert label_map.shape == size
        assert (label_map == expected).mean() >= 0.9999, size
    assert len(np.unique(label_map)) > 1


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function that makes a model and exports it, once for the same arguments, and returns both folders."""

    @cache
    def make(decoder_type, **options):
        folder = tmp_path_factory.mktemp(decoder_type)
        save_model(folder / "model", decoder_type, **options)
        assert export(folder / "model", folder / "out") == 0
        return folder / "model", folder / "out"

    return make


def with_processor(folders, folder, **settings):
    """A model and its export as they would be had the image processor other settings, apart from normalization."""
    model = SetrForSemanticSegmentation.from_pretrained(folders[0]).eval()
    processor = SetrImageProcessor(**settings)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    changed = segment_settings(WindowNetwork(model, processor).eval(), processor)
    return folder / "model", with_metadata(folders[1], folder / "out", changed)


def with_metadata(output, folder, settings):
    graph = onnx.load(output / "model.onnx")
    onnx.helper.set_model_props(graph, {"segment": json.dumps(settings)})
    folder.mkdir()
    onnx.save(graph, folder / "model.onnx")
    (folder / "segment.py").write_bytes((output / "segment.py").read_bytes())
    return folder


@pytest.mark.parametrize("decoder_type", ["naive", "pup", "mla"])
def test_label_maps_are_those_of_the_pipeline(exported, decoder_type):
    check_sizes(*exported(decoder_type))


@pytest.mark.parametrize(
    "settings",
    [
        {**WINDOWS, "antialias": True},
        {**WINDOWS, "size": {"shortest_edge": 40}, "crop_size": {"height": 36, "width": 24}, "stride": 24},
        {**WINDOWS, "do_resize": False},
        {"size": {"height": 48, "width": 40}},
        {"do_resize": False},
    ],
    ids=["antialias", "windows of no whole patches", "windows at full size", "one size", "whole photos"],
)
def test_settings_of_the_image_processor_are_followed(exported, tmp_path, settings):
    check_sizes(*with_processor(exported("naive"), tmp_path, **settings), sizes=[(20, 30), (70, 45), (90, 130)])


def test_binary_models(exported, tmp_path):
    folders = exported("naive", num_labels=1, threshold=0.45)
    check_sizes(*folders, sizes=[(20, 30), (64, 90)])
    _, never = with_processor(folders, tmp_path, **WINDOWS, threshold=1.0)
    assert not load_runtime(never).segment(photo_of(40, 60)).any()


def test_only_onnxruntime_and_numpy_are_needed(exported, tmp_path):
    _, output = exported("naive")
    assert sorted(path.name for path in output.iterdir()) == ["model.onnx", "segment.py"]
    assert len((output / "segment.py").read_text().splitlines()) <= 200
    photo = photo_of(45, 70)
    np.save(tmp_path / "photo.npy", photo)
    command = [sys.executable, "-I", "-c", BLOCKED, output, tmp_path / "photo.npy", tmp_path / "labels.npy"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    runtime = load_runtime(output)
    assert (np.load(tmp_path / "labels.npy") == runtime.segment(photo)).all()
    assert runtime.load()[1]["class_names"] == [f"LABEL_{index}" for index in range(5)]


def test_the_graph_tells_no_paths_of_this_computer(exported):
    graph = (exported("naive")[1] / "model.onnx").read_bytes()
    assert str(ROOT).encode() not in graph
    assert sys.prefix.encode() not in graph


def test_its_command_writes_an_image(exported, tmp_path):
    model, output = exported("naive")
    turned = Image.fromarray(photo_of(45, 70))
    turned.save(
        tmp_path / "photo.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    )
    command = [sys.executable, output / "segment.py", tmp_path / "photo.png", tmp_path / "labels.png"]
    subprocess.run(command, check=True, capture_output=True)
    expected = label_map_of(pipeline("image-segmentation", str(model)), np.rot90(photo_of(45, 70), -1))
    assert (np.asarray(Image.open(tmp_path / "labels.png")) == expected).mean() >= 0.9999


@pytest.mark.parametrize(
    ("photo", "said"),
    [
        (np.zeros((4, 4, 3)), "uint8.*got float64"),
        (np.zeros((4, 4, 3), np.uint16), "got uint16"),
        ([[[0, 0, 0]]], "NumPy array.*got list"),
        (Image.new("RGB", (4, 4)), "NumPy array.*got Image"),
        (None, "got NoneType"),
        (np.zeros((4, 4), np.uint8), r"got \(4, 4\).*np.stack"),
        (np.zeros((4, 4, 4), np.uint8), r"\(height, width, 3\).*got \(4, 4, 4\)"),
        (np.zeros((3, 4, 4), np.uint8), r"got \(3, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"none of them 0, got \(0, 4, 3\)"),
        (np.zeros((), np.uint8), r"got \(\)"),
    ],
)
def test_what_is_not_a_photo_is_refused(exported, photo, said):
    with pytest.raises(ValueError, match=said):
        load_runtime(exported("naive")[1]).segment(photo)


def test_photos_that_would_fill_the_memory_are_refused(exported, tmp_path):
    _, output = with_processor(exported("naive"), tmp_path, **{**WINDOWS, "size": {"shortest_edge": 512}})
    with pytest.raises(ValueError, match="1×2000 pixels would be enlarged to 512×1024000"):
        load_runtime(output).segment(np.zeros((1, 2000, 3), np.uint8))


def test_logits_that_overflow_are_refused(exported, tmp_path):
    graph = onnx.load(exported("naive")[1] / "model.onnx")
    weight = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("classifier.bias"))
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(5, np.nan, np.float32), weight.name))
    onnx.save(graph, tmp_path / "model.onnx")
    (tmp_path / "segment.py").write_bytes((exported("naive")[1] / "segment.py").read_bytes())
    with pytest.raises(ValueError, match="logits are NaN or infinite"):
        load_runtime(tmp_path).segment(photo_of(20, 30))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"resample": 3, "antialias": True}, "resizes photos bilinearly, but resample of the image processor is 3"),
        ({"do_rescale": False, "do_normalize": False}, "neither rescales nor normalizes"),
        ({"image_mean": [0.5], "image_std": [0.5]}, "image_mean of its image processor has 1"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(tmp_path, settings, said):
    save_model(tmp_path / "model", "naive")
    SetrImageProcessor(**{**WINDOWS, **settings}).save_pretrained(tmp_path / "model")
    with pytest.raises(SetrError, match=said):
        export(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_agrees_less_than_asked_is_refused(exported, tmp_path):
    with pytest.raises(
        SetrError, match=r"nothing is written: in int8, only 9\d\.\d+ % of the pixels .* loses most is"
    ):
        export(exported("naive")[0], tmp_path / "out", "--dtype", "int8", "--min-agreement", "100")
    assert not (tmp_path / "out").exists()


def test_other_formats_and_folders_in_use_are_refused(exported, tmp_path):
    model, output = exported("naive")
    with pytest.raises(SetrError, match="--format is openvino"):
        export(model, tmp_path / "out", "--format", "openvino")
    before = (output / "model.onnx").stat().st_mtime_ns
    with pytest.raises(SetrError, match="out"):
        export(model, output)
    assert (output / "model.onnx").stat().st_mtime_ns == before
