import pytest

from setr_hf import SetrConfig


def test_defaults_are_setr_mla_large_on_512_pixels():
    config = SetrConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (1024, 24, 16)
    assert (config.decoder_type, config.image_size, config.patch_size) == ("mla", 512, 16)
    assert config.out_indices == [6, 12, 18, 24]
    assert config.use_class_token is False


@pytest.mark.parametrize(
    ("decoder_type", "depth", "out_indices", "auxiliary_out_indices"),
    [
        ("naive", 24, [24], [10, 15, 20]),
        ("naive", 12, [12], [3, 6, 9]),
        ("pup", 24, [24], [10, 15, 20, 24]),
        ("pup", 12, [12], [5, 8, 10, 12]),
        ("mla", 24, [6, 12, 18, 24], [6, 12, 18, 24]),
        ("mla", 12, [3, 6, 9, 12], [3, 6, 9, 12]),
    ],
)
def test_layers_default_to_the_published_ones(decoder_type, depth, out_indices, auxiliary_out_indices):
    config = SetrConfig(decoder_type=decoder_type, num_hidden_layers=depth)
    assert config.out_indices == out_indices
    assert config.auxiliary_out_indices == auxiliary_out_indices


@pytest.mark.parametrize("decoder_type", ["naive", "pup", "mla"])
def test_saved_and_loaded_unchanged(decoder_type, tmp_path):
    config = SetrConfig(decoder_type=decoder_type, num_labels=3, image_size=[512, 768], palette=[[0, 0, 0]] * 3)
    config.save_pretrained(tmp_path)
    assert SetrConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_a_backbone_configuration_decides_width_depth_and_patches():
    backbone = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = SetrConfig(backbone_config=backbone)
    assert (config.hidden_size, config.num_hidden_layers, config.patch_size) == (32, 4, 14)
    assert SetrConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"hidden_size": 100, "num_attention_heads": 16},
            "hidden_size 100 is not divisible by num_attention_heads 16",
        ),
        ({"decoder_type": "fpn"}, "'fpn'"),
        ({"semantic_loss_average": "mean"}, "semantic_loss_average must be one of valid, all, got 'mean'"),
        ({"out_indices": [6, 12, 18, 30]}, r"out_indices \[6, 12, 18, 30\] lie outside"),
        ({"auxiliary_out_indices": [10, 25]}, r"auxiliary_out_indices \[25\] lie outside"),
        ({"auxiliary_out_indices": [15, 10]}, "ascend"),
        ({"mla_classifier_kernel_size": 2}, "must be odd"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\)"),
        ({"backbone_config": {"model_type": "swin"}}, "plain ViT"),
    ],
)
def test_contradictions_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        SetrConfig(**fields)
