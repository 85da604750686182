"""A model as one graph of torch.export, from which the files of all formats are made."""

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_shapes
from transformers import PreTrainedModel


class LogitsOnly(nn.Module):
    """From `pixel_values` to `logits`, both float32, in whatever precision the model computes."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        self.dtype: torch.dtype = model.dtype

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values.to(self.dtype)).logits.float()


def sample_sizes(patch_size: int) -> tuple[int, int, int]:
    """Batch size, height and width of what a model is traced with. No two are equal, 1, or whole patches, so that none
    is taken for fixed.
    """
    return 2, 3 * patch_size + 1, 5 * patch_size - 1


def sample_pixels(model: PreTrainedModel) -> torch.Tensor:
    """Pixels to trace a model with, and to compare it on."""
    batch_size, height, width = sample_sizes(model.config.patch_size)
    shape = (batch_size, model.config.num_channels, height, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def trace(model: PreTrainedModel) -> ExportedProgram:
    """The graph of a model in evaluation mode, on the CPU.

    Its input is `pixel_values`, float32 of shape `(batch_size, num_channels, height, width)`, normalized as the image
    processor does, of any batch size, height and width. Its output is the `logits` of the model at its own
    resolution, float32 of shape `(batch_size, num_labels, rows, columns)`.
    """
    inputs = {"pixel_values": sample_pixels(model)}
    free = {"pixel_values": {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}
    # Without the setting, a graph is bound to sizes that are not 1, and not those at which a tensor happens to be
    # contiguous.
    with torch.no_grad(), symbolic_shapes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(LogitsOnly(model), (), inputs, dynamic_shapes=free)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # The paths of this computer, which all formats would tell.
    return program
