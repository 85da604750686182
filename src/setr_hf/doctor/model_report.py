"""Examines a model's folder: every file that is missing or damaged, what the model is, and how fast it is here."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from transformers import BaseImageProcessor, PreTrainedModel
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from ..errors import SetrError
from ..inference.loading import check_types, load_network, load_processor, read_object, weight_files
from ..tables import print_options
from .findings import Finding


AGAIN = "copy or download the folder once more, or save it with save_pretrained"
# Of one window: forward passes that are measured, after the first.
NUM_RUNS = 5
T = TypeVar("T")


def load_part(kind: str, load: Callable[[], T], findings: list[Finding]) -> T | None:
    """What `load` returns; `None`, and a finding, if it raises [`SetrError`]."""
    try:
        return load()
    except SetrError as error:
        findings.append(Finding(kind, "error", str(error), AGAIN))
        return None


def check_files(folder: Path) -> list[Finding]:
    """What is wrong with the files of a folder, each by itself."""
    findings: list[Finding] = []
    config = load_part("config", lambda: read_object(folder / CONFIG_NAME), findings)
    if config is not None and config.get("model_type") != "setr":
        meaning = f"{folder / CONFIG_NAME} is that of a {config.get('model_type')!r}, not of a setr"
        findings.append(Finding("not_a_setr", "error", meaning, "setr-hf train --encoder starts a SETR from a ViT"))
    paths = load_part("weights", lambda: weight_files(folder), findings) or []
    if config is not None and config.get("quantization_config") is not None:
        paths = []  # Integers belong there; that jobs do not take them is said when the network is loaded.
    for path in paths:
        load_part("weights", partial(check_types, path), findings)
    pickles = [name for name in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME) if (folder / name).exists()]
    if pickles:
        meaning = f"{', '.join(pickles)} can run any code and is not loaded"
        findings.append(Finding("pickle", "note", meaning, "remove it if there are safetensors beside it"))
    return findings


def examine_model(source: str) -> tuple[dict[str, Any], list[Finding]]:
    """What is known of a model, for JSON, and what is wrong with it. It is loaded only if its files are whole."""
    findings = check_files(Path(source)) if Path(source).is_dir() else []
    model = processor = None
    if any(finding.kind == "config" for finding in findings):
        # Transformers finds an image processor by the configuration, and would blame it for that.
        load_part("image_processor", lambda: read_object(Path(source) / IMAGE_PROCESSOR_NAME), findings)
    else:
        processor = load_part("image_processor", lambda: load_processor(source), findings)
    if not any(finding.kind in ("config", "not_a_setr", "weights") for finding in findings):
        model = load_part("network", lambda: load_network(source), findings)
    content: dict[str, Any] = {}
    if model is not None:
        content |= architecture(model)
        if model.config.id2label[0] == "LABEL_0":
            findings.append(
                Finding("class_names", "note", "the classes have no names", "write id2label in config.json")
            )
    if processor is not None:
        content |= {"crop_size": window_of(processor), "stride": processor.stride, "windows": processor.do_split_image}
    if model is not None and processor is not None:
        content["seconds_per_window"] = time_of_window(model.eval(), window_of(processor))
    return content, findings


def architecture(model: PreTrainedModel) -> dict[str, Any]:
    config = model.config
    return {
        "decoder": config.decoder_type,
        "parameters": model.num_parameters(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "image_size": config.image_size,
        "classes": config.num_labels,
    }


def window_of(processor: BaseImageProcessor) -> tuple[int, int]:
    """Height and width of a test window, in pixels."""
    return processor.crop_size.height, processor.crop_size.width


def time_of_window(model: PreTrainedModel, window: tuple[int, int]) -> dict[str, float]:
    """The median time of a forward pass with one window, in seconds, on the CPU and on the GPU, if there is one."""
    seconds = {}
    for device in ("cpu", "cuda")[: 1 + torch.cuda.is_available()]:
        model.to(device)
        pixels = torch.zeros(1, model.config.num_channels, *window, dtype=model.dtype, device=device)
        times = []
        with torch.inference_mode():
            for _ in range(1 + NUM_RUNS):
                start = time.perf_counter()
                model(pixels).logits.cpu()
                times.append(time.perf_counter() - start)
        seconds[device] = round(median(times[1:]), 4)
    return seconds


def print_model(content: dict[str, Any]) -> None:
    """Prints what is known of a model, a line each."""
    rows = []
    for name, value in content.items():
        if name == "seconds_per_window":
            threads = torch.get_num_threads()
            rows += [(f"one window on {device}", f"{s:.3g} s, {threads} threads") for device, s in value.items()]
        elif isinstance(value, tuple):
            rows.append((name.replace("_", " "), " × ".join(map(str, value))))
        else:
            rows.append((name.replace("_", " "), f"{value:,}" if name == "parameters" else value))
    print_options(rows)
