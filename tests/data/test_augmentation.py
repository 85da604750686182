"""
The augmentation, compared with OpenCV, with formulas and, run live, with mmsegmentation:

    MMSEG_PYTHON=path/to/python SETR_HF_DATA=path/to/data python -m pytest tests/data/test_augmentation.py

where that Python has mmsegmentation 1.2.2.
"""

import colorsys
import itertools
import json
import os
import subprocess

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paths import REFERENCES
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from transformers.image_utils import IMAGENET_DEFAULT_MEAN as MEAN
from transformers.image_utils import IMAGENET_DEFAULT_STD as STD

from setr_hf.data.augmentation import (
    NormalizeAndPad,
    PhotometricDistortion,
    RandomScaledCrop,
    bilinear_window,
    has_variety,
    nearest_window,
    to_tv_tensors,
    training_transform,
)
from setr_hf.errors import SetrError


# The Kolmogorov-Smirnov statistic times the root of the sample size exceeds this in one of 1,000 samples.
KS_LIMIT = 1.95


def pixels_of(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def random_pair(height, width, num_classes=5):
    """Noise, and a label map of that many classes and some ignored pixels."""
    generator = np.random.default_rng(height * 1000 + width)
    image = generator.integers(0, 256, (3, height, width), dtype=np.uint8)
    label_map = generator.integers(0, num_classes + 1, (height, width), dtype=np.uint8)
    label_map[label_map == num_classes] = 255
    return tv_tensors.Image(torch.from_numpy(image)), tv_tensors.Mask(torch.from_numpy(label_map))


def plain(label_map):
    """A gray image with this label map."""
    label_map = torch.as_tensor(np.asarray(label_map, dtype=np.uint8))
    return tv_tensors.Image(torch.full((3, *label_map.shape), 128, dtype=torch.uint8)), tv_tensors.Mask(label_map)


def assert_uniform(values, low, high):
    """The Kolmogorov-Smirnov test that values are uniform between two bounds."""
    values, count = np.sort(values), len(values)
    assert low <= values[0]
    assert values[-1] <= high
    expected = (values - low) / (high - low)
    steps = np.arange(count + 1) / count
    distance = max(np.abs(expected - steps[1:]).max(), np.abs(expected - steps[:-1]).max())
    assert distance * np.sqrt(count) < KS_LIMIT


def assert_same_distribution(first, second):
    """The two-sample test; conservative if values repeat."""
    values = np.concatenate([first, second])
    shares = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (first, second)]
    distance = np.abs(shares[0] - shares[1]).max()
    assert distance * np.sqrt(len(first) * len(second) / len(values)) < KS_LIMIT


def assert_share(count, total, probability):
    """Within four standard deviations of a binomial count."""
    assert abs(count - total * probability) < 4 * np.sqrt(total * probability * (1 - probability))


# Windows: a part of a resized image


@settings(max_examples=300, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    factor=st.floats(0.05, 3),
    crop=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
@example(sides=(64, 96), factor=0.5, crop=(10, 10), place=(0.5, 0.5))
@example(sides=(31, 441), factor=0.998, crop=(31, 173), place=(0.0, 0.05))
@example(sides=(38, 1), factor=0.93, crop=(1, 1), place=(0.0, 0.0))
@example(sides=(1, 700), factor=1.7, crop=(64, 64), place=(0.0, 1.0))
@example(sides=(900, 4), factor=0.4, crop=(64, 64), place=(0.9, 0.0))
@example(sides=(20, 30), factor=1.0, crop=(64, 64), place=(0.0, 0.0))
def test_windows_equal_those_of_the_whole_image_resized_by_opencv(sides, factor, crop, place):
    image, label_map = random_pair(*sides)
    size = tuple(max(1, int(side * factor + 0.5)) for side in sides)
    starts = [int(share * max(side - length, 0)) for share, side, length in zip(place, size, crop)]
    window = tuple(slice(start, min(start + length, side)) for start, length, side in zip(starts, crop, size))
    whole = cv2.resize(pixels_of(image), size[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(bilinear_window(pixels_of(image), size, window), whole[window])
    whole = cv2.resize(label_map.numpy(), size[::-1], interpolation=cv2.INTER_NEAREST)
    assert np.array_equal(nearest_window(label_map.numpy(), size, window), whole[window])


@pytest.mark.parametrize(
    ("sides", "size", "ratio", "expected"),
    [
        ((512, 683), {"shortest_edge": 512, "longest_edge": 2048}, 1.0, (512, 683)),
        ((512, 683), {"shortest_edge": 512, "longest_edge": 2048}, 1.5, (768, 1025)),
        # 511.744 is truncated to 511.
        ((512, 683), {"shortest_edge": 512, "longest_edge": 2048}, 0.9995, (511, 682)),
        # The long side is the limit.
        ((300, 1500), {"shortest_edge": 512, "longest_edge": 2048}, 0.5, (205, 1024)),
        # Pascal Context's equal sides make the long side 520 times the ratio.
        ((375, 500), {"shortest_edge": 520, "longest_edge": 520}, 2.0, (780, 1040)),
        ((500, 375), {"shortest_edge": 520, "longest_edge": 520}, 0.5, (260, 195)),
        ((1024, 2048), {"shortest_edge": 1025, "longest_edge": 2049}, 1.0, (1025, 2049)),
        ((60, 90), {"shortest_edge": 120}, 0.75, (90, 135)),
        ((360, 480), None, 0.5, (180, 240)),
        ((7, 1000), {"shortest_edge": 1}, 0.5, (1, 143)),
    ],
)
def test_an_image_is_fitted_into_the_base_scale_times_the_ratio(sides, size, ratio, expected):
    crop = RandomScaledCrop((8, 8), (ratio, ratio), size)
    assert crop.make_params(random_pair(*sides))["size"] == expected


@pytest.mark.parametrize("sides", [(64, 96), (40, 40), (200, 120), (1, 300), (300, 2)])
def test_image_and_label_map_are_cropped_at_the_same_place(sides):
    crop = RandomScaledCrop((64, 80), (0.5, 2.0), {"shortest_edge": 96}, 0.75)
    pair = random_pair(*sides)
    for seed in range(10):
        torch.manual_seed(seed)
        params = crop.make_params(pair)
        torch.manual_seed(seed)
        image, label_map = crop(*pair)
        assert image.shape[-2:] == label_map.shape == tuple(min(s, c) for s, c in zip(params["size"], (64, 80)))
        size, window = params["size"][::-1], params["window"]
        whole = cv2.resize(pixels_of(pair[0]), size, interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(pixels_of(image), whole[window])
        whole = cv2.resize(pair[1].numpy(), size, interpolation=cv2.INTER_NEAREST)
        assert np.array_equal(label_map.numpy(), whole[window])


def test_ratios_and_offsets_are_uniform():
    crop = RandomScaledCrop((4, 4), (0.5, 2.0), {"shortest_edge": 1_000_000})
    pair = plain(np.zeros((10, 10)))
    ratios, tops, lefts = [], [], []
    for _ in range(3000):
        params = crop.make_params(pair)
        ratios.append(params["size"][0] / 1_000_000)
        top, left = params["window"]
        tops.append(top.start / (params["size"][0] - 4))
        lefts.append(left.start / (params["size"][1] - 4))
        assert top.stop - top.start == left.stop - left.start == 4
    assert_uniform(ratios, 0.5, 2.0)
    assert_uniform(tops, 0, 1)
    assert_uniform(lefts, 0, 1)
    for first, second in itertools.combinations((ratios, tops, lefts), 2):
        assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(3000)


@pytest.mark.parametrize("sides", [(1, 20_000), (20_000, 1)])
def test_a_strip_is_not_enlarged_beyond_all_measure(sides):
    crop = RandomScaledCrop((64, 64), (1.0, 1.0), {"shortest_edge": 64})
    with pytest.raises(SetrError, match=r"^its .* would be enlarged to .* more than 64 megapixels"):
        crop(*plain(np.zeros(sides)))


def test_every_offset_occurs_including_the_last():
    crop = RandomScaledCrop((4, 5), (1.0, 1.0), None)
    pair = random_pair(6, 9)
    windows = [crop.make_params(pair)["window"] for _ in range(1500)]
    for top, left in itertools.product(range(3), range(5)):
        assert_share(sum((w[0].start, w[1].start) == (top, left) for w in windows), 1500, 1 / 15)


# The rule of the crop


class RememberingCrop(RandomScaledCrop):
    """A crop that remembers the windows it draws."""

    def make_params(self, flat_inputs):
        self.windows = []
        return super().make_params(flat_inputs)

    def draw_window(self, size):
        self.windows.append(super().draw_window(size))
        return self.windows[-1]


def test_a_class_may_cover_less_than_three_quarters_of_the_labelled_pixels():
    label_map = np.zeros((10, 10), dtype=np.uint8)
    label_map.flat[:25] = 1
    assert not has_variety(label_map, 0.75)
    label_map.flat[25] = 1
    assert has_variety(label_map, 0.75)


def test_ignored_pixels_do_not_count_towards_variety():
    label_map = np.full((10, 10), 255, dtype=np.uint8)
    assert not has_variety(label_map, 0.75)
    label_map[0, :2] = 3
    assert not has_variety(label_map, 0.75)
    label_map[0, :2] = [3, 4]
    assert has_variety(label_map, 0.75)


def test_a_crop_is_redrawn_until_it_has_variety():
    # Of 21 windows the three with 3 to 5 columns of each class pass; 6 of 8 would be three quarters.
    label_map = np.zeros((8, 28))
    label_map[:, 14:] = 1
    crop = RememberingCrop((8, 8), (1.0, 1.0), None, 0.75)
    numbers = []
    for _ in range(300):
        window = crop.make_params(plain(label_map))["window"]
        passing = [9 <= drawn[1].start <= 11 for drawn in crop.windows]
        assert window == crop.windows[-1]
        assert not any(passing[:-1])
        assert passing[-1] or len(passing) == 11
        numbers.append(len(passing))
    assert_share(sum(number > 1 for number in numbers), 300, 18 / 21)


def test_the_eleventh_window_is_kept_whatever_it_shows():
    crop = RememberingCrop((8, 8), (1.0, 1.0), None, 0.75)
    params = crop.make_params(plain(np.zeros((30, 30))))
    assert len(crop.windows) == 11
    assert params["window"] == crop.windows[-1]


def test_a_limit_of_one_takes_the_first_window():
    crop = RememberingCrop((8, 8), (1.0, 1.0), None, 1.0)
    crop.make_params(plain(np.zeros((30, 30))))
    assert len(crop.windows) == 1


# Colours

CHANGES = {"brightness": 23.7, "contrast": 1.31, "saturation": 0.62, "hue": -11}


def reference_distortion(pixels, brightness, contrast, contrast_first, saturation, hue):
    """The formulas of the original code, each step back to 8 bits; OpenCV's HSV."""

    def convert(values, alpha=1.0, beta=0.0):
        return np.clip(values.astype(np.float32) * np.float32(alpha) + np.float32(beta), 0, 255).astype(np.uint8)

    if brightness is not None:
        pixels = convert(pixels, beta=brightness)
    if contrast is not None and contrast_first:
        pixels = convert(pixels, contrast)
    if saturation is not None:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        pixels[..., 1] = convert(pixels[..., 1], saturation)
        pixels = cv2.cvtColor(pixels, cv2.COLOR_HSV2RGB)
    if hue is not None:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        pixels[..., 0] = (pixels[..., 0].astype(int) + hue) % 180
        pixels = cv2.cvtColor(pixels, cv2.COLOR_HSV2RGB)
    if contrast is not None and not contrast_first:
        pixels = convert(pixels, contrast)
    return pixels


@pytest.mark.parametrize("contrast_first", [False, True])
@pytest.mark.parametrize("changed", list(itertools.product([False, True], repeat=4)))
def test_distortion_equals_the_formulas_to_the_bit(changed, contrast_first):
    params = {name: value if use else None for use, (name, value) in zip(changed, CHANGES.items())}
    params["contrast_first"] = contrast_first
    image, _ = random_pair(97, 101)
    result = PhotometricDistortion().transform(image, params)
    assert result.dtype == torch.uint8
    assert np.array_equal(pixels_of(result), reference_distortion(pixels_of(image), **params))


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_the_extremes_of_the_ranges_stay_within_8_bits(name):
    image, _ = random_pair(64, 64)
    for value in {"brightness": (-32, 32)}.get(name, (0.5, 1.5)):
        params = dict.fromkeys(CHANGES) | {"contrast_first": False, name: value}
        result = PhotometricDistortion().transform(image, params)
        assert np.array_equal(pixels_of(result), reference_distortion(pixels_of(image), **params))


@pytest.mark.parametrize(("saturation", "hue"), [(0.5, None), (1.4, None), (None, -18), (None, 9), (None, 17)])
def test_saturation_and_hue_are_those_of_exact_hsv_within_its_rounding(saturation, hue):
    # With hue in steps of 2° and 8-bit saturation, a channel is off by at most 255 × 1°/60° and a level or two.
    image, _ = random_pair(40, 40)
    params = dict.fromkeys(CHANGES) | {"contrast_first": False, "saturation": saturation, "hue": hue}
    result = PhotometricDistortion().transform(image, params)
    for before, after in zip(pixels_of(image).reshape(-1, 3), pixels_of(result).reshape(-1, 3)):
        h, s, v = colorsys.rgb_to_hsv(*(before / 255))
        expected = colorsys.hsv_to_rgb((h + (hue or 0) / 180) % 1, min(1, s * (saturation or 1)), v)
        assert np.abs(255 * np.array(expected) - after).max() <= 6


def test_each_change_is_made_half_of_the_time_and_is_uniform():
    distort = PhotometricDistortion()
    draws = [distort.make_params([]) for _ in range(6000)]
    for name, (low, high) in {"brightness": (-32, 32), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5)}.items():
        values = [draw[name] for draw in draws if draw[name] is not None]
        assert_share(len(values), len(draws), 0.5)
        assert_uniform(values, low, high)
    hues = [draw["hue"] for draw in draws if draw["hue"] is not None]
    assert_share(len(hues), len(draws), 0.5)
    assert set(hues) == set(range(-18, 18))
    for hue in range(-18, 18):
        assert_share(hues.count(hue), len(hues), 1 / 36)
    assert_share(sum(draw["contrast_first"] for draw in draws), len(draws), 0.5)
    # They are independent: all occur together in 1 of 32 cases.
    together = sum(draw["contrast_first"] and None not in draw.values() for draw in draws)
    assert_share(together, len(draws), 1 / 32)


# The whole transform


@pytest.mark.parametrize("size", [(64, 96), (40, 40), (200, 120), (1, 1)])
def test_results_have_the_size_of_the_crop_and_label_maps_still_hold_ids(size):
    transform = training_transform((64, 80), (0.5, 2.0), None, MEAN, STD)
    for _ in range(20):
        image, label_map = transform(*random_pair(*size))
        assert isinstance(image, tv_tensors.Image)
        assert isinstance(label_map, tv_tensors.Mask)
        assert (image.shape, image.dtype) == ((3, 64, 80), torch.float32)
        assert (label_map.shape, label_map.dtype) == ((64, 80), torch.uint8)
        assert set(label_map.unique().tolist()) <= {0, 1, 2, 3, 4, 255}
        assert image.is_contiguous()
        assert label_map.is_contiguous()


def test_pixels_are_normalized_and_padding_is_0_and_ignored():
    image, label_map = random_pair(30, 50, num_classes=200)
    result, result_label_map = NormalizeAndPad((40, 64), MEAN, STD)(image, label_map)
    expected = (image.double() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(result[:, :30, :50].double(), expected, atol=1e-6, rtol=1e-6, check_dtype=False)
    assert torch.equal(result_label_map[:30, :50], label_map)
    assert result[:, 30:].abs().max() == result[:, :, 50:].abs().max() == 0
    assert (result_label_map[30:] == 255).all()
    assert (result_label_map[:, 50:] == 255).all()


def test_half_of_the_crops_are_mirrored_together_with_their_label_maps():
    transform = training_transform((1, 2), (1.0, 1.0), None, [0.0] * 3, [1.0] * 3, photometric_distortion=False)
    image = tv_tensors.Image(torch.tensor([[[0, 255]]], dtype=torch.uint8).repeat(3, 1, 1))
    label_map = tv_tensors.Mask(torch.tensor([[3, 7]], dtype=torch.uint8))
    mirrored = 0
    for _ in range(1000):
        result, result_label_map = transform(image, label_map)
        assert (result[0, 0].tolist(), result_label_map[0].tolist()) in (([0, 1], [3, 7]), ([1, 0], [7, 3]))
        mirrored += result_label_map[0, 0].item() == 7
    assert_share(mirrored, 1000, 0.5)


def test_without_distortion_colours_stay():
    transform = training_transform((30, 50), (1.0, 1.0), None, [0.0] * 3, [1.0] * 3, photometric_distortion=False)
    image, label_map = random_pair(30, 50)
    for _ in range(10):
        pixels = (255 * transform(image, label_map)[0]).round().to(torch.uint8)
        assert torch.equal(pixels, image) or torch.equal(pixels, image.flip(-1))


def test_inputs_are_not_changed():
    image, label_map = random_pair(70, 90)
    before = image.clone(), label_map.clone()
    transform = training_transform((64, 64), (1.0, 1.0), None, MEAN, STD)
    for _ in range(10):
        transform(image, label_map)
    assert torch.equal(image, before[0])
    assert torch.equal(label_map, before[1])


class Crops(Dataset):
    """Crops of one image, each a function of its index."""

    def __init__(self):
        self.pair = random_pair(120, 160)
        self.transform = training_transform((64, 80), (0.5, 2.0), {"shortest_edge": 100}, MEAN, STD)

    def __len__(self):
        return 12

    def __getitem__(self, index):
        torch.manual_seed(index)
        image, label_map = self.transform(*self.pair)
        return {"image": image, "labels": label_map, "threads": cv2.getNumThreads()}


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_equal_seeds_give_equal_crops_in_worker_processes(start_method):
    here = [Crops()[index] for index in range(12)]
    assert not torch.equal(here[0]["image"], here[1]["image"])
    loader = DataLoader(Crops(), batch_size=None, num_workers=1, multiprocessing_context=start_method)
    for expected, example_ in zip(here, loader, strict=True):
        assert torch.equal(example_["image"], expected["image"])
        assert torch.equal(example_["labels"], expected["labels"])
        assert example_["threads"] == 1


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"size must hold `shortest_edge`.*'height': 512"):
        training_transform((64, 64), (0.5, 2.0), {"height": 512, "width": 512}, MEAN, STD)
    with pytest.raises(ValueError, match=r"scale_range must be two positive ratios in ascending order, got \(2, 1\)"):
        training_transform((64, 64), (2, 1), None, MEAN, STD)
    transform = training_transform((64, 64), (1, 1), None, MEAN, STD)
    image, label_map = random_pair(30, 40)
    with pytest.raises(ValueError, match=r"Image \(3, 30, 40\) torch.uint8, Mask \(40, 30\) torch.uint8"):
        transform(image, tv_tensors.Mask(label_map.T))
    with pytest.raises(ValueError, match=r"dtype uint8.*torch.float32"):
        transform(tv_tensors.Image(image.float()), label_map)
    with pytest.raises(ValueError, match="got neither"):
        transform(torch.zeros(3, 30, 40))
    with pytest.raises(ValueError, match=r"an input of 30×40 pixels cannot be padded to \(64, 32\)"):
        NormalizeAndPad((64, 32), MEAN, STD)(image, label_map)


def test_16_bit_photos_are_converted_for_training_as_for_segmentation():
    gray = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    image, _ = to_tv_tensors(Image.fromarray(gray), np.zeros((8, 8), dtype=np.uint8))
    assert image.dtype == torch.uint8
    assert image[0].flatten().tolist() == [round(value / 257) for value in gray.flatten().tolist()]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_photos_of_any_mode_become_rgb(mode):
    photo = Image.fromarray(pixels_of(random_pair(20, 30)[0])).convert(mode)
    image, _ = to_tv_tensors(photo, np.zeros((20, 30), dtype=np.uint8))
    assert np.array_equal(pixels_of(image), np.asarray(photo.convert("RGB")))


# Compared with mmsegmentation, on a photo

LIVE = {"crop_size": (96, 112), "scale_range": (0.5, 2.0), "category_max_ratio": 0.75, "num_draws": 2000}
LIVE_SIZE = {"shortest_edge": 128, "longest_edge": 512}


def forced_draws(photo, label_map):
    """Our crops with given parameters, and those parameters in the reference's terms."""
    forced, crops = [], []
    for ratio in np.linspace(0.5, 2.0, 40):
        crop, _, distort, normalize = training_transform(
            LIVE["crop_size"], (ratio, ratio), LIVE_SIZE, MEAN, STD
        ).transforms
        params, colours = crop.make_params([photo, label_map]), distort.make_params([])
        flip = len(forced) % 2 == 1
        image, mask = crop.transform(photo, params), crop.transform(label_map, params)
        if flip:
            image, mask = image.flip(-1), mask.flip(-1)
        image = distort.transform(tv_tensors.Image(image), colours)
        crops.append(normalize(image, tv_tensors.Mask(mask)))
        corner = [part.start for part in params["window"]]
        window = [corner[0], corner[0] + LIVE["crop_size"][0], corner[1], corner[1] + LIVE["crop_size"][1]]
        scale = [int(LIVE_SIZE[edge] * ratio) for edge in ("longest_edge", "shortest_edge")]
        forced.append({**colours, "scale": scale, "window": window, "flip": flip})
    return forced, crops


@pytest.fixture(scope="module")
def live(data_folder, tmp_path_factory):
    """A photo and its label map, our crops and mmsegmentation's with the same parameters, and its own draws."""
    python = os.environ.get("MMSEG_PYTHON")
    if not python:
        pytest.skip("set MMSEG_PYTHON to a Python that has mmsegmentation 1.2.2 to run this test")
    folder = tmp_path_factory.mktemp("mmseg")
    sample = data_folder / "ade20k_sample/ADEChallengeData2016"
    photo = Image.open(sample / "images/validation/ADE_val_00000001.jpg").resize((213, 160))
    annotation = Image.open(sample / "annotations/validation/ADE_val_00000001.png")
    ids = np.array(annotation.resize((213, 160), Image.Resampling.NEAREST)) - np.uint8(1)
    photo.save(folder / "photo.png")
    Image.fromarray(ids).save(folder / "labels.png")
    pair = to_tv_tensors(photo, ids)
    torch.manual_seed(0)
    forced, crops = forced_draws(*pair)
    settings_ = {**LIVE, "scale": [LIVE_SIZE["longest_edge"], LIVE_SIZE["shortest_edge"]], "forced": forced}
    settings_ |= {"mean": [255 * value for value in MEAN], "std": [255 * value for value in STD]}
    (folder / "settings.json").write_text(json.dumps(settings_))
    script = REFERENCES / "mmseg_augmentation_reference.py"
    subprocess.run([python, script, folder], check=True)
    return pair, crops, np.load(folder / "forced.npz"), np.load(folder / "draws.npz")


def test_equal_parameters_give_the_pixels_of_mmsegmentation(live):
    _, crops, forced, _ = live
    for index, (image, label_map) in enumerate(crops):
        assert np.array_equal(label_map.numpy(), forced[f"labels{index}"])
        # One level of intensity would be 0.017.
        np.testing.assert_allclose(image.numpy(), forced[f"image{index}"], atol=1e-5, rtol=0)


def test_distributions_are_those_of_mmsegmentation(live):
    pair, _, _, reference = live
    crop, flip, distort, _ = training_transform(
        LIVE["crop_size"], LIVE["scale_range"], LIVE_SIZE, MEAN, STD
    ).transforms
    draws = {key: [] for key in reference}
    for _ in range(LIVE["num_draws"]):
        params = crop.make_params(pair)
        draws["height"].append(params["size"][0])
        for key, part in zip(("top", "left"), params["window"]):
            draws[key].append(part.start)
        before = crop.transform(pair[1], params)
        image, label_map = distort(*flip(crop.transform(pair[0], params), before))
        draws["flip"].append(not torch.equal(label_map, before))
        counts = np.bincount(label_map.numpy().ravel(), minlength=256)[:255]
        draws["dominant"].append(counts.max() / counts.sum())
        pixels = pixels_of(image).reshape(-1, 3)
        draws["channels"].append([*pixels.mean(axis=0), *pixels.var(axis=0)])
    for key in ("height", "top", "left", "dominant"):
        assert len(set(draws[key])) > 50
        assert_same_distribution(draws[key], reference[key])
    for ours, theirs in zip(np.transpose(draws["channels"]), reference["channels"].T):
        assert_same_distribution(ours, theirs)
    assert_share(sum(draws["flip"]), LIVE["num_draws"], 0.5)
    assert_share(reference["flip"].sum(), LIVE["num_draws"], 0.5)
