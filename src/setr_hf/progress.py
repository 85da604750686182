"""How far a job is, and how long it will still take."""

import sys
from typing import Any

from tqdm import tqdm


# Between two states of a bar, in seconds: on a terminal, and in a file, where each of them stays.
ON_TERMINAL, IN_FILE = 0.1, 60


def progress_bar(total: int, unit: str, disable: bool = False, **options: Any) -> tqdm:
    """A bar on the standard error stream with the time left, by the rate of this run: what earlier runs have done is
    counted in `initial`, one of the `options` of tqdm, of which `iterable` is what the bar advances with, if not by
    `update`. In a log file it is written about once a minute; with `disable`, or TQDM_DISABLE=1 in the environment,
    not at all.
    """
    interval = ON_TERMINAL if sys.stderr.isatty() else IN_FILE
    # Without a higher one, a monitoring thread would write every ten seconds.
    longest = max(interval, tqdm.monitor_interval)
    if disable:  # Even False would overrule the environment.
        options["disable"] = True
    return tqdm(total=total, unit=unit, mininterval=interval, maxinterval=longest, **options)
