import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from setr_hf import SetrForSemanticSegmentation
from setr_hf.model import upsampled_convolution_setr
from setr_hf.model.modeling_setr import SetrConvLayer, is_bare
from setr_hf.model.upsampled_convolution_setr import upsampled_convolution, upsampled_convolution_and_relu


DECODERS = ["naive", "pup", "mla"]


def by_definition(maps, weight, bias, scale_factor, align_corners=False):
    size = [side * scale_factor for side in maps.shape[-2:]]
    maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)
    return F.conv2d(maps, weight, bias, padding=weight.shape[-1] // 2)


def random_tensors(height, width, kernel_size, dtype=torch.float64, requires_grad=False):
    shapes = ((2, 4, height, width), (3, 4, kernel_size, kernel_size), (3,))
    return [torch.randn(shape, dtype=dtype, requires_grad=requires_grad) for shape in shapes]


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 21),
    width=st.integers(1, 21),
    kernel_size=st.sampled_from([1, 3, 5]),
    scale_factor=st.integers(1, 4),
    align_corners=st.booleans(),
    small_pieces=st.booleans(),
)
def test_results_and_gradients_are_those_of_the_definition(
    height, width, kernel_size, scale_factor, align_corners, small_pieces
):
    tensors = random_tensors(height, width, kernel_size, requires_grad=True)
    options = (scale_factor, align_corners)
    with pytest.MonkeyPatch.context() as patch:
        if small_pieces:
            patch.setattr(upsampled_convolution_setr, "BAND_PRODUCTS", 1)
            patch.setattr(upsampled_convolution_setr, "TILE_COLUMNS", 5)
        result = upsampled_convolution(*tensors, *options)
        expected = by_definition(*tensors, *options)
        torch.testing.assert_close(result, expected, atol=1e-12, rtol=1e-12)
        cotangent = torch.randn_like(expected)
        gradients = torch.autograd.grad(result, tensors, cotangent)
        rectified = F.interpolate(tensors[0], scale_factor=scale_factor, mode="bilinear")
        rectified = F.conv2d(rectified, *tensors[1:], padding=kernel_size // 2).relu()
        classifier = torch.randn(5, 3, 1, 1, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
        for with_gradients in (False, True):
            with torch.set_grad_enabled(with_gradients):
                activated = upsampled_convolution_and_relu(*tensors, scale_factor)
                scores = upsampled_convolution_and_relu(*tensors, scale_factor, classifier)
            torch.testing.assert_close(activated, rectified, atol=1e-12, rtol=1e-12)
            torch.testing.assert_close(scores, F.conv2d(rectified, *classifier), atol=1e-11, rtol=1e-11)
    expected_gradients = torch.autograd.grad(expected, tensors, cotangent)
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize(("scale_factor", "align_corners"), [(2, False), (4, True)])
def test_gradients_are_those_of_small_differences(scale_factor, align_corners):
    tensors = random_tensors(3, 2, 3, requires_grad=True)
    torch.autograd.gradcheck(lambda *args: upsampled_convolution(*args, scale_factor, align_corners), tensors)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_frozen_tensors_get_no_gradient(missing):
    tensors = random_tensors(3, 4, 3, requires_grad=True)
    tensors[missing].requires_grad_(False)
    upsampled_convolution(*tensors, 2).sum().backward()
    assert [tensor.grad is None for tensor in tensors] == [index == missing for index in range(3)]


def test_single_precision_loses_nothing():
    maps, weight, bias = random_tensors(40, 33, 3, torch.float32)
    exact = by_definition(maps.double(), weight.double(), bias.double(), 2)
    noise = (by_definition(maps, weight, bias, 2) - exact).abs().max()
    assert (upsampled_convolution(maps, weight, bias, 2) - exact).abs().max() < max(2 * noise, 1e-5)


def test_half_precision_and_autocast_are_as_exact_as_the_definition():
    tensors = random_tensors(16, 9, 3, torch.float32)
    exact = by_definition(*tensors, 2)
    half = [tensor.bfloat16() for tensor in tensors]
    noise = (by_definition(*half, 2).float() - exact).abs().max()
    result = upsampled_convolution(*half, 2)
    assert result.dtype == torch.bfloat16 and (result.float() - exact).abs().max() < 3 * noise
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(upsampled_convolution(*tensors, 2), result)
        with torch.no_grad():
            assert torch.equal(upsampled_convolution_and_relu(*tensors, 2), result.relu())


def random_statistics(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 2)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor)
    return model


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("scale_factor", [1, 2])
def test_a_layer_and_its_gradients_are_those_of_its_modules(scale_factor, training):
    layer = random_statistics(SetrConvLayer(4, 6, 3).double()).train(training)
    modules = copy.deepcopy(layer)
    maps = torch.randn(2, 4, 7, 5, dtype=torch.float64, requires_grad=True)
    size = [side * scale_factor for side in maps.shape[-2:]]
    expected = modules.normalization(modules.convolution(F.interpolate(maps, size=size, mode="bilinear"))).relu()
    result = layer(maps, scale_factor)
    torch.testing.assert_close(result, expected)
    for actual, wanted in zip(layer.buffers(), modules.buffers()):
        torch.testing.assert_close(actual, wanted)
    cotangent = torch.randn_like(result)
    torch.testing.assert_close(
        torch.autograd.grad(result, [maps, *layer.parameters()], cotangent),
        torch.autograd.grad(expected, [maps, *modules.parameters()], cotangent),
    )


@pytest.mark.parametrize("decoder_type", DECODERS)
def test_what_is_called_is_what_hooks_see(tiny_model, decoder_type):
    """A hook on each convolution and BatchNorm makes the decoder call them one by one."""
    model = random_statistics(tiny_model(decoder_type=decoder_type)).double()
    pixel_values = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    with torch.no_grad():
        quick = model(pixel_values, output_auxiliary_logits=True)
        calls = []
        modules = [module for name, module in model.named_modules() if is_bare(module) and "head" in name]
        for module in modules:
            module.register_forward_hook(lambda module, inputs, output: calls.append(module))
        called = model(pixel_values, output_auxiliary_logits=True)
    assert set(calls) == set(modules) and len(calls) == len(modules)
    torch.testing.assert_close(quick.logits, called.logits)
    torch.testing.assert_close(quick.auxiliary_logits, called.auxiliary_logits)


@pytest.mark.parametrize("decoder_type", DECODERS)
def test_inference_leaves_no_trace_in_what_is_saved(tiny_model, decoder_type, tmp_path):
    model = tiny_model(decoder_type=decoder_type)
    model.save_pretrained(tmp_path / "before")
    keys = list(model.state_dict())
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    model.save_pretrained(tmp_path / "after")
    assert list(model.state_dict()) == keys
    before, after = (tmp_path / folder / "model.safetensors" for folder in ("before", "after"))
    assert before.read_bytes() == after.read_bytes()


@pytest.mark.parametrize("decoder_type", DECODERS)
def test_frozen_statistics_still_fine_tune(tiny_model, decoder_type):
    """In evaluation mode, every parameter has its gradient, that of BatchNorm included."""
    model = tiny_model(decoder_type=decoder_type)
    model(torch.randn(2, 3, 32, 48), labels=torch.randint(0, 5, (2, 32, 48))).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_training_keeps_nothing_at_the_upsampled_size_but_what_batchnorm_needs(tiny_config):
    """Of the maps of ×2, BatchNorm keeps its input and ReLU its output; the convolution keeps neither."""
    head = SetrForSemanticSegmentation(tiny_config(decoder_type="pup")).train().decode_head
    saved = []

    def keep(tensor):
        saved.append((tuple(tensor.shape[-2:]), tensor.data_ptr()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        head(torch.randn(2, 32, 4, 4))
    assert len({pointer for size, pointer in saved if size == (16, 16)}) == 2
