"""A SETR starts from a classification ViT: all of the encoder is loaded and computes what the source computes."""

import math
from functools import partial

import checkpoints
import numpy as np
import pytest
import timm
import torch
from small_stems import SMALL_STEMS
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F
from transformers import (
    BeitConfig,
    BeitModel,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from setr_hf import SetrModel
from setr_hf.checkpoints.encoder import load_encoder
from setr_hf.errors import SetrError


# conftest's tiny SETR in the words of the libraries.
TRANSFORMERS_FIELDS = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 64,
    "layer_norm_eps": 1e-6,
}
TIMM_FIELDS = {"img_size": 64, "embed_dim": 32, "depth": 4, "num_heads": 4, "mlp_ratio": 2, "num_classes": 3}


def randomize(module):
    """Weights so large that each of them shows in the outputs."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5 if parameter.ndim != 2 else parameter.shape[1] ** -0.5)
    return module.eval()


@torch.no_grad()
def layer_outputs(model, pixel_values):
    """Z^1 … Z^4 of the encoder, with the class token if it has one."""
    return model.setr(pixel_values, output_hidden_states=True).hidden_states[1:]


@torch.no_grad()
def transformers_outputs(vit, pixel_values):
    return vit(pixel_values, output_hidden_states=True).hidden_states[1:]


@torch.no_grad()
def timm_outputs(vit, pixel_values):
    outputs = []
    hooks = [block.register_forward_hook(lambda _, __, output: outputs.append(output)) for block in vit.blocks]
    vit(pixel_values)
    for hook in hooks:
        hook.remove()
    return tuple(outputs)


def check_report(report, model):
    encoder = getattr(model, "setr", model)
    assert report.num_loaded == report.num_parameters == sum(p.numel() for p in encoder.parameters())
    assert f"{report.num_loaded:,} of {report.num_loaded:,} encoder parameters loaded" in str(report)


@pytest.mark.parametrize("saved", [True, False])
def test_transformers_vit(tiny_model, tmp_path, saved):
    vit = randomize(ViTForImageClassification(ViTConfig(**TRANSFORMERS_FIELDS)))
    vit.save_pretrained(tmp_path / "vit")
    model = tiny_model(decoder_type="naive")
    report = load_encoder(model, tmp_path / "vit" if saved else vit)
    check_report(report, model)
    assert report.resized is None
    pixel_values = torch.randn(2, 3, 64, 64)
    expected = transformers_outputs(vit.vit, pixel_values)
    torch.testing.assert_close(layer_outputs(model, pixel_values), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("model_class", [DeiTForImageClassification, DeiTForImageClassificationWithTeacher])
def test_transformers_deit_without_its_distillation_token(tiny_model, tmp_path, model_class, saved):
    deit = randomize(model_class(DeiTConfig(**TRANSFORMERS_FIELDS)))
    deit.save_pretrained(tmp_path / "deit")
    model = tiny_model(decoder_type="pup")
    report = load_encoder(model, str(tmp_path / "deit") if saved else deit)
    check_report(report, model)
    assert "distillation token" in report.left_out.values()
    positions, source = model.setr.embeddings.position_embeddings, deit.deit.embeddings.position_embeddings
    assert torch.equal(positions, torch.cat([source[:, :1], source[:, 2:]], dim=1))
    tokens = torch.randn(2, 17, 32)
    with torch.no_grad():
        for ours, theirs in zip(model.setr.layers, deit.deit.layers):
            torch.testing.assert_close(ours(tokens), theirs(tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", ["model", "pth", "safetensors"])
def test_timm_vit(tiny_model, tmp_path, form):
    vit = randomize(timm.create_model("vit_base_patch16_224", **TIMM_FIELDS))
    source = vit
    if form == "pth":
        source = tmp_path / "jx_vit.pth"
        torch.save(vit.state_dict(), source)
    elif form == "safetensors":
        from safetensors.torch import save_file

        source = tmp_path / "model.safetensors"
        save_file(vit.state_dict(), source)
    model = tiny_model(decoder_type="naive")
    check_report(load_encoder(model, source), model)
    pixel_values = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(layer_outputs(model, pixel_values), timm_outputs(vit, pixel_values), atol=1e-5, rtol=0)


def test_timm_distilled_deit_file(tiny_model, tmp_path):
    deit = randomize(timm.create_model("deit_base_distilled_patch16_224", **TIMM_FIELDS))
    torch.save({"model": deit.state_dict()}, tmp_path / "deit.pth")
    model = tiny_model(decoder_type="naive")
    report = load_encoder(model, tmp_path / "deit.pth")
    check_report(report, model)
    assert set(report.left_out) == {
        *("dist_token", "norm.weight", "norm.bias", "head.weight", "head.bias", "head_dist.weight", "head_dist.bias")
    }
    assert torch.equal(model.setr.embeddings.position_embeddings[:, 1:], deit.pos_embed[:, 2:])
    tokens = torch.randn(2, 17, 32)
    with torch.no_grad():
        for ours, theirs in zip(model.setr.layers, deit.blocks):
            torch.testing.assert_close(ours(tokens), theirs(tokens), atol=1e-5, rtol=0)


def test_mla_takes_the_patches_only(tiny_model):
    vit = randomize(timm.create_model("vit_base_patch16_224", **TIMM_FIELDS))
    model = tiny_model(decoder_type="mla")
    report = load_encoder(model, vit)
    check_report(report, model)
    assert report.left_out["embeddings.cls_token"] == "only patches are encoded"
    assert torch.equal(model.setr.embeddings.position_embeddings, vit.pos_embed[:, 1:])


def test_position_embeddings_are_resized_bilinearly_apart_from_the_class_position(tiny_model):
    vit = randomize(timm.create_model("vit_base_patch16_224", **{**TIMM_FIELDS, "img_size": 96}))
    model = tiny_model(decoder_type="naive", image_size=[48, 80])
    report = load_encoder(model, vit)
    assert report.resized == ((6, 6), (3, 5)) and "resized from 6×6 to 3×5" in str(report)
    grid = vit.pos_embed[:, 1:].reshape(1, 6, 6, 32).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(3, 5), mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
    positions = model.setr.embeddings.position_embeddings
    torch.testing.assert_close(positions, torch.cat([vit.pos_embed[:, :1], expected], dim=1))


def test_grids_of_models_are_known_even_if_another_square_fits(tiny_model):
    source = tiny_model(decoder_type="mla", image_size=[32, 128])
    model = tiny_model(decoder_type="mla", image_size=[48, 80])
    assert load_encoder(model, source).resized == ((2, 8), (3, 5))


def google_arrays(vit):
    """A timm ViT as the arrays of Google's files."""
    state = {key: tensor.numpy() for key, tensor in vit.state_dict().items()}
    arrays = {
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for index in range(len(vit.blocks)):
        block, ours = f"Transformer/encoderblock_{index}", f"blocks.{index}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for name, norm in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            arrays[f"{block}/{name}/scale"] = state[f"{ours}.{norm}.weight"]
            arrays[f"{block}/{name}/bias"] = state[f"{ours}.{norm}.bias"]
        weights = np.split(state[f"{ours}.attn.qkv.weight"], 3)
        biases = np.split(state[f"{ours}.attn.qkv.bias"], 3)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases):
            arrays[f"{attention}/{name}/kernel"] = weight.T.reshape(32, 4, 8)
            arrays[f"{attention}/{name}/bias"] = bias.reshape(4, 8)
        arrays[f"{attention}/out/kernel"] = state[f"{ours}.attn.proj.weight"].T.reshape(4, 8, 32)
        arrays[f"{attention}/out/bias"] = state[f"{ours}.attn.proj.bias"]
        for dense, layer in (("Dense_0", "fc1"), ("Dense_1", "fc2")):
            arrays[f"{block}/MlpBlock_3/{dense}/kernel"] = state[f"{ours}.mlp.{layer}.weight"].T
            arrays[f"{block}/MlpBlock_3/{dense}/bias"] = state[f"{ours}.mlp.{layer}.bias"]
    return arrays


def test_google_npz(tiny_model, tmp_path):
    vit = randomize(timm.create_model("vit_base_patch16_224", **TIMM_FIELDS))
    np.savez(tmp_path / "vit.npz", **google_arrays(vit))
    # timm's own reader agrees that this is how such a file looks.
    read_by_timm = timm.create_model("vit_base_patch16_224", **TIMM_FIELDS).eval()
    read_by_timm.load_pretrained(str(tmp_path / "vit.npz"))
    model = tiny_model(decoder_type="naive")
    report = load_encoder(model, tmp_path / "vit.npz")
    check_report(report, model)
    assert len(report.left_out) == 4
    pixel_values = torch.randn(2, 3, 64, 64)
    expected = timm_outputs(read_by_timm, pixel_values)
    torch.testing.assert_close(layer_outputs(model, pixel_values), expected, atol=1e-5, rtol=0)


def test_another_setr(tiny_model, tmp_path):
    source = tiny_model(decoder_type="naive")
    source.save_pretrained(tmp_path / "setr")
    for start in (source, tmp_path / "setr", tmp_path / "setr" / "model.safetensors"):
        model = tiny_model(decoder_type="pup")
        check_report(load_encoder(model, start), model)
        for key, tensor in source.setr.state_dict().items():
            assert torch.equal(model.setr.state_dict()[key], tensor), key
    model = SetrModel(source.config)
    check_report(load_encoder(model, source), model)
    assert torch.equal(model.layers[3].mlp.fc2.weight, source.setr.layers[3].mlp.fc2.weight)


@pytest.mark.parametrize("implementation, decoder", checkpoints.FORMS)
def test_public_checkpoints_of_setr(tiny_model, tmp_path, implementation, decoder):
    state_dict = checkpoints.stand_in(implementation, decoder)
    torch.save({"state_dict": state_dict}, tmp_path / "setr.pth")
    model = tiny_model(decoder_type="naive", num_attention_heads=checkpoints.HEADS, intermediate_size=128)
    check_report(load_encoder(model, tmp_path / "setr.pth"), model)
    pixel_values = torch.randn(1, 3, 64, 64)
    expected = checkpoints.encode(state_dict, implementation, pixel_values, with_class_token=True)
    for ours, theirs in zip(layer_outputs(model, pixel_values), expected):
        torch.testing.assert_close(ours[:, 1:], theirs.flatten(2).transpose(1, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"depth": 3}, r"layers\.3\..* is missing"),
        ({"depth": 5}, r"layers\.4\..* is unknown"),
        ({"num_heads": 2}, "2 attention heads, the model 4"),
        ({"embed_dim": 64}, r"cls_token has the shape \(1, 1, 64\), not \(1, 1, 32\)"),
        ({"patch_size": 8}, r"patch_embeddings\.weight has the shape"),
        ({"init_values": 0.1}, r"ls1\.gamma is unknown"),
        ({"class_token": False, "global_pool": "avg"}, "cls_token is missing"),
    ],
)
def test_a_source_that_does_not_fit_changes_nothing(tiny_model, fields, reason):
    vit = timm.create_model("vit_base_patch16_224", **{**TIMM_FIELDS, **fields})
    model = tiny_model(decoder_type="naive")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=reason):
        load_encoder(model, vit)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_sources_that_are_no_plain_vit(tiny_model, tmp_path):
    model = tiny_model(decoder_type="naive")
    beit = BeitModel(BeitConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
    beit.save_pretrained(tmp_path / "beit")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "broken.npz").write_bytes(b"PK but no more")
    (tmp_path / "folder").mkdir()
    for source, reason in (
        (tmp_path / "beit", "is a beit; .* one of vit, deit, setr"),
        (tmp_path / "other.pth", "not a plain ViT"),
        (tmp_path / "broken.npz", "cannot be read as .npz"),
        (tmp_path / "folder", "it has no config.json"),
        ("vit_of_nobody", "neither a file nor a folder nor a model of timm"),
    ):
        with pytest.raises(ValueError, match=reason):
            load_encoder(model, source)


def stem_model(tiny_model, kind, **fields):
    return tiny_model(stem_config=SMALL_STEMS[kind], decoder_type="pup", **fields)


@pytest.fixture
def timm_hybrid():
    """timm's hybrid, as `vit_base_r50_s16_384`, but small."""
    convolution = partial(timm.layers.StdConv2dSame, eps=1e-8)
    shape = {"layers": SMALL_STEMS["bit"]["depths"], "channels": SMALL_STEMS["bit"]["hidden_sizes"], "stem_chs": 32}
    resnet = ResNetV2(**shape, num_classes=0, global_pool="", preact=False, stem_type="same", conv_layer=convolution)
    embed = partial(timm.layers.HybridEmbed, backbone=resnet)
    return randomize(VisionTransformer(**TIMM_FIELDS, patch_size=1, embed_layer=embed))


@pytest.mark.parametrize("from_file", [False, True])
def test_a_hybrid_of_timm_is_loaded_whole(tiny_model, timm_hybrid, from_file, tmp_path):
    model = stem_model(tiny_model, "bit")
    torch.save(timm_hybrid.state_dict(), tmp_path / "hybrid.pth")
    report = load_encoder(model, tmp_path / "hybrid.pth" if from_file else timm_hybrid)
    assert report.num_loaded == report.num_parameters and not report.still_random and "RANDOM" not in str(report)
    pixel_values = torch.randn(2, 3, 64, 64)
    for ours, theirs in zip(layer_outputs(model, pixel_values), timm_outputs(timm_hybrid, pixel_values)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_stem_and_the_layers_after_it_come_from_folders_of_their_own_families(tiny_model, tmp_path):
    torch.manual_seed(1)
    classifier = ResNetForImageClassification(ResNetConfig.from_dict(SMALL_STEMS["resnet"] | {"num_labels": 7}))
    randomize(classifier).save_pretrained(tmp_path / "resnet")
    vit = randomize(ViTForImageClassification(ViTConfig(**TRANSFORMERS_FIELDS)))
    vit.save_pretrained(tmp_path / "vit")
    model = stem_model(tiny_model, "resnet")
    report = load_encoder(model, tmp_path / "vit", stem=str(tmp_path / "resnet"))
    projection = sum(p.numel() for p in model.setr.embeddings.patch_embeddings.parameters())
    assert report.num_parameters - report.num_loaded == projection
    assert report.still_random == "the projection of its features" and "RANDOM: the projection" in str(report)
    assert str(tmp_path / "resnet") in str(report) and "the stem's take their place" in str(report)
    stem = model.setr.embeddings.stem.state_dict()
    assert stem and all(torch.equal(stem[key], classifier.resnet.state_dict()[key]) for key in stem)
    query = vit.state_dict()["vit.layers.3.attention.q_proj.weight"]
    assert torch.equal(model.setr.layers[3].attention.q_proj.weight, query)


def test_what_a_plain_vit_leaves_random_in_a_hybrid_is_said(tiny_model, tmp_path):
    model = stem_model(tiny_model, "resnet")
    before = {name: weight.clone() for name, weight in model.setr.embeddings.stem.named_parameters()}
    report = load_encoder(model, ViTForImageClassification(ViTConfig(**TRANSFORMERS_FIELDS)))
    assert report.still_random == "the stem and the projection of its features"
    assert report.num_loaded < report.num_parameters
    after = dict(model.setr.embeddings.stem.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_hybrid_starts_from_another_and_counts_parameters_alone(tiny_model, tmp_path):
    source = stem_model(tiny_model, "resnet", image_size=96)
    source.save_pretrained(tmp_path / "setr")
    report = load_encoder(stem_model(tiny_model, "resnet"), tmp_path / "setr")
    assert report.num_loaded == report.num_parameters and report.resized == ((6, 6), (4, 4))


@pytest.mark.parametrize(
    ("kind", "stem_of", "message"),
    [
        (None, "resnet", "the model has no stem"),
        ("bit", "resnet", "is a resnet, but the model's stem a bit"),
        ("resnet", "other resnet", r"does not fit the model's stem: .* has the shape"),
        ("resnet", "nan", "NaN or infinite"),
        ("resnet", "nothing", "neither a folder"),
    ],
)
def test_stems_that_do_not_fit_are_refused_and_nothing_is_loaded(tiny_model, kind, stem_of, message, tmp_path):
    if stem_of != "nothing":
        wider = {"hidden_sizes": [16, 32, 64, 128]} if stem_of == "other resnet" else {}
        resnet = ResNetForImageClassification(ResNetConfig.from_dict(SMALL_STEMS["resnet"] | wider))
        if stem_of == "nan":
            resnet.resnet.encoder.stages[0].layers[0].layer[0].convolution.weight.data.fill_(math.nan)
        resnet.save_pretrained(tmp_path / "stem")
    model = stem_model(tiny_model, kind) if kind else tiny_model(decoder_type="pup")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    with pytest.raises(SetrError, match=message):
        load_encoder(model, ViTForImageClassification(ViTConfig(**TRANSFORMERS_FIELDS)), str(tmp_path / "stem"))
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


def test_a_hybrid_needs_no_second_stem_and_fits_no_plain_model(tiny_model, timm_hybrid, tmp_path):
    with pytest.raises(SetrError, match="has a stem, so that elsewhere is not needed"):
        load_encoder(stem_model(tiny_model, "bit"), timm_hybrid, stem="elsewhere")
    with pytest.raises(SetrError, match="does not fit the model"):
        load_encoder(tiny_model(decoder_type="pup"), timm_hybrid)
