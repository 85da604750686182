"""Public SETR checkpoints to a folder of ours, and the way back."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError

from ..data.public_datasets import CLASS_NAMES, PALETTES, PROCESSOR_SETTINGS
from ..model.configuration_setr import SetrConfig, known_fields
from ..model.image_processing_setr import SetrImageProcessor
from ..model.modeling_setr import SetrForSemanticSegmentation
from .detection import Shapes, detect_config, detect_implementation
from .keys import conversion_rules, matching_reason, to_ours, unused_keys
from .reading import read_checkpoint


IMPLEMENTATIONS = {"original": "the original repository", "mmseg": "mmsegmentation"}
# Where the files written by the way back carry what keys and shapes do not show.
META_KEY = "setr_hf"


@dataclass(frozen=True)
class ConversionReport:
    """
    What a conversion did.

    Args:
        implementation: "original" or "mmseg".
        config: The configuration of the converted model.
        num_used: Number of the source's tensors that were used.
        num_set: Number of the model's parameters and buffers, all of them set from the source.
        assumptions: What neither keys nor shapes nor metadata show and was taken from the published models.
        unused: Keys that were left out, with the reason.
        labels: Where class names and palette come from.
        processor: Where the image processor's settings come from.
    """

    implementation: str
    config: SetrConfig
    num_used: int
    num_set: int
    assumptions: list[str]
    unused: dict[str, str]
    labels: str
    processor: str


def write_folder(folder: str | Path, write: Callable[[Path], None]):
    """
    Has `write` fill a new folder beside `folder` and renames it when it is complete.

    Raises:
        `ValueError`: `folder` exists and is not an empty folder.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists already: name another folder or remove it")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def convert_tensors(
    state_dict: dict[str, torch.Tensor], implementation: str, config: SetrConfig
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """
    A checkpoint's tensors under our names, and the keys that were left out with the reason.

    Raises:
        `ValueError`: keys are missing, or there are unknown ones; lists them.
    """
    converted, used, missing = {}, set(), []
    for rule in conversion_rules(implementation, config):
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
        raise ValueError(
            f"its keys are not those of a SETR-{config.decoder_type} of this form. Missing: "
            f"{', '.join(missing) or 'none'}. Unknown: {', '.join(unknown) or 'none'}"
        )
    return converted, left_out


def build_model(config: SetrConfig, tensors: dict[str, torch.Tensor]) -> SetrForSemanticSegmentation:
    """
    A model that holds `tensors` themselves: no weight is initialized or copied.

    Raises:
        `ValueError`: a tensor is missing, unknown or of another shape; lists them.
    """
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
        raise ValueError(f"its tensors do not fit the configuration: {'; '.join(wrong[:20])}")
    tensors = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def read_labels_file(path: Path) -> tuple[list[str], list[list[int]] | None]:
    """
    Class names and, if given, colours from a JSON file: a list of names, or an object with "id2label" or "names" and,
    optionally, "palette".

    Raises:
        `ValueError`: it is no such file.
    """
    try:
        content = json.loads(path.read_text())
        palette = content.get("palette") if isinstance(content, dict) else None
        names = content.get("id2label", content.get("names")) if isinstance(content, dict) else content
        if isinstance(names, dict):
            names = [names[str(index)] for index in range(len(names))]
        return [str(name) for name in names], palette
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is neither one of the data sets {', '.join(CLASS_NAMES)} nor a JSON file of class names, such as "
            f'["sky", "road"] or {{"id2label": {{"0": "sky", "1": "road"}}}}: {error}'
        ) from None


def names_in_metadata(meta: dict) -> tuple[list[str], list[list[int]] | None] | None:
    """Class names and colours that a file of mmsegmentation carries, in the form of 1.x or of 0.x."""
    dataset_meta = meta.get("dataset_meta") or {}
    names = dataset_meta.get("classes") or meta.get("CLASSES")
    palette = dataset_meta.get("palette") or meta.get("PALETTE")
    if not isinstance(names, (list, tuple)):
        return None
    is_palette = isinstance(palette, (list, tuple)) and len(palette) == len(names)
    return [str(name).strip() for name in names], [list(map(int, c)) for c in palette] if is_palette else None


def guessed_data_set(num_labels: int, names: list[str] | None) -> str | None:
    """The data set with that number of classes and, where `names` are known, with nearly all of these names."""
    for data_set, known in CLASS_NAMES.items():
        if len(known) != num_labels:
            continue
        # Public lists differ in a few names, such as "television receiver".
        if names is None or sum(a == b for a, b in zip(names, known)) >= 0.9 * num_labels:
            return data_set
    return None


def find_labels(meta: dict, dataset: str | None, num_labels: int) -> tuple[dict, str | None, str]:
    """
    Fields of names and colours, the public data set whose test protocol applies if any, and the names' origin.

    Raises:
        `ValueError`: `dataset` is none, or has another number of classes than the checkpoint.
    """
    told = names_in_metadata(meta)
    if told and len(told[0]) != num_labels:
        told = None
    if dataset is None:
        known = guessed_data_set(num_labels, told and told[0])
        names, palette = [f"LABEL_{index}" for index in range(num_labels)], None
        origin = "unknown, numbered"
    else:
        known = dataset if dataset in CLASS_NAMES else None
        if not known:
            names, palette = read_labels_file(Path(dataset))
        origin = f"from {dataset}"
    if known:
        names, palette = CLASS_NAMES[known], PALETTES[known]
        origin = f"of {known}" if dataset else f"of {known}, assumed from {num_labels} classes"
    if len(names) != num_labels:
        raise ValueError(f"{dataset} has {len(names)} classes, the checkpoint {num_labels}")
    if told:
        names, palette, origin = told[0], told[1] or palette, "from the file's metadata"
    label2id = {name: index for index, name in enumerate(names)}
    fields = {"id2label": dict(enumerate(names)), "label2id": label2id, "palette": palette, "dataset": known}
    return fields, known, origin


def build_image_processor(config: SetrConfig, data_set: str | None) -> SetrImageProcessor:
    """The image processor of a data set's test protocol, else one with windows of the training image's size."""
    if data_set:
        settings = PROCESSOR_SETTINGS[data_set]
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
    """
    A checkpoint of the original repository or of mmsegmentation as a model of ours. Its weights stay mapped from the
    file, which must not be overwritten while the model is in use.

    Args:
        checkpoint: A file of the original repository or of mmsegmentation, 0.x or 1.x.
        dataset: "ade20k", "pascal_context", "pascal_context_59", "cityscapes", or a JSON file of class names. By
            default the one with as many classes. Names in the file's own metadata win.
        overrides: Fields of `SetrConfig` that win over what the file shows and over the published defaults.

    Raises:
        `ValueError`: the file is no SETR checkpoint, has missing or unknown keys, or does not tell enough; names it.
    """
    state_dict, meta = read_checkpoint(checkpoint)
    told = known_fields(meta.get(META_KEY) or {}, f"the metadata of {checkpoint}")
    told = told | known_fields(overrides or {}, "--config")
    if any(key.startswith("auxiliary_head.conv_seg.") for key in state_dict):
        # A single auxiliary head of mmsegmentation is no list.
        state_dict = {re.sub(r"^auxiliary_head\.", "auxiliary_head.0.", key): t for key, t in state_dict.items()}
    try:
        implementation = detect_implementation(state_dict)
        shapes = Shapes({key: tuple(tensor.shape) for key, tensor in state_dict.items()})
        assumptions = []
        config = detect_config(implementation, shapes, told, assumptions)
        tensors, unused = convert_tensors(state_dict, implementation, config)
        labels, data_set, origin = find_labels(meta, dataset, config.num_labels)
        config.update({name: value for name, value in labels.items() if name not in told})
        model = build_model(config, tensors)
    except (ValueError, StrictDataclassError) as error:
        raise ValueError(f"{checkpoint} is not converted: {error}") from error
    report = ConversionReport(
        implementation=implementation,
        config=config,
        num_used=len(state_dict) - len(unused),
        num_set=len(tensors),
        assumptions=assumptions,
        unused=unused,
        labels=origin,
        processor=f"the test protocol of {data_set}" if data_set else "windows of the training image's size",
    )
    return model, build_image_processor(config, data_set), report


def convert_checkpoint(
    checkpoint: str | Path, output_dir: str | Path, dataset: str | None = None, overrides: dict | None = None
) -> ConversionReport:
    """
    Writes [`load_original`]'s model and image processor to a folder that `from_pretrained` loads, or nothing at all.

    Raises:
        `ValueError`: as [`load_original`], or `output_dir` exists and is not an empty folder.
    """

    report = None

    def write(folder: Path):
        nonlocal report
        model, processor, report = load_original(checkpoint, dataset, overrides)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    write_folder(output_dir, write)
    return report
