"""The terminal: what is said there, and how to be silent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich import get_console
from rich.console import Console

from neurobridge.errors import printable


class Terminal(Console):
    """Names of others are shown as they are: what would steer the terminal is spelt out."""

    def render_str(self, text: str, **options):
        return super().render_str(printable(text), **options)


console = Terminal(highlight=False)


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
