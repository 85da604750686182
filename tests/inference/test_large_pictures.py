"""Pictures read, segmented and written by windows, against the label map of the same picture in memory."""

import os
import sys

import numpy as np
import pytest
import rasterio
import torch
from distributed_training import kill_at_change, start
from PIL import Image
from rasterio.transform import from_origin
from small_disk import enlarge, fill, small_disk

from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor, segment, segment_large_picture
from setr_hf.errors import SetrError
from setr_hf.inference.large_pictures import is_too_large


pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def pixels_of(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 12, width // 12, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def write_tiff(path, pixels, **options):
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    height, width, count = pixels.shape
    options = {"height": height, "width": width, "count": count, "dtype": pixels.dtype, **options}
    with rasterio.open(path, "w", driver="GTiff", **options) as dataset:
        dataset.write(pixels.transpose(2, 0, 1))


@pytest.fixture
def model(tiny_model):
    return tiny_model(decoder_type="naive", num_hidden_layers=2, out_indices=[2], auxiliary_out_indices=[1])


@pytest.fixture
def processor():
    return SetrImageProcessor(do_split_image=True, do_resize=False, crop_size=64, stride=43)


def labels_in(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def in_memory(model, processor, photo):
    return segment(model, processor, [Image.fromarray(photo)])[0].numpy()


@pytest.mark.parametrize(
    ("size", "crop", "stride"),
    [((600, 900), 64, 43), ((300, 450), {"height": 96, "width": 64}, 20), ((130, 500), 128, 128), ((40, 300), 64, 43)],
    ids=str,
)
def test_the_label_map_is_that_of_the_picture_in_memory(model, size, crop, stride, tmp_path):
    """With windows that overlap once, up to five times and not at all, and a picture that is lower than these."""
    processor = SetrImageProcessor(do_split_image=True, do_resize=False, crop_size=crop, stride=stride)
    pixels = pixels_of(*size)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    counts = segment_large_picture(model, processor, tmp_path / "picture.png", tmp_path / "labels.tif", 5)
    labels, expected = labels_in(tmp_path / "labels.tif"), in_memory(model, processor, pixels)
    assert labels.dtype == np.uint8 and labels.shape == size
    assert (labels == expected).mean() >= 0.99999 and len(np.unique(expected)) > 1
    assert counts.tolist() == np.bincount(labels.flat, minlength=256).tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.tif", "picture.png"]


def test_the_processors_size_has_no_effect(model, processor, tmp_path):
    pixels = pixels_of(130, 200)
    write_tiff(tmp_path / "picture.tif", pixels)
    resizing = SetrImageProcessor(do_split_image=True, size={"shortest_edge": 64}, crop_size=64, stride=43)
    segment_large_picture(model, resizing, tmp_path / "picture.tif", tmp_path / "labels.tif")
    assert (labels_in(tmp_path / "labels.tif") == in_memory(model, processor, pixels)).mean() >= 0.99999


def test_a_georeference_is_kept_and_the_file_is_tiled_and_compressed(model, processor, tmp_path):
    place = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_400_000, 0.2, 0.2)}
    write_tiff(tmp_path / "city.tif", pixels_of(600, 900), tiled=True, compress="deflate", **place)
    segment_large_picture(model, processor, tmp_path / "city.tif", tmp_path / "labels.tif")
    with rasterio.open(tmp_path / "labels.tif") as dataset:
        assert (dataset.crs, dataset.transform) == (place["crs"], place["transform"])
        assert (dataset.block_shapes, dataset.compression.name) == ([(256, 256)], "deflate")


def test_ground_control_points_are_kept(model, processor, tmp_path):
    places = [(0, 0, 10, 50), (0, 99, 11, 50), (69, 0, 10, 49)]
    points = [rasterio.control.GroundControlPoint(*place) for place in places]
    write_tiff(tmp_path / "city.tif", pixels_of(70, 100), gcps=points, crs="EPSG:4326")
    segment_large_picture(model, processor, tmp_path / "city.tif", tmp_path / "labels.tif")
    with rasterio.open(tmp_path / "labels.tif") as dataset:
        assert [(point.row, point.col, point.x, point.y) for point in dataset.gcps[0]] == places
        assert dataset.gcps[1] == "EPSG:4326"


def test_more_than_256_classes_have_16_bits(tiny_model, processor, tmp_path):
    model, pixels = (
        tiny_model(decoder_type="naive", num_labels=400, semantic_loss_ignore_index=-100),
        pixels_of(100, 130),
    )
    write_tiff(tmp_path / "picture.tif", pixels)
    segment_large_picture(model, processor, tmp_path / "picture.tif", tmp_path / "labels.tif")
    labels = labels_in(tmp_path / "labels.tif")
    assert labels.dtype == np.uint16 and labels.max() > 255
    assert (labels == in_memory(model, processor, pixels)).mean() >= 0.99999


def test_a_binary_model_has_its_threshold(tiny_model, tmp_path):
    model, pixels = tiny_model(decoder_type="naive", num_labels=1), pixels_of(100, 130)
    with torch.no_grad():
        pixel_values = SetrImageProcessor(do_resize=False)(pixels, return_tensors="pt").pixel_values
        threshold = model(pixel_values).logits.median().sigmoid().item()
    processor = SetrImageProcessor(do_split_image=True, do_resize=False, crop_size=64, stride=43, threshold=threshold)
    write_tiff(tmp_path / "picture.tif", pixels)
    segment_large_picture(model, processor, tmp_path / "picture.tif", tmp_path / "labels.tif")
    expected = in_memory(model, processor, pixels)
    assert np.array_equal(labels_in(tmp_path / "labels.tif"), expected) and len(np.unique(expected)) == 2


def test_a_job_that_is_stopped_anywhere_goes_on_and_ends_in_the_same_bytes(model, processor, tmp_path):
    """Stopped again and again, each time the model has run a few times more, down to every row of windows."""
    path, output = tmp_path / "picture.tif", tmp_path / "labels.tif"
    write_tiff(path, pixels_of(300, 450))
    segment_large_picture(model, processor, path, tmp_path / "whole.tif", 4)
    calls_left, numbers_of_strips = 0, []

    def stop(module, args, kwargs):
        nonlocal calls_left
        calls_left -= 1
        if calls_left < 0:
            raise KeyboardInterrupt

    handle = model.register_forward_pre_hook(stop, with_kwargs=True)
    # Three calls a row; a row that had been begun, and the one before it, are computed again.
    for calls_left in (0, 2, *[6] * 20):  # noqa: B007
        try:
            segment_large_picture(model, processor, path, output, 4)
        except KeyboardInterrupt:
            assert not output.exists()
            numbers_of_strips.append(len(list(tmp_path.glob("labels.tif.strips/*.npz"))))
        else:
            break
    handle.remove()
    assert numbers_of_strips == [0, 0, 2, 3, 4, 5, 6]
    assert output.read_bytes() == (tmp_path / "whole.tif").read_bytes()


def segment_until_killed(folder, number):
    """Segments `picture.tif` beside `folder` into this; gets a SIGKILL before a change of files in it, if any."""
    torch.manual_seed(0)
    config = SetrConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=1, image_size=64, num_labels=5,
                        decoder_type="naive", out_indices=[2], auxiliary_out_indices=[1])  # fmt: skip
    processor = SetrImageProcessor(do_split_image=True, crop_size=64, stride=43)
    model = SetrForSemanticSegmentation(config).eval()
    if number:
        kill_at_change(number, folder)
    segment_large_picture(model, processor, folder.parent / "picture.tif", folder / "labels.tif")


def test_a_job_that_is_killed_at_changes_on_the_disk_ends_in_the_same_bytes(tmp_path):
    write_tiff(tmp_path / "picture.tif", pixels_of(180, 100))
    segment_until_killed(tmp_path / "whole", None)
    (tmp_path / "killed").mkdir()
    exit_codes, files = [], []
    # Before the second strip is renamed, before the label map is, and before the third strip is deleted.
    for number in (13, 20, 12, None):
        process = start(segment_until_killed, tmp_path / "killed", number)
        process.join()
        exit_codes.append(process.exitcode)
        files.append(len(list(tmp_path.glob("killed/**/0*.npz"))) + (tmp_path / "killed/labels.tif").exists())
    assert (exit_codes, files) == ([-9] * 3 + [0], [1, 4, 3, 1])
    assert (tmp_path / "killed/labels.tif").read_bytes() == (tmp_path / "whole/labels.tif").read_bytes()
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["labels.tif"]


def test_a_full_disk_is_named_and_the_job_goes_on(model, processor, tmp_path):
    path, disk = tmp_path / "picture.tif", tmp_path / "disk"
    write_tiff(path, pixels_of(600, 900))
    segment_large_picture(model, processor, path, tmp_path / "whole.tif")
    size = (tmp_path / "whole.tif").stat().st_size // 4096 * 4096
    with small_disk(disk, size // 2):
        with pytest.raises(SetrError, match="is not written: its disk is full"):
            segment_large_picture(model, processor, path, disk / "labels.tif")
        # Room for all strips, then for half of the label map that they make up.
        enlarge(disk, 10 * size)
        (disk / "labels.tif").mkdir()
        with pytest.raises(OSError):
            segment_large_picture(model, processor, path, disk / "labels.tif")
        (disk / "labels.tif").rmdir()
        fill(disk)
        os.truncate(disk / "filling", (disk / "filling").stat().st_size - size // 2)
        with pytest.raises(SetrError, match=r"labels\.tif (is not|cannot be) written"):
            segment_large_picture(model, processor, path, disk / "labels.tif")
        assert {path.name for path in disk.iterdir()} == {"labels.tif.strips", "filling"}
        (disk / "filling").unlink()
        segment_large_picture(model, processor, path, disk / "labels.tif")
        assert (disk / "labels.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_strips_that_are_missing_or_damaged_are_computed_again(model, processor, tmp_path):
    path, output, folder = tmp_path / "picture.tif", tmp_path / "labels.tif", tmp_path / "labels.tif.strips"
    write_tiff(path, pixels_of(300, 150))
    segment_large_picture(model, processor, path, tmp_path / "whole.tif")
    output.mkdir()  # So that all strips are finished and the label map is not.
    with pytest.raises(OSError):
        segment_large_picture(model, processor, path, output)
    output.rmdir()
    strips = sorted(folder.glob("*.npz"))
    assert len(strips) == 7
    strips[1].unlink()
    strips[4].write_bytes(strips[4].read_bytes()[:100])
    with pytest.raises(SetrError, match=r"000004\.npz is damaged: delete it, and it is computed again"):
        segment_large_picture(model, processor, path, output)
    strips[4].unlink()
    segment_large_picture(model, processor, path, output)
    assert output.read_bytes() == (tmp_path / "whole.tif").read_bytes() and not folder.exists()


def test_strips_of_another_processor_or_picture_are_not_mixed_in(model, processor, tmp_path):
    path, output = tmp_path / "picture.tif", tmp_path / "labels.tif"
    write_tiff(path, pixels_of(100, 150))
    output.mkdir()
    with pytest.raises(OSError):
        segment_large_picture(model, processor, path, output)
    output.rmdir()
    other = SetrImageProcessor(do_split_image=True, do_resize=False, crop_size=64, stride=44)
    with pytest.raises(SetrError, match=r"labels\.tif\.strips holds results computed with other settings"):
        segment_large_picture(model, other, path, output)
    pixels = pixels_of(120, 150, seed=1)
    write_tiff(path, pixels)
    segment_large_picture(model, processor, path, output)
    assert (labels_in(output) == in_memory(model, processor, pixels)).mean() >= 0.99999


def gray_palette(pixels):
    return Image.fromarray(pixels[..., 0]).convert("P")


@pytest.mark.parametrize(
    ("name", "convert", "expected"),
    [
        ("gray.png", lambda pixels: Image.fromarray(pixels[..., 0]), lambda pixels: pixels[..., [0, 0, 0]]),
        ("gray alpha.png", lambda pixels: Image.fromarray(pixels[..., :2], "LA"), lambda pixels: pixels[..., [0] * 3]),
        ("palette.png", gray_palette, lambda pixels: np.array(gray_palette(pixels).convert("RGB"))),
        ("rgba.tif", lambda pixels: Image.fromarray(pixels).convert("RGBA"), lambda pixels: pixels),
    ],
)
def test_colors_of_every_kind_become_rgb(model, processor, name, convert, expected, tmp_path):
    pixels = pixels_of(70, 100)
    convert(pixels).save(tmp_path / name)
    segment_large_picture(model, processor, tmp_path / name, tmp_path / "labels.tif")
    assert np.array_equal(labels_in(tmp_path / "labels.tif"), in_memory(model, processor, expected(pixels)))


def exif_turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("16.tif", lambda path, a: write_tiff(path, a.astype(np.uint16)), "has intensities of uint16, not 8 bits"),
        ("bit.png", lambda path, a: Image.fromarray(a).convert("1").save(path), "has intensities of 1 bits"),
        ("six.tif", lambda path, a: write_tiff(path, np.concatenate([a, a], 2)), "has 6 bands that are not RGB"),
        ("cmyk.jpg", lambda path, a: Image.fromarray(a).convert("CMYK").save(path), "bands that are not RGB"),
        ("turned.jpg", lambda path, a: Image.fromarray(a).save(path, exif=exif_turned()), "EXIF orientation"),
        ("turned.tif", lambda path, a: Image.fromarray(a).save(path, tiffinfo={274: 6}), "EXIF orientation"),
        ("moving.gif", lambda path, a: Image.fromarray(a).save(path), "is not a TIFF, PNG or JPEG file"),
        ("empty.tif", lambda path, a: path.touch(), "is not a TIFF, PNG or JPEG file"),
        ("head.tif", lambda path, a: path.write_bytes(b"II*\0"), "head.tif cannot be read as a photo"),
        ("folder.tif", lambda path, a: path.mkdir(), "folder.tif is a folder"),
        ("pipe.tif", lambda path, a: os.mkfifo(path), "pipe.tif is not a file"),
        ("missing.tif", lambda path, a: None, "missing.tif does not exist"),
    ],
)
def test_what_cannot_be_read_is_named(model, processor, name, write, message, tmp_path):
    write(tmp_path / name, pixels_of(70, 100))
    with pytest.raises(SetrError, match=message):
        segment_large_picture(model, processor, tmp_path / name, tmp_path / "labels.tif")
    assert not list(tmp_path.glob("labels*"))


@pytest.mark.parametrize("name", ["picture.tif", "picture.png", "picture.jpg"])
def test_a_file_that_is_cut_off_is_named(model, processor, name, tmp_path):
    path = tmp_path / name
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 150, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SetrError, match=f"{name} cannot be read as a photo"):
        segment_large_picture(model, processor, path, tmp_path / "labels.tif")
    assert not (tmp_path / "labels.tif").exists()


def test_a_missing_library_is_named_with_its_extra(model, processor, tmp_path, monkeypatch):
    write_tiff(tmp_path / "picture.tif", pixels_of(70, 100))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(SetrError, match=r"with rasterio: pip install 'setr-hf\[large\]'"):
        segment_large_picture(model, processor, tmp_path / "picture.tif", tmp_path / "labels.tif")


def test_wrong_arguments_are_named(model, processor, tmp_path):
    path = tmp_path / "picture.tif"
    write_tiff(path, pixels_of(70, 100))
    with pytest.raises(SetrError, match="is the picture itself: name another output"):
        segment_large_picture(model, processor, path, path)
    for window_batch_size in (0, -1, 2.5, None):
        with pytest.raises(SetrError, match="window_batch_size must be at least 1"):
            segment_large_picture(model, processor, path, tmp_path / "labels.tif", window_batch_size)
    with pytest.raises(SetrError, match="set do_split_image=True"):
        segment_large_picture(model, SetrImageProcessor(), path, tmp_path / "labels.tif")
    with torch.no_grad():
        model.decode_head.classifier.bias[0] = torch.nan
    with pytest.raises(SetrError, match="logits are NaN or infinite"):
        segment_large_picture(model, processor, path, tmp_path / "labels.tif")


def test_a_picture_is_too_large_where_pillow_refuses_it(tmp_path, monkeypatch):
    Image.fromarray(pixels_of(70, 100)).save(tmp_path / "picture.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert not any(is_too_large(tmp_path / name) for name in ("picture.png", "missing.png", "pipe.png"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    assert is_too_large(tmp_path / "picture.png")
