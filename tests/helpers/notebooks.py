"""Executes the notebooks of docs/, in a folder of their own and with other parameters.

`python tests/helpers/notebooks.py` executes those in the repository as they are, and stores them with what they print
and show.
"""

import hashlib
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from paths import ROOT


NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
# Of any Python, not of the one that executed it.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path: Path, folder: Path, parameters: str | None = None, **variables: str) -> nbformat.NotebookNode:
    """The notebook with its outputs, executed in `folder` with these environment variables. `parameters` takes the
    place of its cell with the tag "parameters", as in papermill. Raises `CellExecutionError` where a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    if parameters is not None:
        (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        cell.source = parameters
    # `setr-hf` and `python` are those of this Python, and what they keep is thrown away with the folder.
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": scripts, "IPYTHONDIR": str(folder / ".ipython"), **variables}
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": folder}},
    )
    client.execute(env=environment)
    return notebook


def source_digest(notebook: nbformat.NotebookNode) -> str:
    """A checksum of all that is executed, which is stored to show what the outputs are of."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def store(path: Path) -> None:
    """Executes a notebook of the repository, and writes it with its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        # Nobody is logged in there.
        notebook = execute(path, Path(folder), HF_HOME=f"{folder}/.hub", HF_TOKEN="", HF_HUB_OFFLINE="1")
    notebook.metadata = {**METADATA, "executed": source_digest(notebook)}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for notebook in NOTEBOOKS:
        store(notebook)
