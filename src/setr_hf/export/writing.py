"""A folder with a model in another format, and what is needed to run it."""

from pathlib import Path
from typing import NamedTuple

from ..files import size_of, whole_folder
from ..inference.loading import load_model
from .formats import FORMATS, check_packages, quiet
from .graph import trace


class ExportReport(NamedTuple):
    """What was written."""

    megabytes: float


def export_model(model: str | Path, output: str | Path, format_name: str) -> ExportReport:
    """Writes the model of a folder or Hub id in one of the `FORMATS`, with its configuration and image processor, to a
    new folder, whole or not at all.
    """
    check_packages(format_name)
    network, processor = load_model(model, "float32")
    chosen = FORMATS[format_name]
    with whole_folder(output) as folder:
        with quiet():
            chosen.write(trace(network), folder / chosen.file_name)
        network.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        return ExportReport(size_of(folder) / 1e6)
