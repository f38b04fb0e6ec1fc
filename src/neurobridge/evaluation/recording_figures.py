"""Figures of a recording and of what a model makes of it: spikes beside predicted rates, behaviour beside decoded.

Shapes: ``N`` units, ``T`` bins, ``S`` spikes, ``I`` moments, ``Y`` targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from neurobridge.evaluation.figures import COLOURS, FAINT, INK, PALETTE, styled

STRETCH_S = 60.0


@styled
def spikes_beside_rates(
    spike_time: ArrayLike,
    spike_unit: ArrayLike,
    rates_hz: ArrayLike,
    areas: Sequence[str],
    *,
    edges: ArrayLike,
    breaks: Sequence[float] = (),
) -> Figure:
    """Above: ``spike_time`` [S] s of ``spike_unit`` [S]. Below: ``rates_hz`` [N, T] between ``edges`` [T + 1] s.

    ``areas`` [N] colour the spikes; units lie in the order of the rows. ``breaks``: where windows that do not touch
    meet, a line.
    """
    rates, edges = np.asarray(rates_hz, float), np.asarray(edges, float)
    time, unit = np.asarray(spike_time, float), np.asarray(spike_unit)
    figure = Figure(figsize=(9.2, 5.4))
    above, below = figure.subplots(2, 1, sharex=True)
    for number, area in enumerate(dict.fromkeys(areas)):
        mine = np.isin(unit, np.flatnonzero(np.asarray(areas) == area))
        above.vlines(time[mine], unit[mine], unit[mine] + 0.9, color=PALETTE[number % len(PALETTE)], linewidth=0.9,
                     label=area)  # fmt: skip
    above.set(title="Spikes", ylabel="unit", ylim=(len(rates), 0))
    if 1 < len(set(areas)) <= 8:
        above.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=2)
    shown = below.pcolormesh(edges, np.arange(len(rates) + 1), rates / np.maximum(rates.max(1, keepdims=True), 1e-9),
                             cmap="viridis", rasterized=True)  # fmt: skip
    below.set(title="Predicted rate, each unit from all the others", xlabel="time (s)", ylabel="unit",
              ylim=(len(rates), 0))  # fmt: skip
    figure.colorbar(shown, ax=below, shrink=0.8, label="share of its highest")
    for axes in (above, below):
        for at in breaks:
            axes.axvline(at, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    return figure


@styled
def decoded_beside_true(times: ArrayLike, truth: ArrayLike, decoded: ArrayLike, *, name: str) -> Figure:
    """``decoded`` beside ``truth`` [I, Y] at ``times`` [I] s: left a stretch of time, right all moments."""
    times, truth, decoded = (np.asarray(x, float) for x in (times, truth, decoded))
    shown = min(truth.shape[1], 3)
    figure = Figure(figsize=(9.2, 2.5 * shown))
    grid = figure.subplots(shown, 2, squeeze=False, width_ratios=(2.6, 1))
    part = densest(times)
    for row, (left, right) in enumerate(grid):
        known, said = truth[:, row], decoded[:, row]
        left.plot(times[part], known[part], color=INK, linewidth=1.2, label="true")
        left.plot(times[part], said[part], color=COLOURS["ours"], linewidth=1.2, label="decoded")
        left.set_ylabel(f"{name}{f' {row + 1}' if truth.shape[1] > 1 else ''}")
        low, high = np.quantile(np.concatenate([known, said]), [0.001, 0.999])
        right.hexbin(
            known, said, gridsize=40, extent=(low, high, low, high), mincnt=1, bins="log", cmap="Blues", linewidths=0
        )
        right.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        right.set_ylabel("decoded")
    grid[0, 0].legend(loc="upper right", ncols=2)
    grid[0, 0].set_title("A stretch of time")
    grid[0, 1].set_title("All moments")
    grid[-1, 0].set_xlabel("time (s)")
    grid[-1, 1].set_xlabel("true")
    return figure


def densest(times: np.ndarray) -> np.ndarray:
    """Rows of the stretch of :data:`STRETCH_S` that holds most moments, the first of them where several do."""
    until = np.searchsorted(times, times + STRETCH_S)
    first = int(np.argmax(until - np.arange(len(times))))
    return np.arange(first, until[first])


@styled
def trial(
    spike_time: ArrayLike,
    spike_unit: ArrayLike,
    rates: Mapping[str, np.ndarray],
    areas: Sequence[str],
    *,
    edges: ArrayLike,
    hidden: Sequence[int] = (),
    unit: str = "Hz",
) -> Figure:
    """One window: spikes ``spike_time`` [S] ms of ``spike_unit`` [S], and beside them every one of ``rates`` [N, T].

    areas [N]: units are drawn area by area; edges [T + 1] ms; hidden: units that the model was not shown, shaded. All
    rates have one scale, that of the first.
    """
    areas, edges = np.asarray(areas), np.asarray(edges, float)
    order = np.argsort(areas, kind="stable")
    place = np.empty(len(order), int)
    place[order] = np.arange(len(order))
    figure = Figure(figsize=(9.2, 4.2))
    left, *panels = figure.subplots(1, 1 + len(rates), sharex=True, sharey=True)
    names = list(dict.fromkeys(areas[order].tolist()))
    for number, area in enumerate(names):
        mine = areas[np.asarray(spike_unit, int)] == area
        rows = place[np.asarray(spike_unit, int)[mine]]
        left.vlines(np.asarray(spike_time)[mine], rows, rows + 0.9, color=PALETTE[number % len(PALETTE)], linewidth=1.1)
    for row in place[np.asarray(hidden, int)]:
        left.axhspan(row, row + 1, color=FAINT, linewidth=0, zorder=0)
    left.set(title="spikes" + (" (shaded: hidden)" if len(hidden) else ""), ylim=(len(order), 0), xlabel="time (ms)")
    starts = np.searchsorted(areas[order], names)
    if len(names) <= 12:
        middle = (starts + np.append(starts[1:], len(order))) / 2
        left.set_yticks(middle, [f"{name}  " for name in names])
        left.tick_params(axis="y", length=0)
    else:
        left.set_ylabel("unit, by area")
    low, high = (float(np.quantile(next(iter(rates.values())), q)) for q in (0, 0.995))
    for axes, (name, values) in zip(panels, rates.items(), strict=True):
        shown = axes.pcolormesh(edges, np.arange(len(order) + 1), values[order], cmap="viridis", vmin=low, vmax=high,
                                rasterized=True)  # fmt: skip
        axes.set(title=name, xlabel="time (ms)")
    for axes in (left, *panels):
        for at in starts[1:] if len(names) <= 12 else ():
            axes.axhline(at, color=INK, linewidth=0.7)
    figure.colorbar(shown, ax=panels, shrink=0.9, label=f"expected ({unit})")
    return figure


@styled
def response(expected: np.ndarray, usual: np.ndarray, areas: Sequence[str], *, edges: ArrayLike, unit: str) -> Figure:
    """What N units are expected to answer to one picture: ``expected`` [N, T], and how it differs from ``usual``."""
    areas, edges = np.asarray(areas), np.asarray(edges, float)
    order = np.argsort(areas, kind="stable")
    names = list(dict.fromkeys(areas[order].tolist()))
    starts = np.searchsorted(areas[order], names)
    figure = Figure(figsize=(9.2, 3.8))
    panels = figure.subplots(1, 2, sharey=True)
    change = (expected - usual)[order]
    far = max(float(np.quantile(np.abs(change), 0.995)), 1e-9)
    balanced = {"cmap": "RdBu_r", "vmin": -far, "vmax": far}
    parts = (
        ("expected", expected[order], {"cmap": "viridis"}),
        ("minus the mean over training images", change, balanced),
    )
    for axes, (title, values, colours) in zip(panels, parts, strict=True):
        shown = axes.pcolormesh(edges, np.arange(len(order) + 1), values, rasterized=True, **colours)
        axes.set(title=title, xlabel="time (ms)", ylim=(len(order), 0))
        figure.colorbar(shown, ax=axes, label=unit)
        for at in starts[1:] if len(names) <= 12 else ():
            axes.axhline(at, color=INK, linewidth=0.7)
    if len(names) <= 12:
        panels[0].set_yticks((starts + np.append(starts[1:], len(order))) / 2, names)
        panels[0].tick_params(axis="y", length=0)
    else:
        panels[0].set_ylabel("unit, by area")
    return figure
