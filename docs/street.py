"""A flow chart of a Mermaid block (``a --> b``, a line each) as SVG, made with the page: no script, in any theme."""

from __future__ import annotations

from html import escape

from docutils import nodes
from docutils.parsers.rst import Directive

WIDTH, HEIGHT, ACROSS, DOWN = 120, 32, 150, 72


class Mermaid(Directive):
    """The fenced block ``mermaid`` of a page."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        arrows = [tuple(word.strip() for word in line.split("-->")) for line in self.content if "-->" in line]
        return [nodes.raw("", drawing(arrows), format="html")]


def drawing(arrows: list[tuple[str, ...]]) -> str:
    """Boxes in rows, each below all that point at it."""
    row = dict.fromkeys((name for arrow in arrows for name in arrow), 0)
    for _ in row:
        for above, below in arrows:
            row[below] = max(row[below], row[above] + 1)
    floors = [[name for name in row if row[name] == floor] for floor in range(max(row.values()) + 1)]
    wide = max(map(len, floors))
    place = {
        name: (ACROSS * (0.5 + column + (wide - len(names)) / 2), DOWN * floor + HEIGHT)
        for floor, names in enumerate(floors)
        for column, name in enumerate(names)
    }
    lines = [line(place[above], place[below]) for above, below in arrows]
    boxes = [
        f'<rect x="{x - WIDTH / 2}" y="{y - HEIGHT / 2}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="none" '
        f'stroke="currentColor"/>'
        f'<text x="{x}" y="{y + 5}" text-anchor="middle" fill="currentColor">{escape(name)}</text>'
        for name, (x, y) in place.items()
    ]
    told = "; ".join(f"{above} may import {below}" for above, below in arrows)
    size = f"0 0 {ACROSS * wide} {DOWN * (len(floors) - 1) + 2 * HEIGHT}"
    head = '<marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
    head += '<path d="M0,0 L8,4 L0,8 z" fill="currentColor"/></marker>'
    return (
        f'<svg viewBox="{size}" role="img" aria-label="{escape(told)}" style="max-width: 36em" font-size="14">'
        f"<defs>{head}</defs>{''.join(lines + boxes)}</svg>"
    )


def line(above: tuple[float, float], below: tuple[float, float]) -> str:
    """From the lower edge of one box to the upper edge of another."""
    return (
        f'<line x1="{above[0]}" y1="{above[1] + HEIGHT / 2}" x2="{below[0]}" y2="{below[1] - HEIGHT / 2}" '
        'stroke="currentColor" marker-end="url(#head)"/>'
    )
