"""Model, image processor and checks of a train job, before its first step."""

from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal
from torch import nn
from torchvision.transforms import v2
from transformers import AutoImageProcessor
from transformers.utils import logging

from ..cards.benchmarks import find_benchmark
from ..checkpoints.encoder import IMAGENET, load_encoder
from ..checkpoints.inflation import Normalization, inflate_projection
from ..data.arguments import dataset_name
from ..data.augmentation import training_transform
from ..data.checks import checked_samples
from ..data.examples import collate, evaluation_examples, training_examples
from ..data.label_sets import LabelSet, check_classes
from ..data.public_datasets import CLASS_NAMES
from ..data.rows import SegmentationData
from ..errors import SetrError
from ..inference.devices import has_bf16
from ..inference.loading import NotASetr, check_channels, load_network, load_processor, loading
from ..model.configuration_setr import SetrConfig
from ..model.image_processing_setr import SetrImageProcessor
from ..model.modeling_setr import SetrForSemanticSegmentation
from .adapters import add_lora, lora_rows
from .arguments import SetrTrainingArguments
from .bands import BandChoice, bands_of_data, bands_of_model
from .cost import cost_rows
from .loss_options import loss_fields, loss_rows, weigh_classes
from .memory import MeasuredMemory, MemoryNotKnown, MemoryPlan, available_memory, plan_memory
from .options import (
    RANDOM_WEIGHTS,
    Command,
    JobArguments,
    crop_sides,
    find_backbone,
    new_config,
    size_of,
    starts_at_random,
)
from .output_folder import bytes_of, is_complete, last_complete_checkpoint
from .recipes import Recipe
from .run_card import RunFacts
from .sizes import choose_sizes, sizes_row
from .trainer import SetrTrainer


logger = logging.get_logger(__name__)


def check_precision(options: Namespace) -> None:
    """Raises a [`SetrError`] for half precision that no GPU has. bf16 on the CPU works, and needs `use_cpu`; a warning
    says if it is slow there.
    """
    if options.bf16 and not has_bf16(options.use_cpu):
        if not options.use_cpu:
            raise SetrError(
                "bf16 needs a CUDA device that supports it, and there is none: pass --bf16 false for fp32, or "
                "--use-cpu for bf16 on the CPU"
            )
        logger.warning("This CPU imitates bf16, many times as slowly as fp32: --bf16 false is quicker")
    if options.fp16 and (options.use_cpu or not torch.cuda.is_available()):
        raise SetrError("fp16 needs a CUDA device, and this run has none: pass --fp16 false for fp32")


def check_recipe_classes(recipe: Recipe, label_set: LabelSet) -> None:
    """Raises a [`SetrError`] if the data's classes are not those of the recipe's data set."""
    if recipe.classes is None:
        return
    expected = CLASS_NAMES[recipe.classes]
    names = label_set.names
    hint = "pass --other-classes to follow the recipe on these classes"
    if len(names) != len(expected):
        counts = f"the {len(expected)} classes of {recipe.classes}, the data has {len(names)}"
        raise SetrError(f"{recipe.name} is for {counts}: {hint}")
    for index, (name, wanted) in enumerate(zip(names, expected)):
        if name.strip().lower() != wanted.lower():
            raise SetrError(
                f"class {index} of {recipe.classes}, which {recipe.name} is for, is {wanted!r}; in the data it is "
                f"{name!r}: {hint}"
            )


def build_processor(job: JobArguments, label_set: LabelSet, bands: BandChoice) -> SetrImageProcessor:
    """The image processor of `job.model`, or a new one with sliding windows; options override its settings."""
    settings: dict[str, Any] = {"do_reduce_labels": label_set.is_reduced, **bands.processor_settings}
    if job.crop_size:
        settings["crop_size"] = {"height": job.crop_size[0], "width": job.crop_size[-1]}
    if job.stride:
        settings["stride"] = job.stride
    if test_size := job.test_size or job.size:
        settings |= {"size": size_of(test_size), "do_resize": True}
    if job.model:
        return load_processor(job.model, **settings)
    if job.backbone and bands.num_bands in (None, 3):
        settings |= normalization_of(job.backbone)
    try:
        return SetrImageProcessor(**{"do_split_image": True, "antialias": False, "do_resize": False, **settings})
    except ValueError as error:
        raise SetrError(f"the sizes {settings} cannot be used: {error}") from error


def is_classifier(name: str) -> bool:
    """Whether a parameter, by its name in [`SetrForSemanticSegmentation`], has a dimension of classes."""
    return "classifier." in name or "auxiliary_classifiers." in name


def load_model(
    job: JobArguments, label_set: LabelSet, loss: dict[str, Any]
) -> tuple[SetrForSemanticSegmentation, str]:
    """`job.model` with the data's classes, or new classifiers if asked for, and the fields `loss` of its
    configuration; and a line on what was loaded.
    """
    try:
        # Weights saved in half precision would be trained in it, where small steps are rounded away.
        model = load_network(str(job.model), torch.float32)
    except NotASetr as error:
        raise SetrError(f"{error}: --encoder {job.model} starts a new SETR from its encoder") from None
    if not job.reinitialize_classifier:
        try:
            check_classes(model.config, label_set)
        except SetrError as error:
            raise SetrError(
                f"{job.model}: {error}. --reinitialize-classifier trains new classifiers for the data's classes and "
                "keeps all other weights"
            ) from None
    if not job.reinitialize_classifier:
        model.config.update(label_set.config_fields | loss)
        return model, f"all weights from {job.model}"
    fields = label_set.config_fields | ({"is_binary": True} if job.binary else {})
    try:
        new = ", ".join(model.reset_classifiers(**fields))
    except ValueError as error:
        raise SetrError(f"--binary: {error}") from error
    model.config.update(loss)
    classifiers = f"the classifiers, which are new for {len(label_set.id2label)} classes: {new}"
    return model, f"all weights from {job.model} but {classifiers}"


def initialize_as_mmseg(model: SetrForSemanticSegmentation) -> None:
    """Initializes the decoder as mmsegmentation does: classifiers normal (0.01), convolutions by Kaiming, fan-out."""
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d) or name.startswith("setr."):
            continue
        if is_classifier(f"{name}."):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        else:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def check_memory(config: SetrConfig) -> None:
    """Raises a [`SetrError`] if a new model's weights alone take more memory than is known to be left."""
    with torch.device("meta"):
        parameters = SetrForSemanticSegmentation(config).num_parameters()
    with suppress(OSError):
        available = available_memory()
        if 4 * parameters > available:
            raise SetrError(
                f"a network of {parameters:,} parameters, which --config and --crop-size describe, takes "
                f"{decimal(4 * parameters)} of memory, and {decimal(available)} are left: make it smaller"
            )


def load_backbone(model: SetrForSemanticSegmentation, source: str, bands: BandChoice) -> str:
    """Loads the encoder's pretrained weights; returns a line that says so."""
    inflate = None
    if bands.normalization is not None and len(bands.normalization) != 3:
        told = normalization_of(source)
        rgb = Normalization(told["image_mean"], told["image_std"]) if len(told) == 2 else IMAGENET
        inflate = partial(inflate_projection, rgb=rgb, bands=bands.normalization)
    try:
        with loading(f"the backbone {source}"):
            count = model.load_backbone(source, inflate)
    except ValueError as error:
        raise SetrError(error) from error
    return f"all {count:,} encoder parameters loaded from {source}{', RGB kernels inflated' if inflate else ''}"


def normalization_of(source: str) -> dict[str, Any]:
    """The mean and the standard deviation with which a backbone was trained, as settings of the image processor; none
    if its files do not say.
    """
    config = find_backbone(source)
    told: Any = getattr(config, "pretrained_cfg", None) or {}
    found = {"image_mean": told.get("mean"), "image_std": told.get("std")}
    with suppress(OSError, ValueError, ImportError):
        processor: Any = AutoImageProcessor.from_pretrained(source)
        processor = getattr(processor, "image_processor", processor)
        found = {name: getattr(processor, name, None) or value for name, value in found.items()}
    return {name: list(value) for name, value in found.items() if value}


def new_model(
    command: Command, label_set: LabelSet, bands: BandChoice, checkpoint: str | None = None
) -> tuple[SetrForSemanticSegmentation, str]:
    """A model for the data's classes and bands, and a line that says what its weights start from; those of a
    `checkpoint`, which with adapters has no encoder, are not read yet.
    """
    num_channels = {} if bands.num_bands is None else {"num_channels": bands.num_bands}
    options = command.options
    config = new_config(options, **label_set.config_fields, **num_channels)
    check_memory(config)
    model = SetrForSemanticSegmentation(config)
    if command.recipe and command.recipe.origin == "mmsegmentation":
        initialize_as_mmseg(model)
    # Of a run with adapters, the checkpoint does not hold the encoder.
    has_encoder = checkpoint and options.lora is None
    if options.backbone and not has_encoder:
        return model, load_backbone(model, options.backbone, bands)
    if has_encoder or starts_at_random(options):
        return model, "all weights are random"
    normalization = None if bands.num_bands is None else bands.normalization
    return model, str(load_encoder(model, options.encoder, options.stem, normalization))


def adapters(job: JobArguments | Namespace) -> Callable[[SetrForSemanticSegmentation], Any] | None:
    """What puts the adapters that were asked for into a model, if they were."""
    if job.lora is None:
        return None
    encoder = None if job.encoder == RANDOM_WEIGHTS else job.encoder
    base = job.model or job.backbone or encoder
    return partial(add_lora, rank=job.lora, alpha=job.lora_alpha, dropout=job.lora_dropout, base_model=base)


def build_transform(job: JobArguments, processor: SetrImageProcessor) -> v2.Compose:
    """The augmentation of training photos; ratio 1 is `job.size`, or the size they are tested at."""
    size = size_of(job.size) if job.size else {k: v for k, v in dict(processor.size).items() if v is not None}
    window: Any = processor.crop_size
    return training_transform(
        (window.height, window.width),
        (job.min_scale, job.max_scale),
        size if processor.do_resize else None,
        processor.image_mean,
        processor.image_std,
        category_max_ratio=job.category_max_ratio,
        photometric_distortion=job.photometric_distortion and processor.num_bands is None,
        horizontal_flip=job.horizontal_flip,
    )


def checkpoint_to_resume(resume_from_checkpoint: str | None) -> str | bool:
    """What a run resumes: nothing for `None` or "false"; for "true" the last complete checkpoint of the output folder,
    if it exists by then, so that a job which is started again and again needs one command line; else that folder.
    Raises [`SetrError`] if the folder is not a complete checkpoint.
    """
    wanted = str(resume_from_checkpoint or False)
    if wanted.lower() in ("true", "false"):
        return wanted.lower() == "true"
    if not is_complete(wanted):
        last = last_complete_checkpoint(Path(wanted).parent) or "none"
        raise SetrError(f"{wanted} is not a complete checkpoint; the last complete one beside it: {last}")
    return wanted


def check_length(num_samples: int, arguments: SetrTrainingArguments) -> None:
    """Raises a [`SetrError`] if the data does not fill a single batch, and batches that are not full are dropped."""
    batch_size = arguments.train_batch_size * arguments.world_size
    if arguments.dataloader_drop_last and num_samples < batch_size:
        raise SetrError(
            f"{num_samples} training samples do not fill a batch of {batch_size} on all devices: choose a smaller "
            "--global-batch-size, or pass --dataloader-drop-last false"
        )


def card_facts(
    command: Command,
    job: JobArguments,
    config: SetrConfig,
    train_data: SegmentationData,
    validation_data: SegmentationData | None,
) -> RunFacts:
    """What the card of a train job says that its trainer does not know."""
    dataset = train_data.label_set.dataset
    splits = {"train": train_data} | ({} if validation_data is None else {"validation": validation_data})
    benchmarks = {
        None if data.is_stream else find_benchmark(dataset, split, len(data)) for split, data in splits.items()
    }
    counts = [f"{len(data):,} for {split}" for split, data in splits.items() if not data.is_stream]
    sizes = {"crop": job.crop_size, "size at ratio 1": job.size}
    return RunFacts(
        dataset=dataset_name(str(job.dataset)),
        benchmark=benchmarks.pop() if len(benchmarks) == 1 else None,
        validation_fraction=job.validation_fraction,
        model=job.model,
        encoder=job.backbone or (None if job.model or job.encoder == RANDOM_WEIGHTS else job.encoder),
        recipe=command.recipe.name if command.recipe else None,
        rows=[
            *([("photos", ", ".join(counts))] if counts else []),
            *((name, " × ".join(map(str, sides))) for name, sides in sizes.items() if sides),
            ("random scale", f"{job.min_scale:g} to {job.max_scale:g}"),
            ("largest share of a class in a crop", f"{job.category_max_ratio:g}"),
            *([("bands", train_data.num_bands)] if train_data.num_bands is not None else []),
            (
                "photometric distortion",
                "yes" if job.photometric_distortion and train_data.num_bands is None else "no",
            ),
            *([] if job.horizontal_flip else [("mirror images", "no")]),
            *loss_rows(config),
        ],
    )


def fit_to_memory(
    command: Command,
    job: JobArguments,
    arguments: SetrTrainingArguments,
    model: Any,
    processor: SetrImageProcessor,
) -> tuple[SetrTrainingArguments, MemoryPlan | None]:
    """The arguments that fit the memory that was asked for, or is free, and the plan they follow; those there are, and
    none, if the system does not say how much is free.
    """
    window: Any = processor.crop_size
    crop_size, weights = (window.height, window.width), bytes_of(model.state_dict())
    try:
        plan = plan_memory(model.config, arguments, job.memory, crop_size, command.fixed, weights, adapters(job))
    except MemoryNotKnown:
        if job.memory:
            raise
        return arguments, None
    options = vars(command.options)
    # An option that was not given may be None, as good as false.
    if any((options[name] or 0) != value for name, value in plan.options.items()):
        options.update(plan.options)
        _, arguments = command.to_dataclasses()
    return arguments, plan


def planned_rows(command: Command) -> list[tuple[str, object]]:
    """What a dry run says of the memory that was asked for; nothing if none was, as what is free on this computer now
    says nothing of the run. Raises [`SetrError`] if nothing fits.
    """
    options = command.options
    if options.memory is None:
        return []
    if options.model:
        return [("memory plan", "chosen once the model is read")]
    check_precision(options)
    recipe = command.recipe
    config = new_config(options, **({"num_labels": recipe.num_labels} if recipe and recipe.classes else {}))
    _, arguments = command.to_dataclasses()
    plan = plan_memory(config, arguments, options.memory, crop_sides(options), command.fixed, adapt=adapters(options))
    return list(plan.rows)


def make_trainer(
    command: Command,
    job: JobArguments,
    arguments: SetrTrainingArguments,
    train_data: SegmentationData,
    validation_data: SegmentationData | None,
    checkpoint: str | None = None,
) -> tuple[SetrTrainer, list[tuple[str, Any]]]:
    """The trainer of a train job, and what it starts from: names and values for [`print_options`]. `job` and
    `arguments` are the command's [`Command.to_dataclasses`]; the trainer's own say what was chosen to fit the memory.
    Without `validation_data` it has nothing to evaluate on. With a `checkpoint`, which it is to resume, the encoder
    that the run started from is not read again.

    Raises [`SetrError`] if model and data do not fit together, samples are bad, or nothing fits the memory.
    """
    label_set = train_data.label_set
    if command.recipe and not job.other_classes:
        check_recipe_classes(command.recipe, label_set)
    facts: list[tuple[str, Any]] = []
    model: Any
    if job.model:
        model, start = load_model(job, label_set, loss_fields(command.options))
        bands = bands_of_model(job, model, train_data)
    else:
        if sizes := choose_sizes(command.options, train_data):
            facts.append(sizes_row(command.options, sizes))
            vars(command.options).update(sizes)
            vars(job).update(sizes)
        bands = bands_of_data(job, command.options.config.get("num_channels"), train_data)
        model, start = new_model(command, label_set, bands, checkpoint)
    train_data = train_data.with_bands(bands.num_bands)
    if validation_data is not None:
        validation_data = validation_data.with_bands(bands.num_bands)
    processor = build_processor(job, label_set, bands)
    check_channels(model.config, processor, job.model or "to be trained")
    facts += [("start", f"goes on from {checkpoint}" if checkpoint else start), *bands.rows]
    if adapt := adapters(job):
        if starts_at_random(command.options):
            logger.warning("--lora keeps the weights of the encoder, which are random: name trained ones by --model")
        model = adapt(model)
        facts += lora_rows(model)
    if not job.streaming:
        train_data = checked_samples(train_data, job.skip_bad_samples)
    if validation_data is not None:
        validation_data = checked_samples(validation_data.in_memory(), job.skip_bad_samples)
    if not job.streaming:
        count = "none" if validation_data is None else f"{len(validation_data):,}"
        facts.append(("samples", f"{len(train_data):,} for training, {count} for validation"))
    facts += weigh_classes(model.config, command.options, train_data)
    arguments, plan = fit_to_memory(command, job, arguments, model, processor)
    if plan:
        facts += plan.rows
    facts += cost_rows(command, model.num_parameters(), arguments, plan)
    if job.streaming:
        # Each process reads the stream itself: with accelerate's other way, one reader for all, samples are lost.
        arguments.accelerator_config.dispatch_batches = False
    if not job.streaming:
        check_length(len(train_data), arguments)
    ignore_index = model.config.semantic_loss_ignore_index
    train_dataset = training_examples(
        train_data, build_transform(job, processor), arguments.seed, ignore_index, job.skip_bad_samples
    )
    eval_dataset = None if validation_data is None else evaluation_examples(validation_data, ignore_index)
    try:
        trainer = SetrTrainer(
            model=model,
            args=arguments,
            data_collator=collate,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processor,
        )
    except (ImportError, ValueError) as error:  # Of Transformers and Accelerate, on such options as report_to.
        raise SetrError(error) from error
    trainer.run_facts = card_facts(command, job, model.config, train_data, validation_data)
    if plan:
        trainer.add_callback(MeasuredMemory(plan.training_bytes, trainer.run_facts.rows))
    return trainer, facts
