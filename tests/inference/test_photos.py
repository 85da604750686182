"""Photos come in upright and RGB, whatever the file holds."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from setr_hf.inference.photos import read_photo, upright_rgb


def test_a_turned_photo_is_turned_upright_and_only_once(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 20, 3), np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    photo = read_photo(tmp_path / "turned.png")
    assert np.array_equal(np.asarray(photo), np.rot90(pixels, -1))
    assert upright_rgb(photo) is photo


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode):
    photo = upright_rgb(Image.new(mode, (3, 2)))
    assert photo.mode == "RGB" and photo.size == (3, 2)


def test_a_file_that_is_not_a_photo_is_an_error(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"not a photo")
    with pytest.raises(OSError, match="photo"):
        read_photo(tmp_path / "photo.jpg")
