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
from neurobridge.data.images import ImageSet
from neurobridge.data.recording import Stimuli
from neurobridge.errors import UserError, atomic_path, needs
from neurobridge.evaluation.controls import bootstrap_interval
from neurobridge.pipeline.decoding import Split
from neurobridge.pipeline.film import Filming, Library, chosen, weights
from neurobridge.pipeline.generators import load_images
from neurobridge.pipeline.identification import gather_evidence
from neurobridge.pipeline.pictures import LIBRARY, cosine, decode_sessions
from neurobridge.terminal import console
from neurobridge.terminal import progress as shown_progress

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN, DRAWN, NEAREST, MEAN, SHUFFLED = (
    "shown", "drawn", "nearest training frame", "mean training frame", "drawn, time shuffled",
)  # fmt: skip
ROLES = {DRAWN: "ours", NEAREST: "floor", MEAN: "floor", SHUFFLED: "control"}
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
    how: Filming

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
    own. A frame is decoded from the window that begins with it and drawn as the mean of the training frames, weighed
    by decoding, by the likelihood of the response, and by those of the moments before and after for what came before
    and after in the training clips; how much of each is chosen on clips of the valid split. Beside it stands the frame
    that is nearest by decoding alone. Of frames that come faster than the model's chunks one a chunk is kept.

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
    rows = data.library(LIBRARY, np.random.default_rng(model.settings.seed))
    library = Library.of(rows, data.images.pixels[rows], data.images.ids[rows], stimuli)
    mean = library.pixels.mean(0)
    held = {name: clips_in(split, data.images, clips_of(stimuli, name), stimuli)
            for name, split in (("valid", decoded.valid), ("test", decoded.test))}  # fmt: skip
    known = data.images.pixels[decoded.valid.images] / 255
    how = chosen(evidence, decoded.valid, [at for _, at in held["valid"]], known, library)
    films = []
    for clip, at in held["test"]:
        drawn = library.drawn(weights(evidence, decoded.test, at, library, how), how.contrast)
        nearest = library.pixels[cosine(decoded.test.decoded[at], evidence.targets[rows]).argmax(1)]
        target = data.images.pixels[decoded.test.images[at]] / 255
        pictures = {SHOWN: target, DRAWN: drawn, NEAREST: nearest, MEAN: np.broadcast_to(mean, target.shape)}
        kept = every(stimuli.start[clip], model.net.encoder.chunk_ms / 1000)
        films.append(
            Film(
                times=(stimuli.start[clip] - stimuli.start[clip[0]])[kept],
                images=stimuli.image_id[clip][kept],
                embeddings=decoded.test.decoded[at][kept],
                pictures={name: frames[kept] for name, frames in pictures.items()},
                frame_s=float(np.median(np.diff(stimuli.start[clip][kept]))),
                how=how,
            )
        )
    if not films:
        raise UserError(
            f"no picture is at hand of the movie that session {session.name} shows: import it with pictures"
        )
    return films


def clips_in(
    split: Split, images: ImageSet, clips: Sequence[np.ndarray], stimuli: Stimuli
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of every clip the presentations whose image is at hand, and where these are among the images of the split."""
    place = {key: i for i, key in enumerate(images.ids[split.images].tolist())}
    found = []
    for clip in clips:
        known = np.array([row for row in clip if stimuli.image_id[row] in place], dtype=int)
        if len(known) >= FEWEST:
            found.append((known, np.array([place[key] for key in stimuli.image_id[known].tolist()])))
    return found


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


def every(start: np.ndarray, chunk_s: float) -> np.ndarray:
    """Those of the frames that begin at ``start`` [F] s which begin a chunk or more after the one before."""
    kept = [0]
    for frame in range(1, len(start)):
        if start[frame] - start[kept[-1]] >= chunk_s - 1e-3:
            kept.append(frame)
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
    found = {name: frame_scores(joined[name], joined[SHOWN], joined[MEAN][0]) for name in ROLES}
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
