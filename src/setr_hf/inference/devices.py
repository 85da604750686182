"""What the processors that models run on compute by themselves."""

import torch
from transformers.utils import is_torch_bf16_gpu_available, logging


logger = logging.get_logger(__name__)

# What torch calls them in the names of a CPU's capabilities.
HALF_PRECISIONS = {"bfloat16": "bf16", "float16": "fp16"}


def cpu_computes_in(dtype: str) -> bool:
    """Whether the CPU computes in "bfloat16" or "float16" itself. Others imitate it, far slower than float32."""
    kind = HALF_PRECISIONS[dtype]
    return any(value is True for name, value in torch.cpu.get_capabilities().items() if kind in name)


def has_bf16(use_cpu: bool) -> bool:
    """Whether the CPU, or the GPU, computes in bf16 itself."""
    return cpu_computes_in("bfloat16") if use_cpu else is_torch_bf16_gpu_available()


def warn_if_imitated(dtype: str, device: str | torch.device) -> None:
    """Logs a warning if a model is to compute in a half precision on a CPU that does not do so itself."""
    if torch.device(device).type == "cpu" and dtype in HALF_PRECISIONS and not cpu_computes_in(dtype):
        logger.warning(f"This CPU imitates {dtype}, many times as slowly as float32: --dtype float32 is quicker")
