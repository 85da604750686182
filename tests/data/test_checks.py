"""Bad samples are found before training starts: named, counted, or left out."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
from paths import HELPERS
from PIL import Image

from setr_hf.data.checks import checked_samples
from setr_hf.data.loading import load_segmentation_data
from setr_hf.evaluation.records import compute_records


NUM_SAMPLES = 12


def save(path, values):
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Photos whose red value is their number, and annotations with two classes and the ignored value."""
    root = tmp_path / "data"
    for kind in ("images", "annotations"):
        (root / kind / "train").mkdir(parents=True)
    ids = np.indices((8, 8)).sum(axis=0) % 2
    ids[0, 0] = 255
    for index in range(NUM_SAMPLES):
        save(root / f"images/train/{index:02}.png", np.full((8, 8, 3), index))
        save(root / f"annotations/train/{index:02}.png", ids)
    (root / "labels.json").write_text(json.dumps({"id2label": {"0": "road", "1": "car"}}))
    return root


def load(folder):
    return load_segmentation_data(folder, "train")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


def spoil(folder):
    """Spoils six samples of twelve, each in its own way."""
    images, annotations = folder / "images/train", folder / "annotations/train"
    Image.effect_noise((64, 64), 90).save(images / "01.png")
    truncate(images / "01.png")
    (annotations / "02.png").unlink()
    save(annotations / "04.png", np.zeros((8, 9)))
    save(annotations / "05.png", np.full((8, 8), 2))
    save(annotations / "07.png", np.zeros((8, 8, 3)))
    (annotations / "10.png").write_text("not a picture")


def test_good_samples_pass_unchanged(folder):
    assert checked_samples(load(folder)).rows["name"][:] == [f"{i:02}" for i in range(NUM_SAMPLES)]


def test_all_bad_samples_are_counted_and_the_first_are_named(folder):
    spoil(folder)
    with pytest.raises(ValueError) as error:
        checked_samples(load(folder))
    message, _, advice = str(error.value).rpartition(". ")
    assert message.startswith("6 of 12 samples cannot be used: ")
    expected = [
        rf"the image of 01 ({folder}/images/train/01.png) cannot be read: ",
        "02 has no annotation",
        "the image of 04 is 8×8 pixels high and wide, its annotation 8×9",
        "the annotation of 05 holds the ids [2], which are none of the 2 classes",
        "the annotation of 07 has 3 channels",
        "… and 1 more",
    ]
    positions = [message.index(start) for start in expected]
    assert positions == sorted(positions)
    assert advice.endswith("--skip-bad-samples")


def test_bad_samples_are_left_out_and_counted(folder, caplog):
    spoil(folder)
    with caplog.at_level(logging.WARNING):
        kept = checked_samples(load(folder), skip_bad_samples=True)
    assert kept.rows["name"][:] == ["00", "03", "06", "08", "09", "11"]
    assert "Left out: 6 of 12 samples cannot be used" in caplog.text and "02 has no annotation" in caplog.text


def test_if_all_samples_are_bad_none_can_be_left_out(folder):
    for path in (folder / "annotations/train").iterdir():
        save(path, np.full((8, 8), 9))
    with pytest.raises(ValueError, match="12 of 12 samples cannot be used"):
        checked_samples(load(folder), skip_bad_samples=True)


def test_annotations_in_which_every_pixel_is_ignored_are_reported(folder, caplog):
    save(folder / "annotations/train/03.png", np.full((8, 8), 255))
    with caplog.at_level(logging.WARNING):
        assert len(checked_samples(load(folder))) == NUM_SAMPLES
    assert "In 1 of 12 annotations every pixel is ignored: 03" in caplog.text
    for path in (folder / "annotations/train").iterdir():
        save(path, np.full((8, 8), 255))
    with pytest.raises(ValueError, match="every pixel of every annotation is ignored"):
        checked_samples(load(folder))


def test_the_error_for_black_and_white_masks_says_how_to_declare_them(folder):
    mask = np.zeros((8, 8))
    mask[2:5] = 255
    for path in (folder / "annotations/train").iterdir():
        save(path, mask)
    with pytest.raises(ValueError, match=r"255 is the ignored value: 'car' would never.*\"values\"") as error:
        checked_samples(load(folder))
    declaration = "{" + str(error.value).split("write ")[1].split(" into")[0] + "}"
    names = json.loads((folder / "labels.json").read_text())
    (folder / "labels.json").write_text(json.dumps({**names, **json.loads(declaration)}))
    assert checked_samples(load(folder))[0].label_map.tolist() == (mask > 0).astype(int).tolist()


def test_bitmaps_hold_two_classes(folder):
    for path in (folder / "annotations/train").iterdir():
        Image.fromarray(np.eye(8, dtype=bool)).save(path)
    assert checked_samples(load(folder))[0].label_map.tolist() == np.eye(8, dtype=int).tolist()


def test_a_split_without_annotations_cannot_be_trained_on(folder):
    (folder / "images/train").rename(folder / "images/test")
    with pytest.raises(ValueError, match=r"no annotations.*choose another"):
        checked_samples(load_segmentation_data(folder, "test"))


def test_an_evaluation_names_images_without_annotation_before_it_starts(folder, tmp_path):
    (folder / "annotations/train/02.png").unlink()
    data = load(folder)
    with pytest.raises(ValueError, match="1 images have no annotation, the first is '02'"):
        compute_records(tmp_path / "records", {}, data, segmenters=[pytest.fail])
    assert not (tmp_path / "records").exists()


def test_processes_share_the_checks_and_the_samples(folder, tmp_path):
    """Two processes raise the same error, keep the same samples, and see each of them once, read or streamed."""
    spoil(folder)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = HELPERS / "distributed_data.py"
    subprocess.run([*command, str(script), str(folder), str(tmp_path)], check=True)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["error"] == second["error"] and first["error"].startswith("6 of 12 samples cannot be used")
    assert first["kept"] == second["kept"] == ["00", "03", "06", "08", "09", "11"]
    # Six samples in batches of 2 × 2, each worker's stream on its own: the last batches are filled up.
    assert len(first["read"]) == len(second["read"]) == 4
    assert len(first["streamed"]) == len(second["streamed"])
    for kind in ("read", "streamed"):
        assert set(first[kind] + second[kind]) == {0, 3, 6, 8, 9, 11}


def test_postscript_is_not_run(folder):
    path = folder / "images/train/03.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(
        ValueError, match=r"the image of 03 .* cannot be read: PostScript is a program, which is not run"
    ):
        load(folder)[3]


def test_a_photo_of_an_unknown_range_is_named(folder):
    """`Image.convert` would clip it to white and black."""
    path = folder / "images/train/03.tiff"
    (folder / "images/train/03.png").unlink()
    Image.fromarray(np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)).save(path)
    with pytest.raises(ValueError, match="the image of 03 cannot be read: its floating-point intensities"):
        load(folder)[3]
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(path)
    assert load(folder)[3].photo.getextrema() == ((0, 255),) * 3
