"""Patch projections of RGB models made to take photos of any number of bands, so that RGB content gives the same.

With kernels w_c and bias b of a model whose RGB is normalized by means m_c and standard deviations s_c, and photos of
n bands that are normalized by m'_j and s'_j, RGB is taken for a mixture of the bands, x_c = Σ_j A_cj x_j. Then

    w'_j = Σ_c (A_cj s'_j / s_c) w_c    and    b' = b + Σ_c (Σ w_c) (Σ_j A_cj m'_j − m_c) / s_c

give the same projection. From three bands on, the first three are red, green and blue, and the kernels of all others
are 0: they change nothing at first, and learn from the first step on. With one or two bands each colour is their mean,
which is exact for gray photos.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import SetrError
from ..model.modeling_setr import SetrForSemanticSegmentation


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each band."""

    mean: Sequence[float]
    std: Sequence[float]

    def __len__(self) -> int:
        return len(self.mean)


def band_mixture(num_channels: int) -> torch.Tensor:
    """What each colour is of the bands: `(3, num_channels)`."""
    return torch.eye(3, num_channels) if num_channels >= 3 else torch.full((3, num_channels), 1 / num_channels)


def inflate_input_channels(weight: torch.Tensor, num_channels: int) -> torch.Tensor:
    """Kernels of RGB, `(out, 3, height, width)`, for another number of bands that are normalized as RGB is, by a mean
    and a standard deviation that all bands share if there are fewer than three.

    Raises [`SetrError`] if they are not for three channels.

    Example:

    ```python
    >>> import torch
    >>> from setr_hf.checkpoints.inflation import inflate_input_channels

    >>> rgb = torch.rand(8, 3, 16, 16)
    >>> bands = inflate_input_channels(rgb, 5)
    >>> bands.shape, torch.equal(bands[:, :3], rgb), float(bands[:, 3:].abs().max())
    (torch.Size([8, 5, 16, 16]), True, 0.0)
    ```
    """
    if weight.ndim != 4 or weight.shape[1] != 3:
        raise SetrError(f"kernels of the shape {tuple(weight.shape)} cannot be inflated: they are not for RGB")
    return torch.einsum("ochw,cj->ojhw", weight, band_mixture(num_channels).to(weight))


def inflate_projection(
    weight: torch.Tensor, bias: torch.Tensor, rgb: Normalization, bands: Normalization
) -> tuple[torch.Tensor, torch.Tensor]:
    """Kernels and bias for photos normalized as `bands` say, from those for RGB normalized as `rgb` says: w' and b' of
    the formula above.
    """
    mean, std = torch.tensor(rgb.mean, dtype=torch.float64), torch.tensor(rgb.std, dtype=torch.float64)
    new_mean, new_std = torch.tensor(bands.mean, dtype=torch.float64), torch.tensor(bands.std, dtype=torch.float64)
    kernels = weight.double() / std[:, None, None]
    shift = kernels.sum(dim=(2, 3)) @ (band_mixture(len(bands)).double() @ new_mean - mean)
    inflated = inflate_input_channels(kernels, len(bands)) * new_std[:, None, None]
    return inflated.to(weight.dtype), (bias.double() + shift).to(bias.dtype)


def inflate_model(model: SetrForSemanticSegmentation, rgb: Normalization, bands: Normalization) -> None:
    """Makes an RGB model one for photos of `bands`, in place: on RGB content its logits are what they were. Raises
    [`SetrError`] if it does not take RGB, or has a backbone of Transformers.
    """
    config = model.config
    if config.backbone_config is not None or config.num_channels != 3:
        raise SetrError(
            f"a model of {config.num_channels} channels cannot become one for {len(bands)} bands: only RGB models "
            "with SETR's own encoder can"
        )
    old = model.setr.embeddings.patch_embeddings
    new = nn.Conv2d(len(bands), old.out_channels, config.patch_size, config.patch_size, device=old.weight.device)
    weight, bias = inflate_projection(old.weight.data, old.bias.data, rgb, bands)
    new.weight.data, new.bias.data = weight, bias
    model.setr.embeddings.patch_embeddings = new
    config.num_channels = len(bands)
