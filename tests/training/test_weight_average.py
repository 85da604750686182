"""The moving average of the weights: its formula, what is evaluated and saved, and runs that are resumed."""

import shutil
from pathlib import Path

import pytest
import torch
from distributed_training import history, make_trainer
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerState

from setr_hf import SetrForSemanticSegmentation, SetrTrainer, SetrTrainingArguments
from setr_hf.errors import SetrError
from setr_hf.training.averaging import TRAINING_WEIGHTS_NAME, WeightAverage, changing_bytes, changing_tensors
from setr_hf.training.output_folder import checkpoint_bytes
from setr_hf.training.simulation import Simulation, StepSettings


DECAY = 0.6
ARGUMENTS = {"max_steps": 4, "ema": DECAY, "num_prediction_pictures": 0}
SAVING = ARGUMENTS | {"save_strategy": "steps", "save_steps": 1}


class Recorder(TrainerCallback):
    """The weights before the first step, and after each."""

    def __init__(self):
        self.weights = []

    def note(self, args, state, control, model=None, **kwargs):
        self.weights.append({name: tensor.detach().clone() for name, tensor in model.state_dict().items()})

    on_train_begin = on_step_end = note


def averaged_by_hand(weights, decay):
    """E(0) = W(0), E(t) = d E(t - 1) + (1 - d) W(t), in double precision."""
    average = {name: tensor.double() for name, tensor in weights[0].items()}
    for step in weights[1:]:
        average = {name: decay * average[name] + (1 - decay) * step[name].double() for name in average}
    return average


def trained(folder, arguments, recorder=None, **options):
    trainer = make_trainer(folder, arguments)
    if recorder:
        trainer.add_callback(recorder)
    trainer.train(**options)
    return trainer


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_average_is_that_of_the_formula(tmp_path, accumulation):
    """Of plain SGD; batches that are accumulated are one step."""
    batch = {"per_device_train_batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation}
    recorder = Recorder()
    trainer = trained(tmp_path, ARGUMENTS | batch | {"optim_args": None}, recorder)
    assert len(recorder.weights) == 5
    expected = averaged_by_hand(recorder.weights, DECAY)
    trainer.save_model()
    saved = load_file(tmp_path / "model.safetensors")
    last = recorder.weights[-1]
    counters = [name for name in saved if name.endswith("num_batches_tracked")]
    for name in counters:
        assert saved[name] == last[name]
        del saved[name], expected[name]
    torch.testing.assert_close(saved, {name: tensor.float() for name, tensor in expected.items()}, rtol=0, atol=1e-6)
    assert any(name.endswith("running_mean") for name in saved)
    far = [name for name in saved if (saved[name] - last[name]).abs().max() > 1e-4]
    assert len(far) > 10
    # Training has ended: the model is the average.
    assert all(trainer.model.state_dict()[name].equal(tensor) for name, tensor in saved.items())


class Seen(SetrTrainer):
    """Notes a weight that is evaluated."""

    def prediction_step(self, model, inputs, *args, **kwargs):
        self.seen = self.model.decode_head.classifier.weight.detach().clone()
        return super().prediction_step(model, inputs, *args, **kwargs)


EVALUATING = {"eval_strategy": "steps", "eval_steps": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A trainer that has come to its end, and the weights of each of its steps."""
    trainer = make_trainer(tmp_path_factory.mktemp("finished"), SAVING | EVALUATING, trainer_class=Seen)
    recorder = Recorder()
    trainer.add_callback(recorder)
    trainer.train()
    trainer.save_model()
    return trainer, recorder.weights


def test_training_goes_on_from_the_weights_and_not_from_the_average(finished, tmp_path):
    plain = Recorder()
    trained(tmp_path, ARGUMENTS | {"ema": None}, plain)
    for ours, theirs in zip(finished[1], plain.weights, strict=True):
        assert all(ours[name].equal(theirs[name]) for name in ours)


def test_the_average_is_evaluated_and_a_checkpoint_holds_both(finished):
    trainer, steps = finished
    folder = Path(trainer.args.output_dir) / "checkpoint-4"
    average, weights = load_file(folder / "model.safetensors"), load_file(folder / TRAINING_WEIGHTS_NAME)
    assert trainer.seen.equal(average["decode_head.classifier.weight"])
    assert set(weights) == set(changing_tensors(trainer.model))
    assert all(tensor.equal(steps[-1][name]) for name, tensor in weights.items())
    # Anybody can load the average.
    loaded = SetrForSemanticSegmentation.from_pretrained(folder).state_dict()
    assert all(loaded[name].equal(tensor) for name, tensor in average.items())
    tensors = [*average.values(), *weights.values()]
    tensors += [value for state in trainer.optimizer.state.values() for value in state.values()]
    counted = checkpoint_bytes(trainer.model, trainer.optimizer, is_averaged=True)
    assert counted == sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))


def test_a_resumed_run_ends_with_the_same_average(finished, tmp_path):
    folder = Path(finished[0].args.output_dir)
    copy = shutil.copytree(folder, tmp_path / "run")
    for step in (3, 4):
        shutil.rmtree(copy / f"checkpoint-{step}")
    resumed = trained(copy, SAVING | EVALUATING, resume_from_checkpoint=True)
    resumed.save_model()
    assert history(resumed) == history(finished[0])
    for name in ("model.safetensors", "checkpoint-4/model.safetensors", f"checkpoint-4/{TRAINING_WEIGHTS_NAME}"):
        assert (copy / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ema": 0.5}, "with an average of the weights with ema=0.6, now ema is 0.5"),
        ({"ema": None}, "with an average of the weights with ema=0.6, now ema is None"),
        ("missing", "with no average of the weights, now ema is 0.6"),
        ("cut", f"{TRAINING_WEIGHTS_NAME} is damaged .*: remove .*checkpoint-4"),
        ("no model", "checkpoint-4 holds no weights and cannot be resumed"),
    ],
)
def test_a_run_does_not_go_on_with_another_average(finished, tmp_path, change, message):
    copy = shutil.copytree(finished[0].args.output_dir, tmp_path / "run")
    file = copy / "checkpoint-4" / TRAINING_WEIGHTS_NAME
    if change == "missing":
        file.unlink()
    elif change == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif change == "no model":
        (copy / "checkpoint-4/model.safetensors").unlink()
    arguments = SAVING | {"max_steps": 5} | (change if isinstance(change, dict) else {})
    with pytest.raises(SetrError, match=message):
        make_trainer(copy, arguments).train(resume_from_checkpoint=True)


def test_the_best_average_is_kept_and_saved(tmp_path):
    """The lowest score counts as the best, so that it is not the last one."""
    arguments = SAVING | {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    trainer = trained(tmp_path, arguments | {"greater_is_better": False, "learning_rate": 0.1})
    trainer.save_model()
    best = trainer.state.best_model_checkpoint
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / best / "model.safetensors").read_bytes()
    assert trainer.evaluate()["eval_mean_iou"] == trainer.state.best_metric


def test_within_the_block_the_model_is_the_average_however_often_it_is_asked_for():
    model = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(0.75)
    start(average, model)
    first = model.weight.item()
    with torch.no_grad():
        model.weight += 4
    average.on_optimizer_step(None, None, None)
    for _ in range(2):
        with average.in_place(), average.in_place():
            assert model.weight.item() == pytest.approx(first + 1)
        assert model.weight.item() == pytest.approx(first + 4)


def start(average, model):
    average.on_train_begin(None, TrainerState(max_steps=4, is_world_process_zero=True), None, model=model)


def test_a_run_too_short_for_its_average_says_so(caplog):
    start(WeightAverage(0.999), torch.nn.Linear(1, 1))
    (warning,) = caplog.messages
    assert warning == (
        "After 4 steps with ema=0.999, 100% of the average are still the weights that the run started from; with 0.32 "
        "it would be 1%"
    )
    start(WeightAverage(0.5), torch.nn.Linear(1, 1))
    assert caplog.messages == [warning]


def test_the_memory_plan_counts_the_average(tiny_config, tmp_path):
    config = tiny_config(num_hidden_layers=1, decoder_type="naive", auxiliary_out_indices=[])
    peaks = []
    for ema in (None, 0.9):
        arguments = SetrTrainingArguments(str(tmp_path), ema=ema, use_cpu=True, report_to=[])
        simulation = Simulation(config, (64, 64), arguments, "cpu")
        peaks.append((simulation.step_bytes(StepSettings(2)), simulation.evaluation_bytes(StepSettings(2), 2)))
    average = changing_bytes(SetrForSemanticSegmentation(config))
    assert [after - before for before, after in zip(*peaks)] == [average, average]


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
def test_decays_out_of_range_are_refused(value, tmp_path):
    with pytest.raises(SetrError, match=f"ema must be a number above 0 and below 1, got {value}"):
        make_trainer(tmp_path, {"ema": value})
