"""Photos: files of every format and mode, whole and damaged, through `read_photo`, `segment` and the pipeline."""

import io
import struct
import zlib
from functools import cache

import numpy as np
import rasterio
from hostile import Attempt, family
from mutations import with_damage
from PIL import ExifTags, Image
from small_models import check_label_map, noise, small_model, small_processor
from transformers import pipeline

from setr_hf.inference.large_pictures import segment_large_picture
from setr_hf.inference.photos import read_photo
from setr_hf.inference.sliding_windows import segment


SIDES = [1, 1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 200]
# Format, suffix and the modes that Pillow writes in it.
FORMATS = [
    ("JPEG", ["L", "RGB", "CMYK"]),
    ("PNG", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]),
    ("TIFF", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"]),
    ("BMP", ["1", "L", "P", "RGB"]),
    ("GIF", ["L", "P", "RGB"]),
    ("WEBP", ["RGB", "RGBA"]),
    ("PPM", ["1", "L", "RGB", "I"]),
    ("TGA", ["L", "P", "RGB", "RGBA"]),
    ("ICO", ["RGBA"]),
    ("PCX", ["1", "L", "P", "RGB"]),
    ("SGI", ["L", "RGB", "RGBA"]),
    ("DDS", ["RGB", "RGBA"]),
    ("JPEG2000", ["L", "RGB"]),
    ("EPS", ["L", "RGB"]),
]
FLOATS = [0, 1, 255, 256, -1, 1e-30, 1e30, float("nan"), float("inf")]


def image_of(random, mode, height, width):
    if mode == "F":
        pixels = noise(random, height, width, 1).astype(np.float32) * random.choice([1 / 255, 1, 257, -1])
        pixels.flat[random.randrange(pixels.size)] = random.choice(FLOATS)
        return Image.fromarray(pixels)
    if mode == "I":
        return Image.fromarray(noise(random, height, width, 1).astype(np.int32) * random.choice([1, 257, 2**20, -1]))
    if mode == "I;16":
        return Image.fromarray(noise(random, height, width, 1).astype(np.uint16) * random.choice([1, 257]))
    return Image.fromarray(noise(random, height, width)).convert("RGB").convert(mode if mode != "LAB" else "RGB")


def encoded(random, image, name):
    file, options = io.BytesIO(), {}
    if name in ("GIF", "WEBP") and random.random() < 0.5:
        options = {"save_all": True, "append_images": [image.rotate(90), image.convert("L").convert(image.mode)]}
    if name in ("JPEG", "PNG", "WEBP", "TIFF") and random.random() < 0.4:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = random.choice([1, 3, 6, 8, 0, 9, 70000])
        options["exif"] = random.choice(
            [exif.tobytes(), b"Exif\x00\x00" + random.randbytes(40), b"Exif\x00\x00II*\x00"]
        )
    image.save(file, "JPEG2000" if name == "JPEG2000" else name, **options)
    return file.getvalue()


def png_of(width, height, depth, data=b""):
    """A PNG of any claimed size; `data` is its compressed content."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bomb(random):
    """Small files that claim or unpack to far more."""
    kind = random.randrange(4)
    if kind == 0:
        return png_of(random.choice([2**31 - 1, 60_000, 0]), random.choice([2**31 - 1, 60_000, 1]), 8)
    if kind == 1:
        return png_of(20_000, 20_000, 1, zlib.compress(bytes(2_000_000)))
    if kind == 2:
        return b"P5 100000 100000 255\n" + bytes(1000)
    return b"II*\x00\x08\x00\x00\x00" + random.randbytes(200)


@cache
def segmenter():
    return pipeline("image-segmentation", model=small_model(), image_processor=small_processor())


def photo_file(random):
    """What a photo's file is, and its content: whole, damaged, or not a photo."""
    kind = random.randrange(8)
    if kind == 0:
        return "bomb", bomb(random)
    if kind == 1:
        return "random bytes", random.randbytes(random.choice([0, 1, 10, 1000]))
    name, modes = random.choice(FORMATS)
    height, width = random.choice(SIDES), random.choice(SIDES)
    image = image_of(random, random.choice(modes), height, width)
    what = f"{name} {image.mode} {width}×{height}"
    try:
        data = encoded(random, image, name)
    except (OSError, SyntaxError, ValueError, struct.error):  # Not every mode and size is written in every format.
        data = b""
    return (f"damaged {what}", with_damage(random, data)) if data and kind > 4 else (what, data)


@family(count=1_200)
def photo_files(random, folder):
    path = folder / "photo.jpg"
    what, data = photo_file(random)
    path.write_bytes(data)
    through_pipeline = random.random() < 0.1

    def run():
        photo = read_photo(path)
        assert photo.mode == "RGB"
        if through_pipeline:
            covered = sum(np.asarray(part["mask"]) > 0 for part in segmenter()(photo))
            assert covered.shape == (photo.height, photo.width) and (covered == 1).all()
        return photo, segment(small_model(), small_processor(), [photo])[0]

    return Attempt(what, run, lambda result: check_label_map(result[1], result[0]))


@family(count=20, mebibytes=4000)
def large_photos(random, folder):
    """100 megapixels, and strips that are 20,000 pixels long."""
    width, height = random.choice([(20_000, 1), (1, 20_000), (20_000, 16), (10_000, 10_000)])
    mode = random.choice(["1", "L"])
    path = folder / "photo.png"
    Image.new(mode, (width, height), 1).save(path, compress_level=1)

    def run():
        photo = read_photo(path)
        return photo, segment(small_model(), small_processor(), [photo])[0]

    return Attempt(f"{mode} {width}×{height}", run, lambda result: check_label_map(result[1], result[0]))


@family(count=600)
def pictures_read_by_windows(random, folder):
    what, data = photo_file(random)
    (folder / "picture").write_bytes(data)

    def check(counts):
        with rasterio.open(folder / "labels.tif") as labels:
            ids = labels.read(1)
        assert counts.tolist() == np.bincount(ids.flat, minlength=256).tolist()
        assert ids.max() < small_model().config.num_labels and not (folder / "labels.tif.strips").exists()

    def run():
        return segment_large_picture(small_model(), small_processor(), folder / "picture", folder / "labels.tif")

    return Attempt(what, run, check, absent=folder / "labels.tif.strips")
