"""What the rows of a result become in figures and tables: titles, curves, cells a question, what was asked."""

from __future__ import annotations

from collections.abc import Sequence

from neurobridge.evaluation.analysis_figures import Curve

TITLES = {
    "identification": "identification (two-way)",
    "category": "category (accuracy)",
    "detail": "pixel-level detail (Pearson)",
}
INTERVALS = "95 % intervals by bootstrap over images, an image's score being its mean over sessions and draws."


def questions(rows: Sequence[dict]) -> list[str]:
    return list(dict.fromkeys(r["score"] for r in rows))


def titled(chance: dict) -> dict[str, float]:
    return {TITLES[name]: value for name, value in chance.items() if value is not None}


def curve(rows: Sequence[dict], x: str) -> Curve:
    rows = sorted(rows, key=lambda r: r[x])
    return Curve(*([r[key] for r in rows] for key in (x, "mean", "low", "high")))


def wide(rows: Sequence[dict], keys: Sequence[str]) -> list[tuple[dict, list]]:
    """One row a key, with a cell (mean, low, high) a question, None where it was not asked."""
    table: dict[tuple, dict[str, tuple]] = {}
    first: dict[tuple, dict] = {}
    for r in rows:
        key = tuple(r[name] for name in keys)
        first.setdefault(key, r)
        table.setdefault(key, {})[r["score"]] = (r["mean"], r["low"], r["high"])
    return [(first[key], [cells.get(score) for score in questions(rows)]) for key, cells in table.items()]


def said(result: dict) -> str:
    """Which images, how often averaged, chance, seed."""
    options = result["options"]
    chance = ", ".join(f"{name} {value:.3g}" for name, value in result["chance"].items() if value is not None)
    return (
        f"Images of the {options['split']} split, up to {options['repeats']} presentations averaged unless single ones "
        f"are named; fitted on training images; seed {options['seed']}. Chance: {chance}."
    )
