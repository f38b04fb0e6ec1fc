"""The chapter on spikes in the report: masked prediction, and co-smoothing beside its rivals."""

from __future__ import annotations

from neurobridge.evaluation import figures
from neurobridge.evaluation.report import Block, Figure, Table
from neurobridge.pipeline.spike_scores import CO_SMOOTHING, OURS


def spikes(rows: list[dict]) -> list[Block]:
    if not rows:
        return []
    table = [
        [r["session"], r["role"], r["task"], r["method"], interval(r, "interval") or r["value"], r["unit"],
         interval(r, "ours_minus")] for r in rows
    ]  # fmt: skip
    panels: dict[str, list[figures.Bar]] = {}
    for r in rows:
        if r["task"].startswith(CO_SMOOTHING):
            role = "ours" if r["method"] == OURS else "baseline"
            panel = r["session"] + r["task"].removeprefix(CO_SMOOTHING)
            panels.setdefault(panel, []).append(figures.Bar(r["method"], *r["interval"], role=role))
    splits = " and ".join(sorted({r.get("split", "test") for r in rows})).capitalize()
    drawn: list[Block] = []
    if panels:
        caption = (
            f"{splits} split, 95 % intervals over units. 0 is the mean rate; over the PSTH the unit's own time course."
        )
        drawn.append(Figure("Leave-one-out co-smoothing", figures.bars(panels, xlabel=rows[0]["unit"]), caption))
    return [
        *drawn,
        Table(
            "Masked prediction",
            ["session", "role", "task", "method", "score", "unit", "ours minus this"],
            table,
            note=f"{splits} split, up to 300 windows, frozen masks, one seed. Null: each unit's mean over the scored "
            "cells. Co-smoothing: 20 units, each predicted from all the others; intervals over units, paired for ours "
            "minus a rival. PSTH x GLM: the unit's own time course times what the other units add." + predictors(rows),
            highlight=frozenset(i for i, r in enumerate(rows) if r["method"] == OURS),
        ),
    ]


def predictors(rows: list[dict]) -> str:
    """A sentence on sessions of which the GLMs saw a part of the units; nothing where they saw all."""
    told = dict.fromkeys(
        f" In session {r['session']} the GLMs saw {r['predictors'][0]} of {r['predictors'][1]:,} units."
        for r in rows
        if "predictors" in r
    )
    return "".join(told)


def interval(row: dict, key: str) -> tuple[float, float, float] | None:
    """The (mean, low, high) of a row, if it has one."""
    return tuple(row[key]) if key in row else None
