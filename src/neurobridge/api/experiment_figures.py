"""Tables and figures of an experiment, and laws where its cells lie on axes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import OptimizeWarning, curve_fit

from neurobridge.errors import atomic_path, needs

Axes = Mapping[str, Sequence[str]]
"""What cells differ in -> the cells that lie along it."""

DRAWS = 200  # of seeds, for the interval of an exponent


@dataclass(frozen=True, kw_only=True)
class Law:
    """How a score goes with x: ``slope`` per tenfold x and its 95 % interval ``low``, ``high`` (Student's t; NaN where
    there is one seed), fitted to all but the largest x, where it ``foretold`` what was ``found``, within ``error``.
    ``exponent``, ``between``: c of y = a - b x^-c and its 95 % interval over seeds; None unless the slope's interval
    excludes 0, four x were tried and the fit converges.
    """

    slope: float
    low: float
    high: float
    foretold: float
    error: float
    found: float
    exponent: float | None = None
    between: tuple[float, float] | None = None


def law_along(x: np.ndarray, y: np.ndarray) -> Law | None:
    """The law of scores ``y`` [cells x seeds] along ``x``, equal for the seeds of a cell; None under three x."""
    places = np.unique(x)
    if len(places) < 3:
        return None
    last = x == places[-1]
    tens = np.log10(x / places[0])
    fit = stats.linregress(tens[~last], y[~last])
    freedom = int((~last).sum()) - 2
    reach = float(stats.t.ppf(0.975, freedom)) if len(y) > len(places) else np.nan
    residual = y[~last] - fit.intercept - fit.slope * tens[~last]
    spread = np.sqrt((residual**2).sum() / max(freedom, 1))
    away = (tens[last][0] - tens[~last].mean()) ** 2 / ((tens[~last] - tens[~last].mean()) ** 2).sum()
    half = reach * fit.stderr
    exponents = exponents_of(x, y) if abs(fit.slope) > half else None
    return Law(
        slope=float(fit.slope),
        low=float(fit.slope - half),
        high=float(fit.slope + half),
        foretold=float(fit.intercept + fit.slope * tens[last][0]),
        error=float(reach * spread * np.sqrt(1 / last.sum() + 1 / (~last).sum() + away)),
        found=float(y[last].mean()),
        exponent=None if exponents is None else exponents[0],
        between=None if exponents is None else exponents[1:],
    )


def exponents_of(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float] | None:
    """c of y = a - b x^-c fitted to all of four x and more, and its interval when seeds are drawn with replacement."""
    places = np.unique(x)
    if len(places) < 4:
        return None

    def exponent(means: np.ndarray) -> float:
        start = (means[-1], means[-1] - means[0], 0.5)
        try:
            fitted, _ = curve_fit(lambda x, a, b, c: a - b * x ** -np.abs(c), places / places[0], means, p0=start)
        except RuntimeError:
            return np.nan
        return float(abs(fitted[2]))

    draw = np.random.default_rng(0)
    of = [y[x == place] for place in places]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)
        found = exponent(np.array([values.mean() for values in of]))
        drawn = [exponent(np.array([draw.choice(values, len(values)).mean() for values in of])) for _ in range(DRAWS)]
    if np.isnan(found) or np.isnan(drawn).mean() > 0.5:
        return None
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return found, float(low), float(high)


def along(table: pd.DataFrame, cells: Sequence[str], axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Places on an ``axis`` and scores of the rows of its ``cells``."""
    points = table[table.cell.isin(cells)].sort_values(axis)
    return points[axis].to_numpy(float), points.value.to_numpy(float)


def told(question: Mapping[str, Any], axes: Axes, table: pd.DataFrame, summary: pd.DataFrame, name: str) -> str:
    """The experiment as Markdown: the question, what the plan expects, a table a task, laws where there are axes."""
    lines = [f"# {name}", "", question["question"], "", f"The plan expects: {question.get('expected', 'nothing')}.", ""]
    for task, part in summary.groupby("task", sort=False):
        lines += [
            f"## {task}",
            "",
            "| cell | method | role | mean over seeds [95 %] | seeds |",
            "|---|---|---|---|---|",
        ]
        for _, row in part.iterrows():
            half = "" if np.isnan(row.half) else f" [{row.value - row.half:.3f}, {row.value + row.half:.3f}]"
            lines.append(f"| {row.cell} | {row.method} | {row.role} | {row.value:.3f}{half} | {row.seeds} |")
        lines.append("")
        mine = part[part.role == "ours"].drop_duplicates("cell")
        if len(mine):
            best = mine.loc[mine.value.idxmax()]
            lines += [f"Highest of ours: {best.cell}, {best.value:.3f}.", ""]
        rows = table[(table.task == task) & (table.role == "ours")].drop_duplicates(["cell", "seed"])
        for axis, cells in axes.items():
            law = law_along(*along(rows, cells, axis))
            if law is not None:
                lines += [said(axis, law), ""]
    return "\n".join(lines)


def said(axis: str, law: Law) -> str:
    """A law as a sentence."""
    between = "(one seed)" if np.isnan(law.low) else f"[{law.low:+.4f}, {law.high:+.4f}]"
    text = f"Along {axis}: {law.slope:+.4f} {between} per tenfold"
    if law.exponent is not None and law.between is not None:
        text += f", power law of exponent {law.exponent:.2f} [{law.between[0]:.2f}, {law.between[1]:.2f}]"
    error = "" if np.isnan(law.error) else f" +- {law.error:.4f}"
    return (
        f"{text}; the largest, which the line did not see, was foretold {law.foretold:.4f}{error}, is {law.found:.4f}."
    )


def draw(axes: Axes, summary: pd.DataFrame, path: Path) -> None:
    """A panel a task: points with intervals, along axes where there are some."""
    found = summary[summary.role == "ours"].drop_duplicates(["task", "cell"])
    tasks = list(dict.fromkeys(found.task))
    with needs("report"):
        from matplotlib.figure import Figure
    height = 1.2 + 0.16 * found.groupby("task").size().max()
    figure = Figure(figsize=(9.2, height * -(-len(tasks) // 2)), layout="constrained")
    panels = figure.subplots(-(-len(tasks) // 2), 2, squeeze=False).ravel()
    for empty in panels[len(tasks) :]:
        empty.set_axis_off()
    for panel, task in zip(panels, tasks, strict=False):
        part = found[found.task == task]
        for axis, cells in axes.items():
            points = part[part.cell.isin(cells)].sort_values(axis)
            panel.errorbar(
                points[axis] / points[axis].max(), points.value, points.half.fillna(0), marker="o", label=axis
            )
        if axes:
            panel.set_xscale("log")
            panel.set_xlabel("share of the largest")
            panel.legend(fontsize=7)
        else:
            place = np.arange(len(part))[::-1]
            panel.errorbar(part.value, place, xerr=part.half.fillna(0), fmt="o")
            panel.set_yticks(place, [str(cell)[:38] for cell in part.cell], fontsize=6)
        panel.set_title(task, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, facecolor="white")
