"""Weighted sums of losses of logits resized to the labels, which are never held at that size, nor is what they cost.

All losses of a sum share the passes over the tiles of [`sum_over_tiles`]: one that computes the gradient, and before
it one that measures, if there are losses whose gradient depends on the whole batch. Dice and Tversky need sums for
each class, and hard pixels are chosen by a number for each pixel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from .loss_settings_setr import (
    BINARY_CROSS_ENTROPY,
    CROSS_ENTROPY,
    DICE,
    FOCAL,
    OHEM,
    TVERSKY,
    LossSettings,
)
from .losses_setr import (
    check_ids,
    empty_gradient,
    keep_gradient,
    moderate_maps,
    pixel_count,
    scale_gradient,
    segmentation_loss,
    sum_over_tiles,
)


# Of a pixel, that `measure` and `combine` hold; few beside the scores of many classes, most beside those of two.
NUMBERS_BESIDE_SCORES = 40
# Least denominator of Dice and Tversky, as in segmentation_models_pytorch, whose smoothing is 0 by default as well.
REGION_EPSILON = 1e-7


@dataclass
class Pixels:
    """What the losses need to know of the pixels of a tile, `(num_pixels, 1)` each."""

    valid: torch.Tensor
    classes: torch.Tensor
    weight: torch.Tensor
    total: torch.Tensor
    log_probability: torch.Tensor
    cross_entropy: torch.Tensor


@dataclass(frozen=True)
class Weights:
    """Weights `(num_labels,)` of the classes: in the cross-entropies, of a pixel's own class and, with label
    smoothing, of every class; in the focal loss.
    """

    own: torch.Tensor
    shared: torch.Tensor | None
    focal: torch.Tensor


def to_powers(
    scores: torch.Tensor, labels: torch.Tensor, ignore_index: int, weights: Weights, subtract_maximum: bool
) -> Pixels:
    """Leaves powers of 2 in the place of the scores, which are logarithms to that base: a pixel's probabilities, but
    for the division by their total.
    """
    labels = labels.flatten()
    valid = (labels != ignore_index)[:, None]
    classes = labels[:, None].where(valid, 0)
    if subtract_maximum:
        scores -= scores.amax(1, keepdim=True)
    own_score, own_weight = scores.gather(1, classes), weights.own[classes] * valid
    weighted_score, weight = own_score * own_weight, own_weight
    if weights.shared is not None:
        weight = weight + weights.shared.sum() * valid
        weighted_score = weighted_score + (scores @ weights.shared)[:, None] * valid
    total = scores.exp2_().sum(1, keepdim=True)
    log_total = total.log2()
    return Pixels(
        valid=valid,
        classes=classes,
        weight=weight,
        total=total,
        log_probability=(own_score - log_total) * math.log(2),
        cross_entropy=(weight * log_total - weighted_score) * math.log(2),
    )


def measure(
    scores: torch.Tensor,
    labels: torch.Tensor,
    *hardness: torch.Tensor,
    ignore_index: int,
    weights: Weights,
    subtract_maximum: bool,
    by_probability: bool,
) -> torch.Tensor:
    """A pixel loss of [`sum_over_tiles`]: the sums `(3, num_labels)` of each class's probability over its own pixels
    and over all valid ones, and the number of its pixels. Writes into `hardness`, if it is given, the probability of
    the true class, infinite for ignored pixels, or the cross-entropy, 0 for ignored ones.
    """
    pixels = to_powers(scores, labels, ignore_index, weights, subtract_maximum)
    probability = pixels.log_probability.exp()
    for plane in hardness:
        if by_probability:
            plane.copy_(probability.where(pixels.valid, math.inf).view_as(plane))
        else:
            plane.copy_(pixels.cross_entropy.clamp(min=0).view_as(plane))
    predicted = scores.mul_(pixels.valid / pixels.total).sum(0)
    # Sums over columns have the same bits in each run, which those of a scatter do not have on a GPU.
    intersection = scores.zero_().scatter_(1, pixels.classes, probability * pixels.valid).sum(0)
    labelled = torch.zeros(scores.shape[1], dtype=torch.int64, device=scores.device)
    labelled.scatter_add_(0, pixels.classes.flatten(), pixels.valid.flatten().long())
    return torch.stack([intersection.double(), predicted.double(), labelled.double()])


def combine(
    scores: torch.Tensor,
    labels: torch.Tensor,
    *chosen: torch.Tensor,
    ignore_index: int,
    weights: Weights,
    subtract_maximum: bool,
    cross_entropy: float,
    focal: float,
    focal_gamma: float,
    ohem: float,
    region_gradients: torch.Tensor | None,
    needs_gradient: bool,
) -> torch.Tensor:
    """A pixel loss of [`sum_over_tiles`]: the weighted losses of pixels, and the gradient of these and of the losses
    of regions, whose derivatives with respect to the first two sums of [`measure`] are given.

    With p = softmax(z) and the true class y, the gradient of a loss of p_y is a number for each pixel times
    p − onehot(y), and that of a loss with the derivatives g in all p is p (g − Σ p g).
    """
    pixels = to_powers(scores, labels, ignore_index, weights, subtract_maximum)
    factor: torch.Tensor | float = cross_entropy
    for plane in chosen:
        factor = factor + ohem * plane.reshape(-1, 1)
    losses = factor * pixels.cross_entropy
    own = factor * weights.own[pixels.classes] * pixels.valid
    common = factor * pixels.weight
    if focal:
        probability, focal_weight = pixels.log_probability.exp(), weights.focal[pixels.classes] * pixels.valid * focal
        # Away from 0, whose powers below 1 have no derivative.
        rest = (1 - probability).clamp(min=torch.finfo(scores.dtype).eps)
        losses = losses - focal_weight * rest**focal_gamma * pixels.log_probability
        slope = rest**focal_gamma
        slope = slope - focal_gamma * rest ** (focal_gamma - 1) * probability * pixels.log_probability
        own, common = own + focal_weight * slope, common + focal_weight * slope
    if needs_gradient:
        if region_gradients is None:
            scores *= common / pixels.total
        else:
            of_intersection, of_predicted = region_gradients
            own_part = pixels.log_probability.exp() * of_intersection[pixels.classes] * pixels.valid
            mean = (scores @ of_predicted)[:, None] / pixels.total * pixels.valid + own_part
            own = own - own_part
            scores *= (common - mean + of_predicted * pixels.valid).div_(pixels.total)
        scores.scatter_add_(1, pixels.classes, -own)
        if weights.shared is not None:
            scores.addcmul_(factor * pixels.valid.to(scores), weights.shared, value=-1)
    return losses.sum()


def kth_smallest(values: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The value at the place `k`, from 0, of the sorted `values`, which are not negative. The bits of such numbers are
    in their order, so that 31 or 63 counts find it: without the memory of sorting, or waiting for the device.
    """
    integer = torch.int32 if values.dtype == torch.float32 else torch.int64
    bits = values.view(integer)
    answer = torch.zeros((), dtype=integer, device=values.device)
    for bit in reversed(range(torch.iinfo(integer).bits - 1)):
        candidate = answer + (1 << bit)
        answer = candidate.where((bits < candidate).sum() <= k, answer)
    return answer.view(values.dtype)


def choose_hard(hardness: torch.Tensor, count: torch.Tensor, threshold: float | None, num_kept: int) -> None:
    """Leaves 1 for each hard pixel of a batch and 0 for the others in the place of their `hardness` of [`measure`],
    `(batch_size, height, width)`, in which `count` pixels are valid. See `ohem_threshold` of [`LossSettings`].
    """
    if threshold is not None:
        least = kth_smallest(hardness, (count - 1).clamp(min=0, max=num_kept))
        hardness.copy_(hardness < least.clamp(min=threshold))
        return
    kept = count.clamp(max=num_kept)
    largest = kth_smallest(hardness, hardness.numel() - kept.clamp(min=1))
    remaining = kept - (hardness > largest).sum()
    for plane in hardness:
        # Of equal ones the first are taken.
        number = (plane == largest).flatten().cumsum(0, dtype=torch.int32).view_as(plane)
        last = number[-1, -1].clone()
        is_taken = (plane == largest) & (number <= remaining)
        plane.copy_((plane > largest) | is_taken)
        remaining = remaining - last


def region_losses(
    sums: torch.Tensor, terms: Sequence[tuple[float, float, float]], first_class: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum of Tversky losses from the sums of [`measure`], and its derivatives `(2, num_labels)` with
    respect to the first two of them. A term is a weight with α and β; Dice is the one with 1/2 and 1/2.
    """
    intersection, predicted, labelled = sums
    is_present = labelled > 0
    is_present[:first_class] = False
    loss, gradients = sums.new_zeros(()), torch.zeros_like(sums[:2])
    for weight, alpha, beta in terms:
        denominator = intersection + alpha * (predicted - intersection) + beta * (labelled - intersection)
        is_free = denominator > REGION_EPSILON
        denominator = denominator.clamp(min=REGION_EPSILON)
        share = is_present.to(sums) * weight / (len(labelled) - first_class)
        loss = loss + (share * (1 - intersection / denominator)).sum()
        slope = is_free * intersection / denominator**2
        gradients[0] -= share * (1 / denominator - slope * (1 - alpha - beta))
        gradients[1] += share * slope * alpha
    return loss, gradients


# The name is one for each copy of this file: a process may load those of several saved models.
@torch.library.custom_op(f"{__name__.replace('.', '_')}::weighted_losses", mutates_args=())
def weighted_losses(
    logits: torch.Tensor,
    labels: torch.Tensor,
    height: int,
    width: int,
    ignore_index: int,
    class_weights: torch.Tensor,
    label_smoothing: float,
    cross_entropy: float,
    focal: float,
    focal_gamma: float,
    focal_alpha: float | None,
    ohem: float,
    ohem_threshold: float | None,
    ohem_min_kept: int,
    dice: float,
    tversky: float,
    tversky_alpha: float,
    tversky_beta: float,
    first_class: int,
    needs_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A weighted sum of losses of logits resized to `height` × `width`, and its gradient, both fp32 at least. An
    operator of its own, which `torch.compile` does not look into. The classes' weights hold the division by the number
    of pixels; the classes before `first_class` have no region.
    """
    num_labels = logits.shape[1]
    check_ids(labels, num_labels, ignore_index)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    own = class_weights.to(logits.device, dtype)
    alphas = 1 if focal_alpha is None else own.new_tensor([1 - focal_alpha, focal_alpha])
    weights = Weights(
        own=own * (1 - label_smoothing),
        shared=own * (label_smoothing / num_labels) if label_smoothing else None,
        focal=own * alphas,
    )
    terms = [(dice, 0.5, 0.5), (tversky, tversky_alpha, tversky_beta)]
    terms = [term for term in terms if term[0]]
    gradient = empty_gradient(logits, needs_gradient)
    hardness = logits.new_zeros(labels.shape, dtype=dtype) if ohem else None

    def passed(pixel_loss: Any, with_gradient: bool, num_tensors: int = 1) -> torch.Tensor:
        numbers_per_pixel = num_tensors * num_labels + NUMBERS_BESIDE_SCORES
        sums = []
        for index, image_logits in enumerate(logits):
            maps, is_moderate = moderate_maps(image_logits, dtype)
            planes = [labels[index]] if hardness is None else [labels[index], hardness[index]]
            image_loss = partial(
                pixel_loss, ignore_index=ignore_index, weights=weights, subtract_maximum=not is_moderate
            )
            image_sum, image_gradient = sum_over_tiles(
                image_loss, maps, planes, (height, width), with_gradient, numbers_per_pixel
            )
            sums.append(image_sum)
            if image_gradient is not None:
                gradient[index].flatten(1).copy_(image_gradient.flatten(0, 1).T)
        return torch.stack(sums).sum(0)

    with torch.autocast(logits.device.type, enabled=False):
        loss, region_gradients = None, None
        if terms or ohem:
            sums = passed(partial(measure, by_probability=ohem_threshold is not None), with_gradient=False)
            if terms:
                loss, region_gradients = region_losses(sums, terms, first_class)
            if hardness is not None:
                choose_hard(hardness, sums[2].sum().long(), ohem_threshold, ohem_min_kept * len(logits))
        if needs_gradient or cross_entropy or focal or ohem:
            pixel_loss = partial(
                combine,
                cross_entropy=cross_entropy,
                focal=focal,
                focal_gamma=focal_gamma,
                ohem=ohem,
                region_gradients=None if region_gradients is None else region_gradients.to(dtype),
                needs_gradient=needs_gradient,
            )
            pixel_sum = passed(pixel_loss, needs_gradient, num_tensors=2 if terms else 1)
            loss = pixel_sum if loss is None else loss + pixel_sum
    return loss.to(dtype), gradient


@weighted_losses.register_fake
def _(logits, *arguments):  # type: ignore
    gradient = empty_gradient(logits, needs_gradient=arguments[-1])
    return gradient.new_empty(()), gradient


weighted_losses.register_autograd(scale_gradient, setup_context=keep_gradient)


def semantic_loss(
    logits: torch.Tensor, labels: torch.Tensor, size: tuple[int, int], settings: LossSettings
) -> torch.Tensor:
    """The weighted sum of losses of a batch that `settings` describe; 0 if no pixel is valid, or the batch is empty.

    The logits are resized to `size` and cut to the labels, see [`segmentation_loss`], which this is if the
    cross-entropy of several classes is the only loss.

    Args:
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels, h, w)`): At any resolution; of one logit a pixel
            for binary models.
        labels (`torch.LongTensor` of shape `(batch_size, height, width)`): Class ids, or `ignore_index`. For binary
            models 0 for the background, 1 for the foreground.
        size (`tuple[int, int]`): Height and width in pixels of the image that the logits cover.

    Raises:
        `IndexError`: labels on the CPU hold ids that are neither classes nor `ignore_index`.
        `ValueError`: the settings do not suit the number of logits.

    Example:

    ```python
    >>> import torch
    >>> from setr_hf import LossSettings, semantic_loss

    >>> logits, labels = torch.zeros(1, 4, 8, 8, requires_grad=True), torch.zeros(1, 60, 62, dtype=torch.long)
    >>> loss = semantic_loss(logits, labels, (64, 64), LossSettings({"focal": 1.0, "dice": 0.5}))
    >>> loss.backward()
    ```
    """
    settings.check_classes(logits.shape[1])
    is_binary = logits.shape[1] == 1
    if is_binary:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    given = None
    if settings.class_weights is not None:
        given = torch.tensor(settings.class_weights, dtype=dtype, device=logits.device)
    used = settings.used
    cross_entropy = used.get(BINARY_CROSS_ENTROPY if is_binary else CROSS_ENTROPY, 0)
    ignore_index, average, label_smoothing = settings.ignore_index, settings.average, settings.label_smoothing
    if len(used) == 1 and cross_entropy and not is_binary:
        loss = segmentation_loss(logits, labels, size, ignore_index, average, given, label_smoothing)
        return loss if cross_entropy == 1 else cross_entropy * loss
    if not len(logits):
        return logits.float().sum()
    class_weights = logits.new_ones(logits.shape[1], dtype=dtype) if given is None else given
    class_weights = class_weights / pixel_count(labels, ignore_index, average, given, dtype)
    loss, _ = weighted_losses(
        logits,
        labels,
        *size,
        ignore_index,
        class_weights,
        label_smoothing,
        cross_entropy,
        used.get(FOCAL, 0),
        settings.focal_gamma,
        settings.focal_alpha,
        used.get(OHEM, 0),
        settings.ohem_threshold,
        settings.ohem_min_kept,
        used.get(DICE, 0),
        used.get(TVERSKY, 0),
        settings.tversky_alpha,
        settings.tversky_beta,
        int(is_binary),
        logits.requires_grad and torch.is_grad_enabled(),
    )
    return loss


__all__ = ["semantic_loss"]
