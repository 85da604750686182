"""Evaluation while training: scores of the test protocol, the best checkpoint, pictures of predictions."""

import numpy as np
import pytest
from datasets import Dataset
from distributed_training import crop_differently, history, make_trainer
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from transformers import ImageSegmentationPipeline

from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor, SetrTrainer, SetrTrainingArguments
from setr_hf.data.augmentation import training_transform
from setr_hf.data.examples import collate, evaluation_examples, training_examples
from setr_hf.data.label_sets import LabelSet
from setr_hf.data.rows import SegmentationData
from setr_hf.data.scenes import CLASSES, make_scenes
from setr_hf.inference.pictures import class_colors, comparison_sheet
from setr_hf.inference.sliding_windows import segment
from setr_hf.metrics import confusion_matrix, segmentation_scores
from setr_hf.training.prediction_pictures import PredictionSamples


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(12, 0)


def arguments(folder, **options):
    return SetrTrainingArguments(
        str(folder), use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, **options
    )


def test_the_trainers_scores_are_those_of_the_pipelines_masks(tiny_model, scenes, tmp_path):
    """Photos of several sizes, several at a time: label maps at their original sizes, each counted once."""
    model = tiny_model(num_labels=len(CLASSES), id2label=scenes.label_set.id2label)
    processor = SetrImageProcessor(do_split_image=True, size={"shortest_edge": 80}, crop_size=64, stride=43)
    sizes = [(0, 0, 160, 128), (0, 0, 70, 128), (20, 30, 160, 75), (100, 10, 131, 120), (0, 0, 50, 40)]
    pieces = [
        {"image": row["image"].crop(box), "annotation": row["annotation"].crop(box), "name": row["name"]}
        for row, box in zip(scenes.rows, sizes)
    ]
    examples = evaluation_examples(
        SegmentationData(Dataset.from_list(pieces, features=scenes.rows.features), scenes.label_set)
    )
    trainer = SetrTrainer(
        model,
        arguments(tmp_path, per_device_eval_batch_size=2),
        eval_dataset=examples,
        data_collator=collate,
        processing_class=processor,
    )
    metrics = trainer.evaluate()
    segmenter = ImageSegmentationPipeline(model, image_processor=processor)
    matrix = 0
    for piece in pieces:
        label_map = np.zeros((piece["image"].height, piece["image"].width), dtype=np.uint8)
        for mask in segmenter(piece["image"]):
            label_map[np.asarray(mask["mask"]) > 0] = model.config.label2id[mask["label"]]
        matrix = matrix + confusion_matrix(label_map, np.asarray(piece["annotation"]), len(CLASSES))
    scores = segmentation_scores(matrix)
    assert {name: metrics[f"eval_{name}"] for name in ("mean_iou", "mean_accuracy", "overall_accuracy")} == {
        name: scores[name] for name in ("mean_iou", "mean_accuracy", "overall_accuracy")
    }
    assert "eval_loss" not in metrics


def test_another_ignored_value_counts_neither_in_scores_nor_in_pictures(tmp_path):
    """A model that ignores the value 200: scores and pictures are those of label maps that hold 255 instead."""
    sheets, scores = [], []
    for ignore_index in (255, 200):
        trainer = make_trainer(tmp_path / str(ignore_index), {}, {"semantic_loss_ignore_index": ignore_index})
        rows = list(trainer.eval_dataset)
        for row in rows:
            row["label_map"] = np.where(row["label_map"] == 0, ignore_index, row["label_map"] % 7)
        scores.append(trainer.evaluate(rows)["eval_mean_iou"])
        sheets.append(np.asarray(Image.open(tmp_path / str(ignore_index) / "predictions" / "step-0.png")))
    assert scores[0] == scores[1]
    assert np.array_equal(sheets[0], sheets[1])


def test_the_best_checkpoint_is_that_of_the_highest_mean_iou(tmp_path):
    # The rate is so high that the scores go up and down.
    options = {"learning_rate": 0.1, "max_steps": 6, "eval_strategy": "steps", "eval_steps": 1}
    trainer = make_trainer(
        tmp_path, options | {"save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": True}
    )
    trainer.train()
    scores = [row["eval_mean_iou"] for row in history(trainer) if "eval_mean_iou" in row]
    best = 1 + int(np.argmax(scores))
    assert best < 6
    assert trainer.state.best_metric == max(scores)
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    kept = load_file(tmp_path / f"checkpoint-{best}" / "model.safetensors")
    assert all(trainer.model.state_dict()[name].equal(weight) for name, weight in kept.items())
    assert trainer.evaluate()["eval_mean_iou"] == max(scores)


def draw_coin(seed):
    """A bright disc on a dark ground, and its mask."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 100, (64, 64, 3)).astype(np.uint8)
    mask = Image.new("L", (64, 64))
    left, top = rng.integers(2, 30, 2).tolist()
    ImageDraw.Draw(mask).ellipse((left, top, left + 30, top + 30), fill=1)
    pixels[np.asarray(mask) == 1] += 140
    return {"image": Image.fromarray(pixels), "annotation": mask, "name": f"coin_{seed}"}


def test_two_classes_are_learnt(tiny_config, tmp_path):
    label_set = LabelSet.direct(["ground", "coin"])
    training, validation = [
        Dataset.from_list([draw_coin(seed) for seed in seeds]) for seeds in (range(16), range(50, 56))
    ]
    processor = SetrImageProcessor(do_split_image=True, do_resize=False, crop_size=64, stride=48)
    transform = training_transform((64, 64), (0.8, 1.25), None, processor.image_mean, processor.image_std)
    model = SetrForSemanticSegmentation(
        tiny_config(num_labels=2, patch_size=8, decoder_type="pup", drop_path_rate=0.0)
    )
    trainer = SetrTrainer(
        model,
        arguments(
            tmp_path,
            max_steps=150,
            per_device_train_batch_size=4,
            learning_rate=3e-3,
            head_learning_rate_ratio=2,
            seed=0,
        ),
        train_dataset=training_examples(SegmentationData(training, label_set), transform),
        eval_dataset=evaluation_examples(SegmentationData(validation, label_set)),
        data_collator=collate,
        processing_class=processor,
    )
    trainer.train()
    assert trainer.evaluate()["eval_mean_iou"] > 0.9


@pytest.mark.parametrize("decoder_type", ["naive", "pup", "mla"])
def test_a_few_scenes_are_learnt_and_the_scores_say_so(tiny_config, scenes, decoder_type, tmp_path):
    config = tiny_config(num_labels=len(CLASSES), decoder_type=decoder_type, hidden_size=48, image_size=[64, 80])
    processor = SetrImageProcessor(size={"height": 64, "width": 80})
    transform = training_transform((64, 80), (1, 1), {"shortest_edge": 64}, processor.image_mean, processor.image_std)
    trainer = SetrTrainer(
        SetrForSemanticSegmentation(config),
        arguments(tmp_path, max_steps=40, logging_steps=1, per_device_train_batch_size=6, learning_rate=2e-3, seed=0),
        train_dataset=training_examples(scenes, transform),
        eval_dataset=evaluation_examples(scenes),
        data_collator=collate,
        processing_class=processor,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    assert after["eval_overall_accuracy"] > max(0.6, before["eval_overall_accuracy"])
    truth = np.stack([np.asarray(annotation) for annotation in scenes.rows["annotation"]])
    assert after["eval_overall_accuracy"] > np.bincount(truth.ravel()).max() / truth.size


def test_pictures_show_photo_truth_and_prediction_of_each_evaluation(tmp_path):
    trainer = make_trainer(
        tmp_path, {"num_prediction_pictures": 3, "max_steps": 2, "eval_strategy": "steps", "eval_steps": 1}
    )
    trainer.train()
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == ["step-1.png", "step-2.png"]
    rows = [trainer.eval_dataset[index] for index in (0, 2, 4)]
    trainer.model.eval()
    predictions = segment(trainer.model, trainer.processing_class, [row["photo"] for row in rows])
    samples = [(row["photo"], row["label_map"], label_map.numpy()) for row, label_map in zip(rows, predictions)]
    expected = comparison_sheet(samples, class_colors(trainer.model.config), trainer.model.config.id2label)
    with Image.open(tmp_path / "predictions" / "step-2.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(expected))


def test_no_pictures_if_none_are_asked_for_or_labels_are_predicted(tmp_path):
    trainer = make_trainer(tmp_path, {"num_prediction_pictures": 0})
    trainer.evaluate()
    trainer = make_trainer(tmp_path, {})
    assert trainer.predict(trainer.eval_dataset).metrics["test_mean_iou"] >= 0
    assert not (tmp_path / "predictions").exists()


def test_each_of_several_evaluation_sets_has_its_pictures(tmp_path):
    trainer = make_trainer(tmp_path, {"metric_for_best_model": None})
    night = evaluation_examples(make_scenes(2, 7))
    metrics = trainer.evaluate({"day": trainer.eval_dataset, "night": night})
    assert {"eval_day_mean_iou", "eval_night_mean_iou"} <= set(metrics)
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == ["step-0-day.png", "step-0-night.png"]


@pytest.mark.parametrize(
    ("num_samples", "num_images", "kept"),
    [(4, 10, [0, 3, 6, 9]), (1, 10, [0]), (4, 2, [0, 1]), (3, None, [0, 1, 2]), (0, 10, []), (2, 0, [])],
)
def test_samples_are_spread_evenly(num_samples, num_images, kept):
    samples = PredictionSamples(num_samples, num_images)
    for index in range(10 if num_images is None else num_images):
        samples.add(Image.new("RGB", (index + 1, 1)), np.zeros((1, 1)), np.zeros((1, 1)))
    assert [photo.width - 1 for photo, _, _ in samples.samples] == kept


def test_photos_are_shown_upright():
    photo = Image.new("RGB", (20, 10))
    photo.getexif()[0x0112] = 6
    samples = PredictionSamples(1, 1)
    label_map = np.zeros((20, 10), dtype=np.uint8)
    samples.add(photo, label_map, label_map)
    expected = comparison_sheet(
        [(Image.new("RGB", (10, 20)), label_map, label_map)], [[0, 0, 0]] * 2, {0: "a", 1: "b"}
    )
    assert (
        samples.sheet(SetrConfig(id2label={0: "a", 1: "b"}, palette=[[0, 0, 0]] * 2)).tobytes() == expected.tobytes()
    )


def test_pictures_go_to_tensorboard(tmp_path, monkeypatch):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    options = {"report_to": ["tensorboard"], "max_steps": 2, "eval_strategy": "steps", "eval_steps": 1}
    make_trainer(tmp_path, options).train()
    events = reader.EventAccumulator(str(tmp_path / "events"), size_guidance={reader.IMAGES: 0}).Reload()
    pictures = events.Images("eval/predictions")
    assert [picture.step for picture in pictures] == [1, 2]
    with Image.open(tmp_path / "predictions" / "step-1.png") as picture:
        assert (pictures[0].width, pictures[0].height) == picture.size
    assert {"train/learning_rate", "train/head_learning_rate", "eval/mean_iou"} <= set(events.Tags()["scalars"])


def test_streams_are_evaluated(scenes, tmp_path):
    rows = scenes.rows.select(range(5)).map(crop_differently, with_indices=True)
    scores = []
    for source in (rows, rows.to_iterable_dataset()):
        examples = evaluation_examples(SegmentationData(source, scenes.label_set))
        scores.append(make_trainer(tmp_path, {}).evaluate(examples)["eval_mean_iou"])
    assert scores[0] == scores[1]


def test_scores_of_an_interrupted_evaluation_do_not_count(tmp_path):
    trainer = make_trainer(tmp_path, {})
    expected = trainer.evaluate()["eval_mean_iou"]
    rows = list(trainer.eval_dataset)
    rows[3] = rows[3] | {"label_map": np.full_like(rows[3]["label_map"], 77)}
    with pytest.raises(ValueError, match="the reference holds the ids"):
        trainer.evaluate(rows)
    assert trainer.evaluate()["eval_mean_iou"] == expected
