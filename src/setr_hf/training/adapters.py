"""LoRA adapters of the encoder, by PEFT: how they are put into a model, counted, saved and loaded."""

import copy
import hashlib
import json
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import ADAPTER_CONFIG_NAME, is_peft_available

from ..errors import SetrError
from ..files import remove
from ..inference.loading import read_object
from ..model.modeling_setr import SetrForSemanticSegmentation
from .digests import add_tensors
from .encoder_layers import find_encoder, find_layers


# Beside what PEFT writes: the network around the adapter, and which encoder it was trained on.
NETWORK = "network.json"
HEADS = ("decode_head", "auxiliary_heads")
MERGED = "The encoder was trained by LoRA adapters, with PEFT, which are merged into these weights."
# Arguments of training that change the encoder's own weights, which adapters leave alone, and their neutral values.
FOR_WHOLE_WEIGHTS = {"ema": None, "layer_decay": 1, "freeze_encoder": False}
# As in PEFT's guide to semantic segmentation: ten times what suits the training of all weights.
LORA_LEARNING_RATE = 5e-4


def import_peft() -> Any:
    try:
        import peft
    except ImportError:
        raise SetrError('LoRA adapters need the package peft: pip install "setr-hf[lora]"') from None
    return peft


def is_adapted(model: Any) -> bool:
    """Whether a model is one of PEFT, with LoRA adapters inside."""
    if not is_peft_available() or not isinstance(model, import_peft().PeftModel):
        return False
    return model.peft_config[model.active_adapter].peft_type == "LORA"


def layer_linears(encoder: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers inside the transformer layers of an encoder, by their names in it."""
    try:
        prefix, layers = find_layers(encoder)
    except SetrError as error:
        raise SetrError(f"{error}: name those that shall have adapters as target_modules") from None
    return {name: part for name, part in layers.named_modules(prefix=prefix) if isinstance(part, nn.Linear)}


def check_settings(rank: int, alpha: float | None, dropout: float) -> None:
    """Raises a [`SetrError`] for numbers out of range."""
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise SetrError(f"the rank of LoRA must be a whole number of at least 1, got {rank}")
    if alpha is not None and not 0 < alpha < math.inf:
        raise SetrError(f"the alpha of LoRA must be a number greater than 0, got {alpha}")
    if not 0 <= dropout < 1:
        raise SetrError(f"the dropout of LoRA must be at least 0 and less than 1, got {dropout}")


def get_adapted(model: SetrForSemanticSegmentation, settings: Any) -> Any:
    """As `peft.get_peft_model`, but without its warnings, and the settings keep the name of the base."""
    base, settings.base_model_name_or_path = settings.base_model_name_or_path, None
    with warnings.catch_warnings():
        # PEFT asks for a property by the name that it had before Transformers 5.24.
        warnings.simplefilter("ignore", FutureWarning)
        adapted = import_peft().get_peft_model(model, settings)
    settings.base_model_name_or_path = base or model.name_or_path or None
    return adapted


def add_lora(
    model: SetrForSemanticSegmentation,
    rank: int = 8,
    alpha: float | None = None,
    dropout: float = 0.0,
    target_modules: list[str] | None = None,
    base_model: str | None = None,
) -> Any:
    """Puts LoRA adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685) into the encoder of a model, in place: a
    linear layer computes W x + b + alpha / rank · B A x, and of the encoder only A, of `rank` rows, and B, of `rank`
    columns, are trained. B is 0 at first. The decoder and the auxiliary heads are trained whole, with their BatchNorm.

    Args:
        model (`SetrForSemanticSegmentation`): With any encoder.
        rank (`int`, *optional*, defaults to 8): Of a ViT-L, 8 trains 1.2 % of the encoder's parameters, of a ViT-B
            1.6 %.
        alpha (`float`, *optional*): By default `rank`, so that B A counts as it is.
        dropout (`float`, *optional*, defaults to 0.0): Share of x that is left out before A in training.
        target_modules (`list[str]`, *optional*): Ends of the names of the layers that have adapters. By default all
            linear layers of the transformer layers.
        base_model (`str`, *optional*): Id on the Hub, or folder, of what the encoder was loaded from, for those who
            get the adapter alone. By default where `model` was.

    Returns:
        `peft.PeftModel`: Both trainers take it. `merge_and_unload()` makes a whole model of it.

    Raises:
        [`SetrError`]: PEFT is not installed; a number is out of range; the rank exceeds the width of a layer; no
            layer has such a name; or the model has adapters already.

    Example:

    ```python
    >>> from setr_hf import SetrConfig, SetrForSemanticSegmentation, add_lora
    >>> from setr_hf.training.adapters import lora_rows

    >>> config = SetrConfig(hidden_size=192, num_hidden_layers=4, num_attention_heads=3, intermediate_size=768)
    >>> model = add_lora(SetrForSemanticSegmentation(config), rank=2)
    >>> dict(lora_rows(model))["trained of the encoder"]
    '27,648 of 2,123,712 parameters (1.3 %)'
    >>> whole = model.merge_and_unload()
    ```
    """
    peft = import_peft()
    check_settings(rank, alpha, dropout)
    if is_adapted(model):
        raise SetrError("the model has adapters already: merge_and_unload() makes a whole model of it")
    prefix, encoder = find_encoder(model)
    if target_modules is None:
        linears = {f"{prefix}.{name}": linear for name, linear in layer_linears(encoder).items()}
        for name, linear in linears.items():
            if rank > min(linear.weight.shape):
                width, inputs = linear.weight.shape
                raise SetrError(
                    f"a rank of {rank} is larger than the layer {name}, which is {inputs}×{width}: choose a smaller"
                )
        target_modules = list(linears)
    # Their statistics change in training, whether they have weights to train or not.
    norms = [
        f"{prefix}.{name}"
        for name, module in encoder.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    settings = peft.LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=target_modules,
        modules_to_save=[*(name for name in HEADS if hasattr(model, name)), *norms],
        base_model_name_or_path=base_model,
    )
    try:
        return get_adapted(model, settings)
    except ValueError as error:
        raise SetrError(f"no adapters can be put into {target_modules}: {error}") from error


def lora_rows(model: Any) -> list[tuple[str, object]]:
    """Names and values, for a terminal or a card: the settings of a model's adapters, and what is trained of it."""
    settings = model.peft_config[model.active_adapter]
    marker, (prefix, _) = model.base_model.prefix, find_encoder(model.get_base_model())
    base = dict(model.get_base_model().named_parameters())
    encoder = {name: weight for name, weight in base.items() if name.startswith(f"{prefix}.")}
    trained = sum(weight.numel() for weight in encoder.values() if weight.requires_grad)
    whole = sum(weight.numel() for name, weight in encoder.items() if f".{marker}" not in name)
    heads = sum(weight.numel() for name, weight in base.items() if name not in encoder and weight.requires_grad)
    adapted = {name.partition(f".{marker}")[0] for name in encoder if f".{marker}" in name}
    return [
        ("LoRA", f"rank {settings.r}, alpha {settings.lora_alpha:g}, on {len(adapted)} linear layers of the encoder"),
        ("trained of the encoder", f"{trained:,} of {whole:,} parameters ({100 * trained / whole:.2g} %)"),
        ("trained of the heads", f"all {heads:,} parameters"),
    ]


def encoder_digest(model: Any) -> str:
    """The SHA-256 of what adapters leave unchanged of the encoder, in hexadecimal digits."""
    changing = (f".{model.base_model.prefix}", ".modules_to_save.", ".original_module.")
    _, encoder = find_encoder(model.get_base_model())
    unchanged = [
        (name.replace(".base_layer.", "."), tensor)
        for name, tensor in sorted(encoder.state_dict().items())
        if not any(part in name for part in changing)
    ]
    digest = hashlib.sha256()
    add_tensors(digest, unchanged)
    return digest.hexdigest()


def adapter_tensors(model: Any) -> dict[str, torch.Tensor]:
    """What a saved adapter holds: A and B, the heads, and the statistics of BatchNorm."""
    return import_peft().get_peft_model_state_dict(model, save_embedding_layers=False)


def save_adapter(model: Any, folder: Path) -> None:
    """Writes the adapters and heads of a model into a folder, from where PEFT and [`merge_adapter`] load them."""
    # Stock, PEFT asks the Hub at each checkpoint whether the base model's vocabulary has changed.
    model.save_pretrained(folder, save_embedding_layers=False)
    remove(folder / "README.md")  # A form to be filled in.
    network = {"encoder_sha256": encoder_digest(model), "config": model.config.to_dict()}
    (folder / NETWORK).write_text(json.dumps(network, indent=2) + "\n", encoding="utf-8")


def merged(model: Any) -> SetrForSemanticSegmentation:
    """A whole model, with the adapters merged into the weights of the encoder. `model` stays as it is."""
    return copy.deepcopy(model).merge_and_unload()


def load_adapter_weights(model: Any, folder: Path) -> None:
    """Loads what [`save_adapter`] wrote into a model that has such adapters."""
    model.load_adapter(str(folder), model.active_adapter, is_trainable=True)


def check_adapter(model: Any, folder: Path) -> None:
    """Raises a [`SetrError`] if the adapter of a checkpoint is of other settings than those of `model`, or was trained
    on another encoder.
    """
    saved, settings = read_object(folder / ADAPTER_CONFIG_NAME), model.peft_config[model.active_adapter]
    for name in ("r", "lora_alpha", "lora_dropout"):
        if saved.get(name) != getattr(settings, name):
            was, now = saved.get(name), getattr(settings, name)
            raise SetrError(f"{folder} was trained with {name} {was}, not {now}: resume it with its own --lora")
    if read_object(folder / NETWORK).get("encoder_sha256") != encoder_digest(model):
        raise SetrError(
            f"{folder} was trained on another encoder than this run starts from: resume it with its own --model or "
            "--encoder and, if weights of the encoder are random, its own --seed"
        )
