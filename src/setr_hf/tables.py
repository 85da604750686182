"""Everything jobs print in columns: on a terminal with lines and emphasis, in a pipe or a log as plain text."""

import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


# Logs and pipes have no width; a table is never folded to fit 80 columns there.
LOG_WIDTH = 200


def console() -> Console:
    """The standard output as it is at this moment, which tests and notebooks replace."""
    is_terminal = sys.stdout.isatty()
    return Console(
        file=sys.stdout, width=None if is_terminal else LOG_WIDTH, highlight=False, soft_wrap=not is_terminal
    )


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None):
    """
    Prints a table whose first column is text and whose others are figures, aligned to the right.

    Args:
        columns (`Sequence[str]`): The headings.
        rows (`Iterable[Sequence[object]]`): The cells of each row, as many as there are headings; `None` is shown
            as "–".
        title (`str`, *optional*): A line above the table.
    """
    output = console()
    table = Table(title=title, title_justify="left", box=box.SIMPLE if output.is_terminal else None, pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(escape(name), justify="right" if index else "left")
    for row in rows:
        table.add_row(*("–" if cell is None else escape(str(cell)) for cell in row))
    output.print(table)


def print_options(options: Iterable[tuple[str, object]], title: str | None = None):
    """
    Prints names and values, a line each.

    Args:
        options (`Iterable[tuple[str, object]]`): Each name with its value.
        title (`str`, *optional*): A line above them.
    """
    output = console()
    table = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold" if output.is_terminal else None, no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in options:
        table.add_row(escape(name), escape(str(value)))
    output.print(table)


def percent(share: float | None, sign: str = "") -> str | None:
    """A share of 0 to 1 in percent with two digits, for a cell; `None` stays `None`."""
    return None if share is None else f"{100 * share:{sign}.2f}"


__all__ = ["percent", "print_options", "print_table"]
