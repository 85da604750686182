"""Files and folders are written whole or not at all."""

import pytest

from setr_hf.errors import SetrError
from setr_hf.files import whole_file, whole_folder


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
