"""How the process of a job ends: at Ctrl-C and SIGTERM, and with which last line. This module lies beside the package,
whose import takes seconds, so that these can be interrupted too.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import active_children, util
from types import FrameType


SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Called when a job is interrupted, before it ends.
CLEAN_UPS: list[Callable[[], None]] = []
# Whether `torchrun` or `accelerate launch` has started this process. Later, Transformers sets the second variable too.
IS_LAUNCHED = "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
# Waits until the process behind a file descriptor has ended.
PRINT_AFTER = """
import select, sys
select.select([int(sys.argv[1])], [], [])
print(sys.argv[2], file=sys.stderr)
"""


class Resumption:
    """What the line of an interrupted job says on how to go on, besides that it was interrupted."""

    hint: Callable[[], str] | None = None


def say_when_interrupted(hint: Callable[[], str]) -> None:
    """From now on, the line of an interrupted job ends in what `hint` returns then; in nothing, if that is empty."""
    Resumption.hint = hint


def end_at_signals() -> None:
    """From now on, Ctrl-C and SIGTERM end this process at once: with a line, the exit status 130 or 143, and without
    what it had not finished. Worker processes that it forks ignore Ctrl-C: they end with it.

    It does not unwind by `KeyboardInterrupt`, which may come at any instruction: inside an import, a destructor or a
    callback from C, where it is printed and forgotten, or turned into another error. Nothing depends on unwinding, as
    all that jobs write survives SIGKILL.
    """
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            for each in SIGNALS:
                signal.signal(each, lambda number, frame: os._exit(128 + number))
            try:
                print_interrupted()
                for child in active_children():
                    child.kill()
                # Unlinks semaphores, of which another process of Python's would report otherwise that they leak.
                util._run_finalizers(0)  # type: ignore[attr-defined]
                for clean_up in CLEAN_UPS:
                    clean_up()
            finally:
                os._exit(128 + number)
        if number == signal.SIGTERM:
            os._exit(128 + number)

    def ignore() -> None:
        if os.getpid() == process:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    for number in SIGNALS:
        signal.signal(number, end)
    # The last of all that is called at the end: what is left then takes a moment, and the job is done.
    atexit.register(ignore)


def print_interrupted() -> None:
    hint = ""
    with suppress(Exception):
        hint = Resumption.hint() if Resumption.hint else ""
    with suppress(Exception):
        # Progress bars are open in the line that the cursor is in.
        sys.modules["tqdm"].tqdm.external_write_mode(sys.stderr, nolock=True).__enter__()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # It may be in the middle of a write.
            stream.flush()
    print_last_line(f"interrupted: {hint}" if hint else "interrupted")


def print_last_line(line: str) -> None:
    """Prints a line to stderr; of several processes of a launcher, the first that has one does. `torchrun` and
    `accelerate launch` report at length on a process that fails: there, the line follows when they have ended.
    """
    launcher = open_launcher()
    if launcher is None:
        try:
            print(line, file=sys.stderr, flush=True)
        except RuntimeError:  # A signal has interrupted another line.
            os.write(2, f"{line}\n".encode(errors="backslashreplace"))
        return
    claim = socket.socket(socket.AF_UNIX)
    try:
        # A name without a file, which is free again when the helper has ended.
        claim.bind(f"\0setr-hf-{os.getppid()}")
    except OSError:
        return
    # In a session of its own: launchers signal the group of a process.
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", PRINT_AFTER, str(launcher), line],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(launcher, claim.fileno()),
        start_new_session=True,
    )


def open_launcher() -> int | None:
    """A file descriptor of the launcher that will report if this process fails; `None` if there is none, it starts the
    process again instead, or this is not Linux, which alone lets a process wait for one that is not its child.
    """
    num_restarts, most = (int(os.environ.get(f"TORCHELASTIC_{name}", 0)) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    if not IS_LAUNCHED or num_restarts < most or not hasattr(os, "pidfd_open"):
        return None
    return os.pidfd_open(os.getppid())
