"""The memory and operations that training takes, from steps on fake tensors: they have shapes and devices, and no
contents.

The real model, autograd, autocast, gradient checkpointing and optimizer run, so nothing here knows what a layer keeps.
`FakeTensorMode` and `TorchDispatchMode` are what `torch.compile` and `torch.export` are built on, but their modules
have an underscore. `torch.distributed._tools.mem_tracker` would be a third such module, and knows nothing of what a
custom operator takes inside, which for the loss of many classes is the peak.
"""

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import nn
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.flop_counter import flop_registry
from transformers import Trainer, pytorch_utils
from transformers.initialization import no_init_weights

from ..model.combined_losses_setr import weighted_losses
from ..model.configuration_setr import SetrConfig
from ..model.losses_setr import summed_cross_entropy
from ..model.modeling_setr import SetrForSemanticSegmentation
from .arguments import SetrTrainingArguments
from .averaging import changing_tensors
from .encoder_layers import find_encoder, freeze_encoder
from .finite import spread_to_gradients
from .optimization import freeze_layers


# The caching allocator's unit. The CPU's allocator is asked for the bytes of a tensor.
CUDA_BLOCK_BYTES = 512
# Other implementations of attention need a kernel or a compiler to run; like this one they hold no attention map.
SIMULATED_ATTENTIONS = {"eager", "sdpa"}
# Floating-point operations of matrix products, convolutions and attention, which torch does not count on a CPU.
ATTENTION = "_scaled_dot_product_flash_attention"
OPERATIONS = flop_registry | {
    getattr(torch.ops.aten, f"{ATTENTION}_for_cpu{suffix}"): flop_registry[getattr(torch.ops.aten, ATTENTION + suffix)]
    for suffix in ("", "_backward")
}
# Small beside the network's, and not what its formulas count.
UNCOUNTED = {operator._qualname for operator in (summed_cross_entropy, weighted_losses)}


@dataclass(frozen=True)
class StepSettings:
    """What decides on the memory of a step, for a given network.

    Args:
        batch_size (`int`): Samples on a device at once.
        accumulation (`int`): Batches in a step of the optimizer.
        gradient_checkpointing (`bool`): Whether layers are computed again in the backward pass.
        mixed_precision (`str`): "no", "bf16" or "fp16".
        num_frozen_layers (`int`): See [`freeze_layers`].
    """

    batch_size: int
    accumulation: int = 1
    gradient_checkpointing: bool = False
    mixed_precision: str = "no"
    num_frozen_layers: int = 0

    @property
    def dtype(self) -> torch.dtype | None:
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.mixed_precision)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operators return and that are still alive, in `now`, and their `peak`; and
    in `operations` the floating-point operations.

    Inside custom operators their implementation is run, as the fake one that stands for it knows their results only.
    Each takes one sample of a batch after the other: `held_inside` notes bytes and operations of one, by operator and
    shapes. Numbers and conditions read from contents, which fake tensors have none of, are 0 and false.
    """

    def __init__(self, block_bytes: int, held_inside: dict[tuple, tuple[int, int]]):
        super().__init__()
        self.block_bytes = block_bytes
        self.held_inside = held_inside
        self.storages: weakref.WeakSet = weakref.WeakSet()
        self.now = self.peak = self.operations = 0

    def _release(self, num_bytes: int) -> None:
        self.now -= num_bytes

    def add(self, tensors: Any) -> None:
        for tensor in tree_iter(tensors):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.storages:
                num_bytes = -(-storage.nbytes() // self.block_bytes) * self.block_bytes
                self.storages.add(storage)
                weakref.finalize(storage, self._release, num_bytes)
                self.now += num_bytes
        self.peak = max(self.peak, self.now)

    def _run_inside(self, name: str, args: Any, kwargs: dict[str, Any]) -> int:
        """Counts the operations of a custom operator, and returns the bytes that it takes beyond its results."""

        def one_sample(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[:1] if tensor.ndim > 2 else tensor

        def described(tensor: torch.Tensor) -> tuple:
            return tensor.shape, tensor.dtype, tensor.device

        batch_size = len(args[0])
        args, kwargs = tree_map_only(torch.Tensor, one_sample, (args, kwargs))
        key = (name, str(tree_map_only(torch.Tensor, described, (args, kwargs))))
        if key not in self.held_inside:
            inside = LiveBytes(self.block_bytes, self.held_inside)
            inside.storages.update(
                value.untyped_storage() for value in tree_iter((args, kwargs)) if isinstance(value, torch.Tensor)
            )
            with inside:
                results = OPDEFS[name]._init_fn(*args, **kwargs)
            self.held_inside[key] = inside.peak - inside.now, inside.operations
            del results
        num_bytes, operations = self.held_inside[key]
        if name not in UNCOUNTED:
            self.operations += batch_size * operations
        return num_bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inside = self._run_inside(func.name(), args, kwargs) if func.name() in OPDEFS else 0
        try:
            results = func(*args, **kwargs)
        except DataDependentOutputException:
            return 0
        if count := OPERATIONS.get(func.overloadpacket):
            self.operations += count(*args, **kwargs, out_val=results)
        self.add(results)
        self.peak = max(self.peak, self.now + inside)
        return results


@contextmanager
def fake_tensors() -> Iterator[None]:
    """New tensors are fake. Some encoders, such as DINOv3, keep tensors for later calls, which would mix fake and real
    ones; while torch compiles, Transformers keeps none.
    """
    is_compiling = pytorch_utils.is_torchdynamo_compiling
    pytorch_utils.is_torchdynamo_compiling = lambda: True
    try:
        with FakeTensorMode():
            yield
    finally:
        pytorch_utils.is_torchdynamo_compiling = is_compiling


@dataclass
class Simulation:
    """Training steps of a network, simulated.

    Args:
        config (`SetrConfig`): Of the network.
        crop_size (`tuple[int, int]`): Height and width of training crops, and of test windows, in pixels.
        arguments (`SetrTrainingArguments`): The optimizer, and whether several processes take part; the rest is in
            [`StepSettings`].
        device_type (`str`): "cpu" or "cuda", which need not be there.
        adapt (`Callable`, *optional*): What puts adapters into the network, such as [`add_lora`].

    Example:

    ```python
    >>> from setr_hf import SetrConfig, SetrTrainingArguments
    >>> from setr_hf.training.simulation import Simulation, StepSettings

    >>> config = SetrConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, decoder_type="naive")
    >>> arguments = SetrTrainingArguments("outputs/mine", report_to=[], use_cpu=True)
    >>> simulation = Simulation(config, (64, 64), arguments, "cpu")
    >>> simulation.step_bytes(StepSettings(8)) > simulation.step_bytes(StepSettings(2, accumulation=4))
    True
    ```
    """

    config: SetrConfig
    crop_size: tuple[int, int]
    arguments: SetrTrainingArguments
    device_type: str
    adapt: Callable[[SetrForSemanticSegmentation], Any] | None = None
    held_inside: dict[tuple, tuple[int, int]] = field(default_factory=dict)
    known: dict[tuple, int] = field(default_factory=dict)
    operations: dict[StepSettings, int] = field(default_factory=dict)

    def _network(self, settings: StepSettings) -> Any:
        """The network without contents or device: PEFT moves adapters, which fake tensors do not allow."""
        config = copy.deepcopy(self.config)
        if config._attn_implementation not in SIMULATED_ATTENTIONS:
            config._attn_implementation = "sdpa"
        with no_init_weights(), torch.device("meta"):
            model = SetrForSemanticSegmentation(config)
            model = (self.adapt(model) if self.adapt else model).train()
        freeze_layers(model, settings.num_frozen_layers)
        if self.arguments.freeze_encoder:
            freeze_encoder(model)
            find_encoder(model)[1].eval()
        if settings.gradient_checkpointing:
            # The second is the name of Transformers 5.17, which later ones warn of.
            names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
            enable = next(getattr(model, name) for name in names if hasattr(model, name))
            enable(self.arguments.gradient_checkpointing_kwargs)
        return model

    def _place(self, model: nn.Module) -> None:
        """Gives a network a device and, in fake mode, fake tensors."""

        def placed(tensor: torch.Tensor) -> torch.Tensor:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device_type)

        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(placed(weight), weight.requires_grad))
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, placed(buffer))

    def _optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The run's optimizer, with its state; AdamW, which takes as much as any, for those that are not of torch."""
        optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(self.arguments, model)
        if not getattr(optimizer_class, "__module__", "").startswith("torch.optim"):
            optimizer_class, options = torch.optim.AdamW, {}
        if self.device_type == "cuda" and not options.get("fused"):
            # What torch chooses by itself for CUDA, but not for fake tensors: all parameters at once, copies and all.
            options = {"foreach": True} | options
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = optimizer_class(parameters, **options)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        return optimizer

    def _averages(self, model: nn.Module) -> list[torch.Tensor]:
        """The run's moving average of the weights, if it has one."""
        averaged = changing_tensors(model) if self.arguments.ema is not None else {}
        return [torch.empty_like(tensor) for tensor in averaged.values()]

    @contextmanager
    def _autocast(self, settings: StepSettings) -> Iterator[None]:
        with torch.autocast(self.device_type, settings.dtype, enabled=settings.dtype is not None):
            yield

    def _forward(self, model: nn.Module, settings: StepSettings) -> Any:
        """The forward pass as accelerate wraps it."""
        if settings.dtype is None:
            return model.forward

        def forward(**inputs: Any) -> Any:
            with self._autocast(settings):
                return model.forward(**inputs)

        return convert_outputs_to_fp32(forward)

    def _images(self, count: int) -> torch.Tensor:
        return torch.empty(count, self.config.num_channels, *self.crop_size, device=self.device_type)

    def _batch(self, batch_size: int) -> dict[str, torch.Tensor]:
        labels = torch.empty(batch_size, *self.crop_size, dtype=torch.long, device=self.device_type)
        return {"pixel_values": self._images(batch_size), "labels": labels}

    def _live_bytes(self) -> LiveBytes:
        return LiveBytes(CUDA_BLOCK_BYTES if self.device_type == "cuda" else 1, self.held_inside)

    def step_bytes(self, settings: StepSettings) -> int:
        """The most bytes that tensors take in a step of the optimizer, at any but the first: weights, gradients,
        the optimizer's state, all batches of the step and, on the CPU, the next one, activations and temporary ones.
        """
        key = ("step", settings)
        if key not in self.known:
            live = self._live_bytes()
            model = self._network(settings)
            with fake_tensors(), live:
                self._place(model)
                optimizer = self._optimizer(model)
                parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
                averages = self._averages(model)
                # DDP keeps a second copy of the gradients for its communication.
                buckets = [torch.empty_like(parameter) for parameter in parameters if self.arguments.world_size > 1]
                # The trainer takes all batches of a step from the loader, which looks ahead.
                batches = [self._batch(settings.batch_size) for _ in range(settings.accumulation)]
                ahead = self._batch(settings.batch_size) if self.device_type == "cpu" else None
                forward = self._forward(model, settings)
                live.peak = 0
                # The second batch finds the gradients of the first; a third is like the second.
                for batch in batches[:2]:
                    live.operations = 0
                    loss = spread_to_gradients(forward(**batch).loss)
                    loss.backward()
                    del loss
                optimizer.step()
            del averages, buckets, ahead
            self.known[key] = live.peak
            self.operations[settings] = live.operations * settings.accumulation
        return self.known[key]

    def step_operations(self, settings: StepSettings) -> int:
        """The floating-point operations of a step of the optimizer on this device: those of the matrix products,
        convolutions and attention, forward, backward and where checkpointing repeats them.
        """
        self.step_bytes(settings)
        return self.operations[settings]

    def evaluation_bytes(self, settings: StepSettings, num_windows: int) -> int:
        """The same while `num_windows` test windows are segmented between two steps."""
        key = ("evaluation", settings, num_windows)
        if key not in self.known:
            live = self._live_bytes()
            model = self._network(settings)
            with fake_tensors(), live:
                self._place(model)
                optimizer, averages = self._optimizer(model), self._averages(model)
                model.eval()
                live.peak = 0
                with torch.no_grad():
                    self._forward(model, settings)(pixel_values=self._images(num_windows))
            del optimizer, averages
            self.known[key] = live.peak
        return self.known[key]
