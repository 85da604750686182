"""A folder that makes label maps of photos without torch: the network as `model.onnx`, which holds the settings of the
image processor, too, and `segment.py`, which does by them what the image processor and its post-processing do.
"""

import json
import shutil
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel

from ..errors import SetrError
from ..files import check_is_new, size_of, whole_folder
from ..inference.loading import load_model
from ..inference.photos import upright_rgb
from ..model.image_processing_setr import MAX_ENLARGED_PIXELS
from .agreement import agreement, label_maps, relative_difference
from .formats import OPSET, quiet
from .graph import sample_sizes
from .precision import reduced
from .writing import ExportReport, check_options, check_result


RUNTIME = Path(__file__).with_name("segment.py")
GRAPH_NAME = "model.onnx"


class WindowNetwork(nn.Module):
    """Windows as they are cut from a photo, uint8 `(batch_size, height, width, 3)`, to logits of the decoder's own
    resolution, `(batch_size, num_labels, h, w)`, those of the padding to whole patches included.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: PreTrainedModel, processor: BaseImageProcessor):
        super().__init__()
        self.model = model
        factor = processor.rescale_factor if processor.do_rescale else 1.0
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
        self.register_buffer("mean", torch.as_tensor(mean).reshape(-1, 1, 1) / factor)
        self.register_buffer("std", torch.as_tensor(std).reshape(-1, 1, 1) / factor)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        pixel_values = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
        feature_maps, _ = self.model._encode(pixel_values.to(self.model.dtype), with_auxiliary=False)
        return self.model._decode(feature_maps, with_auxiliary=False)[0].float()


def check_settings(processor: BaseImageProcessor, num_channels: int) -> None:
    """Raises a [`SetrError`] for settings of an image processor that `segment.py` cannot follow."""
    channels = len(processor.image_mean) if isinstance(processor.image_mean, (list, tuple)) else num_channels
    if num_channels != 3 or (processor.do_normalize and channels != 3):
        raise SetrError(
            f"the whole protocol is for RGB photos, but the model takes {num_channels} channels and image_mean has "
            f"{channels}: export it without --whole-protocol"
        )
    resample = getattr(processor.resample, "value", processor.resample)
    if processor.do_resize and resample not in (Image.Resampling.BILINEAR, "bilinear"):
        raise SetrError(
            f"the whole protocol resizes photos bilinearly, but resample of the image processor is {resample!r}: set "
            "it to 2 if the model was trained so, or export it without --whole-protocol"
        )
    if not processor.do_rescale and not processor.do_normalize:
        raise SetrError("the image processor neither rescales nor normalizes, and no model takes 8-bit intensities")


def segment_settings(network: WindowNetwork, processor: BaseImageProcessor) -> dict[str, Any]:
    """What `segment.py` reads from the metadata of `model.onnx`."""
    config = network.model.config
    with torch.no_grad():
        logits = network(torch.zeros(1, config.patch_size, config.patch_size, 3, dtype=torch.uint8))
    sizes = {name: getattr(processor.size, name) for name in ("height", "width", "shortest_edge", "longest_edge")}
    crop_size = processor.crop_size
    return {
        "size": {name: side for name, side in sizes.items() if side} if processor.do_resize else None,
        "antialias": bool(processor.antialias),
        "max_enlarged_pixels": MAX_ENLARGED_PIXELS,
        "crop": [crop_size.height, crop_size.width] if processor.do_split_image else None,
        "stride": processor.stride if processor.do_split_image else None,
        "patch_size": config.patch_size,
        "samples_per_patch": logits.shape[-1],
        "upsampling": network.model.decode_head.skipped_scale_factor,
        "num_labels": config.num_labels,
        "logit_threshold": processor.logit_threshold,
        "class_names": [config.id2label[index] for index in sorted(config.id2label)],
    }


def sample_windows(network: WindowNetwork) -> torch.Tensor:
    """A batch to trace a network with."""
    batch_size, height, width = sample_sizes(network.model.config.patch_size)
    return torch.randint(256, (batch_size, height, width, 3), dtype=torch.uint8)


def write_graph(network: WindowNetwork, settings: dict[str, Any], path: Path) -> None:
    """Writes the network with any number of windows of any height and width as ONNX, and the settings within."""
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            network,
            (sample_windows(network),),
            input_names=["pixels"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamic_shapes={"pixels": {0: "batch_size", 1: "height", 2: "width"}},
            verbose=False,
        )
    assert program is not None  # As it is only with `dynamo=False`.
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # They tell the paths of this computer.
    program.model.metadata_props["segment"] = json.dumps(settings)
    program.save(path)


def load_runtime(folder: Path) -> Any:
    """The module `segment.py` of an exported folder."""
    spec = spec_from_file_location("setr_hf_exported_segment", folder / RUNTIME.name)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found_by(runtime: Any, photo: Image.Image) -> torch.Tensor:
    """The label map of a photo by an exported folder, of ids that are no classes if it computes infinite numbers."""
    pixels = np.asarray(upright_rgb(photo))
    try:
        return torch.from_numpy(runtime.segment(pixels)).long()
    except ValueError:
        return torch.full(pixels.shape[:2], -1)


@torch.no_grad()
def largest_difference(network: WindowNetwork, runtime: Any) -> float:
    """The largest difference of the logits of a window, as a share of the largest."""
    windows = sample_windows(network)
    expected, (found,) = network(windows), runtime.load()[0].run(None, {"pixels": windows.numpy()})
    return relative_difference(torch.from_numpy(found), expected)


def export_whole_protocol(
    path: str | Path,
    output: str | Path,
    photos: list[Image.Image],
    dtype: str = "float32",
    min_agreement: float | None = None,
) -> ExportReport:
    """Writes a folder with `model.onnx` and `segment.py`, whose `segment(photo)` needs ONNX Runtime and NumPy alone
    and returns the label map of `pipeline("image-segmentation")`, if it does so on photos; else nothing.

    Args:
        path (`str` or `Path`): Folder or Hub id of a SETR and its image processor.
        output (`str` or `Path`): A folder that is new or empty.
        photos (`list[PIL.Image.Image]`): On which the label maps are compared.
        dtype, min_agreement: As in [`~export.writing.export_model`].

    Returns:
        [`ExportReport`]: What was written.

    Raises:
        [`SetrError`]: as in [`~export.writing.export_model`], or the image processor has settings that `segment.py`
            cannot follow.

    Example:

    ```python
    >>> from PIL import Image
    >>> from setr_hf.export.whole_protocol import export_whole_protocol

    >>> photos = [Image.open("photo.jpg")]  # doctest: +SKIP
    >>> export_whole_protocol("outputs/demo", "exported", photos).agreement  # doctest: +SKIP
    1.0
    ```
    """
    start = time.monotonic()
    min_agreement = check_options("onnx", dtype, min_agreement, photos)
    check_is_new(output)
    model, processor = load_model(path, "float32")
    check_settings(processor, model.config.num_channels)
    expected = label_maps(model, processor, photos)
    network = WindowNetwork(model, processor).eval()
    with whole_folder(output) as folder:
        reduced_network = WindowNetwork(reduced(model, dtype), processor).eval()
        write_graph(reduced_network, segment_settings(network, processor), folder / GRAPH_NAME)
        shutil.copy(RUNTIME, folder)
        runtime = load_runtime(folder)
        agreed = agreement(expected, [found_by(runtime, photo) for photo in photos])
        difference = largest_difference(network, runtime)
        check_result(model, processor, photos, dtype, min_agreement, agreed, difference)
        size = size_of(folder)
    return ExportReport(GRAPH_NAME, size, agreed.of_pixels, difference, time.monotonic() - start)
