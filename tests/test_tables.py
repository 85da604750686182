"""Tables on a terminal and in a pipe."""

import os
import pty
import subprocess
import sys

from setr_hf.tables import print_options, print_table


ROWS = [("road [left]", "51.20", None, "a " * 150 + "tail"), ("sky", "3.00", "+1.25", "b")]
SCRIPT = f"from setr_hf.tables import print_table; print_table(['class', 'IoU', 'gain', 'note'], {ROWS!r})"


def test_a_pipe_gets_plain_text_unfolded(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    print_table(["class", "IoU", "gain", "note"], ROWS)
    print_options([("output", "/a/" * 100), ("seed", 3)])
    assert capsys.readouterr().out.splitlines() == [
        "class          IoU   gain  note",
        "road [left]  51.20      –  " + "a " * 150 + "tail",
        "sky           3.00  +1.25  b",
        "output  " + "/a/" * 100,
        "seed    3",
    ]


def test_a_table_without_rows_has_its_headings(capsys):
    print_table(["class", "IoU"], [])
    assert capsys.readouterr().out == "class  IoU\n"


def test_a_terminal_gets_emphasis_and_lines_that_fit():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "60", "TERM": "xterm-256color"}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=theirs, env=environment) as process:
        os.close(theirs)
        output = b""
        try:
            while part := os.read(ours, 4096):
                output += part
        except OSError:  # Linux reports the end of a terminal so.
            pass
    os.close(ours)
    assert process.returncode == 0
    text = output.decode()
    assert "\x1b[1m" in text and "─" in text
    plain = [line.replace("\x1b[1m", "").replace("\x1b[0m", "").rstrip("\r") for line in text.splitlines()]
    assert max(map(len, plain)) <= 60
    assert "tail" in text
