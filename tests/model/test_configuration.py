import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig

from setr_hf import SetrConfig, SetrForSemanticSegmentation


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
        ({"backbone_config": {"hidden_size": 32}}, "backbone_config has no model_type"),
        ({"num_labels": 0}, "num_labels must be a number from 1 to 65536, got 0"),
        ({"num_labels": -3}, "got -3"),
        ({"num_labels": 2.5}, "got 2.5"),
        ({"num_labels": 10**12}, "got 1000000000000"),
        ({"id2label": {}}, "num_labels must be a number from 1 to 65536, got 0"),
        ({"id2label": {0: "sky", 2: "tree"}}, "id2label must name the classes 0 to 1, but 1 is missing among 2 names"),
        ({"id2label": {"sky": "0"}}, "0 is missing among 1 names"),
        ({"hidden_size": 0}, "hidden_size must be a number from 1 to 1048576, got 0"),
        ({"intermediate_size": -1}, "intermediate_size must be"),
        ({"num_attention_heads": 0}, "num_attention_heads must be"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be"),
        ({"num_hidden_layers": 1001}, "num_hidden_layers must be at most 1000, got 1001"),
        ({"patch_size": -16}, "patch_size must be"),
        ({"num_channels": 0}, "num_channels must be"),
        ({"decoder_kernel_size": 0}, "decoder_kernel_size must be"),
        ({"decoder_num_convs": 0}, "decoder_num_convs must be"),
        ({"decoder_scale_factor": 0}, "decoder_scale_factor must be"),
        ({"auxiliary_num_convs": -1}, "auxiliary_num_convs must be"),
        ({"mla_hidden_size": 0}, "mla_hidden_size must be"),
        (
            {"decoder_type": "pup", "decoder_scale_factor": 64},
            "64 after each of 4 convolutions upsamples by more",
        ),
        ({"image_size": 0}, "image_size must be a positive number, or a positive height and width, got 0"),
        ({"image_size": [512, -1]}, "image_size must be"),
        ({"image_size": [512]}, "image_size must be"),
        ({"image_size": [1, 2, 3]}, "image_size must be"),
        ({"auxiliary_loss_weight": -0.4}, "auxiliary_loss_weight must be finite and not negative, got -0.4"),
        ({"auxiliary_loss_weight": float("nan")}, "auxiliary_loss_weight must be finite"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps must be finite"),
        ({"drop_path_rate": float("nan")}, "drop_path_rate must be in"),
        ({"hidden_act": "swoosh"}, "hidden_act must be one such as gelu, relu, silu or quick_gelu, got 'swoosh'"),
        ({"palette": [[0, 0, 0]]}, "palette must hold 2 colours, one for each class, got 1"),
        (
            {"palette": [[0, 0, 0], [0, 0, 256]]},
            r"RGB colours of 0 to 255, got \[0, 0, 256\] for class 1",
        ),
        ({"palette": [[0, 0, 0], [0, 0]]}, r"got \[0, 0\] for class 1"),
        ({"num_labels": 256}, "semantic_loss_ignore_index 255 is one of the 256 classes"),
        ({"out_indices": "last"}, "out_indices must be a list of int, got 'last'"),
        ({"out_features": [1]}, r"out_features must be a list of str, got \[1\]"),
    ],
)
def test_contradictions_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        SetrConfig(**fields)


@pytest.mark.parametrize("fields", [{"id2label": {0: "sky", 1: None}}, {"hidden_size": "32"}, {"qkv_bias": 1}])
def test_values_of_another_type_are_named(fields):
    with pytest.raises((ValueError, StrictDataclassFieldValidationError), match=next(iter(fields))):
        SetrConfig(**fields)


def test_classes_that_are_changed_at_loading_leave_their_colours_behind(tiny_model, tmp_path):
    """The usual way to fine-tune: `from_pretrained(…, num_labels=3, ignore_mismatched_sizes=True)`."""
    tiny_model(palette=[[0, 0, 0]] * 5).save_pretrained(tmp_path)
    model = SetrForSemanticSegmentation.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    assert model.config.num_labels == 3 and model.config.palette is None


@pytest.mark.parametrize("overrides", [{"num_labels": 0}, {"hidden_act": "swoosh"}, {"auxiliary_loss_weight": -1}])
def test_what_is_overridden_at_loading_is_checked_too(overrides, tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=next(iter(overrides))):
        SetrForSemanticSegmentation.from_pretrained(tmp_path, **overrides)


def test_a_decoder_without_layers_is_refused(tiny_config):
    with pytest.raises(ValueError, match="out_indices must name a layer"):
        SetrForSemanticSegmentation(tiny_config(out_indices=[]))


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"num_labels": 1}, {0: "background", 1: "foreground"}),
        ({"num_labels": 1, "id2label": {0: "crack"}}, {0: "background", 1: "crack"}),
        ({"id2label": {"0": "crack"}}, {0: "background", 1: "crack"}),
        ({"num_labels": 1, "id2label": {"0": "wall", "1": "crack"}}, {0: "wall", 1: "crack"}),
        ({"num_labels": 1, "id2label": {0: "LABEL_0", 1: "LABEL_1"}}, {0: "background", 1: "foreground"}),
        ({"is_binary": True}, {0: "background", 1: "foreground"}),
    ],
)
def test_a_binary_model_has_one_logit_and_names_two_classes(fields, names, tmp_path):
    config = SetrConfig(**fields)
    assert (config.num_labels, config.is_binary, config.id2label) == (1, True, names)
    assert config.label2id == {name: index for index, name in names.items()}
    config.save_pretrained(tmp_path)
    for loaded in (SetrConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path, num_labels=1)):
        assert loaded.to_diff_dict() == config.to_diff_dict() and loaded.num_labels == 1


def test_a_change_of_the_classes_drops_what_belongs_to_others(tmp_path):
    losses = {"semantic_loss": {"cross_entropy": 1, "dice": 0.5}, "semantic_loss_class_weights": [1, 2.5, 4]}
    SetrConfig(num_labels=3, palette=[[0, 0, 0]] * 3, **losses).save_pretrained(tmp_path)
    kept = SetrConfig.from_pretrained(tmp_path, num_labels=3)
    assert (kept.semantic_loss_class_weights, kept.semantic_loss) == ([1, 2.5, 4], losses["semantic_loss"])
    binary = SetrConfig.from_pretrained(tmp_path, num_labels=1)
    assert (binary.num_labels, binary.palette, binary.semantic_loss_class_weights) == (1, None, None)
    assert binary.semantic_loss == {"binary_cross_entropy": 1, "dice": 0.5}
    binary.semantic_loss_focal_alpha = 0.25
    binary.save_pretrained(tmp_path)
    several = SetrConfig.from_pretrained(tmp_path, num_labels=4)
    assert (several.semantic_loss, several.semantic_loss_focal_alpha) == (losses["semantic_loss"], None)


def test_files_without_losses_have_the_cross_entropy():
    old = {name: value for name, value in SetrConfig().to_dict().items() if "semantic_loss" not in name}
    del old["is_binary"]
    assert SetrConfig.from_dict(old).to_dict() == SetrConfig().to_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"semantic_loss": {"lovasz": 1.0}}, "must name some of"),
        ({"semantic_loss": {"cross_entropy": 0}}, "some loss a weight above 0"),
        ({"num_labels": 150, "semantic_loss": {"binary_cross_entropy": 1}}, "with num_labels=150 it is cross_entropy"),
        ({"num_labels": 3, "semantic_loss_class_weights": [1, 2]}, "one for each of 3 classes, got 2"),
        ({"semantic_loss_label_smoothing": float("nan")}, "label_smoothing must be a number from 0 to 1"),
        ({"semantic_loss_focal_alpha": 0.25}, "focal_alpha is for binary models"),
        ({"is_binary": True, "id2label": {0: "a", 1: "b", 2: "c"}}, "a binary model .* id2label names 3"),
        ({"num_labels": 0}, "num_labels must be a number from 1"),
        ({"num_labels": 1, "semantic_loss_ignore_index": 1}, "semantic_loss_ignore_index 1 is one of the 2 classes"),
    ],
)
def test_losses_that_do_not_suit_the_classes_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        SetrConfig(**fields)


@pytest.mark.parametrize("value", [{"dice": True}, {"dice": "1"}, "dice", ["dice"]])
def test_losses_of_another_type_are_refused(value):
    with pytest.raises(StrictDataclassFieldValidationError, match="semantic_loss"):
        SetrConfig(semantic_loss=value)
