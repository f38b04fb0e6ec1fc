"""Figures of the analyses: maps over area and time, curves with their bands, transfer matrices, before and after.

Letters: A areas, T windows, S sessions. Style and colours are those of :mod:`figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from neurobridge.evaluation.figures import AREA_COLOURS, CHANCE, COLOURS, INK, PALETTE, styled

Spread = tuple[float, float, float]


class Curve(NamedTuple):
    """A score over ``x`` with its interval; all [T]."""

    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@styled
def curves(
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    xlabel: str,
    chance: Mapping[str, float] | None = None,
    log: bool = False,
    ticks: Mapping[float, str] | None = None,
) -> Figure:
    """Panel name -> curve name -> curve, its interval as a band; ``chance`` (panel -> value) dashed; ``log``: x axis.

    A curve whose name ends with "model" is drawn dashed. ticks: what is written at places of the x axis.
    """
    figure = Figure(figsize=(min(9.6, 1.0 + 3.1 * len(panels)), 3.3))
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    for axes, (title, lines) in zip(_grid(figure, 1, len(panels))[0], panels.items(), strict=True):
        for name, curve in lines.items():
            _line(axes, name, curve, names)
        _level(axes, (chance or {}).get(title))
        axes.set(title=title, xlabel=xlabel)
        if log:
            axes.set_xscale("log", base=2)
            longest = max((curve.x for curve in lines.values()), key=len)
            axes.set_xticks(longest, [f"{x:.0f}" for x in longest])
            axes.minorticks_off()
        if ticks is not None:
            axes.set_xticks(list(ticks), list(ticks.values()))
        axes.grid(axis="y")
    _legend(figure)
    return figure


@styled
def time_maps(
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    chance: Mapping[str, float] | None = None,
) -> Figure:
    """Score name -> area -> curve over window centres (ms): above a map of area x centre, below the curves.

    The brightest window of each area is marked.
    """
    figure = Figure(figsize=(min(9.6, 1.0 + 3.1 * len(panels)), 4.6))
    grid = _grid(figure, 2, len(panels), height_ratios=(1, 1.5))
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    for column, (title, lines) in enumerate(panels.items()):
        above, below = grid[0][column], grid[1][column]
        x = np.asarray(next(iter(lines.values())).x, float)
        table = np.array([curve.mean for curve in lines.values()])
        step = float(np.diff(x).min()) if len(x) > 1 else 1.0
        extent = (x[0] - step / 2, x[-1] + step / 2, len(lines) - 0.5, -0.5)
        image = above.imshow(table, aspect="auto", extent=extent, cmap="viridis", interpolation="nearest")
        figure.colorbar(image, ax=above, pad=0.02, fraction=0.06)
        for at, (name, curve) in enumerate(lines.items()):
            above.plot(x[int(np.argmax(curve.mean))], at, "o", color="white", markersize=4.5, markeredgecolor=INK)
            _line(below, name, curve, names)
        above.set(title=title, xticks=[])
        above.set_yticks(range(len(lines)), list(lines))
        above.tick_params(axis="y", length=0)
        _level(below, (chance or {}).get(title))
        below.set(xlabel="centre of the window (ms after onset)", xlim=extent[:2])
        below.grid(axis="y")
    _legend(figure)
    return figure


@styled
def matrices(panels: Mapping[str, ArrayLike], rows: Sequence[str], columns: Sequence[str], *, level: float) -> Figure:
    """Panel name -> scores [S, S], NaN where there is none; every cell with its number; colours part at ``level``."""
    figure = Figure(figsize=(min(9.6, 1.4 + 3.2 * len(panels)), 1.4 + 0.42 * len(rows)))
    tables = {name: np.asarray(table, float) for name, table in panels.items()}
    high = max((np.nanmax(table) for table in tables.values() if not np.isnan(table).all()), default=level)
    norm = TwoSlopeNorm(level, vmin=2 * level - max(high, level + 1e-6), vmax=max(high, level + 1e-6))
    for number, (axes, (title, table)) in enumerate(zip(_grid(figure, 1, len(panels))[0], tables.items(), strict=True)):
        axes.imshow(table, cmap="RdBu", norm=norm, aspect="auto")
        for i, j in np.argwhere(~np.isnan(table)).tolist():
            colour = "white" if table[i, j] > level + 0.7 * (high - level) else INK
            axes.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", fontsize=8, color=colour)
        axes.set(title=title, xlabel="tested on")
        axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
        axes.set_yticks(range(len(rows)), list(rows) if number == 0 else [""] * len(rows))
        axes.set_ylabel("readout of" if number == 0 else "")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


@styled
def before_after(panels: Mapping[str, Mapping[str, tuple[Spread, Spread]]], *, xlabel: str) -> Figure:
    """Panel name -> row name -> ((mean, low, high) before, the same after): a grey and a blue point a row, joined."""
    most = max(len(rows) for rows in panels.values())
    figure = Figure(figsize=(min(9.6, 1.8 + 2.0 * len(panels)), 1.2 + 0.32 * most))
    for number, (axes, (title, rows)) in enumerate(zip(_grid(figure, 1, len(panels))[0], panels.items(), strict=True)):
        for at, pair in enumerate(rows.values()):
            axes.plot([pair[0][0], pair[1][0]], [at, at], color=INK, linewidth=1.0, zorder=1)
            for (mean, low, high), role, shift in zip(pair, ("baseline", "ours"), (-0.13, 0.13), strict=True):
                label = {"baseline": "before", "ours": "after"}[role] if number == 0 and at == 0 else None
                axes.plot([low, high], [at + shift] * 2, color=COLOURS[role], linewidth=1.4, solid_capstyle="butt")
                axes.plot(mean, at + shift, "o", color=COLOURS[role], markersize=5, label=label)
        axes.axvline(0, color=CHANCE, linestyle=(0, (4, 3)), linewidth=1.0)
        axes.set(title=title, xlabel=xlabel, ylim=(most - 0.5, -0.5))
        axes.set_yticks(range(len(rows)), list(rows) if number == 0 else [""] * len(rows))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    _legend(figure)
    return figure


def _line(axes: Axes, name: str, curve: Curve, names: Sequence[str]) -> None:
    colour = AREA_COLOURS.get(name, INK if name == "all areas" else PALETTE[names.index(name) % len(PALETTE)])
    style = "--" if name.endswith("model") else "-"
    axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(curve.x, curve.mean, style, color=colour, linewidth=1.7, marker="o", markersize=2.8, label=name)


def _level(axes: Axes, level: float | None) -> None:
    if level is not None:
        axes.axhline(level, color=CHANCE, linestyle=(0, (4, 3)), linewidth=1.1)


def _grid(figure: Figure, rows: int, columns: int, **options) -> list[list[Axes]]:
    return figure.subplots(rows, columns, squeeze=False, **options).tolist()


def _legend(figure: Figure) -> None:
    """One legend below all panels, each name once."""
    found: dict[str, object] = {}
    for axes in figure.axes:
        found |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if found:
        widest = 0.5 + 0.085 * max(len(name) for name in found)  # inches
        columns = int(np.clip(figure.get_figwidth() // widest, 1, min(len(found), 5)))
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns)
