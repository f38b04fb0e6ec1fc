"""How many units does it take? Curves over 5, 10, 20, ... units drawn at random, of every area and of all together."""

from __future__ import annotations

import numpy as np

from neurobridge.errors import UserError
from neurobridge.pipeline.analyses.areas import averaged, model_scores
from neurobridge.pipeline.analyses.material import Material, Seen
from neurobridge.pipeline.analyses.parts import each_session, pooled, row

KEYS = ("source", "area", "size")
EVERY, WHOLE = "all areas", -1  # a size of -1 stands for all units, whose number differs from session to session


def curves(material: Material, *, draws: int, smallest: int) -> dict:
    """Scores against the number of units; sizes that a session does not reach are left out for all sessions."""
    if smallest < 1:
        raise UserError(f"--smallest is {smallest}: start with 1 unit or more")
    options = {
        "draws": draws, "smallest": smallest, "repeats": material.repeats, "order": list(material.order),
        "split": material.split, "seed": material.seed, "questions": material.questions.names,
    }  # fmt: skip
    parts = each_session(
        material, "units", options, lambda session: of_session(material.seen(session), draws, smallest)
    )
    rows = pooled(parts, KEYS, material.seed)
    most = {(r["source"], r["area"]): r["sessions"] for r in rows if r["size"] == WHOLE}
    gallery = np.unique([image for part in parts.values() for one in part for image in one["images"]])
    return {
        "analysis": "units",
        "options": options,
        "chance": material.questions.chance(gallery),
        "rows": [r for r in rows if r["sessions"] == most[r["source"], r["area"]]],
    }


def sizes(units: int, smallest: int) -> list[int]:
    """``smallest``, twice that, ... below ``units``."""
    found = []
    while smallest < units:
        found.append(smallest)
        smallest *= 2
    return found


def of_session(seen: Seen, draws: int, smallest: int) -> list[dict]:
    """One row a (source, area, size), the mean over draws; the model answers for all areas together only."""
    material, session = seen.material, seen.session
    areas = material.areas(session)
    groups = {EVERY: np.arange(session.units)} if len(areas) == 1 else {**areas, EVERY: np.arange(session.units)}
    rng = np.random.default_rng([material.seed, 42])
    rows = []
    for area, columns in groups.items():
        for size in [*sizes(len(columns), smallest), WHOLE]:
            times = 1 if size == WHOLE else draws
            drawn = [columns if size == WHOLE else np.sort(rng.permutation(columns)[:size]) for _ in range(times)]
            for source in ("linear", "model") if material.model is not None and area == EVERY else ("linear",):
                same = [
                    row(
                        seen.images,
                        seen.ask(some) if source == "linear" else model_scores(seen, some),
                        units=len(some),
                    )
                    for some in drawn
                ]
                one = averaged(same, source, "", area)
                rows.append({**one, "area": area, "size": size})
    return rows
