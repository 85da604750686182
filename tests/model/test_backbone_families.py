"""Plain ViTs of Transformers and timm as encoders: each family's own files, loaded, trained, saved and used."""

import inspect

import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from transformers import (
    AutoBackbone,
    AutoModel,
    CLIPModel,
    Dinov2ForImageClassification,
    SiglipModel,
    TimmBackboneConfig,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTForImageClassification,
    ViTMAEForPreTraining,
    pipeline,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING

from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor
from setr_hf.inference.loading import load_model
from setr_hf.model.plain_backbone_setr import model_class_of


SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
SIZES |= {"image_size": 64, "patch_size": 16}
HEADS = {"num_labels": 3, "decoder_hidden_size": 16, "mla_hidden_size": 8}
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
# Model types of Transformers, and what their configurations need besides.
FAMILIES = {
    "beit": {}, "dinov2": {"patch_size": 14, "image_size": 56}, "dinov2_with_registers": {}, "dinov3_vit": {},
    "lw_detr_vit": {}, "rf_detr_dinov2": {}, "pixio": {}, "sapiens2": {}, "tipsv2_vision_model": {}, "vitdet": {},
    "vitpose_backbone": {"patch_size": [16, 16], "image_size": [64, 48]},
    "aimv2_vision_model": {}, "chinese_clip_vision_model": {}, "clip_vision_model": {}, "data2vec-vision": {},
    "deit": {}, "idefics3_vision": {}, "ijepa": {}, "internvl_vision": {}, "mlcd_vision_model": {}, "radio": {},
    "sam_vision_model": {}, "siglip_vision_model": {}, "siglip2_vision_model": {"num_patches": 16}, "vit": {},
    "vit_mae": {}, "vit_msn": {},
    # AutoModel does not know these.
    "altclip_vision_model": {}, "blip_vision_model": {}, "clipseg_vision_model": {}, "flava_image_model": {},
    "git_vision_model": {}, "metaclip_2_vision_model": {}, "owlvit_vision_model": {},
}  # fmt: skip
TIMM = {
    "vit_tiny_patch16_224": {},
    "deit_tiny_distilled_patch16_224": {},
    "eva02_tiny_patch14_224": {"depth": 4},
    "vit_small_patch14_reg4_dinov2": {},
}


def save_family(model_type, folder):
    """A model of the family with random weights, none of them 0, as the family itself saves it."""
    config = CONFIG_MAPPING[model_type](**SIZES | FAMILIES[model_type])
    if type(config) in MODEL_FOR_BACKBONE_MAPPING and type(config) not in MODEL_MAPPING:
        model = AutoBackbone.from_config(config)
    else:
        model = model_class_of(config)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return config


def save_timm(name, folder):
    told = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 224, 224]}
    arguments = {"depth": 4, "embed_dim": 48, "num_heads": 2} | TIMM[name]
    model = TimmWrapperForImageClassification(
        TimmWrapperConfig(architecture=name, model_args=arguments, pretrained_cfg=told)
    )
    model.save_pretrained(folder)


def check_use(model, folder, tmp_path):
    """Odd sizes, a training step, saving, loading and the stock pipeline."""
    patch_size = model.config.patch_size
    images, labels = torch.randn(2, 3, 50, 83), torch.randint(3, (2, 50, 83))
    with torch.no_grad():
        before = model(images).logits
        assert before.shape[1] == 3 and before.isfinite().all()
        assert before.shape[-1] == -(-83 * 4 // patch_size)
    model.train()
    model(images, labels=labels).loss.backward()
    trained = [parameter.grad is not None for parameter in model.backbone.parameters()]
    assert sum(trained) > 0.8 * len(trained)
    model.zero_grad()
    model.eval().save_pretrained(tmp_path / "setr")
    crop = 4 * patch_size
    processor = SetrImageProcessor(do_split_image=True, size={"shortest_edge": crop}, crop_size=crop, stride=crop // 2)
    processor.save_pretrained(tmp_path / "setr")
    loaded, _ = load_model(tmp_path / "setr")
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, model(images).logits)
    with pytest.raises(ValueError, match=r"must have the shape \(batch_size, 3, height, width\)"):
        loaded(images[:, :2])
    segmenter = pipeline("image-segmentation", model=str(tmp_path / "setr"))
    assert segmenter(Image.new("RGB", (90, 70)))[0]["mask"].size == (90, 70)
    assert str(folder) not in (tmp_path / "setr/config.json").read_text()


def own_maps(config, folder, images, layers):
    """What the family's own class, loaded from its folder, makes of images of the size it was made for."""
    if type(config) in MODEL_FOR_BACKBONE_MAPPING and config.model_type != "vitpose_backbone":
        config.out_indices = layers
        own = MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(folder, config=config).eval()
        return own(images).feature_maps
    own_class = AutoBackbone if config.model_type == "vitpose_backbone" else AutoModel
    if own_class is AutoBackbone:
        own = MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(folder).eval()
    else:
        own = model_class_of(config).from_pretrained(folder).eval()
    rows, columns = (side // 16 for side in images.shape[-2:])
    options = {}
    if "interpolate_pos_encoding" in inspect.signature(own.forward).parameters:
        options["interpolate_pos_encoding"] = True
    if "noise" in inspect.signature(own.forward).parameters:
        own.config.mask_ratio, options["noise"] = 0.0, torch.arange(16.0)[None].expand(len(images), -1)
    states = own(images, output_hidden_states=True, **options).hidden_states
    if states[0].ndim == 4:
        return [states[layer].permute(0, 3, 1, 2) for layer in layers]
    return [states[layer][:, -rows * columns :].mT.unflatten(2, (rows, columns)) for layer in layers]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_of_transformers(model_type, tmp_path):
    config = save_family(model_type, tmp_path / "family")
    model = SetrForSemanticSegmentation.from_backbone(tmp_path / "family", **HEADS)
    if model_type not in ("siglip2_vision_model", "pixio"):  # They take or save something else.
        sides = config.image_size if isinstance(config.image_size, (list, tuple)) else (config.image_size,) * 2
        images = torch.randn(2, 3, *sides)
        with torch.no_grad():
            found = model.backbone(images).feature_maps
            for mine, theirs in zip(found, own_maps(config, tmp_path / "family", images, [1, 2, 3, 4]), strict=True):
                torch.testing.assert_close(mine, theirs)
    check_use(model, tmp_path / "family", tmp_path)


@pytest.mark.parametrize("name", TIMM)
def test_a_family_of_timm(name, tmp_path):
    save_timm(name, tmp_path / "family")
    model = SetrForSemanticSegmentation.from_backbone(
        tmp_path / "family", decoder_type="pup", **HEADS | {"image_size": 64}
    )
    own = AutoModel.from_pretrained(tmp_path / "family").eval().timm_model
    images = torch.randn(1, 3, *own.patch_embed.img_size)
    with torch.no_grad():
        expected = own.forward_intermediates(images, indices=[3], intermediates_only=True, output_fmt="NCHW")[0]
        torch.testing.assert_close(model.backbone(images).feature_maps[-1], expected)
    assert model.config.out_indices == [4] and model.config.image_size == 64
    model.gradient_checkpointing_enable()
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(3, (2, 64, 64))
    model.train()(images, labels=labels).loss.backward()
    assert model.backbone.encoder.grad_checkpointing
    assert all(parameter.grad is not None for parameter in model.backbone.encoder.blocks[0].parameters())


def test_a_folder_of_timm_backbone(tmp_path):
    config = TimmBackboneConfig(backbone="vit_tiny_patch16_224", out_indices=[2, 5, 8, 11])
    own = AutoBackbone.from_config(config).eval()
    own.save_pretrained(tmp_path / "family")
    model = SetrForSemanticSegmentation.from_backbone(tmp_path / "family", **HEADS)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(images).feature_maps, tuple(own(images).feature_maps))
    check_use(model, tmp_path / "family", tmp_path)


def test_a_folder_that_timm_wrote(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", depth=4, embed_dim=48, num_heads=2, num_classes=7)
    save_for_hf(model, tmp_path / "timm", model_args={"depth": 4, "embed_dim": 48, "num_heads": 2, "num_classes": 7})
    loaded = SetrForSemanticSegmentation.from_backbone(tmp_path / "timm", num_labels=3)
    assert torch.equal(loaded.backbone.encoder.blocks[0].mlp.fc1.weight, model.blocks[0].mlp.fc1.weight)
    with pytest.raises(ValueError, match="out_indices hold 0"):
        SetrForSemanticSegmentation.from_backbone(tmp_path / "timm", out_indices=[0, 2, 4])
    check_use(loaded, tmp_path / "timm", tmp_path)


@pytest.mark.parametrize("decoder_type", ["naive", "pup", "mla"])
def test_all_decoders_are_saved_with_a_wrapped_encoder(decoder_type, tmp_path):
    save_family("clip_vision_model", tmp_path / "family")
    model = SetrForSemanticSegmentation.from_backbone(tmp_path / "family", decoder_type=decoder_type, **HEADS)
    images = torch.randn(1, 3, 64, 64)
    model.save_pretrained(tmp_path / "setr")
    with torch.no_grad():
        loaded = SetrForSemanticSegmentation.from_pretrained(tmp_path / "setr")
        assert torch.equal(loaded(images).logits, model(images).logits)


@pytest.mark.parametrize(
    ("head", "model_type"),
    [
        (ViTForImageClassification, "vit"),
        (ViTMAEForPreTraining, "vit_mae"),
        (Dinov2ForImageClassification, "dinov2"),
        (CLIPModel, "clip"),
        (SiglipModel, "siglip"),
    ],
)
def test_the_encoder_of_a_model_with_another_head_is_loaded(head, model_type, tmp_path):
    fields = {"vision_config": SIZES, "text_config": TEXT} if model_type in ("clip", "siglip") else SIZES
    if model_type == "vit_mae":
        fields = fields | {f"decoder_{name}": value for name, value in TEXT.items()}
    theirs = head(CONFIG_MAPPING[model_type](**fields))
    theirs.save_pretrained(tmp_path / "family")
    model = SetrForSemanticSegmentation.from_backbone(tmp_path / "family", **HEADS)
    mine = {value.data_ptr(): name for name, value in model.backbone.named_parameters()}
    values = [value for value in theirs.state_dict().values() if value.ndim == 4]
    patches = next(value for name, value in model.backbone.named_parameters() if value.ndim == 4)
    assert any(torch.equal(patches, value) for value in values) and len(mine) > 60


@pytest.mark.parametrize("model_type", ["dinov2", "vit"])
def test_precision_and_attention_are_chosen_as_in_from_pretrained(model_type, tmp_path):
    save_family(model_type, tmp_path)
    model = SetrForSemanticSegmentation.from_backbone(
        tmp_path, **HEADS, dtype=torch.bfloat16, attn_implementation="eager"
    )
    assert model.dtype == next(model.backbone.parameters()).dtype == torch.bfloat16
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, 56, 56).bfloat16(), output_attentions=True)
    assert outputs.logits.isfinite().all() and outputs.attentions[0].shape[1] == 2


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("swin", "num_attention_heads=.*UperNetForSemanticSegmentation"),
        ("convnext", "hidden_size=nothing.*Hierarchical"),
        ("pvt", "Hierarchical"),
        ("bert", "patch_size=nothing"),
        ("setr", "is a SETR: from_pretrained"),
    ],
)
def test_what_is_no_plain_vit_is_refused_with_a_reason(model_type, message, tmp_path):
    (SetrConfig() if model_type == "setr" else CONFIG_MAPPING[model_type]()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        SetrForSemanticSegmentation.from_backbone(tmp_path)


def test_a_missing_weight_and_an_order_of_its_own_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    save_family("vit", tmp_path / "vit")
    weights = load_file(tmp_path / "vit/model.safetensors")
    del weights[next(name for name in weights if name.endswith("attention.output.dense.weight"))]
    save_file(weights, tmp_path / "vit/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"vit lacks 1 weights of its encoder, such as .*weight"):
        SetrForSemanticSegmentation.from_backbone(tmp_path / "vit")
    AutoModel.from_config(CONFIG_MAPPING["yolos"](**SIZES | {"image_size": [64, 64]})).save_pretrained(
        tmp_path / "yolos"
    )
    with pytest.raises(ValueError, match="order of rows, after its other tokens"):
        SetrForSemanticSegmentation.from_backbone(tmp_path / "yolos")
    with pytest.raises(ValueError, match=r"\['hiden_size'\]"):
        SetrForSemanticSegmentation.from_backbone(tmp_path / "vit", hiden_size=3)
