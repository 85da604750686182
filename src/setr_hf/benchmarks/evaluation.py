"""The multi-scale protocol on a data set, from files to the confusion matrix, beside plain code and mmsegmentation.

By default with a tiny encoder, which leaves what is done around it to be seen.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ..data.public_datasets import PUBLISHED_SCALES
from ..metrics.confusion import confusion_matrix
from .folders import DATA_OPTIONS, data_folder, read_folder
from .measuring import MMSEG, OURS, Comparison
from .networks import network_name, network_setting, on_device, our_model, plain_model
from .photos import our_segmenter, plain_segmenter


PLAIN = "plain PyTorch"
OPTIONS = (*DATA_OPTIONS, "decoders", "model_size", "size", "dtypes", "scales")


def evaluate(segmenter: Callable[..., torch.Tensor], setting: dict[str, Any]) -> Callable[[], np.ndarray]:
    data, num_labels = read_folder(setting["folder"]), setting["num_labels"]

    def run() -> np.ndarray:
        samples = map(data.read_labelled, data.undecoded)
        matrices = [confusion_matrix(segmenter(sample.photo), sample.label_map, num_labels) for sample in samples]
        return np.sum(matrices, axis=0)

    return run


def ours(setting: dict[str, Any]) -> Callable[[], np.ndarray]:
    return evaluate(our_segmenter(on_device(our_model(setting), setting), setting), setting)


def reference(setting: dict[str, Any]) -> Callable[[], np.ndarray]:
    return evaluate(plain_segmenter(on_device(plain_model(setting), setting), setting), setting)


CODES = {OURS: ours, PLAIN: reference}


def comparisons(options: Namespace) -> Iterator[Comparison]:
    scales = options.scales or PUBLISHED_SCALES
    with data_folder(options) as (title, folder, first):
        num_labels = len(read_folder(str(folder)).label_set.names)
        for decoder in options.decoders or ("mla",):
            for dtype in options.dtypes or ("float32",):
                setting = network_setting(options, decoder, dtype, "tiny")
                yield Comparison(
                    title=f"{title}, {len(scales)} scales, {network_name(setting)}",
                    module=__name__,
                    setting=setting | {"folder": str(folder), "scales": scales, "num_labels": num_labels},
                    references=(PLAIN, MMSEG),
                    mmseg_code="evaluation",
                    warm_up={"folder": str(first), "size": 32, "scales": (1.0,)},
                )
