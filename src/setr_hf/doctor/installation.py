"""What of an installation a bug report should hold: versions, devices, and the attention that can be computed here."""

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import torch
from rich.filesize import decimal

from ..model.configuration_setr import SetrConfig
from ..model.modeling_setr import SetrForSemanticSegmentation
from ..tables import print_options
from ..text import one_line
from .findings import Finding


ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")
# The others need a GPU, or minutes to be compiled.
RUN_AT_ONCE = ("sdpa", "eager")
# Not required, and shown if they are installed.
ALSO_SHOWN = ("timm", "tensorboard", "trackio", "flash-attn", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "triton")
TINY = SetrConfig(
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=16,
    image_size=16,
    decoder_type="naive",
    decoder_hidden_size=8,
    auxiliary_out_indices=[],
    num_labels=2,
)


def versions() -> dict[str, str | None]:
    """The versions of this package, of all that it requires, `None` for what is missing, and of what is installed of
    what it can do without.
    """
    found: dict[str, str | None] = {"setr-hf": version("setr-hf"), "python": platform.python_version()}
    needed = [re.split(r"[^\w.-]", line)[0] for line in requires("setr-hf") or () if "extra ==" not in line]
    for name in (*needed, *ALSO_SHOWN):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            if name in needed:
                found[name] = None
    return found


def devices() -> dict[str, str]:
    """What can be computed on, and how much memory it has."""
    found = {"cpu": f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads of torch"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
        found[f"cuda:{index}"] = f"{properties.name}, {decimal(properties.total_memory)}, {bf16}"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


def attention_backends() -> dict[str, str]:
    """For each way to compute attention whether it can be chosen here, else why not."""
    return {name: attention_backend(name) for name in ATTENTION}


def attention_backend(name: str) -> str:
    try:
        model = SetrForSemanticSegmentation._from_config(TINY, attn_implementation=name).eval()
        if name not in RUN_AT_ONCE:
            return "can be chosen (not run here)"
        with torch.inference_mode():
            model(torch.zeros(1, 3, 16, 16))
    except Exception as error:  # Of packages that are half installed, anything.
        return f"no: {one_line(str(error).rpartition('following error: ')[2], 200)}"
    return "runs"


def installation() -> dict[str, Any]:
    """For JSON."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "executable": sys.executable,
        "cuda": torch.version.cuda,
        "devices": devices(),
        "attention": attention_backends(),
    }


def print_installation(content: dict[str, Any]) -> None:
    """Prints what [`installation`] found, a line each."""
    print_options(
        [
            *((name, found or "missing") for name, found in content["versions"].items()),
            ("platform", content["platform"]),
            ("executable", content["executable"]),
            ("CUDA of torch", content["cuda"] or "none"),
            *content["devices"].items(),
            *((f"attention {name}", text) for name, text in content["attention"].items()),
        ]
    )


def missing_packages(content: dict[str, Any]) -> list[Finding]:
    """What the package requires and is not installed."""
    missing = [name for name, found in content["versions"].items() if found is None]
    return [Finding("missing_package", "error", f"{name} is missing", f"pip install {name}") for name in missing]
