"""Contribution of time: a map of area x window, decoded from the counts inside the window alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neurobridge.errors import UserError
from neurobridge.pipeline.analyses.material import Material, Seen, mean_by_image
from neurobridge.pipeline.analyses.parts import by_image, each_session, pooled, row

PEAK_DRAWS = 1000
KEYS = ("area", "centre_ms")
EVERY = "all areas"


def time_map(material: Material, *, width_ms: int, step_ms: int) -> dict:
    """Scores by area and window centre (ms after onset), and where each area peaks, with intervals over images.

    Raises UserError where no session has a time course, or the windows do not fit into the run's.
    """
    window = material.run.settings.window
    if step_ms < 1 or width_ms < step_ms or width_ms % step_ms or width_ms > window.window_ms:
        raise UserError(
            f"--width_ms is {width_ms} and --step_ms {step_ms}: the width is a multiple of the step and at most the "
            f"run's window, {window.window_ms} ms"
        )
    timed = [session for session in material.sessions if not session.valued]
    if not timed:
        raise UserError(f"the sessions of {material.run.path} hold one value a presentation: they have no time course")
    material = replace(material, sessions=timed)
    options = {
        "width_ms": width_ms, "step_ms": step_ms, "repeats": material.repeats, "order": list(material.order),
        "split": material.split, "seed": material.seed, "questions": material.questions.names,
    }  # fmt: skip
    parts = each_session(
        material, "time", options, lambda session: of_session(material.seen(session), width_ms, step_ms)
    )
    gallery = np.unique([image for rows in parts.values() for one in rows for image in one["images"]])
    return {
        "analysis": "time",
        "options": options,
        "chance": material.questions.chance(gallery),
        "rows": pooled(parts, KEYS, material.seed),
        "peaks": peaks(parts, material.seed),
    }


def of_session(seen: Seen, width_ms: int, step_ms: int) -> list[dict]:
    """One row an (area, window) of a session."""
    session = seen.session
    areas = seen.material.areas(session)
    if len(areas) != 1:
        areas = {**areas, EVERY: np.arange(session.units)}
    train, test = (
        sliding(mean_by_image(session, rows, lambda some: session.binned(some, step_ms)), width_ms // step_ms)
        for rows in (seen.train_rows, seen.rows)
    )
    offset = seen.material.run.settings.window.offset_ms
    rows = []
    for area, columns in areas.items():
        for at in range(train.shape[2]):
            scores = seen.ask(columns, train[:, :, at], test[:, :, at])
            centre = offset + at * step_ms + width_ms / 2
            rows.append(row(seen.images, scores, area=area, centre_ms=centre, units=len(columns)))
    return rows


def sliding(counts: np.ndarray, bins: int) -> np.ndarray:
    """[I, N, T] -> [I, N, T - bins + 1]: the sum over each window of so many bins."""
    total = np.cumsum(counts, axis=2, dtype=np.float64)
    total = np.concatenate([np.zeros((*counts.shape[:2], 1)), total], axis=2)
    return total[:, :, bins:] - total[:, :, :-bins]


def peaks(parts: dict[str, list[dict]], seed: int) -> list[dict]:
    """Per (area, question) the window centre with the highest mean, and a 95 % interval by bootstrap over images."""
    groups: dict[tuple[str, float], list[dict]] = {}
    for rows in parts.values():
        for one in rows:
            groups.setdefault((one["area"], one["centre_ms"]), []).append(one)
    result = []
    for area in dict.fromkeys(key[0] for key in groups):
        centres = np.array(sorted(key[1] for key in groups if key[0] == area))
        for question in groups[area, centres[0]][0]["scores"]:
            table = [by_image(groups[area, centre], question) for centre in centres.tolist()]
            scores = np.array([list(column.values()) for column in table]).T
            if not len(scores):
                continue
            rng = np.random.default_rng([seed, 43])
            drawn = rng.integers(len(scores), size=(PEAK_DRAWS, len(scores)))
            at = centres[np.stack([scores[some].mean(0) for some in drawn]).argmax(1)]
            low, high = np.quantile(at, [0.025, 0.975], method="nearest").tolist()
            peak = float(centres[scores.mean(0).argmax()])
            result.append({"area": area, "score": question, "peak_ms": peak, "low": low, "high": high})
    return result
