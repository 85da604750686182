"""A folder with a model in another format, checked against the original, and what is needed to run it."""

import json
import time
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from transformers import BaseImageProcessor, PreTrainedModel
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME

from ..errors import SetrError
from ..files import check_is_new, size_of, whole_folder
from ..inference.loading import load_model
from .agreement import Agreement, exported_agreement, label_maps, largest_difference, layer_losses
from .formats import FORMATS, check_packages, quiet
from .graph import sample_pixels, trace
from .precision import DTYPES, reduced
from .running import ExportedModel
from .usage import usage


# The share of pixels that must keep their class.
MIN_AGREEMENT = {"float32": 0.9999, "float16": 0.999, "int8": 0.999}
# Of float32, as a share of the largest logit.
MAX_DIFFERENCE = 1e-3


class ExportReport(NamedTuple):
    """What was written: the name of the file, bytes with its weights, the share of pixels that keep their class, the
    largest difference of the logits as a share of the largest, and how long it took.
    """

    file_name: str
    size: int
    agreement: float
    difference: float
    seconds: float


def check_options(format_name: str, dtype: str, min_agreement: float | None, photos: list[Image.Image]) -> float:
    """The agreement that is asked for. Raises [`SetrError`] if an option is out of range, or a package is missing."""
    if format_name not in FORMATS:
        raise SetrError(f"format must be one of {', '.join(FORMATS)}, got {format_name!r}")
    if dtype not in DTYPES:
        raise SetrError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if min_agreement is None:
        min_agreement = MIN_AGREEMENT[dtype]
    if not 0 < min_agreement <= 1:
        raise SetrError(f"min_agreement must be more than 0 and at most 1, got {min_agreement:g}")
    if not photos:
        raise SetrError("there are no photos to compare label maps on")
    check_packages(format_name)
    return min_agreement


def refusal(
    model: PreTrainedModel, processor: BaseImageProcessor, photo: Image.Image, dtype: str, agreed: str
) -> SetrError:
    """Why a model is not written, with the layer to blame if there is one."""
    if dtype == "float32":
        return SetrError(f"nothing is written: {agreed}")
    worst = layer_losses(model, processor, photo, dtype)[0]
    return SetrError(
        f"nothing is written: in {dtype}, {agreed}. The layer that loses most is {worst.layer}: in {dtype} by itself "
        f"it changes {100 * min(worst.pixels, 1):.3g} % of the pixels and the logits by {100 * worst.logits:.3g} %"
    )


def check_result(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    photos: list[Image.Image],
    dtype: str,
    min_agreement: float,
    agreed: Agreement,
    difference: float,
) -> None:
    """Raises a [`SetrError`] if an export finds too little of what the model finds."""
    if agreed.of_pixels < min_agreement:
        least = min(range(len(photos)), key=lambda index: agreed.of_photos[index])
        text = f"only {100 * agreed.of_pixels:.4f} % of the pixels keep their class, {100 * min_agreement:g} % asked"
        raise refusal(model, processor, photos[least], dtype, text)
    if dtype == "float32" and not difference <= MAX_DIFFERENCE:
        text = f"logits differ by {100 * difference:.3g} % of the largest, {100 * MAX_DIFFERENCE:g} % allowed"
        raise refusal(model, processor, photos[0], dtype, text)


def export_model(
    path: str | Path,
    output: str | Path,
    format_name: str,
    photos: list[Image.Image],
    dtype: str = "float32",
    min_agreement: float | None = None,
) -> ExportReport:
    """Writes a model in another format to a new folder, with its configuration and image processor, if it finds what
    the original finds; else nothing.

    Args:
        path (`str` or `Path`): Folder or Hub id of a SETR.
        output (`str` or `Path`): A folder that is new or empty.
        format_name (`str`): One of `FORMATS`.
        photos (`list[PIL.Image.Image]`): On which the label maps are compared, by the test protocol of the model.
        dtype (`str`, *optional*, defaults to `"float32"`): One of `DTYPES`: `"float16"` computes in that, but OpenVINO
            in what its device prefers; with `"int8"` the weights of linear layers and convolutions are of 8 bits, and
            computed with in float32.
        min_agreement (`float`, *optional*): The share of pixels that must keep their class, up to 1. By default 0.9999
            in float32, and 0.999 in less.

    Returns:
        [`ExportReport`]: What was written.

    Raises:
        [`SetrError`]: an option is out of range, a package is missing, the folder exists, there is no such model, or
            label maps agree less than asked; then the error names the layer that loses most.

    Example:

    ```python
    >>> from PIL import Image
    >>> from setr_hf.export.writing import export_model

    >>> photos = [Image.open("photo.jpg")]  # doctest: +SKIP
    >>> export_model("outputs/demo", "exported", "onnx", photos, dtype="int8").agreement  # doctest: +SKIP
    0.9996
    ```
    """
    start = time.monotonic()
    min_agreement = check_options(format_name, dtype, min_agreement, photos)
    check_is_new(output)
    model, processor = load_model(path, "float32")
    model.requires_grad_(False)
    chosen = FORMATS[format_name]
    expected = label_maps(model, processor, photos)
    with whole_folder(output) as folder:
        with quiet():
            chosen.write(trace(reduced(model, dtype)), folder / chosen.file_name)
        exported = ExportedModel(model.config, chosen.load(folder / chosen.file_name))
        agreed = exported_agreement(exported, processor, photos, expected)
        difference = largest_difference(model, exported, sample_pixels(model))
        check_result(model, processor, photos, dtype, min_agreement, agreed, difference)
        size = size_of(folder)
        write_settings(model, processor, folder)
        (folder / "README.md").write_text(usage(chosen.file_name, model.config, dtype), encoding="utf-8")
    return ExportReport(chosen.file_name, size, agreed.of_pixels, difference, time.monotonic() - start)


def write_settings(model: PreTrainedModel, processor: BaseImageProcessor, folder: Path) -> None:
    """The configuration and image processor as JSON, without the code that travels with weights."""
    for part, name in ((model.config, CONFIG_NAME), (processor, IMAGE_PROCESSOR_NAME)):
        settings = json.loads(part.to_json_string())
        settings.pop("auto_map", None)
        (folder / name).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
