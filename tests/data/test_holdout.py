"""Samples that are held out for validation: the same ones in every job, whatever else is added."""

import numpy as np
import pytest
from PIL import Image as PILImage

from setr_hf.data.arguments import HoldOutArguments, load_data
from setr_hf.data.holdout import held_out
from setr_hf.data.scenes import make_scenes
from setr_hf.errors import SetrError


def names(data):
    return data.rows["name"][:]


@pytest.mark.parametrize(("fraction", "count"), [(0.001, 1), (0.25, 5), (0.5, 10), (0.999, 19)])
def test_each_sample_is_in_one_of_two_parts(fraction, count):
    data = make_scenes(20, 0)
    training, validation = (held_out(data, fraction, is_validation) for is_validation in (False, True))
    assert len(validation) == count
    assert sorted(names(training) + names(validation)) == sorted(names(data))


def test_a_sample_that_is_added_moves_at_most_one_other():
    data = make_scenes(21, 0)
    for position in (0, 7, 20):
        fewer = data.select([index for index in range(21) if index != position])
        assert len(set(names(held_out(fewer, 0.25, True))) - set(names(held_out(data, 0.25, True)))) <= 1


def test_the_order_of_samples_does_not_matter():
    data = make_scenes(20, 0)
    backwards = data.select(range(19, -1, -1))
    assert names(held_out(backwards, 0.3, True))[::-1] == names(held_out(data, 0.3, True))


def test_a_single_sample_is_refused():
    with pytest.raises(SetrError, match="1 training samples cannot be parted"):
        held_out(make_scenes(1, 0), 0.5, True)


def test_jobs_find_what_was_held_out(scene_folder):
    arguments = HoldOutArguments(dataset=str(scene_folder), validation_fraction=0.5)
    with pytest.raises(SetrError, match="has a validation split: leave out --validation-fraction"):
        load_data(arguments, "train")
    for kind in ("images", "annotations"):
        for path in (scene_folder / kind / "val").iterdir():
            path.unlink()
        (scene_folder / kind / "val").rmdir()
    parts = [load_data(arguments, split) for split in ("train", "val")]
    assert [len(part) for part in parts] == [2, 2]
    with pytest.raises(SetrError, match="no split 'test'"):
        load_data(arguments, "test")
    with pytest.raises(SetrError, match="leaves no samples"):
        load_data(HoldOutArguments(dataset=str(scene_folder), validation_fraction=0), "validation")


def test_photos_that_are_not_in_splits_are_those_of_training(tmp_path):
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        (tmp_path / kind).mkdir()
        PILImage.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / kind / f"a.{suffix}")
    (tmp_path / "labels.json").write_text('["road"]')
    assert names(load_data(HoldOutArguments(dataset=str(tmp_path)), "train")) == ["a"]
    with pytest.raises(SetrError, match=r"has no split 'validation', only train: --validation-fraction 0\.1"):
        load_data(HoldOutArguments(dataset=str(tmp_path)), "validation")
    (tmp_path / "annotations").rename(tmp_path / "masks")
    with pytest.raises(SetrError, match="annotations is missing"):
        load_data(HoldOutArguments(dataset=str(tmp_path)), "train")
