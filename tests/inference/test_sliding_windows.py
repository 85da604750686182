"""Sliding windows: one scale equals the stock pipeline; several scales equal the published protocol, view by view."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F
from transformers import pipeline

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


def reference_scores(model, image, crop, stride):
    """Sliding-window logits at the image's size, one window at a time, as the protocol is described."""
    height, width = image.shape[-2:]
    total = torch.zeros(model.config.num_labels, height, width)
    counts = torch.zeros(height, width)
    for row in range(max(height - crop + stride - 1, 0) // stride + 1):
        for column in range(max(width - crop + stride - 1, 0) // stride + 1):
            bottom, right = min(row * stride + crop, height), min(column * stride + crop, width)
            top, left = max(bottom - crop, 0), max(right - crop, 0)
            logits = model(image[None, :, top:bottom, left:right]).logits
            logits = F.interpolate(logits, size=(bottom - top, right - left), mode="bilinear", align_corners=False)
            total[:, top:bottom, left:right] += logits[0]
            counts[top:bottom, left:right] += 1
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


def test_wrong_settings_are_named(model, processor):
    with pytest.raises(SetrError, match="positive ratios"):
        segment(model, processor, [photo_of(70, 70)], scales=(0.0,))
    with pytest.raises(SetrError, match="window_batch_size must be at least 1"):
        segment(model, processor, [photo_of(70, 70)], window_batch_size=0)
