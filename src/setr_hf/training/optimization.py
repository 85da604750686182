"""What of a model is trained, and at which rates: those of the original code, with its poly schedule."""

import math
from collections.abc import Callable, Collection
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..errors import SetrError
from ..model.modeling_setr import SetrForSemanticSegmentation
from .encoder_layers import rate_factors


HEAD_MODULES = {"decode_head", "auxiliary_heads"}
# Parts of our mla head that the original code has in its backbone, and mmsegmentation in its neck.
MLA_NECK_MODULES = {"layernorms", "projections", "aggregations"}


def head_parameter_names(model: nn.Module) -> set[str]:
    """Names, as in `model.named_parameters()`, of the parameters that belong to a head in the original code, where
    their names contain "head". For "naive" and "pup" that is the decoder with its LayerNorm, and the auxiliary heads.
    For "mla" it is the branches and all classifiers; the LayerNorms, projections and top-down convolutions before them
    are part of the backbone there (in mmsegmentation, of the neck). The model may be compiled, have PEFT adapters, or
    be wrapped for DDP or FSDP.
    """
    modules = {name: set(name.split(".")) for name, _ in model.named_parameters()}
    return {name for name, parts in modules.items() if parts & HEAD_MODULES and not parts & MLA_NECK_MODULES}


def freeze_layers(model: SetrForSemanticSegmentation, num_frozen: int) -> None:
    """Takes the embeddings and the first `num_frozen` layers of the encoder out of training; nothing for 0. Raises
    [`SetrError`] if the encoder has fewer, or is another backbone's.
    """
    if num_frozen == 0:
        return
    if model.config.backbone_config is not None:
        raise SetrError("layers of a backbone_config cannot be frozen: only those of SETR's own encoder")
    layers = model.setr.layers
    if not 0 < num_frozen <= len(layers):
        raise SetrError(f"the encoder has {len(layers)} layers, of which {num_frozen} cannot be frozen")
    for module in (model.setr.embeddings, *layers[:num_frozen]):
        module.requires_grad_(False)


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    head_learning_rate_ratio: float,
    weight_decay: float,
    decay_parameter_names: Collection[str],
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: all trainable parameters, with a rate of their own for the heads, a multiple
    of `learning_rate`. In all recipes of the original code the ratio is 10, with a weight decay of 0. Only the
    parameters in `decay_parameter_names` decay. Returns up to four groups, none of them empty, with the keys `params`,
    `lr`, `weight_decay` and `name`: `"base"`, `"base_without_decay"`, `"head"` and `"head_without_decay"`.

    With a `layer_decay` below 1, the rates of the encoder's layers fall towards the first, see [`rate_factors`]: there
    are also such groups as `"layer_24"`, the last layer first, and `"embeddings"`, each `_without_decay` too, and all
    have the key `rate_factor`, which [`poly_schedule`] heeds.

    Raises [`SetrError`] if `head_learning_rate_ratio` is not positive, or no layers are found.
    """
    if not 0 < head_learning_rate_ratio < math.inf:
        raise SetrError(f"head_learning_rate_ratio must be a number greater than 0, got {head_learning_rate_ratio}")
    heads, decayed = head_parameter_names(model), set(decay_parameter_names)
    factors = {} if layer_decay == 1 else rate_factors(model, layer_decay)
    parts = {"base": 1.0} | dict(sorted(factors.values(), key=lambda part: -part[1])) | {"head": 1.0}
    groups: dict[str, dict[str, Any]] = {
        part + suffix: {
            "params": [],
            "lr": learning_rate * (head_learning_rate_ratio if part == "head" else factor),
            "weight_decay": decay,
            "name": part + suffix,
            **({"rate_factor": factor} if factors else {}),
        }
        for part, factor in parts.items()
        for suffix, decay in (("", weight_decay), ("_without_decay", 0.0))
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "head" if name in heads else factors.get(name, ("base", 1.0))[0]
            groups[part + ("" if name in decayed else "_without_decay")]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def poly_schedule(optimizer: Optimizer, num_training_steps: int, power: float = 0.9, min_lr: float = 1e-4) -> LambdaLR:
    """The poly schedule of the original code. Each parameter group falls from its own initial rate lr0 to a floor that
    is the same for all: lr(t) = (lr0 - min_lr) · (1 - t / T)^power + min_lr, with t counting optimizer steps from 0
    and T = `num_training_steps`. From T on it stays at `min_lr`. A group whose rate is below `min_lr` rises to it.

    The floor of the stock "polynomial" schedule is relative to the optimizer's default rate: a group at 10 times that
    rate would end at 10 times the floor. mmsegmentation 1.x divides by T - 1, so that its last step is at the floor
    too; 0.x and the original code divide by T. Raises [`SetrError`] for an argument out of range, or for a group whose
    rate is not positive. A group with a `rate_factor`, as [`parameter_groups`] makes them for layer-wise decay, has
    the floor `rate_factor · min_lr`: its rate stays that multiple of the base rate.
    """
    if num_training_steps < 1:
        raise SetrError(f"num_training_steps must be at least 1, got {num_training_steps}")
    if not 0 < power < math.inf:
        raise SetrError(f"power must be a number greater than 0, got {power}")
    if not 0 <= min_lr < math.inf:
        raise SetrError(f"min_lr must be a number of at least 0, got {min_lr}")

    def factor_from(initial_lr: float, floor: float) -> Callable[[int], float]:
        def factor(step: int) -> float:
            return ((initial_lr - floor) * max(0.0, 1 - step / num_training_steps) ** power + floor) / initial_lr

        return factor

    rates = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    for index, (group, rate) in enumerate(zip(optimizer.param_groups, rates)):
        if not 0 < rate < math.inf:
            name = group.get("name", index)
            raise SetrError(f"the learning rate of parameter group {name!r} must be greater than 0, got {rate}")
    floors = [min_lr * group.get("rate_factor", 1.0) for group in optimizer.param_groups]
    return LambdaLR(optimizer, [factor_from(rate, floor) for rate, floor in zip(rates, floors)])
