"""The cases of `setr-hf benchmark`, by name."""

from types import ModuleType

from . import (
    augmentation,
    decoder,
    encoder,
    evaluation,
    inference,
    label_map,
    loss,
    matmul_share,
    multi_scale,
    photo,
    quantization,
    training_step,
)


# Each has `comparisons`, which takes the job's options, and `OPTIONS`, the names of those that it heeds.
CASES: dict[str, ModuleType] = {
    "loss": loss,
    "label-map": label_map,
    "multi-scale": multi_scale,
    "decoder": decoder,
    "encoder": encoder,
    "inference": inference,
    "photo": photo,
    "quantization": quantization,
    "training-step": training_step,
    "evaluation": evaluation,
    "augmentation": augmentation,
    "matmul-share": matmul_share,
}
