"""Training examples: augmentation depends on seed, epoch and sample alone; streams; errors name samples."""

import logging

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image as PILImage
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from transformers import Trainer, TrainingArguments

from setr_hf import SetrForSemanticSegmentation
from setr_hf.data.augmentation import training_transform
from setr_hf.data.examples import collate, evaluation_examples, training_examples
from setr_hf.data.rows import SegmentationData
from setr_hf.data.scenes import CLASSES, make_scenes


NUM_SCENES = 8


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(NUM_SCENES, 0)


def streamed(data, num_shards=4):
    return SegmentationData(data.rows.to_iterable_dataset(num_shards=num_shards), data.label_set)


@pytest.fixture(scope="module")
def transform():
    return training_transform((32, 40), (0.5, 2.0), {"shortest_edge": 48}, [0.5] * 3, [0.5] * 3)


@pytest.fixture(params=["read", "streamed"])
def examples(request, scenes, transform):
    return training_examples(scenes if request.param == "read" else streamed(scenes), transform, seed=5)


def sums(loader) -> list[float]:
    """A number for each example, equal for equal examples, in ascending order."""
    return sorted(image.double().sum().item() for batch in loader for image in batch["pixel_values"])


def load(examples, num_workers=0, **options):
    return DataLoader(examples, batch_size=2, num_workers=num_workers, collate_fn=collate, **options)


def test_an_example_is_a_crop_with_its_labels(examples):
    example = next(iter(examples))
    assert (example["pixel_values"].shape, example["pixel_values"].dtype) == ((3, 32, 40), torch.float32)
    assert (example["labels"].shape, example["labels"].dtype) == ((32, 40), torch.int64)
    assert set(example["labels"].unique().tolist()) <= {*range(len(CLASSES)), 255}


def test_augmentation_is_the_same_with_any_number_of_workers(examples):
    alone = sums(load(examples))
    assert len(set(alone)) == NUM_SCENES
    torch.manual_seed(99)
    assert sums(load(examples, 1)) == sums(load(examples, 3)) == alone


def test_augmentation_differs_between_epochs_and_seeds(examples, scenes, transform):
    first = sums(load(examples))
    examples.set_epoch(1)
    second = sums(load(examples))
    assert not set(first) & set(second)
    examples.set_epoch(0)
    assert sums(load(examples)) == first
    other_seed = training_examples(scenes, transform, seed=6)
    assert not set(sums(load(other_seed))) & set(first)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_persistent_workers_see_the_epoch(examples, start):
    expected = []
    for epoch in range(3):
        examples.set_epoch(epoch)
        expected.append(sums(load(examples)))
    loader = load(examples, 1, persistent_workers=True, multiprocessing_context=start)
    for epoch in range(3):
        examples.set_epoch(epoch)
        assert sums(loader) == expected[epoch]


def test_the_global_generator_is_not_advanced(examples):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    next(iter(examples))
    assert torch.equal(torch.rand(4), expected)


def test_a_stream_yields_every_example_once_in_a_new_order_each_epoch(scenes):
    stream = training_examples(streamed(scenes), v2.Identity())
    photos = [np.asarray(sample.photo).transpose(2, 0, 1) for sample in scenes]
    orders = []
    for epoch in range(3):
        stream.set_epoch(epoch)
        order = [
            next(i for i, photo in enumerate(photos) if np.array_equal(photo, example["pixel_values"]))
            for example in stream
        ]
        assert sorted(order) == list(range(NUM_SCENES))
        orders.append(tuple(order))
    assert len(set(orders)) == 3


def test_trainer_trains_on_a_stream_for_several_epochs(tiny_config, scenes, transform, tmp_path):
    stream = training_examples(streamed(scenes), transform)
    arguments = TrainingArguments(
        str(tmp_path),
        use_cpu=True,
        max_steps=9,
        per_device_train_batch_size=2,
        dataloader_num_workers=2,
        dataloader_persistent_workers=True,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
    )
    model = SetrForSemanticSegmentation(tiny_config(num_labels=len(CLASSES), image_size=[32, 40]))
    trainer = Trainer(model, arguments, train_dataset=stream, data_collator=collate)
    trainer.train()
    assert trainer.state.global_step == 9
    assert stream.epoch == 2, "an epoch has four steps"
    assert all(np.isfinite(log["loss"]) for log in trainer.state.log_history if "loss" in log)


def spoiled(data, index):
    """The data with an annotation of another size."""
    rows = list(data.rows)
    rows[index]["annotation"] = rows[index]["annotation"].crop((0, 0, 9, 9))
    return with_rows(data, rows)


def with_rows(data, rows):
    return SegmentationData(Dataset.from_list(rows, features=data.rows.features), data.label_set)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_while_training_names_the_sample(scenes, transform, num_workers):
    data = spoiled(scenes, 3)
    for source in (data, streamed(data, num_shards=2)):
        with pytest.raises(ValueError, match="image of scene_3 is 128×160 pixels high and wide, its annotation 9×9"):
            list(load(training_examples(source, transform), num_workers))


def test_a_stream_can_skip_bad_samples(scenes, transform, caplog):
    stream = streamed(spoiled(scenes, 3), num_shards=2)
    with caplog.at_level(logging.WARNING):
        assert len(list(training_examples(stream, transform, skip_bad_samples=True))) == NUM_SCENES - 1
    assert "Skipped 1 of" in caplog.text and "scene_3" in caplog.text
    bad = streamed(with_rows(scenes, [spoiled(scenes, 3).rows[3]] * 2), num_shards=1)
    with pytest.raises(ValueError, match="none of 2 samples can be used"):
        list(training_examples(bad, transform, skip_bad_samples=True))


def test_an_error_on_unreadable_bytes_names_the_row(scenes):
    row = scenes.undecoded[2]
    row["image"] = {"bytes": row["image"]["bytes"][:-40], "path": None}
    with pytest.raises(ValueError, match="the image of scene_2 cannot be read: "):
        scenes.read(row)


def test_evaluation_examples_are_whole_photos_also_from_a_stream(scenes):
    for source in (scenes, streamed(scenes, num_shards=2)):
        examples = evaluation_examples(source)
        assert len(examples) == NUM_SCENES
        assert np.array_equal(examples[6]["photo"], scenes.rows[6]["image"])
        assert np.array_equal(examples[6]["label_map"], np.asarray(scenes.rows[6]["annotation"]))


def test_ignored_pixels_have_the_value_that_the_model_ignores(scenes):
    rows = list(scenes.rows)
    blank = np.asarray(rows[0]["annotation"]).copy()
    blank[:4] = 255
    rows[0]["annotation"] = PILImage.fromarray(blank)
    data = with_rows(scenes, rows)
    expected = np.where(blank == 255, -100, blank.astype(int))
    assert np.array_equal(training_examples(data, v2.Identity(), ignore_index=-100)[0]["labels"], expected)
    assert np.array_equal(evaluation_examples(data, ignore_index=-100)[0]["label_map"], expected)


def test_a_split_without_annotations_is_refused(scenes, transform):
    bare = SegmentationData(scenes.rows.remove_columns("annotation"), scenes.label_set)
    for source in (bare, streamed(bare)):
        with pytest.raises(ValueError, match="no annotations"):
            training_examples(source, transform)
