"""Folders of training data: damaged, contradictory and stray files, through `load_segmentation_data` and the check of
every sample that `setr-hf train` makes. Whatever is used is right, and nothing is left out without a word.
"""

import io
import json
import os

import numpy as np
from hostile import Attempt, family
from mutations import as_json, with_changes, with_damage
from PIL import ExifTags, Image
from small_models import noise

from setr_hf import load_segmentation_data
from setr_hf.data.arguments import DataArguments
from setr_hf.data.checks import checked_samples
from setr_hf.doctor.data_report import examine_data
from setr_hf.doctor.sheet import draw_sheet
from setr_hf.errors import SetrError
from setr_hf.files import IMAGE_SUFFIXES


NAMES = {"id2label": {"0": "sky", "1": "tree", "2": "road"}}
STRAY = [
    "Thumbs.db",
    ".DS_Store",
    "._0.jpg",
    "notes.txt",
    "0.jpg.part",
    "0",
    "index.html",
    "copy/0.jpg",
    ".hidden/0.png",
]
ENDINGS = [".jpg", ".JPG", ".jpeg", ".png", ".PNG", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".jfif", ".heic", ""]


def encoded(image, name, **options):
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def photo_bytes(random, height, width):
    """A photo that is as large when it is upright, or says that it is not."""
    image, options = Image.fromarray(noise(random, height, width)), {}
    if random.random() < 0.2:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = random.choice([3, 6, 8, 9])
        options["exif"] = random.choice([exif.tobytes(), b"Exif\x00\x00" + random.randbytes(30)])
    return encoded(image, "JPEG", **options)


def mask_bytes(random, height, width):
    ids = noise(random, height, width, 1) % 3
    kind = random.randrange(14)
    if kind == 0:
        return encoded(Image.fromarray(ids.astype(np.uint16)), "PNG")
    if kind == 1:
        return encoded(Image.fromarray(np.stack([ids] * 3, -1)), "PNG")
    if kind == 2:
        mask = Image.fromarray(ids).convert("P")
        mask.putpalette(random.randbytes(768))
        return encoded(mask, "PNG")
    if kind == 3:
        return encoded(Image.fromarray(ids.astype(np.float32)), "TIFF")
    if kind == 4:
        return encoded(Image.fromarray(ids > 0), "PNG")
    if kind == 5:
        return encoded(Image.fromarray(ids + random.choice([1, 3, 200, 253])), "PNG")
    if kind == 6:
        return encoded(Image.fromarray(ids).convert(random.choice(["LA", "RGBA", "CMYK"])), "TIFF")
    if kind == 7:
        return encoded(Image.fromarray(ids), random.choice(["JPEG", "GIF", "WEBP"]))
    if kind == 8:
        return encoded(Image.fromarray(np.full_like(ids, 255)), "PNG")
    return encoded(Image.fromarray(ids), "PNG")


def spoil(random, root, photos, masks):
    """Changes one thing in a folder of data, and says what."""
    photo, mask = random.choice(sorted(photos.iterdir())), random.choice(sorted(masks.iterdir()))
    path = random.choice([photo, mask])
    kind = random.randrange(11)
    if kind == 0:
        path.write_bytes(with_damage(random, path.read_bytes() or b"\0"))
        return f"damaged {path.name}"
    if kind == 1:
        path.write_bytes(random.choice([b"", b"\0", random.randbytes(200)]))
        return f"emptied {path.name}"
    if kind == 2:
        path.unlink()
        return f"without {path.parent.parent.name}/{path.name}"
    if kind == 3:
        height, width = random.choice([(1, 1), (1, 3000), (3000, 1), (32, 31)])
        path.write_bytes((photo_bytes if path == photo else mask_bytes)(random, height, width))
        return f"{path.name} of {width}×{height}"
    if kind == 4:
        stray = path.parent / random.choice(STRAY)
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(random.choice([b"", path.read_bytes(), random.randbytes(40)]))
        return f"stray {stray.relative_to(root)}"
    if kind == 5:
        twin = path.with_name(path.stem + random.choice(ENDINGS))
        twin.write_bytes(path.read_bytes())
        return f"twin {twin.name}"
    if kind == 6:
        moved = path.rename(
            path.with_name(random.choice([path.stem, path.stem.upper(), "ü"]) + random.choice(ENDINGS))
        )
        return f"{path.name} renamed to {moved.name}"
    if kind == 7:
        path.unlink()
        random.choice([path.mkdir, lambda: path.symlink_to("nowhere"), lambda: os.mkfifo(path)])()
        return f"{path.name} is not a file"
    if kind == 8:
        (root / "labels.json").write_bytes(with_damage(random, as_json(NAMES)))
        return "damaged names file"
    if kind == 9:
        (root / "labels.json").write_bytes(as_json(with_changes(random, NAMES)))
        return "changed names file"
    (root / "labels.json").unlink(missing_ok=True)
    return "no names file"


def spoiled_folder(random, folder):
    """Makes a folder of data with up to two faults, and says which."""
    photos, masks = folder / "images/train", folder / "annotations/train"
    for path in (photos, masks):
        path.mkdir(parents=True)
    (folder / "labels.json").write_text(json.dumps(NAMES))
    for index in range(random.randint(1, 4)):
        height, width = random.choice([(16, 24), (24, 16), (32, 32), (1, 1)])
        (photos / f"{index}.jpg").write_bytes(photo_bytes(random, height, width))
        (masks / f"{index}.png").write_bytes(mask_bytes(random, height, width))
    return "; ".join(
        spoil(random, folder, photos, masks)
        for _ in range(random.randint(0, 2))
        if any(photos.iterdir()) and any(masks.iterdir())
    )


@family(count=1_200)
def folders_of_data(random, folder):
    what = spoiled_folder(random, folder)
    photos, masks = folder / "images/train", folder / "annotations/train"
    skip_bad_samples = random.random() < 0.5

    def check(samples):
        given = [path for path in photos.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
        names = [sample.name for sample in samples]
        assert len(set(names)) == len(names)
        if not skip_bad_samples:
            assert sorted(names) == sorted(path.stem for path in given if not path.name.startswith("."))
            assert {path.stem for path in masks.glob("*.png") if not path.name.startswith(".")} <= set(names)
        for sample in samples:
            assert sample.label_map.dtype == np.uint8
            assert sample.label_map.shape == (sample.photo.height, sample.photo.width)

    def run():
        data = checked_samples(load_segmentation_data(folder, "train"), skip_bad_samples, num_workers=1)
        samples = list(data)
        num_labels = len(data.label_set.names)
        assert all(((sample.label_map < num_labels) | (sample.label_map == 255)).all() for sample in samples)
        return samples

    return Attempt(what, run, check)


@family(count=600)
def folders_for_the_doctor(random, folder):
    """What `train` refuses, the doctor finds an error in."""
    what = spoiled_folder(random, folder)

    def is_refused():
        try:
            checked_samples(load_segmentation_data(folder, "train"), num_workers=1)
        except SetrError:
            return True
        return False

    def check(report):
        json.dumps([finding.to_dict() for finding in report.findings])
        draw_sheet(report.facts, report.findings)
        assert any(finding.severity == "error" for finding in report.findings) or not is_refused()

    return Attempt(what, lambda: examine_data(DataArguments(dataset=str(folder))), check)
