"""The label map of a photo by several scales and their mirror images, with a model that takes next to no time."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..data.public_datasets import PUBLISHED_SCALES
from ..model.configuration_setr import SetrConfig
from ..model.modeling_setr import SetrForSemanticSegmentation
from .measuring import OURS, Comparison
from .networks import on_device
from .photos import generated_photo, our_segmenter, plain_segmenter


PLAIN = "interpolate + softmax + argmax"
OPTIONS = ("logits", "photo_sizes", "size", "num_labels", "scales")


def cheap_model(setting: dict[str, Any]) -> SetrForSemanticSegmentation:
    """A SETR of one narrow layer, with logits of the setting's resolution."""
    torch.manual_seed(0)
    config = SetrConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
        image_size=setting["size"],
        decoder_type="naive",
        decoder_hidden_size=16,
        decoder_scale_factor=max(setting["logits"] * 16 // setting["size"], 1),
        auxiliary_out_indices=[],
        num_labels=setting["num_labels"],
    )
    return on_device(SetrForSemanticSegmentation(config), setting)


def ours(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    segmenter, photo = our_segmenter(cheap_model(setting), setting), generated_photo(setting["photo_size"])
    return lambda: segmenter(photo)


def reference(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    model, photo = cheap_model(setting), generated_photo(setting["photo_size"])
    segmenter = plain_segmenter(lambda windows: model(pixel_values=windows).logits, setting)
    return lambda: segmenter(photo)


CODES = {OURS: ours, PLAIN: reference}


def comparisons(options: Namespace) -> Iterator[Comparison]:
    for side in options.logits or (32, 128):
        for height, width in options.photo_sizes or ((512, 683), (1024, 1365)):
            setting = {
                "logits": side,
                "photo_size": (height, width),
                "size": options.size,
                "num_labels": options.num_labels,
                "scales": options.scales or PUBLISHED_SCALES,
                "dtype": "float32",
                "device": options.device,
                "threads": options.threads,
            }
            yield Comparison(
                title=f"{len(setting['scales'])} scales, logits {side}² a window, photo {height}×{width}",
                module=__name__,
                setting=setting,
                references=(PLAIN,),
                warm_up={"logits": 2, "photo_size": (48, 64), "size": 32, "num_labels": 3},
            )
