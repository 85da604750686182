"""What `SetrTrainer` trains with: rates of encoder and heads, schedule, BatchNorm, precision, and what it refuses."""

import pytest
import torch
from distributed_training import history, make_trainer
from torch import nn
from transformers import HfArgumentParser, TrainingArguments

from setr_hf import SetrForSemanticSegmentation, SetrTrainer, SetrTrainingArguments
from setr_hf.training.optimization import head_parameter_names


def test_rates_of_encoder_and_heads_are_logged_and_have_the_same_floor(tmp_path):
    options = {"power": 0.5, "min_lr": 0.004}
    trainer = make_trainer(tmp_path, {"max_steps": 4, "lr_scheduler_kwargs": options})
    trainer.train()
    remaining = [1, 0.75, 0.5, 0.25]
    logged = [(row["learning_rate"], row["head_learning_rate"]) for row in history(trainer)]
    expected = [(0.006 * share**0.5 + 0.004, 0.096 * share**0.5 + 0.004) for share in remaining]
    assert logged == [pytest.approx(rates) for rates in expected]
    assert trainer.lr_scheduler.get_last_lr() == pytest.approx([0.004] * len(trainer.optimizer.param_groups))


def test_weight_decay_spares_biases_and_norms_of_heads_too(tmp_path):
    trainer = make_trainer(tmp_path, {"weight_decay": 0.05})
    groups = trainer.create_optimizer().param_groups
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    heads, decayed = head_parameter_names(trainer.model), set(trainer.get_decay_parameter_names(trainer.model))
    assert sorted(names[p] for group in groups for p in group["params"]) == sorted(names.values())
    for group in groups:
        for parameter in group["params"]:
            assert group["lr"] == pytest.approx(0.1 if names[parameter] in heads else 0.01)
            assert group["weight_decay"] == (0.05 if names[parameter] in decayed else 0)
            assert group["momentum"] == 0.9


def test_without_ratio_and_floor_everything_is_stock(tmp_path):
    trainer = make_trainer(tmp_path, {"max_steps": 2, "head_learning_rate_ratio": 1, "lr_scheduler_kwargs": None})
    trainer.train()
    assert [set(group) & {"name"} for group in trainer.optimizer.param_groups] == [set(), set()]
    rows = history(trainer)
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.01, 0.005], abs=1e-6)
    assert not any("head_learning_rate" in row for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_steps": 2}, "has no warm-up: set warmup_steps to 0"),
        ({"lr_scheduler_kwargs": {"min_lr": 0, "lr_end": 1}}, r"may also hold power, but not \['lr_end'\]"),
        ({"head_learning_rate_ratio": 0}, "head_learning_rate_ratio must be a number greater than 0, got 0"),
    ],
)
def test_options_that_contradict_each_other_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, {"max_steps": 2, **options}).train()


def test_a_ratio_that_would_have_no_effect_is_refused(tmp_path):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match="no effect on an optimizer that is passed in"):
        make_trainer(tmp_path, {}, optimizers=(optimizer, None))
    own_groups = (torch.optim.SGD, {"lr": 0.1, "params": [nn.Parameter(torch.ones(1))]})
    with pytest.raises(ValueError, match="makes its own parameter groups"):
        make_trainer(tmp_path, {}, optimizer_cls_and_kwargs=own_groups).create_optimizer()


def test_arguments_of_a_command_line(tmp_path):
    parser = HfArgumentParser(SetrTrainingArguments)
    command = f"--output-dir {tmp_path} --use-cpu --head-learning-rate-ratio 10 --no-sync-batch-norm"
    (arguments,) = parser.parse_args_into_dataclasses(
        [*command.split(), "--num-prediction-pictures", "0", "--lr-scheduler-kwargs", '{"min_lr": 0.0001}']
    )
    assert (arguments.head_learning_rate_ratio, arguments.sync_batch_norm) == (10, False)
    assert (arguments.freeze_batch_norm, arguments.num_prediction_pictures) == (False, 0)
    assert (arguments.remove_unused_columns, arguments.metric_for_best_model) == (False, "mean_iou")
    assert arguments.greater_is_better
    assert arguments.lr_scheduler_kwargs == {"min_lr": 1e-4}
    with pytest.raises(ValueError, match="num_prediction_pictures must be a number of at least 0, got -1"):
        SetrTrainingArguments(str(tmp_path), use_cpu=True, num_prediction_pictures=-1)


def test_what_cannot_be_trained_is_refused(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="takes SetrTrainingArguments as args, got TrainingArguments"):
        SetrTrainer(tiny_model(), TrainingArguments(str(tmp_path), use_cpu=True, report_to=[]))
    with pytest.raises(ValueError, match="set remove_unused_columns=False"):
        make_trainer(tmp_path, {"remove_unused_columns": True})


def batch_norm_state(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_weights(tmp_path, frozen):
    trainer = make_trainer(tmp_path, {"max_steps": 2, "freeze_batch_norm": frozen})
    statistics = batch_norm_state(trainer.model)
    weight = next(layer for layer in trainer.model.modules() if isinstance(layer, nn.BatchNorm2d)).weight
    before = weight.detach().clone()
    trainer.train()
    assert not weight.equal(before)
    after = batch_norm_state(trainer.model)
    assert after and {after[name].equal(statistics[name]) for name in after} == {frozen}
    assert trainer.model.training


def test_models_with_synchronized_batch_norm_are_saved_with_plain_one(tiny_model, tmp_path):
    """The conversion in a run of several GPU processes; on the CPU nothing is converted."""
    model = tiny_model()
    trainer = make_trainer(tmp_path, {})
    trainer.prepare_batch_norm(trainer.model)
    assert not any(isinstance(layer, nn.SyncBatchNorm) for layer in trainer.model.modules())
    pixel_values = torch.randn(1, 3, 64, 64)
    parameters, names = list(model.parameters()), list(model.state_dict())
    with torch.no_grad():
        expected = model(pixel_values).logits
        assert nn.SyncBatchNorm.convert_sync_batchnorm(model) is model
        assert all(one is other for one, other in zip(model.parameters(), parameters))
        assert list(model.state_dict()) == names
        torch.testing.assert_close(model(pixel_values).logits, expected, rtol=0, atol=0)
    trainer.model = model
    trainer.save_model(str(tmp_path / "saved"))
    loaded = SetrForSemanticSegmentation.from_pretrained(tmp_path / "saved")
    assert {type(layer).__name__ for layer in loaded.modules() if "BatchNorm" in type(layer).__name__} == {
        "BatchNorm2d"
    }
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixel_values).logits, expected, rtol=0, atol=0)


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    """Losses and gradient norms of two steps."""
    return trained(tmp_path_factory.mktemp("plain"), {})


def trained(folder, options):
    trainer = make_trainer(folder, {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, **options})
    trainer.train()
    return history(trainer)


def test_checkpointed_activations_give_the_same_losses_and_gradients(plain_run, tmp_path):
    # The name of before Transformers 5.18, which later versions take as well.
    assert trained(tmp_path, {"gradient_checkpointing": True}) == plain_run


def test_a_compiled_model_trains_and_is_evaluated(plain_run, tmp_path):
    rows = trained(tmp_path, {"torch_compile": True, "torch_compile_backend": "aot_eager"})
    assert rows == [pytest.approx(row, rel=1e-5) for row in plain_run]


def test_bf16_is_used_in_training_and_evaluation(plain_run, tmp_path):
    trainer = make_trainer(tmp_path, {"max_steps": 2, "bf16": True, "eval_on_start": True, "eval_strategy": "no"})
    seen = {True: set(), False: set()}
    layer = trainer.model.setr.layers[0]
    layer.register_forward_hook(lambda module, args, output: seen[module.training].add(output.dtype))
    linear = next(module for module in layer.modules() if isinstance(module, nn.Linear))
    linear.register_forward_hook(lambda module, args, output: seen[module.training].add(output.dtype))
    trainer.train()
    assert torch.bfloat16 in seen[True] and seen[True] == seen[False]
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in (history(trainer), plain_run)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
