"""The options of the train job that choose the loss, as fields of a `SetrConfig`."""

from argparse import Namespace
from typing import Any

from ..data.class_weights import RULES, count_classes, weights_by_rule
from ..data.rows import SegmentationData
from ..errors import SetrError
from ..model.configuration_setr import SetrConfig
from ..model.loss_settings_setr import CROSS_ENTROPY, LossSettings


NO_WEIGHTS = "none"


def parse_losses(texts: list[str]) -> dict[str, float]:
    """The weights of losses in such texts as `dice=0.5`; 1 for those without one."""
    weights: dict[str, float] = {}
    for text in texts:
        name, has_weight, weight = text.partition("=")
        if name in weights:
            raise SetrError(f"--loss names {name} twice")
        try:
            weights[name] = float(weight) if has_weight else 1.0
        except ValueError:
            raise SetrError(f"--loss {text} has no number as its weight: write {name}=0.5") from None
    return weights


def parse_class_weights(texts: list[str]) -> list[float] | None:
    """The weights that are given; `None` for the name of a rule, or for none."""
    if len(texts) == 1 and texts[0] in (*RULES, NO_WEIGHTS):
        return None
    try:
        return [float(text) for text in texts]
    except ValueError:
        raise SetrError(
            f"--class-weights takes {', '.join(RULES)}, {NO_WEIGHTS} or a number for each class, got {' '.join(texts)}"
        ) from None


def loss_fields(options: Namespace) -> dict[str, Any]:
    """The fields that the options set. Weights by a rule follow in [`weigh_classes`]."""
    told: dict[str, Any] = {}
    if options.loss_average:
        told["semantic_loss_average"] = options.loss_average
    if options.loss:
        told["semantic_loss"] = parse_losses(options.loss)
    if options.class_weights:
        told["semantic_loss_class_weights"] = parse_class_weights(options.class_weights)
    if options.label_smoothing is not None:
        told["semantic_loss_label_smoothing"] = options.label_smoothing
    return told


def class_weight_rule(options: Namespace) -> str | None:
    """The rule by which weights are to be computed from the data."""
    rule = options.class_weights[0] if options.class_weights else None
    return rule if rule in RULES else None


def check_loss_options(options: Namespace, given_config: dict[str, Any]) -> None:
    """Raises a [`SetrError`] for options of the loss that are out of range or contradict each other, as far as that is
    known before there are data and model. `given_config` are the fields of `--config` that were typed.
    """
    told = loss_fields(options)
    if twice := sorted(set(told) & set(given_config)):
        names = ", ".join(twice)
        raise SetrError(f"--config holds {names}, which an option, or the recipe's, sets too: pass the option instead")
    rule = class_weight_rule(options)
    if rule and options.streaming:
        raise SetrError(f"--class-weights {rule} reads all annotations before training: pass numbers with --streaming")
    if options.binary and options.model and not options.reinitialize_classifier:
        raise SetrError("--binary changes the classifiers: with --model, pass --reinitialize-classifier as well")
    if options.model:
        return
    weights = told.get("semantic_loss", options.config.get("semantic_loss")) or {CROSS_ENTROPY: 1.0}
    class_weights: Any = [1.0] if rule else told.get("semantic_loss_class_weights")
    try:
        LossSettings(
            weights,
            class_weights=class_weights,
            label_smoothing=told.get("semantic_loss_label_smoothing", 0.0),
        )
    except ValueError as error:
        raise SetrError(error) from None


def loss_rows(config: SetrConfig) -> list[tuple[str, Any]]:
    """What a model card says of the losses of a training run; nothing of the plain cross-entropy."""
    settings = LossSettings.from_config(config)
    rows: list[tuple[str, Any]] = []
    if config.semantic_loss:
        terms = (f"{weight:g} × {name.replace('_', ' ')}" for name, weight in settings.used.items())
        rows.append(("loss", " + ".join(terms)))
    if settings.class_weights is not None:
        rows.append(("class weights", ", ".join(f"{weight:g}" for weight in settings.class_weights)))
    if settings.label_smoothing:
        rows.append(("label smoothing", f"{settings.label_smoothing:g}"))
    return rows


def weigh_classes(config: SetrConfig, options: Namespace, data: SegmentationData) -> list[tuple[str, Any]]:
    """Puts the weights that a rule computes from the training data into the configuration; a row for
    [`print_options`], if there are any. Raises a [`SetrError`] if the losses do not take them.
    """
    rule = class_weight_rule(options)
    try:
        if rule:
            weights = weights_by_rule(rule, *count_classes(data), len(data))
            config.semantic_loss_class_weights = weights
        LossSettings.from_config(config)
    except ValueError as error:
        raise SetrError(error) from None
    if not rule:
        return []
    ranked = sorted(zip(weights, data.label_set.names))
    shown = ranked if len(ranked) <= 6 else [*ranked[:3], ("…", ""), *ranked[-3:]]
    return [("class weights", ", ".join(f"{name} {weight}".strip() for weight, name in shown))]
