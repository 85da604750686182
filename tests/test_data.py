import json

import numpy as np
import pytest
from PIL import Image

from setr_hf.data import LabelSet, load_segmentation_folder


@pytest.fixture
def folder(tmp_path):
    """Three images per split with annotations and names; annotation values 0 and 1, and 7 for «unlabelled»."""
    for split in ("train", "val"):
        for kind in ("images", "annotations"):
            (tmp_path / kind / split).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (20, 10), (index, 0, 0)).save(tmp_path / "images" / split / f"{index}.jpg")
            values = np.full((10, 20), index % 2, dtype=np.uint8)
            values[0] = 7
            Image.fromarray(values).save(tmp_path / "annotations" / split / f"{index}.png")
    names = {"id2label": {"0": "road", "1": "car"}, "ignore_index": 7}
    (tmp_path / "labels.json").write_text(json.dumps(names))
    return tmp_path


def test_a_folder_becomes_a_data_set_in_order_of_names(folder):
    dataset, label_set = load_segmentation_folder(folder, "validation")
    assert dataset["name"][:] == ["0", "1", "2"]
    assert label_set.id2label == {0: "road", 1: "car"}
    assert not label_set.is_reduced
    labels = label_set.encode(dataset[1]["annotation"], "1")
    assert (labels[0] == 255).all()
    assert (labels[1:] == 1).all()


def test_reduced_labels_count_from_one():
    label_set = LabelSet.reduced(["wall", "tree"])
    assert label_set.is_reduced
    annotation = Image.fromarray(np.array([[0, 1, 2, 255]], dtype=np.uint8))
    assert label_set.encode(annotation, "x").tolist() == [[255, 0, 1, 255]]


def test_an_id_without_meaning_is_named_with_its_sample():
    annotation = Image.fromarray(np.array([[0, 5, 9]], dtype=np.uint8))
    with pytest.raises(ValueError, match=r"annotation of street_7 holds the ids \[5, 9\].* none of the 2 classes"):
        LabelSet.direct(["road", "car"]).encode(annotation, "street_7")


def test_annotations_that_encode_classes_as_colours_are_refused():
    with pytest.raises(ValueError, match=r"street_7 has 3 channels.*colours"):
        LabelSet.direct(["road"]).encode(Image.new("RGB", (4, 4)), "street_7")


def test_an_image_without_annotation_is_named(folder):
    (folder / "annotations/train/1.png").unlink()
    with pytest.raises(ValueError, match=r"1 images have no annotation in .*train, the first is 1\.png"):
        load_segmentation_folder(folder, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "needs a labels.json"),
        ("{", "does not hold an id2label object"),
        ('{"id2label": {"0": "road", "2": "car"}}', r"must count from 0 to 1, got \[0, 2\]"),
        ("[]", "does not hold an id2label object"),
    ],
)
def test_a_names_file_that_does_not_serve_is_named(folder, content, message):
    (folder / "labels.json").unlink()
    if content is not None:
        (folder / "labels.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_segmentation_folder(folder, "train")


def test_a_test_split_may_lack_annotations(folder):
    (folder / "images/val").rename(folder / "images/test")
    dataset, _ = load_segmentation_folder(folder, "test")
    assert sorted(dataset.column_names) == ["image", "name"]


def test_missing_folders_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match="no folder test or testing for the split 'test'"):
        load_segmentation_folder(folder, "test")
    with pytest.raises(ValueError, match="is no folder"):
        load_segmentation_folder(tmp_path / "nowhere", "train")


def test_camvid_and_ade20k_are_read_as_they_are_published(data_folder):
    camvid, labels = load_segmentation_folder(data_folder / "camvid", "train")
    assert (len(camvid), len(labels.id2label)) == (367, 11)
    assert set(np.unique(labels.encode(camvid[0]["annotation"], "0"))) <= {*range(11), 255}
    ade20k, labels = load_segmentation_folder(data_folder / "ade20k_sample/ADEChallengeData2016", "validation")
    assert (len(ade20k), len(labels.id2label), labels.is_reduced) == (3, 150, True)
    assert (labels.id2label[0], labels.id2label[149]) == ("wall", "flag")
