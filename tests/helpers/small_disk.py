"""A disk of a few hundred kilobytes, for tests of what happens when it is full."""

import contextlib
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(folder, num_bytes):
    """Mounts an empty file system of `num_bytes`, a multiple of 4096, at `folder`; skips where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def enlarge(folder, num_bytes):
    """Makes a mounted small disk one of `num_bytes`; what is on it stays."""
    subprocess.run(["mount", "-o", f"remount,size={num_bytes}", str(folder)], check=True)


def fill(folder):
    """Takes all that is left of the disk."""
    with contextlib.suppress(OSError), open(folder / "filling", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
