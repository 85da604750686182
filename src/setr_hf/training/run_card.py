"""The card of a training run: hyperparameters, curves, its own figures, and a sheet of predictions."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from matplotlib.figure import Figure
from transformers import PreTrainedConfig, TrainerState

from .. import __version__
from ..cards.architecture import decoder_name
from ..cards.benchmarks import Benchmark
from ..cards.model_card import PAPER, ModelFacts
from ..cards.pictures import save_figure
from ..cards.results import METRICS, eval_results
from ..files import whole_file
from ..text import markdown_text
from .arguments import SetrTrainingArguments


# Beside the card, as files of a folder that is published.
CURVES, PREDICTIONS = "curves.png", "predictions.png"
UNKNOWN_DATA = "evaluation_data"


@dataclass(frozen=True)
class RunFacts:
    """What the card of a run says that its trainer does not know.

    Args:
        dataset (`str`, *optional*): Id on the Hub, or name, of the data.
        benchmark (`Benchmark`, *optional*): The public data set that this is.
        validation_fraction (`float`, *optional*): Share of the training samples that is held out for validation.
        model (`str`, *optional*): The SETR that training started from: id on the Hub, or folder. By default, where the
            trainer's model was loaded from.
        encoder (`str`, *optional*): The classifier whose encoder it started from, likewise.
        recipe (`str`, *optional*): Name of the recipe.
        rows (`list[tuple[str, object]]`): Further names and values, such as those of the augmentation.
    """

    dataset: str | None = None
    benchmark: Benchmark | None = None
    validation_fraction: float | None = None
    model: str | None = None
    encoder: str | None = None
    recipe: str | None = None
    rows: list[tuple[str, object]] = field(default_factory=list)


def scores_of_saved_weights(state: TrainerState, is_best: bool) -> dict[str, Any]:
    """The log of the last evaluation of the weights that a run saves: those of its last step, or of its best one.
    Empty if they were not evaluated.
    """
    step = state.best_global_step if is_best and state.best_global_step else state.global_step
    logs = [log for log in state.log_history if "eval_mean_iou" in log and log["step"] == step]
    return logs[-1] if logs else {}


def hyperparameter_rows(arguments: SetrTrainingArguments, state: TrainerState) -> list[tuple[str, object]]:
    """What the run was trained with."""
    per_device, count = arguments.train_batch_size, arguments.world_size
    accumulation, rate = arguments.gradient_accumulation_steps, arguments.learning_rate
    heads = f", and {rate * arguments.head_learning_rate_ratio:g} for the heads"
    options, schedule = arguments.optim_args or "", arguments.lr_scheduler_kwargs or {}
    details = ", ".join(f"{name} {value}" for name, value in schedule.items())
    batch = f"{per_device * count * accumulation} = processes {count} × per device {per_device}"
    only_some: list[tuple[str, object]] = []
    if arguments.freeze_encoder:
        only_some.append(("encoder", "frozen"))
    if arguments.layer_decay != 1:
        only_some.append(("layer-wise rate decay", f"{arguments.layer_decay:g}"))
    if arguments.ema is not None:
        only_some.append(("weights", f"exponential moving average with decay {arguments.ema:g}"))
    return [
        ("steps", f"{state.global_step:,}"),
        ("epochs", f"{state.epoch or 0:.2f}"),
        ("batch", f"{batch} × accumulation {accumulation}"),
        ("optimizer", " ".join([str(getattr(arguments.optim, "value", arguments.optim)), options]).strip()),
        ("weight decay", f"{arguments.weight_decay:g}"),
        ("learning rate", f"{rate:g}{heads if arguments.head_learning_rate_ratio != 1 else ''}"),
        *only_some,
        ("schedule", ", ".join(filter(None, [arguments.lr_scheduler_type.value, details]))),
        ("warm-up", f"{arguments.get_warmup_steps(state.max_steps)} steps"),
        ("precision", "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "fp32"),
        ("seed", arguments.seed),
        ("versions", f"setr-hf {__version__}, Transformers {transformers.__version__}, PyTorch {torch.__version__}"),
    ]


def curves_figure(history: Sequence[dict[str, Any]]) -> Figure | None:
    """Loss and mean IoU over the steps of a run, as far as they were logged; `None` if neither was."""
    curves = [
        (title, [(log["step"], log[name]) for log in history if name in log and isfinite(log[name])])
        for title, name in (("training loss", "loss"), ("mean IoU", "eval_mean_iou"))
    ]
    curves = [(title, points) for title, points in curves if points]
    if not curves:
        return None
    figure = Figure(figsize=(4.5 * len(curves), 3), layout="constrained")
    for axes, (title, points) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves):
        axes.plot(*zip(*points), marker="." if len(points) < 50 else None, color="#3a6ea5", lw=1.2)
        axes.set_xlabel("step")
        axes.set_title(title, fontsize=10)
        axes.grid(color="0.88")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def hub_id(source: str | None) -> str | None:
    """What a model or a data set is called on the Hub, if it came from there."""
    if not source or "/" not in source or Path(source).exists():
        return None
    try:
        validate_repo_id(source)
    except HFValidationError:
        return None
    return source


def source_text(source: str) -> str:
    """A model that weights came from, by its name or with a link; of a folder, no more than its name."""
    text = markdown_text(source if hub_id(source) else Path(source).name)
    return f"[{text}](https://huggingface.co/{source})" if hub_id(source) else text


def run_facts(
    folder: Path,
    run: RunFacts,
    config: PreTrainedConfig,
    arguments: SetrTrainingArguments,
    state: TrainerState,
    repository: str,
    **given: Any,
) -> ModelFacts:
    """What is known of a run, for the card in `folder`, where its pictures are written. `given` are fields of
    [`ModelFacts`] that win.
    """
    pictures = []
    if figure := curves_figure(state.log_history):
        save_figure(figure, folder / CURVES, "training loss and mean IoU over the steps of the run")
        pictures.append(("Training loss and mean IoU", CURVES))
    scores = scores_of_saved_weights(state, arguments.load_best_model_at_end)
    sheet = Path(str(arguments.output_dir)) / "predictions" / f"step-{scores.get('step')}.png"
    if sheet.is_file():
        with whole_file(folder / PREDICTIONS) as unfinished:
            shutil.copyfile(sheet, unfinished)
        pictures.append(("Photo, ground truth and prediction", PREDICTIONS))
    model = run.model or (None if run.encoder else config._name_or_path) or None
    start = f"fine-tuned from {source_text(model)}" if model else "trained from random weights"
    if run.encoder:
        start = f"trained from the encoder of {source_text(run.encoder)}"
    data = run.benchmark.title if run.benchmark else run.dataset
    how = f" on the data set {markdown_text(data)}" if data else ""
    how += f" by the recipe {markdown_text(run.recipe)}" if run.recipe else ""
    summary = {name: scores.get(f"eval_{name}") for name in METRICS}
    measured = {name: score for name, score in summary.items() if score is not None and isfinite(score)}
    facts: dict[str, Any] = {
        "introduction": f"SETR-{decoder_name(config)}, from {PAPER}, {start}{how} with `SetrTrainer` of setr-hf.",
        "license_text": "no license is stated; the terms of what they were trained from hold for them too.",
        "base_model": hub_id(model or run.encoder),
        "benchmark": run.benchmark,
        "datasets": [] if run.benchmark or not hub_id(run.dataset) else [run.dataset],
        "tags": ["generated_from_trainer"],
        "training": [*hyperparameter_rows(arguments, state), *run.rows],
        "pictures": pictures,
        "results": eval_results(
            measured,
            run.benchmark or run.dataset or UNKNOWN_DATA,
            "validation",
            validation_fraction=run.validation_fraction,
        ),
    }
    return ModelFacts(repository=repository, **facts | given)
