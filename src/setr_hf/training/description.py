"""What a train job will do, in lines for a terminal: `--dry_run` shows it without data or weights."""

import json
import math
import os
from argparse import Namespace
from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from ..data.public_datasets import published_scales
from .optimization import poly_schedule
from .options import RANDOM_WEIGHTS, Command, count_processes, crop_of, new_config
from .recipes import Recipe


ORIGINS = {
    "original": "as in the original repository",
    "mmsegmentation": "as in mmsegmentation 1.2.2",
    "setr-hf": "a small run of this project",
}


def rate_schedule(options: Namespace, num_steps: int) -> list[list[float]] | None:
    """
    Learning rates of encoder and heads at the top of the schedule, half-way and after the last step, `(2, 3)`; None
    for schedules that depend on what is measured in training.

    Raises:
        `ValueError`: the schedule does not take these `lr_scheduler_kwargs`.
    """
    rates = (options.learning_rate, options.learning_rate * options.head_learning_rate_ratio)
    optimizer = SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates], lr=rates[0])
    name, settings, warmup = options.lr_scheduler_type, options.lr_scheduler_kwargs or {}, options.warmup_steps
    warmup = int(warmup) if warmup >= 1 else math.ceil(num_steps * warmup)
    try:
        settings = json.loads(settings) if isinstance(settings, str) else settings
        if name == "polynomial" and "min_lr" in settings:
            schedule = poly_schedule(optimizer, num_steps, **settings)
        else:
            schedule = get_scheduler(name, optimizer, warmup, num_steps, settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the schedule {name} does not go with lr_scheduler_kwargs {settings}: {error}") from error
    if not isinstance(schedule, LambdaLR):
        return None
    steps = (min(warmup, num_steps), num_steps // 2, num_steps)
    return [[rate * factor(step) for step in steps] for rate, factor in zip(rates, schedule.lr_lambdas)]


def describe_rates(options: Namespace) -> str:
    name = options.lr_scheduler_type
    num_steps = options.max_steps if options.max_steps > 0 else 1000
    rates = rate_schedule(options, num_steps)
    ratio = options.head_learning_rate_ratio
    if rates is None:
        return f"{options.learning_rate:g}, {ratio:g} times that for the heads, by the schedule {name}"
    texts = [" → ".join(f"{rate:.3g}" for rate in group) for group in rates]
    text = texts[0] if ratio == 1 else f"{texts[0]}, heads ({ratio:g} times) {texts[1]}"
    warmup = f" after a warm-up of {options.warmup_steps:g} {'steps' if options.warmup_steps >= 1 else 'of all steps'}"
    return f"{text} at the start, half-way and at the end{warmup if options.warmup_steps else ''} ({name})"


def describe_size(sides: Sequence[int] | None) -> str:
    if not sides:
        return "each image's own size"
    return f"short side {sides[0]}" + (f", long side at most {sides[1]}" if len(sides) == 2 else "")


def describe_steps(steps: float, options: Namespace) -> str:
    if steps >= 1:
        return f"{int(steps):,} iterations"
    if options.max_steps > 0:
        return f"{math.ceil(options.max_steps * steps):,} iterations"
    return f"{steps:.0%} of the run"


def describe_when(kind: str, options: Namespace) -> str:
    """When evaluation ("eval") or saving ("save") happens."""
    strategy = getattr(options, f"{kind}_strategy")
    if strategy == "steps":
        return f"every {describe_steps(getattr(options, f'{kind}_steps') or options.logging_steps, options)}"
    return {"epoch": "every epoch", "no": "at the end", "best": "at the best mean IoU so far"}[strategy]


def describe_precision(options: Namespace) -> str:
    mixed = "fp16" if options.fp16 else "bf16" if options.bf16 else os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    return "fp32" if mixed == "no" else f"{mixed} autocast over fp32 weights"


def network_lines(command: Command) -> list[tuple[str, str]]:
    options, recipe = command.options, command.recipe
    if options.model:
        return [("model", options.model + (", with new classifiers" if options.reinitialize_classifier else ""))]
    config = new_config(command, **({"num_labels": recipe.num_labels} if recipe and recipe.dataset else {}))
    start = options.encoder if options.encoder not in (None, RANDOM_WEIGHTS) else "random weights"
    read, auxiliary = (", ".join(map(str, x)) for x in (config.decoder_indices, config.auxiliary_out_indices))
    heads = f"auxiliary heads on {auxiliary}, loss weight {config.auxiliary_loss_weight:g} each"
    return [
        ("encoder", f"{config.num_hidden_layers} layers, {config.hidden_size} wide, from {start}"),
        ("decoder", f"{config.decoder_type} on layer {read}; {heads if auxiliary else 'no auxiliary heads'}"),
    ]


def data_lines(command: Command) -> list[tuple[str, str]]:
    options, recipe = command.options, command.recipe
    data = options.dataset or "(--dataset is not given)"
    if recipe and recipe.dataset and not options.other_classes:
        data += f", which must be {recipe.dataset} with its {recipe.num_labels} classes"
    crop = "×".join(map(str, crop_of(options.crop_size))) if options.crop_size else "as large as the model's windows"
    rule = f" ({options.category_max_ratio:g} of one class at most)" if options.category_max_ratio < 1 else ""
    colours = "photometric distortion" if options.photometric_distortion else "colours as they are"
    sides = (options.size or options.test_size, options.test_size or options.size)
    size, test_size = ("the model's size" if options.model and not x else describe_size(x) for x in sides)
    windows = f"windows {crop}" + (f" every {options.stride}" if options.stride else "")
    scale = f"{options.min_scale:g} to {options.max_scale:g} times {size}"
    return [
        ("data", data),
        ("augmentation", f"{scale}; crop {crop}{rule}; mirror; {colours}"),
        ("evaluation", f"{describe_when('eval', options)}: single scale, {test_size}; {windows}"),
    ]


def training_lines(command: Command) -> list[tuple[str, str]]:
    options = command.options
    length = f"{options.max_steps:,} iterations" if options.max_steps > 0 else f"{options.num_train_epochs:g} epochs"
    optimizer = " ".join(filter(None, (options.optim, options.optim_args)))
    clip = f"gradients clipped at norm {options.max_grad_norm:g}" if options.max_grad_norm else "no gradient clipping"
    average = options.loss_average or ("model" if options.model else "valid")
    averages = {"all": "all pixels, ignored ones at 0", "valid": "the labelled pixels", "model": "what the model says"}
    return [
        ("training", length),
        ("batch", describe_batch(options, command.recipe)),
        ("optimizer", f"{optimizer}, weight decay {options.weight_decay:g}, {clip}"),
        ("rates", describe_rates(options)),
        ("loss", f"cross-entropy, mean over {averages[average]}"),
        ("precision", describe_precision(options)),
        ("checkpoints", f"{describe_when('save', options)}, in {options.output_dir}"),
    ]


def describe(command: Command) -> str:
    """What the job will do, in lines for a terminal; neither data nor weights are read."""
    lines = network_lines(command) + data_lines(command) + training_lines(command)
    recipe, title = command.recipe, ""
    if recipe:
        title = f"{recipe.name}: {ORIGINS[recipe.origin]}\n"
        values = {name: getattr(command.options, name) for name in command.recipe_options}
        changed = [
            f"{name} {values[name]} ({value})"
            for name, value in command.recipe_options.items()
            if values[name] != value
        ]
        lines += [("published", describe_published(recipe)), ("overridden", ", ".join(changed) or "nothing")]
    return title + "\n".join(f"  {label:<13} {text}" for label, text in lines)


def describe_batch(options: Namespace, recipe: Recipe | None) -> str:
    count, size = count_processes(options), options.per_device_train_batch_size
    accumulation = options.gradient_accumulation_steps
    total = count * size * accumulation
    text = f"{total} = processes {count} × per device {size} × accumulation {accumulation}"
    if recipe and total != recipe.batch_size:
        text += f"; the recipe's is {recipe.batch_size}: rates and iterations stay the recipe's unless you change them"
    return text


def describe_published(recipe: Recipe) -> str:
    single, multi = recipe.published
    if single is None:
        return "nothing: a run of this project, see its README"
    text = f"mean IoU {single:.2f} % at a single scale"
    if multi is None:
        return text
    scales = "several scales"
    if recipe.origin == "original":
        ratios = published_scales(recipe.dataset, recipe.decoder_type)
        scales = ", ".join(f"{ratio:g}" for ratio in ratios)
    return f"{text}, {multi:.2f} % at {scales} with mirror images"
