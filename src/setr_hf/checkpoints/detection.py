"""What a public SETR checkpoint is: implementation and configuration, read off its keys and shapes."""

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..data.public_datasets import CLASS_NAMES
from ..errors import SetrError
from ..model.configuration_setr import DECODER_TYPES, PUBLISHED_AUXILIARY_INDICES, SetrConfig, quarter_depths
from ..text import one_line
from .keys import LAYER_PARTS, NAMING, PATCH_PROJECTION, STACKED_ATTENTION


# (width, depth) of the published encoders, and of ViT-Huge, whose heads are not 64 wide.
PUBLISHED_NUM_HEADS = {(1024, 24): 16, (768, 12): 12, (1280, 32): 16}
# What keys and shapes show, but not for certain.
GUESSED_FIELDS = {"decoder_type", "decoder_scale_factor", "auxiliary_scale_factor", "mla_align_corners"}
GUESSED_FIELDS |= {"mla_auxiliary_bias"}
# How the keys of other files begin, for the error message.
OTHER_CHECKPOINTS = {
    r"segformer\.|(backbone\.)?layers\.0\.0\.projection\.|(backbone\.)?patch_embed1\.|decode_head\.linear_c": (
        "a SegFormer checkpoint"
    ),
    r"setr\.embeddings\.": "a SETR checkpoint in Transformers' form: load it with from_pretrained",
    r".*relative_position_bias": "a Swin or BEiT checkpoint",
    r"(backbone\.)?(stem\.|conv1\.|layer1\.)": "a checkpoint of a convolutional network",
    r"(backbone\.|vit\.|deit\.)?(cls_token|pos_embed|blocks\.0\.|layers\.0\.ln1\.|embeddings\.)": (
        "a backbone without decoder: start a new model from it with setr_hf.checkpoints.encoder.load_encoder"
    ),
}


@dataclass(frozen=True)
class Detection:
    """What a checkpoint is, "original" or "mmseg", its configuration, and a sentence for each assumption."""

    implementation: str
    config: SetrConfig
    assumptions: list[str]


class Shapes(dict):
    """The shape of each tensor by its key. A missing key is an error that names the closest one."""

    def __missing__(self, key: str) -> tuple[int, ...]:
        close = difflib.get_close_matches(key, [known for known in self if len(known) < 100][:5000], n=1)
        hint = f". Was it renamed to {close[0]}?" if close else ""
        raise SetrError(f"the key {key} is missing{hint}")

    def sides(self, key: str, number: int) -> tuple[int, ...]:
        """The shape of a tensor that must have so many dimensions, none of them 0."""
        shape = self[key]
        if len(shape) != number or 0 in shape:
            raise SetrError(f"the tensor {key} has the shape {shape}, not {number} positive sizes")
        return shape


def count_modules(keys: Iterable[str], template: str) -> int:
    """How many numbers stand in the place of `{}` in keys that begin like `template`. They must count from 0: raises
    [`SetrError`] if one is missing.
    """
    pattern = re.compile(re.escape(template).replace(r"\{\}", r"([0-9]{1,9})"))
    numbers = {int(match.group(1)) for match in map(pattern.match, keys) if match}
    missing = next((index for index in range(len(numbers)) if index not in numbers), None)
    if missing is not None:
        raise SetrError(f"there is no {template.format(missing)}…, but there is {template.format(max(numbers))}…")
    return len(numbers)


def detect_implementation(keys: Iterable[str]) -> str:
    """By how the encoder's layers are named: "original" or "mmseg". Raises a [`SetrError`] for anything else."""
    if any(key.startswith("decode_head.") for key in keys):
        if count_modules(keys, "backbone.blocks.{}.attn."):
            return "original"
        if count_modules(keys, "backbone.layers.{}.attn."):
            return "mmseg"
    for pattern, description in OTHER_CHECKPOINTS.items():
        if any(re.match(pattern, key) for key in keys):
            raise SetrError(f"it is not a SETR checkpoint of the public implementations: it looks like {description}")
    raise SetrError(
        "it is not a SETR checkpoint of the original repository (backbone.blocks.…, decode_head.…) or of "
        f"mmsegmentation (backbone.layers.…, decode_head.…): its keys begin with {', '.join(list(keys)[:5])}"
    )


def encoder_fields(implementation: str, shapes: Shapes) -> dict[str, Any]:
    """Fields of the encoder that the shapes show."""
    naming = NAMING[implementation]
    hidden_size, num_channels, patch_size, _ = shapes.sides(f"backbone.{PATCH_PROJECTION[naming]}.weight", 4)
    stacked = f"backbone.{STACKED_ATTENTION[naming].format(0)}"
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": count_modules(shapes, f"backbone.{STACKED_ATTENTION[naming]}"),
        "intermediate_size": shapes.sides(f"backbone.{LAYER_PARTS[naming]['mlp.fc1'].format(0)}.weight", 2)[0],
        "qkv_bias": f"{stacked}bias" in shapes,
        "patch_size": patch_size,
        "num_channels": num_channels,
    }


def upsample_scale(implementation: str, num_convs: int, kernel_size: int, is_auxiliary: bool) -> int:
    """The upsampling after each convolution in the published naive and PUP heads."""
    if num_convs == 4:
        return 2
    return 4 if implementation == "mmseg" or (is_auxiliary and kernel_size == 3) else 1


def upsample_fields(implementation: str, shapes: Shapes) -> dict[str, Any]:
    """Fields of the naive and PUP decoders that keys and shapes show."""
    is_original = implementation == "original"
    template = "{}.conv_{{}}.weight" if is_original else "{}.up_convs.{{}}.0.conv.weight"
    # The original's last convolution is the classifier.
    num_convs = count_modules(shapes, template.format("decode_head")) - is_original
    if num_convs < 1:
        raise SetrError("its decode_head is not one of SETR's: it has neither mla streams nor upsampling convolutions")
    channels, _, kernel_size, _ = shapes.sides(template.format("decode_head").format(0), 4)
    classifier = f"decode_head.conv_{num_convs}" if is_original else "decode_head.conv_seg"
    fields = {
        "decoder_type": "naive" if kernel_size == 1 else "pup",
        "decoder_hidden_size": channels,
        "decoder_kernel_size": kernel_size,
        "decoder_num_convs": num_convs,
        "decoder_scale_factor": upsample_scale(implementation, num_convs, kernel_size, is_auxiliary=False),
        "num_labels": shapes.sides(f"{classifier}.weight", 4)[0],
    }
    if count_modules(shapes, "auxiliary_head.{}."):
        num_convs = count_modules(shapes, template.format("auxiliary_head.0")) - is_original
        fields["auxiliary_num_convs"] = max(num_convs, 1)
        fields["auxiliary_scale_factor"] = upsample_scale(implementation, num_convs, kernel_size, is_auxiliary=True)
    return fields


def mla_fields(implementation: str, shapes: Shapes) -> dict[str, Any]:
    """Fields of the mla decoder that keys and shapes show."""
    if implementation == "original":
        names = ("backbone.mla.mla_p2_1x1.0", "decode_head.mlahead.head2.0", "decode_head.cls")
    else:
        names = ("neck.mla.channel_proj.0.conv", "decode_head.up_convs.0.0.conv", "decode_head.conv_seg")
    projection, branch, classifier = (shapes.sides(f"{name}.weight", 4) for name in names)
    return {
        "decoder_type": "mla",
        "decoder_hidden_size": projection[0],
        "mla_hidden_size": branch[0],
        "mla_align_corners": implementation == "original",
        "mla_classifier_kernel_size": classifier[-1],
        "mla_auxiliary_bias": implementation == "mmseg",
        "num_labels": classifier[0],
    }


def assumed_num_heads(hidden_size: int, depth: int) -> tuple[int, str]:
    """Heads of the published encoder of this size, else of 64 channels, and which. [`SetrError`] if neither fits."""
    if (hidden_size, depth) in PUBLISHED_NUM_HEADS:
        return PUBLISHED_NUM_HEADS[hidden_size, depth], "as in the published encoder of this size"
    if hidden_size % 64 == 0:
        return hidden_size // 64, "64 channels a head, as in the published encoders"
    raise SetrError(
        f"the number of attention heads is not in the file, and none of the published encoders is {hidden_size} wide "
        f"and {depth} deep: pass --config '{{\"num_attention_heads\": …}}'"
    )


def assumed_image_size(num_positions: int, patch_size: int) -> int:
    """The side in pixels of the square image of `num_positions` patches. Raises [`SetrError`] if there is none."""
    side = math.isqrt(max(num_positions, 0))
    if not side or side * side != num_positions:
        raise SetrError(
            f"its {num_positions} position embeddings do not form a square, and the file does not say how many rows "
            "and columns they have: pass the size of the training images as "
            "--config '{\"image_size\": [height, width]}'"
        )
    return side * patch_size


def assumed_out_indices(decoder_type: str, depth: int, num_streams: int) -> list[int]:
    """The layers that the published decoders read. Raises [`SetrError`] if none has as many mla streams."""
    indices = quarter_depths(depth) if decoder_type == "mla" else [depth]
    if len(indices) != num_streams:
        raise SetrError(
            f"it has {num_streams} mla streams, the published models have 4: pass their layers as "
            "--config '{\"out_indices\": …}'"
        )
    return indices


def assumed_auxiliary_indices(decoder_type: str, depth: int, out_indices: list[int], num_heads: int) -> list[int]:
    """The layers that the published auxiliary heads read. Raises [`SetrError`] if no model has as many of them."""
    if decoder_type == "mla":
        published = out_indices
    else:
        published = PUBLISHED_AUXILIARY_INDICES.get((decoder_type, depth), quarter_depths(depth))
    shorter = [] if decoder_type == "mla" else published[:-1]
    for indices in ([], published, shorter):
        if len(indices) == num_heads:
            return indices
    raise SetrError(
        f"it has {num_heads} auxiliary heads, unlike any published model of depth {depth}: pass their layers as "
        "--config '{\"auxiliary_out_indices\": …}'"
    )


def check_told(told: dict[str, Any], shown: dict[str, Any]) -> None:
    """Raises a [`SetrError`] for fields, told by metadata or the user, that keys and shapes of the file contradict, or
    that are of another type than what is computed from them.
    """
    for name, value in told.items():
        if name in shown and name not in GUESSED_FIELDS and value != shown[name]:
            raise SetrError(f"{name} is {shown[name]} in the file, but {one_line(repr(value), 200)} was given")
    if told.get("decoder_type", DECODER_TYPES[0]) not in DECODER_TYPES:
        raise SetrError(f"decoder_type must be one of {', '.join(DECODER_TYPES)}, got {told['decoder_type']!r}")
    if told.get("dataset") not in (None, *CLASS_NAMES):
        raise SetrError(f"dataset must be one of {', '.join(CLASS_NAMES)}, got {told['dataset']!r}")
    for name in ("out_indices", "auxiliary_out_indices"):
        layers = told.get(name, [])
        if not isinstance(layers, (list, tuple)) or any(type(layer) is not int for layer in layers):
            raise SetrError(f"{name} must be a list of layers, got {one_line(repr(layers), 200)}")


def detect(shapes: Shapes, told: dict[str, Any]) -> Detection:
    """Implementation and configuration of a checkpoint. The fields of `SetrConfig` in `told`, which the file's
    metadata or the user give, win over everything else. Raises [`SetrError`] if it is not a SETR of the public
    implementations, a key is missing, or a field must be told.
    """
    implementation, assumptions = detect_implementation(shapes), []
    is_mla = any(key.startswith(("backbone.mla.", "neck.mla.")) for key in shapes)
    decoder_fields = mla_fields if is_mla else upsample_fields
    shown = encoder_fields(implementation, shapes) | decoder_fields(implementation, shapes)
    check_told(told, shown)
    fields = shown | told
    decoder_type, depth = fields["decoder_type"], fields["num_hidden_layers"]
    for name in ("decoder_scale_factor", "auxiliary_scale_factor"):
        if name in fields and name not in told:
            assumptions.append(f"{name} {fields[name]} (as in the published {decoder_type} decoder)")
    if "num_attention_heads" not in told:
        fields["num_attention_heads"], reason = assumed_num_heads(fields["hidden_size"], depth)
        assumptions.append(f"num_attention_heads {fields['num_attention_heads']} ({reason})")
    if "image_size" not in told:
        side = assumed_image_size(shapes.sides("backbone.pos_embed", 3)[1] - 1, fields["patch_size"])
        fields["image_size"] = side
        assumptions.append(f"image_size {side} × {side} (a square of position embeddings)")
    if "out_indices" not in told:
        norms = "backbone.norm_{}." if implementation == "original" else "neck.norm.{}."
        num_streams = count_modules(shapes, norms) if is_mla else 1
        fields["out_indices"] = assumed_out_indices(decoder_type, depth, num_streams)
        if is_mla:
            assumptions.append(f"out_indices {fields['out_indices']} (the published layers for depth {depth})")
    num_auxiliary = count_modules(shapes, "auxiliary_head.{}.")
    if "auxiliary_out_indices" not in told:
        indices = assumed_auxiliary_indices(decoder_type, depth, fields["out_indices"], num_auxiliary)
        fields["auxiliary_out_indices"] = indices
        if indices:
            assumptions.append(f"auxiliary_out_indices {indices} (as in the published models for depth {depth})")
    elif len(told["auxiliary_out_indices"]) != num_auxiliary:
        raise SetrError(
            f"it has {num_auxiliary} auxiliary heads, but auxiliary_out_indices {told['auxiliary_out_indices']} name "
            f"{len(told['auxiliary_out_indices'])} layers"
        )
    try:
        config = SetrConfig(**fields)
    except (TypeError, AttributeError, KeyError, OverflowError) as error:
        # Of values of other types, where Transformers looks at them before it checks them.
        raise SetrError(f"the fields {told} make no configuration: {error}") from error
    return Detection(implementation, config, assumptions)
