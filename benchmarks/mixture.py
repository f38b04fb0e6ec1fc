"""Five sources in one pretraining: does each data set get its square-root share, and does a resumed run see the same?

A simulated brain, files in the formats of Allen, IBL and TVSD (written by the tests' fixture scripts), and the macaque
V4 recordings: spikes and values, five window lengths. 200 steps of pretraining through the product's own stage.
The bars: over these steps the share of every data set is within 2 % (absolute) of the square root of its windows over
the sum of these roots; the batches of steps 100-120 are the same to the last event when drawn afresh; every logged loss
is finite. Two to five minutes, of which importing V4 is the longest part.

    python benchmarks/mixture.py [--data ../shared/data/macaque_v4]
"""

from __future__ import annotations

import argparse
import runpy
import sys
import tempfile
from pathlib import Path

import _common
import numpy as np
import torch

from neurobridge.data.quality import QualitySettings
from neurobridge.data.simulate import simulate
from neurobridge.data.sources.allen import import_allen
from neurobridge.data.sources.ibl import import_ibl
from neurobridge.data.sources.tvsd import import_tvsd
from neurobridge.data.sources.v4 import import_v4
from neurobridge.pipeline.commands import run_stages
from neurobridge.pipeline.spikes import add_units, make_model, mixture_sessions, spike_task
from neurobridge.training.settings import (
    MixtureSettings,
    ModelSettings,
    PretrainSettings,
    RunSettings,
    WindowSettings,
)
from neurobridge.training.trainer import read_metrics

FIXTURES = Path(__file__).resolve().parents[1] / "tests" / "data"
STEPS, GROUPS, BAR = 200, 5, 0.02
EVERY_UNIT = QualitySettings(min_rate=None, max_isi_violations=None)


def data_folders(root: Path, v4: Path) -> list[Path]:
    """Five data folders, the simulated one first."""
    sizes = {"images": 300, "test_images": 20, "test_repeats": 4, "valid_images": 20, "sessions": 2, "electrodes": 30}
    runpy.run_path(str(FIXTURES / "nwb_fixtures.py"))["write_allen"](root / "raw" / "allen.nwb")
    runpy.run_path(str(FIXTURES / "ibl_fixture.py"))["write_ibl"](root / "raw" / "ibl")
    runpy.run_path(str(FIXTURES / "tvsd_fixture.py"))["write_monkey"](root / "raw" / "tvsd", "F")
    return [
        simulate(root / "simulated", seed=0, **sizes),
        import_allen(root / "raw" / "allen.nwb", root / "allen", quality=EVERY_UNIT),
        import_ibl(root / "raw" / "ibl", root / "ibl", quality=EVERY_UNIT),
        import_tvsd(root / "raw" / "tvsd", root / "tvsd"),
        import_v4(v4, root / "v4"),
    ]


def same(one: list, other: list) -> bool:
    """Two steps with the same batches."""
    names = ("event_window", "event_unit", "event_tick", "target", "unit_row")
    return len(one) == len(other) and all(
        torch.equal(getattr(a, name), getattr(b, name)) for a, b in zip(one, other, strict=True) for name in names
    )


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=_common.SHARED / "macaque_v4")
    options = arguments.parse_args()
    _common.need(options.data)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        first, *more = data_folders(root, options.data)
        settings = RunSettings(
            data=first,
            out=root / "run",
            window=WindowSettings(window_ms=300, bin_ms=10),
            model=ModelSettings(width=32, depth=1, heads=2, latents=2, unit_width=16),
            pretrain=PretrainSettings(steps=STEPS, windows=50, groups=GROUPS, checkpoint_every=100),
            mixture=MixtureSettings(
                data=more,
                windows={
                    "allen": WindowSettings(window_ms=250, bin_ms=10),
                    "ibl": WindowSettings(window_ms=400, bin_ms=10),
                    "tvsd": WindowSettings(window_ms=200, bin_ms=200),
                    "v4": WindowSettings(window_ms=100, bin_ms=100),
                },
                max_events=200_000,
            ),
            accelerator="cpu",
        )
        sessions = mixture_sessions(settings)
        model = make_model(settings)
        add_units(model, sessions, settings)
        task = spike_task(model, sessions, settings, only_units=False)
        steps = list(task.loader(0, STEPS, 0))
        resumed = all(same(a, b) for a, b in zip(steps[100:120], task.loader(100, 120, 0), strict=True))
        run = run_stages(settings, ["pretrain"])
        losses = [float(row["value"]) for row in read_metrics(run / "metrics.csv") if row["stage"] == "pretrain"]

    names = list(dict.fromkeys(session.dataset for session in sessions))
    label = np.array([names.index(session.dataset) for session in sessions])
    windows = np.array([sum(len(s.rows("train")) for s in sessions if s.dataset == name) for name in names])
    drawn = np.bincount(label[[int(i) for step in steps for part in step for i in part.session]], minlength=len(names))
    wanted, found = np.sqrt(windows) / np.sqrt(windows).sum(), drawn / drawn.sum()
    print(f"\n{'data set':16s} {'sessions':>8s} {'windows':>8s} {'wanted':>7s} {'drawn':>7s}")
    for index, name in enumerate(names):
        print(f"{name:16s} {(label == index).sum():8d} {windows[index]:8d} {wanted[index]:7.4f} {found[index]:7.4f}")
    worst = float(np.abs(found - wanted).max())
    finite = bool(np.isfinite(losses).all() and losses)
    again = "identical" if resumed else "DIFFER"
    print(f"largest difference {worst:.4f}; resumed batches {again}; losses finite: {finite}")
    return _common.last_line(
        "mixture", round(worst, 4), BAR, worst <= BAR and resumed and finite and len(names) == 5, resumed=resumed
    )


if __name__ == "__main__":
    sys.exit(main())
