"""A disk that is full at any write of an evaluation: one line, whole files, and the evaluation goes on afterwards."""

import json

import numpy as np
import pytest
from model_folders import save_model
from paths import SCRIPTS
from PIL import Image
from small_disk import enlarge, fill, small_disk

from setr_hf.data.public_datasets import CLASS_NAMES
from setr_hf.errors import SetrError
from setr_hf_cli import load_script


PAGE = 4096
NAMES = CLASS_NAMES["cityscapes"]
RECORDS = "records/process-0.jsonl"
# What an evaluation of two images writes, in this order; the second record is a part of the same page as the first.
FILES = ["records/settings.json", "submission/0.png", RECORDS, "submission/1.png", "results.json"]
FILES += ["confusion_matrix.npy", "classes.png", "confusion_matrix.png", "reliability.png", "worst.png"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """`model`, `data`, and `undisturbed`, the results of an evaluation."""
    folder = tmp_path_factory.mktemp("inputs")
    generator = np.random.default_rng(0)
    for kind, shape in (("images", (40, 50, 3)), ("annotations", (40, 50))):
        (folder / "data" / kind / "val").mkdir(parents=True)
        for index in range(2):
            pixels = generator.integers(0, 256 if kind == "images" else 3, shape, np.uint8)
            Image.fromarray(pixels).save(folder / f"data/{kind}/val/{index}.png")
    (folder / "data/labels.json").write_text(json.dumps({"id2label": dict(enumerate(NAMES))}))
    save_model(folder / "model", NAMES)
    assert evaluate(folder, folder / "undisturbed") == 0
    return folder


def evaluate(inputs, output):
    arguments = ["--model", inputs / "model", "--dataset", inputs / "data", "--output", output]
    return load_script(SCRIPTS / "evaluate.py").main([*map(str, arguments), "--threads", "1", "--submit"])


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def num_pages(path):
    return -(-path.stat().st_size // PAGE)


def evaluate_on_disk_for(before, file, inputs, disk):
    """Evaluates where there is room for the files `before` that one, but not for all of it."""
    room = sum(num_pages(inputs / "undisturbed" / name) for name in (*before, file)) - 1
    enlarge(disk, max(room, 1) * PAGE)
    if not room:
        fill(disk)
    with pytest.raises(SetrError, match=rf"{file} is not written: .* (missing|More than .* are needed)"):
        evaluate(inputs, disk / "out")


@pytest.mark.parametrize("file", FILES)
def test_a_full_disk_is_named_and_what_was_written_is_whole(file, inputs, tmp_path):
    before, whole = FILES[: FILES.index(file)], contents(inputs / "undisturbed")
    with small_disk(tmp_path / "disk", PAGE) as disk:
        evaluate_on_disk_for(before, file, inputs, disk)
        written = contents(disk / "out")
    num_records = before.count("submission/0.png") + before.count("submission/1.png") - (file == RECORDS)
    assert written.pop(RECORDS, b"") == b"".join(whole[RECORDS].splitlines(keepends=True)[:num_records])
    assert written == {name: whole[name] for name in before if name != RECORDS}


def test_with_more_room_an_evaluation_goes_on(inputs, tmp_path):
    file = "submission/1.png"
    with small_disk(tmp_path / "disk", PAGE) as disk:
        evaluate_on_disk_for(FILES[: FILES.index(file)], file, inputs, disk)
        enlarge(disk, 2**20)
        assert evaluate(inputs, disk / "out") == 0
        assert contents(disk / "out") == contents(inputs / "undisturbed")
