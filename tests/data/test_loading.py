"""Folders as they are published and as users have them: the rows they become, and what their annotations mean."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Sequence, Value
from PIL import Image as PILImage

from setr_hf.data.checks import checked_samples
from setr_hf.data.label_sets import LabelSet, published_label_set, read_names_file
from setr_hf.data.loading import load_segmentation_data
from setr_hf.data.public_datasets import CLASS_NAMES
from setr_hf.errors import SetrError
from setr_hf.inference.photos import read_photo


ROW_FEATURES = Features({"image": Image(), "annotation": Image(), "name": Value("string")})


def save(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(np.asarray(values, dtype=np.uint8)).save(path, **options)


def photo(height=10, width=20, colour=0):
    return np.full((height, width, 3), colour)


def label_maps_of(data):
    return [sample.label_map.tolist() for sample in data]


def rows_of(data):
    return [{key: np.asarray(value).tolist() for key, value in row.items()} for row in data.rows]


@pytest.fixture
def folder(tmp_path):
    """Three photos in each split, with class names; annotation values are 0 and 1, and 7 for unlabelled."""
    for split in ("train", "val"):
        for index in range(3):
            save(tmp_path / f"images/{split}/{index}.jpg", photo(colour=index))
            values = np.full((10, 20), index % 2)
            values[0] = 7
            save(tmp_path / f"annotations/{split}/{index}.png", values)
    names = {"id2label": {"0": "road", "1": "car"}, "ignore_index": 7}
    (tmp_path / "labels.json").write_text(json.dumps(names))
    return tmp_path


@pytest.fixture
def cityscapes(tmp_path):
    """Two cities with all raw ids, and a test split with dummies."""
    root = tmp_path / "cityscapes"
    ids = np.arange(34).reshape(2, 17)
    for split, city in (("train", "aachen"), ("train", "zurich"), ("val", "munster"), ("test", "berlin")):
        name = f"{city}_000000_000019"
        save(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", photo(2, 17))
        save(root / f"gtFine/{split}/{city}/{name}_gtFine_labelIds.png", ids)
        save(root / f"gtFine/{split}/{city}/{name}_gtFine_color.png", photo(2, 17))
    return root


@pytest.fixture
def voc2010(tmp_path):
    """Pascal Context's 60 values."""
    root = tmp_path / "VOC2010"
    for name in ("2008_000002", "2008_000003", "2008_000007"):
        save(root / f"JPEGImages/{name}.jpg", photo(2, 30))
        save(root / f"SegmentationClassContext/{name}.png", np.arange(60).reshape(2, 30))
    (root / "ImageSets/SegmentationContext").mkdir(parents=True)
    (root / "ImageSets/SegmentationContext/train.txt").write_text("2008_000003\n2008_000002\n")
    (root / "ImageSets/SegmentationContext/val.txt").write_text("2008_000007\n")
    return root


def test_a_folder_becomes_rows_in_the_order_of_file_names(folder):
    data = load_segmentation_data(folder, "validation")
    assert isinstance(data.rows.features["image"], Image) and isinstance(data.rows.features["annotation"], Image)
    assert data.rows["name"][:] == ["0", "1", "2"]
    assert data.label_set.id2label == {0: "road", 1: "car"}
    assert not data.label_set.is_reduced
    assert data[1].label_map.tolist() == [[255] * 20] + [[1] * 20] * 9


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("source", ["folder", "cityscapes", "voc2010"])
def test_a_streamed_folder_has_the_same_rows_in_the_same_order(source, split, request):
    root = request.getfixturevalue(source)
    data = load_segmentation_data(root, split)
    stream = load_segmentation_data(root, split, streaming=True)
    assert rows_of(stream) == rows_of(data)
    assert label_maps_of(stream) == label_maps_of(data)
    assert stream.rows.column_names == data.rows.column_names
    assert stream.label_set.lookup.tolist() == data.label_set.lookup.tolist()


@pytest.mark.parametrize("split", ["validation", "val", "dev"])
def test_a_split_is_found_under_its_usual_names(folder, split):
    assert len(load_segmentation_data(folder, split)) == 3


def test_raw_ids_of_cityscapes_become_train_ids(cityscapes):
    data = load_segmentation_data(cityscapes, "train")
    label_set = data.label_set
    assert data.rows["name"][:] == ["aachen_000000_000019_leftImg8bit", "zurich_000000_000019_leftImg8bit"]
    assert label_set.names == CLASS_NAMES["cityscapes"] and not label_set.is_reduced
    # The table of the Cityscapes scripts: road 7, sidewalk 8, building 11 …, bicycle 33.
    expected = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
    expected |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    assert data[0].label_map.ravel().tolist() == [expected.get(i, 255) for i in range(34)]
    assert label_set.lookup[[34, 254, 255]].tolist() == [-1, -1, 255]


def test_the_dummy_annotations_of_cityscapes_test_split_are_left_out(cityscapes):
    data = load_segmentation_data(cityscapes, "test")
    assert data.rows.column_names == ["image", "name"] and len(data) == 1 and not data.has_annotations
    assert data[0].label_map is None


@pytest.mark.parametrize("count, labels", [(60, None), (60, "pascal_context"), (59, "pascal_context_59")])
def test_pascal_context_has_60_classes_or_59(voc2010, count, labels):
    data = load_segmentation_data(voc2010, "train", labels=labels)
    assert data.rows["name"][:] == ["2008_000003", "2008_000002"], "in the order of the list"
    assert data.label_set.names == CLASS_NAMES["pascal_context" if count == 60 else "pascal_context_59"]
    ids = data[0].label_map.ravel().tolist()
    assert ids == ([*range(60)] if count == 60 else [255, *range(59)])


def test_the_error_for_pascal_context_without_annotations_says_how_to_make_them(voc2010):
    (voc2010 / "SegmentationClassContext").rename(voc2010 / "other")
    with pytest.raises(ValueError, match="setr-hf prepare pascal-context"):
        load_segmentation_data(voc2010, "train")


def write_prepared(root, label_set):
    """A folder of parquet files with a names file, as `setr-hf prepare` writes it."""
    for split in ("train", "validation"):
        values = PILImage.fromarray(np.arange(len(label_set.names), dtype=np.uint8)[None])
        rows = {"image": [PILImage.new("RGB", values.size)], "annotation": [values], "name": [f"{split}_a"]}
        path = root / f"data/{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(rows, features=ROW_FEATURES).to_parquet(path)
    names = {"id2label": {str(i): name for i, name in label_set.id2label.items()}, "ignore_index": 255}
    (root / "labels.json").write_text(json.dumps({**names, "palette": label_set.palette}))


def test_a_prepared_folder_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_prepared(tmp_path / "prepared", LabelSet.direct(["road", "car"], palette=[[1, 2, 3], [4, 5, 6]]))
    data = load_segmentation_data(tmp_path / "prepared", "val")
    assert data.rows["name"][:] == ["validation_a"] and data.label_set.palette == [[1, 2, 3], [4, 5, 6]]
    assert label_maps_of(data) == [[[0, 1]]]
    assert rows_of(load_segmentation_data(tmp_path / "prepared", "val", streaming=True)) == rows_of(data)


@pytest.mark.parametrize("streaming", [False, True])
def test_damaged_and_empty_parquet_files_are_named(tmp_path, monkeypatch, streaming):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    root = tmp_path / "prepared"
    write_prepared(root, LabelSet.direct(["road", "car"]))
    path = root / "data/train-00000-of-00001.parquet"
    content = path.read_bytes()
    Dataset.from_dict({name: [] for name in ROW_FEATURES}, features=ROW_FEATURES).to_parquet(path)
    with pytest.raises(SetrError, match=r"holds no rows|corresponds to no data"):
        load_segmentation_data(root, "train", streaming=streaming).in_memory()
    Dataset.from_dict({"other": ["a"]}).to_parquet(root / "data/train-00001-of-00002.parquet")
    with pytest.raises(SetrError, match=r"cannot be read: .*column names don't match"):
        load_segmentation_data(root, "train", streaming=streaming).in_memory()
    path.write_bytes(content[:-9])
    with pytest.raises(SetrError, match=r"train-00000-of-00001\.parquet is damaged"):
        load_segmentation_data(root, "train", streaming=streaming)


def saved_rows(count, colour, names):
    """Rows whose annotations hold 0 and 1, and a column that lists the classes in each photo."""
    classes = Sequence(ClassLabel(names=names))
    features = Features({"image": Image(), "annotation": Image(), "scene": ClassLabel(names=["in"]), "parts": classes})
    rows = {
        "image": [PILImage.new("RGB", (2, 1), (colour, 0, 0))] * count,
        "annotation": [PILImage.fromarray(np.array([[0, 1]], np.uint8))] * count,
        "scene": [0] * count,
        "parts": [[0, 1]] * count,
    }
    return Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("is_one_split", [False, True])
def test_a_folder_of_save_to_disk_is_read_with_the_names_of_its_class_labels(tmp_path, is_one_split):
    splits = {"train": saved_rows(3, 9, ["road", "car"]), "val": saved_rows(1, 7, ["road", "car"])}
    (splits["train"] if is_one_split else DatasetDict(splits)).save_to_disk(tmp_path / "saved")
    data = load_segmentation_data(tmp_path / "saved", "train")
    assert data.label_set.names == ["road", "car"]
    assert label_maps_of(data) == [[[0, 1]]] * 3 and data[2].name == "2"
    assert rows_of(load_segmentation_data(tmp_path / "saved", "train", streaming=True)) == rows_of(data)
    if is_one_split:
        with pytest.raises(SetrError, match="has no split 'validation', only train"):
            load_segmentation_data(tmp_path / "saved", "validation")
    else:
        assert np.asarray(load_segmentation_data(tmp_path / "saved", "validation")[0].photo)[0, 0].tolist() == [
            7,
            0,
            0,
        ]
    (tmp_path / "saved/labels.json").write_text(json.dumps({"id2label": {"0": "a", "1": "b"}}))
    assert load_segmentation_data(tmp_path / "saved", "train").label_set.names == ["a", "b"]
    with pytest.raises(SetrError, match="written by save_to_disk, which has no config 'small'"):
        load_segmentation_data(tmp_path / "saved", "train", config="small")


@pytest.mark.parametrize("damage", ["[", "{}", '{"splits": ["train", "gone"]}'])
def test_a_damaged_folder_of_save_to_disk_is_named(tmp_path, damage):
    DatasetDict(train=saved_rows(1, 0, ["road", "car"])).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved/dataset_dict.json").write_text(damage)
    with pytest.raises(SetrError, match=r"saved cannot be read"):
        load_segmentation_data(tmp_path / "saved", "train")


def test_one_class_for_a_photo_does_not_name_those_of_its_pixels(tmp_path):
    saved_rows(1, 0, ["road", "car"]).remove_columns("parts").save_to_disk(tmp_path / "saved")
    with pytest.raises(SetrError, match=r"class names of .* are not known: .* no column of class labels"):
        load_segmentation_data(tmp_path / "saved", "train")


def test_a_row_without_a_name_is_called_by_its_file_or_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    root = tmp_path / "prepared"
    write_prepared(root, LabelSet.direct(["road", "car"]))
    path = root / "data/train-00000-of-00001.parquet"
    rows = Dataset.from_parquet(str(path)).cast_column("image", Image(decode=False)).to_list()
    files = [{**rows[0]["image"], "path": path} for path in ("street.png", None)]
    rows = [{**rows[0], "image": image, "name": name} for name, image in zip(["a", None, None], [files[0], *files])]
    Dataset.from_list(rows, features=ROW_FEATURES).to_parquet(path)
    for streaming in (False, True):
        data = load_segmentation_data(root, "train", streaming=streaming)
        assert [row["name"] for row in data.undecoded] == ["a", "street", "2"]


def test_prepared_annotations_are_not_reduced_a_second_time(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_prepared(tmp_path / "59", LabelSet.direct(CLASS_NAMES["pascal_context_59"]))
    write_prepared(tmp_path / "60", LabelSet.direct(CLASS_NAMES["pascal_context"]))
    for name, expected in (("59", [*range(59)]), ("60", [255, *range(59)])):
        data = load_segmentation_data(tmp_path / name, "train", labels="pascal_context_59")
        assert label_maps_of(data) == [[expected]]
    with pytest.raises(ValueError, match=r"59 has classes of its own, aeroplane.*not those of ade20k"):
        load_segmentation_data(tmp_path / "59", "train", labels="ade20k")


def test_reduced_labels_count_from_one():
    label_set = LabelSet.reduced(["wall", "tree"])
    assert label_set.is_reduced
    annotation = PILImage.fromarray(np.array([[0, 1, 2, 255]], dtype=np.uint8))
    assert label_set.encode(annotation, "x", (4, 1)).tolist() == [[255, 0, 1, 255]]


@pytest.mark.parametrize(
    "name, lookup",
    [
        ("ade20k", {0: 255, 1: 0, 150: 149, 151: -1, 255: 255}),
        ("cityscapes", {0: 0, 18: 18, 19: -1, 255: 255}),
        ("pascal_context", {0: 0, 59: 59, 60: -1, 255: 255}),
        ("pascal_context_59", {0: 255, 1: 0, 59: 58, 60: -1, 255: 255}),
    ],
)
def test_values_of_the_published_annotations(name, lookup):
    label_set = published_label_set(name)
    assert {value: label_set.lookup[value] for value in lookup} == lookup
    assert label_set.names == CLASS_NAMES[name] and len(label_set.palette) == len(CLASS_NAMES[name])


def test_a_names_file_can_map_black_and_white_masks(folder):
    names = {"id2label": {"0": "background", "1": "tumor"}, "values": {"0": 0, "255": 1}}
    (folder / "labels.json").write_text(json.dumps(names))
    label_set = load_segmentation_data(folder, "train").label_set
    annotation = PILImage.fromarray(np.array([[0, 255]], dtype=np.uint8))
    assert label_set.encode(annotation, "x", (2, 1)).tolist() == [[0, 1]]
    with pytest.raises(ValueError, match=r"holds the ids \[1\]"):
        label_set.encode(PILImage.fromarray(np.array([[1]], dtype=np.uint8)), "x", (1, 1))


def test_palette_indices_bitmaps_and_16_bit_values_are_ids():
    label_set = LabelSet.direct(["road", "car"])
    with_palette = PILImage.new("P", (2, 1))
    with_palette.putpalette([200, 0, 0, 0, 200, 0])
    with_palette.putdata([0, 1])
    bitmap = PILImage.new("1", (2, 1))
    bitmap.putdata([0, 1])
    for annotation in (with_palette, bitmap, PILImage.fromarray(np.array([[0, 1]], dtype=np.uint16))):
        assert label_set.encode(annotation, "x", (2, 1)).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    "annotation, message",
    [
        (np.array([[0, 5, 9]], dtype=np.uint8), r"street_7 holds the ids \[5, 9\].* none of the 2 classes"),
        (np.zeros((4, 4, 3), dtype=np.uint8), "street_7 has 3 channels.*colours"),
        (np.array([[0, 300]], dtype=np.uint16), "street_7 holds uint16 values from 0 to 300, not ids from 0 to 255"),
        (np.array([[0.5]], dtype=np.float32), "street_7 holds float32 values"),
        (np.arange(256, dtype=np.uint8)[None], r"holds the ids \[2, 3, 4, 5, 6, 7, 8, 9, 10, 11\] and 243 more"),
    ],
)
def test_annotations_that_do_not_hold_one_id_per_pixel_are_refused(annotation, message):
    with pytest.raises(ValueError, match=message):
        LabelSet.direct(["road", "car"]).encode(PILImage.fromarray(annotation), "street_7", annotation.shape[1::-1])


def test_a_jpeg_is_not_an_annotation_even_if_it_holds_known_ids(folder):
    save(folder / "annotations/train/1.png", np.ones((10, 20)), format="JPEG")
    with pytest.raises(SetrError, match="annotation of 1 is a JPEG, which blurs ids: save annotations as PNG"):
        load_segmentation_data(folder, "train")[1]


def test_photos_with_an_orientation_are_turned_upright(folder):
    exif = PILImage.Exif()
    exif[0x0112] = 6  # a quarter turn
    save(folder / "images/train/1.jpg", photo(10, 20), exif=exif)
    data = load_segmentation_data(folder, "train")
    assert data.rows[1]["image"].size == (10, 20)
    with pytest.raises(ValueError, match=r"image of 1 is 20×10 .* annotation 10×20: .*EXIF.* upright"):
        data[1]
    save(folder / "annotations/train/1.png", np.ones((20, 10)))
    assert load_segmentation_data(folder, "train")[1].label_map.shape == (20, 10)


def test_images_without_annotation_are_kept_and_can_be_listed(folder):
    (folder / "annotations/train/1.png").unlink()
    data = load_segmentation_data(folder, "train")
    assert data.missing_annotations() == ["1"] and data[1].label_map is None
    with pytest.raises(ValueError, match="1 has no annotation"):
        data.read_labelled(data.undecoded[1])


def test_an_annotation_without_its_photo_is_a_sample_that_cannot_be_used(folder):
    (folder / "images/train/1.jpg").unlink()
    for streaming in (False, True):
        data = load_segmentation_data(folder, "train", streaming=streaming)
        assert [row["name"] for row in data.undecoded] == ["0", "2", "1"]
    with pytest.raises(SetrError, match=r"1 of 3 samples cannot be used: 1 has no image"):
        checked_samples(load_segmentation_data(folder, "train"))


@pytest.mark.parametrize("twin", ["images/train/1.png", "images/train/1.JPG", "annotations/train/1.PNG"])
def test_files_of_the_same_stem_are_refused(folder, twin):
    save(folder / twin, photo())
    with pytest.raises(SetrError, match=r"train holds both 1\.\w+ and 1\.\w+: rename one"):
        load_segmentation_data(folder, "train")


def test_suffixes_may_be_in_capitals(folder):
    for path in [*(folder / "images/train").iterdir(), *(folder / "annotations/train").iterdir()]:
        path.rename(path.with_suffix(path.suffix.upper()))
    assert len(label_maps_of(load_segmentation_data(folder, "train"))) == 3


def test_what_else_lies_among_the_files_is_named_unless_it_is_hidden(folder, caplog):
    for name in (
        "images/train/Thumbs.db",
        "images/train/more/9.jpg",
        "annotations/train/9.tif",
        "images/train/._1.jpg",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"?")
    data = load_segmentation_data(folder, "train")
    assert data.rows["name"][:] == ["0", "1", "2"]
    messages = [record.getMessage() for record in caplog.records]
    assert [message.rpartition(": ")[2] for message in messages] == ["Thumbs.db; more", "9.tif"]
    assert messages[0].startswith(f"{folder / 'images/train'}: not used") and "annotations/train" in messages[1]


def test_a_name_that_is_not_utf_8_is_refused(folder):
    (folder / "images/train/1.jpg").rename(os.fsdecode(os.fsencode(folder / "images/train") + b"/\xff.jpg"))
    with pytest.raises(SetrError, match=r"name is not UTF-8: rename '\\udcff\.jpg'"):
        load_segmentation_data(folder, "train")


@pytest.mark.parametrize("name", ["images/train/1.jpg", "annotations/train/1.png"])
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_has_the_name_of_a_file_and_is_not_one_is_named(folder, name, make):
    path = folder / name
    path.unlink()
    make(path)
    with pytest.raises(SetrError, match=rf"1 of 3 samples .* of 1 \(.*{path.name}\) cannot be read"):
        checked_samples(load_segmentation_data(folder, "train"))


def test_damaged_exif_data_is_dropped_as_predict_does_it(folder):
    path = folder / "images/train/1.jpg"
    save(path, photo(10, 20, 100), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    sample = load_segmentation_data(folder, "train")[1]
    assert np.array_equal(sample.photo, read_photo(path))


def test_a_split_without_any_annotation_file_is_refused(folder):
    for path in (folder / "annotations/train").iterdir():
        path.rename(path.with_suffix(".bmp"))
    with pytest.raises(
        ValueError, match=r"none of the 3 images .* has an annotation.*0\.jpg.*annotations/train/0\.png"
    ):
        load_segmentation_data(folder, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "class names of .* are not known: it has no labels.json"),
        ("{", "is not a file of class names: Expecting property name"),
        ('"sky"', "holds 'sky', neither an id2label object of ids and names nor a list"),
        ("[]", "it names no class"),
        ('["sky", null]', "class 1 has the name None"),
        ('["sky", 3]', "class 1 has the name 3"),
        ('["sky", "car", "sky"]', "classes 0 and 2 have the same name, 'sky'"),
        ('{"id2label": {"0": "road", "2": "car"}}', r"must count from 0 to 1, got \[0, 2\]"),
        ('{"id2label": {"-1": "road"}}', "the key '-1' of id2label is not an id"),
        ('{"id2label": {"0": "road", "0": "car"}}', "the key '0' occurs twice"),
        (json.dumps([str(i) for i in range(256)]), "names 256 classes; label maps of 8 bits hold up to 255"),
        ('{"id2label": {"0": "road"}, "ignore_index": 300}', "ignore_index .* 0 to 255, got 300"),
        ('{"id2label": {"0": "road"}, "ignore_index": 0}', "ignore_index is 0, which is the pixel value of .* 'road'"),
        ('{"id2label": {"0": "road"}, "palette": [[1, 2]]}', "colour of class 0 must be three numbers"),
        ('{"id2label": {"0": "road"}, "palette": [[1, 2, 256]]}', "colour of class 0 must be three numbers"),
        ('{"id2label": {"0": "road"}, "palette": []}', "palette .* RGB triple for each of the 1 classes"),
        ('{"id2label": {"0": "road"}, "palette": [[NaN, 0, 0]]}', "NaN is not a number of JSON"),
        ('{"id2label": {"0": "road"}, "values": {"255": 1}}', "values .* ids 0…0; '255': 1 does not"),
        ('{"id2label": {"0": "road"}, "values": {"256": 0}}', "values .* ids 0…0; '256': 0 does not"),
        ('{"id2label": {"0": "road"}, "values": {"7": 0}, "reduce_labels": true}', "reduce_labels and values"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_malformed_names_file_is_named(folder, content, message):
    (folder / "labels.json").unlink()
    if content is not None:
        (folder / "labels.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_segmentation_data(folder, "train")


def test_class_names_can_be_passed(folder, tmp_path):
    (folder / "labels.json").rename(tmp_path / "mine.json")
    label_set = load_segmentation_data(folder, "train", labels=tmp_path / "mine.json").label_set
    assert label_set.names == ["road", "car"]
    assert load_segmentation_data(folder, "train", labels="ade20k").label_set.is_reduced
    with pytest.raises(ValueError, match="'coco' are neither a names file nor one of ade20k, cityscapes"):
        load_segmentation_data(folder, "train", labels="coco")
    with pytest.raises(ValueError, match=r"nowhere\.json does not exist"):
        load_segmentation_data(folder, "train", labels="nowhere.json")


def test_ids_and_names_alone_are_also_a_names_file(tmp_path):
    (tmp_path / "id2label.json").write_text('{"1": "car", "0": "road"}')
    assert read_names_file(tmp_path / "id2label.json").names == ["road", "car"]


def test_a_test_split_may_lack_annotations(folder):
    (folder / "images/val").rename(folder / "images/test")
    data = load_segmentation_data(folder, "test")
    assert sorted(data.rows.column_names) == ["image", "name"]


def test_what_does_not_exist_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match="images has no split 'test', only train, val"):
        load_segmentation_data(folder, "test")
    with pytest.raises(ValueError, match="nowhere is neither a folder"):
        load_segmentation_data(tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="has none of the known layouts"):
        load_segmentation_data(folder / "images", "train")
    with pytest.raises(ValueError, match="no revision 'main'"):
        load_segmentation_data(folder, "train", revision="main")


def test_a_folder_of_the_full_ade20k_is_refused(tmp_path):
    save(tmp_path / "images/ADE/training/urban/street/ADE_train_00000001_seg.png", photo())
    with pytest.raises(ValueError, match=r"full ADE20K: .* colours.* ADEChallengeData2016"):
        load_segmentation_data(tmp_path, "train")


def test_camvid_and_ade20k_are_read_as_published(data_folder):
    camvid = load_segmentation_data(data_folder / "camvid", "train")
    assert (len(camvid), len(camvid.label_set.names)) == (367, 11)
    assert set(np.unique(camvid[0].label_map)) <= {*range(11), 255}
    ade20k = load_segmentation_data(data_folder / "ade20k_sample/ADEChallengeData2016", "validation")
    labels = ade20k.label_set
    assert (len(ade20k), len(labels.id2label), labels.is_reduced) == (3, 150, True)
    assert (labels.id2label[0], labels.id2label[149]) == ("wall", "flag")
