"""Movies: what was seen along time, an embedding and a picture every chunk, beside what was shown and two floors.

Letters: I test frames, F frames of a clip, L library frames, K dimensions of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from neurobridge.api.judge import asked, table
from neurobridge.api.model import Model, load
from neurobridge.api.recordings import open_recordings
from neurobridge.api.use import one
from neurobridge.baselines.linear_encoding import library_posterior_mean
from neurobridge.data.recording import Stimuli
from neurobridge.errors import UserError, atomic_path, needs
from neurobridge.evaluation.controls import bootstrap_interval
from neurobridge.pipeline.generators import load_images
from neurobridge.pipeline.identification import Evidence, combine, gather_evidence
from neurobridge.pipeline.pictures import cosine, decode_sessions
from neurobridge.terminal import console
from neurobridge.terminal import progress as shown_progress

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN, DRAWN, NEAREST, MEAN, SHUFFLED = (
    "shown", "drawn", "nearest training frame", "mean training frame", "drawn, time shuffled",
)  # fmt: skip
ROLES = {DRAWN: "ours", NEAREST: "floor", MEAN: "floor", SHUFFLED: "control"}
LIBRARY, TOP = 4000, 10
LONGEST, FEWEST = 0.2, 3  # s: of a frame; frames of a clip


@dataclass(frozen=True, kw_only=True)
class Film:
    """A clip: ``times`` [F] s from its first frame, ``embeddings`` [F, K] of unit length, ``images`` [F] content ids.

    ``pictures``: name -> [F, H, W, 3] in [0, 1]: shown, drawn, and the floors.
    """

    times: np.ndarray
    images: np.ndarray
    embeddings: np.ndarray
    pictures: Mapping[str, np.ndarray]
    frame_s: float

    def __len__(self) -> int:
        return len(self.times)

    def save(self, folder: Path | str, name: str = "film") -> None:
        """Write the strip (``name``.png) and the moving picture (``name``.webp) into ``folder``."""
        with needs("report"):
            from neurobridge.evaluation.film import moving, strip
        folder = Path(folder)
        rows = {key: self.pictures[key] for key in (SHOWN, DRAWN, NEAREST, MEAN)}
        with atomic_path(folder / f"{name}.png") as path:
            strip(rows, self.times.tolist()).savefig(path, format="png", dpi=110, facecolor="white")
        moving(folder / f"{name}.webp", rows, frame_ms=max(20, round(1000 * self.frame_s)))


def movie(model: Model, recording: object, *, progress: bool = True) -> list[Film]:
    """What the animal saw along time: every clip of the test split, its presentations averaged, as a film.

    A clip is a run of presentations that follow each other without a pause, each 0.2 s at most and with an image of its
    own. A frame is decoded from the window that begins with it; of frames that come faster than the model's chunks one
    a chunk is kept. It is drawn as the mean of the ten training frames that decoding and, where the model reads images,
    the likelihood of the response make likeliest, and stands beside the one that is nearest by decoding alone.

    Raises:
        UserError: The model is not aligned, or the recording shows no movie in its test split.
    """
    r = one(recording)
    session = model.session(r)
    stimuli = session.recording.stimuli
    clips = [] if stimuli is None else clips_of(stimuli, "test")
    run = asked(model, r, {"reconstruct": {"images": max(1, len(session.rows("test")))}})
    if not clips:
        raise UserError(
            f"session {session.name} shows no movie in its test split: {FEWEST} or more presentations of different "
            f"images, of {LONGEST} s at most, one after the other without a pause"
        )
    assert stimuli is not None, "there are clips"
    with shown_progress(progress):
        decoded = decode_sessions(run)[0]
        data = load_images(run)
        evidence = gather_evidence(run, [decoded])[0]
    rows = np.flatnonzero(data.train)
    if len(rows) > LIBRARY:
        rows = np.sort(np.random.default_rng(model.settings.seed).choice(rows, LIBRARY, replace=False))
    library = data.images.pixels[rows]
    likeliest, near = library_scores(evidence, rows)
    drawn = library_posterior_mean(likeliest, library, top=min(TOP, len(rows)))
    nearest = library[near.argmax(1)] / 255
    mean = library.mean(0) / 255
    place = {key: i for i, key in enumerate(data.images.ids[decoded.test.images].tolist())}
    films = []
    for clip in clips:
        clip = every(clip, stimuli.start, model.net.encoder.chunk_ms / 1000)
        known = np.array([row for row in clip if stimuli.image_id[row] in place], dtype=int)
        if len(known) < FEWEST:
            continue
        at = np.array([place[key] for key in stimuli.image_id[known].tolist()])
        target = data.images.pixels[decoded.test.images[at]] / 255
        pictures = {SHOWN: target, DRAWN: drawn[at], NEAREST: nearest[at]}
        films.append(
            Film(
                times=stimuli.start[known] - stimuli.start[known[0]],
                images=stimuli.image_id[known],
                embeddings=decoded.test.decoded[at],
                pictures=pictures | {MEAN: np.broadcast_to(mean, target.shape)},
                frame_s=float(np.median(np.diff(stimuli.start[known]))),
            )
        )
    if not films:
        raise UserError(
            f"no picture is at hand of the movie that session {session.name} shows: import it with pictures"
        )
    return films


def library_scores(evidence: Evidence, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[I, L] twice: how likely each library image (by row) is to be what was seen, by both ways, and by decoding."""
    test = evidence.decoded.test
    near = cosine(test.decoded, evidence.targets[rows])
    likelihood = evidence.encoding.log_likelihood(test.responses, rows, repeats=test.repeats)
    return combine(near, likelihood, evidence.share), near


def clips_of(stimuli: Stimuli, split: str) -> list[np.ndarray]:
    """Rows of the first presentation of every clip of a split, in time."""
    order = np.argsort(stimuli.start, kind="stable")
    order = order[(stimuli.split[order] == split) & stimuli.valid[order] & (stimuli.image_id[order] != "")]
    clips: dict[tuple[str, ...], np.ndarray] = {}
    current: list[int] = []
    seen: set[str] = set()

    def finish() -> None:
        if len(current) >= FEWEST:
            clips.setdefault(tuple(stimuli.image_id[current].tolist()), np.array(current))

    for row in order.tolist():
        length = stimuli.end[row] - stimuli.start[row]
        pause = stimuli.start[row] - stimuli.end[current[-1]] if current else 0.0
        if length > LONGEST or pause > length / 2 or stimuli.image_id[row] in seen:
            finish()
            current, seen = [], set()
        if length <= LONGEST:
            current.append(row)
            seen.add(stimuli.image_id[row])
    finish()
    return list(clips.values())


def every(clip: np.ndarray, start: np.ndarray, chunk_s: float) -> np.ndarray:
    """Those rows of a clip that begin a chunk or more after the one before."""
    kept = [clip[0]]
    for row in clip[1:]:
        if start[row] - start[kept[-1]] >= chunk_s - 1e-3:
            kept.append(row)
    return np.array(kept)


def film_scores(films: Sequence[Film], *, seed: int = 0) -> DataFrame:
    """PixCorr and frame identification of what is drawn, of both floors, and of the control: time shuffled.

    One row a score, as of :func:`neurobridge.api.judge.score`; ours minus a rival too. Intervals by bootstrap over
    clips, for the frames of a clip are alike. The control has every picture at a moment of another clip.
    """
    return table(score_rows(films, seed=seed))


def score_rows(films: Sequence[Film], *, seed: int) -> list[dict]:
    """Rows of :func:`film_scores`."""
    with needs("report"):
        from neurobridge.evaluation.film import frame_scores
    clip = np.repeat(np.arange(len(films)), [len(film) for film in films])
    joined = {name: np.concatenate([film.pictures[name] for film in films]) for name in (SHOWN, DRAWN, NEAREST, MEAN)}
    joined[SHUFFLED] = joined[DRAWN][another_clip(clip, seed)]
    found = {name: frame_scores(joined[name], joined[SHOWN]) for name in ROLES}
    rows = []
    for metric in ("PixCorr", "frame identification"):
        by_clip = {
            name: np.array([scores[metric][clip == c].mean() for c in range(len(films))])
            for name, scores in found.items()
        }
        for name, role in ROLES.items():
            pairs = [(name, role, by_clip[name])]
            if name != DRAWN:
                pairs.append((f"{DRAWN} minus {name}", "ours", by_clip[DRAWN] - by_clip[name]))
            for method, part, values in pairs:
                value, low, high = bootstrap_interval(values, seed=seed, share=False)
                row = {"session": "", "task": metric, "method": method, "role": part, "value": value, "low": low}
                chance = 0.5 if metric != "PixCorr" and " minus " not in method else np.nan
                rows.append(row | {"high": high, "unit": "", "n": len(films), "chance": chance})
    return rows


def another_clip(clip: np.ndarray, seed: int) -> np.ndarray:
    """[I]: for every frame a frame of another clip (of one clip: another moment), each used about as often."""
    rng = np.random.default_rng(seed)
    if len(np.unique(clip)) < 2:
        return np.roll(np.arange(len(clip)), len(clip) // 2)
    return np.array([rng.choice(np.flatnonzero(clip != c)) for c in clip.tolist()])


def movie_command(run: Path, *, session: str, out: Path, data: Path | None = None) -> Path:
    """Draw the movies that a session shows in its test split along time: film strips, moving pictures, scores.

    Args:
        run: Folder of a run whose stage align is done.
        session: A session that shows a movie, whose units the model knows.
        out: Folder to write: clip_0.png and .webp, ..., and films.npz with embeddings and times.
        data: Data folder of the session; empty: the run's own.
    """
    model = load(run)
    (recording,) = (model.recordings if data is None else open_recordings(data)).named(session)
    films = movie(model, recording)
    for number, film in enumerate(films):
        film.save(out, f"clip_{number}")
    arrays = {}
    for number, film in enumerate(films):
        arrays |= {f"{number}/{name}": getattr(film, name) for name in ("times", "images", "embeddings")}
        arrays[f"{number}/drawn"] = film.pictures[DRAWN].astype(np.float32)
    with atomic_path(out / "films.npz") as path, path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    told = Table(
        "picture", "PixCorr", "frame identification (chance 0.5)", title=f"{len(films)} clips [95 % over clips]"
    )
    rows = score_rows(films, seed=model.settings.seed)
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = [f"{r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in rows if r["method"] == method]
        told.add_row(method, *cells)
    console.print(told)
    console.print(f"film strips and moving pictures -> {out}", markup=False, soft_wrap=True)
    return out
