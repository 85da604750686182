"""Everything jobs print in columns: on a terminal with emphasis, fitted to it; in a pipe or a log as plain text."""

import io
import re
import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .text import printable


# Nothing is folded in a pipe or a log.
LOG_WIDTH = 10_000
FIGURE = r"[+−-]?[\d.,]+( %)?|–|None"


def show(table: Table) -> None:
    """Prints to the standard output as it is at this moment, which tests and notebooks replace."""
    if sys.stdout.isatty():
        Console(file=sys.stdout, highlight=False).print(table)
        return
    table.box = None
    text = io.StringIO()
    Console(file=text, width=LOG_WIDTH, force_terminal=False, color_system=None, highlight=False).print(table)
    print("\n".join(line.rstrip() for line in text.getvalue().splitlines()))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table. Columns that hold only figures are aligned to the right; `None` is shown as "–"."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    rows = list(rows)
    for index, name in enumerate(columns):
        figures = bool(rows) and all(re.fullmatch(FIGURE, str(row[index])) for row in rows)
        table.add_column(escape(printable(name)), justify="right" if figures else "left")
    for row in rows:
        table.add_row(*("–" if cell is None else escape(printable(cell)) for cell in row))
    show(table)


def print_options(options: Iterable[tuple[str, object]]) -> None:
    """Prints names and values, a line each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in options:
        table.add_row(escape(printable(name)), escape(printable(value)))
    show(table)


def percent(share: float | None, sign: str = "") -> str | None:
    """A share from 0 to 1, or a difference of shares, in percent, for a cell; "+" as `sign` marks positive ones."""
    return None if share is None else f"{100 * share:{sign}.2f}"
