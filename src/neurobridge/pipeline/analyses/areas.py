"""Contribution of areas: each alone, with as many units as the smallest has; added in order, and in reverse; all.

One row a condition. Groups: "alone, matched" (means over draws of units), "any area, matched" (as many units drawn from
all areas together), "alone", "added", "added in reverse", "all areas", and the floor "shuffled": all areas, fitted on
training images in a random order. Areas together are stacked: a decoder each beside that of all their units.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from neurobridge.errors import UserError
from neurobridge.pipeline.analyses.material import FEWEST_UNITS, Material, Seen
from neurobridge.pipeline.analyses.parts import by_image, difference, each_session, pooled, row

MATCHED, ANY, ALONE, ADDED, REVERSED, ALL, SHUFFLED = (
    "alone, matched", "any area, matched", "alone", "added", "added in reverse", "all areas", "shuffled",
)  # fmt: skip
KEYS = ("source", "group", "areas")


def contributions(material: Material, *, draws: int) -> dict:
    """The result of all sessions with two areas or more. Raises UserError if there is none."""
    if not any(len(material.areas(s)) > 1 for s in material.sessions):
        raise UserError(
            f"no session of {material.run.path} has two areas of at least {FEWEST_UNITS} units: "
            "there is nothing to compare"
        )
    options = {
        "draws": draws, "repeats": material.repeats, "order": list(material.order), "split": material.split,
        "seed": material.seed, "questions": material.questions.names,
    }  # fmt: skip
    parts = each_session(material, "areas", options, lambda session: of_session(material.seen(session), draws))
    parts = {name: rows for name, rows in parts.items() if rows}
    gallery = np.unique([image for rows in parts.values() for one in rows for image in one["images"]])
    return {
        "analysis": "areas",
        "options": options,
        "chance": material.questions.chance(gallery),
        "units": {name: unit_counts(material, name) for name in parts},
        "rows": pooled(parts, KEYS, material.seed),
        "differences": differences(parts, material.seed),
    }


def unit_counts(material: Material, name: str) -> dict[str, int]:
    session = next(s for s in material.sessions if s.name == name)
    return {area: len(columns) for area, columns in material.areas(session).items()}


def conditions(areas: dict[str, np.ndarray], draws: int, rng: np.random.Generator) -> list[tuple[str, str, np.ndarray]]:
    """(group, label, unit columns) of every decoder; a group and label may come several times, once a draw."""
    names, every = list(areas), np.sort(np.concatenate(list(areas.values())))
    matched = min(len(columns) for columns in areas.values())
    asked = []
    for _ in range(draws):
        asked += [(MATCHED, name, np.sort(rng.permutation(areas[name])[:matched])) for name in names]
        asked += [(ANY, "any", np.sort(rng.permutation(every)[:matched]))]
    asked += [(ALONE, name, areas[name]) for name in names]
    for group, order in ((ADDED, names), (REVERSED, names[::-1])):
        for so_far in accumulate([[name] for name in order]):
            asked.append((group, " + ".join(so_far), np.sort(np.concatenate([areas[name] for name in so_far]))))
    return [*asked, (ALL, "all", every)]


def of_session(seen: Seen, draws: int) -> list[dict]:
    """The rows of one session; none if it has fewer than two areas."""
    material, session = seen.material, seen.session
    areas = material.areas(session)
    if len(areas) < 2:
        return []
    rng = np.random.default_rng([material.seed, 41])
    done: dict[tuple[str, bytes], dict] = {}
    rows: dict[tuple[str, str, str], list[dict]] = {}
    for group, label, columns in conditions(areas, draws, rng):
        for source in ("linear", "model") if material.model is not None else ("linear",):
            key = (source, columns.tobytes())
            if key not in done:
                bands = areas.values() if group in (ADDED, REVERSED, ALL) else ()
                linear = source == "linear"
                done[key] = seen.ask(columns, areas=bands) if linear else model_scores(seen, columns)
            rows.setdefault((source, group, label), []).append(row(seen.images, done[key], units=len(columns)))
    result = [averaged(same, source, group, label) for (source, group, label), same in rows.items()]
    return [*result, shuffled(seen, areas, rng)]


def model_scores(seen: Seen, columns: np.ndarray) -> dict[str, np.ndarray]:
    assert seen.material.model is not None
    return {"identification": seen.material.model.score(seen.session, seen.rows, seen.images, columns)}


def averaged(same: list[dict], source: str, group: str, label: str) -> dict:
    """The mean over draws, image by image."""
    scores = {q: np.mean([one["scores"][q] for one in same], axis=0) for q in same[0]["scores"]}
    units = float(np.mean([one["units"] for one in same]))
    return row(np.array(same[0]["images"]), scores, source=source, group=group, areas=label, units=units)


def shuffled(seen: Seen, areas: dict[str, np.ndarray], rng: np.random.Generator) -> dict:
    """The floor: a decoder of all units, fitted on responses that belong to other training images."""
    every = np.sort(np.concatenate(list(areas.values())))
    scores = seen.ask(every, train=seen.train[rng.permutation(len(seen.train))])
    return row(seen.images, scores, source="linear", group=SHUFFLED, areas="all", units=len(every))


def differences(parts: dict[str, list[dict]], seed: int) -> list[dict]:
    """Paired differences over images: between areas of as many units, and of all areas against each alone."""
    groups: dict[tuple[str, str, str], list[dict]] = {}
    for rows in parts.values():
        for one in rows:
            groups.setdefault((one["source"], one["group"], one["areas"]), []).append(one)
    pairs = []
    for source, group, label in groups:
        if group == MATCHED:
            others = [key for key in groups if key[:2] == (source, MATCHED) and key[2] != label]
            pairs += [((source, group, label), other) for other in others]
        if group == ALL:
            pairs += [((source, group, label), key) for key in groups if key[:2] == (source, ALONE)]
    result = []
    for ours, theirs in pairs:
        for question in groups[ours][0]["scores"]:
            found = difference(by_image(groups[ours], question), by_image(groups[theirs], question), seed)
            if found is not None:
                result.append(
                    {
                        "source": ours[0],
                        "group": ours[1],
                        "areas": ours[2],
                        "minus": theirs[2],
                        "score": question,
                        "mean": found.mean,
                        "low": found.low,
                        "high": found.high,
                    }
                )
    return result
