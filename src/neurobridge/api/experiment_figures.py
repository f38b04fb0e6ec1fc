"""Tables and figures of an experiment, and power laws where its cells lie on axes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

from neurobridge.errors import atomic_path, needs

AXIS = re.compile(r"(weights|windows|sessions|tasks)/(\S+)")
MEASURED = {"weights": "weights", "windows": "windows", "sessions": "sessions"}


def ours(summary: pd.DataFrame) -> pd.DataFrame:
    """Rows of our own methods, the first of each task, and axis and place of each cell on it."""
    found = summary[summary.role == "ours"].drop_duplicates(["task", "cell"]).copy()
    parts = [AXIS.fullmatch(cell) for cell in found.cell]
    found["axis"] = [part[1] if part else "" for part in parts]
    found["x"] = [
        row[MEASURED[part[1]]] if part and part[1] in MEASURED else float(part[2]) if part else np.nan
        for part, (_, row) in zip(parts, found.iterrows(), strict=True)
    ]
    return found


def power_law(x: np.ndarray, y: np.ndarray) -> dict[str, float] | None:
    """y = a - b x^-c fitted to all points but the largest, and what it foretells there; None under four points."""
    order = np.argsort(x)
    x, y = x[order] / x[order][0], y[order]
    if len(x) < 4:
        return None

    def law(x: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
        return a - b * x ** -np.abs(c)

    try:
        fitted, covariance = curve_fit(law, x[:-1], y[:-1], p0=(y[-1], y[-1] - y[0], 0.5), maxfev=20_000)
    except RuntimeError:
        return None
    return {
        "exponent": float(abs(fitted[2])),
        "deviation": float(np.sqrt(covariance[2, 2])) if np.isfinite(covariance[2, 2]) else float("nan"),
        "foretold": float(law(x[-1:], *fitted)[0]),
        "found": float(y[-1]),
    }


def told(question: Mapping[str, Any], summary: pd.DataFrame, name: str) -> str:
    """The experiment as Markdown: the question, what the plan expects, a table a task, laws where there are axes."""
    lines = [f"# {name}", "", question["question"], "", f"The plan expects: {question.get('expected', 'nothing')}.", ""]
    found = ours(summary)
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
        mine = found[found.task == task]
        best = mine.loc[mine.value.idxmax()] if len(mine) else None
        if best is not None:
            lines += [f"Highest of ours: {best.cell}, {best.value:.3f}.", ""]
        for axis, points in mine[mine.axis != ""].groupby("axis"):
            law = power_law(points.x.to_numpy(float), points.value.to_numpy(float))
            if law:
                lines += [
                    f"Along {axis}: exponent {law['exponent']:.2f} ({law['deviation']:.2f}); the largest, which the "
                    f"law did not see, was foretold {law['foretold']:.3f} and is {law['found']:.3f}.",
                    "",
                ]
    return "\n".join(lines)


def draw(summary: pd.DataFrame, path: Path) -> None:
    """A panel a task: points with intervals, along axes where there are some."""
    found = ours(summary)
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
        axes = [axis for axis in dict.fromkeys(part.axis) if axis]
        for axis in axes:
            points = part[part.axis == axis].sort_values("x")
            panel.errorbar(points.x / points.x.max(), points.value, points.half.fillna(0), marker="o", label=axis)
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
