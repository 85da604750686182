import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForSemanticSegmentation

from setr_hf import SetrBackbone, SetrConfig, SetrForSemanticSegmentation, SetrModel
from setr_hf.model.losses_setr import segmentation_loss


DECODERS = ["naive", "pup", "mla"]
# The networks that mmsegmentation trains under the same names.
VARIANTS = {
    "naive": {"decoder_type": "naive"},
    "pup": {"decoder_type": "pup"},
    "mla": {"decoder_type": "mla"},
    "naive-mmseg": {"decoder_type": "naive", "decoder_scale_factor": 4, "auxiliary_scale_factor": 4},
    "mla-mmseg": {
        "decoder_type": "mla",
        "mla_align_corners": False,
        "mla_classifier_kernel_size": 1,
        "mla_auxiliary_bias": True,
    },
}


def resize(maps, size, align_corners=False):
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


def encode_by_hand(model, pixel_values):
    """Outputs of all layers as maps, written down once more from the paper's equations 1 and 2."""
    config, encoder = model.config, model.setr
    tokens = encoder.embeddings.patch_embeddings(pixel_values).flatten(2).transpose(1, 2)
    if config.use_class_token:
        tokens = torch.cat([encoder.embeddings.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
    tokens = tokens + encoder.embeddings.position_embeddings
    maps = []
    for layer in encoder.layers:
        normed, attention = layer.layernorm_before(tokens), layer.attention
        heads = [
            projection(normed).unflatten(-1, (config.num_attention_heads, -1)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        ]
        weights = (heads[0] @ heads[1].transpose(-1, -2) / heads[0].shape[-1] ** 0.5).softmax(-1)
        tokens = tokens + attention.o_proj((weights @ heads[2]).transpose(1, 2).flatten(2))
        hidden = F.gelu(layer.mlp.fc1(layer.layernorm_after(tokens)))
        tokens = tokens + layer.mlp.fc2(hidden)
        patches = tokens[:, int(config.use_class_token) :]
        maps.append(
            patches.transpose(1, 2).unflatten(2, [side // config.patch_size for side in pixel_values.shape[-2:]])
        )
    return maps


def decode_by_hand(model, maps, size):
    """Main logits at image size, with each upsampling where the two implementations have it."""
    config, head = model.config, model.decode_head
    if config.decoder_type != "mla":
        features = head.layernorm(maps[-1])
        for layer in head.layers:
            features = layer(features)
            features = resize(features, [side * head.scale_factor for side in features.shape[-2:]])
        return resize(head.classifier(features), size)
    streams = [maps[index - 1] for index in config.out_indices]
    projected = [proj(norm(stream)) for proj, norm, stream in zip(head.projections, head.layernorms, streams)]
    branches = []
    for index in range(len(streams)):
        aggregated = head.aggregations[index](sum(projected[index:]))
        branch = head.branches[index](aggregated)
        branches.append(resize(branch, [4 * side for side in branch.shape[-2:]], config.mla_align_corners))
    return resize(head.classifier(torch.cat(branches, dim=1)), size)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_the_equations_written_out(tiny_model, variant):
    model = tiny_model(**VARIANTS[variant])
    pixel_values = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits = resize(model(pixel_values).logits, (64, 64))
        expected = decode_by_hand(model, encode_by_hand(model, pixel_values), (64, 64))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("decoder_type", DECODERS)
def test_loss_is_cross_entropy_plus_weighted_auxiliary_cross_entropies(tiny_model, decoder_type):
    model = tiny_model(decoder_type=decoder_type, auxiliary_loss_weight=0.25)
    pixel_values, labels = torch.randn(2, 3, 64, 48), torch.randint(0, 5, (2, 64, 48))
    labels[:, :10] = 255
    outputs = model(pixel_values, labels=labels)
    losses = [
        F.cross_entropy(resize(logits, (64, 48)), labels, ignore_index=255)
        for logits in (outputs.logits, *outputs.auxiliary_logits)
    ]
    torch.testing.assert_close(outputs.loss, losses[0] + 0.25 * sum(losses[1:]))


@pytest.mark.parametrize("decoder_type", DECODERS)
def test_average_over_all_pixels_counts_ignored_ones_with_zero(tiny_model, decoder_type):
    model = tiny_model(decoder_type=decoder_type, semantic_loss_average="all")
    pixel_values, labels = torch.randn(3, 3, 64, 48), torch.randint(0, 5, (3, 64, 48))
    labels[0, :10] = 255
    labels[1, :, 20:] = 255
    labels[2] = 255
    outputs = model(pixel_values, labels=labels)
    losses = [
        F.cross_entropy(resize(logits, (64, 48)), labels, ignore_index=255, reduction="none").mean()
        for logits in (outputs.logits, *outputs.auxiliary_logits)
    ]
    torch.testing.assert_close(outputs.loss, losses[0] + 0.4 * sum(losses[1:]))


@pytest.mark.parametrize(("average", "divisor"), [("valid", 3), ("all", 8)])
def test_averages_worked_out_by_hand(average, divisor):
    """Class 0 has the probability 3/4, class 1 has 1/4; of two images of 2×2 pixels, one has no valid pixel."""
    logits = torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1).expand(2, 2, 2, 2).clone().requires_grad_()
    labels = torch.tensor([[[0, 1], [255, 0]], [[255, 255], [255, 255]]])
    loss = segmentation_loss(logits, labels, (2, 2), 255, average)
    assert loss.item() == pytest.approx((2 * math.log(4 / 3) + math.log(4)) / divisor, rel=1e-6)
    loss.backward()
    # Probability minus one for the true class, probability for the other one.
    of_class_0 = torch.tensor([[[-0.25, 0.75], [0, -0.25]], [[0, 0], [0, 0]]]) / divisor
    torch.testing.assert_close(logits.grad, torch.stack([of_class_0, -of_class_0], dim=1))


def test_padding_to_whole_patches_is_no_pixel_of_the_average():
    """A map of 4×4 pixels padded to 6×6: 16 pixels count, 4 of them with a loss."""
    labels = torch.full((1, 4, 4), 255)
    labels[0, 0] = 1
    loss = segmentation_loss(torch.zeros(1, 2, 3, 3), labels, (6, 6), 255, "all")
    assert loss.item() == pytest.approx(4 * math.log(2) / 16, rel=1e-6)


def test_the_average_over_all_pixels_is_that_of_equal_parts():
    """As gradient accumulation and several processes need it; over valid pixels, parts weigh the same instead."""
    logits, labels = torch.randn(4, 5, 8, 8), torch.randint(0, 5, (4, 8, 8))
    labels[0] = 255
    labels[1, :7] = 255

    def loss(part, average):
        return segmentation_loss(logits[part], labels[part], (8, 8), 255, average)

    halves = [slice(0, 2), slice(2, 4)]
    whole = slice(0, 4)
    torch.testing.assert_close(sum(loss(half, "all") for half in halves) / 2, loss(whole, "all"))
    valid = [loss(half, "valid") for half in halves]
    torch.testing.assert_close((8 * valid[0] + 128 * valid[1]) / 136, loss(whole, "valid"))


@pytest.mark.parametrize("average", ["valid", "all"])
@pytest.mark.parametrize("decoder_type", DECODERS)
def test_loss_and_gradients_of_images_without_a_valid_pixel_are_zero(tiny_model, decoder_type, average):
    model = tiny_model(decoder_type=decoder_type, semantic_loss_average=average)
    outputs = model(torch.randn(2, 3, 32, 32), labels=torch.full((2, 32, 32), 255))
    assert outputs.loss.item() == 0
    outputs.loss.backward()
    assert all(torch.equal(parameter.grad, torch.zeros_like(parameter)) for parameter in model.parameters())


@pytest.mark.parametrize("decoder_type", DECODERS)
def test_every_parameter_learns(tiny_config, decoder_type):
    model = SetrForSemanticSegmentation(tiny_config(decoder_type=decoder_type)).train()
    model(torch.randn(2, 3, 64, 64), labels=torch.randint(0, 5, (2, 64, 64))).loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize("decoder_type", DECODERS)
def test_auxiliary_heads_run_with_labels_or_when_asked_for(tiny_model, decoder_type):
    model = tiny_model(decoder_type=decoder_type)
    pixel_values = torch.randn(1, 3, 32, 32)
    assert model(pixel_values).auxiliary_logits is None
    count = len(model.config.auxiliary_out_indices)
    assert len(model(pixel_values, output_auxiliary_logits=True).auxiliary_logits) == count
    outputs = model(pixel_values, labels=torch.zeros(1, 32, 32, dtype=torch.long), output_auxiliary_logits=False)
    assert outputs.auxiliary_logits is None


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 100), width=st.integers(1, 100), decoder_type=st.sampled_from(DECODERS))
def test_any_height_and_width_works(height, width, decoder_type):
    config = SetrConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32, num_labels=3,
        decoder_hidden_size=8, mla_hidden_size=4, decoder_type=decoder_type,
    )  # fmt: skip
    model = SetrForSemanticSegmentation(config).eval()
    labels = torch.randint(0, 3, (1, height, width))
    outputs = model(torch.randn(1, 3, height, width), labels=labels)
    per_patch = {"naive": 1, "pup": 8, "mla": 4}[decoder_type]
    assert outputs.logits.shape == (1, 3, -(-height * per_patch // 16), -(-width * per_patch // 16))
    assert outputs.loss.isfinite()


def test_padding_to_whole_patches_is_cut_off_again(tiny_model):
    model = tiny_model(decoder_type="mla")
    image = torch.randn(1, 3, 52, 36)
    padded = F.pad(image, (0, 12, 0, 12))
    with torch.no_grad():
        torch.testing.assert_close(model(image).logits, model(padded).logits[..., :13, :9])


def test_position_embeddings_of_the_native_size_pass_unchanged(tiny_model):
    embeddings = tiny_model(decoder_type="pup").setr.embeddings
    assert torch.equal(embeddings.interpolate_position_embeddings(4, 4), embeddings.position_embeddings)


def test_position_embeddings_are_resized_bilinearly_without_the_class_position(tiny_model):
    embeddings = tiny_model(decoder_type="pup", image_size=[32, 64]).setr.embeddings
    resized = embeddings.interpolate_position_embeddings(3, 5)
    grid = embeddings.position_embeddings[:, 1:].reshape(1, 2, 4, -1).permute(0, 3, 1, 2)
    assert torch.equal(resized[:, :1], embeddings.position_embeddings[:, :1])
    torch.testing.assert_close(resized[:, 1:], resize(grid, (3, 5)).flatten(2).transpose(1, 2))


@pytest.mark.parametrize("decoder_type", DECODERS)
def test_saved_and_loaded_bit_for_bit(tiny_model, decoder_type, tmp_path):
    model = tiny_model(decoder_type=decoder_type)
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    pixel_values = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded.eval()(pixel_values).logits, model(pixel_values).logits)


def test_the_encoder_loads_from_a_segmentation_model(tiny_model, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    pixel_values = torch.randn(1, 3, 64, 64)
    encoder, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys"))
    states = model(pixel_values, output_hidden_states=True).hidden_states
    assert torch.equal(encoder.eval()(pixel_values).last_hidden_state, states[-1])
    maps = SetrBackbone.from_pretrained(tmp_path).eval()(pixel_values).feature_maps
    assert all(torch.equal(maps[i - 1].flatten(2).transpose(1, 2), states[i]) for i in (1, 2, 3, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_clear_decisions(tiny_model, dtype):
    model = tiny_model()
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = model(pixel_values).logits
        half = model.to(dtype)(pixel_values).logits
    best, second = exact.topk(2, dim=1).values.unbind(1)
    noise = (half.float() - exact).abs().max()
    assert noise < 0.1 * exact.std()
    clear = best - second > 2 * noise
    assert clear.float().mean() > 0.5
    assert torch.equal(half.argmax(1)[clear], exact.argmax(1)[clear])


def test_each_image_of_a_batch_is_segmented_on_its_own(tiny_model):
    model = tiny_model()
    pixel_values = torch.randn(3, 3, 64, 64)
    together = model(pixel_values).logits
    for index in range(3):
        torch.testing.assert_close(
            model(pixel_values[index : index + 1]).logits[0], together[index], atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("implementation", ["eager", "sdpa", pytest.param("flex_attention", marks=pytest.mark.slow)])
def test_attention_implementations_agree(tiny_model, implementation):
    model = tiny_model(hidden_size=64)
    pixel_values = torch.randn(1, 3, 64, 64)
    model.set_attn_implementation("eager")
    expected = model(pixel_values).logits
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values).logits, expected, atol=1e-5, rtol=0)


def test_hidden_states_and_attentions_on_request(tiny_model):
    model = tiny_model(decoder_type="pup")
    model.set_attn_implementation("eager")
    outputs = model(torch.randn(1, 3, 32, 48), output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(1, 7, 32)] * 5
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(1, 4, 7, 7)] * 4
    assert outputs.attentions[0].sum(-1).allclose(torch.ones(1, 4, 7))


def test_gradient_checkpointing_changes_no_gradient(tiny_model):
    model = tiny_model().train()
    inputs = {"pixel_values": torch.randn(2, 3, 64, 64), "labels": torch.randint(0, 5, (2, 64, 64))}
    model(**inputs).loss.backward()
    expected = model.setr.embeddings.patch_embeddings.weight.grad.clone()
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**inputs).loss.backward()
    torch.testing.assert_close(model.setr.embeddings.patch_embeddings.weight.grad, expected)


@pytest.mark.usefixtures("new_compiler")
@pytest.mark.parametrize("decoder_type", DECODERS)
def test_compiles_as_one_graph(tiny_model, decoder_type):
    model = tiny_model(decoder_type=decoder_type)
    inputs = {"pixel_values": torch.randn(2, 3, 40, 64), "labels": torch.randint(0, 5, (2, 40, 64))}
    expected = model(**inputs)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    outputs = compiled(**inputs)
    torch.testing.assert_close(outputs.logits, expected.logits)
    outputs.loss.backward()


@pytest.mark.usefixtures("new_compiler")
@pytest.mark.parametrize("size", [64, 40])
def test_windows_compile_as_one_graph_for_any_count(tiny_model, size):
    model = tiny_model()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=backend)

    def check(batch_size, num_windows):
        windows = torch.randn(batch_size, num_windows, 3, size, size)
        offsets = torch.tensor([0, 0, size, size, size, 96]).repeat(batch_size, num_windows, 1)
        offsets[-1, 1:] = 0
        outputs = compiled(pixel_windows=windows, patch_offsets=offsets)
        torch.testing.assert_close(outputs.logits, model(pixel_windows=windows, patch_offsets=offsets).logits)
        return windows, offsets

    with torch.inference_mode():
        for shape in ((2, 2), (4, 5)):
            check(*shape)
        known = len(graphs)
        for shape in ((2, 9), (4, 4), (6, 7), (5, 4)):  # of 16 and more, which convolutions on the CPU tell apart
            windows, offsets = check(*shape)
        assert len(graphs) == known <= 2, "shapes change from fixed to any, once"
        offsets[0, 0, 2] -= 16
        with pytest.raises(RuntimeError, match="windows that their images fill"):
            compiled(pixel_windows=windows, patch_offsets=offsets)


def test_drop_path_drops_whole_branches_in_training_only(tiny_config):
    model = SetrModel(tiny_config(drop_path_rate=0.99)).eval()
    pixel_values = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(pixel_values).last_hidden_state, model(pixel_values).last_hidden_state)
    assert [layer.drop_path_rate for layer in model.layers] == pytest.approx([0, 0.33, 0.66, 0.99])
    layer, tokens = model.layers[-1].train(), torch.randn(200, 1, 32)
    unchanged = (layer(tokens) == tokens).all(-1).float().mean()
    assert 0.9 < unchanged < 1


def test_initial_weights_follow_the_original_code():
    model = SetrForSemanticSegmentation(
        SetrConfig(hidden_size=256, num_hidden_layers=1, num_attention_heads=4, intermediate_size=512, num_labels=3,
                   decoder_type="pup", auxiliary_out_indices=[])
    )  # fmt: skip
    layer = model.setr.layers[0]
    for weight in (layer.mlp.fc1.weight, layer.attention.q_proj.weight, model.setr.embeddings.position_embeddings):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.mlp.fc1.bias.abs().max() == 0
    convolution = model.decode_head.layers[1].convolution.weight
    bound = convolution[0].numel() ** -0.5
    assert convolution.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert convolution.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)


@pytest.mark.parametrize("decoder_type", ["naive", "pup", "mla"])
def test_new_classifiers_leave_everything_else_as_it_is(tiny_model, decoder_type, tmp_path):
    model = tiny_model(decoder_type=decoder_type, dataset="ade20k", palette=[[1, 2, 3]] * 5)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    new = model.reset_classifiers(id2label={0: "road", 1: "car", 2: "sky"}, palette=[[4, 5, 6]] * 3)
    after = dict(model.named_parameters())
    assert [name for name in after if name in new] == [name for name in after if "classifier" in name]
    assert all(torch.equal(after[name], before[name]) for name in set(after) - set(new))
    assert list(after) == list(before) and len(new) > 2, "of the auxiliary heads too"
    outputs = model(torch.randn(1, 3, 32, 32), labels=torch.full((1, 32, 32), 2))
    assert {logits.shape[1] for logits in (outputs.logits, *outputs.auxiliary_logits)} == {3}
    outputs.loss.backward()
    model.save_pretrained(tmp_path)
    config = SetrForSemanticSegmentation.from_pretrained(tmp_path).config
    assert (config.num_labels, config.label2id, config.palette) == (
        3,
        {"road": 0, "car": 1, "sky": 2},
        [[4, 5, 6]] * 3,
    )
    assert config.dataset is None


@pytest.mark.parametrize("backbone_type", ["dinov2", "dinov3_vit"])
def test_a_plain_vit_backbone_takes_the_encoders_place(tiny_config, backbone_type, tmp_path):
    backbone = {
        "model_type": backbone_type, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
        "intermediate_size": 64, "image_size": 56, "patch_size": 14,
    }  # fmt: skip
    model = SetrForSemanticSegmentation(tiny_config(backbone_config=backbone))
    outputs = model(torch.randn(2, 3, 50, 64), labels=torch.randint(0, 5, (2, 50, 64)))
    outputs.loss.backward()
    assert outputs.logits.shape == (2, 5, 15, 19)
    assert len(outputs.auxiliary_logits) == 4
    model.eval().save_pretrained(tmp_path)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path).eval()
    pixel_values = torch.randn(1, 3, 56, 56)
    assert torch.equal(loaded(pixel_values).logits, model(pixel_values).logits)


def test_loss_is_memory_frugal_and_still_exact():
    logits = torch.randn(3, 7, 8, 8, requires_grad=True)
    labels = torch.randint(0, 7, (3, 60, 50))
    expected = F.cross_entropy(resize(logits, (64, 64))[..., :60, :50], labels)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    loss = segmentation_loss(logits, labels, (64, 64), 255)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)


WINDOWS = torch.zeros(1, 2, 3, 32, 32)
OFFSETS = torch.tensor([[[0, 0, 32, 32, 32, 40], [0, 8, 32, 32, 32, 40]]])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"pixel_values": torch.zeros(1, 4, 32, 32)}, r"\(batch_size, 3, height, width\), got \(1, 4, 32, 32\)"),
        ({"pixel_values": torch.zeros(3, 32, 32)}, r"got \(3, 32, 32\)"),
        ({}, "needs pixel_values"),
        ({"labels": torch.zeros(1, 32, 32).long()}, "needs pixel_values"),
        ({"pixel_values": torch.zeros(1, 3, 32, 32), "labels": torch.zeros(1, 32, 32)}, "integer type"),
        (
            {"pixel_values": torch.zeros(1, 3, 32, 32), "labels": torch.zeros(1, 16, 16).long()},
            r"\(1, 32, 32\), got \(1, 16, 16\)",
        ),
        (
            {"pixel_values": torch.zeros(1, 3, 32, 32), "labels": torch.full((1, 32, 32), 7)},
            r"ids \[7\], but the model has the classes 0 to 4",
        ),
        ({"pixel_values": np.zeros((1, 3, 32, 32))}, "pixel_values as a tensor, got ndarray"),
        ({"pixel_values": torch.zeros(1, 3, 32, 32).byte()}, "pixel_values must be floating-point .* got torch.uint8"),
        ({"pixel_values": torch.zeros(0, 3, 32, 32)}, r"got \(0, 3, 32, 32\), which is empty"),
        ({"pixel_values": torch.zeros(1, 3, 0, 32)}, r"got \(1, 3, 0, 32\), which is empty"),
        ({"pixel_values": torch.zeros(1, 3, 32, 32), "labels": [[0]]}, "labels must be a tensor, got list"),
        ({"pixel_windows": torch.zeros(1, 2, 3, 32, 32)}, "patch_offsets"),
        ({"pixel_windows": torch.zeros(2, 3, 32, 32), "patch_offsets": OFFSETS}, r"got \(2, 3, 32, 32\)"),
        ({"pixel_windows": torch.zeros(1, 0, 3, 32, 32), "patch_offsets": OFFSETS}, "which is empty"),
        (
            {"pixel_windows": torch.zeros(1, 3, 3, 32, 32), "patch_offsets": OFFSETS},
            r"shape \(1, 3, 6\).* got \(1, 2, 6\)",
        ),
        ({"pixel_windows": WINDOWS, "patch_offsets": OFFSETS.float()}, "whole numbers, got torch.float32"),
        ({"pixel_windows": WINDOWS, "patch_offsets": OFFSETS * 0}, "all zeros"),
        ({"pixel_windows": WINDOWS, "patch_offsets": OFFSETS - 1}, r"patch_offsets \[-1, -1, 31, 31, 31, 39\]"),
        ({"pixel_windows": WINDOWS, "patch_offsets": OFFSETS + 1}, r"\[1, 1, 33, 33, 33, 41\]"),
        ({"pixel_windows": WINDOWS, "patch_offsets": OFFSETS * 2}, r"windows of 32×32 pixels"),
    ],
)
def test_wrong_inputs_are_named(tiny_model, inputs, message):
    with pytest.raises(ValueError, match=message):
        tiny_model()(**inputs)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decoder_type": "pup", "out_indices": [2, 4]}, "reads one layer"),
        ({"decoder_type": "mla", "auxiliary_out_indices": [1]}, "every stream or none"),
    ],
)
def test_layers_that_do_not_suit_the_decoder_are_named(tiny_config, fields, message):
    with pytest.raises(ValueError, match=message):
        SetrForSemanticSegmentation(tiny_config(**fields))


@pytest.mark.parametrize("decoder_type", ["naive", "pup", "mla"])
def test_images_of_one_pixel_work(tiny_model, decoder_type):
    model = tiny_model(decoder_type=decoder_type)
    outputs = model(torch.zeros(2, 3, 1, 1), labels=torch.zeros(2, 1, 1).long())
    assert outputs.logits.shape == (2, 5, 1, 1) and outputs.loss.isfinite()
