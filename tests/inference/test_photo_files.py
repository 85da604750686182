"""Which photos names, folders and patterns stand for, in which order, and what is left out of them."""

import os

import pytest

from setr_hf.errors import SetrError
from setr_hf.inference.photo_files import find_photos


FILES = ["b.JPG", "a/x.png", "a/y.jpg", "a/deep/er/x.tif", "z/x.png", "[1] *.jpg", "notes.txt", "a/anim.gif", "README"]
HIDDEN = ["._b.jpg", ".thumbnails/t.jpg", "a/.x.png"]
RESULTS = ["out/_records.jsonl", "out/b.png", "out/a/x.png"]
ALL = ["[1] *.jpg", "a/deep/er/x.tif", "a/x.png", "a/y.jpg", "b.JPG", "z/x.png"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in FILES + HIDDEN + RESULTS:
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "all"


def find(*names):
    return find_photos(names, marker="_records.jsonl")


def places(*names):
    return [place.as_posix() for place in find(*names).photos.values()]


def test_a_folder_stands_for_the_photos_in_it_and_below_in_order(folder):
    found = find("all")
    assert [path.as_posix() for path in found.photos] == [f"all/{name}" for name in ALL]
    assert [place.as_posix() for place in found.photos.values()] == ALL
    assert found.left_out() == [
        "left out all/out: it holds results of this job",
        "left out files without a photo's suffix (3): 1 with none; 1 .gif; 1 .txt",
    ]
    assert not found.unreadable
    (folder / "empty").mkdir()
    assert places("all/empty") == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("all/*", ALL),
        ("all/**", ALL),
        ("all/**/*", ALL),
        ("all/**/x.*", ["a/deep/er/x.tif", "a/x.png", "z/x.png"]),
        ("all/**/**/*.png", ["a/x.png", "z/x.png"]),
        ("all/[az]/x.png", ["a/x.png", "z/x.png"]),
        ("all/?/", ["a/deep/er/x.tif", "a/x.png", "a/y.jpg", "z/x.png"]),
        ("all/a/**/*.gif", ["anim.gif"]),
        ("all/**/er/*", ["a/deep/er/x.tif"]),
        ("all/.*/*.jpg", [".thumbnails/t.jpg"]),
        ("all/a/.*.png", [".x.png"]),
        ("a*/b.JPG", ["all/b.JPG"]),
        ("all/../all/a/x.*", ["x.png"]),
        ("all/[1] *.jpg", ["[1] *.jpg"]),
        ("all/[[]1] [*].jpg", ["[1] *.jpg"]),
    ],
)
def test_a_pattern_is_that_of_a_shell_unless_a_file_has_its_name(folder, pattern, expected):
    assert places(pattern) == expected


@pytest.mark.parametrize(
    "pattern", ["all/*.bmp", "nowhere/**", "all/b.JPG/*", "all/**/nowhere/*", "all/[", "all/[z-a]"]
)
def test_a_pattern_that_nothing_matches_is_named(folder, pattern):
    with pytest.raises(SetrError, match="pattern") as error:
        find("all/b.JPG", pattern)
    assert repr(pattern) in str(error.value)


@pytest.mark.parametrize("name", ["", " ", "a\0b", "all/*/../../secret*"])
def test_names_of_nothing_are_refused(folder, name):
    with pytest.raises(SetrError, match=r"is not the name of a photo|may have \.\. only before") as error:
        find("all/b.JPG", name)
    assert repr(name) in str(error.value)


def test_a_named_file_is_taken_whatever_its_name(folder):
    names = ["all/notes.txt", "all/.thumbnails/t.jpg", "all/out/b.png", "nowhere.jpg", "all/a/anim.gif"]
    assert places(*names) == [name.rpartition("/")[2] for name in names]
    assert not find(*names).left_out()


def test_a_file_that_several_names_stand_for_is_taken_once_by_the_first(folder):
    (folder.parent / "link").symlink_to(folder)
    expected = ["x.png", *(name for name in ALL if name != "a/x.png"), "a/anim.gif", "notes.txt"]
    found = find("all/a/../a/x.png", "all", "link", str(folder), "all/**/*.jpg", "all/**/*.gif", "all/notes.txt")
    assert [place.as_posix() for place in found.photos.values()] == expected
    assert found.left_out()[-1] == "left out files without a photo's suffix (1): 1 with none"


def test_links_to_folders_are_followed_without_going_round_in_circles(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/new.png").touch()
    (folder / "z/up").symlink_to("..")
    (folder / "a/self").symlink_to(".")
    (folder / "A first").symlink_to("z")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "photo.png").symlink_to("b.JPG")
    (folder / "lost.png").symlink_to("nowhere")
    expected = sorted([*ALL, "linked/new.png", "photo.png", "lost.png"])
    for name in ("all", "all/**", "all/**/*.*"):
        assert places(name) == expected


def test_a_folder_that_cannot_be_read_is_named(folder):
    (folder / "a").chmod(0)
    try:
        if os.access(folder / "a", os.R_OK):
            pytest.skip("this user reads everything")
        assert find("all").unreadable_folders() == ["all/a cannot be read: Permission denied"]
        with pytest.raises(SetrError, match=r"nothing matches .*; all/a cannot be read: Permission denied"):
            find("all/a/*.png")
    finally:
        (folder / "a").chmod(0o755)


@pytest.mark.parametrize("name", ["all/out", "all/out/*.png"])
def test_a_folder_of_results_is_not_searched(folder, name):
    with pytest.raises(SetrError, match="all/out holds results of this job, not photos"):
        find(name)
