"""Files and folders are written whole or not at all."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small_disk import fill, small_disk

from setr_hf.errors import SetrError
from setr_hf.files import (
    BLOCK_SIZE,
    append_lines,
    check_space,
    complete_lines,
    folder_lock,
    whole_file,
    whole_folder,
)


def test_a_file_is_replaced_at_the_end(tmp_path):
    path = tmp_path / "new/results.json"
    for content in ("first", "second"):
        with whole_file(path) as unfinished:
            unfinished.write_text(content)
            assert unfinished.suffix == ".json" and unfinished.parent == path.parent
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == content
    assert list(path.parent.iterdir()) == [path]


def test_after_an_exception_all_is_as_it_was(tmp_path):
    path, folder = tmp_path / "results.json", tmp_path / "folder"
    path.write_text("first")
    with pytest.raises(ZeroDivisionError), whole_file(path) as unfinished, whole_folder(folder) as new:
        unfinished.write_text("second")
        (new / "part").touch()
        raise ZeroDivisionError
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_at_the_end_and_must_be_new(tmp_path):
    with whole_folder(tmp_path / "folder") as new:
        (new / "part").touch()
        assert not (tmp_path / "folder").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "part"]
    with pytest.raises(SetrError, match="folder exists already"), whole_folder(tmp_path / "folder"):
        pass


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, folder):
    (tmp_path / "file").touch()
    for writer in (whole_file, whole_folder):
        with pytest.raises(SetrError, match=f"{folder} cannot be created"), writer(tmp_path / folder / "results"):
            pass


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_writes_is_not(tmp_path):
    code = "import os, sys; print(os.getpid())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / f".model.{ended}.unfinished").mkdir()
    (tmp_path / f".model.{ended}.unfinished/part").touch()
    (tmp_path / f".sc\nores.{ended}.unfinished.json").touch()
    running = tmp_path / f".model.{os.getppid()}.unfinished"
    running.mkdir()
    with whole_folder(tmp_path / "model"), whole_file(tmp_path / "sc\nores.json") as scores:
        scores.touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [running.name, "model", "sc\nores.json"]


def test_a_folder_that_another_job_has_written_meanwhile_stays_as_it_is(tmp_path):
    with pytest.raises(SetrError, match="model exists already"), whole_folder(tmp_path / "model") as new:
        (new / "mine").touch()
        (tmp_path / "model").mkdir()
        (tmp_path / "model/theirs").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "theirs"]


def test_lines_are_added_after_the_last_complete_one(tmp_path):
    path = tmp_path / "records.jsonl"
    append_lines(path, ["first", "second"])
    for incomplete in (b"thi", bytes(3 * BLOCK_SIZE)):
        with open(path, "ab") as file:
            file.write(incomplete)
        assert list(complete_lines(path))[-1] == b"second\n"
    append_lines(path, ["third"])
    assert list(complete_lines(path)) == [b"first\n", b"second\n", b"third\n"]
    path.write_bytes(bytes(3 * BLOCK_SIZE))
    append_lines(path, ["first"])
    assert path.read_bytes() == b"first\n"


def test_a_folder_is_held_by_one_job_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("setr_hf.files.LOCK_TIMEOUT", 0.1)
    with folder_lock(tmp_path / "out"):
        second = folder_lock(tmp_path / "out")
        with pytest.raises(SetrError, match=r"another running job writes to .*out: wait until it ends"), second:
            pass
        assert any((tmp_path / "out").iterdir())
    assert not any((tmp_path / "out").iterdir())


TENSOR = torch.zeros(2**18)
WRITERS = {
    "text": lambda path: path.write_text("a" * 2**20),
    "torch": lambda path: torch.save(TENSOR, path),
    "safetensors": lambda path: save_file({"weight": TENSOR}, path),
    "numpy": lambda path: np.save(path, TENSOR.numpy()),
    "png": lambda path: Image.effect_noise((1024, 1024), 100).save(path, "PNG"),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_a_full_disk_is_named_and_leaves_everything_as_it_was(kind, whole, tmp_path):
    with small_disk(tmp_path / "disk", 2**18) as disk:
        (disk / "earlier.npy").write_text("as it was")
        name = "new" if whole is whole_folder else "earlier.npy"
        message = rf"{name} is not written: its disk is full .* needed: make room or name another folder"
        with pytest.raises(SetrError, match=message), whole(disk / name) as new:
            WRITERS[kind](new / "part.npy" if whole is whole_folder else new.with_suffix(".npy"))
        assert [path.name for path in disk.iterdir()] == ["earlier.npy"]
        assert (disk / "earlier.npy").read_text() == "as it was"


def test_lines_that_do_not_fit_are_not_added_in_part(tmp_path):
    with small_disk(tmp_path / "disk", 2**15) as disk:
        path = disk / "records.jsonl"
        append_lines(path, ["first"])
        fill(disk)
        missing = r"records.jsonl is not written: it needs 10.0 kB, its disk has 0 bytes left, so 10.0 kB are missing"
        with pytest.raises(SetrError, match=missing):
            append_lines(path, ["a" * 9_999])
        assert path.read_text() == "first\n"


def test_what_is_missing_is_said_before_anything_is_written(tmp_path):
    with small_disk(tmp_path / "disk", 2**20) as disk:
        check_space(disk / "new/model", 2**20)
        with pytest.raises(SetrError, match=r"it needs 3.1 MB, its disk has 1.0 MB left, so 2.1 MB are missing"):
            check_space(disk / "new/model", 3 * 2**20)
