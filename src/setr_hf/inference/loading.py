"""The one way in for trained models: whole, finite and without a pickle, or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    CONFIG_NAME,
    IMAGE_PROCESSOR_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
    logging,
)

from ..errors import SetrError
from ..files import parse_json, read_text
from ..model.image_processing_setr import SetrImageProcessorMixin
from ..text import one_line
from .quantization import quantization_config, stored_tensors


# What Transformers raises for files that were not written by it, or not completely.
LOADING_ERRORS = (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
# In the folder of a run with adapters, and in each of its checkpoints.
ADAPTER_FOLDER = "adapter"
# As safetensors calls them.
FLOATING_POINT = ("F64", "F32", "F16", "BF16")
# The ends of the names of whole numbers, which are no weights: of BatchNorm, and of encoders that save their indices.
COUNTERS = ("num_batches_tracked", "_ids", "_idxs", "_index")
# No format that is read stores more than two parameters in a byte.
MOST_PARAMETERS_PER_BYTE = 2


class NotASetr(SetrError):
    """A model of another architecture."""

    def __init__(self, path: str | Path, model_type: Any):
        super().__init__(f"the model {path} is not a SETR: it is a {model_type or 'model that names no model_type'}")


def check_not_quantized(path: str | Path, quantization: Any) -> None:
    """Raises [`SetrError`] if this `quantization_config` of a model's configuration says that its weights are not what
    they were trained to be.
    """
    if quantization is not None:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise SetrError(
            f"the model {path} was saved quantized ({one_line(method, 50)}), which from_pretrained loads, and jobs do "
            "not: pass the model that it was made of, with --quantization to predict or evaluate"
        )


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Makes a [`SetrError`] of what goes wrong, of which Transformers would log a table first."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except SetrError:
        raise
    except (*LOADING_ERRORS, SafetensorError, StrictDataclassError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        reason = " ".join(lines) if isinstance(error, StrictDataclassError) else lines[0]
        raise SetrError(f"{what} cannot be loaded: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises [`SetrError`] if there is no such file, or it holds something else."""
    if not path.is_file():
        raise SetrError(f"{path.parent} does not hold a model: it has no {path.name}")
    try:
        content = parse_json(read_text(path))
    except SetrError:
        raise
    except ValueError as error:
        raise SetrError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise SetrError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder's weights. Raises [`SetrError`] if one is missing, or there are only pickles."""
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return [folder / SAFE_WEIGHTS_NAME]
    if not (folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
        pickles = [name for name in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME) if (folder / name).exists()]
        if not pickles:
            raise SetrError(f"{folder} holds no weights: it has no {SAFE_WEIGHTS_NAME}")
        raise SetrError(
            f"{folder} holds its weights as a pickle, {pickles[0]}, which can run any code and is not loaded. If you "
            "trust it, SetrForSemanticSegmentation.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER) writes "
            f"them as {SAFE_WEIGHTS_NAME}"
        )
    weight_map = read_object(folder / SAFE_WEIGHTS_INDEX_NAME).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) and all(map(is_name, weight_map.values())) else {}
    if not names:
        raise SetrError(f"{folder / SAFE_WEIGHTS_INDEX_NAME} has no weight_map of tensors and files of this folder")
    for name in sorted(names):
        if not (folder / name).is_file():
            raise SetrError(f"{folder} lacks {name}, which its {SAFE_WEIGHTS_INDEX_NAME} lists: copy it there again")
    return [folder / name for name in sorted(names)]


def is_name(value: Any) -> bool:
    return isinstance(value, str) and Path(value).name == value


def find_adapter(folder: Path) -> Path | None:
    """The folder of an adapter, which `folder` is, or holds; `None` if there is none."""
    folders = (folder, folder / ADAPTER_FOLDER)
    return next((path for path in folders if (path / ADAPTER_CONFIG_NAME).is_file()), None)


def check_folder(folder: Path) -> None:
    """Raises [`SetrError`], which names the file at fault, unless the files of a folder can be those of a SETR."""
    if not (folder / CONFIG_NAME).exists() and find_adapter(folder):
        raise SetrError(
            f"{folder} holds adapters and not a whole model: `setr-hf merge {folder} NEW_FOLDER` makes one of them"
        )
    config = read_object(folder / CONFIG_NAME)
    if config.get("model_type") != "setr":
        raise NotASetr(folder, config.get("model_type"))
    check_not_quantized(folder, config.get("quantization_config"))
    for path in weight_files(folder):
        check_types(path)


def check_types(path: Path) -> None:
    """Raises [`SetrError`] if a safetensors file is damaged, or a weight in it is of another kind than floating-point
    numbers, to which `from_pretrained` would turn it without a word.
    """
    try:
        with safe_open(path, "pt") as file:
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SetrError(f"{path} is damaged or incomplete, copy or download it again: {error}") from error
    for name, dtype in types.items():
        if dtype not in FLOATING_POINT and not name.endswith(COUNTERS):
            raise SetrError(f"{path} holds {name} as {dtype}, but weights must be one of {', '.join(FLOATING_POINT)}")


def check_extent(config: PreTrainedConfig, folder: Path) -> None:
    """Raises [`SetrError`] if the network is so much larger than its weights that building it may fill the memory."""
    with torch.device("meta"):
        parameters = AutoModelForSemanticSegmentation.from_config(config).num_parameters()
    stored = sum(path.stat().st_size for path in weight_files(folder))
    if parameters > MOST_PARAMETERS_PER_BYTE * stored:
        raise SetrError(
            f"{folder / CONFIG_NAME} describes a network of {parameters:,} parameters, but the weights beside it have "
            f"only {stored:,} bytes"
        )


def check_loading_info(info: dict[str, Any], path: str) -> None:
    """Raises [`SetrError`] unless all tensors were there, none was left over, and all had the right shapes."""
    mismatched = [f"{key} {tuple(found)} instead of {tuple(wanted)}" for key, found, wanted in info["mismatched_keys"]]
    faults = list(info["error_msgs"])
    kinds = {"lacks": info["missing_keys"], "has the unknown": info["unexpected_keys"], "has": mismatched}
    for verb, keys in kinds.items():
        if keys:
            faults.append(f"it {verb} {min(keys)}" + f" and {len(keys) - 1} more" * (len(keys) > 1))
    if faults:
        raise SetrError(f"the weights of {path} are not those of its {CONFIG_NAME}: {'; '.join(faults)}")


def check_finite(model: nn.Module, name: str) -> None:
    """Raises [`SetrError`] if a parameter or buffer of a model, which the error calls `name`, is NaN or infinite."""
    for key, tensor in stored_tensors(model):
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise SetrError(
                f"{name} holds NaN or infinite numbers in {key}: its training diverged, its file is damaged, or its "
                f"weights overflow in {str(tensor.dtype).removeprefix('torch.')}"
            )


def check_blocks(model: nn.Module, path: str | Path, quantization: str | None) -> None:
    """Raises [`SetrError`] if weights of 4 bits do not fill blocks of 64, which not all CPUs can use."""
    for module in model.modules() if quantization == "bnb-nf4" else ():
        if isinstance(module, nn.Linear) and module.in_features % 64:
            raise SetrError(
                f"the model {path} has a layer of width {module.in_features}, but {quantization} needs multiples of 64"
            )


def load_network(
    path: str | Path, dtype: str | torch.dtype = "auto", quantization: str | None = None
) -> PreTrainedModel:
    """The model of a folder or Hub id, in evaluation mode on the CPU, with the checks of [`load_model`]."""
    is_folder = Path(path).is_dir()
    if is_folder:
        check_folder(Path(path))
    # Code that lies beside the weights is not run, and no question is asked about it.
    options: dict[str, Any] = {"trust_remote_code": False}
    with loading(f"the model {path}"):
        config = AutoConfig.from_pretrained(path, **options)
        if config.model_type != "setr":
            raise NotASetr(path, config.model_type)
        if is_folder:
            check_extent(config, Path(path))
        else:
            check_not_quantized(path, getattr(config, "quantization_config", None))
        if quantization is not None:
            computes_in = getattr(config, "dtype", None) or "float32" if dtype == "auto" else dtype
            options["quantization_config"] = quantization_config(quantization, computes_in)
        model, info = AutoModelForSemanticSegmentation.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # They come back in `info`, instead of as a table in a log.
            output_loading_info=True,
            **options,
        )
        if not is_folder:
            for file in Path(cached_file(path, CONFIG_NAME)).parent.glob("*.safetensors"):
                check_types(file)
    check_loading_info(info, str(path))
    check_blocks(model, path, quantization)
    check_finite(model, f"the model {path}")
    return model


def load_processor(path: str | Path, **settings: Any) -> BaseImageProcessor:
    """The image processor of a folder or Hub id; `settings` override its own. Raises [`SetrError`] if there is none,
    its file is not valid, a setting is out of range, or it is not SETR's.
    """
    if Path(path).is_dir():
        read_object(Path(path) / IMAGE_PROCESSOR_NAME)
    with loading(f"the image processor of {path}"):
        processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=False, **settings)
    if not isinstance(processor, SetrImageProcessorMixin):
        raise SetrError(f"the image processor of {path} is a {type(processor).__name__}, not a SetrImageProcessor")
    return processor


def check_channels(config: PreTrainedConfig, processor: BaseImageProcessor, path: str) -> None:
    """Raises [`SetrError`] if a model takes another number of channels than its image processor makes."""
    num_channels, mean = config.num_channels, processor.image_mean if processor.do_normalize else None
    num_bands = len(mean) if isinstance(mean, list | tuple) else num_channels
    if num_channels != num_bands:
        raise SetrError(
            f"the model {path} takes {num_channels} channels, but the image_mean of its image processor has "
            f"{num_bands}: give image_mean and image_std of its {IMAGE_PROCESSOR_NAME} a number for each channel"
        )


def load_model(
    path: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    quantization: str | None = None,
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """The model of a folder or Hub id, in evaluation mode, and its image processor. `dtype` is "float32", "bfloat16",
    "float16", or "auto": as saved. `quantization` is a name of [`quantization_config`].

    No pickle is loaded and no code that lies beside the weights is run. Raises [`SetrError`] if there is no model of
    that name, it is not a SETR, its files are damaged or contradict each other, a tensor is missing, left over or of
    another shape than its config.json says, a weight is NaN or infinite, or the weights were saved quantized or cannot
    be quantized here.
    """
    model, processor = load_network(path, dtype, quantization), load_processor(path)
    check_channels(model.config, processor, str(path))
    return model.to(device).eval(), processor
