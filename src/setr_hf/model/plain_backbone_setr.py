"""Any plain ViT of Transformers or timm as the encoder: the outputs of its layers as maps on the patch grid."""

import copy
import importlib
import inspect
import math
import os
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoBackbone, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BackboneOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file


# Their encoders take one size, and their code has no way to another: positions are interpolated here.
FIXED_SIZE_TYPES = ("vitpose_backbone", "sam_vision_model", "aimv2_vision_model")
POSITION_NAMES = ("pos_embed", "position_embeddings", "position_embedding.weight")
# What configurations of plain ViTs call the same things.
NAMES = {
    "hidden_size": ("hidden_size", "embed_dim", "width"),
    "num_hidden_layers": ("num_hidden_layers", "depth", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "num_heads"),
    "patch_size": ("patch_size",),
}
# Fields that would change what comes out of an encoder, or add parts that no decoder reads.
SETTINGS = {"mask_ratio": 0.0, "vision_use_head": False, "use_mask_token": False}
INSTEAD = (
    "SETR takes plain ViTs, whose layers all have one width and one resolution: ViT, DeiT, MAE, BEiT, DINOv2, DINOv3, "
    "CLIP, SigLIP or timm's vit_…. Hierarchical backbones (Swin, PVT, ConvNeXt) go with UperNetForSemanticSegmentation"
)
PROBED_GRIDS = ((3, 5), (4, 2))
Inflate = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def is_timm(config: PreTrainedConfig) -> bool:
    return config.model_type in ("timm_wrapper", "timm_backbone")


def single_number(value: Any) -> int | None:
    """A number, or that of a list which holds it once or twice; `None` for everything else."""
    if isinstance(value, (list, tuple)) and value and len(set(value)) == 1 and len(value) <= 2:
        value = value[0]
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def vision_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the encoder of images in a model of images and texts, or the configuration itself."""
    return getattr(config, "vision_config", None) or getattr(config, "backbone_config", None) or config


def encoder_sizes(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of `SetrConfig` that follow from a backbone: width, depth, heads, patch size and, if it says so,
    channels. Raises `ValueError` if it is not a plain ViT.
    """
    if is_timm(config):
        return timm_sizes(config)
    sizes: dict[str, Any] = {}
    for field, names in NAMES.items():
        found = [getattr(config, name) for name in names if getattr(config, name, None) is not None]
        number = single_number(found[0]) if found else None
        if number is None:
            shown = found[0] if found else "nothing"
            raise ValueError(
                f"backbone_config of type {config.model_type!r} has {field}={shown}, not a single number: {INSTEAD}"
            )
        sizes[field] = number
    channels = single_number(getattr(config, "num_channels", None))
    return sizes | ({"num_channels": channels} if channels else {})


def timm_model(config: PreTrainedConfig) -> Any:
    """The ViT of timm that a configuration names, with random weights. Raises `ImportError` if timm is missing, and
    `ValueError` if it is not a plain ViT.
    """
    try:  # Outside of one, the code that travels with every saved model would demand it.
        import timm
    except ImportError as error:
        raise ImportError("the encoder is a model of timm, which is not installed: pip install timm") from error
    name = getattr(config, "architecture", None) or getattr(config, "backbone", None)
    arguments = {**(getattr(config, "model_args", None) or {}), "num_classes": 0}
    if config.model_type == "timm_backbone":
        arguments["in_chans"] = config.num_channels
    try:
        model = timm.create_model(name, dynamic_img_size=True, **arguments)
    except TypeError:
        raise ValueError(f"{name} of timm cannot take images of any size: {INSTEAD}") from None
    is_plain = hasattr(model, "blocks") and hasattr(model, "forward_intermediates") and hasattr(model, "embed_dim")
    reductions = {entry["reduction"] for entry in getattr(model, "feature_info", [])}
    if not is_plain or len(reductions) != 1:
        raise ValueError(f"{name} of timm is not a plain ViT: {INSTEAD}")
    return model


def timm_sizes(config: PreTrainedConfig) -> dict[str, Any]:
    with torch.device("meta"):
        model = timm_model(config)
    heads = getattr(getattr(model.blocks[0], "attn", None), "num_heads", None) or 1
    return {
        "hidden_size": model.embed_dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": heads,
        "patch_size": model.feature_info[0]["reduction"],
        "num_channels": model.patch_embed.proj.in_channels,
    }


def encoder_image_size(config: PreTrainedConfig) -> int | list[int] | None:
    """The size in pixels that a backbone was trained at, if it says so."""
    if is_timm(config):
        size = (getattr(config, "pretrained_cfg", None) or {}).get("input_size", [])[1:]
    else:
        size = getattr(config, "image_size", None)
    if isinstance(size, int):
        return size
    return list(size) if size and all(isinstance(side, int) for side in size) else None


def read_backbone_config(source: str | os.PathLike) -> PreTrainedConfig:
    """The configuration of the encoder of images in a folder or a model on the Hub. Raises `ValueError` if it is a
    SETR, or not a plain ViT.
    """
    config = vision_config(AutoConfig.from_pretrained(source))
    if config.model_type == "setr":
        raise ValueError(f"{source} is a SETR: from_pretrained loads it, and load_encoder its encoder alone")
    try:
        encoder_sizes(config)
    except ValueError as error:
        raise ValueError(f"{source} cannot be the encoder: {error}") from None
    if config.model_type == "timm_wrapper":
        # timm writes it into the folders that it saves, and Transformers passes it a second time.
        config.model_args = {name: value for name, value in (config.model_args or {}).items() if name != "num_classes"}
    if os.path.isdir(source):
        # A name on the Hub says where weights came from; that of a folder would be published with the model.
        config._name_or_path = ""
    return config


def with_channels(config: PreTrainedConfig, num_channels: int) -> PreTrainedConfig:
    """The configuration of the same encoder for images of `num_channels`."""
    config = copy.deepcopy(config)
    if config.model_type == "timm_wrapper":
        config.model_args = {**(config.model_args or {}), "in_chans": num_channels}
    else:
        config.num_channels = num_channels
    return config


def load_weights(
    encoder: nn.Module, config: PreTrainedConfig, source: str | os.PathLike, inflate: Inflate | None = None
) -> None:
    """Loads the weights of a folder or a model on the Hub, of whatever head, into a [`build_encoder`]. If that takes
    other channels than RGB, `inflate` makes its patch projection, weight and bias, from those of RGB. Raises
    `ValueError` if a weight is missing, or the projection of the source has no bias and is to be inflated.
    """
    inner: Any = encoder.encoder if isinstance(encoder, PlainBackbone) else encoder
    if config.model_type == "timm_backbone":
        # Its class would take the folder for a name of timm's. The last norm, which it leaves out, is not read here.
        stored = load_file(cached_file(source, SAFE_WEIGHTS_NAME))
        tensors = {name.removeprefix("_backbone.model."): value for name, value in stored.items()}
        tensors |= {name: value for name, value in inner.state_dict().items() if name.startswith("norm.")}
        info = {"missing_keys": inner.state_dict().keys() - tensors.keys()}
    elif is_timm(config):
        theirs = copy.deepcopy(config)
        theirs.model_args = {name: value for name, value in (config.model_args or {}).items() if name != "in_chans"}
        loaded, info = AutoModel.from_pretrained(source, config=theirs, output_loading_info=True)
        tensors = loaded.timm_model.state_dict()
    else:
        options = {"add_pooling_layer": False} if takes(type(inner).__init__, "add_pooling_layer") else {}
        theirs = inner.config if inflate is None else with_channels(inner.config, 3)
        loaded, info = type(inner).from_pretrained(
            source, config=theirs, output_loading_info=True, dtype=torch.float32, **options
        )
        tensors = loaded.state_dict()
    missing = sorted(info["missing_keys"])
    for name in list(missing):
        # Some backbones have the last norm of the model inside them once more.
        same = [other for other in tensors if other.endswith(f".{name}") and other not in missing]
        if len(same) == 1:
            tensors[name] = tensors[same[0]]
            missing.remove(name)
    if missing:
        raise ValueError(f"{source} lacks {len(missing)} weights of its encoder, such as {missing[0]}")
    if inflate is not None:
        expected = inner.state_dict()
        [weight] = [name for name, value in tensors.items() if value.shape != expected[name].shape]
        bias = f"{weight.removesuffix('weight')}bias"
        if bias not in tensors or tensors[weight].ndim != 4:
            raise ValueError(f"the patch projection of {source} is not a convolution with a bias: it stays with RGB")
        tensors[weight], tensors[bias] = inflate(tensors[weight], tensors[bias])
    inner.load_state_dict(tensors)


@torch.no_grad()
def check_plain(encoder: nn.Module, config: PreTrainedConfig) -> None:
    """Raises `ValueError` unless the encoder of a SETR of this configuration makes maps of the patch grid from images
    of several sizes, and sees each patch where it is.
    """
    was_training, patch_size, dtype = encoder.training, config.patch_size, next(encoder.parameters()).dtype
    encoder.eval()
    for rows, columns in PROBED_GRIDS:
        images = torch.zeros(2, config.num_channels, rows * patch_size, columns * patch_size, dtype=dtype)
        try:
            feature_map = encoder(images).feature_maps[-1]
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"it cannot take images of {rows}×{columns} patches ({error}), but SETR's windows are of any size"
            ) from error
        if tuple(feature_map.shape) != (2, config.hidden_size, rows, columns):
            raise ValueError(f"from {rows}×{columns} patches it makes maps of {tuple(feature_map.shape)}: {INSTEAD}")
    if isinstance(encoder, PlainBackbone) and encoder.read == encoder.read_hidden_states:
        check_order(encoder, images[:1], patch_size)
    encoder.train(was_training)


def check_order(encoder: "PlainBackbone", image: torch.Tensor, patch_size: int) -> None:
    """Changes a patch, and looks which place of the embeddings changes; the layers would mix them."""
    unchanged = encoder.embedding_map(image)
    rows, columns = (side // patch_size for side in image.shape[-2:])
    for row, column in ((0, 0), (rows - 1, 0), (1, columns - 1)):
        changed = image.clone()
        changed[..., row * patch_size : (row + 1) * patch_size, column * patch_size : (column + 1) * patch_size] = 1
        difference = (encoder.embedding_map(changed) - unchanged).abs().sum((0, 1))
        if difference.argmax() != row * columns + column:
            raise ValueError(f"it does not keep its patches in the order of rows, after its other tokens: {INSTEAD}")


def build_encoder(config: PreTrainedConfig, layers: list[int], patch_size: int) -> nn.Module:
    """A module that returns feature maps of these layers, counted from 1, for `pixel_values` of whole patches. Raises
    `ValueError` if there is no such model.
    """
    is_flexible = windows_a_side(config) == 1 and config.model_type not in ("timm_backbone", *FIXED_SIZE_TYPES)
    if is_flexible and type(config) in MODEL_FOR_BACKBONE_MAPPING:
        config.out_indices = layers
        return AutoBackbone.from_config(config)
    return PlainBackbone(config, layers, patch_size)


def windows_a_side(config: PreTrainedConfig) -> int:
    """Into how many windows a side some encoders of detectors part an image for their attention."""
    return getattr(config, "num_windows_side", None) or getattr(config, "num_windows", None) or 1


class PlainBackbone(nn.Module):
    """A plain ViT without a class of its own for backbones: `encoder` is what `AutoModel` makes of its configuration,
    or timm. Class and register tokens come before those of the patches, and are cut off.
    """

    def __init__(self, config: PreTrainedConfig, layers: list[int], patch_size: int):
        super().__init__()
        self.config, self.patch_size = config, patch_size
        self.layers = list(layers)
        self.encoder: Any
        if is_timm(config):
            if 0 in self.layers:
                raise ValueError("out_indices hold 0, the embeddings, which a ViT of timm does not give away")
            self.encoder = timm_model(config)
            # Transformers sets it where it is there, and timm has a switch of its own.
            self.gradient_checkpointing = False
            self.read: Callable[..., BackboneOutput] = self.read_timm
            return
        for name, value in SETTINGS.items():
            if hasattr(config, name):
                setattr(config, name, value)
        self.read = self.read_hidden_states
        if windows_a_side(config) > 1 and type(config) in MODEL_FOR_BACKBONE_MAPPING:
            config.out_indices = self.layers
            self.encoder = AutoBackbone.from_config(config)
            self.read = self.read_padded
        elif config.model_type in FIXED_SIZE_TYPES and type(config) in MODEL_FOR_BACKBONE_MAPPING:
            config.out_indices = [0]  # It reads the hidden states.
            self.encoder = AutoBackbone.from_config(config)
        elif model_class := model_class_of(config):
            options = {"add_pooling_layer": False} if takes(model_class.__init__, "add_pooling_layer") else {}
            self.encoder = model_class._from_config(config, **options)
        else:
            raise ValueError(f"Transformers has no encoder of images of the type {config.model_type!r}: {INSTEAD}")

    def get_input_embeddings(self) -> nn.Module:
        if is_timm(self.config):
            return self.encoder.patch_embed
        return self.encoder.get_input_embeddings()

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BackboneOutput:
        """`feature_maps` of shape `(batch_size, hidden_size, height, width)` on the patch grid of `(batch_size,
        num_channels, height, width)`, whose sides are whole patches.
        """
        return self.read(pixel_values.to(next(self.encoder.parameters()).dtype), **kwargs)

    def read_timm(self, pixel_values: torch.Tensor, **kwargs: Any) -> BackboneOutput:
        indices = [layer - 1 for layer in self.layers]
        self.encoder.set_grad_checkpointing(self.gradient_checkpointing and self.training)
        maps = self.encoder.forward_intermediates(
            pixel_values, indices=indices, output_fmt="NCHW", intermediates_only=True
        )
        return BackboneOutput(feature_maps=tuple(maps))

    def read_padded(self, pixel_values: torch.Tensor, **kwargs: Any) -> BackboneOutput:
        """Zeros at the right and bottom make whole windows of the image; the maps are cut back."""
        rows, columns = (side // self.patch_size for side in pixel_values.shape[-2:])
        multiple = self.patch_size * windows_a_side(self.config)
        bottom, right = (-side % multiple for side in pixel_values.shape[-2:])
        outputs = self.encoder(F.pad(pixel_values, (0, right, 0, bottom)), **kwargs)
        maps = tuple(feature_map[..., :rows, :columns] for feature_map in outputs.feature_maps)
        return BackboneOutput(feature_maps=maps, attentions=outputs.attentions)

    def read_hidden_states(self, pixel_values: torch.Tensor, **kwargs: Any) -> BackboneOutput:
        wants_states = kwargs.pop("output_hidden_states", False)
        outputs, grid = self.run(pixel_values, **kwargs)
        states = outputs.hidden_states
        return BackboneOutput(
            feature_maps=tuple(self.to_map(states[layer], grid) for layer in self.layers),
            hidden_states=states if wants_states else None,
            attentions=outputs.attentions,
        )

    def embedding_map(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the first layer is given, as a map."""
        outputs, grid = self.run(pixel_values)
        return self.to_map(outputs.hidden_states[0], grid)

    def run(self, pixel_values: torch.Tensor, **kwargs: Any) -> tuple[Any, tuple[int, ...]]:
        """The encoder's own outputs, hidden states among them, and the patch grid."""
        grid = tuple(side // self.patch_size for side in pixel_values.shape[-2:])
        kwargs["output_hidden_states"] = True
        if takes(self.encoder.forward, "interpolate_pos_encoding"):
            kwargs["interpolate_pos_encoding"] = True
        if takes(self.encoder.forward, "noise"):
            # The order in which MAE keeps the patches, all of them: their own.
            order = torch.arange(math.prod(grid), device=pixel_values.device, dtype=torch.float32)
            kwargs["noise"] = order.expand(len(pixel_values), -1)
        if takes(self.encoder.forward, "spatial_shapes"):
            return self.from_patches(pixel_values, grid, **kwargs), grid
        if self.config.model_type in FIXED_SIZE_TYPES:
            return self.at_any_size(pixel_values, grid, **kwargs), grid
        return self.encoder(pixel_values, **kwargs), grid

    def to_map(self, states: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        if states.ndim == 4:
            return states.permute(0, 3, 1, 2)
        return states[:, -math.prod(grid) :].transpose(1, 2).unflatten(2, grid)

    def from_patches(self, pixel_values: torch.Tensor, grid: tuple[int, ...], **kwargs: Any) -> Any:
        """Calls an encoder that takes `(batch_size, num_patches, patch_size² * num_channels)`, as NaFlex does."""
        rows, columns = grid
        patches = pixel_values.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        mask = torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device)
        shapes = torch.tensor([[rows, columns]] * len(patches), device=patches.device)
        return self.encoder(patches, pixel_attention_mask=mask, spatial_shapes=shapes, **kwargs)

    def at_any_size(self, pixel_values: torch.Tensor, grid: tuple[int, ...], **kwargs: Any) -> Any:
        """Calls an encoder that checks the size, with positions interpolated to the patch grid."""
        name, positions = next(
            (name, value) for name, value in self.encoder.named_parameters() if name.endswith(POSITION_NAMES)
        )
        changed = {name: resized_positions(positions, self.trained_grid(), grid)}
        for name, module in self.encoder.named_modules():
            if hasattr(module, "projection") and hasattr(module, "image_size"):
                module.image_size = tuple(pixel_values.shape[-2:])
            if hasattr(module, "position_ids"):
                changed[f"{name}.position_ids"] = torch.arange(math.prod(grid), device=pixel_values.device)[None]
        return torch.func.functional_call(self.encoder, changed, (pixel_values,), kwargs)

    def trained_grid(self) -> tuple[int, ...]:
        sides = self.config.image_size
        sides = (sides, sides) if isinstance(sides, int) else sides
        return tuple(side // self.patch_size for side in sides)


def resized_positions(positions: torch.Tensor, grid: tuple[int, ...], target: tuple[int, ...]) -> torch.Tensor:
    """Position embeddings `(1, height, width, hidden_size)`, `(1, tokens + height * width, hidden_size)` or `(height *
    width, hidden_size)` for another grid of patches: bilinear, corners not aligned.
    """
    if positions.ndim == 2:
        return resized_positions(positions[None], grid, target)[0]
    if positions.ndim == 4:
        maps = positions.permute(0, 3, 1, 2)
        return F.interpolate(maps, size=target, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    before, patches = positions[:, : -math.prod(grid)], positions[:, -math.prod(grid) :]
    maps = patches.transpose(1, 2).unflatten(2, grid)
    maps = F.interpolate(maps, size=target, mode="bilinear", align_corners=False)
    return torch.cat([before, maps.flatten(2).transpose(1, 2)], dim=1)


def model_class_of(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """The class of the model that a configuration is for: what AutoModel makes of it or, of encoders that it does not
    know, the one of that name in Transformers. `None` if there is none.
    """
    if type(config) in MODEL_MAPPING:
        found: Any = MODEL_MAPPING[type(config)]
        return found[0] if isinstance(found, (list, tuple)) else found
    module = type(config).__module__
    if not module.startswith("transformers.models."):
        return None
    modeling = importlib.import_module(module.replace(".configuration_", ".modeling_"))
    return getattr(modeling, type(config).__name__.removesuffix("Config") + "Model", None)


def takes(function: Callable, name: str) -> bool:
    return name in inspect.signature(function).parameters
