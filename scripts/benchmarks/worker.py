"""Measures one code in a process of its own, for `setr-hf benchmark`, in any Python that has torch and that code:

    python worker.py MODULE CODE SETTING WARM_UP TURN

MODULE has a dictionary `CODES`, whose function CODE takes a setting and returns the function that is measured. SETTING
is JSON with the `device`, the number of `threads` and what the code needs; WARM_UP holds what makes it small, for a
first run that loads libraries. The line `{"memory": …}` then says how many bytes the first run in full size needed
above the memory in use (`null` where the system does not tell). For each line on the standard input a line says how
many seconds a run took: the mean over as many as fill a turn of TURN seconds.

A single CPU thread is timed by the processor time of the process, which programs beside it do not lengthen, anything
else by the clock on the wall.
"""

import ctypes
import gc
import importlib
import json
import math
import os
import signal
import sys
import time

import torch


def timer(setting):
    """A function that returns the seconds until now, when all work on the device is done."""
    if setting["device"] != "cpu":

        def seconds():
            torch.cuda.synchronize()
            return time.perf_counter()

        return seconds
    return time.process_time if setting["threads"] == 1 else time.perf_counter


def resident_bytes(name):
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(name))


def peak_memory(run, device):
    """The bytes that a run needs above those in use, on the device; `None` if the system does not tell."""
    gc.collect()
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        # What was freed while the inputs were made goes back to the system, or the run would fill it unseen.
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as clear:
            clear.write("5")  # Linux: the peak starts anew from what is in use.
        before = resident_bytes("VmRSS")
    except (AttributeError, OSError):
        run()
        return None
    run()
    return max(resident_bytes("VmHWM") - before, 0)


def main(module, code, setting, warm_up, turn):
    # The job ends its workers, at Ctrl-C too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What libraries print is no answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(setting["threads"])
    torch.manual_seed(0)
    build = importlib.import_module(module).CODES[code]
    build({**setting, **warm_up})()
    run = build(setting)
    seconds = timer(setting)
    start = seconds()
    memory = peak_memory(run, setting["device"])
    runs = max(1, math.ceil(turn / max(seconds() - start, 1e-6)))
    print(json.dumps({"memory": memory}), file=answers)
    for _ in sys.stdin:
        start = seconds()
        for _ in range(runs):
            run()
        print((seconds() - start) / runs, file=answers)


if __name__ == "__main__":
    module, code, *rest = sys.argv[1:]
    main(module, code, *map(json.loads, rest))
