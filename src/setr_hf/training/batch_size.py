"""The global batch of a training run: how it is split over processes, devices and accumulated batches."""

from argparse import Namespace

import torch
from accelerate.utils import get_int_from_env

from ..errors import SetrError


# The batch on a device that [`plan_memory`] chooses, as it does if none is given.
AUTO = "auto"
# The variables in which launchers pass the number of processes, as accelerate reads them.
WORLD_SIZE_VARIABLES = ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "WORLD_SIZE"]


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
    there is one. What is not given stays open to [`plan_memory`]: until then, the whole share of a process goes to the
    device at once. `chosen` holds what the command line or the recipe sets. Raises [`SetrError`] if the batch cannot
    be split this way.
    """
    per_device, accumulation = chosen.get("per_device_train_batch_size"), chosen.get("gradient_accumulation_steps")
    if options.global_batch_size is None:
        if per_device == AUTO:
            raise SetrError("--per-device-train-batch-size auto splits a global batch: set --global-batch-size")
        return
    if per_device == AUTO and accumulation is not None:
        raise SetrError("--per-device-train-batch-size auto works out --gradient-accumulation-steps: leave that out")
    split = batch_arithmetic(
        options.global_batch_size, count_processes(options), None if per_device == AUTO else per_device, accumulation
    )
    options.per_device_train_batch_size, options.gradient_accumulation_steps = split
