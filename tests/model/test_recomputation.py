import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from setr_hf.model import modeling_setr
from setr_hf.model.modeling_setr import SetrConvLayer
from setr_hf.model.recomputation_setr import recomputed
from setr_hf.training.simulation import LiveBytes


def gradients(model, inputs, precision=None):
    model.zero_grad()
    with torch.autocast("cpu", precision) if precision else nullcontext():
        loss = model(**inputs).loss
    loss.backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh", "gelu_10", "relu", "quick_gelu"])
def test_gradients_are_the_same_to_the_bit(tiny_model, monkeypatch, activation, precision):
    model = tiny_model(hidden_act=activation).train()
    inputs = {"pixel_values": torch.randn(2, 3, 48, 64), "labels": torch.randint(0, 5, (2, 48, 64))}
    actual = gradients(model, inputs, precision)
    monkeypatch.setattr(modeling_setr, "recomputed", lambda *args: nullcontext())
    expected = gradients(model, inputs, precision)
    assert all(map(torch.equal, actual, expected))


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("decoder_type", ["naive", "pup"])
def test_decoders_learn_the_same_to_the_bit(tiny_model, monkeypatch, decoder_type, precision):
    model = tiny_model(decoder_type=decoder_type, auxiliary_out_indices=[1, 2]).train()
    inputs = {"pixel_values": torch.randn(2, 3, 48, 64), "labels": torch.randint(0, 5, (2, 48, 64))}
    statistics = copy.deepcopy(dict(model.named_buffers()))
    actual = gradients(model, inputs, precision), copy.deepcopy(dict(model.named_buffers()))
    assert not any(torch.equal(before, actual[1][name]) for name, before in statistics.items())
    model.load_state_dict(statistics, strict=False)
    monkeypatch.setattr(SetrConvLayer, "is_recomputable", lambda layer: False)
    expected = gradients(model, inputs, precision), dict(model.named_buffers())
    assert all(map(torch.equal, actual[0], expected[0]))
    assert all(torch.equal(actual[1][name], buffer) for name, buffer in expected[1].items())


def test_before_a_classifier_only_the_convolution_is_kept():
    layer, classifier = SetrConvLayer(4, 6, 3).train(), nn.Conv2d(6, 5, kernel_size=1)
    maps = torch.randn(2, 4, 16, 12, requires_grad=True)
    live = LiveBytes(1, {})
    live.storages.update(tensor.untyped_storage() for tensor in (maps, *layer.parameters(), *classifier.parameters()))
    with live:
        logits = layer(maps, scale_factor=2, classifier=classifier)
    per_channel = maps[:, :1].numel() * 4 * 2**2
    assert live.now == pytest.approx((6 + 5) * per_channel, rel=0.01)
    assert logits.requires_grad


def test_hooks_see_the_activation_of_a_training_step():
    layer, classifier = SetrConvLayer(4, 6, 3).train(), nn.Conv2d(6, 5, kernel_size=1)
    seen = []
    layer.activation.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    layer(torch.randn(2, 4, 16, 12), classifier=classifier)
    assert seen == [(2, 6, 16, 12)]


def kept_states(layer, run):
    """What a layer keeps for its backward pass, its result included, as a multiple of its hidden states."""
    hidden_states = torch.randn(2, 60, 32, requires_grad=True)
    live = LiveBytes(1, {})
    live.storages.update(tensor.untyped_storage() for tensor in (hidden_states, *layer.parameters()))
    with live:
        result = run(layer, hidden_states)
    assert result.requires_grad
    return live.now / (hidden_states.numel() * 4)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        # Queries, keys, values, their result, the sum with it, the MLP's (of twice the width), and the result.
        (lambda layer, hidden_states: layer(hidden_states), 8),
        (lambda layer, hidden_states: checkpoint(layer, hidden_states, use_reentrant=False), 1),
    ],
    ids=["all", "checkpointed"],
)
def test_normalized_and_activated_states_are_not_kept(tiny_model, run, expected):
    layer = tiny_model(num_attention_heads=1).train().setr.layers[0]
    assert kept_states(layer, run) == pytest.approx(expected, rel=0.03)


def test_hooks_of_others_are_left_alone(tiny_model):
    layer = tiny_model().train().setr.layers[0]
    hidden_states = torch.randn(1, 6, 32, requires_grad=True)
    shapes = []
    with saved_tensors_hooks(lambda tensor: shapes.append(tensor.shape) or tensor, lambda tensor: tensor):
        layer(hidden_states)
    assert (6, 32) in shapes and (6, 64) in shapes, "inputs of linear layers"


def test_what_is_not_that_output_is_kept():
    source, weight = torch.randn(4, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)
    output = source.exp()
    other = source.sin()
    calls = []

    def function(source):
        calls.append(source.shape)
        return source.exp()

    with recomputed(output, function, source):
        total = (output @ weight + other @ weight + output[:2].view(4, 2) @ weight[:2]).sum()
    total.backward()
    assert calls == [(4, 4)]
    expected = source.detach().exp().T.sum(1) + source.detach().sin().T.sum(1)
    part = source.detach().exp()[:2].view(4, 2).sum(0)
    expected[:2] += part
    torch.testing.assert_close(weight.grad, expected[:, None].expand(4, 4))
