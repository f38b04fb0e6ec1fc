"""A report as one self-contained HTML file: texts, tables that fold and figures, nothing fetched from elsewhere."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from matplotlib.figure import Figure as MatplotlibFigure

from neurobridge.errors import atomic_path

UNFOLDED = 12  # rows that a table may have to be open at first
Cell = str | float | int | None | tuple[float, float, float]


@dataclass(frozen=True)
class Text:
    """Paragraphs under a heading. Plain text: markup is escaped."""

    title: str
    paragraphs: list[str]


@dataclass(frozen=True)
class Table:
    """Rows of cells: text, a number (three digits), or (mean, low, high), shown as ``0.43 [0.38, 0.48]``.

    ``highlight``: indices of the rows that are ours. ``note`` stands below: data, split, N, repeats, gallery, seeds.
    """

    title: str
    columns: list[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    highlight: frozenset[int] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table '{self.title}': a row has {len(row)} cells for {len(self.columns)} columns")


@dataclass(frozen=True)
class Figure:
    """A matplotlib figure and its caption. ``photographic`` embeds JPEG instead of PNG.

    ``alt``: what it shows, for those who cannot see it; empty: its title, its panels and their axes.
    """

    title: str
    figure: MatplotlibFigure
    caption: str = ""
    photographic: bool = False
    alt: str = ""


Block = Text | Table | Figure


def write_report(
    path: Path | str,
    *,
    title: str,
    subtitle: str = "",
    blocks: Sequence[Block],
    summary: dict[str, Cell] | None = None,
    sections: dict[int, str] | None = None,
) -> Path:
    """Write the blocks in order to ``path``, atomically, with a table of contents; return the path.

    ``summary``: name -> value shown as cards on top (the few numbers that matter; an interval stands below its mean).
    ``sections``: index of a block -> the heading of the chapter that begins there. Everything is escaped; images are
    embedded. Raises UserError when the disk is full.
    """
    entries = []
    for number, block in enumerate(blocks):
        entry: dict[str, object] = {
            "kind": type(block).__name__.lower(),
            "anchor": f"{number + 1}-{_slug(block.title)}",
            "section": (sections or {}).get(number),
            "block": block,
        }
        if isinstance(block, Figure):
            entry["source"], entry["width"] = _embed(block)
            entry["alt"] = block.alt or described(block)
        if isinstance(block, Table):
            entry["open"] = len(block.rows) <= UNFOLDED
            entry["cells"] = [[format_cell(cell) for cell in row] for row in block.rows]
            entry["numeric"] = [
                any(not isinstance(row[column], str | None) for row in block.rows)
                for column in range(len(block.columns))
            ]
        entries.append(entry)
    cards = [(name, *_card(value)) for name, value in (summary or {}).items()]
    html = page("report.html.j2").render(title=title, subtitle=subtitle, entries=entries, cards=cards)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return Path(path)


def page(name: str) -> Template:
    """The template of a page; whatever is put into it is escaped."""
    environment = Environment(
        loader=PackageLoader("neurobridge.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def format_cell(cell: Cell) -> str:
    """A cell as text: ``0.43 [0.38, 0.48]`` for intervals, three digits for floats, a dash for nothing and for NaN.

    An interval narrower than 0.1 gets as many decimals as it takes to tell its ends apart, at most three.
    """
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bool | np.bool_):
        return "yes" if cell else "no"
    if isinstance(cell, int | np.integer):
        return f"{cell:,}"
    if not isinstance(cell, tuple):
        return _number(float(cell))
    mean, low, high = (float(part) for part in cell)
    if not all(math.isfinite(part) for part in (mean, low, high)):
        return _number(mean)
    if max(abs(low), abs(high)) >= 100:
        return f"{_number(mean)} [{_number(low)}, {_number(high)}]"
    digits = min(3, max(2, 1 + math.ceil(-math.log10(high - low) - 1e-9))) if high > low else 2
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]".replace("-", "−")


def _number(value: float) -> str:
    """Three decimals; fewer for large numbers, two significant digits for small ones."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 100:
        text = f"{value:,.0f}" if size >= 1000 else f"{value:.1f}"
    elif size >= 10:
        text = f"{value:.2f}"
    elif size >= 0.01 or size == 0:
        text = f"{value:.3f}"
    else:
        text = f"{value:.{1 - math.floor(math.log10(size))}f}" if size >= 1e-4 else f"{value:.1e}"
    return text.replace("-", "−")


def _card(value: Cell) -> tuple[str, str]:
    """The big and the small line of a card."""
    text = format_cell(value)
    if isinstance(value, tuple):
        big, _, small = text.partition(" ")
        return big, small
    return text, ""


def described(block: Figure) -> str:
    """What a figure shows, in words: its title, and of every panel the title, the axes and the names of its lines."""
    panels = []
    for axes in block.figure.axes:
        axis = [words for words in (axes.get_xlabel(), axes.get_ylabel()) if words]
        title = " ".join(axes.get_title(loc).replace("\n", " ") for loc in ("left", "center", "right")).strip()
        names = [name for name in axes.get_legend_handles_labels()[1] if not name.startswith("_")]
        told = [part for part in (title, " against ".join(reversed(axis)), ", ".join(names)) if part]
        if told and axes.get_label() != "<colorbar>":
            panels.append("; ".join(told))
    return ". ".join([block.title, *dict.fromkeys(panels)])


def _embed(block: Figure) -> tuple[str, int]:
    """A data URI of the figure and its natural width in CSS pixels."""
    buffer, kind = io.BytesIO(), "jpeg" if block.photographic else "png"
    options = {"pil_kwargs": {"quality": 90}} if block.photographic else {}
    block.figure.savefig(buffer, format=kind, dpi=170, facecolor="white", **options)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{kind};base64,{data}", round(block.figure.get_size_inches()[0] * 104)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
