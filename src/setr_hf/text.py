"""Names and messages of any origin, made safe for the place they are written to."""

import html
import re
import unicodedata


# Joiners, which write Persian and Hindi names and many emoji.
JOINERS = "\u200c\u200d"
# What a spreadsheet takes for the beginning of a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
# How many entries a listing shows.
NUM_NAMED = 5
# Within a word, as in 2008_000006, an underscore is one.
MARKDOWN = re.compile(r"([\\`*\[\]|~#]|(?<![^\W_])_|_(?![^\W_]))")


def printable(text: object) -> str:
    """`text` for a terminal, a log or a picture: what would move the cursor, change colours, reverse the direction or
    begin a new line is written as Python escapes it, such as `\\x1b` and `\\n`.
    """
    return "".join(
        char if char.isprintable() or char in JOINERS or unicodedata.category(char) == "Zs" else escaped(char)
        for char in str(text)
    )


def escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def one_line(text: object, limit: int = 4000) -> str:
    """`text` as one [`printable`] line: white space becomes single spaces, and of more than `limit` characters the
    beginning and the end are shown.
    """
    line = printable(" ".join(str(text).split()))
    if len(line) <= limit:
        return line
    end = limit // 4
    return f"{line[: limit - end]} … ({len(line) - limit:,} characters) … {line[-end:]}"


def csv_cell(text: object) -> str:
    """`text` for a cell of a CSV file, [`printable`]; an apostrophe precedes what a spreadsheet would compute."""
    shown = printable(text)
    return f"'{shown}" if str(text).lstrip(" ").startswith(FORMULA_STARTS) else shown


def markdown_text(text: object) -> str:
    """`text` for a sentence or a table's cell in Markdown: one line, with neither HTML nor marks of Markdown in it."""
    return MARKDOWN.sub(r"\\\1", html.escape(one_line(text), quote=False))


def listing(entries: list[str], most: int = NUM_NAMED) -> str:
    """The first entries, each in one line, and how many more there are."""
    more = [f"… and {len(entries) - most} more"] if len(entries) > most else []
    return "; ".join([*map(one_line, entries[:most]), *more])
