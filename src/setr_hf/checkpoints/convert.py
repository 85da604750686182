"""Public SETR checkpoints to a folder that `from_pretrained` loads."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ..data.public_datasets import PROCESSOR_SETTINGS
from ..errors import SetrError
from ..files import whole_folder
from ..model.configuration_setr import SetrConfig, known_fields
from ..model.image_processing_setr import SetrImageProcessor
from ..model.modeling_setr import SetrForSemanticSegmentation
from .class_names import find_classes
from .detection import Shapes, detect
from .keys import Rule, conversion_rules, matching_reason, to_ours, to_theirs, unused_keys
from .reading import check_weights, read_checkpoint


IMPLEMENTATIONS = {"original": "the original repository", "mmseg": "mmsegmentation"}
# Where the files written by the way back carry what keys and shapes do not show: with it, converting back is exact.
META_KEY = "setr_hf"
UNREADABLE_FIELDS = ["decoder_type", "num_attention_heads", "image_size", "use_class_token", "out_indices"]
UNREADABLE_FIELDS += ["auxiliary_out_indices", "decoder_scale_factor", "auxiliary_scale_factor", "dataset"]


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Args:
        implementation (`str`): "original" or "mmseg".
        config (`SetrConfig`): The configuration of the converted model.
        num_used (`int`): How many tensors of the source were used.
        num_set (`int`): How many parameters and buffers the model has; all of them were set.
        assumptions (`list[str]`): What neither keys nor shapes nor metadata show, and was taken from the published
            models.
        unused (`dict[str, str]`): The keys that were left out, each with the reason.
        labels (`str`): Where class names and palette come from.
        processor (`str`): Where the image processor's settings come from.
    """

    implementation: str
    config: SetrConfig
    num_used: int
    num_set: int
    assumptions: list[str]
    unused: dict[str, str]
    labels: str
    processor: str


def stored_fields(meta: dict) -> dict[str, Any]:
    """The fields that the way back has left in a file's metadata. Raises [`SetrError`] if they are something else."""
    stored = meta.get(META_KEY, {})
    if not isinstance(stored, dict) or not set(stored) <= set(UNREADABLE_FIELDS):
        raise SetrError(
            f"the entry {META_KEY} of its metadata does not hold fields that the way back writes: {stored}"
        )
    return stored


def check_shapes(state_dict: dict[str, torch.Tensor], rules: list[Rule], config: SetrConfig) -> None:
    """Raises a [`SetrError`] that lists the tensors whose shapes are not those of the configuration's network."""
    with torch.device("meta"):
        ours = SetrForSemanticSegmentation(config).state_dict()
    wrong = []
    for rule in rules:
        tensors = [ours[key] for key in rule.ours]
        theirs = tensors if rule.kind == "optional_bias" else to_theirs(rule, tensors, config)
        for key, expected in zip(rule.theirs, theirs):
            if key in state_dict and state_dict[key].shape != expected.shape:
                shapes = f"the shape {tuple(state_dict[key].shape)}, not {tuple(expected.shape)}"
                wrong.append(f"{key} has {shapes}")
    if wrong:
        raise SetrError(f"its tensors contradict each other or the configuration: {'; '.join(wrong[:20])}")


def convert_tensors(
    state_dict: dict[str, torch.Tensor], implementation: str, config: SetrConfig
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors under our names, and the keys left out, each with the reason. A [`SetrError`] lists wrong keys."""
    converted: dict[str, torch.Tensor] = {}
    used: set[str] = set()
    missing: list[str] = []
    rules = conversion_rules(implementation, config)
    check_shapes(state_dict, rules, config)
    for rule in rules:
        tensors = [state_dict.get(key) for key in rule.theirs]
        lacking = [key for key, tensor in zip(rule.theirs, tensors) if tensor is None]
        used.update(set(rule.theirs) - set(lacking))
        if lacking and rule.kind != "optional_bias":
            missing += lacking
            continue
        converted |= zip(rule.ours, to_ours(rule, tensors, config))
    reasons = unused_keys(implementation, config)
    left_out = {key: matching_reason(key, reasons) for key in state_dict if key not in used}
    unknown = [key for key, reason in left_out.items() if reason is None]
    if missing or unknown:
        raise SetrError(
            f"its keys are not those of a SETR-{config.decoder_type} of this form. Missing: "
            f"{', '.join(missing) or 'none'}. Unknown: {', '.join(unknown) or 'none'}"
        )
    return converted, left_out


def build_model(config: SetrConfig, tensors: dict[str, torch.Tensor]) -> SetrForSemanticSegmentation:
    """A model made of `tensors` themselves, without a copy. A [`SetrError`] lists those that do not fit."""
    with torch.device("meta"):
        model = SetrForSemanticSegmentation(config)
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    actual = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    wrong = [
        f"{key} (model {expected.get(key, 'has none')}, file {actual.get(key, 'has none')})"
        for key in sorted(expected.keys() | actual.keys())
        if expected.get(key) != actual.get(key)
    ]
    if wrong:
        raise SetrError(f"its tensors do not fit the configuration: {'; '.join(wrong[:20])}")
    tensors = {key: tensor.float() if tensor.is_floating_point() else tensor.long() for key, tensor in tensors.items()}
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def build_image_processor(config: SetrConfig) -> SetrImageProcessor:
    """The image processor of the data set's test protocol, else one with windows of the training image's size."""
    if config.dataset:
        settings = PROCESSOR_SETTINGS[config.dataset]
        settings = settings | {"crop_size": {"height": settings["crop_size"], "width": settings["crop_size"]}}
    else:
        height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
        settings = {
            "size": {"shortest_edge": min(height, width)},
            "crop_size": {"height": height, "width": width},
            "stride": max(min(height, width) * 2 // 3, 1),
        }
    return SetrImageProcessor(do_split_image=True, antialias=False, **settings)


def load_original(
    checkpoint: str | Path, dataset: str | None = None, overrides: dict | None = None
) -> tuple[SetrForSemanticSegmentation, SetrImageProcessor, ConversionReport]:
    """A checkpoint of the original repository or of mmsegmentation as a model and image processor of ours. The weights
    stay mapped from the file, which must not be overwritten while the model is in use.

    Args:
        checkpoint (`str` or `Path`): A file of the original repository or of mmsegmentation, 0.x or 1.x.
        dataset (`str`, *optional*): "ade20k", "pascal_context", "pascal_context_59", "cityscapes", or a JSON file of
            class names. Defaults to the public data set with as many classes. Names in the file's own metadata win.
        overrides (`dict`, *optional*): Fields of `SetrConfig` that win over what the file shows and over the published
            defaults.

    Raises:
        [`SetrError`]: the file is not a SETR checkpoint, has missing or unknown keys, or does not tell enough; names
            it.
    """
    state_dict, meta = read_checkpoint(checkpoint)
    if any(key.startswith("auxiliary_head.conv_seg.") for key in state_dict):
        # A single auxiliary head of mmsegmentation is not a list.
        state_dict = {re.sub(r"^auxiliary_head\.", "auxiliary_head.0.", key): t for key, t in state_dict.items()}
    try:
        told = stored_fields(meta) | known_fields(overrides or {}, "--config")
        detection = detect(Shapes({key: tuple(tensor.shape) for key, tensor in state_dict.items()}), told)
        config = detection.config
        tensors, unused = convert_tensors(state_dict, detection.implementation, config)
        check_weights({key: tensor for key, tensor in state_dict.items() if key not in unused})
        class_fields, origin = find_classes(meta, dataset, len(config.id2label))
        config.update({name: value for name, value in class_fields.items() if name not in told})
        model = build_model(config, tensors)
    except (ValueError, StrictDataclassError) as error:
        raise SetrError(f"{checkpoint} is not converted: {error}") from error
    protocol = f"the test protocol of {config.dataset}" if config.dataset else "windows of the training image's size"
    report = ConversionReport(
        implementation=detection.implementation,
        config=config,
        num_used=len(state_dict) - len(unused),
        num_set=len(tensors),
        assumptions=detection.assumptions,
        unused=unused,
        labels=origin,
        processor=protocol,
    )
    return model, build_image_processor(config), report


def convert_checkpoint(
    checkpoint: str | Path, output_dir: str | Path, dataset: str | None = None, overrides: dict | None = None
) -> ConversionReport:
    """Writes the model and image processor of [`load_original`] to a folder that `from_pretrained` loads, or nothing.

    Args:
        checkpoint, dataset, overrides: See [`load_original`].
        output_dir (`str` or `Path`): The folder, new or empty.

    Raises:
        [`SetrError`]: as [`load_original`], or `output_dir` exists and is not an empty folder.

    Example:

    ```python
    >>> from setr_hf import SetrConfig, SetrForSemanticSegmentation, convert_checkpoint
    >>> from setr_hf.checkpoints.export import write_public_checkpoint

    >>> sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "image_size": 64}
    >>> config = SetrConfig(**sizes, decoder_type="naive", num_labels=5)
    >>> SetrForSemanticSegmentation(config).save_pretrained("ours")
    >>> _ = write_public_checkpoint("ours", "theirs.pth", "original")
    >>> report = convert_checkpoint("theirs.pth", "ours-again")
    >>> report.config.decoder_type, report.assumptions
    ('naive', [])
    ```
    """
    with whole_folder(output_dir) as folder:
        return write_converted(folder, checkpoint, dataset, overrides)


def write_converted(
    folder: Path, checkpoint: str | Path, dataset: str | None, overrides: dict | None
) -> ConversionReport:
    """[`convert_checkpoint`] into a folder that is there."""
    model, processor, report = load_original(checkpoint, dataset, overrides)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return report
