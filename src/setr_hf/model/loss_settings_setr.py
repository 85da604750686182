"""Which losses a model is trained with, their weights and parameters; what contradicts itself is refused here."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any


# Losses that add up over pixels, whose sum is divided by the number of them, …
CROSS_ENTROPY, BINARY_CROSS_ENTROPY, FOCAL, OHEM = "cross_entropy", "binary_cross_entropy", "focal", "ohem"
# … and losses of the regions that a batch shows, one for each class.
DICE, TVERSKY = "dice", "tversky"
LOSSES = (CROSS_ENTROPY, BINARY_CROSS_ENTROPY, FOCAL, OHEM, DICE, TVERSKY)
WITH_CLASS_WEIGHTS = {CROSS_ENTROPY, BINARY_CROSS_ENTROPY, FOCAL, OHEM}
WITH_LABEL_SMOOTHING = {CROSS_ENTROPY, BINARY_CROSS_ENTROPY, OHEM}
LOSS_AVERAGES = ("valid", "all")
# How the fields of `SetrConfig` begin that hold the settings below.
PREFIX = "semantic_loss_"
MAX_WEIGHT = 1e6


def is_number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def default_losses(num_labels: int) -> dict[str, float]:
    return {BINARY_CROSS_ENTROPY if num_labels == 1 else CROSS_ENTROPY: 1.0}


def losses_of(weights: dict[str, float], num_labels: int) -> dict[str, float]:
    """`weights` for a model of other classes: the cross-entropy takes the form for their number."""
    (other,) = default_losses(1 if num_labels > 1 else 2)
    (own,) = default_losses(num_labels)
    return {own if name == other else name: weight for name, weight in weights.items()}


@dataclass(frozen=True)
class LossSettings:
    """A weighted sum of losses, of the logits z of a pixel resized to the labels, with p = softmax(z) and the pixel's
    class y. A binary model's one logit z stands for the two logits (0, z), so that p = (1 − σ(z), σ(z)).

    Args:
        weights (`dict[str, float]`): The weight of each loss, from 0 to 10⁶ and not all 0:

            - `"cross_entropy"`: −log p_y, of models with two classes and more.
            - `"binary_cross_entropy"`: the same of binary models, −log σ(±z).
            - `"focal"`: −(1 − p_y)^γ log p_y (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eq. 4),
              for binary models with their α (eq. 5).
            - `"ohem"`: the cross-entropy of the hardest pixels of a batch (Shrivastava et al., CVPR 2016), which are
              chosen as by mmsegmentation's `OHEMPixelSampler`; like there, the sum is divided by the number of all
              pixels that the other losses are averaged over.
            - `"dice"`: 1 − 2I / (P + T), with the sums I of p_c over the pixels of class c, P of p_c over all valid
              pixels and T the number of pixels of the class (Milletari et al., "V-Net", 3DV 2016, without squares).
            - `"tversky"`: 1 − I / (I + α (P − I) + β (T − I)) (Salehi et al., MLMI 2017, eq. 2).

            The last two are computed as segmentation_models_pytorch does: I, P and T are sums over the batch, a class
            without a pixel in the batch has a loss of 0, and the mean is taken over all classes. Of binary models,
            only the foreground counts.
        ignore_index (`int`, defaults to 255): Label of pixels without a loss.
        average (`str`, defaults to `"valid"`): What sums over pixels are divided by: the number of pixels that are not
            ignored, weighted if there are class weights, or with `"all"` the number of all pixels.
        class_weights (`list[float]`, *optional*): Weight of the pixels of each class; for binary models of background
            and foreground. Dice and Tversky, which weigh all classes the same, do not take them.
        label_smoothing (`float`, defaults to 0.0): Share of the target, from 0 to 1, that the cross-entropies spread
            over all classes.
        focal_gamma (`float`, defaults to 2.0): γ of the focal loss, from 0 (the cross-entropy) to 100.
        focal_alpha (`float`, *optional*): α of the focal loss of binary models, the weight of the foreground, where
            the background has 1 − α. It does not change what the sum is divided by.
        tversky_alpha (`float`, defaults to 0.5): Weight of false positives in the Tversky loss, from 0 to 10⁶.
        tversky_beta (`float`, defaults to 0.5): Weight of false negatives.
        ohem_threshold (`float`, *optional*): Pixels are hard if p_y is less than this, and `ohem_min_kept` of them for
            each image of the batch are if fewer would be. By default, `ohem_min_kept` for each image are, those of the
            largest losses in the batch.
        ohem_min_kept (`int`, defaults to 100000): See there.

    Raises:
        `ValueError`: a setting is out of range, or no loss takes it.

    Example:

    ```python
    >>> from setr_hf import LossSettings, SetrConfig

    >>> LossSettings({"focal": 1.0, "dice": 2}, focal_gamma=1.5).used
    {'focal': 1.0, 'dice': 2}
    >>> LossSettings.from_config(SetrConfig(num_labels=1)).used
    {'binary_cross_entropy': 1.0}
    ```
    """

    weights: dict[str, float] = field(default_factory=lambda: default_losses(2))
    ignore_index: int = 255
    average: str = "valid"
    class_weights: Sequence[float] | None = None
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    focal_alpha: float | None = None
    tversky_alpha: float = 0.5
    tversky_beta: float = 0.5
    ohem_threshold: float | None = None
    ohem_min_kept: int = 100_000

    @classmethod
    def from_config(cls, config: Any) -> "LossSettings":
        """The settings in a `SetrConfig`. Raises `ValueError` as the class does, or if they do not suit them."""
        options = {name: getattr(config, PREFIX + name) for name in SETTINGS}
        weights = default_losses(config.num_labels) if config.semantic_loss is None else config.semantic_loss
        settings = cls(weights, **options)
        settings.check_classes(config.num_labels)
        return settings

    def __post_init__(self) -> None:
        self._check_weights()
        self._check_class_weights()
        if self.average not in LOSS_AVERAGES:
            raise ValueError(f"{PREFIX}average must be one of {', '.join(LOSS_AVERAGES)}, got {self.average!r}")
        ranges = {"label_smoothing": 1, "focal_gamma": 100, "tversky_alpha": MAX_WEIGHT, "tversky_beta": MAX_WEIGHT}
        optional = {name: 1 for name in ("focal_alpha", "ohem_threshold") if getattr(self, name) is not None}
        for name, most in (ranges | optional).items():
            if not is_number(getattr(self, name), 0, most):
                raise ValueError(f"{PREFIX}{name} must be a number from 0 to {most:g}, got {getattr(self, name)!r}")
        if not isinstance(self.ohem_min_kept, int) or not 1 <= self.ohem_min_kept < 2**31:
            raise ValueError(f"{PREFIX}ohem_min_kept must be a number of pixels from 1, got {self.ohem_min_kept!r}")
        for name, losses in (("class_weights", WITH_CLASS_WEIGHTS), ("label_smoothing", WITH_LABEL_SMOOTHING)):
            if getattr(self, name) and not losses & set(self.used):
                raise ValueError(
                    f"{PREFIX}{name} has no effect on {' and '.join(self.used)}: leave it out, or add one of "
                    f"{', '.join(loss for loss in LOSSES if loss in losses)}"
                )

    def _check_weights(self) -> None:
        if not isinstance(self.weights, dict):
            raise ValueError(f'semantic_loss must hold weights such as {{"cross_entropy": 1.0}}, got {self.weights!r}')
        for name, weight in self.weights.items():
            if name not in LOSSES:
                raise ValueError(f"semantic_loss must name some of {', '.join(LOSSES)}, got {name!r}")
            if not is_number(weight, 0, MAX_WEIGHT):
                raise ValueError(f"the weight of {name} must be a number from 0 to {MAX_WEIGHT:g}, got {weight!r}")
        if not self.used:
            raise ValueError(f"semantic_loss must give some loss a weight above 0, got {self.weights}")

    def _check_class_weights(self) -> None:
        if self.class_weights is None:
            return
        weights = self.class_weights
        is_list = isinstance(weights, (list, tuple)) and all(is_number(weight, 0, MAX_WEIGHT) for weight in weights)
        if not is_list or not any(weights):
            raise ValueError(
                f"{PREFIX}class_weights must hold numbers from 0 to {MAX_WEIGHT:g} that are not all 0, got {weights!r}"
            )

    def check_classes(self, num_labels: int) -> None:
        """Raises `ValueError` if the settings do not suit models of so many logits a pixel."""
        is_binary = num_labels == 1
        (wanted,), (other,) = default_losses(num_labels), default_losses(2 if is_binary else 1)
        if other in self.weights:
            raise ValueError(f"semantic_loss holds {other}, but with num_labels={num_labels} it is {wanted}")
        count = 2 if is_binary else num_labels
        if self.class_weights is not None and len(self.class_weights) != count:
            kind = "background and foreground" if is_binary else f"each of {count} classes"
            raise ValueError(f"{PREFIX}class_weights must hold one for {kind}, got {len(self.class_weights)}")
        if self.focal_alpha is not None and not is_binary:
            raise ValueError(
                f"{PREFIX}focal_alpha is for binary models (num_labels=1): with num_labels={num_labels}, set "
                f"{PREFIX}class_weights"
            )

    @property
    def used(self) -> dict[str, float]:
        """The losses whose weight is not 0."""
        return {name: self.weights[name] for name in LOSSES if self.weights.get(name)}


# What `SetrConfig` has a field for, besides the weights. Listed once, as torch.compile does not follow `fields`.
SETTINGS = [option.name for option in fields(LossSettings)][1:]

__all__ = ["LossSettings"]
