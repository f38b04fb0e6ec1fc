"""Does it hold? Scores of single presentations against the time within a session, and scores against its number.

Within a session, time is cut into blocks with equally many presentations. Two decoders see the same number of training
images: those of the first third of the session, and as many from all over it. The model's readout was trained on the
whole session.
"""

from __future__ import annotations

import numpy as np

from neurobridge.errors import UserError
from neurobridge.pipeline.analyses.areas import model_scores
from neurobridge.pipeline.analyses.material import Material, Seen, shown_rows
from neurobridge.pipeline.analyses.parts import by_image, difference, each_session, interval, pooled, row
from neurobridge.pipeline.analyses.questions import FEWEST_IMAGES
from neurobridge.pipeline.joint_encoding import average_by_image, responses

EARLY, SPREAD, WHOLE = "first third", "as many, from all over", "whole session"
WITHIN, NUMBER = "within", "number"


def drifts(material: Material, *, blocks: int) -> dict:
    """Scores by block of the session, last block minus first, and by number of the session."""
    if blocks < 2:
        raise UserError(f"--blocks is {blocks}: cut a session into 2 blocks of time or more")
    options = {
        "blocks": blocks, "repeats": material.repeats, "split": material.split, "seed": material.seed,
        "questions": material.questions.names,
    }  # fmt: skip
    parts = each_session(material, "drift", options, lambda session: of_session(material.seen(session), blocks))
    within = {name: [r for r in rows if r["kind"] == WITHIN] for name, rows in parts.items()}
    gallery = np.unique([image for rows in parts.values() for one in rows for image in one["images"]])
    return {
        "analysis": "drift",
        "options": options,
        "chance": material.questions.chance(gallery),
        "within": with_minutes(pooled(within, ("source", "fit", "block"), material.seed), within),
        "last minus first": changes(within, blocks, material.seed),
        "number": by_number(material, parts),
        "without": [name for name, rows in within.items() if not rows],
    }


def of_session(seen: Seen, blocks: int) -> list[dict]:
    """Rows by block (none where images are shown once only), and one a source for the whole session."""
    rows = [row(seen.images, seen.ask(np.arange(seen.session.units)), kind=NUMBER, source="linear")]
    if seen.material.model is not None:
        scores = model_scores(seen, np.arange(seen.session.units))
        rows.append(row(seen.images, scores, kind=NUMBER, source="model"))
    scored, shown = shown_rows(seen.session, seen.material.split)
    if len(scored) < 2 * len(np.unique(shown)):
        return rows
    return rows + within_session(seen, scored, blocks)


def within_session(seen: Seen, scored: np.ndarray, blocks: int) -> list[dict]:
    """Rows of kind "within": the windows ``scored`` by block of time, one row a (source, fit, block)."""
    session, material = seen.session, seen.material
    start, train = session.starts, seen.train_rows
    inner = np.quantile(np.sort(start[np.concatenate([train, scored])]), np.linspace(0, 1, blocks + 1)[1:-1])
    block = np.searchsorted(inner, start[scored], side="right")
    middle = [float(np.median(start[scored][block == b]) / 60) if (block == b).any() else 0.0 for b in range(blocks)]
    rng = np.random.default_rng([material.seed, 44])
    third = max(len(train) // 3, min(len(train), FEWEST_IMAGES))
    fits = {EARLY: train[np.argsort(start[train])[:third]], SPREAD: np.sort(rng.permutation(train)[:third])}
    gallery, shown = np.unique(session.image_row[scored]), session.image_row[scored]
    single = responses(session, scored)
    answers = {}
    for fit, some in fits.items():
        images, mean = average_by_image(responses(session, some), session.image_row[some])
        answers["linear", fit] = material.questions.ask(mean, images, single, shown, gallery)
    if material.model is not None:
        every = np.arange(session.units)
        scores = material.model.score(session, scored, gallery, every, average=False)
        answers["model", WHOLE] = {"identification": scores}
    rows = []
    for (source, fit), scores in answers.items():
        for b in range(blocks):
            here = block == b
            if here.any():
                means = {q: average_by_image(values[here].astype(float), shown[here]) for q, values in scores.items()}
                images = next(iter(means.values()))[0]
                kept = {q: mean for q, (_, mean) in means.items()}
                rows.append(row(images, kept, kind=WITHIN, source=source, fit=fit, block=b, minutes=middle[b]))
    return rows


def with_minutes(rows: list[dict], parts: dict[str, list[dict]]) -> list[dict]:
    """Add the mean time of each block in minutes of the recording."""
    minutes: dict[int, list[float]] = {}
    for part in parts.values():
        for one in part:
            minutes.setdefault(one["block"], []).append(one["minutes"])
    return [{**r, "minutes": float(np.mean(minutes[r["block"]]))} for r in rows]


def changes(parts: dict[str, list[dict]], blocks: int, seed: int) -> list[dict]:
    """Last block minus first, over the images shown in both."""
    every = [one for rows in parts.values() for one in rows]
    result = []
    for source, fit in dict.fromkeys((one["source"], one["fit"]) for one in every):
        mine = [one for one in every if (one["source"], one["fit"]) == (source, fit)]
        first, last = ([one for one in mine if one["block"] == b] for b in (0, blocks - 1))
        for question in mine[0]["scores"]:
            found = difference(by_image(last, question), by_image(first, question), seed)
            if found is not None:
                result.append({"source": source, "fit": fit, "score": question, **found._asdict()})
    return result


def by_number(material: Material, parts: dict[str, list[dict]]) -> list[dict]:
    """One row a (session, source, question); numbers count the sessions of an animal in the order of their names."""
    role = dict.fromkeys(material.run.settings.held_out, "held out")
    count: dict[str, int] = {}
    result = []
    for session in sorted(material.sessions, key=lambda s: s.name):
        subject = session.recording.subject
        count[subject] = count.get(subject, 0) + 1
        for one in parts[session.name]:
            if one["kind"] != NUMBER:
                continue
            for question in one["scores"]:
                found = interval(by_image([one], question), material.seed)
                if found is not None:
                    result.append(
                        {
                            "session": session.name,
                            "subject": subject,
                            "number": count[subject],
                            "role": role.get(session.name, "pretrained"),
                            "units": session.units,
                            "source": one["source"],
                            "score": question,
                            **found._asdict(),
                        }
                    )
    return result
