"""The memory dial: which batch, accumulation, checkpointing, precision and frozen layers fit what may be taken."""

import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from math import ceil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather, get_int_from_env
from rich import filesize
from transformers import TrainerCallback, TrainingArguments

from ..errors import SetrError
from ..inference.devices import has_bf16
from ..model.configuration_setr import SetrConfig
from ..model.modeling_setr import SetrForSemanticSegmentation
from ..tables import print_options
from .arguments import SetrTrainingArguments
from .batch_size import divisors
from .simulation import Simulation, StepSettings


UNITS = {"B": 1} | {prefix + "B": 1000**power for power, prefix in enumerate("KMGT", start=1)}
UNITS |= {prefix + "IB": 1024**power for power, prefix in enumerate("KMGT", start=1)}
# What Transformers calls gradient checkpointing; the second is the name of 5.17, which later ones warn of.
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in {field.name for field in fields(TrainingArguments)}
)
# Of the free memory of a computer without a GPU; workers that load data and the system need the rest.
USABLE_SHARE = 0.8
# Of a GPU's: what the caching allocator cannot use because it lies in pieces, and workspaces of cuBLAS and cuDNN.
DEVICE_SHARE = 0.9
# On the CPU a process takes more than its tensors: gaps between them that no other tensor fits in, buffers of kernels,
# photos that are read. Fitted to runs of networks of 4 to 100 million parameters on crops of 240×320 to 512² pixels.
HEAP_OVERHEAD = 0.15
KERNEL_BYTES = 100 * 10**6
# Where layers are frozen, how many parts the encoder has for it.
FREEZING_STEPS = 4


def parse_memory(text: str) -> int:
    """Bytes of an amount such as "8GB", "7.5 GiB" or "800MB"; GB are 10⁹ bytes and GiB 2³⁰. Raises [`SetrError`] for
    anything else, and for less than a byte.

    Example:

    ```python
    >>> from setr_hf.training.memory import parse_memory

    >>> parse_memory("8GB"), parse_memory("1.5 GiB")
    (8000000000, 1610612736)
    ```
    """
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([A-Za-z]{1,3})", text.strip(), re.ASCII)
    unit = UNITS.get(match[2].upper()) if match else None
    num_bytes = int(float(match[1]) * unit) if match and unit else 0
    if num_bytes < 1:
        raise SetrError(f"--memory {text!r} is not an amount of memory: write it as 8GB, 7.5GiB or 800MB")
    return num_bytes


def shown(num_bytes: int) -> str:
    return filesize.decimal(num_bytes, precision=2)


def status_bytes(name: str) -> int:
    """A field of this process's status: "VmRSS" is its memory."""
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0])


def peak_memory() -> int:
    """The largest memory of this process in bytes, since its start or since `clear_refs` was written to."""
    return status_bytes("VmHWM")


def available_memory() -> int:
    """Bytes that this process may still take, of the computer's and its container's memory."""
    free = [1024 * int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])]
    group = Path("/sys/fs/cgroup")
    limit = group / "memory.max"
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        # Pages of files are counted too, but given back when memory is short.
        used = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free.append(int(text) - int(used["anon"]))
    return min(free)


@dataclass(frozen=True)
class Room:
    """What the tensors of a training run may take, and what is there besides.

    Args:
        budget (`int`): Bytes that this process may take on a CPU, or its tensors on a GPU.
        taken (`int`): Bytes of it that are not of training.
        overhead (`float`): Bytes for each byte of a tensor, beyond it.
    """

    budget: int
    taken: int = 0
    overhead: float = 0.0

    def peak(self, tensor_bytes: int) -> int:
        """The largest memory, in bytes, when tensors take this much."""
        return self.taken + ceil((1 + self.overhead) * tensor_bytes)


class MemoryNotKnown(SetrError):
    """The system does not say how much memory is taken."""


def find_room(device: torch.device, memory: int | None, model_bytes: int) -> Room:
    """The room on a device: `memory` bytes of it, or what is free. A GPU's is for each process; a computer's is for
    all processes on it, and what this one has taken already counts, but for the `model_bytes` of a model that will be
    trained. Raises [`MemoryNotKnown`].
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return Room(int(DEVICE_SHARE * (free if memory is None else memory)))
    if device.type != "cpu":
        raise MemoryNotKnown(f"the memory of a device such as {device} cannot be planned: leave out --memory")
    try:
        resident, available = status_bytes("VmRSS"), available_memory()
    except OSError as error:
        raise MemoryNotKnown(f"the memory of {device} cannot be measured on this system ({error})") from error
    share = get_int_from_env(["LOCAL_WORLD_SIZE"], 1)
    budget = resident + USABLE_SHARE * available / share if memory is None else memory / share
    return Room(int(budget), max(0, resident - model_bytes) + KERNEL_BYTES, HEAP_OVERHEAD)


@dataclass(frozen=True)
class MemoryPlan:
    """What [`plan_memory`] chose, by the names of [`SetrTrainingArguments`], and the peaks in bytes that it expects.

    Args:
        per_device_train_batch_size (`int`), gradient_accumulation_steps (`int`), gradient_checkpointing (`bool`),
        bf16 (`bool`), num_frozen_layers (`int`), eval_window_batch_size (`int`): The choice.
        training_bytes (`int`): The peak of training steps: on a GPU `torch.cuda.max_memory_allocated()`, on a CPU the
            resident memory of the process.
        evaluation_bytes (`int`): The same of the model's forward pass in evaluation.
        budget (`int`): What neither may exceed.
        step_operations (`int`): Floating-point operations of a step of the optimizer in each process.
    """

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    bf16: bool
    num_frozen_layers: int
    eval_window_batch_size: int
    training_bytes: int
    evaluation_bytes: int
    budget: int
    step_operations: int

    @property
    def options(self) -> dict[str, Any]:
        """What was chosen, by the names of the train job's options."""
        chosen = {field.name: getattr(self, field.name) for field in fields(self)[:6]}
        return {CHECKPOINTING: chosen.pop("gradient_checkpointing"), **chosen}

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Names and values for [`print_options`]."""
        frozen = f"embeddings and {self.num_frozen_layers} LAYERS ARE FROZEN" if self.num_frozen_layers else None
        choice = [
            f"per device {self.per_device_train_batch_size} × accumulation {self.gradient_accumulation_steps}",
            "with gradient checkpointing" if self.gradient_checkpointing else "without gradient checkpointing",
            "bf16" if self.bf16 else None,
            frozen,
        ]
        return [
            (
                "memory plan",
                f"{', '.join(filter(None, choice))}; evaluation {self.eval_window_batch_size} windows at a time",
            ),
            (
                "predicted peak",
                f"{shown(self.training_bytes)} in training, {shown(self.evaluation_bytes)} in "
                f"evaluation, of {shown(self.budget)}",
            ),
        ]


def largest_that_fits(sizes: list[int], fits: Callable[[int], bool]) -> int | None:
    """The largest of ascending sizes that fits, if those below one that fits do as well."""
    if not fits(sizes[0]):
        return None
    if fits(sizes[-1]):
        return sizes[-1]
    low, high = 0, len(sizes) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(sizes[middle]) else (low, middle)
    return sizes[low]


def concessions(
    start: StepSettings, fixed: Collection[str], may_use_bf16: bool, num_layers: int
) -> Iterator[StepSettings]:
    """What is given up for memory, one after the other, besides the batch on a device, which shrinks first in each:
    the speed of keeping activations; fp32, in `may_use_bf16`; the training of lower layers, of `num_layers`, from the
    bottom up.
    """
    precisions = [start.mixed_precision, *(["bf16"] if may_use_bf16 else [])]
    checkpointing = {start.gradient_checkpointing, True}
    if {*fixed} & {"gradient_checkpointing", "activation_checkpointing"}:
        checkpointing = {start.gradient_checkpointing}
    frozen = sorted({num_layers * step // FREEZING_STEPS for step in range(1, FREEZING_STEPS + 1)} - {0})
    for count, precision in [(start.num_frozen_layers, kind) for kind in precisions] + [
        (count, precisions[-1]) for count in frozen if count > start.num_frozen_layers
    ]:
        for is_checkpointing in sorted(checkpointing):
            yield replace(
                start,
                gradient_checkpointing=is_checkpointing,
                mixed_precision=precision,
                num_frozen_layers=count,
            )


def plan_memory(
    config: SetrConfig,
    arguments: SetrTrainingArguments,
    memory: str | None = None,
    crop_size: tuple[int, int] | None = None,
    fixed: Collection[str] = (),
    model_bytes: int = 0,
    adapt: Callable[[SetrForSemanticSegmentation], Any] | None = None,
) -> MemoryPlan:
    """Chooses how a network is trained in some memory, and predicts the peak.

    The samples in a step of the optimizer stay those of `arguments`. The first that fits is chosen, of:

    1. the largest batch on a device, with accumulation for the rest of the step. BatchNorm then has its statistics
       over fewer samples; nothing else changes.
    2. the same with gradient checkpointing, which changes no result and takes about a third more time;
    3. only if `memory` is given, both with bf16, where the processor has it;
    4. only if `memory` is given, the same with the embeddings and the first quarter of the encoder's layers frozen,
       then half of them, three quarters and all.

    Last, the windows that evaluation segments at a time are halved until they fit.

    The peak is that of simulated steps, see [`Simulation`]. On a GPU it is what PyTorch allocates, and planned to be
    90 % of the memory; on a CPU it is the resident memory of the process, with 15 % on top of the tensors for the
    heap's gaps. Not counted are: workers that load data, scores of whole photos in evaluation, what `torch_compile`
    saves or adds, and that FSDP shards what is counted whole.

    Args:
        config (`SetrConfig`): Of the network.
        arguments (`SetrTrainingArguments`): The run; its device, optimizer, batch and precision.
        memory (`str`, *optional*): Such as "8GB", see [`parse_memory`]: of each GPU, or of a computer without one for
            all processes. By default, what is free: 90 % of a GPU's, 80 % of a computer's.
        crop_size (`tuple[int, int]`, *optional*): Height and width of training crops and test windows in pixels; by
            default `config.image_size`.
        fixed (`Collection[str]`): Names of arguments that stay as they are.
        model_bytes (`int`, *optional*): Of the network, if it is in this process's memory already.
        adapt (`Callable`, *optional*): What puts adapters into the network, such as [`add_lora`]; frozen layers then
            are those whose adapters are not trained.

    Raises:
        [`SetrError`]: `memory` is not an amount; nothing fits, with the least that would; or a computer without a GPU
            does not say how much memory is taken ([`MemoryNotKnown`]).

    Example:

    ```python
    >>> from setr_hf import SetrConfig, SetrTrainingArguments, plan_memory

    >>> config = SetrConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, image_size=64)
    >>> arguments = SetrTrainingArguments(
    ...     "outputs/mine", per_device_train_batch_size=16, optim="sgd", report_to=[], use_cpu=True
    ... )
    >>> plan = plan_memory(config, arguments, memory="100GB")
    >>> plan.per_device_train_batch_size, plan.gradient_accumulation_steps, plan.gradient_checkpointing
    (16, 1, False)
    ```
    """
    fixed, device = set(fixed), arguments.device
    asked = None if memory is None else parse_memory(memory)
    room = find_room(device, asked, model_bytes)
    if arguments.world_size > 1:
        # All processes must choose the same.
        left = int(gather(torch.tensor([room.budget - room.taken], device=device)).min())
        room = replace(room, taken=room.budget - left)
    if crop_size is None:
        sides = config.image_size
        crop_size = (sides, sides) if isinstance(sides, int) else (sides[0], sides[1])
    mixed = "fp16" if arguments.fp16 else "bf16" if arguments.bf16 else os.getenv("ACCELERATE_MIXED_PRECISION", "no")
    per_device, accumulation = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    share = per_device * accumulation
    start = StepSettings(
        per_device, accumulation, arguments.gradient_checkpointing, mixed, arguments.num_frozen_layers
    )
    sizes = divisors(share)
    if fixed & {"per_device_train_batch_size", "gradient_accumulation_steps"}:
        sizes = [per_device]
    is_free = asked is not None and mixed == "no" and not fixed & {"bf16", "fp16"}
    may_freeze = asked is not None and config.backbone_config is None and "num_frozen_layers" not in fixed
    may_freeze = may_freeze and not arguments.freeze_encoder
    simulation = Simulation(config, crop_size, arguments, device.type, adapt)

    def step(settings: StepSettings, size: int) -> StepSettings:
        return replace(settings, batch_size=size, accumulation=share // size)

    def fits(settings: StepSettings) -> bool:
        return room.peak(simulation.step_bytes(settings)) <= room.budget

    tried = []
    for settings in concessions(
        start, fixed, is_free and has_bf16(device.type == "cpu"), config.num_hidden_layers if may_freeze else 0
    ):
        size = largest_that_fits(sizes, lambda size, settings=settings: fits(step(settings, size)))  # type: ignore
        tried.append(step(settings, sizes[0]))
        if size is not None:
            break
    else:
        least = shown(min(room.peak(simulation.step_bytes(settings)) for settings in tried))
        raise SetrError(
            f"no way to train on crops of {crop_size[0]}×{crop_size[1]} pixels fits in {shown(room.budget)}: the "
            f"least that was found takes {least}. Use a smaller --crop-size or network"
            + (", or pass --memory, which lets bf16 and frozen layers be chosen as well" if asked is None else "")
        )
    chosen = step(settings, size)
    windows = arguments.eval_window_batch_size
    while windows > 1 and "eval_window_batch_size" not in fixed:
        if room.peak(simulation.evaluation_bytes(chosen, windows)) <= room.budget:
            break
        windows //= 2
    return MemoryPlan(
        chosen.batch_size,
        chosen.accumulation,
        chosen.gradient_checkpointing,
        chosen.mixed_precision == "bf16",
        chosen.num_frozen_layers,
        windows,
        room.peak(simulation.step_bytes(chosen)),
        room.peak(simulation.evaluation_bytes(chosen, windows)),
        room.budget,
        simulation.step_operations(chosen),
    )


class MeasuredMemory(TrainerCallback):
    """Measures the peak memory of training steps, in the terms of [`MemoryPlan`], and says it beside the prediction
    when training ends. `rows` gets it too, for the run's card.
    """

    def __init__(self, predicted: int, rows: list[tuple[str, object]]) -> None:
        self.predicted = predicted
        self.rows = rows
        self.peak = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Between the steps are evaluations. Where the system forbids this, the peak is the largest since the start.
        if args.device.type == "cpu":
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
        else:
            torch.cuda.reset_peak_memory_stats(args.device)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        on_cpu = args.device.type == "cpu"
        peak = peak_memory() if on_cpu else torch.cuda.max_memory_allocated(args.device)
        self.peak = max(self.peak, peak)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        row = ("peak memory", f"{shown(self.peak)}, predicted {shown(self.predicted)}")
        self.rows.append(row)
        if state.is_world_process_zero:
            print_options([row])
