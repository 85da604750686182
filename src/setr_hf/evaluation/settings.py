"""Everything the results of an evaluation depend on, so that results of different settings are never mixed."""

import torch

from ..data.rows import SegmentationData
from ..inference.segmenter import Segmenter
from ..inference.settings import digest


def evaluation_settings(segmenter: Segmenter, data: SegmentationData, batch_size: int = 1) -> dict:
    """Everything an evaluation depends on, batch sizes and CPU threads included, which change rounding."""
    device = segmenter.model.device.type
    return {
        **segmenter.settings(),
        # The images are not read.
        "dataset": digest(list(data.rows["name"]), data.label_set.lookup),
        "batch_size": batch_size,
        "window_batch_size": segmenter.window_batch_size,
        "device": device,
        "threads": torch.get_num_threads() if device == "cpu" else None,
    }
