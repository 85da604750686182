"""What a training step costs, said before the first one; and what the networks of the presets cost."""

import time
from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.initialization import no_init_weights

from ..model.configuration_setr import DECODER_TYPES, SetrConfig
from ..model.modeling_setr import SetrForSemanticSegmentation
from ..model.presets_setr import PRESETS, find_preset
from .arguments import SetrTrainingArguments
from .memory import MemoryPlan
from .options import Command, starts_at_random


# Of the square matrices whose product is timed.
MATMUL_SIDE = 512
# A step on a CPU beyond which there is a hint at smaller networks.
SLOW_SECONDS = 10


def matmul_rate(dtype: torch.dtype) -> float:
    """The floating-point operations a second that matrix products reach on this CPU, the best of a few."""
    left, right = torch.ones(2, MATMUL_SIDE, MATMUL_SIDE, dtype=dtype)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - start)
    return 2 * MATMUL_SIDE**3 / min(seconds)


def cost_rows(
    command: Command, num_parameters: int, arguments: SetrTrainingArguments, plan: MemoryPlan | None
) -> list[tuple[str, object]]:
    """Names and values for [`print_options`]: the size of the network and what a step of the optimizer takes, as far
    as a plan tells; and a hint if it could be had for less.
    """
    cost, seconds = f"{num_parameters / 1e6:,.1f} M parameters", 0.0
    if plan:
        samples = plan.per_device_train_batch_size * plan.gradient_accumulation_steps
        cost += f"; a step of {samples} samples takes {plan.step_operations / 1e9:,.2f} GFLOP"
        if arguments.device.type == "cpu":
            seconds = plan.step_operations / matmul_rate(torch.bfloat16 if plan.bf16 else torch.float32)
            cost += f", at least {seconds:,.2f} s on this CPU"
    rows: list[tuple[str, object]] = [("cost", cost)]
    options, hints = command.options, []
    if seconds > SLOW_SECONDS:
        hints.append("--preset small or tiny, or a smaller --crop-size or --global-batch-size, is quicker")
    if starts_at_random(options) and not command.recipe:
        start = "--encoder pretrained" if options.preset else "--preset tiny --encoder pretrained, or --encoder NAME,"
        hints.append(f"random weights need much data and time: {start} starts from public ones")
    return rows + ([("hint", "; ".join(hints))] if hints else [])


def network_cost(config: SetrConfig) -> tuple[int, int]:
    """The parameters of a network, and the floating-point operations of the matrix products and convolutions with
    which it segments an image of `config.image_size`, as its formulas have them: on a CPU it saves some of those that
    follow an upsampling.
    """
    sides = [config.image_size] * 2 if isinstance(config.image_size, int) else config.image_size
    with torch.device("meta"), no_init_weights(), torch.no_grad():
        # The counter does not know attention in one piece on every device.
        model = SetrForSemanticSegmentation._from_config(config, attn_implementation="eager").eval()
        with FlopCounterMode(display=False) as counter:
            model(pixel_values=torch.empty(1, config.num_channels, *sides))
    return model.num_parameters(), counter.get_total_flops()


def preset_rows(names: Sequence[str], num_labels: int, image_size: int) -> list[list[object]]:
    """Name, layers, width and heads of these presets, or of all; parameters and operations for an image, for each
    decoder; the public encoder; and what it is. Raises `ValueError` if there is none of a name.
    """
    rows = []
    for name in names or PRESETS:
        preset = find_preset(name)
        sizes = [preset.fields[field] for field in ("num_hidden_layers", "hidden_size", "num_attention_heads")]
        costs = []
        for decoder_type in DECODER_TYPES:
            num_parameters, operations = network_cost(
                SetrConfig.from_preset(name, decoder_type=decoder_type, num_labels=num_labels, image_size=image_size)
            )
            costs.append(f"{num_parameters / 1e6:.1f} M, {operations / 1e9:,.0f} GFLOP")
        rows.append([name, *sizes, *costs, preset.encoder, preset.description])
    return rows
