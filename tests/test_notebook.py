"""The notebooks in docs/: executed as they stand, but for their size, and stored as they were executed."""

import re

import nbformat
import pytest
from local_hub import TOKEN, running_hub
from nbclient.exceptions import CellExecutionError
from notebooks import METADATA, NOTEBOOKS, execute, source_digest
from paths import ROOT


OWN_PHOTOS = ROOT / "docs/tutorial/own-photos.ipynb"
MOST_BYTES = 600_000
# Folders of whoever executed it, on any system, but not addresses.
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~-])/(tmp|work|home|root|Users|usr|opt|mnt|var|private)/|[A-Z]:\\\\")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def pictures(notebook):
    data = [output.get("data", {}) for cell in code_cells(notebook) for output in cell.outputs]
    return [content for content in data if "image/jpeg" in content]


@pytest.mark.slow
def test_the_story_goes_from_a_folder_with_faults_to_a_published_model(tmp_path):
    repository = "me/setr-mine"
    with running_hub() as hub:
        notebook = execute(
            OWN_PHOTOS,
            tmp_path,
            parameters=f'photos = 8\nsteps = 4\nrepository = "{repository}"',
            HF_ENDPOINT=hub.address,
            HF_HUB_DISABLE_XET="1",
            HF_TOKEN=TOKEN,
            HF_HOME=str(tmp_path / "home"),
            OMP_NUM_THREADS="1",
        )
    ill, healthy = [printed(cell) for cell in code_cells(notebook) if "setr-hf doctor" in cell.source]
    assert "missing_mask" in ill and "size_mismatch" in ill
    assert "error" not in healthy and "warning" not in healthy and "missing_split" in healthy
    for name in (
        "checkup/sheet.png",
        "new/street_001.jpg",
        "outputs/mine/model.safetensors",
        "outputs/mine/curves.png",
        "outputs/mine/predictions.png",
        "evaluation/results.json",
        "evaluation/worst.png",
        "evaluation/reliability.png",
        "outputs/new.png",
    ):
        assert (tmp_path / name).is_file(), name
    assert (
        len(pictures(notebook)) == sum("show(" in cell.source for cell in code_cells(notebook)) - 1
    )  # its definition
    published = hub.find("model", repository)
    assert published.private and published.refs["refs/tags/v1.0"] == published.refs["refs/heads/main"]
    files = {"model.safetensors", "config.json", "modeling_setr.py", "README.md", "curves.png", "predictions.png"}
    assert files <= set(published.files())
    last = printed(code_cells(notebook)[-1])
    assert "SetrForSemanticSegmentation" in last and "transformers_modules" in last
    assert any(f"/{repository}/resolve/" in request for request in hub.requests)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_stored_notebook_holds_what_its_cells_print_and_nothing_of_the_machine(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) <= MOST_BYTES
    assert not ABSOLUTE_PATH.search(text)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    executed = notebook.metadata.pop("executed")
    assert executed == source_digest(notebook), "edited since: execute it by python tests/helpers/notebooks.py"
    assert notebook.metadata == METADATA
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(set(cell.metadata) <= {"tags"} for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert not any("\r" in printed(cell) for cell in cells)
    for cell in cells:
        if "show(" in cell.source and "def show" not in cell.source:
            assert any("image/jpeg" in output.get("data", {}) for output in cell.outputs), cell.source


def test_a_cell_that_fails_ends_the_execution(tmp_path):
    cells = [nbformat.v4.new_code_cell("%%bash\nsetr-hf doctor nowhere"), nbformat.v4.new_code_cell("1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "failing.ipynb")
    with pytest.raises(CellExecutionError, match="nowhere"):
        execute(tmp_path / "failing.ipynb", tmp_path)
