"""The store against torch_brain's Dataset, on one file, in one run: windows a second, and the memory of a worker.

300 units, 10 million spikes in an hour, random windows of 1 s that begin on any millisecond. Both read the same file;
rounds of the two alternate, and the median over rounds counts. "Sampling": times and units of each window in memory.
"Collation": batches of 128 windows, on their side with ``torch_brain.batching.collate`` (events chained, window index
tracked), on ours a whole SpikeBatch, rate grid included. The bars: 10 times and 5 times as many windows a second.

Memory: one worker draws 50,000 windows from a session of one hour, another from a session of ten hours at that rate;
the peak growth of its resident and of its private memory may differ by a tenth. Takes about two minutes.

    python benchmarks/store_speed.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import h5py
import numpy as np
import torch
from torch_brain.batching import chain, collate, track_batch
from torch_brain.datasets import Dataset, DatasetIndex

from neurobridge.cli import keep_memory
from neurobridge.data.datamodule import Batcher
from neurobridge.data.recording import Recording, write_recording
from neurobridge.data.store import Session

UNITS, SPIKES, HOUR = 300, 10_000_000, 3600
WINDOW_MS, BIN_MS, BATCH, ROUNDS = 1000, 10, 128, 9
THEIR_WINDOWS, OUR_WINDOWS, WORKER_BATCHES = 256, 4096, 400
BARS = {"sampling": 10.0, "collation": 5.0, "memory": 1.1}


def main() -> int:
    if sys.argv[1:2] == ["--worker"]:
        return worker(Path(sys.argv[2]))
    keep_memory()  # as every command of ours does
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        hour, ten_hours = Path(scratch) / "hour" / "hour.h5", Path(scratch) / "ten" / "ten.h5"
        write_hour(hour)
        write_ten_hours(hour, ten_hours)
        memory = {name: grown(path) for name, path in (("hour", hour), ("ten_hours", ten_hours))}
        ten_hours.unlink()
        speed = compare(hour)
    print(f"\n{'windows/s':12s}{'torch_brain':>14s}{'NeuroBridge':>14s}{'ratio':>9s}{'bar':>7s}")
    for name, row in speed.items():
        cells = f"{row['torch_brain']:14.0f}{row['neurobridge']:14.0f}{row['ratio']:9.1f}"
        print(f"{name:12s}{cells}{BARS[name]:7.1f}")
    print(f"\n{'worker, MB grown':20s}{'resident':>10s}{'private':>10s}")
    for name, grew in memory.items():
        print(f"{name:20s}{grew['resident'] / 2**20:10.1f}{grew['private'] / 2**20:10.1f}")
    ratios = {kind: memory["ten_hours"][kind] / memory["hour"][kind] for kind in ("resident", "private")}
    ok = all(speed[name]["ratio"] >= BARS[name] for name in speed)
    ok = ok and all(1 / BARS["memory"] <= ratio <= BARS["memory"] for ratio in ratios.values())
    value = {name: round(row["ratio"], 1) for name, row in speed.items()}
    value |= {f"{kind}_ten_hours_to_one": round(ratio, 3) for kind, ratio in ratios.items()}
    value |= {f"{name}_windows_per_s": round(row["neurobridge"]) for name, row in speed.items()}
    print(json.dumps({"name": "store_speed", "value": value, "bar": BARS, "ok": ok}))
    return 0 if ok else 1


def write_hour(path: Path) -> None:
    rng = np.random.default_rng(0)
    write_recording(
        Recording(
            dataset="benchmark",
            subject="none",
            session=path.stem,
            signal_kind="sorted",
            spike_times=np.sort(rng.integers(HOUR * 30_000, size=SPIKES)) / 30_000,
            spike_units=rng.integers(UNITS, size=SPIKES),
            unit_ids=np.array([f"u{n}" for n in range(UNITS)]),
            regions=np.full(UNITS, "V1"),
            duration=(0.0, float(HOUR)),
        ),
        path,
    )


def write_ten_hours(hour: Path, path: Path) -> None:
    """The hour ten times over, written piece by piece."""
    path.parent.mkdir()
    with h5py.File(hour) as source, h5py.File(path, "w") as file:
        for name in source:
            if name != "spikes":
                source.copy(name, file)
        for owner in ("/", "spikes"):
            file.require_group(owner).attrs.update(source[owner].attrs)
        source.copy("spikes/domain", file["spikes"])
        for domain in ("domain", "spikes/domain"):
            file[f"{domain}/end"][:] = 10 * HOUR
        for name in ("timestamps", "unit_index"):
            whole = source[f"spikes/{name}"][:]
            wide = file["spikes"].create_dataset(name, shape=(10 * SPIKES,), dtype=whole.dtype)
            for k in range(10):
                wide[k * SPIKES : (k + 1) * SPIKES] = whole + k * HOUR if name == "timestamps" else whole
        seconds = source["spikes/timestamp_indices_1s"][:]
        wide = np.concatenate([*(seconds[:HOUR] + k * SPIKES for k in range(10)), [10 * SPIKES]])
        file["spikes"].create_dataset("timestamp_indices_1s", data=wide)


def compare(path: Path) -> dict[str, dict[str, float]]:
    """Median windows a second of both, with and without collation."""
    theirs, their_batches = Dataset(path.parent), Dataset(path.parent, transform=tokens)
    session = Session.open(path, window_ms=WINDOW_MS)
    batcher = Batcher([session], rows_of_units={session.name: list(range(UNITS))}, bin_ms=BIN_MS)

    def their_sampling(starts: np.ndarray) -> None:
        for start in starts:
            sample = theirs[DatasetIndex(path.stem, start, start + WINDOW_MS / 1000)]
            assert len(sample.spikes.timestamps) == len(sample.spikes.unit_index)

    def their_collation(starts: np.ndarray) -> None:
        for at in range(0, len(starts), BATCH):
            part = starts[at : at + BATCH]
            collate([their_batches[DatasetIndex(path.stem, s, s + WINDOW_MS / 1000)] for s in part])

    def our_sampling(starts: np.ndarray) -> None:
        for at in range(0, len(starts), BATCH):
            session.events_from(starts[at : at + BATCH])

    def our_collation(starts: np.ndarray) -> None:
        for at in range(0, len(starts), BATCH):
            batcher.batch_from([(0, starts[at : at + BATCH])])

    same_events(theirs, session, path.stem)
    speed = {}
    for name, them, us in (("sampling", their_sampling, our_sampling), ("collation", their_collation, our_collation)):
        rates = np.array(
            [
                [rate(them, session, THEIR_WINDOWS, seed), rate(us, session, OUR_WINDOWS, seed)]
                for seed in range(ROUNDS + 1)
            ]
        )[1:]  # the first round warms both up
        middle = np.median(rates, axis=0)
        ratio = float(np.median(rates[:, 1] / rates[:, 0]))
        speed[name] = {"torch_brain": middle[0], "neurobridge": middle[1], "ratio": ratio}
    return speed


def tokens(data) -> dict:
    """The least that a batch of theirs needs: times, units, and which window each event is of."""
    times = data.spikes.timestamps
    return {"time": chain(times), "unit": chain(data.spikes.unit_index), "window": track_batch(times)}


def same_events(theirs: Dataset, session: Session, name: str) -> None:
    """Both give the same events of a window."""
    starts = session.random_starts("train", 5, np.random.default_rng(1))
    window, column, _, _ = session.events_from(starts)
    for k, start in enumerate(starts - 1e-6):
        sample = theirs[DatasetIndex(name, start, start + WINDOW_MS / 1000)]
        np.testing.assert_array_equal(sample.spikes.unit_index, column[window == k])


def rate(work: Callable[[np.ndarray], None], session: Session, windows: int, seed: int) -> float:
    starts = session.random_starts("train", windows, np.random.default_rng(seed))
    start = time.perf_counter()
    work(starts)
    return windows / (time.perf_counter() - start)


def grown(path: Path) -> dict[str, int]:
    """Peak growth in bytes of a worker on the session ``path``."""
    command = [sys.executable, __file__, "--worker", str(path)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def worker(path: Path) -> int:
    keep_memory()
    torch.set_num_threads(1)
    before = memory()
    session = Session.open(path, window_ms=WINDOW_MS)
    batcher = Batcher([session], rows_of_units={session.name: list(range(UNITS))}, bin_ms=BIN_MS)
    rng, peak = np.random.default_rng(0), dict(before)
    for _ in range(WORKER_BATCHES):
        batcher.batch_from([(0, session.random_starts("train", BATCH, rng))])
        peak = {name: max(peak[name], now) for name, now in memory().items()}
    print(json.dumps({name: peak[name] - before[name] for name in peak}))
    return 0


def memory() -> dict[str, int]:
    """Resident and private bytes of this process."""
    found = {"resident": 0, "private": 0}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            found["resident"] += int(line.split()[1]) * 1024
        if line.startswith("Private_"):
            found["private"] += int(line.split()[1]) * 1024
    return found


if __name__ == "__main__":
    sys.exit(main())
