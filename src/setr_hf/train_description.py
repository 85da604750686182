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

from .configuration_setr import SetrConfig
from .inference import published_scales
from .optimization import poly_schedule
from .recipes import Recipe
from .train_options import RANDOM_WEIGHTS, Command, config_fields, count_processes, crop_of


ORIGINS = {
    "original": "as in the original repository",
    "mmsegmentation": "as in mmsegmentation 1.2.2",
    "setr-hf": "a small run of this project",
}


def rate_schedule(options: Namespace, num_steps: int) -> list[list[float]] | None:
    """
    Learning rates of encoder and heads at the top of the schedule, half-way and after the last step, `(2, 3)`; None
    for schedules that depend on what is measured in training.
    """
    rates = (options.learning_rate, options.learning_rate * options.head_learning_rate_ratio)
    optimizer = SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates], lr=rates[0])
    settings = options.lr_scheduler_kwargs or {}
    settings = json.loads(settings) if isinstance(settings, str) else settings
    warmup = options.warmup_steps
    warmup = int(warmup) if warmup >= 1 else math.ceil(num_steps * warmup)
    if "min_lr" in settings and options.lr_scheduler_type == "polynomial":
        schedule = poly_schedule(optimizer, num_steps, **settings)
    else:
        schedule = get_scheduler(options.lr_scheduler_type, optimizer, warmup, num_steps, settings)
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


def describe(command: Command) -> str:
    """What the job will do, in lines for a terminal; neither data nor weights are read."""
    options, recipe = command.options, command.recipe
    lines = []
    if options.model:
        lines.append(("model", options.model + (", with new classifiers" if options.reinitialize_classifier else "")))
    else:
        classes = {"num_labels": recipe.num_labels} if recipe and recipe.num_labels else {}
        config = SetrConfig(**{**classes, **config_fields(command)})
        start = options.encoder if options.encoder not in (None, RANDOM_WEIGHTS) else "random weights"
        lines.append(("encoder", f"{config.num_hidden_layers} layers, {config.hidden_size} wide, from {start}"))
        read, auxiliary = (", ".join(map(str, x)) for x in (config.decoder_indices, config.auxiliary_out_indices))
        heads = f"auxiliary heads on {auxiliary}, loss weight {config.auxiliary_loss_weight:g} each"
        lines.append(
            ("decoder", f"{config.decoder_type} on layer {read}; {heads if auxiliary else 'no auxiliary heads'}")
        )
    data = options.data or "(--data is not given)"
    if recipe and recipe.dataset and not options.other_classes:
        data += f", which must be {recipe.dataset} with its {recipe.num_labels} classes"
    lines.append(("data", data))
    crop = "×".join(map(str, crop_of(options.crop_size))) if options.crop_size else "as large as the model's windows"
    rule = f" ({options.category_max_ratio:g} of one class at most)" if options.category_max_ratio < 1 else ""
    size = describe_size(options.size) if options.size or not options.model else "the size the model is tested at"
    colours = "photometric distortion" if options.photometric_distortion else "colours as they are"
    scale = f"{options.min_scale:g} to {options.max_scale:g} times {size}"
    lines.append(("augmentation", f"{scale}; crop {crop}{rule}; mirror; {colours}"))
    length = f"{options.max_steps:,} iterations" if options.max_steps > 0 else f"{options.num_train_epochs:g} epochs"
    lines.append(("training", length))
    lines.append(("batch", describe_batch(options, recipe)))
    decay = f"weight decay {options.weight_decay:g}"
    clip = f"gradients clipped at norm {options.max_grad_norm:g}" if options.max_grad_norm else "no gradient clipping"
    optimizer = " ".join(filter(None, (options.optim, options.optim_args)))
    lines.append(("optimizer", f"{optimizer}, {decay}, {clip}"))
    lines.append(("rates", describe_rates(options)))
    averages = {"all": "all pixels, ignored ones at 0", "valid": "the labelled pixels"}
    lines.append(("loss", f"cross-entropy, mean over {averages[options.loss_average or 'valid']}"))
    windows = f"windows {crop}" + (f" every {options.stride}" if options.stride else "")
    test_sides = options.test_size or options.size
    test_size = "the model's size" if options.model and not test_sides else describe_size(test_sides)
    lines.append(("evaluation", f"{describe_when('eval', options)}: single scale, {test_size}; {windows}"))
    lines.append(("checkpoints", f"{describe_when('save', options)}, in {options.output_dir}"))
    lines.append(("precision", describe_precision(options)))
    if recipe:
        lines.append(("published", describe_published(command)))
        changed = [
            f"{name} {getattr(options, name)} ({value})"
            for name, value in command.recipe_options.items()
            if getattr(options, name) != value
        ]
        lines.append(("overridden", ", ".join(changed) or "nothing"))
    title = f"{recipe.name}: {ORIGINS[recipe.origin]}\n" if recipe else ""
    return title + "\n".join(f"  {label:<13} {text}" for label, text in lines)


def describe_batch(options: Namespace, recipe: Recipe | None) -> str:
    count, size = count_processes(options.use_cpu), options.per_device_train_batch_size
    accumulation = options.gradient_accumulation_steps
    total = count * size * accumulation
    text = f"{total} = processes {count} × per device {size} × accumulation {accumulation}"
    if recipe and total != recipe.batch_size:
        text += f"; the recipe's is {recipe.batch_size}: rates and iterations stay the recipe's unless you change them"
    return text


def describe_published(command: Command) -> str:
    single, multi = command.recipe.published
    if single is None:
        return "nothing: a run of this project, see its README"
    text = f"mean IoU {single:.2f} % at a single scale"
    if multi is None:
        return text
    if command.recipe.origin != "original":
        return f"{text}, {multi:.2f} % at several with mirror images"
    config = SetrConfig(**command.recipe.network, num_labels=command.recipe.num_labels)
    scales = ", ".join(f"{scale:g}" for scale in published_scales(config))
    return f"{text}, {multi:.2f} % at {scales} with mirror images"
