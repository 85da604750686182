"""A model as jobs load it, with its test protocol; of an evaluation, its classes are those of the data."""

import torch

from ..data.label_sets import LabelSet, check_classes
from ..data.public_datasets import protocol_scales
from ..errors import SetrError
from ..inference.arguments import ProtocolArguments
from ..inference.devices import warn_if_imitated
from ..inference.loading import load_model
from ..inference.segmenter import Segmenter


def load_segmenter(
    path: str, label_set: LabelSet | None, arguments: ProtocolArguments, device: str | torch.device = "cpu"
) -> Segmenter:
    """The model of a folder or Hub id and its test protocol. Raises [`SetrError`] if the model cannot be loaded or has
    other classes than the data set, if there is one, or its image processor does not cut the windows that several
    scales need.
    """
    warn_if_imitated(arguments.dtype, device)
    model, processor = load_model(path, arguments.dtype, device, arguments.quantization)
    if label_set is not None:
        try:
            check_classes(model.config, label_set)
        except SetrError as error:
            raise SetrError(f"{path}: {error}") from error
    scales = protocol_scales(arguments.protocol, arguments.scales, model.config.dataset, model.config.decoder_type)
    return Segmenter(model, processor, scales, arguments.window_batch_size)
