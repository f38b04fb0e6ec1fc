"""What lasts: the readout of one session on the others of the same animal, and what alignment made the model forget.

Readouts go from session to session by the name of the unit, as an implanted array allows: electrode by electrode. Units
that both sessions name are used, the rest are left out; beside each stands the tested session's own readout of the very
same units. Forgetting is masked prediction (bits/spike, frozen masks) by the weights before and after alignment.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.progress import track

from neurobridge.data.store import Session
from neurobridge.errors import UserError
from neurobridge.evaluation.controls import Interval
from neurobridge.evaluation.spikes import ZERO_RATE
from neurobridge.neuro.masking import Masker
from neurobridge.neuro.model import NeuroBridge
from neurobridge.neuro.modes import MODES
from neurobridge.pipeline.analyses.material import FEWEST_UNITS, Material
from neurobridge.pipeline.analyses.parts import by_image, each_session, interval, row
from neurobridge.pipeline.device import device
from neurobridge.pipeline.spike_scores import WINDOWS, predict, some_rows
from neurobridge.pipeline.spikes import make_batcher

TRANSFERRED, OWN = "transferred", "own"
FORGETTING_DRAWS = 1000


def retained(material: Material) -> dict:
    """Readouts from session to session, and bits/spike before and after alignment. UserError if there is neither."""
    if material.model is None and not any(partners(s, material.sessions) for s in material.sessions):
        raise UserError(
            f"the sessions of {material.run.path} share no units by name and the run is not aligned: no readout can be "
            "carried over; run 'neurobridge align' first to see what alignment forgets"
        )
    options = {
        "repeats": material.repeats, "split": material.split, "seed": material.seed,
        "questions": material.questions.names, "sessions": [s.name for s in material.sessions],
    }  # fmt: skip
    parts = each_session(material, "retention", options, lambda session: of_session(material, session))
    return {
        "analysis": "retention",
        "options": options,
        "chance": {name: 0.5 if name == "identification" else None for name in material.questions.names},
        "rows": transfer_rows(parts, material.seed),
        "forgetting": forgetting(material) if material.model is not None else [],
    }


def partners(session: Session, sessions: Sequence[Session]) -> list[tuple[Session, np.ndarray, np.ndarray]]:
    """Other sessions of the same animal with (their columns, this session's columns) of the units that both name."""
    found = []
    for other in sessions:
        if other is session or other.recording.subject != session.recording.subject:
            continue
        _, theirs, ours = np.intersect1d(other.recording.unit_ids, session.recording.unit_ids, return_indices=True)
        if len(ours) >= FEWEST_UNITS:
            found.append((other, theirs, ours))
    return found


def of_session(material: Material, session: Session) -> list[dict]:
    """Rows of the session ``session`` read by the others' readouts, and by its own for the same units."""
    seen, rows = material.seen(session), []
    for other, theirs, ours in partners(session, material.sessions):
        source = material.seen(other)
        key = {"fitted": other.name, "subject": session.recording.subject, "units": len(ours)}
        answered = material.questions.ask(
            source.train[:, theirs], source.train_images, seen.test[:, ours], seen.images, seen.images
        )
        rows.append(row(seen.images, answered, source="linear", readout=TRANSFERRED, **key))
        rows.append(row(seen.images, seen.ask(ours), source="linear", readout=OWN, **key))
        if material.model is None:
            continue
        names = [other.recording.unit_keys[column] for column in theirs]
        for readout, known_as in ((TRANSFERRED, names), (OWN, None)):
            scores = material.model.score(session, seen.rows, seen.images, ours, known_as=known_as)
            rows.append(row(seen.images, {"identification": scores}, source="model", readout=readout, **key))
    return rows


def transfer_rows(parts: dict[str, list[dict]], seed: int) -> list[dict]:
    """One row a (tested, fitted, source, readout, question) with its interval over images."""
    result = []
    for tested, rows in parts.items():
        for one in rows:
            for question in one["scores"]:
                found = interval(by_image([one], question), seed)
                if found is not None:
                    kept = {k: one[k] for k in ("source", "readout", "fitted", "subject", "units")}
                    result.append({**kept, "tested": tested, "score": question, **found._asdict()})
    return result


def forgetting(material: Material) -> list[dict]:
    """One row a (session, mode): pooled bits/spike (R2 for values) before and after alignment, and the difference.

    Null: each unit's mean over its scored cells. Intervals by bootstrap over windows, the same ones for both.
    """
    run = material.run
    models = [NeuroBridge.load(run / stage).eval().to(device(run.settings)) for stage in ("adapt", "align")]
    rows = []
    for session in track(material.sessions, "masked prediction before and after"):
        batcher = make_batcher(models[0], [session], run.settings)
        test = some_rows(session, material.split, WINDOWS)
        batch = batcher.batch([(0, test)])
        truth = batch.target.cpu().numpy()
        for number, mode in enumerate(MODES):
            plan = Masker(modes=MODES).draw(batch, np.random.default_rng([7, number]), mode)
            if MODES[int(plan.mode[0])] != mode:
                continue
            scored = plan.scored(batch).cpu().numpy()
            gains = [
                gain(predict(model, batcher, 0, test, lambda _, plan=plan: plan), truth, scored, session.valued)
                for model in models
            ]
            before, after, change = ratio_intervals(*gains[0], gains[1][0], material.seed)
            rows.append(
                {
                    "session": session.name,
                    "mode": mode,
                    "unit": "R2, pooled" if session.valued else "bits/spike",
                    "before": [*before],
                    "after": [*after],
                    "change": [*change],
                    "windows": len(test),
                }
            )
    return rows


def gain(prediction: np.ndarray, truth: np.ndarray, scored: np.ndarray, valued: bool) -> tuple[np.ndarray, np.ndarray]:
    """Per window [W], over its scored cells: what the model gains on the null, and what the gain is divided by.

    Spikes: log likelihood ratio in bits, and spikes. Values: reduction of squared error, and squared error of the null.
    prediction, truth, scored [W, N, T].
    """
    number = np.maximum(scored.sum((0, 2)), 1)
    null = (np.where(scored, truth, 0).sum((0, 2), dtype=np.float64) / number)[:, None]
    if valued:
        worse, better = (truth - null) ** 2, (truth - prediction) ** 2
        return np.where(scored, worse - better, 0).sum((1, 2)), np.where(scored, worse, 0).sum((1, 2))
    rate, null = np.maximum(prediction.astype(np.float64), ZERO_RATE), np.maximum(null, ZERO_RATE)
    bits = (truth * np.log(rate / null) - (rate - null)) / np.log(2)
    return np.where(scored, bits, 0).sum((1, 2)), np.where(scored, truth, 0).sum((1, 2), dtype=np.float64)


def ratio_intervals(
    before: np.ndarray, divisor: np.ndarray, after: np.ndarray, seed: int
) -> tuple[Interval, Interval, Interval]:
    """sum(gain) / sum(divisor) before, after, and the difference, with 95 % bootstrap intervals over windows [W]."""
    rng = np.random.default_rng(seed)
    some = rng.integers(len(divisor), size=(FORGETTING_DRAWS, len(divisor)))
    total = divisor[some].sum(1)
    drawn = [gains[some].sum(1) / total for gains in (before, after)]
    values = [gains.sum() / divisor.sum() for gains in (before, after)]
    drawn.append(drawn[1] - drawn[0])
    values.append(values[1] - values[0])
    ends = [np.quantile(draws, [0.025, 0.975]) for draws in drawn]
    first, second, third = (Interval(float(v), *map(float, e)) for v, e in zip(values, ends, strict=True))
    return first, second, third
