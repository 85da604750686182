"""The encoder as the backbone of other models of Transformers: what they ask of it, they get."""

import pytest
import torch
from transformers import (
    AutoBackbone,
    AutoModelForSemanticSegmentation,
    DetrConfig,
    DetrForObjectDetection,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    VitMatteConfig,
    VitMatteForImageMatting,
)

from setr_hf import SetrBackbone


NUM_LABELS = 5


@pytest.fixture
def backbone_config(tiny_config):
    return lambda **fields: tiny_config(**{"out_indices": [1, 2, 3, 4], **fields})


@pytest.fixture
def upernet(backbone_config):
    def make(**fields):
        config = UperNetConfig(
            backbone_config=backbone_config(**fields),
            hidden_size=16,
            pool_scales=[1, 2],
            auxiliary_in_channels=32,
            auxiliary_channels=8,
            num_labels=NUM_LABELS,
        )
        return UperNetForSemanticSegmentation(config)

    return make


@pytest.mark.parametrize("fields", [{}, {"decoder_type": "naive"}, {"decoder_type": "pup", "use_class_token": False}])
def test_upernet_trains_and_is_saved_and_loaded(upernet, fields, tmp_path):
    model = upernet(**fields)
    assert type(model.backbone) is SetrBackbone
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pixels = torch.randn(2, 3, 64, 80)
    labels = pixels[:, 0].gt(0).long()
    losses = []
    for _ in range(4):
        loss = model(pixels, labels=labels).loss
        loss.backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in model.backbone.layers[0].parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]

    model.eval().save_pretrained(tmp_path)
    with torch.inference_mode():
        expected = model(pixels).logits
        for auto_class in (UperNetForSemanticSegmentation, AutoModelForSemanticSegmentation):
            loaded = auto_class.from_pretrained(tmp_path).eval()
            assert type(loaded.backbone) is SetrBackbone
            assert torch.equal(loaded(pixels).logits, expected)


@pytest.mark.parametrize("size", [(64, 64), (45, 70), (33, 97), (16, 16)])
def test_upernet_takes_images_of_any_size(upernet, size):
    logits = upernet().eval()(torch.randn(1, 3, *size)).logits
    assert logits.shape == (1, NUM_LABELS, *size)


def test_upernet_gets_what_its_backbone_was_told_of(upernet):
    model = upernet().eval()
    # The whole model's attention goes for the backbone too, and sdpa has no weights to return.
    model.set_attn_implementation("eager")
    outputs = model(torch.randn(1, 3, 64, 64), output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(1, 16, 32)] * 5
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(1, 4, 16, 16)] * 4
    as_tuple = model(torch.randn(1, 3, 64, 64), return_dict=False)
    assert as_tuple[0].shape == (1, NUM_LABELS, 64, 64)


def test_a_head_starts_from_the_encoder_of_a_segmentation_model(upernet, tiny_model, tmp_path):
    """Of a decoder that reads one layer, four are taken."""
    trained = tiny_model(decoder_type="naive")
    trained.save_pretrained(tmp_path)
    model = upernet(decoder_type="naive").eval()
    model.backbone = SetrBackbone.from_pretrained(tmp_path, out_indices=[1, 2, 3, 4]).eval()
    pixels = torch.randn(1, 3, 48, 64)
    with torch.inference_mode():
        maps = model.backbone(pixels).feature_maps
        expected = trained.setr(pixels, out_indices=[1, 2, 3, 4]).feature_maps
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(maps, expected, strict=True))
        assert model(pixels).logits.shape == (1, NUM_LABELS, 48, 64)


def test_names_and_widths_of_the_stages(backbone_config):
    backbone = AutoBackbone.from_config(backbone_config(out_indices=[2, 4]))
    assert type(backbone) is SetrBackbone
    assert (backbone.out_features, backbone.out_indices, backbone.channels) == (["stage2", "stage4"], [2, 4], [32, 32])
    assert backbone.stage_names == ["stem", "stage1", "stage2", "stage3", "stage4"]


@pytest.mark.parametrize("size", [(64, 64), (45, 70)])
def test_detr_detects_on_the_last_layer(backbone_config, size):
    config = DetrConfig(
        backbone_config=backbone_config(out_indices=[4]),
        use_timm_backbone=False,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=6,
        num_labels=NUM_LABELS,
    )
    model = DetrForObjectDetection(config)
    outputs = model(torch.randn(2, 3, *size))
    assert outputs.logits.shape == (2, 6, NUM_LABELS + 1) and outputs.pred_boxes.shape == (2, 6, 4)
    (outputs.logits.square().mean() + outputs.pred_boxes.mean()).backward()
    backbones = [module for module in model.modules() if isinstance(module, SetrBackbone)]
    assert len(backbones) == 1
    assert all(parameter.grad.abs().sum() > 0 for parameter in backbones[0].layers[0].parameters())


def test_vitmatte_takes_images_with_a_fourth_channel(backbone_config, tmp_path):
    config = VitMatteConfig(
        backbone_config=backbone_config(num_channels=4, out_indices=[4]),
        hidden_size=32,
        convstream_hidden_sizes=[8, 8, 8],
        fusion_hidden_sizes=[16, 16, 16, 16],
    )
    model = VitMatteForImageMatting(config).eval()
    pixels = torch.rand(1, 4, 64, 96)
    with torch.inference_mode():
        alphas = model(pixels).alphas
    assert alphas.shape == (1, 1, 64, 96)
    model.save_pretrained(tmp_path)
    with torch.inference_mode():
        assert torch.equal(VitMatteForImageMatting.from_pretrained(tmp_path).eval()(pixels).alphas, alphas)
