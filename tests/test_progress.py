"""The bar of a job says how long it will take, and fills no log file."""

import io
import os
import subprocess
import sys

from setr_hf.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_time_left_is_that_of_this_runs_rate(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar(1000, "photo", initial=900) as bar:
        bar.start_t -= 10
        bar.update(10)
        assert "910/1000" in str(bar) and "<01:30, " in str(bar)


def test_a_log_file_gets_the_beginning_and_the_end_and_a_terminal_all(monkeypatch):
    states = {}
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bar(1000, "photo") as bar:
            for _ in range(1000):
                bar.last_print_t -= 1
                bar.update()
        states[stream.isatty()] = stream.getvalue().count("\r")
    assert states[False] <= 20 and states[True] >= 100
    with progress_bar(10, "photo", disable=True) as bar:
        bar.update(10)
    assert sys.stderr.getvalue().count("\r") == states[True]


def test_the_environment_turns_all_bars_off():
    code = "from setr_hf.progress import progress_bar; progress_bar(10, 'photo', disable=False).update(10)"
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stderr == ""
