"""Everything the results of an evaluation depend on, so that results of different settings are never mixed."""

import hashlib
import json

import numpy as np
import torch
from transformers import BaseImageProcessor, PreTrainedModel

from ..data.rows import SegmentationData
from .segmenter import Segmenter


def digest(*parts: bytes) -> str:
    """16 hex digits, different for different contents."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()[:16]


def model_digest(model: PreTrainedModel) -> str:
    """Of a model's weights, and of those fields of its configuration that change what it computes."""
    config = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version", "dtype", "id2label", "label2id", "palette"):
        config.pop(name, None)
    tensors = model.state_dict()
    parts = (np.asarray(tensors[key].cpu().contiguous().view(-1).view(torch.uint8)) for key in sorted(tensors))
    return digest(json.dumps(config, sort_keys=True, default=str).encode(), *(part.tobytes() for part in parts))


def processor_digest(processor: BaseImageProcessor) -> str:
    """Of an image processor's fields."""
    fields = {key: value for key, value in processor.to_dict().items() if key not in ("auto_map", "_name_or_path")}
    return digest(json.dumps(fields, sort_keys=True, default=str).encode())


def dataset_digest(data: SegmentationData) -> str:
    """Of the names of a data set's images and the meaning of its annotations; the images are not read."""
    return digest(json.dumps(list(data.rows["name"])).encode(), data.label_set.lookup.tobytes())


def evaluation_settings(segmenter: Segmenter, data: SegmentationData, batch_size: int = 1) -> dict:
    """
    Everything an evaluation depends on. Batch sizes and CPU threads are part of it because they change the rounding of
    floating-point sums, and so, rarely, the class of a pixel.
    """
    model, scales = segmenter.model, segmenter.scales
    return {
        "model": model_digest(model),
        "image_processor": processor_digest(segmenter.processor),
        "dataset": dataset_digest(data),
        "protocol": "single" if scales is None else "multi",
        "scales": None if scales is None else list(scales),
        "mirrored": scales is not None,
        "dtype": str(model.dtype).removeprefix("torch."),
        "batch_size": batch_size,
        "window_batch_size": segmenter.window_batch_size,
        "device": model.device.type,
        "threads": torch.get_num_threads() if model.device.type == "cpu" else None,
    }
