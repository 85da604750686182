"""Everything the results of an evaluation depend on, so that results of different settings are never mixed."""

import torch

from ..data.rows import SegmentationData
from ..inference.settings import digest, model_settings
from .segmenter import Segmenter


def evaluation_settings(segmenter: Segmenter, data: SegmentationData, batch_size: int = 1) -> dict:
    """Everything an evaluation depends on; batch sizes and CPU threads change rounding and, rarely, a pixel."""
    model, scales = segmenter.model, segmenter.scales
    return {
        **model_settings(model, segmenter.processor),
        # The images are not read.
        "dataset": digest(list(data.rows["name"]), data.label_set.lookup),
        "protocol": "single" if scales is None else "multi",
        "scales": None if scales is None else list(scales),
        "mirrored": scales is not None,
        "dtype": str(model.dtype).removeprefix("torch."),
        "batch_size": batch_size,
        "window_batch_size": segmenter.window_batch_size,
        "device": model.device.type,
        "threads": torch.get_num_threads() if model.device.type == "cpu" else None,
    }
