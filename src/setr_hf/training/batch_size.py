"""The global batch of a training run: how it is split over processes, devices and accumulated batches."""

import copy
import gc
import os
from argparse import Namespace
from pathlib import Path

import torch
from accelerate.utils import gather, get_int_from_env
from accelerate.utils.memory import should_reduce_batch_size
from transformers import PreTrainedModel, Trainer
from transformers.trainer_optimizer import is_optimizer_factory

from ..errors import SetrError
from .arguments import SetrTrainingArguments


# What stands for the largest batch on a device that fits.
AUTO = "auto"
# The variables in which launchers pass the number of processes, as accelerate reads them.
WORLD_SIZE_VARIABLES = ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "WORLD_SIZE"]
# Of the free memory of a computer without a GPU; data loading, evaluation and the system need the rest.
USABLE_SHARE = 0.8


def count_processes(options: Namespace) -> int:
    """Processes of this run, from the launcher's environment; in a dry run without a launcher, one for each GPU.
    Raises [`SetrError`] if one process would train on several GPUs, for which `Trainer` has `torch.nn.DataParallel`:
    both the batch and BatchNorm would differ from one process per GPU.
    """
    count = get_int_from_env(WORLD_SIZE_VARIABLES, 0)
    if count or options.use_cpu:
        return count or 1
    num_gpus = torch.cuda.device_count()
    if num_gpus > 1 and not options.dry_run:
        raise SetrError(
            f"one process sees {num_gpus} GPUs: start one for each with `accelerate launch --config_file "
            f"scripts/accelerate/eight_gpus.yaml --num_processes {num_gpus} scripts/train.py …`, or choose one with "
            "CUDA_VISIBLE_DEVICES=0"
        )
    return max(1, num_gpus)


def divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def batch_arithmetic(
    batch_size: int, num_processes: int, per_device: int | None = None, accumulation: int | None = None
) -> tuple[int, int]:
    """Splits a global batch, in samples: batch_size = num_processes × per_device × accumulation. What is `None`
    follows from the others; if both are, the whole share of a process goes to the device at once. Returns `per_device`
    and `accumulation`. Raises [`SetrError`], with the possible splits, for numbers that do not agree.
    """
    for name, value in (("batch", batch_size), ("batch per device", per_device), ("accumulation", accumulation)):
        if value is not None and value < 1:
            raise SetrError(f"the {name} must be at least 1, got {value}")
    share, rest = divmod(batch_size, num_processes)
    if rest:
        raise SetrError(
            f"a global batch of {batch_size} cannot be split over {num_processes} processes: start "
            f"{', '.join(map(str, divisors(batch_size)))} of them, or choose another batch with --global-batch-size"
        )
    if per_device is None:
        per_device = max(1, share // (accumulation or 1))
    if accumulation is None:
        accumulation = max(1, share // per_device)
    product = num_processes * per_device * accumulation
    if product != batch_size:
        splits = ", ".join(f"{size} × {share // size}" for size in divisors(share))
        raise SetrError(
            f"processes {num_processes} × per device {per_device} × accumulation {accumulation} = {product} is not "
            f"the global batch of {batch_size}. With {num_processes} processes, per device × accumulation can be "
            f"{splits}. For another batch, set --global-batch-size {product}"
        )
    return per_device, accumulation


def split_batch(options: Namespace, chosen: dict) -> None:
    """Sets `per_device_train_batch_size` and `gradient_accumulation_steps` to the split of `global_batch_size`, if
    there is one. On a GPU, and where the user asks for it, the former stays "auto" until [`fit_batch_size`]. `chosen`
    holds what the command line or the recipe sets. Raises [`SetrError`] if the batch cannot be split this way.
    """
    per_device, accumulation = chosen.get("per_device_train_batch_size"), chosen.get("gradient_accumulation_steps")
    if options.global_batch_size is None:
        if per_device == AUTO:
            raise SetrError("--per-device-train-batch-size auto splits a global batch: set --global-batch-size")
        return
    if per_device is None and accumulation is None and torch.cuda.is_available() and not options.use_cpu:
        per_device = AUTO
    if per_device == AUTO and accumulation is not None:
        raise SetrError("--per-device-train-batch-size auto works out --gradient-accumulation-steps: leave that out")
    split = batch_arithmetic(
        options.global_batch_size, count_processes(options), None if per_device == AUTO else per_device, accumulation
    )
    options.per_device_train_batch_size, options.gradient_accumulation_steps = split
    if per_device == AUTO:
        options.per_device_train_batch_size = AUTO


class TrialStep:
    """Steps of training on random crops of `(height, width)` pixels, with a copy of a model on the run's device, in
    the run's precision. The model, its gradients and BatchNorm statistics, and the random generators stay as they are.
    """

    def __init__(self, model: PreTrainedModel, arguments: SetrTrainingArguments, crop_size: tuple[int, int]) -> None:
        self.device, self.crop_size = arguments.device, crop_size
        mixed = "fp16" if arguments.fp16 else "bf16" if arguments.bf16 else os.getenv("ACCELERATE_MIXED_PRECISION")
        self.dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(mixed or "no")
        self.model = copy.deepcopy(model).to(self.device).train()
        if arguments.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(arguments.gradient_checkpointing_kwargs)
        optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(arguments, self.model)
        if is_optimizer_factory(optimizer_class) or {"params", "model", "optimizer_dict"} & set(options):
            # Optimizers that make their own parameter groups save memory; AdamW is the upper bound.
            optimizer_class, options = torch.optim.AdamW, {}
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = optimizer_class(parameters, **options)
        # DDP keeps a second copy of the gradients for its communication.
        self.buckets = [torch.empty_like(parameter) for parameter in parameters if arguments.world_size > 1]

    def run(self, batch_size: int) -> None:
        """Two steps, as the second one has the optimizer's state in memory from its beginning."""
        config = self.model.config
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            for _ in range(2):
                pixel_values = torch.rand(batch_size, config.num_channels, *self.crop_size, device=self.device)
                labels = torch.randint(len(config.id2label), (batch_size, *self.crop_size), device=self.device)
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                    loss = self.model(pixel_values=pixel_values, labels=labels).loss
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()


def fits_on_device(trial: TrialStep, batch_size: int) -> bool:
    """Whether an accelerator has the memory for a batch."""
    try:
        trial.run(batch_size)
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        return False
    finally:
        trial.optimizer.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()
    return True


def peak_memory() -> int:
    """The largest memory of this process in bytes, since its start or since `clear_refs` was written to."""
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


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


def largest_batch_in_memory(trial: TrialStep, share: int, available: float) -> int:
    """The largest divisor of `share` that fits `available` bytes, as predicted from batches of 1 and 2."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    start, peaks = peak_memory(), []
    for batch_size in (1, 2):
        trial.run(batch_size)
        peaks.append(peak_memory() - start)
    growth = peaks[1] - peaks[0]
    return max(size for size in divisors(share) if size == 1 or peaks[0] + (size - 1) * growth <= available)


def fit_batch_size(
    model: PreTrainedModel, arguments: SetrTrainingArguments, crop_size: tuple[int, int], share: int
) -> int:
    """The largest batch per device, a divisor of `share`, for whose training step every process has the memory. On an
    accelerator batches are tried from the largest down; on the CPU the memory is predicted. Under FSDP, which shards
    what each process holds whole in the trial, more may fit than this finds. `crop_size` is the height and width of
    training crops in pixels, `share` a process's samples in a step of the optimizer; the model is left as it is, see
    [`TrialStep`]. Raises [`SetrError`] if not even one sample fits, or if the system does not say how much memory is
    taken, which matters without a GPU.
    """
    trial = TrialStep(model, arguments, crop_size)
    if arguments.device.type == "cpu":
        try:
            available = USABLE_SHARE * available_memory() / get_int_from_env(["LOCAL_WORLD_SIZE"], 1)
            size = largest_batch_in_memory(trial, share, available)
        except OSError as error:
            raise SetrError(
                f"--per-device-train-batch-size auto cannot measure memory on this system ({error}): pass a number"
            ) from error
    else:
        size = next((size for size in reversed(divisors(share)) if fits_on_device(trial, size)), 0)
    del trial
    gc.collect()
    torch.cuda.empty_cache()
    size = int(gather(torch.tensor([size], device=arguments.device)).min())
    if size == 0:
        raise SetrError(
            f"not even one sample of {crop_size[0]}×{crop_size[1]} pixels fits in the memory of {arguments.device}: "
            "pass --gradient-checkpointing, --bf16 or a smaller --crop-size"
        )
    return size
