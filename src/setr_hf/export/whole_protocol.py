"""A folder that makes label maps of photos without torch: the network as `model.onnx`, which holds the settings of the
image processor, too, and `segment.py`, which does by them what the image processor and its post-processing do.
"""

import json
import shutil
import warnings
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel

from ..errors import SetrError
from ..files import whole_folder
from ..inference.loading import load_model
from ..inference.sliding_windows import segment
from ..model.image_processing_setr import MAX_ENLARGED_PIXELS


RUNTIME = Path(__file__).with_name("segment.py")
# Share of the pixels of a photo of noise on which the folder must agree with torch before it is kept.
LEAST_AGREEMENT = 0.999
# One file of ONNX cannot hold 2 GiB; the rest is for the graph.
MOST_WEIGHTS_IN_GRAPH = 2 * 10**9
# Of the photo that the graph is traced with. Equal or whole numbers of patches might be taken for a rule.
TRACED_SIDES = (3, 5)


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
        feature_maps, _ = self.model._encode(pixel_values, with_auxiliary=False)
        return self.model._decode(feature_maps, with_auxiliary=False)[0]


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
            f"the whole protocol resizes photos bilinearly, but the image processor's resample is {resample!r}: set it "
            "to 2 if the model was trained so, or export it without --whole-protocol"
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


def write_graph(network: WindowNetwork, settings: dict[str, Any], path: Path) -> None:
    """Writes the network with any number of windows of any height and width as ONNX, and the settings within."""
    sides = (side * network.model.config.patch_size - 3 for side in TRACED_SIDES)
    pixels = torch.zeros(2, *sides, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of names of axes, among others.
        program = torch.onnx.export(
            network,
            (pixels,),
            dynamo=True,
            verbose=False,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes={"pixels": {0: "batch_size", 1: "height", 2: "width"}},
        )
    program.model.metadata_props["segment"] = json.dumps(settings)
    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    program.save(path, external_data=weights > MOST_WEIGHTS_IN_GRAPH)


def load_runtime(folder: Path) -> Any:
    """The module `segment.py` of an exported folder."""
    spec = spec_from_file_location("setr_hf_exported_segment", folder / RUNTIME.name)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def agreement(folder: Path, model: PreTrainedModel, processor: BaseImageProcessor) -> float:
    """Share of the pixels of a photo of noise that have the same class in an exported folder as in torch."""
    crop = processor.crop_size if processor.do_split_image else None
    height, width = (crop.height, crop.width * 3 // 2) if crop else (300, 400)
    noise = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    photo = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    expected = segment(model, processor, [photo], window_batch_size=1)[0].numpy()
    return float((load_runtime(folder).segment(np.asarray(photo)) == expected).mean())


def export_whole_protocol(path: str | Path, output: Path) -> float:
    """Writes a folder with `model.onnx` and `segment.py`, whose `segment(photo)` needs ONNX Runtime and NumPy and
    returns the label map of `pipeline("image-segmentation")`.

    Args:
        path (`str` or `Path`): Folder or Hub id of a model and its image processor, which is exported in float32.
        output (`Path`): Folder to write, which is new or empty.

    Returns:
        `float`: Share of the pixels of a photo of noise on which the folder agrees with torch.

    Raises:
        [`SetrError`]: the model cannot be loaded, its image processor has settings that `segment.py` cannot follow,
            packages of the extra `export` are missing, or the folder does not agree with torch.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SetrError(f"exports need an extra: pip install 'setr-hf[export]' ({error})") from error
    model, processor = load_model(path, dtype="float32")
    check_settings(processor, model.config.num_channels)
    network = WindowNetwork(model, processor).eval()
    with whole_folder(output) as folder:
        write_graph(network, segment_settings(network, processor), folder / "model.onnx")
        shutil.copy(RUNTIME, folder)
        share = agreement(folder, model, processor)
        if not share >= LEAST_AGREEMENT:
            raise SetrError(
                f"the exported {path} agrees with torch on {share:.2%} of the pixels of a photo of noise, less than "
                f"{LEAST_AGREEMENT:.1%}: nothing is written"
            )
    return share
