"""Gradient accumulation with the stock `Trainer`, and the columns that `SetrTrainer` needs."""

import pytest
import torch
from transformers import Trainer

from setr_hf import SetrForSemanticSegmentation, SetrTrainer, SetrTrainingArguments, loss_function
from setr_hf.data.examples import collate


def arguments(folder, **options):
    return SetrTrainingArguments(
        str(folder), use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, **options
    )


def test_the_trainer_refuses_to_remove_columns(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        SetrTrainer(tiny_model(), arguments(tmp_path, remove_unused_columns=True), data_collator=collate)


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


@pytest.mark.parametrize("output_auxiliary_logits", [False, True])
@pytest.mark.parametrize("weights", [None, {"cross_entropy": 1.0, "dice": 0.5}])
def test_the_losses_are_functions_for_the_stock_trainer(tiny_config, tmp_path, weights, output_auxiliary_logits):
    """Its gradient, accumulated over batches, is that of the model's own loss."""
    examples = [{"pixel_values": torch.randn(3, 32, 32), "labels": torch.randint(0, 5, (32, 32))} for _ in range(4)]
    config = tiny_config(semantic_loss=weights, semantic_loss_average="all")
    if not output_auxiliary_logits:
        config.auxiliary_loss_weight = 0.0

    def collated(batch):
        return collate(batch) | ({"output_auxiliary_logits": True} if output_auxiliary_logits else {})

    def weights_after_a_step(**options):
        torch.manual_seed(1)
        model = SetrForSemanticSegmentation(config).eval()
        model.train = lambda mode=True: model
        batches = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
        settings = arguments(tmp_path, max_steps=1, learning_rate=0.1, optim="sgd", max_grad_norm=0, seed=0, **batches)
        Trainer(model, settings, train_dataset=examples, data_collator=collated, **options).train()
        return model.decode_head.classifier.weight.detach()

    as_function = weights_after_a_step(compute_loss_func=loss_function(config))
    torch.testing.assert_close(as_function, weights_after_a_step(), atol=1e-6, rtol=1e-4)
