"""What the card of a model says of its network."""

import ast
import re

import pytest
import torch
from PIL import Image
from transformers import Dinov2Config

from setr_hf import SetrForSemanticSegmentation, SetrImageProcessor
from setr_hf.cards.architecture import architecture_text, logits_size
from setr_hf.cards.model_card import ModelFacts, count_parameters, model_card, protocol_text, write_model_card


DINOV2 = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}
NETWORKS = {
    "naive": {"decoder_type": "naive"},
    "pup": {"decoder_type": "pup"},
    "mla": {"decoder_type": "mla"},
    "naive of mmsegmentation": {"decoder_type": "naive", "decoder_scale_factor": 4, "auxiliary_scale_factor": 4},
    "no auxiliary heads": {"decoder_type": "mla", "auxiliary_out_indices": []},
    "the embedding is read": {"decoder_type": "naive", "auxiliary_out_indices": [0, 1]},
    "a window that is not square": {"decoder_type": "pup", "image_size": (64, 96)},
    "another encoder": {"decoder_type": "pup", "backbone_config": Dinov2Config(**DINOV2), "image_size": 56},
    "dropped paths": {"decoder_type": "naive", "drop_path_rate": 0.1},
}


@pytest.mark.parametrize("fields", NETWORKS.values(), ids=NETWORKS.keys())
def test_sizes_in_a_card_are_those_of_the_network(fields, tiny_config, tmp_path):
    config = tiny_config(**fields)
    model = SetrForSemanticSegmentation(config).eval()
    height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    with torch.inference_mode():
        logits = model(torch.zeros(1, 3, height, width)).logits
    size = logits_size(config)
    assert (size.height, size.width) == logits.shape[2:]
    assert count_parameters(config) == sum(parameter.numel() for parameter in model.parameters())
    write_model_card(tmp_path, ModelFacts("mine", "Mine.", "none."), config, SetrImageProcessor())
    text = (tmp_path / "README.md").read_text()
    assert architecture_text(config) in text
    with Image.open(tmp_path / "architecture.png") as picture:
        assert picture.text["Description"] == architecture_text(config)


def test_a_picture_is_drawn_to_the_same_bytes(tiny_config, tmp_path):
    for name in ("a", "b"):
        write_model_card(tmp_path / name, ModelFacts("mine", "Mine.", "none."), tiny_config(), SetrImageProcessor())
    assert (tmp_path / "a/architecture.png").read_bytes() == (tmp_path / "b/architecture.png").read_bytes()


@pytest.mark.parametrize("repository", ["owner/name", 'quo"ted', "back\\slash", "new\nline", "```", "$(rm x)"])
def test_no_name_breaks_the_code_of_a_card(repository, tiny_config):
    card = model_card(ModelFacts(repository, "Mine.", "none."), tiny_config(), SetrImageProcessor())
    blocks = re.findall(r"^```python\n(.*?)^```$", card.text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    shown = " ".join(repository.split())
    for block in blocks:
        strings = {node.value for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Constant)}
        assert {shown, "main"} <= strings


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "Photos are resized to 512 × 512 pixels."),
        (
            {"do_split_image": True, "size": {"shortest_edge": 64, "longest_edge": 99}, "crop_size": 64, "stride": 43},
            "Photos are resized to a shorter side of 64 pixels, with a longer side of at most 99, and cut into "
            "windows of 64 × 64 that start every 43 pixels; logits are averaged where windows overlap.",
        ),
        (
            {"do_split_image": True, "do_resize": False, "crop_size": 64, "stride": 43},
            "Photos are not resized, and cut into windows of 64 × 64 that start every 43 pixels; logits are averaged "
            "where windows overlap.",
        ),
    ],
)
def test_a_card_says_what_happens_to_photos(settings, text):
    assert protocol_text(SetrImageProcessor(**settings)) == text
