"""Everything the results of an evaluation depend on, so that results of different settings are never mixed."""

import hashlib
import json

import numpy as np
import torch

from ..data.rows import SegmentationData
from .segmenter import Segmenter


def digest(content: dict | list, *tensors: np.ndarray) -> str:
    """16 hex digits, different for different contents."""
    total = hashlib.sha256()
    for part in (json.dumps(content, sort_keys=True, default=str).encode(), *(t.tobytes() for t in tensors)):
        total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()[:16]


def evaluation_settings(segmenter: Segmenter, data: SegmentationData, batch_size: int = 1) -> dict:
    """Everything an evaluation depends on; batch sizes and CPU threads change rounding and, rarely, a pixel."""
    model, scales = segmenter.model, segmenter.scales
    # Fields that change nothing of what is computed.
    without = {"_name_or_path", "transformers_version", "dtype", "id2label", "label2id", "palette", "auto_map"}
    config, processor = (
        {name: value for name, value in part.to_dict().items() if name not in without}
        for part in (model.config, segmenter.processor)
    )
    tensors = (tensor.cpu().contiguous() for _, tensor in sorted(model.state_dict().items()))
    return {
        "model": digest(config, *(tensor.view(-1).view(torch.uint8).numpy() for tensor in tensors)),
        "image_processor": digest(processor),
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
