"""Segmentation losses as a reader of the papers would write them: on full-resolution logits, with autograd."""

import torch
from torch.nn import functional as F


def full_resolution(logits, labels, size):
    """Resized and cut logits, and probabilities; those of a binary model as of two classes."""
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    resized = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return resized[..., : labels.shape[1], : labels.shape[2]]


def class_weight_tensor(scores, settings):
    weights = settings.class_weights
    return None if weights is None else torch.tensor(weights, dtype=scores.dtype, device=scores.device)


def cross_entropy_map(scores, labels, settings):
    options = {"weight": class_weight_tensor(scores, settings), "label_smoothing": settings.label_smoothing}
    return F.cross_entropy(scores, labels, ignore_index=settings.ignore_index, reduction="none", **options)


def focal_map(scores, labels, settings):
    weight = class_weight_tensor(scores, settings)
    negative_log = F.cross_entropy(scores, labels, ignore_index=settings.ignore_index, reduction="none")
    losses = (1 - torch.exp(-negative_log)) ** settings.focal_gamma * negative_log
    classes = labels.where(labels != settings.ignore_index, 0)
    if weight is not None:
        losses = losses * weight[classes]
    if settings.focal_alpha is not None:
        losses = losses * torch.where(classes == 1, settings.focal_alpha, 1 - settings.focal_alpha)
    return losses


def hard_pixels(scores, labels, settings):
    """1 for the pixels that mmsegmentation's OHEMPixelSampler keeps, 0 for the others."""
    valid = labels != settings.ignore_index
    num_kept = settings.ohem_min_kept * len(labels)
    chosen = torch.zeros(labels.shape, dtype=scores.dtype, device=scores.device)
    with torch.no_grad():
        if settings.ohem_threshold is None:
            losses = cross_entropy_map(scores, labels, settings)[valid]
            selected = torch.zeros_like(losses)
            selected[losses.argsort(descending=True, stable=True)[:num_kept]] = 1
        else:
            classes = labels.where(valid, 0)[:, None]
            probabilities = scores.softmax(1).gather(1, classes)[:, 0][valid]
            ordered = probabilities.sort().values
            least = ordered[min(num_kept, len(ordered) - 1)] if len(ordered) else 0.0
            selected = (probabilities < max(float(least), settings.ohem_threshold)).to(scores)
    chosen[valid] = selected
    return chosen


def mean_over_pixels(losses, labels, settings):
    if settings.average == "all":
        return losses.sum() / labels.numel()
    valid = labels != settings.ignore_index
    weight = class_weight_tensor(losses, settings)
    count = valid.sum() if weight is None else (weight[labels.where(valid, 0)] * valid).sum()
    return losses.sum() / (count if count else 1)


def tversky_mean(scores, labels, settings, alpha, beta, is_binary):
    valid = (labels != settings.ignore_index)[:, None]
    probabilities = scores.softmax(1) * valid
    target = F.one_hot(labels.where(valid[:, 0], 0), scores.shape[1]).movedim(-1, 1) * valid
    true_positives = (probabilities * target).sum((0, 2, 3))
    false_positives = (probabilities * (1 - target)).sum((0, 2, 3))
    false_negatives = ((1 - probabilities) * target).sum((0, 2, 3))
    index = true_positives / (true_positives + alpha * false_positives + beta * false_negatives).clamp(min=1e-7)
    losses = (1 - index) * (target.sum((0, 2, 3)) > 0)
    return losses[int(is_binary) :].mean()


def plain_semantic_loss(logits, labels, size, settings):
    """The value that `semantic_loss` has to have."""
    scores, is_binary = full_resolution(logits, labels, size), logits.shape[1] == 1
    total = 0
    for name, weight in settings.used.items():
        if name in ("cross_entropy", "binary_cross_entropy"):
            loss = mean_over_pixels(cross_entropy_map(scores, labels, settings), labels, settings)
        elif name == "focal":
            loss = mean_over_pixels(focal_map(scores, labels, settings), labels, settings)
        elif name == "ohem":
            losses = cross_entropy_map(scores, labels, settings) * hard_pixels(scores, labels, settings)
            loss = mean_over_pixels(losses, labels, settings)
        else:
            alpha, beta = (0.5, 0.5) if name == "dice" else (settings.tversky_alpha, settings.tversky_beta)
            loss = tversky_mean(scores, labels, settings, alpha, beta, is_binary)
        total = total + weight * loss
    return total
