"""Photos come in upright and RGB, whatever the file holds, or are refused in one line that names the file."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from setr_hf.errors import SetrError
from setr_hf.inference.photos import read_photo, upright_rgb


PIXELS = np.random.default_rng(0).integers(0, 256, (10, 20, 3), np.uint8)
GRADIENT = np.linspace(0, 1, 200, dtype=np.float32).reshape(10, 20)


def refusal(path):
    with pytest.raises(SetrError) as error:
        read_photo(path)
    line = str(error.value)
    assert line.startswith(f"{path} cannot be read as a photo: ") and len(line.splitlines()) == 1
    return line.partition(": ")[2]


def png_header(width, height):
    """A PNG as far as where its pixels begin."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 100) + b"IDAT"


def test_a_turned_photo_is_turned_upright_and_only_once(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    photo = read_photo(tmp_path / "turned.png")
    assert np.array_equal(np.asarray(photo), np.rot90(PIXELS, -1))
    assert upright_rgb(photo) is photo


def test_exif_data_that_is_damaged_is_ignored(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "photo.jpg", exif=b"Exif\x00\x00" + bytes(range(40)))
    Image.fromarray(PIXELS).save(tmp_path / "plain.jpg")
    assert np.array_equal(
        np.asarray(read_photo(tmp_path / "photo.jpg")), np.asarray(read_photo(tmp_path / "plain.jpg"))
    )


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16", "LA", "PA", "YCbCr", "HSV", "F", "I"])
def test_every_mode_becomes_rgb(mode):
    photo = upright_rgb(Image.new(mode, (3, 2)))
    assert photo.mode == "RGB" and photo.size == (3, 2)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_of_an_animation_the_first_frame_is_read(suffix, tmp_path):
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "lime", "blue")]
    frames[0].save(tmp_path / f"photo.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    assert read_photo(tmp_path / f"photo.{suffix}").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    "intensities, expected",
    [
        (GRADIENT, (GRADIENT * 255).round()),
        (GRADIENT * 255, np.floor(GRADIENT * 255)),
        (GRADIENT * 0, GRADIENT * 0),
    ],
    ids=["0 to 1", "0 to 255", "black"],
)
def test_a_floating_point_tiff_is_scaled_by_its_range(intensities, expected, tmp_path):
    Image.fromarray(intensities).save(tmp_path / "photo.tiff")
    assert np.array_equal(np.asarray(read_photo(tmp_path / "photo.tiff"))[..., 0], expected)


@pytest.mark.parametrize(
    "intensities, reason",
    [
        (GRADIENT * 65535, "its floating-point intensities lie within 0 and 65535: they must be 0 to 1, or 0 to 255"),
        (GRADIENT - 0.5, "its floating-point intensities lie within -0.5 and 0.5"),
        (np.where(GRADIENT > 0.5, np.nan, GRADIENT), "its floating-point intensities lie within nan and nan"),
        ((GRADIENT * 100000).astype(np.int32), "its intensities lie within 0 and 100000, which is neither 8 nor 16"),
        ((GRADIENT * 255).astype(np.int32) - 1, "its intensities lie within -1 and 254"),
    ],
    ids=["16-bit floats", "negative", "NaN", "32 bits", "negative integers"],
)
def test_intensities_of_an_unknown_range_are_refused(intensities, reason, tmp_path):
    Image.fromarray(intensities).save(tmp_path / "photo.tiff")
    assert reason in refusal(tmp_path / "photo.tiff")


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"not a photo", "it is not in a format of images that Pillow knows"),
        (b"", "it is not in a format of images that Pillow knows"),
        (png_header(30_000, 30_000), "900000000 pixels"),
        (png_header(100, 100), "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "PostScript is a program"),
    ],
    ids=["text", "empty", "decompression bomb", "header alone", "PostScript"],
)
def test_a_file_that_is_not_a_photo_is_refused(data, reason, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(data)
    assert reason in refusal(tmp_path / "photo.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "bmp", "webp"])
def test_a_truncated_photo_is_refused(suffix, tmp_path):
    path = tmp_path / f"photo.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refusal(path)


def test_what_is_not_a_file_is_refused(tmp_path):
    assert refusal(tmp_path / "photo.jpg") == "No such file or directory"
    assert refusal(tmp_path) == "Is a directory"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert refusal(tmp_path / "pipe.jpg") == "it is not a file, but a pipe or a device"
