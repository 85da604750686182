"""What a public SETR checkpoint is: implementation and configuration, read off its keys and shapes."""

import difflib
import math
import re

from ..model.configuration_setr import PUBLISHED_AUXILIARY_INDICES, SetrConfig, quarter_depths


# (width, depth) of the published encoders, and of ViT-Huge, whose heads are not 64 wide.
PUBLISHED_NUM_HEADS = {(1024, 24): 16, (768, 12): 12, (1280, 32): 16}
# Beginnings of keys by which other files are recognized, for the error message.
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


class Shapes(dict):
    """Shapes by key; a missing key is an error that says which key is closest to it."""

    def __missing__(self, key):
        close = difflib.get_close_matches(key, self, n=1)
        hint = f". Was it renamed to {close[0]}?" if close else ""
        raise ValueError(f"the key {key} is missing{hint}")


def count_modules(keys, template: str) -> int:
    """1 + the highest number that stands for `{}` in a key beginning like `template`; 0 if there is none."""
    pattern = re.compile(re.escape(template).replace(r"\{\}", r"(\d+)"))
    numbers = [int(match.group(1)) for match in map(pattern.match, keys) if match]
    return 1 + max(numbers, default=-1)


def detect_implementation(keys) -> str:
    """
    "original" or "mmseg", by the names of the encoder's layers.

    Raises:
        `ValueError`: neither; says what the file looks like instead.
    """
    if any(key.startswith("decode_head.") for key in keys):
        if count_modules(keys, "backbone.blocks.{}.attn."):
            return "original"
        if count_modules(keys, "backbone.layers.{}.attn."):
            return "mmseg"
    for pattern, description in OTHER_CHECKPOINTS.items():
        if any(re.match(pattern, key) for key in keys):
            raise ValueError(f"it is no SETR checkpoint of the public implementations: it looks like {description}")
    raise ValueError(
        "it is no SETR checkpoint of the original repository (backbone.blocks.…, decode_head.…) or of mmsegmentation "
        f"(backbone.layers.…, decode_head.…): its keys begin with {', '.join(list(keys)[:5])}"
    )


def encoder_fields(implementation: str, shapes: Shapes) -> dict:
    """Fields of the encoder that the shapes show."""
    if implementation == "original":
        patch, layer, stacked = "backbone.patch_embed.proj", "backbone.blocks.{}.", "attn.qkv"
        hidden = "mlp.fc1"
    else:
        patch, layer, stacked = "backbone.patch_embed.projection", "backbone.layers.{}.", "attn.attn.in_proj"
        hidden = "ffn.layers.0.0"
    hidden_size, num_channels, patch_size, _ = shapes[f"{patch}.weight"]
    first = layer.format(0)
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": count_modules(shapes, layer),
        "intermediate_size": shapes[f"{first}{hidden}.weight"][0],
        "qkv_bias": any(f"{first}{stacked}{bias}" in shapes for bias in (".bias", "_bias")),
        "patch_size": patch_size,
        "num_channels": num_channels,
    }


def upsample_scale(implementation: str, num_convs: int, kernel_size: int, is_auxiliary: bool) -> int:
    """The upsampling after each convolution in the published naive and PUP heads."""
    if num_convs == 4:
        return 2
    return 4 if implementation == "mmseg" or (is_auxiliary and kernel_size == 3) else 1


def upsample_fields(implementation: str, shapes: Shapes) -> dict:
    """Fields of the naive and PUP decoders that keys and shapes show."""
    is_original = implementation == "original"
    template = "{}.conv_{{}}.weight" if is_original else "{}.up_convs.{{}}.0.conv.weight"
    # The original's last convolution is the classifier.
    num_convs = count_modules(shapes, template.format("decode_head")) - is_original
    if num_convs < 1:
        raise ValueError("its decode_head is none of SETR's: it has neither mla streams nor upsampling convolutions")
    channels, _, kernel_size, _ = shapes[template.format("decode_head").format(0)]
    classifier = f"decode_head.conv_{num_convs}" if is_original else "decode_head.conv_seg"
    fields = {
        "decoder_type": "naive" if kernel_size == 1 else "pup",
        "decoder_hidden_size": channels,
        "decoder_kernel_size": kernel_size,
        "decoder_num_convs": num_convs,
        "decoder_scale_factor": upsample_scale(implementation, num_convs, kernel_size, is_auxiliary=False),
        "num_labels": shapes[f"{classifier}.weight"][0],
    }
    if count_modules(shapes, "auxiliary_head.{}."):
        num_convs = count_modules(shapes, template.format("auxiliary_head.0")) - is_original
        fields["auxiliary_num_convs"] = max(num_convs, 1)
        fields["auxiliary_scale_factor"] = upsample_scale(implementation, num_convs, kernel_size, is_auxiliary=True)
    return fields


def mla_fields(implementation: str, shapes: Shapes) -> dict:
    """Fields of the mla decoder that keys and shapes show."""
    if implementation == "original":
        names = ("backbone.mla.mla_p2_1x1.0", "decode_head.mlahead.head2.0", "decode_head.cls")
    else:
        names = ("neck.mla.channel_proj.0.conv", "decode_head.up_convs.0.0.conv", "decode_head.conv_seg")
    projection, branch, classifier = (shapes[f"{name}.weight"] for name in names)
    return {
        "decoder_type": "mla",
        "decoder_hidden_size": projection[0],
        "mla_hidden_size": branch[0],
        "mla_align_corners": implementation == "original",
        "mla_classifier_kernel_size": classifier[-1],
        "mla_auxiliary_bias": implementation == "mmseg",
        "num_labels": classifier[0],
    }


def assumed_num_heads(hidden_size: int, depth: int, assumptions: list[str]) -> int:
    """
    The number of attention heads of published encoders of this size, else heads of 64 channels.

    Raises:
        `ValueError`: the width is no multiple of 64.
    """
    if (hidden_size, depth) in PUBLISHED_NUM_HEADS:
        num_heads, reason = PUBLISHED_NUM_HEADS[hidden_size, depth], "as in the published encoder of this size"
    elif hidden_size % 64 == 0:
        num_heads, reason = hidden_size // 64, "64 channels a head, as in the published encoders"
    else:
        raise ValueError(
            f"the number of attention heads is not in the file, and an encoder {hidden_size} wide and {depth} deep is "
            "none of the published ones: give it as --config '{\"num_attention_heads\": …}'"
        )
    assumptions.append(f"num_attention_heads {num_heads} ({reason})")
    return num_heads


def assumed_image_size(num_positions: int, patch_size: int, assumptions: list[str]) -> int:
    """
    Side in pixels of the square image that `num_positions` position embeddings cover.

    Raises:
        `ValueError`: no square has that many patches.
    """
    side = math.isqrt(num_positions)
    if side * side != num_positions:
        raise ValueError(
            f"its {num_positions} position embeddings form no square, and the file does not tell their rows and "
            "columns: give the training image's size as --config '{\"image_size\": [height, width]}'"
        )
    assumptions.append(f"image_size {side * patch_size} × {side * patch_size} (a square of position embeddings)")
    return side * patch_size


def assumed_indices(fields: dict, num_streams: int, num_auxiliary: int, assumptions: list[str]) -> dict:
    """
    Layers of the decoder and its auxiliary heads as in the published models, for any field not in `fields`.

    Raises:
        `ValueError`: no published model has as many streams or auxiliary heads.
    """
    depth, decoder_type = fields["num_hidden_layers"], fields["decoder_type"]
    chosen = {}
    if "out_indices" not in fields:
        chosen["out_indices"] = [depth] if decoder_type != "mla" else quarter_depths(depth)
        if len(chosen["out_indices"]) != num_streams:
            raise ValueError(
                f"it has {num_streams} mla streams, the published models have 4: give their layers as "
                "--config '{\"out_indices\": …}'"
            )
        if decoder_type == "mla":
            assumptions.append(f"out_indices {chosen['out_indices']} (the published layers for depth {depth})")
    if "auxiliary_out_indices" not in fields:
        if decoder_type == "mla":
            candidates = [[], chosen.get("out_indices", fields.get("out_indices"))]
        else:
            published = PUBLISHED_AUXILIARY_INDICES.get((decoder_type, depth))
            quarters = quarter_depths(depth)
            candidates = [[], quarters, quarters[:-1]]
            if published:
                candidates = [[], published, published[:-1]]
        fitting = [indices for indices in candidates if len(indices) == num_auxiliary]
        if not fitting:
            raise ValueError(
                f"it has {num_auxiliary} auxiliary heads, unlike any published model of depth {depth}: give their "
                "layers as --config '{\"auxiliary_out_indices\": …}'"
            )
        chosen["auxiliary_out_indices"] = fitting[0]
        if num_auxiliary:
            assumptions.append(f"auxiliary_out_indices {fitting[0]} (as in the published models for depth {depth})")
    return chosen


def detect_config(implementation: str, shapes: Shapes, told: dict, assumptions: list[str]) -> SetrConfig:
    """
    The configuration of a checkpoint.

    Args:
        implementation: "original" or "mmseg".
        shapes: Shape of each tensor.
        told: Fields of `SetrConfig` that the file's metadata or the user give; they win over all that is read off.
        assumptions: Is appended with a sentence for each field that neither shows nor was told.

    Raises:
        `ValueError`: a key is missing, the network is none of SETR's, or a field must be told.
    """
    is_mla = any(key.startswith(("backbone.mla.", "neck.mla.")) for key in shapes)
    decoder_fields = mla_fields if is_mla else upsample_fields
    fields = encoder_fields(implementation, shapes) | decoder_fields(implementation, shapes) | told
    for name in ("decoder_scale_factor", "auxiliary_scale_factor"):
        if name in fields and name not in told:
            assumptions.append(f"{name} {fields[name]} (as in the published {fields['decoder_type']} decoder)")
    if "num_attention_heads" not in told:
        heads = assumed_num_heads(fields["hidden_size"], fields["num_hidden_layers"], assumptions)
        fields["num_attention_heads"] = heads
    if "image_size" not in told:
        num_positions = shapes["backbone.pos_embed"][1] - 1
        fields["image_size"] = assumed_image_size(num_positions, fields["patch_size"], assumptions)
    norms = "backbone.norm_{}." if implementation == "original" else "neck.norm.{}."
    num_streams = count_modules(shapes, norms) if is_mla else 1
    num_auxiliary = count_modules(shapes, "auxiliary_head.{}.")
    fields |= assumed_indices(fields, num_streams, num_auxiliary, assumptions)
    if len(fields["auxiliary_out_indices"]) != num_auxiliary:
        raise ValueError(
            f"it has {num_auxiliary} auxiliary heads, but auxiliary_out_indices {fields['auxiliary_out_indices']} "
            f"name {len(fields['auxiliary_out_indices'])} layers"
        )
    return SetrConfig(**fields)
