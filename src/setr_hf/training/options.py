"""The options of the train job: a recipe's, what the command line overrides, and what follows from both."""

import json
import math
import sys
from argparse import Namespace
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser, PreTrainedConfig, Trainer, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from ..data.arguments import HoldOutArguments, check_fraction, option
from ..data.class_weights import RULES
from ..errors import SetrError
from ..files import parse_object
from ..model.configuration_setr import SetrConfig, known_fields
from ..model.image_processing_setr import MAX_WINDOW_PIXELS, check_normalization
from ..model.plain_backbone_setr import read_backbone_config, with_channels
from ..model.presets_setr import Preset, find_preset
from ..repositories import check_model
from ..text import one_line
from .adapters import FOR_WHOLE_WEIGHTS, LORA_LEARNING_RATE, check_settings, import_peft
from .arguments import SCORES, SetrTrainingArguments, check_values
from .batch_size import AUTO, split_batch
from .loss_options import check_loss_options, loss_fields
from .memory import parse_memory
from .recipes import Recipe, find_recipe


RANDOM_WEIGHTS = "none"
# The value of `--encoder` for the public weights that fit the preset.
PUBLIC_WEIGHTS = "pretrained"
DEFAULT_CROP_SIZE = 512


@dataclass
class RunArguments:
    """What is trained."""

    _argument_group_name = "recipe, model and batch"

    recipe: str | None = option(None, "a name of `setr-hf recipes`, or a .yaml file: sets defaults")
    dry_run: bool = option(False, "show what would be done, without data or weights")
    model: str | None = option(None, "folder or Hub id of a SETR to start from")
    reinitialize_classifier: bool = option(False, "with --model: new classifiers, for other classes")
    preset: str | None = option(None, "a network of `setr-hf recipes --presets`, such as tiny")
    config: dict[str, Any] | str | None = option(None, 'SetrConfig fields, over the preset: {"decoder_type": "pup"}')
    encoder: str | None = option(None, "ViT or DeiT (id, name, file), pretrained (--preset's) or none")
    stem: str | None = option(None, "where the weights of a preset's or config's stem are from, if not the encoder's")
    backbone: str | None = option(None, "pretrained plain ViT (folder, Hub id) as the encoder: DINOv2, CLIP, …")
    lora: int | None = option(None, "rank of LoRA adapters, trained in place of the encoder", metavar="RANK")
    lora_alpha: float | None = option(None, "alpha of LoRA: adapters count alpha / rank; the rank by default")
    lora_dropout: float = option(0.0, "share of the adapters' inputs that is left out in training")
    binary: bool = option(False, "one logit for the second of two classes, as num_labels=1")
    loss: list[str] | None = option(None, "losses and their weights, such as cross_entropy=1 dice=0.5")
    class_weights: list[str] | None = option(None, f"a number for each, or {', '.join(RULES)}")
    label_smoothing: float | None = option(None, "share of the target spread over all classes")
    loss_average: str | None = option(None, 'over the "valid" pixels, or over "all" as in the paper')
    global_batch_size: int | None = option(None, "samples in a step of the optimizer, over all devices")
    memory: str | None = option(None, "what to fit training into, such as 8GB, if not what is free")


@dataclass
class TrainDataArguments(HoldOutArguments):
    """As [`HoldOutArguments`], and how the data is used."""

    streaming: bool = option(False, "read the data while training; needs --max-steps")
    skip_bad_samples: bool = option(False, "leave out samples that cannot be used")
    other_classes: bool = option(False, "follow the recipe on other classes than its own")


@dataclass
class AugmentationArguments:
    """Sizes, in pixels, and what training photos go through."""

    _argument_group_name = "sizes, in pixels, and augmentation"

    crop_size: list[int] | None = option(None, "side, or both, of crops and test windows, if not from the photos")
    stride: int | None = option(None, "between starts of test windows, if not 2/3 of the crop")
    size: list[int] | None = option(None, "at scale 1: the short side, or it and the longest long one")
    test_size: list[int] | None = option(None, "the same for photos in evaluation")
    min_scale: float = option(0.5, "smallest ratio of random scaling")
    max_scale: float = option(2.0, "largest ratio of random scaling")
    category_max_ratio: float = option(0.75, "largest share of a class in a crop")
    photometric_distortion: bool = option(True, "whether colours are distorted, of RGB")
    horizontal_flip: bool = option(True, "whether half of the photos are mirrored")
    image_mean: list[float] | None = option(None, "of each band, if not that of the training photos or ImageNet")
    image_std: list[float] | None = option(None, "its standard deviation, likewise")


@dataclass
class JobArguments(RunArguments, TrainDataArguments, AugmentationArguments):
    """All options of the train job besides those of [`SetrTrainingArguments`]."""


# What the train job's parser is made from, a group each.
ARGUMENTS = (RunArguments, TrainDataArguments, AugmentationArguments, SetrTrainingArguments)
COMMON = {"output_dir", "learning_rate", "per_device_train_batch_size"}
# Options that few runs need, most of them of Transformers; for `JobParser`.
HIDDEN = {option.name for option in fields(TrainingArguments)} - COMMON | {
    "stem",
    "loss_average",
    "annotation_column",
    "image_column",
    "dataset_revision",
    "other_classes",
    "layer_decay",
    "ema",
    "lora_alpha",
    "lora_dropout",
    "sync_batch_norm",
    "freeze_batch_norm",
    "freeze_encoder",
    "feature_folder",
    "eval_window_batch_size",
    "min_scale",
    "max_scale",
    "category_max_ratio",
    "photometric_distortion",
    "horizontal_flip",
    "label_smoothing",
    "image_mean",
    "image_std",
}


@dataclass(frozen=True)
class Command:
    """A parsed command line of the train job. `options` holds all options by name: what was given, else the recipe's,
    else the stock default; its `config` holds the given fields over the recipe's. `overridden` are the recipe's values
    of the options that differ from it. `fixed` are the names of what the command line or the recipe sets, which
    [`plan_memory`] leaves as it is.
    """

    parser: HfArgumentParser
    options: Namespace
    stock: dict[str, Any]
    recipe: Recipe | None
    overridden: dict[str, Any]
    fixed: frozenset[str]

    def to_dataclasses(self) -> tuple[JobArguments, SetrTrainingArguments]:
        """The options as two dataclasses, the second of which sets up devices and processes. Raises [`SetrError`] for
        values that Transformers refuses, and would refuse only once the data is read.
        """
        options = vars(self.options)
        job = JobArguments(**{option.name: options[option.name] for option in fields(JobArguments)})
        try:
            arguments = self.parser.parse_dict(options)[-1]
        # Of a package that is not installed, a file that is not there, and a key that a configuration does not have.
        except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise SetrError(error) from error
        check_supported(arguments)
        return job, arguments


def check_supported(arguments: TrainingArguments) -> None:
    """Raises a [`SetrError`] for an optimizer or a tracker that is not known or not installed, of which the `Trainer`
    would hear only once the data is read.
    """
    try:
        Trainer.get_optimizer_cls_and_kwargs(arguments)
    except (ImportError, TypeError, ValueError) as error:
        raise SetrError(f"--optim-args {arguments.optim_args!r} cannot be used: {error}") from error
    try:
        for callback in get_reporting_integration_callbacks(arguments.report_to):
            callback()
    except (ImportError, RuntimeError, ValueError) as error:
        raise SetrError(f"--report-to {' '.join(arguments.report_to)} cannot be used: {error}") from error


def batch_per_device(text: str) -> int | str:
    """The value of `--per-device-train-batch-size`."""
    return AUTO if text == AUTO else int(text)


def accept_auto(parser: HfArgumentParser) -> None:
    """Lets `--per-device-train-batch-size` be "auto", which the field's type does not allow."""
    for action in parser._actions:
        if action.dest == "per_device_train_batch_size":
            action.type = batch_per_device
            action.help = "samples on a device at once, or auto"


def recipe_arguments(options: dict[str, Any]) -> list[str]:
    """Options of a recipe as a command line."""
    arguments = []
    for name, value in options.items():
        if isinstance(value, list):
            arguments += [f"--{name}", *map(str, value)]
        elif value is not None:
            arguments.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return arguments


def superseded(given: dict[str, Any], options: dict[str, Any]) -> set[str]:
    """Options of a recipe that lose their meaning because of others that were given."""

    def changed(name: str) -> bool:
        return name in given and given[name] != options.get(name)

    has_own_encoder = bool({"model", "backbone"} & set(given))
    rules = {
        "optim_args": changed("optim"),
        "lr_scheduler_kwargs": changed("lr_scheduler_type"),
        "max_steps": "num_train_epochs" in given,
        "bf16": bool(given.get("fp16")),
        "stride": changed("crop_size"),
        "dataloader_persistent_workers": given.get("dataloader_num_workers") == 0,
        "encoder": has_own_encoder or changed("preset"),
        "stem": has_own_encoder or changed("preset"),
        "config": "model" in given,
        "eval_strategy": given.get("validation_fraction") == 0,
        "load_best_model_at_end": given.get("validation_fraction") == 0,
        "preset": has_own_encoder,
    }
    return {name for name, is_superseded in rules.items() if is_superseded and name not in given}


def read_object(name: str, text: str) -> dict[str, Any]:
    """The JSON object in an option's value. Raises [`SetrError`] for what is none."""
    try:
        return parse_object(text)
    except ValueError as error:
        raise SetrError(f"{flag(name)} {text!r} is not a JSON object: {error}") from None


def parse_command(argv: Sequence[str] | None, parser: HfArgumentParser | None = None) -> Command:
    """Parses a command line (this process's if `argv` is `None`) with a parser of `ARGUMENTS`; a recipe named there
    sets the defaults of all other options. Raises [`SetrError`] if there is no such recipe, options exclude each
    other, or the batch cannot be split.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = parser or HfArgumentParser(ARGUMENTS)
    accept_auto(parser)
    names = [option.name for kind in ARGUMENTS for option in fields(kind) if option.init]
    unset = object()
    namespace = vars(parser.parse_args(argv, Namespace(**dict.fromkeys(names, unset))))
    given = {name: value for name, value in namespace.items() if value is not unset}
    recipe = find_recipe(given["recipe"]) if given.get("recipe") else None
    follows: dict[str, Any] = {}
    if recipe:
        recipe.check_options(set(names) - {"recipe", "dry_run"})
        defaults = vars(parser.parse_args(recipe_arguments(recipe.options)))
        follows = {name: defaults[name] for name in recipe.options}
        follows["config"] = recipe.options.get("config") or {}
    stock = vars(parser.parse_args([]))
    dropped = superseded(given, follows)
    kept = {name: value for name, value in follows.items() if name not in dropped}
    parser.set_defaults(output_dir=f"outputs/train/{recipe.name if recipe else 'run'}")
    parser.set_defaults(**kept)
    options = parser.parse_args(argv)
    given_config = read_object("config", given.get("config") or "{}")
    options.config = network_fields(options, kept.get("config", {}), given, given_config)
    check_options(options, given)
    name_public_weights(options)
    if options.lora and "learning_rate" not in kept | given:
        options.learning_rate = LORA_LEARNING_RATE
    check_loss_options(options, given_config)
    if options.crop_size:
        if not options.model:
            options.stride = options.stride or default_stride(options.crop_size)
        check_windows(options.crop_size, options.stride or 1)
    overridden = {name: value for name, value in follows.items() if getattr(options, name) != value}
    split_batch(options, kept | given)
    fixed = frozenset(name for name, value in (kept | given).items() if value != AUTO)
    return Command(parser, options, stock, recipe, overridden, fixed)


def starts_at_random(options: Namespace) -> bool:
    """Whether the weights of the encoder come from nowhere."""
    return not (options.model or options.backbone) and options.encoder in (None, RANDOM_WEIGHTS)


def preset_of(options: Namespace) -> Preset | None:
    """The preset of a new model. Raises [`SetrError`] if there is none of that name."""
    try:
        return find_preset(options.preset) if options.preset else None
    except ValueError as error:
        raise SetrError(f"--preset: {error}") from None


def network_fields(
    options: Namespace, of_recipe: dict[str, Any], given: Collection[str], given_config: dict[str, Any]
) -> dict[str, Any]:
    """The `config` of a new model: what is given over what the recipe says. A preset is among what is given, or what
    the recipe's own fields override if that names it.
    """
    preset = preset_of(options)
    fields = preset.fields if preset else {}
    return (of_recipe | fields if "preset" in given else fields | of_recipe) | given_config


def name_public_weights(options: Namespace) -> None:
    """Puts the names of a preset's public weights in the place of "pretrained". Raises [`SetrError`] without one."""
    if options.encoder != PUBLIC_WEIGHTS:
        return
    preset = preset_of(options)
    if preset is None:
        raise SetrError(f"--encoder {PUBLIC_WEIGHTS} belongs to --preset, which says what fits: name an encoder")
    options.encoder, options.stem = preset.encoder, options.stem or preset.stem


def flag(name: str) -> str:
    """An option's name as it is typed."""
    return f"--{name.replace('_', '-')}"


def default_stride(crop_size: Sequence[int]) -> int:
    """Neighbouring windows overlap by a third, as in the paper's test protocol."""
    return max(1, min(crop_size) * 2 // 3)


def crop_sides(options: Namespace) -> tuple[int, int]:
    """Height and width of the crop; the usual ones as long as it is open."""
    sides = options.crop_size or [DEFAULT_CROP_SIZE]
    return sides[0], sides[-1]


def check_windows(crop_size: Sequence[int], stride: int) -> None:
    """Raises a [`SetrError`] for crops that would fill the memory, and for windows with gaps between them."""
    height, width = crop_size[0], crop_size[-1]
    if height * width > MAX_WINDOW_PIXELS:
        megapixels = MAX_WINDOW_PIXELS // 10**6
        raise SetrError(f"--crop-size {height} {width} is too large: crops have at most {megapixels} megapixels")
    if stride > min(height, width):
        raise SetrError(f"--stride {stride} is more than the crop of {height}×{width}: windows would leave gaps")


def check_options(options: Namespace, given: Collection[str]) -> None:
    """Raises a [`SetrError`] for options that exclude each other or are out of range."""
    for name in given:
        # Such as "$MODEL" when there is no such variable.
        if getattr(options, name) == "":
            raise SetrError(f"{flag(name)} is empty")
    if options.model:
        for name in ("config", "encoder", "preset", "stem", "backbone"):
            if name in given:
                raise SetrError(f"{flag(name)} describes a new model: leave it out with --model, or leave out --model")
    elif options.backbone and (others := {"encoder", "preset", "stem"} & set(given)):
        raise SetrError(f"--backbone takes the place of the encoder that {flag(min(others))} describes: leave out one")
    elif options.reinitialize_classifier:
        raise SetrError("--reinitialize-classifier belongs to --model: a new model has new classifiers")
    if options.stem and options.encoder in (None, RANDOM_WEIGHTS):
        raise SetrError(f"--stem {options.stem} belongs to --encoder: name that of the layers after it too")
    if options.lora is not None:
        check_settings(options.lora, options.lora_alpha, options.lora_dropout)
        import_peft()
        for name, unused in FOR_WHOLE_WEIGHTS.items():
            if getattr(options, name) != unused:
                raise SetrError(f"{flag(name)} is for the weights of the encoder, which --lora leaves as they are")
    elif {"lora_alpha", "lora_dropout"} & set(given):
        raise SetrError("--lora-alpha and --lora-dropout belong to --lora")
    if options.other_classes and not options.recipe:
        raise SetrError("--other-classes belongs to --recipe")
    if not options.dataset and not options.dry_run:
        raise SetrError("--dataset is missing: a folder or Hub id (--dry-run shows a recipe without)")
    if not 0 < options.min_scale <= options.max_scale < math.inf:
        raise SetrError(f"--min-scale {options.min_scale:g} and --max-scale {options.max_scale:g} are not a range")
    if options.loss_average not in (None, "valid", "all"):
        raise SetrError(f'--loss-average must be "valid" or "all", got {options.loss_average!r}')
    if not 0 < options.category_max_ratio <= 1:
        raise SetrError(f"--category-max-ratio must be above 0 and at most 1, got {options.category_max_ratio:g}")
    for name in ("crop_size", "size", "test_size"):
        sides = getattr(options, name)
        if sides is not None and (len(sides) > 2 or min(sides) < 1 or max(sides) >= 2**31):
            shown = " ".join(map(str, sides))
            raise SetrError(f"{flag(name)} takes one or two numbers of pixels, got {shown}")
    if options.stride is not None and options.stride < 1:
        raise SetrError(f"--stride must be at least 1, got {options.stride}")
    if options.validation_fraction is not None:
        check_fraction(options.validation_fraction, options.streaming)
    if options.validation_fraction == 0 and options.eval_strategy != "no":
        raise SetrError("--validation-fraction 0 leaves no samples to evaluate on: leave out --eval-strategy")
    if options.metric_for_best_model not in {None, *SCORES, *(f"eval_{name}" for name in SCORES)}:
        raise SetrError(
            f"--metric-for-best-model must be one of {', '.join(SCORES)}, got {options.metric_for_best_model!r}"
        )
    if (options.image_mean is None) != (options.image_std is None):
        raise SetrError("--image-mean and --image-std belong together: pass both, a number for each band")
    if options.image_mean is not None:
        try:
            check_normalization(options.image_mean, options.image_std)
        except ValueError as error:
            raise SetrError(f"--image-mean and --image-std: {error}") from error
    if options.memory is not None:
        parse_memory(options.memory)
    check_values(options)
    for name in (field.name for field in fields(TrainingArguments)):
        value = getattr(options, name)
        if isinstance(value, str) and value.startswith("{"):
            read_object(name, value)


def size_of(sides: Sequence[int]) -> dict[str, int]:
    """A size in the image processor's terms from a short side, or a short side and a limit of the long side."""
    return dict(zip(("shortest_edge", "longest_edge"), sides))


@cache
def find_backbone(source: str) -> PreTrainedConfig:
    """The configuration of a plain ViT. A [`SetrError`] says if there is none of that name, or what it is."""
    check_model(source)
    try:
        return read_backbone_config(source)
    except (ImportError, OSError, ValueError) as error:
        raise SetrError(f"--backbone {source}: {one_line(error, 400)}") from error


def new_config(options: Namespace, **classes: Any) -> SetrConfig:
    """The configuration of a new model, with the fields `classes`. A [`SetrError`] names what contradicts itself."""
    config: dict[str, Any] = options.config
    own: dict[str, Any] = {"image_size": crop_sides(options)}
    own |= config | loss_fields(options) | classes
    if options.backbone:
        backbone = find_backbone(options.backbone)
        channels = classes.get("num_channels")
        own["backbone_config"] = with_channels(backbone, channels) if channels else backbone
    if options.binary:
        own["num_labels"] = 1
    if not classes:
        # As many as there are classes, whose number is not known yet.
        own.pop("semantic_loss_class_weights", None)
    try:
        # The choice of an attention is an argument of every config of Transformers, not a field.
        known_fields({name: value for name, value in config.items() if name != "attn_implementation"}, "it")
        new = SetrConfig(**own)
    except (StrictDataclassError, ValueError) as error:
        raise SetrError(f"--config {json.dumps(config)}: {error}") from error
    if "id2label" in classes and len(new.id2label) != len(classes["id2label"]):
        raise SetrError(
            f"the data has {len(classes['id2label'])} classes, but the model would have {len(new.id2label)}: a binary "
            "model takes background and foreground; leave out num_labels otherwise"
        )
    return new
