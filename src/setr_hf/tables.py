"""Everything jobs print in columns: on a terminal with emphasis, fitted to it; in a pipe or a log as plain text."""

import io
import re
import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


# Nothing is folded in a pipe or a log.
LOG_WIDTH = 10_000


def show(table: Table) -> None:
    """Prints to the standard output as it is at this moment, which tests and notebooks replace."""
    if sys.stdout.isatty():
        Console(file=sys.stdout, highlight=False).print(table)
        return
    table.box = None
    text = io.StringIO()
    Console(file=text, width=LOG_WIDTH, force_terminal=False, color_system=None, highlight=False).print(table)
    print("\n".join(line.rstrip() for line in text.getvalue().splitlines()))


def is_figure(cell: object) -> bool:
    return cell is None or re.fullmatch(r"[+−-]?[\d.,]+( %)?|–", str(cell)) is not None


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """
    Prints a table. Columns that hold only figures are aligned to the right.

    Args:
        columns (`Sequence[str]`): The headings.
        rows (`Iterable[Sequence[object]]`): The cells of each row, as many as there are headings; `None` is shown
            as "–".

    Example:

    ```python
    >>> from setr_hf.tables import percent, print_table

    >>> print_table(["class", "IoU", "pixels"], [("road", percent(0.5), "1,200"), ("sky", None, 0)])
    class    IoU  pixels
    road   50.00   1,200
    sky        –       0
    ```
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    rows = list(rows)
    for index, name in enumerate(columns):
        figures = bool(rows) and all(is_figure(row[index]) for row in rows)
        table.add_column(escape(name), justify="right" if figures else "left")
    for row in rows:
        table.add_row(*("–" if cell is None else escape(str(cell)) for cell in row))
    show(table)


def print_options(options: Iterable[tuple[str, object]]) -> None:
    """
    Prints names and values, a line each.

    Args:
        options (`Iterable[tuple[str, object]]`): Each name with its value.

    Example:

    ```python
    >>> from setr_hf.tables import print_options

    >>> print_options([("learning rate", 0.01), ("optimizer", "sgd")])
    learning rate  0.01
    optimizer      sgd
    ```
    """
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in options:
        table.add_row(escape(name), escape(str(value)))
    show(table)


def percent(share: float | None, sign: str = "") -> str | None:
    """
    A share in percent, for a cell.

    Args:
        share (`float`, *optional*): Between 0 and 1, or a difference of such shares; `None` stays `None`.
        sign (`str`, *optional*, defaults to `""`): `"+"` to show that of positive shares as well.
    """
    return None if share is None else f"{100 * share:{sign}.2f}"


__all__ = ["percent", "print_options", "print_table"]
