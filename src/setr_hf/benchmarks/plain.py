"""The paper's networks and protocol in plain PyTorch, to compare with: as they are described, and nothing cleverer.

The decoders have the parameters of ours, by the same names.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, SizeDict

from ..model.configuration_setr import SetrConfig
from ..model.image_processing_setr import window_offsets


def vit(config: SetrConfig) -> ViTModel:
    """Transformers' ViT of the same size, without the pooler that classifiers need."""
    vit_config = ViTConfig(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        image_size=config.image_size,
        patch_size=config.patch_size,
        layer_norm_eps=config.layer_norm_eps,
    )
    return ViTModel(vit_config, add_pooling_layer=False)


class ConvLayer(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.normalization = nn.BatchNorm2d(out_channels)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return F.relu(self.normalization(self.convolution(maps)))


class ChannelNorm(nn.LayerNorm):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class UpsampleHead(nn.Module):
    """Naive and PUP (paper section 3.3, (1) and (2)): each convolution is upsampled, and the classifier comes last."""

    def __init__(self, config: SetrConfig, num_convs: int, scale_factor: int):
        super().__init__()
        channels, kernel_size = config.decoder_hidden_size, config.decoder_kernel_size
        self.scale_factor = scale_factor
        self.layernorm = ChannelNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(
            ConvLayer(channels if index else config.hidden_size, channels, kernel_size) for index in range(num_convs)
        )
        self.classifier = nn.Conv2d(channels, config.num_labels, kernel_size=1)

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        maps = self.layernorm(feature_map)
        for layer in self.layers:
            maps = layer(maps)
            if self.scale_factor > 1:
                maps = F.interpolate(maps, scale_factor=self.scale_factor, mode="bilinear", align_corners=False)
        return self.classifier(maps)


class MlaHead(nn.Module):
    """MLA (paper section 3.3, (3)): streams are summed from the deepest up, and upsampled ×4 before the classifier."""

    def __init__(self, config: SetrConfig):
        super().__init__()
        streams, channels, branch_channels = range(4), config.decoder_hidden_size, config.mla_hidden_size
        self.align_corners = config.mla_align_corners
        self.layernorms = nn.ModuleList(ChannelNorm(config.hidden_size, config.layer_norm_eps) for _ in streams)
        self.projections = nn.ModuleList(ConvLayer(config.hidden_size, channels, 1) for _ in streams)
        self.aggregations = nn.ModuleList(ConvLayer(channels, channels, 3) for _ in streams)
        self.branches = nn.ModuleList(
            nn.Sequential(ConvLayer(channels, branch_channels, 3), ConvLayer(branch_channels, branch_channels, 3))
            for _ in streams
        )
        size = config.mla_classifier_kernel_size
        self.classifier = nn.Conv2d(4 * branch_channels, config.num_labels, size, padding=size // 2)
        self.auxiliary_classifiers = nn.ModuleList(
            nn.Conv2d(channels, config.num_labels, kernel_size=1, bias=config.mla_auxiliary_bias) for _ in streams
        )

    def aggregate(self, feature_maps: list[torch.Tensor]) -> list[torch.Tensor]:
        projected = [
            projection(layernorm(maps))
            for projection, layernorm, maps in zip(self.projections, self.layernorms, feature_maps)
        ]
        for index in (2, 1, 0):
            projected[index] = projected[index] + projected[index + 1]
        return [convolution(maps) for convolution, maps in zip(self.aggregations, projected)]

    def classify(self, aggregated: list[torch.Tensor]) -> torch.Tensor:
        upsampled = [
            F.interpolate(branch(maps), scale_factor=4, mode="bilinear", align_corners=self.align_corners)
            for branch, maps in zip(self.branches, aggregated)
        ]
        return self.classifier(torch.cat(upsampled, dim=1))

    def forward(self, feature_maps: list[torch.Tensor]) -> torch.Tensor:
        return self.classify(self.aggregate(feature_maps))


def decoder(config: SetrConfig) -> UpsampleHead | MlaHead:
    if config.decoder_type == "mla":
        return MlaHead(config)
    return UpsampleHead(config, config.decoder_num_convs, config.decoder_scale_factor)


class Segmenter(nn.Module):
    """SETR of [`vit`] and the decoders above."""

    def __init__(self, config: SetrConfig):
        super().__init__()
        self.config = config
        self.encoder = vit(config)
        self.encoder.layernorm = nn.Identity()  # The decoders have their own.
        self.decoder = decoder(config)
        self.auxiliary_heads = nn.ModuleList(
            UpsampleHead(config, config.auxiliary_num_convs, config.auxiliary_scale_factor)
            for _ in config.auxiliary_out_indices
            if config.decoder_type != "mla"
        )

    def encode(self, pixel_values: torch.Tensor, indices: list[int]) -> list[torch.Tensor]:
        """The outputs of layers, counted from 1, as maps."""
        hidden_states, maps = self.encoder.embeddings(pixel_values), {}
        if not self.config.use_class_token:
            hidden_states = hidden_states[:, 1:]
        grid = [side // self.config.patch_size for side in pixel_values.shape[-2:]]
        for index, layer in enumerate(self.encoder.layers, start=1):
            hidden_states = layer(hidden_states)
            if index in indices:
                maps[index] = hidden_states[:, -math.prod(grid) :].transpose(1, 2).unflatten(2, grid)
        return [maps[index] for index in indices]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        maps = self.encode(pixel_values, self.config.decoder_indices)
        return self.decoder(maps if self.config.decoder_type == "mla" else maps[0])

    def all_logits(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """The logits of the decoder and of the auxiliary heads."""
        indices = sorted({*self.config.decoder_indices, *self.config.auxiliary_out_indices})
        maps = dict(zip(indices, self.encode(pixel_values, indices)))
        if isinstance(self.decoder, MlaHead):
            aggregated = self.decoder.aggregate([maps[index] for index in self.config.decoder_indices])
            classifiers = zip(self.decoder.auxiliary_classifiers, aggregated)
            return [self.decoder.classify(aggregated), *(classifier(part) for classifier, part in classifiers)]
        heads = zip(self.auxiliary_heads, self.config.auxiliary_out_indices)
        return [self.decoder(maps[self.config.decoder_indices[0]]), *(head(maps[index]) for head, index in heads)]

    def loss(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """That of the decoder, and those of the auxiliary heads with their weight."""
        main, *auxiliary = (loss(logits, labels) for logits in self.all_logits(pixel_values))
        return main + self.config.auxiliary_loss_weight * torch.stack(auxiliary).sum()


def resize(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Bilinear resizing of `(batch_size, channels, height, width)`, corners not aligned."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of logits resized to the labels, as in Transformers' other models."""
    return F.cross_entropy(resize(logits, labels.shape[-2:]), labels, ignore_index=255)


def merged_scores(logits: torch.Tensor, offsets: list[list[int]], size: tuple[int, int]) -> torch.Tensor:
    """Scores `(num_labels, *size)` of windows `(num_windows, num_labels, h, w)`: each is resized to its size in pixels
    and added where it lies, the sums are divided by the number of windows, and the result is resized to the photo.
    """
    image_height, image_width = offsets[0][4:]
    scores = logits.new_zeros(1, logits.shape[1], image_height, image_width)
    counts = logits.new_zeros(1, 1, image_height, image_width)
    for window, (top, left, height, width, _, _) in zip(logits, offsets):
        place = (..., slice(top, top + height), slice(left, left + width))
        scores[place] += resize(window[None], (height, width))
        counts[place] += 1
    return resize(scores / counts, size)[0]


def windows_of(image: torch.Tensor, side: int) -> tuple[torch.Tensor, list[list[int]]]:
    """The windows `(num_windows, 3, side, side)` of an image `(3, height, width)` that has no side below theirs, and
    their `patch_offsets`.
    """
    height, width = image.shape[-2:]
    places = window_offsets(height, width, SizeDict(height=side, width=side), stride_of(side))
    windows = torch.stack([image[:, top : top + side, left : left + side] for top, left, _, _ in places])
    return windows, [[*place, height, width] for place in places]


def stride_of(side: int) -> int:
    """Of the windows of a side: the published protocol's 341 for 512 pixels."""
    return side * 2 // 3


@torch.inference_mode()
def segment(
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    photo: Image.Image,
    side: int,
    scales: tuple[float, ...] | None,
    device: str,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The label map of a photo by windows of `side` pixels, by one scale or by several with mirror images, in which
    the photo's short side is that of the windows, or a multiple. `logits_of` is the model.
    """
    size = (photo.height, photo.width)
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float()
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    total: torch.Tensor | int = 0
    for scale in scales or (1.0,):
        factor = max(side, int(scale * side)) / min(size)
        view = resize(pixels, (round(size[0] * factor), round(size[1] * factor)))[0]
        view = (view / 255 - mean) / std
        for mirrored in (False, True) if scales else (False,):
            windows, offsets = windows_of(view.flip(-1) if mirrored else view, side)
            scores = merged_scores(logits_of(windows.to(device, dtype)).float(), offsets, size)
            total = total + (scores.flip(-1) if mirrored else scores).softmax(0) if scales else scores
    return torch.as_tensor(total).argmax(0).cpu()
