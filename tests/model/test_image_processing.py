from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from transformers import AutoImageProcessor
from transformers.image_utils import SizeDict

from setr_hf import SetrImageProcessor, SetrImageProcessorPil
from setr_hf.model.image_processing_setr import resize_like_opencv, resized_size, window_offsets


BACKENDS = [SetrImageProcessor, SetrImageProcessorPil]
both_backends = pytest.mark.parametrize("processor_class", BACKENDS)


@pytest.fixture
def photo():
    """A picture with gradients, edges and noise: 90 pixels wide, 70 high."""
    rows, columns = np.mgrid[0:70, 0:90]
    pixels = np.stack([rows * 3, columns * 2, (rows // 9 + columns // 11) % 2 * 200], axis=-1)
    noise = np.random.default_rng(0).integers(0, 40, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def gray_levels(pixel_values, processor):
    """Normalized pixels `(3, height, width)` back as gray levels `(height, width, 3)`."""
    mean, std = np.array(processor.image_mean), np.array(processor.image_std)
    return (np.asarray(pixel_values).transpose(1, 2, 0) * std + mean) * 255


@both_backends
@pytest.mark.parametrize("size", [(35, 45), (50, 64), (140, 180), (70, 33), (99, 141), (1, 1), (36, 45)])
def test_resizing_without_antialias_equals_opencv_to_the_bit(processor_class, photo, size):
    processor = processor_class(size={"height": size[0], "width": size[1]}, antialias=False, do_normalize=False)
    resized = processor(photo, return_tensors="np").pixel_values[0].transpose(1, 2, 0) * 255
    expected = cv2.resize(np.array(photo), size[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.abs(resized - expected).max() < 1e-3


@settings(max_examples=100, deadline=None)
@given(sides=st.tuples(*[st.integers(1, 200)] * 4), seed=st.integers(0, 2**31))
def test_any_size_is_resized_as_opencv_does(sides, seed):
    height, width, *size = sides
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    resized = resize_like_opencv(torch.from_numpy(image).permute(2, 0, 1), tuple(size)).permute(1, 2, 0).numpy()
    assert np.array_equal(resized, cv2.resize(image, tuple(size[::-1]), interpolation=cv2.INTER_LINEAR))


@both_backends
def test_resizing_with_antialias_equals_pillow_within_one_gray_level(processor_class, photo):
    processor = processor_class(size={"height": 30, "width": 40})
    resized = gray_levels(processor(photo, return_tensors="np").pixel_values[0], processor)
    expected = np.array(photo.resize((40, 30), Image.Resampling.BILINEAR), dtype=np.float32)
    assert np.abs(resized - expected).max() < 1.01


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        (512, 683, {"shortest_edge": 512, "longest_edge": 2048}, (512, 683)),
        (360, 480, {"shortest_edge": 512, "longest_edge": 2048}, (512, 683)),
        (100, 1000, {"shortest_edge": 512, "longest_edge": 2048}, (205, 2048)),
        (1024, 2048, {"shortest_edge": 1025, "longest_edge": 2049}, (1025, 2049)),
        (375, 500, {"shortest_edge": 520}, (520, 693)),
        (500, 375, {"shortest_edge": 520}, (693, 520)),
        (300, 400, {"height": 512, "width": 512}, (512, 512)),
    ],
)
def test_sizes_are_those_of_the_original_protocol(height, width, size, expected):
    assert resized_size(height, width, SizeDict(**size)) == expected


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(1, 400), width=st.integers(1, 400), crop=st.integers(1, 128), fraction=st.floats(0.01, 1)
)  # fmt: skip
def test_windows_cover_every_pixel_and_stay_inside(height, width, crop, fraction):
    stride = max(1, int(crop * fraction))
    covered = np.zeros((height, width), dtype=bool)
    offsets = window_offsets(height, width, SizeDict(height=crop, width=crop), stride)
    for top, left, window_height, window_width in offsets:
        assert (window_height, window_width) == (min(crop, height), min(crop, width))
        assert 0 <= top <= height - window_height
        assert 0 <= left <= width - window_width
        covered[top : top + window_height, left : left + window_width] = True
    assert covered.all()
    per_side = [max(side - crop + stride - 1, 0) // stride + 1 for side in (height, width)]
    assert len(offsets) == per_side[0] * per_side[1]


def test_the_last_window_is_shifted_back_inside():
    offsets = window_offsets(512, 1000, SizeDict(height=512, width=512), 341)
    assert offsets == [(0, 0, 512, 512), (0, 341, 512, 512), (0, 488, 512, 512)]


@both_backends
def test_windows_hold_the_pixels_of_the_whole_image(processor_class, photo):
    size = {"size": {"height": 50, "width": 80}, "antialias": False}
    whole = processor_class(**size)(photo, return_tensors="pt").pixel_values[0]
    windows = processor_class(**size, do_split_image=True, crop_size=32, stride=20)([photo], return_tensors="pt")
    assert windows.pixel_windows.shape == (1, 8, 3, 32, 32)
    for window, (top, left, height, width, *image_size) in zip(windows.pixel_windows[0], windows.patch_offsets[0]):
        assert image_size == [50, 80]
        assert torch.equal(window, whole[:, top : top + height, left : left + width])


@both_backends
def test_images_of_several_sizes_are_filled_up_to_the_same_number_of_windows(processor_class, photo):
    processor = processor_class(do_split_image=True, do_resize=False, crop_size={"height": 32, "width": 48}, stride=32)
    small = photo.crop((0, 0, 20, 10))
    inputs = processor([photo, small], return_tensors="pt")
    assert inputs.pixel_windows.shape == (2, 9, 3, 32, 48)
    assert inputs.patch_offsets[1].tolist() == [[0, 0, 10, 20, 10, 20]] + [[0] * 6] * 8
    assert inputs.pixel_windows[1, 1:].abs().max() == 0
    assert inputs.pixel_windows[1, 0, :, 10:].abs().max() == 0


@both_backends
def test_merging_averages_overlapping_logits_and_resizes_once(processor_class):
    """Against the original protocol written out: logits at window size are summed, divided by counts, resized."""
    processor = processor_class()
    offsets = torch.tensor([[0, 0, 32, 32, 40, 50], [0, 18, 32, 32, 40, 50], [8, 0, 32, 32, 40, 50],
                            [8, 18, 32, 32, 40, 50], [0, 0, 0, 0, 0, 0]])  # fmt: skip
    logits = torch.randn(1, 5, 7, 8, 8)
    total, counts = torch.zeros(7, 40, 50), torch.zeros(40, 50)
    for window, (top, left, *_) in zip(logits[0, :4], offsets.tolist()):
        up = F.interpolate(window[None], size=(32, 32), mode="bilinear", align_corners=False)[0]
        total += F.pad(up, (left, 18 - left, top, 8 - top))
        counts[top : top + 32, left : left + 32] += 1
    expected = F.interpolate((total / counts)[None], size=(33, 61), mode="bilinear", align_corners=False)[0]
    outputs = SimpleNamespace(logits=logits, patch_offsets=offsets[None])
    result = processor.post_process_semantic_segmentation(outputs, [(33, 61)], return_segmentation_scores=True)[0]
    torch.testing.assert_close(result.segmentation_scores, expected)
    assert torch.equal(result.segmentation, expected.argmax(0))
    assert torch.equal(processor.post_process_semantic_segmentation(outputs, [(33, 61)])[0], expected.argmax(0))
    assert processor.post_process_semantic_segmentation(outputs)[0].shape == (40, 50)


@both_backends
def test_photographs_of_every_kind_become_the_same_rgb(processor_class, photo, tmp_path):
    processor = processor_class(do_resize=False)
    gray = photo.convert("L")
    gray_rgb = np.array(gray.convert("RGB"))
    sixteen_bit = Image.fromarray(np.array(gray).astype(np.uint16) * 257)
    alpha = photo.copy()
    alpha.putalpha(Image.fromarray(np.tile(np.arange(90, dtype=np.uint8), (70, 1))))
    palette = photo.convert("P", palette=Image.Palette.ADAPTIVE)
    cases = {
        "rgb": (photo, np.array(photo)),
        "gray": (gray, gray_rgb),
        "rgba": (alpha, np.array(photo)),
        "palette": (palette, np.array(palette.convert("RGB"))),
        "16-bit": (sixteen_bit, gray_rgb),
        "cmyk": (photo.convert("CMYK"), np.array(photo.convert("CMYK").convert("RGB"))),
        "gray array": (np.array(gray), gray_rgb),
        "16-bit array": (np.array(sixteen_bit), gray_rgb),
        "rgba array": (np.array(alpha), np.array(photo)),
        "channels first": (np.array(photo).transpose(2, 0, 1), np.array(photo)),
        "tensor": (torch.from_numpy(np.array(photo)).permute(2, 0, 1), np.array(photo)),
    }
    for kind, (image, expected) in cases.items():
        pixels = gray_levels(processor(image, return_tensors="np").pixel_values[0], processor)
        assert np.abs(pixels - expected).max() < 0.01, kind


@both_backends
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(processor_class, photo, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.save(tmp_path / "photo.png", exif=exif)
    processor = processor_class(do_resize=False)
    undo = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90}  # fmt: skip
    upright = np.array(photo.transpose(undo[orientation]) if orientation in undo else photo)
    for image in (Image.open(tmp_path / "photo.png"), str(tmp_path / "photo.png")):
        pixels = gray_levels(processor(image, return_tensors="np").pixel_values[0], processor)
        assert np.abs(pixels - upright).max() < 0.01


@both_backends
def test_labels_are_resized_to_the_nearest_and_reduced_once(processor_class, photo):
    label_map = np.arange(70 * 90, dtype=np.uint8).reshape(70, 90) % 151
    label_map[0, 0] = 255
    processor = processor_class(size={"height": 35, "width": 45}, do_reduce_labels=True)
    labels = processor(photo, Image.fromarray(label_map), return_tensors="pt").labels
    nearest = cv2.resize(label_map, (45, 35), interpolation=cv2.INTER_NEAREST_EXACT).astype(np.int64)
    expected = np.where((nearest == 0) | (nearest == 255), 255, nearest - 1)
    assert labels.dtype == torch.int64
    assert np.array_equal(labels[0], expected)


@both_backends
def test_palette_and_16_bit_label_maps_keep_their_ids(processor_class, photo):
    ids = np.arange(70 * 90).reshape(70, 90) % 200
    palette = Image.fromarray(ids.astype(np.uint8), mode="P")
    palette.putpalette(list(range(255, -1, -1)) * 3)
    processor = processor_class(do_resize=False)
    for label_map in (palette, Image.fromarray(ids.astype(np.uint16)), ids, torch.from_numpy(ids)[None]):
        assert np.array_equal(processor(photo, label_map, return_tensors="np").labels[0], ids)


@both_backends
def test_wrong_inputs_are_named(processor_class, photo):
    processor = processor_class(do_resize=False)
    with pytest.raises(ValueError, match="map 0 is 10×10 pixels high and wide, but its image is 70×90"):
        processor(photo, np.zeros((10, 10), dtype=np.uint8))
    with pytest.raises(ValueError, match="colours"):
        processor(photo, np.zeros((70, 90, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="1 images and 2 segmentation maps"):
        processor(photo, [np.zeros((70, 90), dtype=np.uint8)] * 2)
    with pytest.raises(ValueError, match="cannot be stacked"):
        processor([photo, photo.crop((0, 0, 20, 20))], return_tensors="pt")
    with pytest.raises(ValueError, match="do_center_crop"):
        processor(photo, do_center_crop=True, crop_size=20)
    with pytest.raises(ValueError, match="without antialias is bilinear"):
        processor(photo, do_resize=True, antialias=False, resample=Image.Resampling.BICUBIC)
    with pytest.raises(ValueError, match="target sizes for a batch of 2"):
        outputs = SimpleNamespace(logits=torch.zeros(2, 3, 4, 4))
        processor.post_process_semantic_segmentation(outputs, [(4, 4)])


@both_backends
def test_windows_that_would_leave_gaps_are_refused(processor_class, photo):
    with pytest.raises(ValueError, match="stride must be between 1 and the crop size 64×64"):
        processor_class(do_split_image=True, crop_size=64, stride=65)
    with pytest.raises(ValueError, match="got 100"):
        processor_class(do_split_image=True, crop_size=64, stride=64)(photo, stride=100)


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_saved_and_loaded_for_either_backend(backend, photo, tmp_path):
    processor = SetrImageProcessor(do_split_image=True, crop_size=48, stride=32, antialias=False, size=60)
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    assert type(loaded) is BACKENDS[backend == "pil"]
    assert loaded.to_dict() | {"image_processor_type": None} == processor.to_dict() | {"image_processor_type": None}
    expected = processor(photo, return_tensors="pt")
    inputs = loaded(photo, return_tensors="pt")
    assert torch.equal(inputs.patch_offsets, expected.patch_offsets)
    assert (inputs.pixel_windows - expected.pixel_windows).abs().max() < 1.01 / 255 / min(processor.image_std)


WINDOWED = {"do_split_image": True, "size": {"shortest_edge": 64}, "crop_size": 64, "stride": 43}


@both_backends
@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"image_std": [0.0, 1.0, 1.0]}, r"image_std must hold positive numbers, got \[0.0, 1.0, 1.0\]"),
        ({"image_std": [float("nan")] * 3}, "image_std must hold a number for each channel"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is for 2 channels and image_std for 3"),
        ({"image_mean": "gray"}, r"image_mean must hold a number for each channel, got \['gray'\]"),
        ({"rescale_factor": 0}, "rescale_factor must be a positive number, got 0"),
        ({"size": {"shortest_edge": 0}}, r"size must hold positive whole numbers of pixels, got {'shortest_edge': 0}"),
        ({"size": {"height": -1, "width": 5}}, "size must hold positive whole numbers"),
        ({"size": {"shortest_edge": 64, "longest_edge": 0}}, "size must hold positive whole numbers"),
        ({"size": {"longest_edge": 64}}, "size must hold `height` and `width`, or `shortest_edge`"),
        ({"size": {"height": "64", "width": 5}}, "'size'"),
        ({"size": [5]}, "these sizes cannot be read"),
        ({**WINDOWED, "crop_size": 0}, "do_split_image needs a crop_size"),
        ({**WINDOWED, "crop_size": {"height": -4, "width": 4}}, "crop_size must hold positive whole numbers"),
        ({**WINDOWED, "stride": 0}, "stride must be between 1 and the crop size 64×64"),
        ({**WINDOWED, "stride": 2.5}, "'stride' expected int, got float"),
        ({"resample": 77}, "resample must be one of Pillow's filters, 0 to 5, got 77"),
        ({"do_resize": "no"}, "'do_resize'"),
    ],
)
def test_settings_out_of_range_are_refused_at_creation_and_in_a_call(processor_class, photo, settings_, message):
    with pytest.raises(ValueError, match=message):
        processor_class(**settings_)
    if "rescale_factor" not in settings_:
        with pytest.raises(ValueError):
            processor_class()(photo, **settings_)


def test_whole_numbers_in_a_file_are_numbers():
    processor = SetrImageProcessor(image_mean=[0, 0, 0], image_std=[1, 1, 1], rescale_factor=1)
    assert processor(np.full((5, 5, 3), 7, np.uint8), return_tensors="pt").pixel_values.unique().tolist() == [7]


LEVELS = np.arange(75, dtype=np.float32).reshape(5, 5, 3)


@both_backends
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGB", (0, 10)), "there are no pixels in it: its height is 10 and its width 0"),
        (np.zeros((0, 10, 3), np.uint8), "there are no pixels in it"),
        (np.full((5, 5, 3), np.nan, np.float32), "it holds NaN or infinite values"),
        (torch.full((3, 4, 4), torch.inf), "it holds NaN or infinite values"),
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), "lie within nan and nan"),
        (LEVELS / 255, "its values lie within 0 and 0.290196: pass intensities of 0 to 255, or do_rescale=False"),
        (torch.from_numpy(LEVELS / 255), "do_rescale=False"),
        (LEVELS / 37 - 1, "its values lie within -1 and 1:"),
        (LEVELS * 300, "its intensities lie within 0 and 22200, not 0 and 255"),
        ((LEVELS * 300).astype(np.int32), "its intensities lie within 0 and 22200, not 0 and 255"),
        (LEVELS.astype(np.int8) - 1, "its intensities lie within -1 and 73"),
        (np.full((5, 5, 3), None), "it holds values of the type object, not intensities"),
        (LEVELS.astype(complex), "complex128"),
        (LEVELS > 3, "type bool"),
        (torch.zeros(3, 4, 4, device="meta"), "it is a sparse, quantized or meta tensor"),
        (np.zeros((5, 6, 7), np.uint8), "channel"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_images_that_cannot_be_right_are_refused_by_their_number(processor_class, photo, image, message):
    with pytest.raises(ValueError, match=f"^image 1: .*{message}"):
        processor_class()([photo, image], return_tensors="pt")


@both_backends
def test_channels_without_a_mean_are_refused(processor_class, photo):
    with pytest.raises(ValueError, match="image 0: it has 3 channels, but image_mean has 2"):
        processor_class(image_mean=[0.5, 0.5], image_std=[0.5, 0.5])(photo)


@both_backends
@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "the list of images is empty"),
        ([[], []], "the list of images is empty"),
        (None, "got NoneType"),
        ([[1, 2], [3]], "got int"),
        (np.zeros(4, np.uint8), r"arrays are \(height, width\), .* got \(4,\)"),
        (np.zeros((2, 2, 4, 4, 3), np.uint8), r"got \(2, 2, 4, 4, 3\)"),
        ("nowhere.jpg", "nowhere.jpg cannot be read as a photo: No such file or directory"),
    ],
    ids=str,
)
def test_what_is_not_a_photo_is_refused(processor_class, images, message):
    with pytest.raises(ValueError, match=message):
        processor_class()(images)


@both_backends
def test_intensities_of_every_type_give_the_same_pixels(processor_class, photo):
    processor, levels = processor_class(do_resize=False), np.array(photo)
    expected = processor(photo, return_tensors="pt").pixel_values
    for kind in (np.int16, np.int64, np.float16, np.float32, np.float64):
        pixels = processor(levels.astype(kind), return_tensors="pt").pixel_values
        torch.testing.assert_close(pixels.float(), expected, atol=1e-3, rtol=0)
    scaled = processor(levels / 255, do_rescale=False, return_tensors="pt").pixel_values
    torch.testing.assert_close(scaled.float(), expected)
    black = processor(np.zeros((5, 5, 3), np.float32), return_tensors="pt").pixel_values
    torch.testing.assert_close(black, processor(Image.new("RGB", (5, 5)), return_tensors="pt").pixel_values)


@both_backends
def test_only_enlarging_is_limited(processor_class):
    strip = Image.new("L", (20_000, 1))
    with pytest.raises(ValueError, match="image 0: its 1×20000 pixels would be enlarged to 512×10240000"):
        processor_class(size={"shortest_edge": 512})(strip)
    assert resized_size(1, 20_000, SizeDict(shortest_edge=512, longest_edge=2048)) == (1, 2048)
    assert resized_size(10_000, 10_000, SizeDict(height=10_000, width=10_000)) == (10_000, 10_000)
    windows = processor_class(do_split_image=True, do_resize=False, crop_size=64, stride=43)(
        strip, return_tensors="pt"
    )
    assert windows.pixel_windows.shape == (1, 465, 3, 64, 64)


@both_backends
def test_windows_beyond_all_measure_are_refused(processor_class, photo):
    with pytest.raises(ValueError, match="image 0: its 64×82 pixels would be cut into 1 windows of 100000×100000"):
        processor_class(**WINDOWED | {"crop_size": 100_000})(photo)
    with pytest.raises(ValueError, match="would be cut into 316,545 windows of 64×64"):
        processor_class(**WINDOWED | {"stride": 1, "size": {"height": 512, "width": 768}})(photo)


@both_backends
def test_damaged_photos_and_damaged_exif_data(processor_class, photo, tmp_path):
    photo.save(tmp_path / "photo.jpg", exif=b"Exif\x00\x00" + bytes(range(40)))
    pixels = processor_class(do_resize=False)(Image.open(tmp_path / "photo.jpg"), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 70, 90)
    (tmp_path / "half.jpg").write_bytes((tmp_path / "photo.jpg").read_bytes()[:1200])
    with pytest.raises(ValueError, match="image 1: it cannot be decoded: image file is truncated"):
        processor_class()([photo, Image.open(tmp_path / "half.jpg")])


@both_backends
@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        (np.full((70, 90), np.nan), "class ids, which are whole numbers, got others or NaN"),
        (np.full((70, 90), 1.5), "whole numbers"),
        (np.full((70, 90), "sky"), "class ids, got values of the type <U3"),
    ],
    ids=["NaN", "halves", "text"],
)
def test_label_maps_hold_ids(processor_class, photo, label_map, message):
    with pytest.raises(ValueError, match=message):
        processor_class()(photo, label_map)


LOGITS = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("outputs", "target_sizes", "message"),
    [
        ({"logits": LOGITS}, [(4, 4), (0, 4)], r"target_sizes\[1\] must be a height and a width .* got \(0, 4\)"),
        ({"logits": LOGITS}, [(4, 4.5), (4, 4)], r"target_sizes\[0\]"),
        ({"logits": LOGITS}, [(4, 4), (-1, 4)], r"target_sizes\[1\]"),
        ({"logits": LOGITS}, [(4, 4, 3)] * 2, r"target_sizes\[0\]"),
        ({"logits": LOGITS}, [(4, float("nan"))] * 2, r"target_sizes\[0\]"),
        ({"logits": LOGITS}, [4, 4], r"target_sizes\[0\]"),
        ({"logits": LOGITS}, [(4, 4)] * 3, "3 target sizes for a batch of 2"),
        ({"logits": LOGITS[:0]}, [], r"none of them 0, got \(0, 3, 4, 4\)"),
        ({"logits": LOGITS[0]}, None, r"got \(3, 4, 4\)"),
        ({"logits": LOGITS + torch.nan}, None, "logits are NaN or infinite.*weights.*precision"),
        ({"logits": LOGITS, "patch_offsets": torch.zeros(2, 1, 6)}, None, "with patch_offsets"),
        ({"logits": LOGITS[None], "patch_offsets": torch.zeros(1, 2, 6)}, None, "image 0 hold 0 windows"),
        ({"logits": LOGITS[None], "patch_offsets": torch.zeros(1, 1, 6)}, None, "with patch_offsets"),
    ],
)
def test_what_post_processing_cannot_read_is_refused(outputs, target_sizes, message):
    with pytest.raises(ValueError, match=message):
        SetrImageProcessor().post_process_semantic_segmentation(SimpleNamespace(**outputs), target_sizes)


def test_target_sizes_may_be_tensors():
    sizes = torch.tensor([[5, 6], [7, 8]])
    label_maps = SetrImageProcessor().post_process_semantic_segmentation(SimpleNamespace(logits=LOGITS), sizes)
    assert [tuple(label_map.shape) for label_map in label_maps] == [(5, 6), (7, 8)]
