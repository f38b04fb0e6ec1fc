"""Figures in one style: arrays in, matplotlib figures out, drawn off screen (no window, no global state changed).

Shapes: ``I`` items, ``N`` units, ``T`` bins, ``W`` windows, ``H`` x ``W`` pixels.
Colours carry meaning everywhere: blue is ours, grey a floor or baseline, gold the oracle or a ceiling, dashed chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Literal, NamedTuple, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from numpy.typing import ArrayLike

from neurobridge.evaluation.images import channels_last

Role = Literal["ours", "baseline", "floor", "oracle"]
COLOURS: dict[str, str] = {"ours": "#2563a8", "baseline": "#8a97a6", "floor": "#c3cad2", "oracle": "#d59a1c"}
STRONG = ("#2563a8", "#d1603d", "#3b8f5c", "#8256a3", "#d59a1c", "#3fa7b5", "#b0457b", "#6b7280")
PALETTE = (*STRONG, "#93b3dc", "#eea78f", "#9bcfae", "#c3a8d8", "#ecc983")
AREA_COLOURS = {"V1": "#2563a8", "V2": "#3fa7b5", "V4": "#3b8f5c", "IT": "#d1603d"}
INK, FAINT, CHANCE = "#1f2933", "#e4e8ec", "#b03a2e"
STYLE: dict[str, object] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": "#7b8794",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "text.parse_math": False,  # names are drawn as they are: a dollar sign is no formula
    "axes.prop_cycle": matplotlib.cycler(color=PALETTE),
}

P = ParamSpec("P")


class Bar(NamedTuple):
    """One bar: a score with its interval (None: no interval) and the part it plays."""

    name: str
    mean: float
    low: float | None = None
    high: float | None = None
    role: Role = "baseline"


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw under :data:`STYLE` and leave the caller's matplotlib settings as they were."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


@styled
def loss_curves(
    curves: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]], *, ylabel: str = "loss", log: bool = False
) -> Figure:
    """Panel name -> curve name -> (steps, values): losses per mode, one panel a stage. NaN values are skipped.

    A curve whose name starts with "valid" is drawn dashed. Long noisy curves are shown faint under a running mean.
    """
    figure = Figure(figsize=(min(9.2, 1.2 + 4.0 * len(curves)), 3.0))
    for axes, (panel, lines) in zip(_row(figure, len(curves)), curves.items(), strict=True):
        for number, (name, (steps, values)) in enumerate(lines.items()):
            steps, values = np.asarray(steps, float), np.asarray(values, float)
            keep = np.isfinite(values)
            steps, values = steps[keep], values[keep]
            colour, line = PALETTE[number % len(PALETTE)], "--" if name.startswith("valid") else "-"
            if len(values) > 60:
                axes.plot(steps, values, color=colour, alpha=0.18, linewidth=0.8)
                width = max(3, len(values) // 30)
                values = np.convolve(values, np.ones(width) / width, mode="valid")
                steps = steps[width // 2 : width // 2 + len(values)]
            axes.plot(steps, values, line, color=colour, linewidth=1.7, label=name)
        axes.set(title=panel, xlabel="step", ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(axis="y")
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())  # the default ones write formulas
            axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))
        if lines:
            axes.legend()
    return figure


@styled
def bars(panels: Mapping[str, Sequence[Bar]], *, chance: Mapping[str, float] | None = None, xlabel: str = "") -> Figure:
    """Horizontal bars with intervals, one panel a metric, ``chance`` (panel -> value) as a dashed line.

    For retrieval against chance, bits/spike against baselines, and pictures against their floors and oracle.
    Panels with the same names side by side share their labels.
    """
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    height = max(len(panel) for panel in panels.values())
    figure = Figure(figsize=(9.2 if columns > 1 else 6.4, rows * (0.85 + 0.27 * height)))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    previous: list[str] = []
    for number, (title, panel) in enumerate(panels.items()):
        axes, names = grid[number], [bar.name for bar in panel]
        _bars(axes, panel, (chance or {}).get(title))
        shared = number % columns > 0 and names == previous
        axes.set_yticks(np.arange(len(panel))[::-1], [""] * len(panel) if shared else names)
        axes.set_title("\n".join(_wrap(title, 30)), pad=14 if chance else 6)
        axes.set_xlabel(xlabel)
        previous = names
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def _bars(axes: Axes, panel: Sequence[Bar], level: float | None) -> None:
    y = np.arange(len(panel))[::-1]
    mean = np.array([bar.mean for bar in panel])
    axes.barh(y, mean, color=[COLOURS[bar.role] for bar in panel], height=0.68)
    for at, bar in zip(y, panel, strict=True):
        if bar.low is not None and bar.high is not None:
            axes.plot([bar.low, bar.high], [at, at], color=INK, linewidth=1.3, solid_capstyle="butt")
    ends = np.array([max(bar.mean, bar.high if bar.high is not None else bar.mean, 0.0) for bar in panel])
    right = max(ends.max(), level or 0.0)
    span = right - min(0.0, mean.min())
    for at, end, bar in zip(y, ends, panel, strict=True):
        weight = "bold" if bar.role == "ours" else "normal"
        axes.text(end + 0.025 * span, at, f"{bar.mean:.3f}", va="center", fontsize=8, fontweight=weight)
    if level is not None:
        axes.axvline(level, color=CHANCE, linestyle=(0, (4, 3)), linewidth=1.1)
        axes.text(level, len(panel) - 0.45, "chance", color=CHANCE, fontsize=7.5, ha="center", va="bottom")
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(right=(right + 0.2 * span) or 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="x")
    axes.axvline(0, color="#7b8794", linewidth=0.8)


@styled
def gallery(columns: Mapping[str, ArrayLike], *, row_labels: Sequence[str] | None = None) -> Figure:
    """Pictures side by side: ``columns`` name -> [I, H, W, 3] or [I, 3, H, W] floats in [0, 1], one row an image.

    Give target first, then reconstruction, floors and oracle.
    """
    pictures = {name: channels_last(column) for name, column in columns.items()}
    number = len(next(iter(pictures.values())))
    if any(len(column) != number for column in pictures.values()):
        raise ValueError(f"every column of a gallery needs {number} pictures")
    cell = min(1.15, 9.2 / len(pictures))
    figure = Figure(figsize=(cell * len(pictures) + (0.6 if row_labels is not None else 0), cell * number + 0.4))
    grid = figure.subplots(number, len(pictures), squeeze=False)
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    for column, (name, images) in enumerate(pictures.items()):
        for row in range(number):
            axes = grid[row, column]
            axes.imshow(images[row], interpolation="nearest" if images.shape[1] >= 48 else "bicubic")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if column == 0 and row_labels is not None:
                axes.set_ylabel(row_labels[row], rotation=0, ha="right", va="center", fontsize=8)
        title = "\n".join(_wrap(name, 14))
        grid[0, column].set_title(title, fontsize=8, loc="center", fontweight="bold" if column < 2 else "normal")
    return figure


@styled
def representation_scatter(xy: ArrayLike, labels: Mapping[str, ArrayLike], *, axis_name: str = "t-SNE") -> Figure:
    """A 2-D map [I, 2] coloured by labels: one panel a labelling (area, category). Numbers get a colour bar."""
    xy, turbo = np.asarray(xy), matplotlib.colormaps["turbo"]
    figure = Figure(figsize=(4.6 * len(labels), 3.9))
    for axes, (title, label) in zip(_row(figure, len(labels)), labels.items(), strict=True):
        label = np.asarray(label)
        if label.dtype.kind == "f":
            points = axes.scatter(*xy.T, c=label, s=9, cmap="viridis", linewidths=0)
            figure.colorbar(points, ax=axes, shrink=0.7)
        else:
            present = np.unique(label).tolist()
            names = sorted(present, key=lambda name: [*AREA_COLOURS, name].index(name))
            palette = PALETTE if len(names) <= len(PALETTE) else turbo(np.linspace(0.03, 0.97, len(names)))
            for number, name in enumerate(names):
                colour = AREA_COLOURS.get(str(name), palette[number])
                axes.scatter(*xy[label == name].T, s=9, color=colour, label=str(name), alpha=0.8, linewidths=0)
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=2, handletextpad=0.1)
        axes.set(title=title, xticks=[], yticks=[], xlabel=f"{axis_name} 1", ylabel=f"{axis_name} 2")
    return figure


@styled
def raster_and_psth(
    counts: ArrayLike,
    areas: ArrayLike,
    *,
    bin_s: float,
    start_s: float = 0.0,
    window: int = 0,
    stimulus_s: float = 0.25,
) -> Figure:
    """Left: the spikes of one window, units sorted by area. Right: mean rate (Hz) by area over all windows.

    ``counts`` [W, N, T], ``areas`` [N]; bins of ``bin_s`` seconds from ``start_s`` relative to stimulus onset, which
    lasts ``stimulus_s`` (shaded).
    """
    counts, areas = np.asarray(counts, float), np.asarray(areas).astype(str)
    names = sorted(set(areas.tolist()), key=lambda name: [*AREA_COLOURS, name].index(name))
    colours = {name: AREA_COLOURS.get(name, PALETTE[i % len(PALETTE)]) for i, name in enumerate(names)}
    time_ms = 1000 * (start_s + bin_s * (np.arange(counts.shape[2]) + 0.5))
    figure = Figure(figsize=(9.2, 3.4))
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    base = 0
    for name in names:
        units = np.flatnonzero(areas == name)
        unit, at = np.nonzero(counts[window][units])
        left.vlines(time_ms[at], base + unit, base + unit + 0.9, color=colours[name], linewidth=1.1)
        left.text(-0.015, base + len(units) / 2, name, color=colours[name], fontweight="bold", ha="right", va="center",
                  transform=left.get_yaxis_transform())  # fmt: skip
        base += len(units)
        right.plot(time_ms, counts[:, units].mean((0, 1)) / bin_s, color=colours[name], linewidth=1.8,
                   label=f"{name} ({len(units)} units)")  # fmt: skip
    left.set(title="One window", xlabel="time from onset (ms)", yticks=[], ylim=(0, base))
    left.spines["left"].set_visible(False)
    right.set(title=f"Mean over {len(counts)} windows", xlabel="time from onset (ms)", ylabel="rate (Hz)")
    right.set_ylim(bottom=0)
    right.grid(axis="y")
    right.legend()
    for axes in (left, right):
        axes.axvspan(0, 1000 * stimulus_s, color="#f1f4f7", zorder=0)
        axes.set_xlim(time_ms[0] - 500 * bin_s, time_ms[-1] + 500 * bin_s)
    return figure


@styled
def noise_statistics(
    rates_hz: ArrayLike,
    fano: ArrayLike,
    reliability: ArrayLike,
    *,
    cortex: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """Histograms over units [N] of rate, Fano factor and split-half reliability, each with its median.

    ``cortex``: panel title ("Rate (Hz)", "Fano factor", "Split-half reliability") -> the range in which the *median* of
    cortical units lies, shaded.
    """
    figure = Figure(figsize=(9.2, 2.6))
    panels = {"Rate (Hz)": rates_hz, "Fano factor": fano, "Split-half reliability": reliability}
    for axes, (title, values) in zip(_row(figure, 3), panels.items(), strict=True):
        values = np.asarray(values, float)
        values = values[np.isfinite(values)]
        if (bounds := (cortex or {}).get(title)) is not None:
            axes.axvspan(*bounds, color="#fbf1da", zorder=0, label="cortical medians")
        axes.hist(values, bins=24, color=COLOURS["ours"], alpha=0.85)
        if len(values):
            median = float(np.median(values))
            axes.axvline(median, color=INK, linestyle=(0, (4, 3)), linewidth=1.2, label=f"median {median:.2g}")
        axes.set(title=title, ylabel="units")
        axes.legend()
    return figure


def _row(figure: Figure, number: int) -> list[Axes]:
    return list(figure.subplots(1, number, squeeze=False)[0])


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], joined] if len(joined) <= width or not lines[-1] else [*lines, word]
    return lines
