"""A whole model of an adapter and the encoder that it was trained on."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BaseImageProcessor
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, IMAGE_PROCESSOR_NAME

from ..checkpoints.encoder import load_encoder
from ..errors import SetrError
from ..inference.loading import (
    ADAPTER_FOLDER,
    NotASetr,
    check_finite,
    check_types,
    find_adapter,
    load_network,
    load_processor,
    loading,
    read_object,
)
from ..model.configuration_setr import SetrConfig
from ..model.modeling_setr import SetrForSemanticSegmentation
from .adapters import (
    NETWORK,
    adapter_tensors,
    check_settings,
    encoder_digest,
    get_adapted,
    import_peft,
    load_adapter_weights,
)
from .resumption import check_tensors, stored_shapes


def adapter_in(folder: str | Path) -> Path:
    """The folder of an adapter. Raises [`SetrError`] if there is none."""
    if (found := find_adapter(Path(folder))) is None:
        raise SetrError(
            f"{folder} holds no adapter: neither it nor its folder {ADAPTER_FOLDER} has an {ADAPTER_CONFIG_NAME}"
        )
    return found


def adapter_processor(adapter: str | Path, base: str | Path | None = None) -> BaseImageProcessor:
    """The image processor of an adapter: the one in its folder, beside that, or else of the SETR that is its base."""
    folder = adapter_in(adapter)
    for path in (folder, folder.parent):
        if (path / IMAGE_PROCESSOR_NAME).is_file():
            return load_processor(path)
    return load_processor(base or base_of(folder))


def base_of(folder: Path) -> str:
    """What an adapter says that its encoder came from."""
    base = read_object(folder / ADAPTER_CONFIG_NAME).get("base_model_name_or_path")
    if not isinstance(base, str):
        raise SetrError(f"{folder} does not say what its encoder came from: name that as the base")
    return base


def read_settings(folder: Path, stored: dict[str, list[int]]) -> Any:
    """The `peft.LoraConfig` of an adapter with these shapes: what decides on its product, and nothing else that PEFT
    would follow. Raises [`SetrError`] for adapters of another kind, and for a rank that is not that of the weights.
    """
    path = folder / ADAPTER_CONFIG_NAME
    content = read_object(path)
    if content.get("peft_type") != "LORA":
        raise SetrError(f"{path} is not of LoRA adapters: it has the peft_type {content.get('peft_type')!r}")
    rank, alpha = content.get("r"), content.get("lora_alpha")
    ranks = {shape[0] for name, shape in stored.items() if name.endswith("lora_A.weight") and shape}
    if list(ranks) != [rank]:
        raise SetrError(f"{path} has r={rank!r}, but the ranks of its weights are {sorted(ranks)}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise SetrError(f"{path} has lora_alpha={alpha!r}, which is not a number")
    check_settings(content["r"], alpha, 0)
    names = {name: content.get(name) for name in ("target_modules", "modules_to_save")}
    for name, parts in names.items():
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise SetrError(f"{path} has {name}={parts!r}, which is not a list of names")
    kinds = {name: content.get(name, False) for name in ("use_dora", "use_rslora")}
    if not all(isinstance(value, bool) for value in kinds.values()):
        raise SetrError(f"{path} must have true or false as use_dora and use_rslora, got {kinds}")
    return import_peft().LoraConfig(r=rank, lora_alpha=alpha, **names, **kinds)


def load_base_backbone(model: SetrForSemanticSegmentation, base: nn.Module | str | Path) -> None:
    """Loads the weights of a backbone from a SETR that has it, or from where `from_backbone` takes it."""
    with loading(f"the backbone of {base if isinstance(base, str | Path) else type(base).__name__}"):
        try:
            source = base if isinstance(base, nn.Module) else load_network(base, torch.float32)
        except NotASetr:
            model.load_backbone(str(base))
            return
        model.backbone.load_state_dict(source.get_submodule("backbone").state_dict())


def merge_adapter(
    adapter: str | Path, base: SetrForSemanticSegmentation | str | Path | None = None
) -> SetrForSemanticSegmentation:
    """Makes a whole model of an adapter and the encoder that it was trained on.

    Args:
        adapter (`str` or `Path`): The folder `adapter` of a run with LoRA, or a folder that holds it, such as a
            checkpoint of the run.
        base (*optional*): What the encoder came from: a SETR (model, folder or Hub id), or whatever else
            [`load_encoder`], or of a backbone `from_backbone`, takes. By default what the adapter names.

    Returns:
        `SetrForSemanticSegmentation`: In evaluation mode; its logits are those of the model that was trained, to
        floating-point noise.

    Raises:
        [`SetrError`]: PEFT is not installed; the folder holds no adapter, or a damaged one; the base is missing or
            does not fit; or its encoder is another than the one that the adapter was trained on, by a single bit.

    Example:

    ```python
    >>> from pathlib import Path
    >>> from setr_hf import SetrConfig, SetrForSemanticSegmentation, add_lora, merge_adapter
    >>> from setr_hf.training.adapters import save_adapter

    >>> config = SetrConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=4)
    >>> SetrForSemanticSegmentation(config).save_pretrained("outputs/base")
    >>> model = add_lora(SetrForSemanticSegmentation.from_pretrained("outputs/base"), rank=2)
    >>> save_adapter(model, Path("outputs/adapter"))
    >>> merge_adapter("outputs/adapter").save_pretrained("outputs/whole")
    ```
    """
    import_peft()
    folder = adapter_in(adapter)
    network = read_object(folder / NETWORK)
    weights = folder / ADAPTER_SAFE_WEIGHTS_NAME
    settings = read_settings(folder, stored_shapes(weights))
    base = base_of(folder) if base is None else base
    with loading(f"the adapter {folder}"):
        config = SetrConfig.from_dict(network.get("config"))
        with torch.device("meta"):
            expected = adapter_tensors(get_adapted(SetrForSemanticSegmentation(config), copy.copy(settings)))
    # Before a network is built that may be any size.
    check_tensors(weights, expected, "copy or download it again")
    check_types(weights)
    with loading(f"the adapter {folder}"):
        model = SetrForSemanticSegmentation(config)
    if model.config.backbone_config is None:
        load_encoder(model, base)
    else:
        load_base_backbone(model, base)
    with loading(f"the adapter {folder}"):
        adapted = get_adapted(model, settings)
        load_adapter_weights(adapted, folder)
    if network.get("encoder_sha256") != encoder_digest(adapted):
        raise SetrError(f"{folder} was trained on another encoder than that of {base}: name the one that it came from")
    whole = adapted.merge_and_unload().eval()
    check_finite(whole, f"the model of {folder}")
    return whole
