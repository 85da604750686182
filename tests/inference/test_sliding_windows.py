"""Sliding windows: one scale equals the stock pipeline; several scales equal the published protocol, view by view."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch.nn import functional as F
from transformers import pipeline
from transformers.image_utils import SizeDict

from setr_hf import SetrImageProcessor
from setr_hf.data.public_datasets import published_scales
from setr_hf.errors import SetrError
from setr_hf.inference.sliding_windows import segment, short_sides


# Height and width: landscape, portrait, smaller than the crop, extreme on both sides, exactly the crop.
SIZES = [(90, 130), (130, 90), (20, 30), (30, 400), (300, 40), (64, 64)]


def photo_of(height, width, seed=0):
    """A smooth random photo, so that neighbouring windows and scales see similar things."""
    coarse = np.random.default_rng(seed).integers(0, 256, (max(2, height // 12), max(2, width // 12), 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def processor():
    return SetrImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 256},
        crop_size={"height": 64, "width": 64},
        stride=43,
        do_split_image=True,
        antialias=False,
    )


@pytest.fixture(params=["naive", "pup", "mla"])
def model(request, tiny_model):
    """A small model of each decoder in which every class wins somewhere: its scores have mean 0 and deviation 1."""
    model = tiny_model(decoder_type=request.param)
    pixels = SetrImageProcessor(size={"height": 64, "width": 64})([photo_of(80, 80, s) for s in range(4)])
    with torch.no_grad():
        logits = model(torch.stack(list(pixels["pixel_values"]))).logits
        mean, deviation = logits.mean((0, 2, 3)), logits.std((0, 2, 3))
        classifier = model.decode_head.classifier
        classifier.weight.div_(deviation[:, None, None, None])
        classifier.bias.copy_((classifier.bias - mean) / deviation)
    return model


@torch.inference_mode()
def reference_scores(model, image, crop, stride):
    """Sliding-window logits at the image's size, as the protocol is described: every window of a row at full size."""
    height, width = image.shape[-2:]
    total = torch.zeros(model.config.num_labels, height, width)
    counts = torch.zeros(height, width)
    rights = [min(column * stride + crop, width) for column in range(max(width - crop + stride - 1, 0) // stride + 1)]
    for row in range(max(height - crop + stride - 1, 0) // stride + 1):
        bottom = min(row * stride + crop, height)
        top = max(bottom - crop, 0)
        logits = model(torch.stack([image[:, top:bottom, max(right - crop, 0) : right] for right in rights])).logits
        size = (bottom - top, min(crop, width))
        for window, right in zip(F.interpolate(logits, size=size, mode="bilinear", align_corners=False), rights):
            total[:, top:bottom, max(right - crop, 0) : right] += window
            counts[top:bottom, max(right - crop, 0) : right] += 1
    return total / counts


@torch.inference_mode()
def reference_multi_scale(model, processor, photo, scales):
    """Every ratio and its mirror image, without shortcuts: softmax at the original size, mirrored back, averaged."""
    views = []
    for scale in scales:
        size = {"shortest_edge": max(64, int(scale * 64))}
        image = processor(photo, size=size, do_split_image=False, return_tensors="pt")["pixel_values"][0]
        for mirrored in (False, True):
            scores = reference_scores(model, image.flip(-1) if mirrored else image, crop=64, stride=43)
            scores = F.interpolate(scores[None], size=(photo.height, photo.width), mode="bilinear")[0].softmax(dim=0)
            views.append(scores.flip(-1) if mirrored else scores)
    return torch.stack(views).mean(dim=0).argmax(dim=0)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_one_scale_is_the_stock_pipeline(model, processor, size):
    photo = photo_of(*size)
    label_map = segment(model, processor, [photo])[0]
    assert label_map.shape == size and label_map.dtype == torch.int64
    answer = pipeline("image-segmentation", model=model, image_processor=processor)(photo)
    from_pipeline = torch.full(size, -1)
    for entry in answer:
        from_pipeline[torch.from_numpy(np.array(entry["mask"]) > 0)] = model.config.label2id[entry["label"]]
    assert torch.equal(label_map, from_pipeline)
    assert len(label_map.unique()) > 1, "a constant map would agree with anything"


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_several_scales_are_the_published_protocol(model, processor, size):
    photo, scales = photo_of(*size), (0.5, 1.0, 1.5)
    label_map = segment(model, processor, [photo], scales=scales)[0]
    expected = reference_multi_scale(model, processor, photo, scales)
    assert label_map.shape == size
    assert (label_map == expected).float().mean() >= 0.9999
    assert len(expected.unique()) > 1


def test_every_part_of_the_protocol_shows(model, processor):
    """Scales, mirror images and softmax before averaging each change some pixels: the tests above would notice."""
    photo = photo_of(90, 130)
    multi = segment(model, processor, [photo], scales=(0.5, 1.0, 1.5))[0]
    assert not torch.equal(multi, segment(model, processor, [photo])[0])
    assert not torch.equal(multi, segment(model, processor, [photo], scales=(1.0,))[0])
    mirrored = segment(model, processor, [ImageOps.mirror(photo)], scales=(1.0,))[0].flip(-1)
    assert (mirrored == segment(model, processor, [photo], scales=(1.0,))[0]).float().mean() > 0.99
    assert not torch.equal(mirrored, segment(model, processor, [ImageOps.mirror(photo)])[0].flip(-1))


@pytest.mark.parametrize("scales", [None, (1.0, 1.5)])
def test_batches_of_windows_and_photos_do_not_change_label_maps(model, processor, scales):
    photos = [photo_of(*size, seed) for seed, size in enumerate(SIZES)]
    together = segment(model, processor, photos, scales=scales, window_batch_size=5)
    for photo, label_map in zip(photos, together):
        alone = segment(model, processor, [photo], scales=scales, window_batch_size=1)[0]
        assert (alone == label_map).float().mean() >= 0.9999


@pytest.mark.usefixtures("new_compiler")
def test_a_compiled_model_takes_photos_of_any_size(tiny_model, processor):
    model, photos = tiny_model(), [photo_of(*size) for size in SIZES]
    expected = segment(model, processor, photos)
    model.compile(backend="eager", fullgraph=True)
    for label_map, plain in zip(segment(model, processor, photos), expected):
        assert (label_map == plain).float().mean() >= 0.9999


def test_whole_images_without_windows(tiny_model):
    model, processor = tiny_model(), SetrImageProcessor(size={"height": 64, "width": 64})
    label_map = segment(model, processor, [photo_of(50, 70)])[0]
    assert label_map.shape == (50, 70)
    with pytest.raises(SetrError, match="set do_split_image=True"):
        segment(model, processor, [photo_of(50, 70)], scales=(1.0,))


def test_short_sides_are_not_less_than_the_crop_and_equal_ones_are_counted(processor):
    assert short_sides(processor, (0.5, 0.75, 1.0)) == {64: 3}
    assert short_sides(processor, (0.5, 1.25, 1.5)) == {64: 1, 80: 1, 96: 1}
    cityscapes = SetrImageProcessor(
        size={"shortest_edge": 1025, "longest_edge": 2049}, crop_size={"height": 768, "width": 768}
    )
    assert short_sides(cityscapes, (0.5, 0.75, 1.0, 1.25, 1.75)) == {768: 2, 1025: 1, 1281: 1, 1793: 1}


def test_published_scales_by_data_set_and_decoder():
    six = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    assert published_scales("ade20k", "naive") == (0.5, 0.75, 1.0)
    assert published_scales("ade20k", "mla") == (0.5, 0.75, 1.0)
    assert published_scales("ade20k", "pup") == six
    assert published_scales("cityscapes", "mla") == published_scales(None, "mla") == six


@pytest.fixture
def any_model(tiny_model):
    return tiny_model(decoder_type="naive")


@pytest.mark.parametrize("scales", [(), (0.0,), (-1.0,), (float("nan"),), (float("inf"),), ("1",), 1.0])
def test_scales_that_are_not_ratios_are_named(any_model, processor, scales):
    with pytest.raises(SetrError, match="positive ratios"):
        segment(any_model, processor, [photo_of(70, 70)], scales=scales)


@pytest.mark.parametrize("window_batch_size", [0, -1, 2.5, "8", None])
def test_a_window_batch_size_that_counts_nothing_is_named(any_model, processor, window_batch_size):
    with pytest.raises(SetrError, match="window_batch_size must be at least 1"):
        segment(any_model, processor, [photo_of(70, 70)], window_batch_size=window_batch_size)


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (np.zeros((70, 70, 3), np.uint8), "photo 1 is of the type ndarray: segment takes PIL images"),
        ("photo.jpg", "photo 1 is of the type str"),
        (Image.new("RGB", (0, 70)), "photo 1: there are no pixels in it"),
        (Image.fromarray(np.full((70, 70), np.nan, np.float32)), "photo 1: its floating-point intensities"),
    ],
    ids=["array", "path", "empty", "NaN"],
)
def test_what_is_not_a_photo_is_named(any_model, processor, photo, message):
    with pytest.raises(SetrError, match=message):
        segment(any_model, processor, [photo_of(70, 70), photo])


@pytest.mark.parametrize("scales", [None, (1.0,)])
def test_a_photo_that_would_fill_the_memory_is_refused(any_model, processor, scales):
    processor.size = SizeDict(shortest_edge=64)
    with pytest.raises(SetrError, match="would be enlarged to 64×64000000"):
        segment(any_model, processor, [Image.new("L", (10**6, 1))], scales=scales)


@pytest.mark.parametrize("scales", [None, (1.0,)])
def test_weights_that_are_not_finite_give_no_label_map(any_model, processor, scales):
    with torch.no_grad():
        any_model.decode_head.classifier.bias[0] = torch.nan
    with pytest.raises(SetrError, match="logits are NaN or infinite"):
        segment(any_model, processor, [photo_of(70, 70)], scales=scales)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=3),
    crop=st.integers(3, 40),
    fraction=st.floats(0.3, 1),
    crops=st.floats(0, 2.5),
    window_batch_size=st.integers(1, 9),
)
def test_photos_of_any_size_follow_the_protocol_alone_and_together(
    any_model, sizes, crop, fraction, crops, window_batch_size
):
    edge = max(1, int(crop * crops))
    processor = SetrImageProcessor(
        do_split_image=True,
        size={"shortest_edge": edge, "longest_edge": 4 * edge},
        crop_size=crop,
        stride=max(1, int(crop * fraction)),
        antialias=False,
    )
    photos = [photo_of(*size, seed) for seed, size in enumerate(sizes)]
    together = segment(any_model, processor, photos, window_batch_size=window_batch_size)
    for photo, size, label_map in zip(photos, sizes, together):
        assert label_map.shape == size
        assert (segment(any_model, processor, [photo])[0] == label_map).float().mean() >= 0.99
        image = processor(photo, do_split_image=False, return_tensors="pt").pixel_values[0]
        scores = reference_scores(any_model, image, crop, processor.stride)
        expected = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0)
        assert (expected == label_map).float().mean() >= 0.99


def test_no_photos_have_no_label_maps(any_model, processor):
    assert segment(any_model, processor, []) == []


def test_a_photo_that_fills_the_memory_is_named(any_model, processor):
    """Its label map has 800 MB, for which there are 200 and what the allocator has kept."""
    resource = pytest.importorskip("resource")
    photos = [photo_of(90, 130), Image.new("RGB", (10_000, 10_000))]
    before = resource.getrlimit(resource.RLIMIT_AS)
    gc.collect()
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 200 * 10**6, before[1]))
    try:
        with pytest.raises(SetrError, match="memory does not suffice for photos of up to 10000×10000 pixels"):
            segment(any_model, processor, photos, scales=(1.0,))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
