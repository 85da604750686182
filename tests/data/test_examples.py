"""SETR with the stock `Trainer` and with `SetrTrainer`: gradient accumulation, a data set that is learnt, scores."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import ImageSegmentationPipeline, Trainer

from setr_hf import SetrForSemanticSegmentation, SetrImageProcessor, SetrTrainer, SetrTrainingArguments
from setr_hf.data.augmentation import training_transform
from setr_hf.data.examples import collate, evaluation_examples, training_examples
from setr_hf.data.rows import SegmentationData
from setr_hf.data.scenes import CLASSES, make_scenes
from setr_hf.metrics import confusion_matrix, segmentation_scores


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(12, 0)


def arguments(folder, **options):
    return SetrTrainingArguments(
        str(folder), use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
        **options,
    )  # fmt: skip


def test_the_trainers_scores_are_those_of_the_pipelines_masks(tiny_model, scenes, tmp_path):
    """Photos of several sizes, several at a time: label maps at the original sizes, each counted once."""
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
        for segment in segmenter(piece["image"]):
            label_map[np.asarray(segment["mask"]) > 0] = model.config.label2id[segment["label"]]
        matrix = matrix + confusion_matrix(label_map, np.asarray(piece["annotation"]), len(CLASSES))
    scores = segmentation_scores(matrix)
    assert {name: metrics[f"eval_{name}"] for name in ("mean_iou", "mean_accuracy", "overall_accuracy")} == {
        name: scores[name] for name in ("mean_iou", "mean_accuracy", "overall_accuracy")
    }
    assert "eval_loss" not in metrics


def test_the_trainer_refuses_to_remove_columns(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        SetrTrainer(tiny_model(), arguments(tmp_path, remove_unused_columns=True), data_collator=collate)


def test_an_annotation_of_another_size_than_its_photo_is_named(scenes):
    wrong = scenes.rows.select([3]).map(lambda row: {"annotation": row["annotation"].crop((0, 0, 9, 9))})
    transform = training_transform((32, 32), (1, 1), None, [0.5] * 3, [0.5] * 3)
    with pytest.raises(ValueError, match="image of scene_3 is 128×160 pixels high and wide, its annotation 9×9"):
        training_examples(SegmentationData(wrong, scenes.label_set), transform)[0]


def test_accumulated_gradients_equal_those_of_the_whole_batch(tiny_config, tmp_path):
    examples = [{"pixel_values": torch.randn(3, 32, 32), "labels": torch.randint(0, 5, (32, 32))} for _ in range(8)]

    def weights_after_a_step(batch_size, steps):
        torch.manual_seed(1)
        model = SetrForSemanticSegmentation(tiny_config()).eval()
        # BatchNorm would see other batches; without it the gradient is a plain mean.
        model.train = lambda mode=True: model
        options = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": steps}
        trainer = Trainer(
            model,
            arguments(tmp_path, max_steps=1, learning_rate=0.1, optim="sgd", max_grad_norm=0, seed=0, **options),
            train_dataset=examples,
            data_collator=collate,
        )
        trainer.train()
        return model.decode_head.classifier.weight.detach()

    torch.testing.assert_close(weights_after_a_step(8, 1), weights_after_a_step(2, 4), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("decoder_type", ["naive", "pup", "mla"])
def test_a_few_scenes_are_learnt_and_scores_rise(tiny_config, scenes, decoder_type, tmp_path):
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
    label_maps = np.stack([sample.label_map for sample in scenes])
    assert after["eval_overall_accuracy"] > np.bincount(label_maps.ravel()).max() / label_maps.size
