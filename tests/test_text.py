"""Names and messages of any origin do no harm where they are written."""

import pytest

from setr_hf.errors import SetrError
from setr_hf.files import path_inside
from setr_hf.text import csv_cell, markdown_text, one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("road, wet", "road, wet"),
        ("天空 🌲 می\u200cخواهم", "天空 🌲 می\u200cخواهم"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\u202egnp.exe\u2028\x9b", "\\u202egnp.exe\\u2028\\x9b"),
        ("half \ud800", "half \\ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text, shown):
    assert printable(text) == shown


def test_an_error_is_one_printable_line_of_bounded_length():
    assert str(SetrError("a\n  b\x1b[2J")) == "a b\\x1b[2J"
    assert len(one_line("x" * 10**6)) < 4100 and "996,000 characters" in one_line("x" * 10**6)


def test_a_spreadsheet_computes_no_class_name():
    assert csv_cell("=cmd|' /C calc'!A0") == "'=cmd|' /C calc'!A0"
    assert [csv_cell(start + "1")[0] for start in ("+", "-", "@", "\t", " =")] == ["'"] * 5
    assert csv_cell("road") == "road"


def test_markdown_shows_names_as_they_are():
    assert markdown_text("2008_000006 _a_") == "2008_000006 \\_a\\_"
    assert markdown_text("a|b\n<b>c</b> [d](e)") == "a\\|b &lt;b&gt;c&lt;/b&gt; \\[d\\](e)"


@pytest.mark.parametrize("name", ["a", "a/b", "city.01", "天空", "…"])
def test_a_sample_has_a_file_of_its_name(tmp_path, name):
    assert path_inside(tmp_path, name, ".png") == tmp_path / f"{name}.png"


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/etc/x",
        "a/../x",
        "",
        ".",
        "a//b",
        "a/",
        "CON",
        "nul.txt",
        "a\x00",
        "a\nb",
        "C:x",
        "a\\b",
        "x" * 300,
    ],
)
def test_no_sample_is_written_outside_its_folder(tmp_path, name):
    with pytest.raises(SetrError, match=r"the sample .* cannot have a file of its name"):
        path_inside(tmp_path, name, ".png")
