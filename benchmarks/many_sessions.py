"""Two thousand small sessions: how long opening takes, what they cost in memory, and whether sampling slows down.

Sessions of one minute, 30 units, about 9,000 spikes, 150 presentations each. The bars: all are open in less than 10 s;
the process stays below 1.5 GB resident, training batches drawn; these batches (128 windows of 300 ms, four sessions)
come at no less than 80 % of the rate with 20 sessions. Both rates are taken in turns, the median over rounds counts.
Takes about a minute, of which writing the files is the longest part.

    python benchmarks/many_sessions.py
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import h5py
import numpy as np
import torch

from neurobridge.cli import keep_memory
from neurobridge.data.datamodule import Batcher, StepBatches, open_sessions
from neurobridge.data.recording import Recording, Stimuli, write_recording
from neurobridge.data.store import Session

MANY, FEW, UNITS, SPIKES, PRESENTATIONS = 2000, 20, 30, 9000, 150
WINDOW_MS, ROUNDS, STEPS = 300, 9, 200
BARS = {"open_s": 10.0, "resident_mb": 1500.0, "rate_to_few": 0.8}


def main() -> int:
    keep_memory()  # as every command of ours does
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "many"
        write_sessions(folder / "sessions")
        start = time.perf_counter()
        sessions = open_sessions(folder, window_ms=WINDOW_MS)
        opened = time.perf_counter() - start
        many, few = batcher(sessions), batcher(sessions[:: MANY // FEW])
        rates = np.array([[rate(many, round_), rate(few, round_)] for round_ in range(ROUNDS + 1)])[1:]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    value = {
        "open_s": round(opened, 2),
        "resident_mb": round(resident),
        "rate_to_few": round(float(np.median(rates[:, 0] / rates[:, 1])), 3),
        "windows_per_s": round(float(np.median(rates[:, 0]))),
    }
    print(f"\n{'':32s}{'measured':>12s}{'bar':>12s}")
    print(f"{'opening 2,000 sessions, s':32s}{value['open_s']:12.2f}{'< 10':>12s}")
    print(f"{'resident at the peak, MB':32s}{value['resident_mb']:12d}{'< 1500':>12s}")
    print(f"{'windows/s, 2,000 sessions':32s}{value['windows_per_s']:12d}")
    print(f"{'windows/s, 20 sessions':32s}{np.median(rates[:, 1]):12.0f}")
    print(f"{'ratio':32s}{value['rate_to_few']:12.3f}{'>= 0.8':>12s}")
    ok = value["open_s"] < BARS["open_s"] and value["resident_mb"] < BARS["resident_mb"]
    ok = ok and value["rate_to_few"] >= BARS["rate_to_few"]
    print(json.dumps({"name": "many_sessions", "value": value, "bar": BARS, "ok": ok}))
    return 0 if ok else 1


def write_sessions(folder: Path) -> None:
    """Twenty sessions, and copies of them under names of their own."""
    for k in range(FEW):
        write_recording(recording(f"s{k:04d}", seed=k), folder / f"s{k:04d}.h5")
    for k in range(FEW, MANY):
        shutil.copyfile(folder / f"s{k % FEW:04d}.h5", folder / f"s{k:04d}.h5")
        with h5py.File(folder / f"s{k:04d}.h5", "r+") as file:
            file["session"].attrs["id"] = f"s{k:04d}"


def recording(name: str, *, seed: int) -> Recording:
    rng = np.random.default_rng(seed)
    start = np.arange(PRESENTATIONS) * 0.4
    return Recording(
        dataset="benchmark",
        subject="none",
        session=name,
        signal_kind="sorted",
        spike_times=rng.integers(PRESENTATIONS * 400, size=SPIKES) / 1000,
        spike_units=rng.integers(UNITS, size=SPIKES),
        unit_ids=np.array([f"u{n}" for n in range(UNITS)]),
        regions=np.array(["V1", "V4", "IT"])[np.arange(UNITS) % 3],
        duration=(0.0, PRESENTATIONS * 0.4),
        stimuli=Stimuli(
            start=start,
            end=start + 0.25,
            image_id=np.array([f"{i:016x}" for i in range(PRESENTATIONS)]),
            repeat=np.zeros(PRESENTATIONS, np.int64),
            split=np.array((["train"] * 8 + ["valid", "test"]) * (PRESENTATIONS // 10)),
            valid=np.ones(PRESENTATIONS, bool),
        ),
    )


def batcher(sessions: list[Session]) -> Batcher:
    rows = {s.name: list(range(k * UNITS, (k + 1) * UNITS)) for k, s in enumerate(sessions)}
    return Batcher(sessions, rows_of_units=rows, bin_ms=10)


def rate(source: Batcher, round_: int) -> float:
    """Windows a second in the batches of STEPS training steps."""
    first = round_ * STEPS
    batches = StepBatches(source, split="train", windows=128, groups=4, seed=0, first=first, last=first + STEPS)
    start = time.perf_counter()
    windows = sum(batch.windows for batch in batches)
    return windows / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
