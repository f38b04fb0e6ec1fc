"""Figures of units, of what is read when, and of where on an image a unit looks.

Shapes: ``N`` units, ``C`` chunks, ``Q`` queries, ``G`` side of a map, ``K`` numbers of presentations, ``I`` images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from neurobridge.evaluation.figures import AREA_COLOURS, CHANCE, COLOURS, INK, PALETTE, styled

BOX = {"showfliers": False, "patch_artist": True, "boxprops": {"facecolor": "#cfdff1", "edgecolor": COLOURS["ours"]}}
BOX |= {"medianprops": {"color": COLOURS["ours"], "linewidth": 2}}
BOX |= {part: {"color": COLOURS["ours"]} for part in ("whiskerprops", "capprops")}


@styled
def by_session(values: Mapping[str, Mapping[str, ArrayLike]]) -> Figure:
    """Quantity -> session -> its units' values: a panel a quantity, a box a session (median, quartiles, 5-95 %)."""
    names = list(dict.fromkeys(name for sessions in values.values() for name in sessions))
    figure = Figure(figsize=(9.2, 1.1 + 0.27 * len(names)))
    for axes, (title, sessions) in zip(
        np.atleast_1d(figure.subplots(1, len(values), sharey=True)), values.items(), strict=True
    ):
        for row, name in enumerate(names):
            known = np.asarray(sessions.get(name, []), float)
            known = known[np.isfinite(known)]
            if len(known):
                axes.boxplot(known, positions=[row], orientation="horizontal", widths=0.6, whis=(5, 95), **BOX)
        axes.set(title=title, ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(np.arange(len(names)), names)
        axes.grid(axis="x")
    return figure


@styled
def against_ceiling(panels: Mapping[str, tuple[ArrayLike, ArrayLike, Sequence[str]]]) -> Figure:
    """Session -> (ceiling [N], correlation [N], area [N]) of its units: a point a unit, the ceiling dashed."""
    figure = Figure(figsize=(min(9.2, 1.6 + 3.0 * len(panels)), 3.4))
    colours = dict(AREA_COLOURS)
    for axes, (name, (ceiling, correlation, areas)) in zip(
        np.atleast_1d(figure.subplots(1, len(panels), sharex=True, sharey=True)), panels.items(), strict=True
    ):
        x, y, area = np.asarray(ceiling, float), np.asarray(correlation, float), np.asarray(areas)
        for label in dict.fromkeys(area.tolist()):
            colours.setdefault(label, PALETTE[len(colours) % len(PALETTE)])
            mine = area == label
            axes.scatter(x[mine], y[mine], s=16, color=colours[label], alpha=0.75, linewidth=0, label=label)
        axes.plot([0, 1], [0, 1], color=CHANCE, linewidth=1, linestyle=(0, (4, 3)))
        axes.axhline(0, color=INK, linewidth=0.6)
        axes.set(
            title=name, xlabel="what noise allows", xlim=(0, 1.02), ylim=(min(-0.3, np.nanmin(y, initial=0)), 1.02)
        )
    figure.axes[0].set_ylabel("correlation, expected and recorded")
    if len(set(np.concatenate([np.asarray(areas) for *_, areas in panels.values()]).tolist())) <= 12:
        figure.axes[-1].legend(loc="upper left")
    return figure


@styled
def attention(weights: ArrayLike, times_ms: ArrayLike) -> Figure:
    """``weights`` [Q, C], a query's share a chunk; beside them their mean against reading all chunks alike."""
    weights, times = np.asarray(weights, float), np.asarray(times_ms, float)
    figure = Figure(figsize=(9.2, 2.9))
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    half = (times[1] - times[0]) / 2 if len(times) > 1 else 25.0
    edges = np.append(times - half, times[-1] + half)
    shown = left.pcolormesh(edges, np.arange(len(weights) + 1), weights, cmap="viridis", vmin=0)
    left.set(title="each query", xlabel="time (ms)", ylabel="query", ylim=(len(weights), 0))
    figure.colorbar(shown, ax=left, label="share")
    right.step(edges, np.append(weights.mean(0), weights.mean(0)[-1]), where="post", color=COLOURS["ours"], linewidth=2,
               label="mean over queries")  # fmt: skip
    right.axhline(1 / len(times), color=CHANCE, linewidth=1, linestyle=(0, (4, 3)), label="all alike")
    right.set(title="mean", xlabel="time (ms)", ylim=(0, None))
    right.legend()
    return figure


@styled
def unit_maps(maps: ArrayLike, names: Sequence[str]) -> Figure:
    """``maps`` [N, G, G] >= 0, each drawn to its own highest, with its name above."""
    maps = np.asarray(maps, float)
    columns = min(len(maps), 8)
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(1.15 * columns, 1.4 * rows))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, one, name in zip(grid, maps, names, strict=False):
        axes.imshow(one / max(one.max(), 1e-12), cmap="magma", vmin=0, vmax=1, interpolation="bilinear")
        axes.set_title(name, fontsize=7, fontweight="normal", loc="center")
    return figure
