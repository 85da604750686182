"""The cross-entropy, and sums over pixels, of logits resized to the labels, which are never held at that size.

Resizing is linear and separable. The class scores of a tile of pixels come from the logits around it by two small
matrix products, and the gradient of the scores goes back by the transposed ones, tile after tile.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch.autograd.function import once_differentiable

from .interpolation_setr import interpolation_matrix, slices, source_range


# Scores in a tile: on a CPU few enough for its cache and enough to outweigh the calls, elsewhere enough to keep the
# device busy.
CPU_TILE_SCORES = 2**18
DEVICE_TILE_SCORES = 2**24
# Low tiles have narrow bands of source rows, which the matrix products are as expensive as.
TILE_ROWS = 32
# Powers of two from here up to 0 are ordinary numbers of fp32, and so are their sums.
LOWEST_EXPONENT = -100


def sum_over_tiles(
    pixel_loss: Callable[..., torch.Tensor],
    maps: torch.Tensor,
    planes: Sequence[torch.Tensor],
    size: tuple[int, int],
    needs_gradient: bool,
    numbers_per_pixel: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The sum of a loss over the pixels of one image, and its gradient with respect to `maps`.

    Args:
        pixel_loss: Takes the scores `(num_pixels, num_labels)` of a tile and the part `(rows, columns)` of each plane,
            and returns the sum of its losses, or several sums. If a gradient is needed, it leaves that of the scores
            in their place.
        maps (`torch.Tensor` of shape `(h, w, num_labels)`): What the scores are resized from.
        planes (tensors of shape `(height, width)`): The labels, and what else is known of each pixel. Of `size` or
            smaller; what of `size` lies beyond has no part in the sum.
        size (`tuple[int, int]`): Height and width that `maps` are resized to.
        numbers_per_pixel (`int`, *optional*): How many `pixel_loss` holds at once, the scores among them; by default
            the scores alone.
    """
    (height, width), (source_height, source_width, num_labels) = planes[0].shape, maps.shape
    all_rows = interpolation_matrix(source_height, size[0], dtype=maps.dtype, device=maps.device)
    all_columns = interpolation_matrix(source_width, size[1], dtype=maps.dtype, device=maps.device)
    tile_scores = CPU_TILE_SCORES if maps.device.type == "cpu" else DEVICE_TILE_SCORES
    tile_pixels = max(tile_scores // (numbers_per_pixel or num_labels), 1)
    tile_width = min(max(tile_pixels // TILE_ROWS, 1), width)
    tile_height = min(max(tile_pixels // tile_width, 1), height)
    # The same memory for all tiles: between the sums, which stay, the allocator would find new places again and again.
    tile = maps.new_empty(tile_height * tile_width * num_labels)
    sums = []
    gradient = torch.zeros_like(maps) if needs_gradient else None
    for columns in slices(0, width, tile_width):
        source_columns = slice(*source_range(columns.start, columns.stop, source_width, size[1]))
        weights = all_columns[columns, source_columns].expand(source_height, -1, -1)
        # One tile wide and as high as the source: (h, tile_width * num_labels).
        stretched = torch.bmm(weights, maps[:, source_columns]).flatten(1)
        stretched_gradient = torch.zeros_like(stretched) if needs_gradient else None
        for rows in slices(0, height, tile_height):
            source_rows = slice(*source_range(rows.start, rows.stop, source_height, size[0]))
            row_weights = all_rows[rows, source_rows]
            scores = tile[: len(row_weights) * stretched.shape[1]].view(len(row_weights), -1)
            torch.mm(row_weights, stretched[source_rows], out=scores)
            sums.append(pixel_loss(scores.view(-1, num_labels), *(plane[rows, columns] for plane in planes)))
            if needs_gradient:
                stretched_gradient[source_rows].addmm_(row_weights.T, scores)
        if needs_gradient:
            stretched_gradient = stretched_gradient.unflatten(1, (-1, num_labels))
            gradient[:, source_columns] += torch.bmm(weights.transpose(1, 2), stretched_gradient)
    return torch.stack(sums).sum(0), gradient


def cross_entropy(
    scores: torch.Tensor,
    labels: torch.Tensor,
    ignore_index: int,
    own_weights: torch.Tensor,
    shared_weights: torch.Tensor | None,
    subtract_maximum: bool,
    needs_gradient: bool,
) -> torch.Tensor:
    """A pixel loss of [`sum_over_tiles`]: cross-entropies against targets that give a pixel's own class its weight
    in `own_weights` and, with label smoothing, every class its one in `shared_weights`.

    The scores are logarithms to base 2, whose power is quicker than that of e, and the gradient they are replaced with
    is that of the natural ones.
    """
    labels = labels.flatten()
    valid = labels != ignore_index
    classes = labels.where(valid, 0)[:, None]
    if subtract_maximum:
        scores -= scores.amax(1, keepdim=True)
    own_weight = own_weights[classes] * valid[:, None]
    weight = own_weight
    weighted_score = scores.gather(1, classes) * own_weight
    if shared_weights is not None:
        weight = weight + shared_weights.sum() * valid[:, None]
        weighted_score += (scores @ shared_weights)[:, None] * valid[:, None]
    powers = scores.exp2_()
    total = powers.sum(1, keepdim=True)
    loss = (weight * total.log2() - weighted_score).sum() * math.log(2)
    if needs_gradient:
        powers *= weight / total
        powers.scatter_add_(1, classes, -own_weight)
        if shared_weights is not None:
            powers.addcmul_(valid[:, None].to(powers), shared_weights, value=-1)
    return loss


def check_ids(labels: torch.Tensor, num_labels: int, ignore_index: int) -> None:
    """Raises `IndexError` for labels that are not classes. Only on the CPU: elsewhere looking for them would wait for
    the device, where `gather` has its own assertion.
    """
    if labels.device.type == "cpu":
        invalid = ((labels < 0) | (labels >= num_labels)) & (labels != ignore_index)
        if invalid.any():
            raise IndexError(f"labels hold ids that are not among the {num_labels} classes")


def moderate_maps(logits: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, bool]:
    """The logits `(num_labels, h, w)` of an image as maps `(h, w, num_labels)` for [`sum_over_tiles`], to base 2; and
    whether the scores that are resized from them are moderate enough for powers without a maximum subtracted.
    """
    maps = logits.to(dtype).flatten(1).T.clone(memory_format=torch.contiguous_format)
    # Being linear, the subtraction of a maximum may precede the resizing. What remains above the lowest exponent then
    # needs no maximum of its own for each pixel.
    maps -= maps.amax(1, keepdim=True)
    maps *= 1 / math.log(2)
    is_moderate = maps.device.type == "cpu" and maps.amin().item() >= LOWEST_EXPONENT
    return maps.view(*logits.shape[1:], logits.shape[0]), is_moderate


def empty_gradient(logits: torch.Tensor, needs_gradient: bool) -> torch.Tensor:
    """Memory for a gradient in fp32 at least, in the order of the logits, which the decoder would otherwise bring it
    into; empty if none is needed.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return torch.empty_like(logits, dtype=dtype) if needs_gradient else logits.new_empty(0, dtype=dtype)


# The name is one for each copy of this file: a process may load those of several saved models.
@torch.library.custom_op(f"{__name__.replace('.', '_')}::summed_cross_entropy", mutates_args=())
def summed_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    height: int,
    width: int,
    ignore_index: int,
    weight: torch.Tensor | None,
    label_smoothing: float,
    needs_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy, summed over the valid pixels of a batch, of logits resized to `height` × `width`, and its
    gradient in the precision of the sums, fp32 at least. An operator of its own, which `torch.compile` does not look
    into.
    """
    num_labels = logits.shape[1]
    check_ids(labels, num_labels, ignore_index)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    weights = (
        torch.ones(num_labels, dtype=dtype, device=logits.device)
        if weight is None
        else weight.to(logits.device, dtype)
    )
    pixel_loss = partial(
        cross_entropy,
        ignore_index=ignore_index,
        own_weights=weights * (1 - label_smoothing),
        shared_weights=weights * (label_smoothing / num_labels) if label_smoothing else None,
        needs_gradient=needs_gradient,
    )
    sums = []
    gradient = empty_gradient(logits, needs_gradient)
    with torch.autocast(logits.device.type, enabled=False):
        for index, (image_logits, image_labels) in enumerate(zip(logits, labels)):
            maps, is_moderate = moderate_maps(image_logits, dtype)
            image_sum, image_gradient = sum_over_tiles(
                partial(pixel_loss, subtract_maximum=not is_moderate),
                maps,
                [image_labels],
                (height, width),
                needs_gradient,
            )
            sums.append(image_sum)
            if needs_gradient:
                gradient[index].flatten(1).copy_(image_gradient.flatten(0, 1).T)
    return torch.stack(sums).sum(), gradient


@summed_cross_entropy.register_fake
def _(logits, labels, height, width, ignore_index, weight, label_smoothing, needs_gradient):  # type: ignore
    gradient = empty_gradient(logits, needs_gradient)
    return gradient.new_empty(()), gradient


def keep_gradient(ctx, inputs, output):  # type: ignore
    ctx.dtype, ctx.num_inputs = inputs[0].dtype, len(inputs)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])


@once_differentiable
def scale_gradient(ctx, loss_gradient, _):  # type: ignore
    (gradient,) = ctx.saved_tensors
    first = None if loss_gradient is None else (gradient * loss_gradient).to(ctx.dtype)
    return first, *[None] * (ctx.num_inputs - 1)


summed_cross_entropy.register_autograd(scale_gradient, setup_context=keep_gradient)


def pixel_count(
    labels: torch.Tensor, ignore_index: int, average: str, weight: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor | int:
    """What a sum over the pixels of a batch is divided by, see [`segmentation_loss`]; 1 where it would be 0."""
    if average == "all":
        return labels.numel()
    valid = labels != ignore_index
    count = (valid if weight is None else weight.to(labels.device, dtype)[labels.where(valid, 0)] * valid).sum()
    return count.where(count != 0, 1)


def segmentation_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    size: tuple[int, int],
    ignore_index: int,
    average: str = "valid",
    weight: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Mean cross-entropy over the pixels of a batch; 0 if none is valid, or the batch is empty.

    The logits are resized to `size` (the image padded to whole patches) and cut to the labels, a tile of pixels at a
    time. The gradient is computed along with the loss, at the resolution of the logits, and has no derivative itself.

    Args:
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels, h, w)`): At any resolution.
        labels (`torch.LongTensor` of shape `(batch_size, height, width)`): Class ids, or `ignore_index`.
        average (`str`, defaults to `"valid"`): `"valid"` for the mean over the pixels that are not ignored,
            weighted if there are weights. `"all"` for the sum divided by the number of all pixels, to which ignored
            ones add a loss of 0: the paper's training. The mean over equal batches is then that over the whole, so
            gradients that are accumulated, or averaged over processes, are exact. With `"valid"` each batch weighs the
            same, however few valid pixels it has, as in the other models of Transformers.
        weight (`torch.FloatTensor` of shape `(num_labels,)`, *optional*): Weight of the pixels of each class.
        label_smoothing (`float`, defaults to 0.0): Share of the target, from 0 to 1, that is spread over all classes.
            Both are those of [`~torch.nn.functional.cross_entropy`].

    Raises:
        `IndexError`: labels on the CPU hold ids that are neither classes nor `ignore_index`.
    """
    if not len(logits):
        return logits.float().sum()
    needs_gradient = logits.requires_grad and torch.is_grad_enabled()
    total, _ = summed_cross_entropy(logits, labels, *size, ignore_index, weight, label_smoothing, needs_gradient)
    return total / pixel_count(labels, ignore_index, average, weight, total.dtype)
