"""Faults that are put into a clean data set, one at a time: the doctor names each, and nothing besides."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from setr_hf.data.scenes import CLASSES


def photos(folder, split="train"):
    return sorted((folder / "images" / split).iterdir())


def masks(folder, split=None):
    splits = [split] if split else ["train", "val"]
    return [path for name in splits for path in sorted((folder / "annotations" / name).iterdir())]


def change(paths, function):
    """Each annotation anew from its ids."""
    for path in paths:
        Image.fromarray(function(np.asarray(Image.open(path)))).save(path)


def change_names(folder, **entries):
    content = json.loads((folder / "labels.json").read_text())
    (folder / "labels.json").write_text(json.dumps({**content, **entries}))


def names_of(count):
    return {str(index): name for index, name in enumerate(CLASSES[:count])}


def add_exif(path, orientation):
    photo = Image.open(path)
    exif = photo.getexif()
    exif[0x0112] = orientation
    photo.save(path, quality=95, exif=exif)


def palette_of(colors):
    return np.asarray(colors, dtype=np.uint8).ravel().tolist()


def save_with_palette(path, colors):
    mask = Image.open(path)
    mask.putpalette(palette_of(colors))
    mask.save(path)


def swap(one, other):
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


FAULTS = {}


def fault(*kinds):
    """Registers a function that puts a fault into a folder, with the kinds of findings that name it."""

    def register(function):
        FAULTS[function.__name__] = (set(kinds), function)
        return function

    return register


@fault("counts_from_one")
def ids_count_from_one(folder):
    change(masks(folder), lambda ids: ids + 1)


@fault("counts_from_one")
def ids_count_from_one_and_the_last_is_ignored(folder):
    change(masks(folder), lambda ids: ids + 1)
    change_names(folder, ignore_index=8)


@fault("reduced_twice")
def reduced_in_the_files_and_in_the_names(folder):
    change(masks(folder), lambda ids: np.where(ids == 7, 255, ids))
    change_names(folder, reduce_labels=True, id2label=names_of(7), palette=None)


@fault("reduced_twice", "mostly_ignored")
def reduced_twice_in_the_files(folder):
    change(masks(folder), lambda ids: ids - np.uint8(2))


@fault("interpolated_mask")
def resized_with_interpolation(folder):
    for path in masks(folder):
        small = Image.open(path).resize((120, 96), Image.NEAREST)
        small.resize((160, 128), Image.BILINEAR).save(path)


@fault("jpeg_mask")
def jpegs_with_the_name_of_a_png(folder):
    for path in masks(folder):
        Image.open(path).save(path, format="JPEG")


@fault("mask_not_png", "missing_mask")
def jpegs_in_the_annotations(folder):
    for path in masks(folder, "train")[:2]:
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()


@fault("stray_ids")
def jpegs_turned_into_pngs(folder):
    for path in masks(folder):
        ids = np.asarray(Image.open(path)).copy()
        generator = np.random.default_rng(0)
        at = generator.integers(0, (128, 160), (40, 2)).T
        ids[tuple(at)] = generator.integers(8, 20, 40)
        Image.fromarray(ids).save(path)


@fault("size_mismatch")
def masks_of_another_size(folder):
    for path in masks(folder, "val"):
        Image.open(path).resize((80, 64), Image.NEAREST).save(path)


@fault("exif_turned")
def turned_by_exif_without_the_mask(folder):
    add_exif(photos(folder)[1], 6)


@fault("turned_mask", "exif_photo")
def mirrored_by_exif_without_the_mask(folder):
    for path in photos(folder):
        add_exif(path, 2)


@fault("turned_mask")
def upside_down(folder):
    change(masks(folder, "train")[2:5], lambda ids: ids[::-1, ::-1])


@fault("shifted_mask")
def shifted_by_ten_pixels(folder):
    change(masks(folder, "train"), lambda ids: np.roll(ids, 10, axis=1))


@fault("unrelated_masks")
def paired_with_the_next_photo(folder):
    paths = masks(folder, "train") + masks(folder, "val")
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, contents[1:] + contents[:1]):
        path.write_bytes(content)


@fault("mixed_palettes")
def a_palette_for_each_file(folder):
    generator = np.random.default_rng(0)
    for path in masks(folder, "train"):
        save_with_palette(path, generator.permutation(256)[:, None].repeat(3, axis=1))


@fault("mixed_palettes")
def one_file_with_another_palette(folder):
    for path in masks(folder, "train"):
        save_with_palette(path, [[i, i, i] for i in range(256)])
    save_with_palette(masks(folder, "train")[3], [[255 - i, i, i] for i in range(256)])


@fault("binary_255")
def white_masks_of_two_classes(folder):
    change(masks(folder), lambda ids: np.where(ids > 2, 255, 0).astype(np.uint8))
    change_names(folder, id2label={"0": "ground", "1": "thing"}, palette=None)


@fault("binary_255")
def some_white_masks_among_others(folder):
    change(masks(folder), lambda ids: (ids > 2).astype(np.uint8))
    change(masks(folder, "train")[:3], lambda ids: ids * np.uint8(255))
    change_names(folder, id2label={"0": "ground", "1": "thing"}, palette=None)


@fault("colour_mask")
def colours_instead_of_ids(folder):
    for path in masks(folder):
        save_with_palette(path, [[i * 30 % 256, i, 255 - i] for i in range(256)])
        Image.open(path).convert("RGB").save(path)


@fault("mask_values")
def sixteen_bit_masks_with_instances(folder):
    for path in masks(folder, "train"):
        ids = np.asarray(Image.open(path)).astype(np.uint16)
        Image.fromarray(ids * 1000).save(path)


@fault("unknown_ids")
def gray_levels_instead_of_ids(folder):
    change(masks(folder), lambda ids: ids * np.uint8(30))


@fault("one_value_more")
def a_class_that_has_no_name(folder):
    change_names(folder, id2label=names_of(7), palette=None)


@fault("mostly_ignored")
def most_classes_ignored(folder):
    change(masks(folder), lambda ids: np.where(ids < 3, 255, ids).astype(np.uint8))


@fault("blank_mask")
def an_ignored_mask(folder):
    change(masks(folder, "train")[:1], lambda ids: np.full_like(ids, 255))


@fault("blank_mask")
def nothing_but_ignored_masks(folder):
    change(masks(folder), lambda ids: np.full_like(ids, 255))


@fault("constant_mask")
def a_constant_mask(folder):
    change(masks(folder, "train")[:1], lambda ids: np.full_like(ids, 2))


@fault("blank_photo")
def a_blank_photo(folder):
    Image.new("RGB", (160, 128), "black").save(photos(folder)[0])


@fault("class_never")
def a_class_that_never_occurs(folder):
    change(masks(folder), lambda ids: np.where(ids == 5, 2, ids).astype(np.uint8))


@fault("class_only_in_validation")
def a_class_only_in_validation(folder):
    change(masks(folder, "train"), lambda ids: np.where(ids == 5, 2, ids).astype(np.uint8))


@fault("class_only_in_train")
def a_class_only_in_train(folder):
    change(masks(folder, "val"), lambda ids: np.where(ids == 5, 2, ids).astype(np.uint8))


@fault("same_photo_in_splits")
def the_same_photo_saved_anew_in_two_splits(folder):
    photo, mask = photos(folder)[4], masks(folder, "train")[4]
    Image.open(photo).resize((80, 64), Image.BICUBIC).save(folder / "images/val/again.png")
    Image.open(mask).resize((80, 64), Image.NEAREST).save(folder / "annotations/val/again.png")


@fault("same_photo_in_splits")
def the_same_file_in_two_splits(folder):
    for kind in ("images", "annotations"):
        path = sorted((folder / kind / "train").iterdir())[4]
        (folder / kind / "val" / f"again{path.suffix}").write_bytes(path.read_bytes())


@fault("repeated_photo")
def the_same_file_twice_in_a_split(folder):
    for kind in ("images", "annotations"):
        path = sorted((folder / kind / "train").iterdir())[4]
        path.with_name(f"again{path.suffix}").write_bytes(path.read_bytes())


def resize_sample(folder, size):
    for path, resample in ((photos(folder)[0], Image.BICUBIC), (masks(folder, "train")[0], Image.NEAREST)):
        Image.open(path).resize(size, resample).save(path)


@fault("tiny_photo")
def a_thumbnail(folder):
    resize_sample(folder, (30, 24))


@fault("strip")
def a_banner(folder):
    resize_sample(folder, (500, 50))


@fault("huge_photo")
def a_photo_of_65_megapixels(folder):
    stripes = np.repeat(np.arange(8, dtype=np.uint8), 1000)[:, None].repeat(8200, axis=1)
    Image.fromarray(stripes).save(masks(folder, "train")[0], compress_level=1)
    Image.fromarray(stripes * np.uint8(30)).save(photos(folder)[0].with_suffix(".png"), compress_level=1)
    photos(folder)[0].unlink()


@fault("corrupt_photo")
def a_truncated_photo(folder):
    path = photos(folder)[0]
    path.write_bytes(path.read_bytes()[:800])


@fault("corrupt_photo")
def a_page_of_html_for_a_photo(folder):
    photos(folder)[0].write_text("<html>404</html>")


@fault("corrupt_mask")
def a_truncated_mask(folder):
    path = masks(folder, "val")[0]
    path.write_bytes(path.read_bytes()[:100])


@fault("missing_mask")
def a_photo_without_mask(folder):
    masks(folder, "train")[0].unlink()


@fault("mask_without_photo")
def a_mask_without_photo(folder):
    photos(folder)[0].unlink()


@fault("missing_mask", "mask_without_photo")
def masks_with_other_names(folder):
    for path in masks(folder, "train"):
        path.rename(path.with_stem(f"{path.stem}_mask"))


@fault("file_names")
def two_photos_of_one_name(folder):
    path = photos(folder)[0]
    Image.open(path).transpose(Image.FLIP_LEFT_RIGHT).save(path.with_suffix(".png"))


@fault("file_names")
def a_name_that_is_not_utf8(folder):
    os.rename(photos(folder)[0], os.fsencode(folder / "images/train") + b"/\xff.jpg")
    masks(folder, "train")[0].unlink()


@fault("deep_photo")
def a_photo_of_sixteen_bits(folder):
    path = photos(folder)[0]
    gray = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 257
    Image.fromarray(gray).save(path.with_suffix(".png"))
    path.unlink()


@fault("alpha_photo")
def a_photo_with_alpha(folder):
    path = photos(folder)[0]
    Image.open(path).convert("RGBA").save(path.with_suffix(".png"))
    path.unlink()


@fault("class_names")
def no_names_file(folder):
    (folder / "labels.json").unlink()


@fault("class_names")
def a_names_file_that_is_not_json(folder):
    (folder / "labels.json").write_text('{"id2label": {"0": "sky",}}')


@fault("missing_split")
def no_validation_split(folder):
    for kind in ("images", "annotations"):
        (folder / kind / "val").rename(folder / kind / "holdout")


@fault("unreadable_split")
def photos_of_a_split_without_annotations(folder):
    (folder / "annotations/val").rename(folder / "annotations/other")


# Those that are notes: training goes well all the same.
NOTES = {"class_never", "class_only_in_train", "constant_mask", "repeated_photo", "deep_photo", "alpha_photo"}
NOTES |= {"missing_split", "exif_photo"}
# What follows of itself when whole classes or samples are gone.
CONSEQUENCES = {"class_never", "class_only_in_train", "class_only_in_validation", "constant_mask"}


def test_nothing_is_wrong_with_the_clean_data_set(doctor, clean_folder):
    status, report = doctor(clean_folder)
    assert (status, report["findings"]) == (0, [])


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_and_no_other(doctor, folder, name):
    kinds, put_into = FAULTS[name]
    put_into(folder)
    status, report = doctor(folder)
    found = {finding["kind"]: finding for finding in report["findings"]}
    assert kinds <= set(found) <= kinds | CONSEQUENCES, report["findings"]
    assert {kind for kind in kinds if found[kind]["severity"] == "note"} == kinds & NOTES
    assert status == int(any(finding["severity"] != "note" for finding in found.values()))
    assert all(finding["advice"] and finding["meaning"] for finding in found.values())
    listed = [sample for finding in found.values() for sample in finding["samples"]]
    assert all(finding["count"] >= len(finding["samples"]) for finding in found.values()) and len(listed) < 200
