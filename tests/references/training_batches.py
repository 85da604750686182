"""The batches and the length of the schedule that our training and the reference implementations' are compared on."""

import numpy as np
import torch


# Height and width of the crops of each step. The position embeddings are made for the first; the original code takes
# no others.
SIZES = {"mmseg": [(64, 64), (96, 64), (48, 112), (64, 64), (80, 80)], "original": [(64, 64)] * 5}
# Of the schedule; the five steps reach half of it.
SCHEDULE_STEPS = 10


def training_batches(implementation: str, num_classes: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """
    A batch of four images for each of `SIZES[implementation]`: `pixel_values` `(4, 3, h, w)`, normalized, and `labels`
    `(4, h, w)`. Classes come in blocks that show in the pixels. Every image has ignored pixels (255); of the second
    only the upper left part is image and the rest padding, and nothing of the last is labelled. NumPy keeps the stream
    of its `RandomState` the same for ever.
    """
    random = np.random.RandomState(20)
    batches = []
    for height, width in SIZES[implementation]:
        labels = random.randint(num_classes, size=(4, height // 8, width // 8)).repeat(8, axis=1).repeat(8, axis=2)
        colours = 0.5 * np.sin(labels[:, None] + np.arange(3)[:, None, None])
        pixel_values = colours + random.standard_normal((4, 3, height, width))
        labels[random.random_sample(labels.shape) < 0.1] = 255
        for padding in (np.s_[1, ..., height // 2 + 5 :, :], np.s_[1, ..., width - 21 :]):
            pixel_values[padding] = 0
            labels[padding] = 255
        labels[-1] = 255
        batches.append((torch.from_numpy(pixel_values.astype(np.float32)), torch.from_numpy(labels)))
    return batches
