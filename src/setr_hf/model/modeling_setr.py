"""PyTorch SETR model: a plain ViT encoder, the naive, PUP and MLA decoders, and the segmentation model."""

import copy
import math
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import stochastic_depth
from transformers import AutoBackbone, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput, BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_BACKBONE_MAPPING_NAMES,
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .combined_losses_setr import semantic_loss
from .configuration_setr import SetrConfig, known_fields
from .loss_settings_setr import LossSettings
from .plain_backbone_setr import (
    Inflate,
    build_encoder,
    check_plain,
    encoder_image_size,
    load_weights,
    read_backbone_config,
)
from .recomputation_setr import recomputed, rectified
from .upsampled_convolution_setr import upsample, upsampled_convolution, upsampled_convolution_and_relu


# The segmentation pipeline looks class names up in these tables, which `AutoModel….register` does not extend.
MODEL_MAPPING_NAMES.setdefault("setr", "SetrModel")
MODEL_FOR_BACKBONE_MAPPING_NAMES.setdefault("setr", "SetrBackbone")
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES.setdefault("setr", "SetrForSemanticSegmentation")


@dataclass
class SetrModelOutput(BaseModelOutput):
    """Output of [`SetrModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
            Z^L, the output of the last layer. No LayerNorm follows it: each decoder head has its own.
        feature_maps (`tuple` of tensors of shape `(batch_size, hidden_size, height, width)`, *optional*):
            Outputs of the layers named in `out_indices`, on the patch grid, without the class token.
        hidden_states, attentions: as in [`~transformers.modeling_outputs.BaseModelOutput`].
    """

    feature_maps: tuple[torch.Tensor, ...] | None = None


@dataclass
class SetrSemanticSegmenterOutput(ModelOutput):
    """Output of [`SetrForSemanticSegmentation`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `labels` is given):
            The loss of the decoder, see `semantic_loss` of [`SetrConfig`], plus the weighted ones of the auxiliary
            heads.
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels, height, width)`):
            Class scores at the decoder's own resolution. Called with `pixel_windows`, they have the shape
            `(batch_size, num_windows, num_labels, height, width)`.
        auxiliary_logits (`tuple` of tensors shaped like `logits`, *optional*): One for each auxiliary head, the
            shallowest layer first; returned when `labels` is given or `output_auxiliary_logits=True`.
        patch_offsets (`torch.LongTensor` of shape `(batch_size, num_windows, 6)`, *optional*): The input of that
            name, for the image processor's post-processing.
        hidden_states, attentions: as in [`~transformers.modeling_outputs.BaseModelOutput`].
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    auxiliary_logits: tuple[torch.Tensor, ...] | None = None
    patch_offsets: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def round_up_to_patches(side: int, patch_size: int) -> int:
    """A side in pixels, rounded up to whole patches. torch.compile rejects the shorter form with negative operands."""
    return (side + patch_size - 1) // patch_size * patch_size


def pad_to_grid(pixel_values: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Pads `(batch_size, channels, height, width)` with zeros at the right and bottom to whole patches."""
    bottom, right = (round_up_to_patches(side, patch_size) - side for side in pixel_values.shape[-2:])
    return F.pad(pixel_values, (0, right, 0, bottom))


def resize(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear resizing of `(batch_size, channels, height, width)`, corners not aligned."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Multi-head self-attention (paper eq. 1 and 2) on `(batch_size, num_heads, sequence_length, head_dim)`."""
    attn_weights = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        attn_weights = attn_weights + attention_mask
    attn_weights = attn_weights.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    attn_weights = F.dropout(attn_weights, p=dropout, training=module.training)
    return (attn_weights @ value).transpose(1, 2).contiguous(), attn_weights


def dilate(resnet: Any, config: PreTrainedConfig) -> None:
    """Puts dilation in place of the strides of a ResNet of Transformers, which has no option for it, that go beyond
    `config.output_stride`. The weights fit as they are.
    """
    stride = 8 if config.downsample_in_first_stage else 4
    for stage in resnet.encoder.stages[1:]:
        stride *= 2
        if stride <= config.output_stride:
            continue
        for module in stage.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
                if module.kernel_size != (1, 1):
                    module.dilation = module.padding = (stride // config.output_stride,) * 2


def build_stem(config: PreTrainedConfig) -> nn.Module:
    stem = AutoBackbone.from_config(config)
    if config.model_type == "resnet" and getattr(config, "output_stride", None):
        dilate(stem, config)
    return stem


def stem_output(stem: nn.Module, config: PreTrainedConfig, patch_size: int) -> tuple[int, int]:
    """Channels and stride of the feature map that a stem ends in, which configurations do not tell: a small image
    does. Raises `ValueError` if patches of `patch_size` pixels are not whole on it.
    """
    side = 4 * patch_size
    pixels = next(stem.parameters()).new_zeros(1, config.num_channels, side, side)
    with torch.no_grad():
        maps = stem.eval()(pixels).feature_maps[-1]
    stem.train()
    stride = side // maps.shape[-1] if maps.ndim == 4 else side
    if patch_size % stride or maps.shape[-2:] != (side // stride, side // stride):
        raise ValueError(
            f"stem_config of type {config.model_type!r} ends in maps of the shape {tuple(maps.shape[1:])} for images "
            f"of {side}×{side} pixels, on which patches of {patch_size} pixels are not whole: choose another stage by "
            "out_features, an output_stride, or another patch_size"
        )
    return maps.shape[1], stride


class SetrEmbeddings(nn.Module):
    """Image to sequence (paper section 3.1): projected patches, of the image or of the feature map that a stem makes
    of it, plus learned position embeddings.
    """

    def __init__(self, config: SetrConfig):
        super().__init__()
        self.patch_size = config.patch_size
        height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
        self.grid_size = (math.ceil(height / self.patch_size), math.ceil(width / self.patch_size))
        self.stem, num_channels, stride = None, config.num_channels, 1
        if config.stem_config is not None:
            self.stem = build_stem(config.stem_config)
            num_channels, stride = stem_output(self.stem, config.stem_config, self.patch_size)
        size = self.patch_size // stride
        self.patch_embeddings = nn.Conv2d(num_channels, config.hidden_size, kernel_size=size, stride=size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.use_class_token else None
        num_positions = math.prod(self.grid_size) + int(config.use_class_token)
        self.position_embeddings = nn.Parameter(torch.zeros(1, num_positions, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def interpolate_position_embeddings(self, height: int, width: int) -> torch.Tensor:
        """Position embeddings of shape `(1, height * width (+ 1), hidden_size)` for a grid of `height` × `width`
        patches.

        It interpolates at the native size too, which changes no bit there: a shortcut would bake the size into a
        graph.
        """
        positions, num_patches = self.position_embeddings, math.prod(self.grid_size)
        class_position, patch_positions = positions[:, :-num_patches], positions[:, -num_patches:]
        patch_positions = patch_positions.transpose(1, 2).unflatten(2, self.grid_size)
        patch_positions = resize(patch_positions, (height, width)).flatten(2).transpose(1, 2)
        return torch.cat([class_position, patch_positions], dim=1)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Returns the sequence `(batch_size, sequence_length, hidden_size)` and the patch grid `(height, width)`."""
        pixel_values = pixel_values.to(self.patch_embeddings.weight.dtype)
        maps = pad_to_grid(pixel_values, self.patch_size)
        if self.stem is not None:
            maps = self.stem(maps).feature_maps[-1]
        embeddings = self.patch_embeddings(maps)
        batch_size, _, height, width = embeddings.shape
        # Every layer would keep the order of the convolution's memory, and every LayerNorm copy it. Unlike
        # `contiguous`, a clone asks nothing of the size, which an exported graph would be bound to.
        embeddings = embeddings.flatten(2).transpose(1, 2).clone(memory_format=torch.contiguous_format)
        if self.cls_token is not None:
            embeddings = torch.cat([self.cls_token.expand(batch_size, -1, -1), embeddings], dim=1)
        return self.dropout(embeddings + self.interpolate_position_embeddings(height, width)), (height, width)


class SetrAttention(nn.Module):
    """Multi-head self-attention, paper eq. 1 and 2."""

    def __init__(self, config: SetrConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        input_shape = hidden_states.shape[:-1]
        heads_shape = (*input_shape, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(heads_shape).transpose(1, 2)
        key = self.k_proj(hidden_states).view(heads_shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads_shape).transpose(1, 2)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.attention_dropout if self.training else 0.0
        attn_output, attn_weights = attention_interface(
            self, query, key, value, None, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(attn_output.reshape(*input_shape, -1).contiguous()), attn_weights


class SetrMLP(nn.Module):
    def __init__(self, config: SetrConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation_fn = ACT2FN[config.hidden_act]
        # Others, such as ReLU, keep their result for the backward pass.
        self.keeps_input = "gelu" in config.hidden_act
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.fc1(hidden_states)
        activated = self.activation_fn(hidden_states)
        with recomputed(activated, self.activation_fn, hidden_states) if self.keeps_input else nullcontext():
            return self.fc2(self.dropout(activated))


class SetrLayer(GradientCheckpointingLayer):
    """One pre-norm transformer layer, paper eq. 2."""

    def __init__(self, config: SetrConfig, drop_path_rate: float = 0.0):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SetrAttention(config)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SetrMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path_rate = drop_path_rate

    def drop_path(self, residual: torch.Tensor) -> torch.Tensor:
        return stochastic_depth(residual, self.drop_path_rate, mode="row", training=self.training)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        normalized = self.layernorm_before(hidden_states)
        with recomputed(normalized, self.layernorm_before, hidden_states):
            attn_output, _ = self.attention(normalized, **kwargs)
        hidden_states = hidden_states + self.drop_path(self.dropout(attn_output))
        normalized = self.layernorm_after(hidden_states)
        with recomputed(normalized, self.layernorm_after, hidden_states):
            mlp_output = self.mlp(normalized)
        return hidden_states + self.drop_path(self.dropout(mlp_output))


def is_bare(module: nn.Module) -> bool:
    """Whether calling a convolution, BatchNorm or ReLU is no more than its formula: no adapter, quantization,
    offloading or hook has come between.
    """
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    is_plain = type(module) in (nn.Conv2d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.ReLU) and "forward" not in vars(module)
    # Quantization by torchao leaves the module, and puts tensors that stand for several ones into it.
    return is_plain and not any(hooks) and not any(hasattr(p, "__tensor_flatten__") for p in module.parameters())


def convolve_upsampled(
    convolution: nn.Conv2d, maps: torch.Tensor, scale_factor: int = 1, align_corners: bool = False
) -> torch.Tensor:
    """A convolution, or what has taken its place, of maps that are to be upsampled first."""
    if not is_bare(convolution):
        return convolution(upsample(maps, scale_factor, align_corners))
    return upsampled_convolution(maps, convolution.weight, convolution.bias, scale_factor, align_corners)


class SetrConvLayer(nn.Module):
    """Convolution, BatchNorm, ReLU. The convolution has no bias: BatchNorm would cancel it."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.normalization = nn.BatchNorm2d(out_channels)
        self.activation = nn.ReLU(inplace=True)

    def fold(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of the convolution that equals this one and its BatchNorm with the running statistics."""
        weight, norm = self.convolution.weight, self.normalization
        dtype = torch.promote_types(weight.dtype, torch.float32)
        scale = norm.weight.to(dtype) * (norm.running_var.to(dtype) + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        return (weight * scale[:, None, None, None]).to(weight.dtype), bias.to(weight.dtype)

    def is_recomputable(self) -> bool:
        """Whether BatchNorm, by the statistics of the batch, and ReLU may be computed again in the backward pass."""
        norm = self.normalization
        return type(norm) is nn.BatchNorm2d and norm.training and is_bare(norm) and is_bare(self.activation)

    def normalize_again(self, maps: torch.Tensor) -> torch.Tensor:
        """What BatchNorm has returned in training; the running statistics stay as they are."""
        norm = self.normalization
        return F.batch_norm(maps, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)

    def forward(self, maps: torch.Tensor, scale_factor: int = 1, classifier: nn.Conv2d | None = None) -> torch.Tensor:
        """Takes maps that are to be upsampled first, and returns class scores if there is a classifier."""

        def classify(activated: torch.Tensor) -> torch.Tensor:
            return activated if classifier is None else convolve_upsampled(classifier, activated)

        is_folded = is_bare(self.convolution) and is_bare(self.normalization) and not self.normalization.training
        if is_folded and is_bare(self.activation) and not torch.compiler.is_exporting():
            if classifier is None or not is_bare(classifier):
                return classify(upsampled_convolution_and_relu(maps, *self.fold(), scale_factor))
            parameters = (classifier.weight, classifier.bias)
            return upsampled_convolution_and_relu(maps, *self.fold(), scale_factor, parameters)
        maps = convolve_upsampled(self.convolution, maps, scale_factor)
        normalized = self.normalization(maps)
        if classifier is None or not self.is_recomputable():
            return classify(self.activation(normalized))
        activated = rectified(normalized, self.normalize_again, maps)
        with recomputed(activated, lambda maps: self.normalize_again(maps).relu_(), maps):
            return classify(activated)


class SetrChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of `(batch_size, channels, height, width)`."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        # A convolution chooses its own order of the memory by the sizes, which an exported graph would be bound to.
        return maps.clone(memory_format=torch.contiguous_format) if torch.compiler.is_exporting() else maps


class SetrUpsampleHead(nn.Module):
    """The naive and PUP decoders (paper section 3.3, (1) and (2)) and their auxiliary heads: LayerNorm, then
    `num_convs` times [convolution, BatchNorm, ReLU, ×`scale_factor`], then a 1×1 classifier.

    The classifier runs before the last upsampling, with which it commutes, because bilinear weights sum to 1. If the
    upsamplings together reach the image size, the last one is left to the resizing of the logits.
    """

    def __init__(self, config: SetrConfig, num_convs: int, scale_factor: int):
        super().__init__()
        channels = config.decoder_hidden_size
        self.scale_factor = scale_factor
        self.skipped_scale_factor = scale_factor if scale_factor**num_convs == config.patch_size else 1
        self.layernorm = SetrChannelNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(
            SetrConvLayer(config.hidden_size if i == 0 else channels, channels, config.decoder_kernel_size)
            for i in range(num_convs)
        )
        self.classifier = nn.Conv2d(channels, config.num_labels, kernel_size=1)

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """From `(batch_size, hidden_size, h, w)` to logits `(batch_size, num_labels, h', w')`."""
        # Each layer upsamples the maps of the one before, so that its products come first.
        maps, scale_factor = self.layernorm(feature_map), 1
        for layer in self.layers[:-1]:
            maps, scale_factor = layer(maps, scale_factor), self.scale_factor
        logits = self.layers[-1](maps, scale_factor, self.classifier)
        return upsample(logits, self.scale_factor // self.skipped_scale_factor)


class SetrMlaHead(nn.Module):
    """The MLA decoder (paper section 3.3, (3)): a stream for each layer, shallowest first. Each is normalized and
    projected; the streams are summed from the deepest up, and convolved; each then passes its own branch, is upsampled
    ×4, and all are concatenated and classified. The auxiliary classifiers read the summed and convolved maps.
    """

    skipped_scale_factor = 1

    def __init__(self, config: SetrConfig):
        super().__init__()
        num_streams, channels = len(config.decoder_indices), config.decoder_hidden_size
        branch_channels = config.mla_hidden_size
        self.align_corners = config.mla_align_corners
        self.layernorms = nn.ModuleList(
            SetrChannelNorm(config.hidden_size, eps=config.layer_norm_eps) for _ in range(num_streams)
        )
        self.projections = nn.ModuleList(SetrConvLayer(config.hidden_size, channels, 1) for _ in range(num_streams))
        self.aggregations = nn.ModuleList(SetrConvLayer(channels, channels, 3) for _ in range(num_streams))
        self.branches = nn.ModuleList(
            nn.Sequential(
                SetrConvLayer(channels, branch_channels, 3), SetrConvLayer(branch_channels, branch_channels, 3)
            )
            for _ in range(num_streams)
        )
        kernel_size = config.mla_classifier_kernel_size
        self.classifier = nn.Conv2d(
            num_streams * branch_channels, config.num_labels, kernel_size, padding=kernel_size // 2
        )
        self.auxiliary_classifiers = nn.ModuleList(
            nn.Conv2d(channels, config.num_labels, kernel_size=1, bias=config.mla_auxiliary_bias)
            for _ in config.auxiliary_out_indices
        )

    def aggregate(self, feature_maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """The top-down sums, convolved: `(batch_size, decoder_hidden_size, h, w)` for each stream."""
        aggregated: list[torch.Tensor] = []
        total: torch.Tensor | int = 0
        for index in reversed(range(len(feature_maps))):
            total = self.projections[index](self.layernorms[index](feature_maps[index])) + total
            aggregated.insert(0, self.aggregations[index](total))
        return aggregated

    def classify(self, branches: list[torch.Tensor]) -> torch.Tensor:
        """Concatenation, ×4 and classifier."""
        return convolve_upsampled(self.classifier, torch.cat(branches, dim=1), 4, self.align_corners)

    def forward(
        self, feature_maps: list[torch.Tensor], output_auxiliary_logits: bool
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """From `(batch_size, hidden_size, h, w)` a stream to logits at 4h × 4w and auxiliary logits at h × w."""
        aggregated = self.aggregate(feature_maps)
        logits = self.classify([branch(maps) for branch, maps in zip(self.branches, aggregated)])
        if not output_auxiliary_logits:
            return logits, ()
        return logits, tuple(classifier(maps) for classifier, maps in zip(self.auxiliary_classifiers, aggregated))


class SetrAuxiliaryHeads(nn.Module):
    """The auxiliary heads of naive and PUP, shallowest first. PEFT needs a named module, not a bare ModuleList."""

    def __init__(self, config: SetrConfig):
        super().__init__()
        self.heads = nn.ModuleList(
            SetrUpsampleHead(config, config.auxiliary_num_convs, config.auxiliary_scale_factor)
            for _ in config.auxiliary_out_indices
        )

    def forward(self, feature_maps: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return tuple(head(feature_map) for head, feature_map in zip(self.heads, feature_maps))


def check_pixels(pixels: torch.Tensor | None, config: SetrConfig, name: str, ndim: int) -> None:
    """Raises `ValueError` unless these are images `(…, num_channels, height, width)` that a model can take."""
    if not isinstance(pixels, torch.Tensor):
        raise ValueError(f"the model needs {name} as a tensor, got {type(pixels).__name__}")
    shape = tuple(pixels.shape)
    if len(shape) != ndim or 0 in shape or shape[-3] != config.num_channels:
        leading = "batch_size, num_windows" if ndim == 5 else "batch_size"
        expected = f"({leading}, {config.num_channels}, height, width)"
        raise ValueError(f"{name} must have the shape {expected}, got {shape}{', which is empty' * (0 in shape)}")
    if not pixels.is_floating_point():
        raise ValueError(
            f"{name} must be floating-point numbers, normalized as the image processor does, got {pixels.dtype}"
        )


def check_offsets(patch_offsets: torch.Tensor | None, pixel_windows: torch.Tensor) -> None:
    """Raises `ValueError` unless each row says where in its image a window lies, or is all zeros. In a compiled graph
    values are not looked at.
    """
    expected = (*pixel_windows.shape[:2], 6)
    is_tensor = isinstance(patch_offsets, torch.Tensor)
    shape = tuple(patch_offsets.shape) if is_tensor else type(patch_offsets).__name__
    if shape != expected:
        raise ValueError(f"patch_offsets must have the shape {expected}, as there are windows, got {shape}")
    if patch_offsets.is_floating_point() or patch_offsets.is_complex() or patch_offsets.dtype == torch.bool:
        raise ValueError(f"patch_offsets must be whole numbers, got {patch_offsets.dtype}")
    if torch.compiler.is_compiling():
        return
    top, left, height, width, image_height, image_width = patch_offsets.unbind(-1)
    full_height, full_width = pixel_windows.shape[-2:]
    is_padding = (patch_offsets == 0).all(-1)
    fits = (top >= 0) & (top + height <= image_height) & (left >= 0) & (left + width <= image_width)
    fits &= (height > 0) & (height <= full_height) & (width > 0) & (width <= full_width)
    wrong = patch_offsets[~(fits | is_padding)]
    if len(wrong):
        raise ValueError(
            f"patch_offsets {wrong[0].tolist()} (top, left, height and width of a window, height and width of its "
            f"image) do not lie within the image and the windows of {full_height}×{full_width} pixels"
        )
    if is_padding.all():
        raise ValueError("patch_offsets are all zeros: there is not one window")


class SetrPreTrainedModel(PreTrainedModel):
    config: SetrConfig
    config_class = SetrConfig
    base_model_prefix = "setr"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    # Without this, Trainer takes the loss for a sum over the accumulation steps and does not divide it.
    accepts_loss_kwargs = False
    _no_split_modules = ["SetrEmbeddings", "SetrLayer", "SetrUpsampleHead", "SetrMlaHead"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": SetrLayer, "attentions": SetrAttention}
    _input_embed_layer = "patch_embeddings"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As in the paper's code: linear layers and embeddings truncated normal, convolutions as torch does."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(math.prod(module.weight.shape[1:]))
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, SetrEmbeddings):
            init.trunc_normal_(module.position_embeddings, std=std)
            if module.cls_token is not None:
                init.trunc_normal_(module.cls_token, std=std)
        else:
            super()._init_weights(module)


class SetrModel(SetrPreTrainedModel):
    """The encoder: a plain pre-norm ViT without a final LayerNorm (paper sections 3.1 and 3.2).

    Args:
        config (`SetrConfig`): Its fields of the decoder play no part.

    Raises:
        `ValueError`: `pixel_values` is not of shape `(batch_size, num_channels, height, width)`.

    Example:

    ```python
    >>> import torch
    >>> from setr_hf import SetrConfig, SetrModel

    >>> model = SetrModel(SetrConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, image_size=64))
    >>> outputs = model(torch.zeros(1, 3, 64, 96), out_indices=[2, 4])
    >>> [tuple(feature_map.shape) for feature_map in outputs.feature_maps]
    [(1, 32, 4, 6), (1, 32, 4, 6)]
    ```
    """

    _keys_to_ignore_on_load_unexpected = [r"^decode_head\.", r"^auxiliary_heads\."]

    def __init__(self, config: SetrConfig):
        super().__init__(config)
        config.validate_architecture()
        self.embeddings = SetrEmbeddings(config)
        last = max(config.num_hidden_layers - 1, 1)
        self.layers = nn.ModuleList(
            SetrLayer(config, config.drop_path_rate * index / last) for index in range(config.num_hidden_layers)
        )
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        out_indices: list[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SetrModelOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`): Normalized images
                of any height and width; they are padded with zeros at the right and bottom to whole patches.
            out_indices (`list[int]`, *optional*): Layers to return as `feature_maps`, counted from 1; 0 is the
                embedding.
        """
        check_pixels(pixel_values, self.config, "pixel_values", 4)
        hidden_states, grid_size = self.embeddings(pixel_values)
        out_indices = out_indices or []
        first_patch = int(self.config.use_class_token)

        def to_map(tokens: torch.Tensor) -> torch.Tensor:
            return tokens[:, first_patch:].transpose(1, 2).unflatten(2, grid_size)

        feature_maps = [to_map(hidden_states)] if 0 in out_indices else []
        for index, layer in enumerate(self.layers, start=1):
            hidden_states = layer(hidden_states, **kwargs)
            if index in out_indices:
                feature_maps.append(to_map(hidden_states))
        return SetrModelOutput(last_hidden_state=hidden_states, feature_maps=tuple(feature_maps) or None)


class SetrBackbone(BackboneMixin, SetrModel):
    """The encoder as a backbone: feature maps of the layers in `config.out_indices`, for other models to build on.

    Args:
        config (`SetrConfig`): Its fields of the decoder play no part.

    Example:

    ```python
    >>> import torch
    >>> from setr_hf import SetrBackbone, SetrConfig

    >>> config = SetrConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, out_indices=[1, 4])
    >>> backbone = SetrBackbone(config)
    >>> [tuple(feature_map.shape) for feature_map in backbone(torch.zeros(1, 3, 64, 96)).feature_maps]
    [(1, 32, 4, 6), (1, 32, 4, 6)]
    ```
    """

    def __init__(self, config: SetrConfig):
        super().__init__(config)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> BackboneOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`): Normalized images.
        """
        outputs = SetrModel.forward(self, pixel_values, out_indices=self.config.decoder_indices, **kwargs)
        maps, hidden_states = outputs.feature_maps, outputs.hidden_states
        return BackboneOutput(feature_maps=maps, hidden_states=hidden_states, attentions=outputs.attentions)


class SetrForSemanticSegmentation(SetrPreTrainedModel):
    """SETR: the encoder, one of the three decoders and its auxiliary heads (paper section 3.3).

    Raises:
        `ValueError`: on construction, if the configuration contradicts itself or names a backbone that is not a
            plain ViT; in `forward`, if inputs have wrong shapes, or labels on the CPU hold ids that are not classes.
            On a GPU such ids end in the assertion of the loss kernel.
    """

    def __init__(self, config: SetrConfig):
        super().__init__(config)
        # `from_pretrained(…, id2label=…)` changes the classes of a configuration that has been checked.
        config.settle_classes()
        config.forget_other_classes()
        config.validate_architecture()
        config.check_decoder()
        self.num_labels = config.num_labels
        self.feature_indices = sorted({*config.decoder_indices, *config.auxiliary_out_indices})
        if config.backbone_config is None:
            self.setr = SetrModel(config)
        else:
            backbone_config: PreTrainedConfig = copy.deepcopy(config.backbone_config)
            self.backbone = build_encoder(backbone_config, self.feature_indices, config.patch_size)
        if config.decoder_type == "mla":
            self.decode_head: SetrMlaHead | SetrUpsampleHead = SetrMlaHead(config)
        else:
            self.decode_head = SetrUpsampleHead(config, config.decoder_num_convs, config.decoder_scale_factor)
            self.auxiliary_heads = SetrAuxiliaryHeads(config)
        self.post_init()

    @classmethod
    def from_backbone(
        cls, backbone: str | os.PathLike, decoder_type: str = "mla", **fields: Any
    ) -> "SetrForSemanticSegmentation":
        """A model whose encoder is a pretrained plain ViT, and whose decoder has random weights: for fine-tuning.

        Args:
            backbone (`str`): A folder, or a model on the Hub, of any head: DINOv2 and DINOv3, BEiT, ViT, DeiT, MAE,
                MSN, I-JEPA, the encoder of images of CLIP or SigLIP, a ViT of timm, and other plain ViTs of
                Transformers.
            decoder_type (`str`, *optional*, defaults to `"mla"`): See [`SetrConfig`].
            fields: Other fields of [`SetrConfig`], such as `num_labels`. Width, depth, heads, patch size and channels
                are those of the backbone; `image_size` is, too, unless it is given. Also `dtype` and
                `attn_implementation`, as in `from_pretrained`.

        Returns:
            [`SetrForSemanticSegmentation`]: In evaluation mode. All weights of the encoder were loaded.

        Raises:
            `OSError`: there is no such model.
            `ValueError`: it is not a plain ViT, a weight is missing, or a field is not one of SetrConfig's.

        Example:

        ```python
        >>> from transformers import Dinov2Config, Dinov2Model
        >>> from setr_hf import SetrForSemanticSegmentation

        >>> sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 70}
        >>> Dinov2Model(Dinov2Config(**sizes, patch_size=14)).save_pretrained("outputs/dinov2")
        >>> model = SetrForSemanticSegmentation.from_backbone("outputs/dinov2", decoder_type="pup", num_labels=19)
        >>> model.config.patch_size, model.config.out_indices, model.config.num_labels
        (14, [4], 19)
        ```
        """
        config = read_backbone_config(backbone)
        options = {name: fields.pop(name) for name in ("attn_implementation", "dtype") if name in fields}
        known_fields(fields, "from_backbone")
        image_size = fields.pop("image_size", None) or encoder_image_size(config) or SetrConfig.image_size
        fields = {"backbone_config": config, "decoder_type": decoder_type, "image_size": image_size, **fields}
        model = cls._from_config(cls.config_class(**fields), **options)
        model.load_backbone(backbone)
        return model.eval()

    def load_backbone(self, backbone: str | os.PathLike, inflate: Inflate | None = None) -> int:
        """Loads the pretrained weights of the encoder that `config.backbone_config` describes, as
        [`SetrForSemanticSegmentation.from_backbone`] does; returns the number of parameters. If the configuration has
        other channels than RGB, `inflate` makes weight and bias of the patch projection from those of RGB. Raises
        `ValueError` if a weight is missing or it is not a plain ViT.
        """
        load_weights(self.backbone, self.config.backbone_config, backbone, inflate)
        try:
            check_plain(self.backbone, self.config)
        except ValueError as error:
            raise ValueError(f"{backbone} cannot be the encoder: {error}") from error
        return sum(parameter.numel() for parameter in self.backbone.parameters())

    @torch.no_grad()
    def reset_classifiers(self, id2label: dict[int, str], **fields: Any) -> list[str]:
        """Puts new classifiers, main and auxiliary, with random weights in the place of those the model has;
        everything else stays as it is. For fine-tuning on other classes.

        Args:
            id2label (`dict[int, str]`): The name of each new class, by its id from 0.
                A binary model stays one if there are two, and any model becomes one if there is one, the foreground.
            fields: Other fields of [`SetrConfig`] that describe the classes: `label2id`, `palette` and `dataset`,
                which become unknown if they are not given, and `is_binary`. Weights of classes in the loss are kept
                if there are as many.

        Returns:
            `list[str]`: The names of the new parameters.

        Example:

        ```python
        >>> from setr_hf import SetrConfig, SetrForSemanticSegmentation

        >>> config = SetrConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_labels=150)
        >>> model = SetrForSemanticSegmentation(config)
        >>> model.reset_classifiers(id2label={0: "road", 1: "car"})[:2]
        ['decode_head.classifier.weight', 'decode_head.classifier.bias']
        >>> model.config.num_labels, model.decode_head.classifier.out_channels
        (2, 2)
        ```
        """
        label2id = {name: index for index, name in id2label.items()}
        is_binary = self.config.is_binary and len(id2label) == 2
        told = {"label2id": label2id, "palette": None, "dataset": None, "is_binary": is_binary, **fields}
        self.config.update({**told, "id2label": id2label})
        self.config.settle_classes()
        self.config.forget_other_classes()
        self.num_labels = self.config.num_labels
        names = []
        for name, module in list(self.named_modules()):
            if name.endswith("classifier") or ".auxiliary_classifiers." in name:
                parent, _, child = name.rpartition(".")
                channels, size, bias = module.in_channels, module.kernel_size, module.bias is not None
                new = nn.Conv2d(channels, self.num_labels, size, padding=module.padding, bias=bias).to(module.weight)
                self._init_weights(new)
                setattr(self.get_submodule(parent), child, new)
                names += [f"{name}.{parameter}" for parameter, _ in new.named_parameters()]
        return names

    def get_input_embeddings(self) -> nn.Module:
        encoder: Any = self.setr if self.config.backbone_config is None else self.backbone
        return encoder.get_input_embeddings()

    def _encode(
        self, pixel_values: torch.Tensor, with_auxiliary: bool, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[dict[int, torch.Tensor], ModelOutput]:
        """Feature maps by layer, and the encoder's output for its hidden states and attentions."""
        if self.config.backbone_config is None:
            indices = self.feature_indices if with_auxiliary else self.config.decoder_indices
            outputs = self.setr(pixel_values, out_indices=indices, **kwargs)
        else:
            indices = self.feature_indices
            outputs = self.backbone(pad_to_grid(pixel_values, self.config.patch_size), **kwargs)
        return dict(zip(indices, outputs.feature_maps)), outputs

    def compute_feature_maps(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the heads read of the encoder, all that [`forward`] takes as `feature_maps`: of shape `(batch_size,
        num_maps, hidden_size, height, width)` on the patch grid, from images `(batch_size, num_channels, height,
        width)`.
        """
        feature_maps, _ = self._encode(pixel_values, with_auxiliary=True)
        return torch.stack([feature_maps[index] for index in self.feature_indices], dim=1)

    def _decode(
        self, feature_maps: dict[int, torch.Tensor], with_auxiliary: bool
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        decoder_maps = [feature_maps[index] for index in self.config.decoder_indices]
        if self.config.decoder_type == "mla":
            return self.decode_head(decoder_maps, with_auxiliary)
        logits = self.decode_head(decoder_maps[0])
        if not with_auxiliary:
            return logits, ()
        return logits, self.auxiliary_heads([feature_maps[index] for index in self.config.auxiliary_out_indices])

    def _check_labels(self, labels: torch.Tensor, pixel_values: torch.Tensor) -> None:
        expected = (pixel_values.shape[0], *pixel_values.shape[-2:])
        if not isinstance(labels, torch.Tensor):
            raise ValueError(f"labels must be a tensor, got {type(labels).__name__}")
        if tuple(labels.shape) != expected:
            raise ValueError(
                f"labels must have the images' size (batch, height, width) {expected}, got {tuple(labels.shape)}"
            )
        if labels.is_floating_point() or labels.is_complex():
            raise ValueError(f"labels must be class ids of an integer type, got {labels.dtype}")

    def _check_feature_maps(self, feature_maps: torch.Tensor, labels: torch.Tensor | None) -> None:
        count, patch_size = len(self.feature_indices), self.config.patch_size
        if feature_maps.ndim != 5 or feature_maps.shape[1] != count:
            raise ValueError(
                f"feature_maps must have the shape (batch_size, {count}, hidden_size, height, width), as "
                f"compute_feature_maps returns them, got {tuple(feature_maps.shape)}"
            )
        if labels is None:
            return
        grid = tuple(round_up_to_patches(side, patch_size) // patch_size for side in labels.shape[-2:])
        if grid != tuple(feature_maps.shape[-2:]):
            raise ValueError(
                f"labels of {tuple(labels.shape[-2:])} pixels have {grid} patches of {patch_size}, but feature_maps "
                f"{tuple(feature_maps.shape[-2:])}"
            )

    def _invalid_labels(self, labels: torch.Tensor) -> ValueError:
        ignore_index = self.config.semantic_loss_ignore_index
        count = len(self.config.id2label)
        invalid = labels[(labels != ignore_index) & ((labels < 0) | (labels >= count))].unique().tolist()
        others = f" and {len(invalid) - 10} more" * (len(invalid) > 10)
        return ValueError(
            f"labels hold the ids {invalid[:10]}{others}, but the model has the classes 0 to "
            f"{count - 1} and ignores {ignore_index}. If 0 stands for «other» and classes count from 1, set "
            "do_reduce_labels=True on the image processor; else set num_labels to the number of classes"
        )

    def _loss(self, logits: list[torch.Tensor], labels: torch.Tensor, padded_size: tuple[int, int]) -> torch.Tensor:
        """The loss of the decoder, whose logits come first, and of the auxiliary heads."""
        settings = LossSettings.from_config(self.config)
        loss, *auxiliary_losses = (semantic_loss(part, labels.long(), padded_size, settings) for part in logits)
        for auxiliary_loss in auxiliary_losses:
            loss = loss + self.config.auxiliary_loss_weight * auxiliary_loss
        return loss

    def _window_logits(self, windows: torch.Tensor, at_full_resolution: bool) -> torch.Tensor:
        """Logits `(num_windows, num_labels, h, w)` of windows `(num_windows, num_channels, height, width)`."""
        feature_maps, _ = self._encode(windows, with_auxiliary=False)
        logits, _ = self._decode(feature_maps, with_auxiliary=False)
        # A decoder of small patches may upsample beyond the window, which post-processing would take for padding.
        height, width = windows.shape[-2:]
        if not at_full_resolution and logits.shape[-2] <= height:
            return logits
        return resize(upsample(logits, self.decode_head.skipped_scale_factor), (height, width))

    def _forward_windows(self, pixel_windows: torch.Tensor, patch_offsets: torch.Tensor) -> torch.Tensor:
        """Logits `(batch_size, num_windows, num_labels, h, w)` of the windows that `patch_offsets` calls valid, zeros
        for the others. A window that its image does not fill is encoded at the size that it does fill, as in the
        reference protocol; if there are any, all logits come at the windows' full resolution.
        """
        sizes = patch_offsets[..., 2:4]
        full_height, full_width = pixel_windows.shape[-2:]
        patch_size = self.config.patch_size
        valid = (sizes > 0).all(-1)
        whole_patches = full_height % patch_size == full_width % patch_size == 0
        if torch.compiler.is_compiling():
            # No shape in a graph may depend on a value, so that the padding is encoded as well.
            is_full = (sizes[..., 0] == full_height) & (sizes[..., 1] == full_width)
            torch._assert_async((is_full | ~valid).all(), "a compiled model takes windows that their images fill")
            logits = self._window_logits(pixel_windows.flatten(0, 1), at_full_resolution=not whole_patches)
            return logits.unflatten(0, valid.shape) * valid[..., None, None, None]
        window_sizes = sizes[valid].unique(dim=0).tolist()
        at_full_resolution = not whole_patches or window_sizes != [[full_height, full_width]]
        logits = None
        for height, width in window_sizes:
            chosen = valid & (sizes[..., 0] == height) & (sizes[..., 1] == width)
            window_logits = self._window_logits(pixel_windows[chosen][..., :height, :width], at_full_resolution)
            if at_full_resolution:
                window_logits = F.pad(window_logits, (0, full_width - width, 0, full_height - height))
            if logits is None:
                logits = window_logits.new_zeros(*valid.shape, *window_logits.shape[1:])
            logits[chosen] = window_logits
        return logits

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        pixel_windows: torch.Tensor | None = None,
        patch_offsets: torch.Tensor | None = None,
        output_auxiliary_logits: bool | None = None,
        feature_maps: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SetrSemanticSegmenterOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`): Normalized images
                of any height and width.
            labels (`torch.LongTensor` of shape `(batch_size, height, width)`, *optional*): Class ids from 0 to
                `num_labels - 1`, of binary models 0 and 1, or `semantic_loss_ignore_index`.
            pixel_windows (`torch.FloatTensor` of shape `(batch_size, num_windows, num_channels, height, width)`):
                Sliding windows of each image, instead of `pixel_values`; images with fewer windows are padded.
            patch_offsets (`torch.LongTensor` of shape `(batch_size, num_windows, 6)`): Place of each window, as the
                image processor returns it: top, left, height and width of the window and height and width of the
                image, in pixels. Zeros for the windows of the padding.
            output_auxiliary_logits (`bool`, *optional*): Whether to run the auxiliary heads. By default they run if
                there are labels.
            feature_maps (`torch.FloatTensor` of shape `(batch_size, num_maps, hidden_size, height, width)`):
                What [`compute_feature_maps`] returned, instead of `pixel_values`: the encoder is not run. Without
                labels, the images count as whole patches.

        Example:

        ```python
        >>> from PIL import Image
        >>> from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor

        >>> config = SetrConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, image_size=64)
        >>> model = SetrForSemanticSegmentation(config).eval()
        >>> processor = SetrImageProcessor(do_split_image=True, size={"shortest_edge": 64}, crop_size=64, stride=43)
        >>> photo = Image.new("RGB", (120, 80))
        >>> outputs = model(**processor(photo, return_tensors="pt"))
        >>> outputs.logits.shape  # two windows, two classes
        torch.Size([1, 2, 2, 16, 16])
        >>> label_map = processor.post_process_semantic_segmentation(outputs, [(photo.height, photo.width)])[0]
        >>> label_map.shape
        torch.Size([80, 120])
        ```
        """
        if pixel_windows is not None:
            if pixel_values is not None or feature_maps is not None or patch_offsets is None:
                raise ValueError("pixel_windows come with patch_offsets, and without pixel_values and feature_maps")
            if labels is not None or output_auxiliary_logits:
                raise ValueError("labels and auxiliary logits need pixel_values: windows are for inference")
            check_pixels(pixel_windows, self.config, "pixel_windows", 5)
            check_offsets(patch_offsets, pixel_windows)
            logits = self._forward_windows(pixel_windows, patch_offsets)
            return SetrSemanticSegmenterOutput(logits=logits, patch_offsets=patch_offsets)

        if (pixel_values is None) == (feature_maps is None):
            raise ValueError("the model needs pixel_values, or feature_maps, or pixel_windows with patch_offsets")
        with_auxiliary = labels is not None if output_auxiliary_logits is None else output_auxiliary_logits
        outputs = ModelOutput()
        if feature_maps is not None:
            self._check_feature_maps(feature_maps, labels)
            sides = feature_maps.shape[-2:] if labels is None else labels.shape[-2:]
            height, width = (side * self.config.patch_size for side in sides) if labels is None else sides
            maps_of_layers = dict(zip(self.feature_indices, feature_maps.unbind(1)))
        else:
            check_pixels(pixel_values, self.config, "pixel_values", 4)
            if labels is not None:
                self._check_labels(labels, pixel_values)
            height, width = pixel_values.shape[-2:]
            maps_of_layers, outputs = self._encode(pixel_values, with_auxiliary, **kwargs)
        logits, auxiliary_logits = self._decode(maps_of_layers, with_auxiliary)

        padded_height, padded_width = (round_up_to_patches(side, self.config.patch_size) for side in (height, width))
        loss = None
        if labels is not None:
            try:
                loss = self._loss([logits, *auxiliary_logits], labels, (padded_height, padded_width))
            except IndexError as error:
                # Ids that are not classes. Looking for them beforehand would make every step wait for the GPU, where
                # the same ids end in the kernel's own assertion.
                raise self._invalid_labels(labels) from error

        def cut(maps: torch.Tensor) -> torch.Tensor:
            scale_factor = maps.shape[-2] * self.config.patch_size // padded_height
            rows, columns = (
                round_up_to_patches(side * scale_factor, self.config.patch_size) // self.config.patch_size
                for side in (height, width)
            )
            return maps[..., :rows, :columns]

        return SetrSemanticSegmenterOutput(
            loss=loss,
            logits=cut(logits),
            auxiliary_logits=tuple(cut(maps) for maps in auxiliary_logits) or None,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )


__all__ = ["SetrBackbone", "SetrForSemanticSegmentation", "SetrModel", "SetrPreTrainedModel"]
