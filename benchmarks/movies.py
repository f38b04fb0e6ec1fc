"""Movies drawn along time: a simulated animal watches scenes drift across the aperture, a frame every 50 ms.

An embedding and a picture a frame of ten held-out clips (8 presentations each), by decoding and likelihood of training
frames along time. Bars, with 95 % intervals over clips: PixCorr of the film strip and identification of the frame among
all held-out frames (two-way, by pixels) lie above both floors, the mean training frame and the training frame that is
nearest by decoding; the control, the same pictures at moments of other clips, must not identify and lie below ours.

    python benchmarks/movies.py [--out runs/movies/1] [--steps 200] [--seed 1]

About two minutes. Of the simulation of seed 1 nothing was looked at while the way of drawing was made; that was seed 0.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from _common import ROOT, last_line
from rich.console import Console
from rich.table import Table

import neurobridge as nb
from neurobridge.api.movie import DRAWN, MEAN, NEAREST, SHUFFLED, movie, score_rows
from neurobridge.data.simulate.drifting import simulate_movies
from neurobridge.pipeline.folder import DONE

WINDOW_MS = 200
SIZES = {"width": 64, "depth": 2, "heads": 4, "latents": 4, "unit_width": 32}
NO_BETTER = 0.55  # two-way identification that a control may reach


def trained(out: Path, steps: int, seed: int) -> nb.Model:  # pyright: ignore
    """A model of the simulated session, from ``out`` if it was made before."""
    recordings = nb.open(simulate_movies(out / "data", seed=seed))
    if (out / "aligned" / "align" / DONE).is_file():
        return nb.load(out / "aligned")
    model = nb.pretrain(
        recordings,
        out=out / "pretrained",
        steps=steps,
        windows=64,
        groups=1,
        model=SIZES,
        window_ms=WINDOW_MS,
        seed=seed,
    )
    return nb.align(model, recordings, out=out / "aligned", steps=200, joint_steps=50, windows=128, hidden=128)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    start, out = time.monotonic(), options.out or ROOT / "runs" / "movies" / str(options.seed)
    model = trained(out, options.steps, options.seed)
    films = movie(model, model.recordings[0])
    films[0].save(out, "clip_0")
    rows = score_rows(films, seed=options.seed)
    console = Console(width=120)
    table = Table("picture", "score", "mean [95 % over clips]", title=f"{len(films)} held-out clips")
    for row in rows:
        table.add_row(row["method"], row["task"], f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
    console.print(table)
    found = {(row["method"], row["task"]): row for row in rows}
    above = {
        f"{task}, minus {floor}": found[f"{DRAWN} minus {floor}", task]["low"] > 0
        for task in ("PixCorr", "frame identification")
        for floor in (MEAN, NEAREST, SHUFFLED)
    }
    control = found[SHUFFLED, "frame identification"]["value"]
    ok = all(above.values()) and control < NO_BETTER
    return last_line(
        "movies",
        found[DRAWN, "PixCorr"]["value"],
        {"above": list(above), "control": NO_BETTER},
        ok,
        above=above,
        identification=found[DRAWN, "frame identification"]["value"],
        control=control,
        frames=sum(map(len, films)),
        seconds=round(time.monotonic() - start),
    )


if __name__ == "__main__":
    sys.exit(main())
