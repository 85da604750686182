"""Folders of thousands of small photos, some of which are damaged in the ways that files on disks are."""

import io
import json
import random
import struct
import zlib

import numpy as np
from model_folders import NAMES
from PIL import Image


def jpeg(photo):
    file = io.BytesIO()
    photo.save(file, "JPEG")
    return file.getvalue()


def tiff_with_nan(photo):
    intensities = np.asarray(photo.convert("L")).astype(np.float32)
    intensities[0, 0] = np.nan
    file = io.BytesIO()
    Image.fromarray(intensities).save(file, "TIFF")
    return file.getvalue()


def png_of_claimed_size(width, height):
    """A PNG that claims a size and holds hardly a pixel."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [b"IHDR" + header, b"IDAT" + zlib.compress(bytes(100)), b"IEND"]
    framed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


# The content of a file that cannot be read, from the photo that it should have been.
DAMAGES = {
    "empty": lambda photo: b"",
    "truncated": lambda photo: jpeg(photo)[:-100],
    "zeros in the middle": lambda photo: jpeg(photo)[:100] + bytes(200) + jpeg(photo)[300:],
    "text": lambda photo: b"404 Not Found\n",
    "zeros": lambda photo: bytes(4096),
    "decompression bomb": lambda photo: png_of_claimed_size(60_000, 60_000),
    "not a number": tiff_with_nan,
}


def small_photo(generator):
    """A photo of 32 to 96 pixels a side, with a few soft patches of colour."""
    height, width = generator.integers(32, 97, 2).tolist()
    patches = generator.integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)


def write_photos(folder, count, bad_share, annotations=False):
    """Writes the photos `photo-00000.jpg`, `photo-00001.jpg` … to `folder`, the same ones in each call. Every kind of
    [`DAMAGES`] occurs about equally often in a `bad_share` of them, from 0 to 1; returns the names of those files.

    With `annotations`, `folder` becomes a data set of the classes [`NAMES`] with the split "validation", in which the
    photos are `images/validation/*.jpg`, and the annotations, none of them damaged, `annotations/validation/*.png`.
    """
    photos = folder / "images/validation" if annotations else folder
    photos.mkdir(parents=True)
    if annotations:
        (folder / "annotations/validation").mkdir(parents=True)
        (folder / "labels.json").write_text(json.dumps({"id2label": dict(enumerate(NAMES))}))
    generator = np.random.default_rng(0)
    bad = sorted(random.Random(0).sample(range(count), round(bad_share * count)))
    damages = {index: list(DAMAGES.values())[n % len(DAMAGES)] for n, index in enumerate(bad)}
    for index in range(count):
        photo = small_photo(generator)
        (photos / f"photo-{index:05}.jpg").write_bytes(damages.get(index, jpeg)(photo))
        if annotations:
            label_map = np.asarray(photo.convert("L")) // (256 // len(NAMES))
            Image.fromarray(label_map).save(folder / f"annotations/validation/photo-{index:05}.png")
    return [f"photo-{index:05}.jpg" for index in bad]
