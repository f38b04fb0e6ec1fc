"""Results in parts, one a session, kept in the run folder; then pooled over sessions with intervals over images.

A part is a list of rows. A row holds its key (plain values), ``images`` [J] (rows of the image set) and ``scores``:
question -> [J], NaN for what was not asked. Letters: J images, S sessions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.progress import track

from neurobridge.data.store import Session
from neurobridge.errors import atomic_path
from neurobridge.evaluation.controls import Interval, bootstrap_difference, bootstrap_interval
from neurobridge.pipeline.analyses.material import Material

DIGITS = 5
Scores = dict[str, np.ndarray]


def row(images: np.ndarray, scores: Scores, **key: object) -> dict:
    """One row of a part."""
    rounded = {name: np.round(np.asarray(values, float), DIGITS).tolist() for name, values in scores.items()}
    return {**key, "images": np.asarray(images).tolist(), "scores": rounded}


def each_session(
    material: Material, name: str, options: dict, compute: Callable[[Session], list[dict]]
) -> dict[str, list[dict]]:
    """Session -> its part, computed, or read from run/analyses/<name> if it was computed with the same options."""
    asked = {**options, "aligned": material.model is not None}
    parts = {}
    for session in track(material.sessions, f"{name} by session"):
        path = material.run / "analyses" / name / f"{session.name}.json"
        parts[session.name] = kept_rows(path, asked, lambda session=session: compute(session))
    return parts


def kept_rows(path: Path, options: dict, compute: Callable[[], list[dict]]) -> list[dict]:
    """Rows computed and kept at ``path``, or read there if they were computed with the same options."""
    asked = json.loads(json.dumps(options))
    kept = json.loads(path.read_text()) if path.is_file() else {}
    if kept.get("options") != asked:
        kept = {"options": asked, "rows": compute()}
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(kept))
    return kept["rows"]


def by_image(rows: Sequence[dict], question: str) -> dict[int, float]:
    """Image row -> mean score over ``rows``, an image without an answer left out."""
    images = np.concatenate([r["images"] for r in rows if question in r["scores"]] or [[]]).astype(int)
    values = np.concatenate([r["scores"][question] for r in rows if question in r["scores"]] or [[]]).astype(float)
    images, values = images[~np.isnan(values)], values[~np.isnan(values)]
    unique, inverse = np.unique(images, return_inverse=True)
    means = np.bincount(inverse, weights=values) / np.maximum(np.bincount(inverse), 1)
    return dict(zip(unique.tolist(), means.tolist(), strict=True))


def interval(scores: dict[int, float], seed: int) -> Interval | None:
    """Mean over images and its bootstrap interval; None for no image."""
    return bootstrap_interval(list(scores.values()), seed=seed) if scores else None


def difference(ours: dict[int, float], theirs: dict[int, float], seed: int) -> Interval | None:
    """The mean paired difference over the images that both have."""
    both = [image for image in ours if image in theirs]
    return bootstrap_difference([ours[i] for i in both], [theirs[i] for i in both], seed=seed) if both else None


def pooled(parts: dict[str, list[dict]], keys: Sequence[str], seed: int) -> list[dict]:
    """Rows of equal ``keys`` pooled over sessions: one row a (key, question) with mean, low, high, images, sessions.

    An image's score is its mean over sessions (and draws); the bootstrap is over images. ``units``: mean over sessions.
    """
    groups: dict[tuple, list[tuple[str, dict]]] = {}
    for session, rows in parts.items():
        for one in rows:
            groups.setdefault(tuple(one[key] for key in keys), []).append((session, one))
    result = []
    for key, members in groups.items():
        rows = [one for _, one in members]
        for question in dict.fromkeys(name for one in rows for name in one["scores"]):
            scores = by_image(rows, question)
            found = interval(scores, seed)
            if found is not None:
                result.append(
                    {
                        **dict(zip(keys, key, strict=True)),
                        "score": question,
                        "mean": found.mean,
                        "low": found.low,
                        "high": found.high,
                        "images": len(scores),
                        "sessions": len({session for session, _ in members}),
                        "units": float(np.mean([one.get("units", np.nan) for one in rows])),
                    }
                )
    return result
