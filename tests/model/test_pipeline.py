"""What a user of the stock pipeline gets, with this package imported and with `trust_remote_code` alone."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from setr_hf import SetrImageProcessor
from setr_hf.inference.photos import read_photo


SIZES = [(90, 70), (70, 90), (64, 64), (30, 50), (200, 40), (131, 77)]


@pytest.fixture
def pictures():
    """Smooth noise of several sizes, smaller than a window too."""
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        for size in SIZES
    ]


@pytest.fixture
def model_folder(tiny_model, tmp_path):
    tiny_model(id2label={i: f"class {i}" for i in range(5)}).save_pretrained(tmp_path)
    size = {"shortest_edge": 80, "longest_edge": 240}
    SetrImageProcessor(do_split_image=True, size=size, crop_size=64, stride=43, antialias=False).save_pretrained(
        tmp_path
    )
    return tmp_path


def same(results, others):
    return len(results) == len(others) and all(
        a["label"] == b["label"] and np.array_equal(np.asarray(a["mask"]), np.asarray(b["mask"]))
        for a, b in zip(results, others)
    )


def test_masks_are_the_same_at_any_batch_size(model_folder, pictures):
    segmenter = pipeline("image-segmentation", model=str(model_folder))
    one_by_one = [segmenter(picture) for picture in pictures]
    assert len({segment["label"] for result in one_by_one for segment in result}) > 2
    for result, picture in zip(one_by_one, pictures):
        assert all(segment["mask"].size == picture.size for segment in result)
        assert sum((np.asarray(segment["mask"]) > 0).astype(int) for segment in result).min() == 1
    for batch_size in (2, 4):
        batched = segmenter(pictures, batch_size=batch_size)
        assert all(same(a, b) for a, b in zip(one_by_one, batched))


def test_masks_of_photographs_are_the_same_at_any_batch_size(model_folder, photos):
    segmenter = pipeline("image-segmentation", model=str(model_folder))
    one_by_one = [segmenter(photo) for photo in photos]
    assert all(same(a, b) for a, b in zip(one_by_one, segmenter(photos, batch_size=4)))


def test_masks_are_those_of_processor_model_and_post_processing(model_folder, pictures):
    segmenter = pipeline("image-segmentation", model=str(model_folder))
    processor, model = segmenter.image_processor, segmenter.model
    for picture in pictures:
        with torch.no_grad():
            outputs = model(**processor(picture, return_tensors="pt"))
        label_map = processor.post_process_semantic_segmentation(outputs, [picture.size[::-1]])[0].numpy()
        for segment in segmenter(picture):
            mask = label_map == model.config.label2id[segment["label"]]
            assert np.array_equal(np.asarray(segment["mask"]) > 0, mask)


@pytest.mark.parametrize(("mode", "name"), [("P", "photo.png"), ("P", "photo.gif"), ("CMYK", "photo.tif")])
def test_a_path_gives_the_masks_of_the_photo_that_predict_reads(model_folder, pictures, tmp_path, mode, name):
    first, second = (picture.convert(mode) for picture in (pictures[0], pictures[0].rotate(180)))
    animation = {"save_all": True, "append_images": [second]} if name.endswith("gif") else {}
    first.save(tmp_path / name, **animation)
    segmenter = pipeline("image-segmentation", model=str(model_folder))
    assert same(segmenter(str(tmp_path / name)), segmenter(read_photo(tmp_path / name)))


def test_a_window_that_the_image_does_not_fill_is_encoded_at_the_images_size(tiny_model):
    """As the reference protocol does: what fills the window up is never seen."""
    model, picture = tiny_model(), torch.randn(1, 3, 48, 64)
    windows = torch.full((1, 2, 3, 64, 64), 7.0)
    windows[0, 0, :, :48] = picture
    offsets = torch.tensor([[[0, 0, 48, 64, 48, 64], [0] * 6]])
    with torch.no_grad():
        logits = model(pixel_windows=windows, patch_offsets=offsets).logits
        whole = torch.nn.functional.interpolate(model(picture).logits, size=(48, 64), mode="bilinear")
    torch.testing.assert_close(logits[0, 0, :, :48], whole[0])
    assert logits[0, 1].abs().max() == 0


def test_the_pipeline_logs_nothing(model_folder, pictures, caplog):
    logging.getLogger("transformers").propagate = True
    try:
        with caplog.at_level(logging.WARNING):
            pipeline("image-segmentation", model=str(model_folder))(pictures[0])
    finally:
        logging.getLogger("transformers").propagate = False
    assert caplog.text == ""


@pytest.mark.parametrize("resave", [False, True])
def test_the_saved_folder_runs_without_this_package(model_folder, pictures, resave, tmp_path_factory):
    """Another process, in which `setr_hf` cannot be imported, loads the code that travels with the weights."""
    pictures[0].save(model_folder / "picture.png")
    expected = pipeline("image-segmentation", model=str(model_folder))(str(model_folder / "picture.png"))
    np.save(model_folder / "expected.npy", [np.asarray(segment["mask"]) for segment in expected])
    script = f"""
import sys
sys.modules["setr_hf"] = None
import numpy as np
from transformers import AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation, pipeline
folder = {str(model_folder)!r}
if {resave}:
    copy = folder + "/copy"
    AutoModelForSemanticSegmentation.from_pretrained(folder, trust_remote_code=True).save_pretrained(copy)
    AutoImageProcessor.from_pretrained(folder, trust_remote_code=True).save_pretrained(copy)
else:
    copy = folder
AutoModel.from_pretrained(copy, trust_remote_code=True)
assert "Pil" in type(AutoImageProcessor.from_pretrained(copy, trust_remote_code=True, backend="pil")).__name__
segmenter = pipeline("image-segmentation", model=copy, trust_remote_code=True)
masks = [np.asarray(segment["mask"]) for segment in segmenter(folder + "/picture.png")]
assert np.array_equal(masks, np.load(folder + "/expected.npy"))
"""
    environment = {
        "HF_MODULES_CACHE": str(tmp_path_factory.mktemp("modules")),
        "HF_HUB_OFFLINE": "1",
        "PATH": "/usr/bin:/bin",
    }
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
