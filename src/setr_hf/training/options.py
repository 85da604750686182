"""The options of the train job: defaults from a recipe, what the command line overrides, and what comes of them."""

import json
from argparse import Namespace
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields

import torch
from accelerate.utils import get_int_from_env
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser

from ..data.public_datasets import CLASS_NAMES
from ..model.configuration_setr import SetrConfig, known_fields
from .arguments import SetrTrainingArguments
from .recipes import Recipe, find_recipe


# Names under which launchers tell the number of processes, as accelerate reads them.
WORLD_SIZE_VARIABLES = ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "WORLD_SIZE"]
RANDOM_WEIGHTS = "none"
DEFAULT_CROP_SIZE = 512


@dataclass
class JobArguments:
    """Options of the train job besides those of `SetrTrainingArguments`. Sizes are in pixels."""

    recipe: str | None = field(
        default=None, metadata={"help": "a published run, such as setr-mla-large-ade20k-b16: the defaults of all else"}
    )
    dry_run: bool = field(default=False, metadata={"help": "show what would be done, without data or weights"})
    dataset: str | None = field(
        default=None,
        metadata={"help": "Hub id; folder of ADE20K, Cityscapes or Pascal Context; or images/ + annotations/"},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "configuration of the data set on the Hub"})
    dataset_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of the data set"})
    image_column: str | None = field(default=None, metadata={"help": "column of the photographs"})
    annotation_column: str | None = field(default=None, metadata={"help": "column of the label maps"})
    labels: str | None = field(
        default=None, metadata={"help": f"class names: a JSON file or one of {', '.join(CLASS_NAMES)}"}
    )
    streaming: bool = field(default=False, metadata={"help": "read the data while training; needs --max_steps"})
    skip_bad_samples: bool = field(default=False, metadata={"help": "leave out samples that cannot be used"})
    other_classes: bool = field(
        default=False, metadata={"help": "follow the recipe on data with other classes than its own"}
    )
    model: str | None = field(default=None, metadata={"help": "folder or Hub id of a SETR to go on from"})
    reinitialize_classifier: bool = field(
        default=False, metadata={"help": "with --model: new classifiers, for other classes than the model's"}
    )
    config: str = field(
        default="{}", metadata={"help": 'without --model: SetrConfig fields as JSON, such as {"decoder_type": "pup"}'}
    )
    encoder: str | None = field(
        default=None,
        metadata={"help": "without --model: a ViT or DeiT to start the encoder from (id, name, file), or none"},
    )
    crop_size: list[int] | None = field(
        default=None,
        metadata={"help": "side, or height and width, of training crops and test windows"},
    )
    stride: int | None = field(
        default=None, metadata={"help": "between the starts of test windows; without --model 2/3 of the crop"}
    )
    size: list[int] | None = field(
        default=None,
        metadata={"help": "short side, or short side and limit of the long side, that ratio 1 stands for"},
    )
    test_size: list[int] | None = field(default=None, metadata={"help": "the same of photographs in evaluation"})
    min_scale: float = field(default=0.5, metadata={"help": "least ratio of random scaling"})
    max_scale: float = field(default=2.0, metadata={"help": "largest ratio of random scaling"})
    category_max_ratio: float = field(
        default=0.75, metadata={"help": "largest share of a crop's labelled pixels in one class; 1 for no limit"}
    )
    photometric_distortion: bool = field(default=True, metadata={"help": "distort colours"})
    loss_average: str | None = field(
        default=None, metadata={"help": 'over the "valid" pixels, or over "all" as in the paper (SetrConfig)'}
    )
    global_batch_size: int | None = field(
        default=None, metadata={"help": "samples in a step of the optimizer, over all devices and accumulated batches"}
    )


@dataclass(frozen=True)
class Command:
    """
    A parsed command line of the train job.

    Args:
        parser: Its parser, with the recipe's values as defaults.
        options: All options by name: what was given, else the recipe's, else the stock default.
        given: Names of the options that were given.
        recipe: The recipe, if one was named.
        recipe_options: The recipe's values of options.
    """

    parser: HfArgumentParser
    options: Namespace
    given: Collection[str]
    recipe: Recipe | None
    recipe_options: dict

    def to_dataclasses(self) -> tuple[JobArguments, SetrTrainingArguments]:
        """The options as the two dataclasses, the second of which sets up devices and processes."""
        return self.parser.parse_dict(vars(self.options))


def recipe_options(recipe: Recipe) -> dict:
    """What a recipe says, by names of options."""
    return {
        **recipe.training_arguments,
        "encoder": recipe.encoder,
        "crop_size": list(recipe.crop_size),
        "stride": recipe.stride,
        "size": list(recipe.size.values()),
        "test_size": list(recipe.test_size.values()),
        "min_scale": recipe.scale_range[0],
        "max_scale": recipe.scale_range[1],
        "category_max_ratio": recipe.category_max_ratio,
        "photometric_distortion": recipe.photometric_distortion,
        "loss_average": recipe.semantic_loss_average,
        "global_batch_size": recipe.batch_size,
        "output_dir": f"outputs/train/{recipe.name}",
    }


def superseded(given: dict, options: dict) -> set[str]:
    """Options of a recipe that lose their meaning by others that were given."""

    def changed(name):
        return name in given and given[name] != options.get(name)

    rules = {
        "optim_args": changed("optim"),
        "lr_scheduler_kwargs": changed("lr_scheduler_type"),
        "max_steps": "num_train_epochs" in given,
        "bf16": bool(given.get("fp16")),
        "stride": changed("crop_size"),
        "dataloader_persistent_workers": given.get("dataloader_num_workers") == 0,
        "encoder": "model" in given,
    }
    return {name for name, is_superseded in rules.items() if is_superseded and name not in given}


def count_processes(options: Namespace) -> int:
    """
    Number of processes of this run, from the launcher's environment. A dry run without a launcher counts one for each
    GPU.

    Raises:
        `ValueError`: one process would train on several GPUs, for which `Trainer` has `torch.nn.DataParallel`: neither
            the batch nor BatchNorm are those of a process for each GPU then.
    """
    count = get_int_from_env(WORLD_SIZE_VARIABLES, 0)
    if count or options.use_cpu:
        return count or 1
    num_gpus = torch.cuda.device_count()
    if num_gpus > 1 and not options.dry_run:
        raise ValueError(
            f"one process sees {num_gpus} GPUs: start one for each with `accelerate launch --config_file "
            f"scripts/accelerate/eight_gpus.yaml --num_processes {num_gpus} scripts/train.py …`, or choose one by "
            "CUDA_VISIBLE_DEVICES=0"
        )
    return max(1, num_gpus)


def batch_arithmetic(
    batch_size: int, num_processes: int, per_device: int | None = None, accumulation: int | None = None
) -> tuple[int, int]:
    """
    Splits a global batch: batch_size = num_processes × per_device × accumulation. What is None follows from the
    others; where both are, the whole share of a process goes to the device at once.

    Returns:
        Samples per device, and number of batches whose gradients are accumulated for a step of the optimizer.

    Raises:
        `ValueError`: a number is not positive, or the batch cannot be split so; names the possible splits.
    """
    for name, value in (("batch", batch_size), ("batch per device", per_device), ("accumulation", accumulation)):
        if value is not None and value < 1:
            raise ValueError(f"the {name} must be at least 1, got {value}")
    share, rest = divmod(batch_size, num_processes)
    if rest:
        possible = [count for count in range(1, batch_size + 1) if batch_size % count == 0]
        raise ValueError(
            f"a global batch of {batch_size} cannot be split over {num_processes} processes: start "
            f"{', '.join(map(str, possible))} of them, or choose another batch with --global_batch_size"
        )
    if per_device is None:
        per_device = max(1, share // (accumulation or 1))
    if accumulation is None:
        accumulation = max(1, share // per_device)
    product = num_processes * per_device * accumulation
    if product != batch_size:
        splits = ", ".join(f"{size} × {share // size}" for size in range(1, share + 1) if share % size == 0)
        raise ValueError(
            f"processes {num_processes} × per device {per_device} × accumulation {accumulation} = {product} is not "
            f"the global batch of {batch_size}. With {num_processes} processes, per device × accumulation can be "
            f"{splits}. For another batch, set --global_batch_size {product}"
        )
    return per_device, accumulation


def parse_command(argv: Sequence[str] | None, description: str) -> Command:
    """
    Parses a command line; a recipe named there sets the defaults of all other options.

    Raises:
        `ValueError`: no such recipe, options that exclude each other, or a batch that cannot be split.
    """
    # Listing all options takes a screen, and is left to --help.
    usage = "%(prog)s [--recipe NAME] --dataset DATA [options]"
    parser = HfArgumentParser((JobArguments, SetrTrainingArguments), description=description, usage=usage)
    names = [option.name for kind in parser.dataclass_types for option in fields(kind)]
    unset = object()
    namespace = vars(parser.parse_args(argv, Namespace(**dict.fromkeys(names, unset))))
    given = {name: value for name, value in namespace.items() if value is not unset}
    recipe = find_recipe(given["recipe"]) if given.get("recipe") else None
    defaults = recipe_options(recipe) if recipe else {"output_dir": "outputs/train/run"}
    dropped = superseded(given, defaults)
    parser.set_defaults(**{name: value for name, value in defaults.items() if name not in dropped})
    options = parser.parse_args(argv)
    check_options(options, given)
    if not options.model:
        options.crop_size = options.crop_size or [DEFAULT_CROP_SIZE]
        # Neighbouring windows overlap by a third, as in the paper's test protocol.
        options.stride = options.stride or max(1, min(options.crop_size) * 2 // 3)
    if options.global_batch_size is not None:
        options.per_device_train_batch_size, options.gradient_accumulation_steps = batch_arithmetic(
            options.global_batch_size,
            count_processes(options),
            given.get("per_device_train_batch_size"),
            given.get("gradient_accumulation_steps"),
        )
    return Command(parser, options, given.keys(), recipe, {} if recipe is None else defaults)


def check_options(options: Namespace, given: Collection[str]):
    """Raises a `ValueError` for options that exclude each other or are out of range."""
    if options.model:
        for name in ("config", "encoder"):
            if name in given:
                raise ValueError(f"--{name} describes a new model: leave it out with --model, or leave out --model")
    elif options.reinitialize_classifier:
        raise ValueError("--reinitialize_classifier belongs to --model: a new model has new classifiers")
    if options.other_classes and not options.recipe:
        raise ValueError("--other_classes belongs to --recipe")
    if not options.dataset and not options.dry_run:
        raise ValueError("--dataset is missing: a folder or Hub id (--dry_run shows a recipe without)")
    if not 0 < options.min_scale <= options.max_scale:
        raise ValueError(f"--min_scale {options.min_scale:g} and --max_scale {options.max_scale:g} are no range")
    if options.loss_average not in (None, "valid", "all"):
        raise ValueError(f'--loss_average must be "valid" or "all", got {options.loss_average!r}')
    for name in ("crop_size", "size", "test_size"):
        sides = getattr(options, name)
        if sides is not None and (len(sides) > 2 or min(sides) < 1):
            raise ValueError(f"--{name} takes one or two numbers of pixels, got {' '.join(map(str, sides))}")


def size_of(sides: Sequence[int]) -> dict[str, int]:
    """A size in the image processor's terms from a short side, or a short side and a limit of the long side."""
    return dict(zip(("shortest_edge", "longest_edge"), sides))


def crop_of(sides: Sequence[int]) -> tuple[int, int]:
    """Height and width from one side or two."""
    return sides[0], sides[-1]


def new_config(command: Command, **classes) -> SetrConfig:
    """
    The configuration of a new model: fields of the command line over the recipe's, and those of `classes`.

    Raises:
        `ValueError`: `--config` is no JSON object of `SetrConfig` fields, or these contradict each other.
    """
    options = command.options
    try:
        told = json.loads(options.config)
    except json.JSONDecodeError as error:
        raise ValueError(f"--config {options.config!r} is no JSON: {error}") from None
    if not isinstance(told, dict):
        raise ValueError(f"--config must be a JSON object of SetrConfig fields, got {options.config}")
    fields = dict(command.recipe.network) if command.recipe else {}
    fields["image_size"] = crop_of(options.crop_size)
    if options.loss_average:
        fields["semantic_loss_average"] = options.loss_average
    try:
        return SetrConfig(**fields | known_fields(told, "--config") | classes)
    except StrictDataclassError as error:
        raise ValueError(f"--config {options.config}: {error}") from error
