"""Networks by name: the encoders of the paper, two smaller ones, and the public weights that fit them."""

import difflib
from dataclasses import dataclass
from typing import Any


def vit_sizes(hidden_size: int, num_hidden_layers: int) -> dict[str, Any]:
    """The fields of a ViT as they are all published: heads of 64 channels, and MLPs four times as wide."""
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": hidden_size // 64,
        "intermediate_size": 4 * hidden_size,
    }


@dataclass(frozen=True)
class Preset:
    """A network by name, whatever its decoder.

    Args:
        description (`str`): What it is, and where it comes from.
        fields (`dict[str, Any]`): Fields of [`SetrConfig`].
        encoder (`str`): The public encoder that fits it, for [`load_encoder`].
        stem (`str`, *optional*): The public weights that fit its stem, if `encoder` has none.
    """

    description: str
    fields: dict[str, Any]
    encoder: str
    stem: str | None = None


# The paper's hybrid feeds the features of a ResNet-50 with an output stride of 16, as in dilated FCNs, to T-Base.
RESNET_50 = {"model_type": "resnet", "output_stride": 16, "out_features": ["stage4"]}
# The ViT paper's ResNet-50 (appendix B.1) ends after its third stage, which has the layers of the fourth as well.
VIT_RESNET_50 = {
    "model_type": "bit",
    "layer_type": "bottleneck",
    "depths": [3, 4, 9],
    "hidden_sizes": [256, 512, 1024],
    "global_padding": "same",
    "embedding_dynamic_padding": True,
    "out_features": ["stage3"],
}
# Decoders that have, as T-Base's, a third of the encoder's width.
SMALL_DECODER = {"decoder_hidden_size": 128, "mla_hidden_size": 64}
TINY_DECODER = {"decoder_hidden_size": 64, "mla_hidden_size": 32}
VIT_BASE = "google/vit-base-patch16-384"

PRESETS = {
    "t-large": Preset("T-Large of the paper, a ViT-L", vit_sizes(1024, 24), "google/vit-large-patch16-384"),
    "t-base": Preset("T-Base of the paper, a ViT-B", vit_sizes(768, 12), VIT_BASE),
    "deit": Preset("T-Base, to start from DeiT", vit_sizes(768, 12), "facebook/deit-base-distilled-patch16-384"),
    "hybrid": Preset(
        "Hybrid of the paper, ResNet-50 and T-Base",
        vit_sizes(768, 12) | {"stem_config": RESNET_50},
        VIT_BASE,
        stem="microsoft/resnet-50",
    ),
    "vit-hybrid": Preset(
        "R50+ViT-B/16 of the ViT paper",
        vit_sizes(768, 12) | {"stem_config": VIT_RESNET_50},
        "timm/vit_base_r50_s16_384.orig_in21k_ft_in1k",
    ),
    "small": Preset("ViT-S", vit_sizes(384, 12) | SMALL_DECODER, "facebook/deit-small-distilled-patch16-224"),
    "tiny": Preset("ViT-Ti", vit_sizes(192, 12) | TINY_DECODER, "facebook/deit-tiny-distilled-patch16-224"),
}


def find_preset(name: str) -> Preset:
    """A preset by its name. Raises `ValueError`, with close names, if there is none."""
    if name in PRESETS:
        return PRESETS[name]
    close = difflib.get_close_matches(str(name).lower(), PRESETS, n=2)
    offer = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(PRESETS)}"
    raise ValueError(f"there is no preset {name!r}: {offer}")


__all__ = ["PRESETS", "Preset", "find_preset"]
