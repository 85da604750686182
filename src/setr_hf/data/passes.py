"""A pass over all samples of a data set, which the processes of a run share."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from accelerate import PartialState

from ..progress import progress_bar
from .rows import SegmentationData


Result = TypeVar("Result")


def my_samples(
    data: SegmentationData, read: Callable[..., Result], description: str, num_workers: int | None = None
) -> Iterator[tuple[int, Result]]:
    """The index of each sample of this process's share and what `read(index, data=data)` returns for it, in order. As
    many threads as `num_workers` read at a time; by default, as many as each process has CPUs to itself.
    """
    state = PartialState()
    mine = range(state.process_index, len(data), state.num_processes)
    # Pillow decodes without the interpreter's lock.
    with ThreadPoolExecutor(num_workers or max(1, (os.cpu_count() or 1) // state.num_processes)) as pool:
        results = pool.map(partial(read, data=data), mine)
        # A small data set is read before a bar would be of use.
        is_hidden = not state.is_main_process
        bar = progress_bar(len(mine), "sample", is_hidden, iterable=results, desc=description, delay=3)
        yield from zip(mine, bar)
