"""Networks by name, and those with a convolutional stem, with each decoder."""

import re

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from small_stems import SMALL_STEMS
from torchvision.models import resnet50
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModelForSemanticSegmentation,
    BitConfig,
    ConvNextConfig,
    ResNetConfig,
    pipeline,
)
from transformers.initialization import no_init_weights

from setr_hf import SetrBackbone, SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor
from setr_hf.model.modeling_setr import build_stem
from setr_hf.model.presets_setr import PRESETS, find_preset


DECODERS = ("naive", "pup", "mla")
# Height and width of the logits for photos of 50×75 pixels, padded to 4×5 patches and cut.
LOGITS = {"naive": (4, 5), "pup": (25, 38), "mla": (13, 19)}


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_segments_photos_of_odd_sizes_with_each_decoder(name):
    for decoder_type in DECODERS:
        config = SetrConfig.from_preset(name, decoder_type=decoder_type, num_labels=19)
        with torch.device("meta"), no_init_weights(), torch.no_grad():
            model = SetrForSemanticSegmentation._from_config(config).eval()
            assert model(torch.empty(2, 3, 50, 75)).logits.shape == (2, 19, *LOGITS[decoder_type])


def test_presets_have_the_sizes_of_the_papers_table_1():
    sizes = {name: SetrConfig.from_preset(name) for name in ("t-base", "t-large", "deit", "hybrid")}
    shapes = {name: (c.num_hidden_layers, c.hidden_size, c.num_attention_heads) for name, c in sizes.items()}
    assert shapes == {
        "t-base": (12, 768, 12), "t-large": (24, 1024, 16), "deit": (12, 768, 12), "hybrid": (12, 768, 12),
    }  # fmt: skip
    default = SetrConfig().to_dict()
    assert {name: default[name] for name in PRESETS["t-large"].fields} == PRESETS["t-large"].fields


def test_decoders_of_small_presets_are_as_small_as_their_encoders():
    for decoder_type in DECODERS:
        with torch.device("meta"), no_init_weights():
            model = SetrForSemanticSegmentation(SetrConfig.from_preset("tiny", decoder_type=decoder_type))
        assert model.num_parameters() < 1.2 * model.setr.num_parameters()


def test_fields_override_those_of_a_preset_and_other_names_are_refused():
    config = SetrConfig.from_preset("tiny", hidden_size=96, num_labels=7, num_channels=5)
    assert (config.hidden_size, config.num_labels, config.num_channels) == (96, 7, 5)
    assert SetrConfig.from_preset("hybrid", num_channels=5).stem_config.num_channels == 5
    assert SetrConfig.from_preset("hybrid").stem_config.num_channels == 3
    with pytest.raises(ValueError, match="there is no preset 't-bse': did you mean t-base"):
        find_preset("t-bse")
    for wrong in ("", "xyz", None):
        with pytest.raises(ValueError, match="there are t-large, t-base"):
            SetrConfig.from_preset(wrong)


@pytest.mark.parametrize("decoder_type", DECODERS)
@pytest.mark.parametrize("kind", ["none", *SMALL_STEMS])
def test_a_network_with_each_stem_trains_is_saved_and_segments_in_the_pipeline(kind, decoder_type, tmp_path):
    torch.manual_seed(0)
    fields = {"num_hidden_layers": 4, "image_size": 64, "num_labels": 5, "decoder_type": decoder_type}
    if kind != "none":
        fields |= {"stem_config": SMALL_STEMS[kind], "hidden_size": 48, "intermediate_size": 48}
    model = SetrForSemanticSegmentation(SetrConfig.from_preset("tiny", **fields))
    outputs = model(torch.randn(2, 3, 50, 75), labels=torch.randint(0, 5, (2, 50, 75)))
    assert outputs.logits.shape == (2, 5, *LOGITS[decoder_type])
    outputs.loss.backward()
    # Parameters that no gradient reaches would stop training on several GPUs.
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    model.eval().save_pretrained(tmp_path)
    assert (tmp_path / "presets_setr.py").is_file()
    SetrImageProcessor(do_split_image=True, do_resize=False, crop_size=64, stride=43).save_pretrained(tmp_path)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path).eval()
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 101, 3), dtype=np.uint8))
    inputs = SetrImageProcessor.from_pretrained(tmp_path)(photo, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
        assert torch.equal(loaded(**inputs).logits, logits) and logits.abs().sum() > 0
    masks = [np.asarray(segment["mask"]) > 0 for segment in pipeline("image-segmentation", str(tmp_path))(photo)]
    assert np.sum(masks, axis=0).tolist() == np.ones((70, 101)).tolist()


def test_a_dilated_resnet_keeps_its_strides_product_and_its_weights():
    config = AutoConfig.for_model(**SMALL_STEMS["resnet"])
    strided = AutoConfig.for_model(**SMALL_STEMS["resnet"] | {"output_stride": None})
    torch.manual_seed(0)
    stem, plain = build_stem(config).eval(), build_stem(strided).eval()
    plain.load_state_dict(stem.state_dict())
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps, coarse = stem(pixels).feature_maps[-1], plain(pixels).feature_maps[-1]
    assert maps.shape == (1, 64, 4, 6) and coarse.shape == (1, 64, 2, 3)
    convolutions = [module for module in stem.encoder.stages[3].modules() if isinstance(module, torch.nn.Conv2d)]
    assert {module.stride for module in convolutions} == {(1, 1)}
    assert {module.dilation for module in convolutions if module.kernel_size == (3, 3)} == {(2, 2)}
    assert {module.dilation for module in stem.encoder.stages[2].modules() if hasattr(module, "dilation")} == {(1, 1)}


def test_the_hybrids_stem_is_torchvisions_dilated_resnet_50():
    stem = build_stem(SetrConfig.from_preset("hybrid").stem_config).eval()
    theirs = resnet50(weights=None, replace_stride_with_dilation=[False, False, True]).eval()
    # Torchvision dilates a stage from its second block on; mmsegmentation, as here, from its first.
    theirs.layer4[0].conv2.dilation = theirs.layer4[0].conv2.padding = (2, 2)
    weights = {}
    for key, tensor in stem.state_dict().items():
        key = re.sub(r"embedder\.embedder\.", "layer.0.", key.removeprefix("encoder."))
        key = re.sub(r"shortcut\.convolution", "downsample.0", re.sub(r"shortcut\.normalization", "downsample.1", key))
        key = re.sub(r"layer\.(\d)\.convolution", lambda match: f"conv{int(match[1]) + 1}", key)
        key = re.sub(r"layer\.(\d)\.normalization", lambda match: f"bn{int(match[1]) + 1}", key)
        weights[re.sub(r"stages\.(\d)\.layers", lambda match: f"layer{int(match[1]) + 1}", key)] = tensor
    theirs.load_state_dict(weights | {f"fc.{key}": tensor for key, tensor in theirs.fc.state_dict().items()})
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    pixels = expected = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for name in names:
            expected = getattr(theirs, name)(expected)
        assert stem(pixels).feature_maps[-1].shape == expected.shape
        torch.testing.assert_close(stem(pixels).feature_maps[-1], expected)


@pytest.mark.parametrize(
    ("stem", "patch_size", "message"),
    [
        (ResNetConfig(depths=[1] * 4, hidden_sizes=[8] * 4, embedding_size=8), 16, r"maps of the shape \(8, 2, 2\)"),
        (ConvNextConfig(depths=[1] * 4, hidden_sizes=[8] * 4), 14, "choose another stage"),
        (SMALL_STEMS["bit"], 24, "patches of 24 pixels are not whole"),
    ],
)
def test_stems_whose_maps_do_not_hold_whole_patches_are_refused(stem, patch_size, message, tiny_config):
    config = tiny_config(stem_config=stem, patch_size=patch_size)
    with pytest.raises(ValueError, match=message):
        SetrForSemanticSegmentation(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stem_config": {}}, "stem_config has no model_type"),
        ({"stem_config": {"depths": [1]}}, "stem_config has no model_type"),
        ({"stem_config": {"model_type": "no-such"}}, "no-such"),
        (
            {"stem_config": {"model_type": "bit"}, "backbone_config": {"model_type": "dinov2", "hidden_size": 32}},
            "leave it out with backbone_config",
        ),
    ],
)
def test_stems_that_contradict_the_configuration_are_refused(fields, message, tiny_config):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        tiny_config(**fields)


def test_a_patch_may_be_several_pixels_of_the_stems_maps(tiny_config):
    stem = ResNetConfig(depths=[1, 1], hidden_sizes=[8, 16], embedding_size=8)
    model = SetrForSemanticSegmentation(tiny_config(stem_config=stem, decoder_type="naive")).eval()
    assert model.setr.embeddings.patch_embeddings.weight.shape == (32, 16, 2, 2)
    assert model(torch.randn(1, 3, 33, 64)).logits.shape[-2:] == (3, 4)


def test_a_backbone_of_its_own_has_the_stem_too(tiny_config, tmp_path):
    config = tiny_config(stem_config=SMALL_STEMS["resnet"])
    backbone = SetrBackbone(config).eval()
    maps = AutoBackbone.from_config(config)(torch.randn(1, 3, 50, 64)).feature_maps
    assert {tuple(feature_map.shape) for feature_map in maps} == {(1, 32, 4, 4)}
    backbone.save_pretrained(tmp_path)
    saved = SetrConfig.from_pretrained(tmp_path)
    assert isinstance(saved.stem_config, ResNetConfig) and saved.stem_config.output_stride == 16
    assert not isinstance(saved.stem_config, BitConfig)
