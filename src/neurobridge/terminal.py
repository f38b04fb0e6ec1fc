"""The terminal: what is said there, and how to be silent."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich import get_console
from rich.console import Console
from rich.table import Table
from rich.text import Text

from neurobridge.errors import printable

WIDE = 160  # columns of what goes to a file or another program, where no line has to be folded


class Terminal(Console):
    """Names of others are shown as they are: what would steer the terminal is spelt out.

    ``as_json``: a table is one line of JSON on the output, all other words go to the error output.
    """

    as_json = False

    def print(self, *objects: Any, **options: Any) -> None:
        if not self.as_json:
            super().print(*objects, **options)
        elif len(objects) == 1 and isinstance(objects[0], Table):
            print(json.dumps(plain(objects[0])))
        else:
            print(*objects, file=sys.stderr)

    def render_str(self, text: str, **options):
        return super().render_str(printable(text), **options)


def plain(table: Table) -> dict[str, Any]:
    """A table as title and rows, a mapping a row, without markup."""

    def text(cell: Any) -> str:
        return Text.from_markup(cell).plain if isinstance(cell, str) else str(cell)

    names = [text(column.header) for column in table.columns]
    rows = zip(*([text(cell) for cell in column.cells] for column in table.columns), strict=True)
    title = text(table.title) if table.title else None
    return {"title": title, "rows": [dict(zip(names, row, strict=True)) for row in rows]}


console = Terminal(highlight=False, width=None if sys.stdout.isatty() else WIDE)


@contextmanager
def progress(shown: bool) -> Iterator[None]:
    """Within, sentences and progress bars are ``shown``, or nothing is printed. Errors are raised as always."""
    consoles = [console, get_console()]
    before = [c.quiet for c in consoles]
    for c in consoles:
        c.quiet = c.quiet or not shown
    try:
        yield
    finally:
        for c, quiet in zip(consoles, before, strict=True):
            c.quiet = quiet
