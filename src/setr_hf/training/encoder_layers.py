"""The encoder of a model and its layers, whatever they are called: to freeze it, or to train each at its own rate."""

from torch import nn

from ..errors import SetrError


# What a SETR calls its own encoder, and another one in its place.
ENCODER_MODULES = {"setr", "backbone"}


def find_encoder(model: nn.Module) -> tuple[str, nn.Module]:
    """The name of the encoder, as in `model.named_modules()`, and the encoder. The model may be compiled, have PEFT
    adapters, or be wrapped for DDP or FSDP. Raises [`SetrError`] if it has none.
    """
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in ENCODER_MODULES:
            return name, module
    raise SetrError(f"a {type(model).__name__} has no encoder called {' or '.join(sorted(ENCODER_MODULES))}")


def find_layers(encoder: nn.Module) -> tuple[str, nn.ModuleList | nn.Sequential]:
    """The name of the list of transformer layers within an encoder, and the list. No library agrees with another on
    where it is: of all lists of modules of one class, each with linear layers inside, it is the one with the most
    parameters. Raises [`SetrError`] if there is none.
    """
    lists = [
        (sum(parameter.numel() for parameter in module.parameters()), name, module)
        for name, module in encoder.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential))
        and len({type(child) for child in module}) == 1
        and all(any(isinstance(part, nn.Linear) for part in child.modules()) for child in module)
    ]
    if not lists:
        name = type(encoder).__name__
        raise SetrError(f"a {name} has no list of transformer layers with linear layers inside")
    _, name, module = max(lists, key=lambda found: found[0])
    return name, module


def freeze_encoder(model: nn.Module) -> None:
    """Takes the encoder out of training. As its inputs need no gradients either, autograd then keeps nothing of it, as
    under `torch.no_grad`. Its dropout and drop path stop in eval mode, which is the trainer's to set.
    """
    find_encoder(model)[1].requires_grad_(False)


def layer_numbers(model: nn.Module) -> tuple[dict[str, int], int]:
    """The layer that each parameter of the encoder belongs to, by its name in `model.named_parameters()`: 1 to L, 0
    for what comes before them, such as embeddings, and L + 1 for what follows, such as a final LayerNorm. And L.
    """
    encoder_name, encoder = find_encoder(model)
    list_name, layers = find_layers(encoder)
    prefix = ".".join(filter(None, [encoder_name, list_name]))
    layer_of = {f"{prefix}.{name}": number for number, (name, _) in enumerate(layers.named_children(), start=1)}
    start = prefix.count(".") + 1
    numbers: dict[str, int] = {}
    others = 0
    # In the order in which modules were made, which is that of the way through the network.
    for name, _ in encoder.named_parameters(encoder_name):
        number = layer_of.get(".".join(name.split(".")[: start + 1]))
        if number is not None:
            others = len(layers) + 1
        numbers[name] = others if number is None else number
    return numbers, len(layers)


def rate_factors(model: nn.Module, layer_decay: float) -> dict[str, tuple[str, float]]:
    """What each parameter of the encoder is called as a part of it, and its learning rate as a multiple of the base
    rate, by its name in `model.named_parameters()`.

    With L layers, layer i has the factor layer_decay^(L + 1 − i), the embeddings have layer_decay^(L + 1), and what
    follows the layers has 1: as in BEiT (Bao et al., 2021, arXiv:2106.08254, its `LayerDecayValueAssigner`), MAE and
    timm, where the heads have 1 as well. Position biases that all layers share count as embeddings, as in timm.

    Raises [`SetrError`] if no layers are found.

    Example:

    ```python
    >>> from setr_hf import SetrConfig, SetrForSemanticSegmentation
    >>> from setr_hf.training.encoder_layers import rate_factors

    >>> config = SetrConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=4)
    >>> factors = rate_factors(SetrForSemanticSegmentation(config), 0.5)
    >>> factors["setr.embeddings.position_embeddings"], factors["setr.layers.3.mlp.fc1.weight"]
    (('embeddings', 0.03125), ('layer_4', 0.5))
    ```
    """
    numbers, num_layers = layer_numbers(model)
    names = {0: "embeddings", num_layers + 1: "base"}
    return {
        name: (names.get(number, f"layer_{number}"), layer_decay ** (num_layers + 1 - number))
        for name, number in numbers.items()
    }
