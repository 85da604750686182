"""Which tensors of the public implementations of SETR correspond to which parameters of ours, in both directions.

The two implementations are the original repository ("original") and mmsegmentation ("mmseg"). Their networks differ
from ours only in form: theirs stack query, key and value; the original's convolutions before a BatchNorm have biases,
which move into the running mean; mmsegmentation keeps the mla streams deepest first.
"""

import re
from typing import NamedTuple

import torch

from ..errors import SetrError
from ..model.configuration_setr import SetrConfig


class Rule(NamedTuple):
    """`ours` and `theirs` name the same numbers in two forms; `kind` says how to turn one into the other."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    kind: str = "same"


# How each implementation names the parts of its encoder; the original took timm's ViT.
NAMING = {"original": "timm", "mmseg": "mmseg"}
PARTS = ("layernorm_before", "attention.o_proj", "layernorm_after", "mlp.fc1", "mlp.fc2")
TIMM_PARTS = ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
MMSEG_PARTS = ("ln1", "attn.attn.out_proj", "ln2", "ffn.layers.0.0", "ffn.layers.1")
LAYER_PARTS = {
    "timm": {ours: f"blocks.{{}}.{theirs}" for ours, theirs in zip(PARTS, TIMM_PARTS)},
    "mmseg": {ours: f"layers.{{}}.{theirs}" for ours, theirs in zip(PARTS, MMSEG_PARTS)},
}
STACKED_ATTENTION = {"timm": "blocks.{}.attn.qkv.", "mmseg": "layers.{}.attn.attn.in_proj_"}
PATCH_PROJECTION = {"timm": "patch_embed.proj", "mmseg": "patch_embed.projection"}
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def encoder_rules(naming: str, config: SetrConfig, prefix: str) -> list[Rule]:
    """Rules of the encoder in the naming "timm" or "mmseg"; `prefix` precedes its names, such as "backbone."."""
    is_mmseg = naming == "mmseg"
    embeddings, patch = "setr.embeddings", prefix + PATCH_PROJECTION[naming]
    rules = [
        Rule((f"{embeddings}.position_embeddings",), (f"{prefix}pos_embed",), "positions"),
        Rule((f"{embeddings}.patch_embeddings.weight",), (f"{patch}.weight",)),
        # Missing in files of mmsegmentation 1.x.
        Rule((f"{embeddings}.patch_embeddings.bias",), (f"{patch}.bias",), "optional_bias" if is_mmseg else "same"),
    ]
    if config.use_class_token:
        rules.append(Rule((f"{embeddings}.cls_token",), (f"{prefix}cls_token",)))
    for index in range(config.num_hidden_layers):
        layer = f"setr.layers.{index}"
        for part, template in LAYER_PARTS[naming].items():
            rules += same_rules(f"{layer}.{part}", prefix + template.format(index), ("weight", "bias"))
        stacked = prefix + STACKED_ATTENTION[naming].format(index)
        for name in ("weight", "bias") if config.qkv_bias else ("weight",):
            ours = tuple(f"{layer}.attention.{part}_proj.{name}" for part in "qkv")
            rules.append(Rule(ours, (stacked + name,), "stacked"))
    if is_mmseg and not config.qkv_bias:
        # MMCV's attention has all its biases or none.
        rules = [
            rule._replace(kind="optional_bias") if rule.ours[0].endswith("o_proj.bias") else rule for rule in rules
        ]
    return rules


def same_rules(ours: str, theirs: str, names: tuple[str, ...]) -> list[Rule]:
    return [Rule((f"{ours}.{name}",), (f"{theirs}.{name}",)) for name in names]


def conv_rules(ours: str, conv: str, norm: str, with_bias: bool = False) -> list[Rule]:
    """Rules of one [`SetrConvLayer`], whose convolution is `conv` and BatchNorm `norm` there."""
    rules = [Rule((f"{ours}.convolution.weight",), (f"{conv}.weight",))]
    for rule in same_rules(f"{ours}.normalization", norm, BATCH_NORM):
        if with_bias and rule.ours[0].endswith("running_mean"):
            rule = Rule(rule.ours, (*rule.theirs, f"{conv}.bias"), "folded")
        rules.append(rule)
    return rules


def upsample_rules(implementation: str, ours: str, theirs: str, num_convs: int) -> list[Rule]:
    is_original = implementation == "original"
    rules = same_rules(f"{ours}.layernorm", f"{theirs}.norm", ("weight", "bias"))
    for index in range(num_convs):
        conv, norm = f"{theirs}.up_convs.{index}.0.conv", f"{theirs}.up_convs.{index}.0.bn"
        if is_original:
            conv, norm = f"{theirs}.conv_{index}", f"{theirs}.syncbn_fc_{index}"
        rules += conv_rules(f"{ours}.layers.{index}", conv, norm, with_bias=is_original)
    classifier = f"{theirs}.conv_{num_convs}" if is_original else f"{theirs}.conv_seg"
    return rules + same_rules(f"{ours}.classifier", classifier, ("weight", "bias"))


def original_mla_rules(config: SetrConfig) -> list[Rule]:
    rules = []
    for index in range(len(config.decoder_indices)):
        name, ours = index + 2, "decode_head"
        rules += same_rules(f"{ours}.layernorms.{index}", f"backbone.norm_{index}", ("weight", "bias"))
        projection, aggregation = f"backbone.mla.mla_p{name}_1x1", f"backbone.mla.mla_p{name}"
        rules += conv_rules(f"{ours}.projections.{index}", f"{projection}.0", f"{projection}.1")
        rules += conv_rules(f"{ours}.aggregations.{index}", f"{aggregation}.0", f"{aggregation}.1")
        branch = f"decode_head.mlahead.head{name}"
        rules += conv_rules(f"{ours}.branches.{index}.0", f"{branch}.0", f"{branch}.1")
        rules += conv_rules(f"{ours}.branches.{index}.1", f"{branch}.3", f"{branch}.4")
    rules += same_rules("decode_head.classifier", "decode_head.cls", ("weight", "bias"))
    for index in range(len(config.auxiliary_out_indices)):
        rules += same_rules(f"decode_head.auxiliary_classifiers.{index}", f"auxiliary_head.{index}.aux", ("weight",))
    return rules


def mmseg_mla_rules(config: SetrConfig) -> list[Rule]:
    num_streams = len(config.decoder_indices)
    rules = []
    for index in range(num_streams):
        # Their neck emits the deepest map first, and everything that reads its maps counts in that order.
        emitted, ours = num_streams - 1 - index, "decode_head"
        rules += same_rules(f"{ours}.layernorms.{index}", f"neck.norm.{index}", ("weight", "bias"))
        projection, aggregation = f"neck.mla.channel_proj.{index}", f"neck.mla.feat_extract.{emitted}"
        rules += conv_rules(f"{ours}.projections.{index}", f"{projection}.conv", f"{projection}.bn")
        rules += conv_rules(f"{ours}.aggregations.{index}", f"{aggregation}.conv", f"{aggregation}.bn")
        for part in range(2):
            branch = f"decode_head.up_convs.{emitted}.{part}"
            rules += conv_rules(f"{ours}.branches.{index}.{part}", f"{branch}.conv", f"{branch}.bn")
    rules.append(Rule(("decode_head.classifier.weight",), ("decode_head.conv_seg.weight",), "reversed_streams"))
    rules.append(Rule(("decode_head.classifier.bias",), ("decode_head.conv_seg.bias",)))
    for index in range(len(config.auxiliary_out_indices)):
        theirs = f"auxiliary_head.{num_streams - 1 - index}.conv_seg"
        rules += same_rules(f"decode_head.auxiliary_classifiers.{index}", theirs, ("weight", "bias"))
    return rules


def conversion_rules(implementation: str, config: SetrConfig) -> list[Rule]:
    """All rules between a model of `config` and a checkpoint of `implementation`, "original" or "mmseg"."""
    rules = encoder_rules(NAMING[implementation], config, "backbone.")
    if config.decoder_type == "mla":
        return rules + (original_mla_rules(config) if implementation == "original" else mmseg_mla_rules(config))
    rules += upsample_rules(implementation, "decode_head", "decode_head", config.decoder_num_convs)
    for index in range(len(config.auxiliary_out_indices)):
        ours, theirs = f"auxiliary_heads.heads.{index}", f"auxiliary_head.{index}"
        rules += upsample_rules(implementation, ours, theirs, config.auxiliary_num_convs)
    return rules


def unused_keys(implementation: str, config: SetrConfig) -> dict[str, str]:
    """Regular expressions for the keys of a checkpoint that nothing uses, with the reason."""
    unused = {}
    if implementation == "original":
        unused[r"(decode_head|auxiliary_head\.\d+)\.conv_seg\.(weight|bias)"] = (
            "classifier of the heads' base class, which SETR's heads replace with their own"
        )
    if not config.use_class_token:
        unused[r"backbone\.cls_token"] = "only patches go through the encoder"
    return unused


def matching_reason(key: str, unused: dict[str, str]) -> str | None:
    return next((reason for pattern, reason in unused.items() if re.fullmatch(pattern, key)), None)


def reversed_streams(weight: torch.Tensor, config: SetrConfig) -> torch.Tensor:
    """The mla classifier `(num_labels, num_streams * channels, k, k)` for streams in the reverse order."""
    return weight.unflatten(1, (len(config.decoder_indices), -1)).flip(1).flatten(1, 2)


def to_ours(rule: Rule, tensors: list[torch.Tensor | None], config: SetrConfig) -> list[torch.Tensor]:
    """The tensors of `rule.ours` from those of `rule.theirs`, where `None` stands for one that the source lacks."""
    tensor = tensors[0]
    match rule.kind:
        case "optional_bias":
            return [torch.zeros(config.hidden_size) if tensor is None else tensor]
        case "stacked":
            if tensor.ndim == 0 or len(tensor) % 3:
                raise SetrError(
                    f"{rule.theirs[0]} has the shape {tuple(tensor.shape)}: it is not query, key and value"
                )
            return list(tensor.chunk(3))
        case "positions":
            return [tensor if config.use_class_token else tensor[:, 1:]]
        case "folded":
            return [tensor.float() - tensors[1].float()]
        case "reversed_streams":
            return [reversed_streams(tensor, config)]
        case "same":
            return [tensor]
    raise KeyError(rule.kind)


def to_theirs(rule: Rule, tensors: list[torch.Tensor], config: SetrConfig) -> list[torch.Tensor | None]:
    """The tensors of `rule.theirs` from those of `rule.ours`; `None` stands for one to leave out."""
    tensor = tensors[0]
    match rule.kind:
        case "optional_bias":
            return [tensor if tensor.any() else None]
        case "stacked":
            return [torch.cat(tensors)]
        case "positions":
            return [tensor if config.use_class_token else torch.cat([torch.zeros_like(tensor[:, :1]), tensor], dim=1)]
        case "folded":
            return [tensor, torch.zeros_like(tensor)]
        case "reversed_streams":
            return [reversed_streams(tensor, config)]
        case "same":
            return [tensor]
    raise KeyError(rule.kind)
