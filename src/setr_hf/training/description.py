"""What a train job will do, as names and values for a terminal; neither data nor weights are needed."""

import json
import math
import os
from argparse import Namespace
from typing import Any

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from ..errors import SetrError
from .batch_size import count_processes
from .optimization import poly_schedule
from .options import RANDOM_WEIGHTS, Command, new_config


# Shown although they may have their default values.
ALWAYS_SHOWN = {"min_scale", "max_scale", "category_max_ratio", "photometric_distortion", "output_dir", "seed"}
ALWAYS_SHOWN |= {"learning_rate", "optim", "weight_decay", "max_grad_norm", "eval_strategy", "save_strategy"}
ALWAYS_SHOWN |= {"lr_scheduler_type"}
NEW_MODEL = {"encoder", "crop_size", "stride"}
# Shown in rows of their own, unless they override a recipe.
SHOWN_ELSEWHERE = {"recipe", "dry_run", "config", "per_device_train_batch_size", "gradient_accumulation_steps"}
SHOWN_ELSEWHERE |= {"bf16", "fp16", "global_batch_size"}


def rate_rows(options: Namespace) -> list[tuple[str, object]]:
    """Learning rates of encoder and heads at the top of the schedule, half-way and after the last step; nothing for
    schedules that depend on what is measured. Raises [`SetrError`] if it does not take these `lr_scheduler_kwargs`.
    """
    num_steps = options.max_steps if options.max_steps > 0 else 1000
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
        if not isinstance(schedule, LambdaLR):
            return []
        steps = (min(warmup, num_steps), num_steps // 2, num_steps)
        titles = ("rate at start, half, end", "the same of the heads")
        rows: list[tuple[str, object]] = [
            (title, " → ".join(f"{rate * factor(step):.3g}" for step in steps))
            for title, rate, factor in zip(titles, rates, schedule.lr_lambdas)
        ]
    except (ArithmeticError, TypeError, ValueError) as error:
        raise SetrError(f"the schedule {name} cannot be used with lr_scheduler_kwargs {settings}: {error}") from error
    return rows[:1] if rates[0] == rates[1] else rows


def batch_row(options: Namespace) -> tuple[str, object]:
    """The global batch and its split."""
    count, size = count_processes(options), options.per_device_train_batch_size
    accumulation = options.gradient_accumulation_steps
    total = count * size * accumulation
    return "batch", f"{total} = processes {count} × per device {size} × accumulation {accumulation}"


def network_rows(command: Command) -> list[tuple[str, object]]:
    """The decoder with the layers it reads, as they follow from `config`; nothing for a model that is loaded."""
    options, recipe = command.options, command.recipe
    if options.model:
        return []
    config = new_config(options, **({"num_labels": recipe.num_labels} if recipe and recipe.classes else {}))
    layers = (config.decoder_indices, config.auxiliary_out_indices)
    read, auxiliary = (", ".join(map(str, indices or ())) for indices in layers)
    heads = f"on layer {auxiliary}, loss weight {config.auxiliary_loss_weight:g}" if auxiliary else None
    return [
        ("stem network", getattr(config.stem_config, "model_type", None)),
        ("layers and width", f"{config.num_hidden_layers} × {config.hidden_size}"),
        ("decoder", f"{config.decoder_type} on layer {read}"),
        ("auxiliary heads", heads),
    ]


def recipe_rows(command: Command) -> list[tuple[str, object]]:
    recipe = command.recipe
    if recipe is None:
        return []
    results = ", ".join(f"{value:.2f} % {name.replace('_', ' ')}" for name, value in recipe.published.items())
    classes = None if command.options.other_classes or not recipe.classes else recipe.classes
    return [
        ("recipe", f"{recipe.name} ({recipe.origin})" if recipe.origin else recipe.name),
        ("published mean IoU", results or None),
        ("classes", f"the {recipe.num_labels} of {classes}" if classes else None),
    ]


def display(name: str, value: Any, options: Namespace) -> str:
    """A value as it will be used: fractions of a run as iterations."""
    if name in ("eval_steps", "save_steps", "warmup_steps") and 0 < value < 1 and options.max_steps > 0:
        return str(math.ceil(options.max_steps * value))
    if name == "encoder" and value in (None, RANDOM_WEIGHTS):
        return "random weights"
    if name in NEW_MODEL and value is None:
        return "chosen once the photos are known"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def option_rows(command: Command) -> list[tuple[str, object]]:
    """Options that differ from their defaults or always matter; with the recipe's value if they override that."""
    options, overridden = command.options, command.overridden
    shown = {name for name, value in vars(options).items() if value != command.stock[name]} | ALWAYS_SHOWN
    if not options.model:
        shown |= NEW_MODEL - ({"encoder"} if options.backbone else set())
    rows: list[tuple[str, object]] = []
    for name in command.stock:
        if name in overridden or name in shown - SHOWN_ELSEWHERE:
            mark = f"  (recipe: {display(name, overridden[name], options)})" if name in overridden else ""
            rows.append((name, display(name, getattr(options, name), options) + mark))
    return rows


def describe(command: Command) -> list[tuple[str, object]]:
    """What the job will do, for [`print_options`]. Raises [`SetrError`] if options contradict each other."""
    options = command.options
    mixed = "fp16" if options.fp16 else "bf16" if options.bf16 else os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    rows = [
        *recipe_rows(command),
        *network_rows(command),
        *option_rows(command),
        batch_row(options),
        *rate_rows(options),
        ("precision", "fp32" if mixed == "no" else f"{mixed} autocast over fp32 weights"),
    ]
    return [(name, value) for name, value in rows if value is not None]
