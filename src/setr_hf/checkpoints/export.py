"""A SETR model of ours as a checkpoint of the original repository or of mmsegmentation."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from ..errors import SetrError
from ..files import whole_file
from ..inference.loading import load_network
from ..model.configuration_setr import SetrConfig
from ..model.modeling_setr import SetrForSemanticSegmentation
from .convert import META_KEY, UNREADABLE_FIELDS
from .keys import conversion_rules, to_theirs
from .reading import check_weights


# Input channels, in the original's configurations, of the classifier that its heads inherit and never use.
ORIGINAL_UNUSED_CHANNELS = 512


def differences(config: SetrConfig, **expressible: Any) -> list[str]:
    """A sentence for each field whose value is not the one that can be expressed."""
    fields = {name: (getattr(config, name), value) for name, value in expressible.items()}
    return [f"{name} is {value!r}, not {wanted!r}" for name, (value, wanted) in fields.items() if value != wanted]


def common_obstacles(config: SetrConfig) -> list[str]:
    obstacles = differences(config, hidden_act="gelu", layer_norm_eps=1e-6)
    sides = [config.image_size] if isinstance(config.image_size, int) else config.image_size
    if any(side % config.patch_size for side in sides):
        obstacles.append(f"image_size {config.image_size} is not a multiple of the patch size {config.patch_size}")
    return obstacles


def original_obstacles(config: SetrConfig) -> list[str]:
    """What the networks of the original repository cannot express, a sentence each."""
    obstacles = common_obstacles(config)
    is_mla, has_auxiliary = config.decoder_type == "mla", bool(config.auxiliary_out_indices)
    if not isinstance(config.image_size, int) and len(set(config.image_size)) > 1:
        obstacles.append(f"image_size {config.image_size} is not a square")
    obstacles += differences(config, use_class_token=not is_mla)
    if has_auxiliary or not is_mla:
        obstacles += differences(config, decoder_hidden_size=256)
    if is_mla:
        if len(config.decoder_indices) != 4:
            obstacles.append(f"it has {len(config.decoder_indices)} mla streams, not 4")
        auxiliary = {"mla_auxiliary_bias": False} if has_auxiliary else {}
        return obstacles + differences(config, mla_align_corners=True, mla_classifier_kernel_size=3, **auxiliary)
    possible = [(4, 3, 2)] + [(1, kernel_size, scale) for kernel_size in (1, 3) for scale in (1, 4)]
    forms = {"decoder": (config.decoder_num_convs, config.decoder_kernel_size, config.decoder_scale_factor)}
    if has_auxiliary:
        auxiliary_form = (config.auxiliary_num_convs, config.decoder_kernel_size, config.auxiliary_scale_factor)
        forms["auxiliary head"] = auxiliary_form
    for part, form in forms.items():
        if form not in possible:
            num_convs, kernel_size, scale = form
            obstacles.append(
                f"each {part} has {num_convs} convolutions of kernel {kernel_size} with ×{scale} after each; there "
                "are only 4 of kernel 3 with ×2, or 1 of kernel 1 or 3 with ×1 or ×4"
            )
    return obstacles


def mmseg_obstacles(config: SetrConfig) -> list[str]:
    """What the networks of mmsegmentation cannot express, a sentence each."""
    obstacles = common_obstacles(config)
    if config.intermediate_size % config.hidden_size:
        obstacles.append(f"intermediate_size {config.intermediate_size} is not a multiple of {config.hidden_size}")
    if config.decoder_type == "mla":
        auxiliary = {"mla_auxiliary_bias": True} if config.auxiliary_out_indices else {}
        obstacles += differences(config, mla_align_corners=False, mla_classifier_kernel_size=1, **auxiliary)
    elif config.decoder_kernel_size not in (1, 3):
        obstacles.append(f"decoder_kernel_size is {config.decoder_kernel_size}, neither 1 nor 3")
    return obstacles


def unread_tensors(implementation: str, config: SetrConfig) -> dict[str, torch.Tensor]:
    """Zeros for what the other network has but never reads, so that loading can be strict."""
    tensors = {}
    if not config.use_class_token:
        tensors["backbone.cls_token"] = torch.zeros(1, 1, config.hidden_size)
    if implementation == "original":
        heads = ["decode_head"] + [f"auxiliary_head.{i}" for i in range(len(config.auxiliary_out_indices))]
        for head in heads:
            tensors[f"{head}.conv_seg.weight"] = torch.zeros(config.num_labels, ORIGINAL_UNUSED_CHANNELS, 1, 1)
            tensors[f"{head}.conv_seg.bias"] = torch.zeros(config.num_labels)
    return tensors


def to_public_state_dict(model: SetrForSemanticSegmentation, implementation: str) -> dict[str, torch.Tensor]:
    """The state dict with which the original repository ("original") or mmsegmentation ("mmseg") gives the same
    logits. Raises [`SetrError`] if that implementation cannot express the model.

    mmsegmentation 1.x builds SETR without a bias in the patch embedding; if the state dict has that key, its network
    needs `backbone.patch_bias=True`.
    """
    config = model.config
    if config.backbone_config is not None:
        backbone_config: PreTrainedConfig = config.backbone_config
        raise SetrError(f"the model has no form in {implementation}: its encoder is a {backbone_config.model_type}")
    if config.stem_config is not None:
        stem_config: PreTrainedConfig = config.stem_config
        raise SetrError(f"the model has no form in {implementation}: its encoder has a stem, {stem_config.model_type}")
    obstacles = original_obstacles(config) if implementation == "original" else mmseg_obstacles(config)
    if obstacles:
        raise SetrError(f"the model has no form in {implementation}: {'; '.join(obstacles)}")
    tensors = model.state_dict()
    check_weights(tensors)
    state_dict = unread_tensors(implementation, config)
    for rule in conversion_rules(implementation, config):
        theirs = to_theirs(rule, [tensors[key] for key in rule.ours], config)
        state_dict |= {key: tensor for key, tensor in zip(rule.theirs, theirs) if tensor is not None}
    has_output_bias = any(key.endswith("attn.out_proj.bias") for key in state_dict)
    if implementation == "mmseg" and not config.qkv_bias and has_output_bias:
        raise SetrError("the model has no form in mmseg: attention there has all its biases or none")
    return state_dict


def public_metadata(config: SetrConfig) -> dict:
    """The `meta` of a checkpoint, in the form of mmsegmentation 0.x, which is the original's too, and of 1.x."""
    classes = tuple(config.id2label[index] for index in range(len(config.id2label)))
    return {
        "CLASSES": classes,
        "PALETTE": config.palette,
        "dataset_meta": {"classes": classes, "palette": config.palette},
        META_KEY: {name: getattr(config, name) for name in UNREADABLE_FIELDS},
    }


def write_public_checkpoint(model_dir: str | Path, checkpoint: str | Path, implementation: str) -> dict:
    """Writes a folder of ours as a `.pth` of the original repository ("original") or of mmsegmentation ("mmseg"), and
    returns its state dict. Raises [`SetrError`] if the file exists, the folder does not hold a SETR model, or that
    implementation cannot express it.
    """
    checkpoint = Path(checkpoint)
    if checkpoint.exists():
        raise SetrError(f"{checkpoint} exists already: name another file or remove it")
    if not (Path(model_dir) / "config.json").is_file():
        raise SetrError(f"{model_dir} does not hold a converted or trained SETR model: it has no config.json")
    model = load_network(model_dir, torch.float32)
    state_dict = to_public_state_dict(model, implementation)
    # Given a path, torch writes its name into the file, and the bytes differ each time.
    with whole_file(checkpoint) as unfinished, unfinished.open("wb") as file:
        torch.save({"meta": public_metadata(model.config), "state_dict": state_dict}, file)
    return state_dict
