"""Class names and colours of the public data sets."""

import pytest

from setr_hf.data.public_datasets import CLASS_NAMES, PALETTES


@pytest.mark.parametrize(
    "data_set, count", [("ade20k", 150), ("cityscapes", 19), ("pascal_context", 60), ("pascal_context_59", 59)]
)
def test_every_class_has_one_name_and_one_colour(data_set, count):
    names, palette = CLASS_NAMES[data_set], PALETTES[data_set]
    assert len(names) == len(set(names)) == len(palette) == count
    assert all(name == name.strip() for name in names)
    assert all(len(colour) == 3 and all(0 <= value <= 255 for value in colour) for colour in palette)


def test_pascal_context_is_in_the_order_of_its_annotation_values():
    assert CLASS_NAMES["pascal_context_59"] == sorted(CLASS_NAMES["pascal_context_59"])
    assert CLASS_NAMES["pascal_context"] == ["background", *CLASS_NAMES["pascal_context_59"]]
    assert PALETTES["pascal_context"][1:] == PALETTES["pascal_context_59"]


@pytest.mark.parametrize(
    "data_set, index, name, colour",
    [
        ("ade20k", 0, "wall", [120, 120, 120]),
        ("ade20k", 149, "flag", [92, 0, 255]),
        ("cityscapes", 0, "road", [128, 64, 128]),
        ("cityscapes", 13, "car", [0, 0, 142]),
        ("pascal_context", 0, "background", [120, 120, 120]),
        ("pascal_context_59", 0, "aeroplane", [180, 120, 120]),
        ("pascal_context_59", 58, "wood", [31, 0, 255]),
    ],
)
def test_classes_by_id(data_set, index, name, colour):
    assert (CLASS_NAMES[data_set][index], PALETTES[data_set][index]) == (name, colour)


def test_ade20k_names_are_those_of_the_benchmark(data_folder):
    rows = (data_folder / "ade20k_sample/ADEChallengeData2016/objectInfo150.txt").read_text().splitlines()[1:]
    names = [row.split("\t")[-1].split(",")[0].strip() for row in rows if row.strip()]
    assert names == CLASS_NAMES["ade20k"]
