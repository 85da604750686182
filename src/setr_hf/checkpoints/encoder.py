"""Starts a SETR from the encoder of an image classifier or of another SETR."""

import copy
import math
import re
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..errors import SetrError
from ..files import check_is_file, first_repeated
from ..model.configuration_setr import SetrConfig
from ..model.modeling_setr import SetrForSemanticSegmentation, SetrModel, resize
from ..repositories import check_model
from .detection import count_modules
from .inflation import Normalization, inflate_projection
from .keys import encoder_rules, matching_reason, to_ours
from .reading import check_size, check_weights, read_checkpoint


TRANSFORMERS_TYPES = ("vit", "deit", "setr")
TIMM_NAME = re.compile(r"timm/|vit_|deit3?_")
PROJECTION = ("embeddings.patch_embeddings.weight", "embeddings.patch_embeddings.bias")
IMAGENET = Normalization(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
POSITIONS, CLASS_TOKEN = "embeddings.position_embeddings", "embeddings.cls_token"
STEM, PATCHES = "embeddings.stem.", "embeddings.patch_embeddings."
# The stem of timm's hybrids under the names of Transformers' BiT, in this order.
TIMM_STEM = {
    r"^patch_embed\.backbone\.": f"{STEM}bit.",
    r"(\.bit)\.stem\.conv\.": r"\1.embedder.convolution.",
    r"(\.bit)\.stem\.norm\.": r"\1.embedder.norm.",
    r"(\.bit)\.stages\.(\d+)\.blocks\.": r"\1.encoder.stages.\2.layers.",
}
# Keys of a source that SETR's encoder does not use, by regular expression, with the reason.
LEFT_OUT = {
    r"norm\..*|layernorm\..*|fc_norm\..*|Transformer/encoder_norm/.*": "final normalization: SETR reads raw layers",
    r"head\..*|head_dist\..*|head/.*|pre_logits[./].*|pooler\..*|(cls_|distillation_)?classifier\..*": "classifier",
    r"dist_token|embeddings\.distillation_token": "distillation token",
    r"embeddings\.mask_token": "mask token of pretraining",
    r"decode_head\..*|auxiliary_heads?\..*|neck\..*|backbone\.mla\..*|backbone\.norm_\d+\..*": "decoder of the source",
}
DISTILLATION_TOKENS = ("dist_token", "embeddings.distillation_token")


@dataclass
class Source:
    """An encoder to start from: what was read, its tensors, under the names of [`SetrModel`] if they have one there,
    and its number of attention heads and grid of position embeddings `(rows, columns)`, if known.
    """

    description: str
    tensors: dict[str, torch.Tensor]
    num_heads: int | None = None
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class EncoderReport:
    """What [`load_encoder`] loaded.

    Args:
        source (`str`): What was read.
        num_loaded (`int`): How many parameters (scalars) of the encoder were set.
        num_parameters (`int`): How many it has; equal to `num_loaded`, unless the model has a stem and the source not.
        resized (`tuple`, *optional*): The patch grids `((height, width), (height, width))` of the source and of the
            model, if they differ.
        left_out (`dict[str, str]`): The keys of the source that were not used, each with the reason.
        still_random (`str`): What of the encoder was not loaded.
    """

    source: str
    num_loaded: int
    num_parameters: int
    resized: tuple[tuple[int, int], tuple[int, int]] | None
    left_out: dict[str, str]
    still_random: str = ""

    def __str__(self) -> str:
        text = f"{self.num_loaded:,} of {self.num_parameters:,} encoder parameters loaded from {self.source}"
        if self.resized:
            source, target = (f"{height}×{width}" for height, width in self.resized)
            text += f"; position embeddings resized from {source} to {target} patches"
        for reason in dict.fromkeys(self.left_out.values()):
            keys = [key for key in self.left_out if self.left_out[key] == reason]
            text += f"; {len(keys)} tensors left out ({reason})"
        return text + (f"; RANDOM: {self.still_random}" if self.still_random else "")


def check_encoder(source: str) -> None:
    """Raises a [`SetrError`] if [`load_encoder`] cannot have a source of this name, before other work begins."""
    if not Path(source).is_file() and not TIMM_NAME.match(source):
        check_model(source)


def read_transformers(source: str) -> nn.Module:
    """A ViT, DeiT or SETR in Transformers' form, from a folder or the Hub, complete."""
    check_model(source)
    model_type = AutoConfig.from_pretrained(source).model_type
    if model_type not in TRANSFORMERS_TYPES:
        raise SetrError(f"{source} is a {model_type}; an encoder starts from one of {', '.join(TRANSFORMERS_TYPES)}")
    options = {} if model_type == "setr" else {"add_pooling_layer": False}
    model, info = AutoModel.from_pretrained(source, output_loading_info=True, **options)
    if info["missing_keys"]:
        raise SetrError(f"{source} lacks the parameters {', '.join(sorted(info['missing_keys']))}")
    return model


def read_timm(name: str) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise SetrError(f"{name} is a model of timm: `pip install timm`, or pass a file or folder") from None
    if not timm.is_model(name.removeprefix("timm/")):
        raise SetrError(f"{name} is neither a file nor a folder nor a model of timm")
    return timm.create_model(name.removeprefix("timm/"), pretrained=True, num_classes=0)


def read_npz(path: Path) -> Source:
    """A file of Google's ViT in JAX under our names. Kernels there are (in, out), those of attention (in, heads,
    channels) or (heads, channels, out), that of the patches (height, width, in, out).
    """
    check_is_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            check_size(archive, path, 20 * path.stat().st_size)  # Weights hardly compress.
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    except SetrError:
        raise
    except Exception as error:  # What NumPy raises on damaged bytes depends on where they are damaged.
        raise SetrError(f"{path} cannot be read as .npz: {error}") from None
    layer = r"Transformer/encoderblock_(\d+)"
    names = {
        r"cls": CLASS_TOKEN,
        r"Transformer/posembed_input/pos_embedding": POSITIONS,
        r"embedding/(\w+)": r"embeddings.patch_embeddings.\1",
        rf"{layer}/LayerNorm_0/(\w+)": r"layers.\1.layernorm_before.\2",
        rf"{layer}/LayerNorm_2/(\w+)": r"layers.\1.layernorm_after.\2",
        rf"{layer}/MlpBlock_3/Dense_0/(\w+)": r"layers.\1.mlp.fc1.\2",
        rf"{layer}/MlpBlock_3/Dense_1/(\w+)": r"layers.\1.mlp.fc2.\2",
        rf"{layer}/MultiHeadDotProductAttention_1/([qkvo])\w+/(\w+)": r"layers.\1.attention.\2_proj.\3",
    }
    tensors: dict[str, torch.Tensor] = {}
    num_heads = None
    for key, array in arrays.items():
        pattern = next((pattern for pattern in names if re.fullmatch(pattern, key)), None)
        name = re.sub(pattern, names[pattern], key) if pattern else key
        if pattern and array.ndim < (2 if name.endswith(".kernel") else 1):
            raise SetrError(f"the array {key} of {path} has the shape {tuple(array.shape)}")
        if name.endswith(".kernel"):
            if array.ndim == 4:
                array = array.permute(3, 2, 0, 1)
            else:
                array = array.flatten(0, -2) if "o_proj" in name else array.flatten(1)
                array = array.T
            name = name.removesuffix("kernel") + "weight"
        elif name.endswith("q_proj.bias"):
            num_heads = array.shape[0]
        if ".attention." in name and name.endswith(".bias"):
            array = array.flatten()
        name = re.sub(r"(layernorm_\w+)\.scale", r"\1.weight", name)
        if name in tensors:
            raise SetrError(f"{path} has two arrays for {name}, one of them {key}")
        tensors[name] = array
    return Source(str(path), tensors, num_heads)


def stem_name(key: str) -> str:
    """The name in [`SetrModel`] of a tensor of a hybrid's stem in timm; other keys as they are."""
    if key.startswith("patch_embed.backbone."):
        for pattern, name in TIMM_STEM.items():
            key = re.sub(pattern, name, key)
    return key


def rename_public(state_dict: dict[str, torch.Tensor], config: SetrConfig) -> dict[str, torch.Tensor]:
    """Tensors named as in timm, the original repository or mmsegmentation under our names; others keep theirs."""
    prefix = "backbone." if any(key.startswith("backbone.") for key in state_dict) else ""
    naming, template = "timm", f"{prefix}blocks.{{}}."
    if not count_modules(state_dict, template):
        naming, template = "mmseg", f"{prefix}layers.{{}}."
    source_config = copy.copy(config)
    # Positions and class token are taken as they are; whether the model needs them is decided later.
    source_config.use_class_token = True
    source_config.num_hidden_layers = count_modules(state_dict, template)
    renamed: dict[str, torch.Tensor] = {}
    used: set[str] = set()
    for rule in encoder_rules(naming, source_config, prefix):
        tensors = [state_dict.get(key) for key in rule.theirs]
        if tensors[0] is not None or rule.kind == "optional_bias":
            ours = [key.removeprefix("setr.") for key in rule.ours]
            renamed |= zip(ours, to_ours(rule, tensors, source_config))
            used.update(rule.theirs)
    others = {stem_name(key): tensor for key, tensor in state_dict.items() if key not in used}
    if twice := sorted(renamed.keys() & others.keys()):
        raise SetrError(f"two of its keys mean {twice[0]}")
    return renamed | others


def rename(state_dict: dict[str, torch.Tensor], config: SetrConfig) -> dict[str, torch.Tensor]:
    """Tensors under any known names to those of [`SetrModel`]."""
    if any(re.match(r"(backbone\.)?(blocks\.0\.|layers\.0\.ln1\.)", key) for key in state_dict):
        return rename_public(state_dict, config)
    names = [re.sub(r"^(vit|deit|setr)\.", "", key) for key in state_dict]
    names = [name.replace("patch_embeddings.projection.", "patch_embeddings.") for name in names]
    if (repeated := first_repeated(names)) is not None:
        raise SetrError(f"two of its keys mean {repeated}")
    return dict(zip(names, state_dict.values()))


def module_source(description: str, module: Any, config: SetrConfig) -> Source:
    """A model of Transformers, timm or ours, which knows the number of its heads and its grid."""
    source = Source(description, rename(module.state_dict(), config))
    if hasattr(module, "blocks"):
        source.num_heads = module.blocks[0].attn.num_heads
    elif hasattr(module, "config"):
        source.num_heads = module.config.num_attention_heads
        sides, patch_size = module.config.image_size, module.config.patch_size
        height, width = (sides, sides) if isinstance(sides, int) else sides
        source.grid = (height // patch_size, width // patch_size)
    # SetrEmbeddings, or timm's PatchEmbed.
    grids = [part.grid_size for part in module.modules() if hasattr(part, "grid_size")]
    return replace(source, grid=tuple(grids[0])) if grids else source


def read_source(source: str | Path | nn.Module, config: SetrConfig) -> Source:
    if isinstance(source, nn.Module):
        return module_source(type(source).__name__, source, config)
    path, name = Path(source), str(source)
    if path.is_file() and path.suffix == ".npz":
        return read_npz(path)
    if path.is_file():
        state_dict = read_checkpoint(path)[0]
        try:
            return Source(name, rename(state_dict, config))
        except SetrError as error:
            raise SetrError(f"{path} does not hold an encoder: {error}") from None
    if not path.is_dir() and TIMM_NAME.match(name):
        return module_source(name, read_timm(name), config)
    if path.is_dir() and not (path / "config.json").is_file():
        raise SetrError(f"{path} does not hold a model: it has no config.json")
    return module_source(name, read_transformers(name), config)


def fit_positions(
    positions: torch.Tensor, num_tokens: int, grid: tuple[int, int], target: tuple[int, int], with_class: bool
) -> torch.Tensor:
    """Position embeddings `(1, num_tokens + rows * columns, hidden_size)` of `grid` for the grid `target`, resized
    bilinearly with corners not aligned. The `num_tokens` before those of the patches belong to class and distillation
    token; `with_class` says whether the result begins with the position of the class token.
    """
    positions = positions.float()
    extra, patches = positions[:, :num_tokens], positions[:, num_tokens:]
    if grid != target:
        maps = patches.transpose(1, 2).unflatten(2, grid)
        patches = resize(maps, target).flatten(2).transpose(1, 2)
    if not with_class:
        return patches
    # Some of timm's models add no position to the class token.
    class_position = extra[:, :1] if num_tokens else torch.zeros_like(patches[:, :1])
    return torch.cat([class_position, patches], dim=1)


def source_grid(source: Source, num_tokens: int, target: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """How many positions precede those of the patches, and the patch grid. [`SetrError`] if no grid fits."""
    shape = tuple(source.tensors[POSITIONS].shape)
    if len(shape) != 3 or shape[0] != 1:
        raise SetrError(
            f"{source.description} has position embeddings of the shape {shape}, not (1, positions, width)"
        )
    num_positions = shape[1]
    for before in dict.fromkeys((num_tokens, 0)):
        num_patches = max(num_positions - before, 0)
        side = math.isqrt(num_patches)
        for grid in [source.grid] if source.grid else [target, (side, side)]:
            if 0 < math.prod(grid) == num_patches:
                return before, grid
    raise SetrError(
        f"{source.description} has {num_positions} position embeddings, which are neither those of a square image nor "
        f"of the model's grid of {target[0]}×{target[1]} patches"
    )


def load_stem(encoder: SetrModel, source: str) -> int:
    """Loads the stem of an encoder from a network of its own family in Transformers' form: a folder or a Hub id.
    Returns how many parameters it has, all of which are loaded. Raises [`SetrError`] if the source is of another
    family, or any of them is missing or has another shape.
    """
    stem: Any = encoder.embeddings.stem
    if stem is None:
        raise SetrError(f"the model has no stem, for which {source} is")
    check_model(source)
    wanted: PreTrainedConfig = stem.config
    if wanted.model_type == "timm_backbone":
        raise SetrError(f"a stem of timm cannot be loaded from {source}: only those of Transformers' own classes")
    model_type = AutoConfig.from_pretrained(source).model_type
    if model_type != wanted.model_type:
        raise SetrError(f"{source} is a {model_type}, but the model's stem a {wanted.model_type}")
    kind: type[PreTrainedModel] = type(stem)
    options = {"config": copy.deepcopy(wanted), "output_loading_info": True, "ignore_mismatched_sizes": True}
    network, info = kind.from_pretrained(source, **options)
    wrong = [f"{key} is missing" for key in sorted(info["missing_keys"])]
    wrong += [
        f"{key} has the shape {tuple(theirs)}, not {tuple(ours)}" for key, theirs, ours in info["mismatched_keys"]
    ]
    if wrong:
        raise SetrError(f"{source} does not fit the model's stem: {'; '.join(wrong[:20])}")
    weights = network.state_dict()
    try:
        check_weights(weights)
    except SetrError as error:
        raise SetrError(f"{source} cannot be used: {error}") from None
    stem.load_state_dict(weights)
    return sum(parameter.numel() for parameter in stem.parameters())


def load_encoder(
    model: SetrForSemanticSegmentation | SetrModel,
    source: str | Path | nn.Module,
    stem: str | None = None,
    bands: Normalization | None = None,
) -> EncoderReport:
    """Loads the encoder of a classification ViT, or of another SETR, into `model`. The decoder stays as it is.

    Args:
        model (`SetrForSemanticSegmentation` or `SetrModel`): With an encoder of its own, which has the width, depth,
            heads and patch size of the source.
        source (`str`, `Path` or `nn.Module`): A ViT, DeiT (distilled or not) or SETR of Transformers: a folder, a Hub
            id or a model. A model of timm, or its name ("vit_…", "deit_…": pretrained weights are downloaded). A file
            of timm, of the original repository or of mmsegmentation. Or a `.npz` file of Google's ViT.
            A model with a stem starts from a hybrid of timm, such as "vit_base_r50_s16_384", or a SETR with the same
            stem; or from a plain ViT, whose patches the stem takes the place of. Their projection then stays random.
        stem (`str`, *optional*): The stem's own source, if the encoder's has none: a network of its family in
            Transformers' form, such as "microsoft/resnet-50", a folder or a Hub id.
        bands (`Normalization`, *optional*): How photos are normalized that the model takes instead of RGB. Kernels of
            RGB then become kernels for them, see [`inflate_projection`], for which RGB is taken to be normalized by
            ImageNet's mean and standard deviation, as SETR's photos are.

    Returns:
        [`EncoderReport`]: What was loaded: every parameter of the encoder, except as said there.

    Raises:
        [`SetrError`]: parameters are missing, of another shape or unknown, or the number of heads differs; lists them.

    Example:

    ```python
    >>> from transformers import ViTConfig, ViTModel
    >>> from setr_hf import SetrConfig, SetrForSemanticSegmentation, load_encoder

    >>> sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    >>> model = SetrForSemanticSegmentation(SetrConfig(**sizes, decoder_type="pup", image_size=64))
    >>> report = load_encoder(model, ViTModel(ViTConfig(**sizes, image_size=96), add_pooling_layer=False))
    >>> report.num_loaded == report.num_parameters, report.resized
    (True, ((6, 6), (4, 4)))
    ```
    """
    encoder = getattr(model, "setr", model)
    if not isinstance(encoder, SetrModel):
        raise SetrError("the model has a backbone of Transformers in place of its own encoder: load that by its name")
    config = encoder.config
    start = read_source(source, config)
    tensors, description = start.tensors, start.description
    if start.num_heads not in (None, config.num_attention_heads):
        raise SetrError(f"{description} has {start.num_heads} attention heads, the model {config.num_attention_heads}")
    if POSITIONS not in tensors:
        raise SetrError(f"{description} is not a plain ViT: it has no position embeddings under a known name")
    has_stem = any(key.startswith(STEM) for key in tensors)
    if stem and has_stem:
        raise SetrError(f"{description} has a stem, so that {stem} is not needed")
    expected, new = encoder.state_dict(), {}
    if config.stem_config is not None and not has_stem:
        new = {key: expected.pop(key) for key in list(expected) if key.startswith((STEM, PATCHES))}
    try:
        check_weights({key: tensors[key] for key in expected if key in tensors})
    except SetrError as error:
        raise SetrError(f"{description} cannot be used: {error}") from None

    if bands is not None and all(key in tensors for key in PROJECTION):
        weight, bias = (tensors[key] for key in PROJECTION)
        if weight.ndim == 4 and weight.shape[1] == 3:
            tensors |= zip(PROJECTION, inflate_projection(weight, bias, IMAGENET, bands))

    target = encoder.embeddings.grid_size
    num_tokens = sum(token in tensors for token in (CLASS_TOKEN, *DISTILLATION_TOKENS))
    before, grid = source_grid(start, num_tokens, target)
    tensors[POSITIONS] = fit_positions(tensors[POSITIONS], before, grid, target, config.use_class_token)

    reasons = LEFT_OUT if config.use_class_token else LEFT_OUT | {re.escape(CLASS_TOKEN): "only patches are encoded"}
    if new:
        reasons = reasons | {rf"{re.escape(PATCHES)}.*": "patches of the image: the stem's take their place"}
    left_out = {key: matching_reason(key, reasons) for key in tensors if key not in expected}
    wrong = [f"{key} is missing" for key in expected if key not in tensors]
    wrong += [f"{key} is unknown" for key, reason in left_out.items() if reason is None]
    wrong += [
        f"{key} has the shape {tuple(tensors[key].shape)}, not {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in tensors and tensors[key].shape != tensor.shape
    ]
    if wrong:
        raise SetrError(f"{description} does not fit the model: {'; '.join(wrong[:20])}")
    num_of_stem = load_stem(encoder, stem) if stem else 0
    encoder.load_state_dict({key: tensors[key] for key in expected}, strict=not new)
    sizes = {name: parameter.numel() for name, parameter in encoder.named_parameters()}
    still_random = {"the stem": not stem, "the projection of its features": True} if new else {}
    return EncoderReport(
        source=f"{description} and {stem}" if stem else description,
        num_loaded=num_of_stem + sum(size for name, size in sizes.items() if name in expected),
        num_parameters=sum(sizes.values()),
        resized=(grid, target) if grid != target else None,
        left_out=left_out,
        still_random=" and ".join(name for name, is_random in still_random.items() if is_random),
    )
