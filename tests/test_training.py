"""The stock `Trainer` with SETR: batches, scores, gradient accumulation, and a data set that is learnt."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import EvalPrediction, Trainer, TrainingArguments

from setr_hf import SetrForSemanticSegmentation, SetrImageProcessor
from setr_hf.metrics import confusion_matrix
from setr_hf.scenes import CLASSES, make_scenes
from setr_hf.training import (
    MeanIouOfMatrices,
    collate,
    confusion_matrices,
    evaluation_examples,
    training_examples,
)
from setr_hf.transforms import training_transform


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(12, 0)


def arguments(folder, **options):
    return TrainingArguments(
        str(folder), use_cpu=True, remove_unused_columns=False, report_to=[], save_strategy="no", disable_tqdm=True,
        batch_eval_metrics=True, **options,
    )  # fmt: skip


def test_batches_are_filled_up_with_ignored_labels():
    examples = [
        {"pixel_values": torch.ones(3, height, width), "labels": torch.ones(height, width, dtype=torch.long)}
        for height, width in ((4, 6), (5, 3))
    ]
    batch = collate(examples)
    assert batch["pixel_values"].shape == (2, 3, 5, 6)
    assert (batch["labels"] == 255).sum() == 6 + 15
    assert (batch["pixel_values"][:, 0] == 0).sum() == 6 + 15


def test_scores_while_training_are_those_of_the_whole_set():
    logits, labels = torch.randn(5, 3, 4, 4), torch.randint(0, 3, (5, 8, 8))
    labels[:, 0] = 255
    predictions = F.interpolate(logits, size=(8, 8), mode="bilinear").argmax(1)
    expected = sum(confusion_matrix(p, y, 3) for p, y in zip(predictions, labels))
    metric = MeanIouOfMatrices()
    for batch in (slice(0, 2), slice(2, 5)):
        matrices = confusion_matrices(logits[batch], labels[batch])
        assert matrices.shape == (len(labels[batch]), 3, 3)
        scores = metric(EvalPrediction(matrices.numpy(), labels[batch].numpy()), compute_result=batch.stop == 5)
    iou = expected.diagonal() / (expected.sum(0) + expected.sum(1) - expected.diagonal())
    assert scores["mean_iou"] == pytest.approx(iou.mean())
    assert scores["overall_accuracy"] == pytest.approx(expected.trace() / expected.sum())


def test_an_image_and_annotation_of_different_sizes_are_named(scenes):
    dataset, label_set = scenes
    wrong = dataset.select([3]).map(lambda row: {"annotation": row["annotation"].crop((0, 0, 9, 9))})
    transform = training_transform((32, 32), (1, 1), None, [0.5] * 3, [0.5] * 3)
    with pytest.raises(ValueError, match="image of scene_3 is 128×160 pixels high and wide, its annotation 9×9"):
        training_examples(wrong, label_set, transform)[0]


def test_accumulated_gradients_equal_those_of_the_whole_batch(tiny_config, tmp_path):
    examples = [{"pixel_values": torch.randn(3, 32, 32), "labels": torch.randint(0, 5, (32, 32))} for _ in range(8)]

    def weights_after_a_step(batch_size, steps):
        torch.manual_seed(1)
        model = SetrForSemanticSegmentation(tiny_config()).eval()
        # BatchNorm would see other batches; frozen, the gradient is a plain mean.
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
def test_a_few_scenes_are_learnt_and_the_scores_say_so(tiny_config, scenes, decoder_type, tmp_path):
    dataset, label_set = scenes
    config = tiny_config(num_labels=len(CLASSES), decoder_type=decoder_type, hidden_size=48, image_size=[64, 80])
    processor = SetrImageProcessor(size={"height": 64, "width": 80})
    transform = training_transform((64, 80), (1, 1), 64, processor.image_mean, processor.image_std)
    trainer = Trainer(
        SetrForSemanticSegmentation(config),
        arguments(tmp_path, max_steps=40, per_device_train_batch_size=6, learning_rate=2e-3, seed=0),
        train_dataset=training_examples(dataset, label_set, transform),
        eval_dataset=evaluation_examples(dataset, label_set, processor),
        data_collator=collate,
        compute_metrics=MeanIouOfMatrices(),
        preprocess_logits_for_metrics=confusion_matrices,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.7 * before["eval_loss"]
    assert after["eval_overall_accuracy"] > max(0.6, before["eval_overall_accuracy"])
    truth = np.stack([np.asarray(annotation) for annotation in dataset["annotation"]])
    assert after["eval_overall_accuracy"] > np.bincount(truth.ravel()).max() / truth.size
