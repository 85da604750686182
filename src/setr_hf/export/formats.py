"""The formats that a graph is written in, and how a file of each is run."""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.export import ExportedProgram

from ..errors import SetrError


# The first operator set of ONNX with a GELU.
OPSET = 20

# By default OpenVINO computes in bfloat16 where a processor can, and rounds what it multiplies int8 weights with.
OPENVINO_OPTIONS = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}

# From pixel values to logits, both float32.
Run = Callable[[np.ndarray], np.ndarray]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and log lines of exporters, which are about their own code."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """One file, unless protobuf's limit of 2 GB asks for a second one with the weights, which bears its name."""
    onnx_program = torch.onnx.export(
        program,
        kwargs={"pixel_values": program.example_inputs[1]["pixel_values"]},
        input_names=["pixel_values"],
        output_names=["logits"],
        opset_version=OPSET,
        verbose=False,
    )
    assert onnx_program is not None  # As it is only of models with `dynamo=False`.
    (pixel_values,), (logits,) = onnx_program.model.graph.inputs, onnx_program.model.graph.outputs
    for value, sizes in (
        (pixel_values, ("batch_size", "height", "width")),
        (logits, ("batch_size", "rows", "columns")),
    ):
        for axis, size in zip((0, 2, 3), sizes):
            value.shape[axis] = size  # type: ignore[index]
    onnx_program.save(path)


def load_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixel_values: session.run(["logits"], {"pixel_values": pixel_values})[0]


def write_openvino(program: ExportedProgram, path: Path) -> None:
    import openvino

    channels = program.example_inputs[1]["pixel_values"].shape[1]
    model = openvino.convert_model(program)
    for operation in model.get_ops():
        # Of torch's resizing to a single row or column it would take the first old sample, which torch does not.
        if operation.get_attributes().get("coordinate_transformation_mode") == "pytorch_half_pixel":
            operation.set_attribute("coordinate_transformation_mode", "half_pixel")
    model.inputs[0].set_names({"pixel_values"})
    model.outputs[0].set_names({"logits"})
    model.reshape({"pixel_values": [-1, channels, -1, -1]})
    openvino.save_model(model, path, compress_to_fp16=False)


def load_openvino(path: Path) -> Run:
    import openvino

    model = openvino.Core().compile_model(path, "CPU", OPENVINO_OPTIONS)
    return lambda pixel_values: model(pixel_values)["logits"]


def write_torch_export(program: ExportedProgram, path: Path) -> None:
    torch.export.save(program, path)


def load_torch_export(path: Path) -> Run:
    # Guards repeat what the code asked of the sizes, as for a shortcut at the native size of some backbones. The graph
    # is right without it.
    module = torch.export.load(path).module(check_guards=False)

    @torch.inference_mode()
    def run(pixel_values: np.ndarray) -> np.ndarray:
        return module(pixel_values=torch.from_numpy(pixel_values)).numpy()

    return run


class Format(NamedTuple):
    """How a graph is written to a file of this name, and how that is run; `packages` are what both need."""

    file_name: str
    packages: tuple[str, ...]
    write: Callable[[ExportedProgram, Path], None]
    load: Callable[[Path], Run]


FORMATS = {
    "onnx": Format("model.onnx", ("onnx", "onnxscript", "onnxruntime"), write_onnx, load_onnx),
    "openvino": Format("model.xml", ("openvino",), write_openvino, load_openvino),
    "torch-export": Format("model.pt2", (), write_torch_export, load_torch_export),
}


def check_packages(name: str) -> None:
    """Raises [`SetrError`] if a package that this format needs is missing."""
    missing = [package for package in FORMATS[name].packages if importlib.util.find_spec(package) is None]
    if missing:
        raise SetrError(f"--format {name} needs {' and '.join(missing)}: pip install 'setr-hf[export]'")
