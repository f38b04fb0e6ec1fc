"""From a raw file to report.html by documented commands alone: NWB, phy, MATLAB cells, CSV, pynapple, counts."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pynapple as nap
import pytest
import scipy.io
import yaml
from pynwb import NWBHDF5IO, NWBFile, TimeSeries

from neurobridge.cli import main

SECONDS, UNITS, BIN = 60.0, 6, 0.02
BASE = {
    "dataset": "lab", "subject": "rat", "session_id": "day1", "signal_kind": "sorted", "time_unit": "s",
    "index_base": 0, "duration": [0, SECONDS], "areas": ["CA1"],
}  # fmt: skip
KEEP = ["--quality.max_isi_violations", "null", "--quality.min_rate", "null"]
SMALL = [
    "--model.width", "16", "--model.depth", "1", "--model.heads", "2", "--model.latents", "2",
    "--model.unit_width", "8", "--pretrain.steps", "6", "--pretrain.windows", "16", "--pretrain.checkpoint_every", "2",
    "--accelerator", "cpu",
]  # fmt: skip


def counts() -> tuple[np.ndarray, np.ndarray]:
    """Counts [T, N] in bins of 20 ms of units that follow a movement, and the movement [T, 2]."""
    time = (np.arange(int(SECONDS / BIN)) + 0.5) * BIN
    hand = np.stack([np.sin(time), np.cos(0.6 * time)], axis=1)
    rng = np.random.default_rng(0)
    rate = 10 * np.exp(hand @ rng.normal(0, 0.8, (2, UNITS)))
    return rng.poisson(rate * BIN), hand


def trains() -> list[np.ndarray]:
    """The same as spike times in s, a list a unit."""
    rng = np.random.default_rng(1)
    found = []
    for column in counts()[0].T:
        bins = np.repeat(np.arange(len(column)), column)
        found.append(np.sort((bins + rng.random(len(bins))) * BIN).round(5))
    return found


def nwb(folder: Path) -> dict:
    file = NWBFile("d", "i", datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC))
    for train in trains():
        file.add_unit(spike_times=train)
    hand = TimeSeries(name="hand", data=counts()[1], unit="m", rate=1 / BIN, starting_time=BIN / 2)
    file.create_processing_module("behavior", "b").add(hand)
    with NWBHDF5IO(folder / "day1.nwb", "w") as io:
        io.write(file)
    series = {"format": "nwb", "path": "day1.nwb", "table": "processing/behavior/hand"}
    return {"spikes": {"format": "nwb", "path": "day1.nwb", "table": "units"}, "behaviour": {"hand": series}}


def phy(folder: Path) -> dict:
    sorting = folder / "sorted"
    sorting.mkdir()
    parts = trains()
    time, label = np.concatenate(parts), np.repeat(np.arange(UNITS), [len(part) for part in parts])
    order = np.argsort(time)
    np.save(sorting / "spike_times.npy", np.round(time[order] * 30_000).astype(np.uint64))
    np.save(sorting / "spike_clusters.npy", label[order].astype(np.int32))
    (sorting / "params.py").write_text("dat_path = 'a.bin'\nn_channels_dat = 4\nsample_rate = 30000.\n")
    (sorting / "cluster_group.tsv").write_text("cluster_id\tgroup\n" + "".join(f"{i}\tgood\n" for i in range(UNITS)))
    return {"spikes": {"format": "phy", "path": "sorted"}, "time_unit": "samples"}


def mat(folder: Path) -> dict:
    cells = np.empty(UNITS, object)
    cells[:] = trains()
    scipy.io.savemat(folder / "day1.mat", {"spikes": cells})
    columns = {"spike_times": "spikes"}
    return {"spikes": {"format": "mat", "path": "day1.mat", "layout": "trains", "columns": columns}}


def csv(folder: Path) -> dict:
    lines = [f"{time:.5f};{unit}" for unit, train in enumerate(trains()) for time in train]
    (folder / "spikes.csv").write_text("\n".join(["time;unit_id", *lines]))
    return {"spikes": {"format": "csv", "path": "spikes.csv"}}


def pynapple(folder: Path) -> dict:
    nap.TsGroup({unit: nap.Ts(train) for unit, train in enumerate(trains())}).save(folder / "day1.npz")
    return {"spikes": {"format": "tsgroup", "path": "day1.npz"}}


def binned(folder: Path) -> dict:
    binned, hand = counts()
    hand[100:150] = np.nan
    np.savez(folder / "day1.npz", values=binned, bin_edges=np.arange(len(binned) + 1) * BIN, hand=hand)
    series = {"format": "npz", "path": "day1.npz", "values": ["hand"], "sampling_rate": 1 / BIN, "start": BIN / 2}
    spikes = {"format": "npz", "path": "day1.npz", "layout": "continuous"}
    return {"signal_kind": "binned_count", "spikes": spikes, "behaviour": {"hand": series}}


@pytest.mark.parametrize("door", [nwb, phy, mat, csv, pynapple, binned])
def test_a_raw_file_becomes_a_report(door: Callable[[Path], dict], tmp_path, capsys):
    raw, data, run = tmp_path / "raw", tmp_path / "data", tmp_path / "run"
    raw.mkdir()
    manifest = BASE | door(raw)
    (raw / "day1.yaml").write_text(yaml.safe_dump(manifest) + "session_date: 2024-05-01\n")
    assert main(["data", "doctor", str(raw / "day1.yaml")]) == 0
    assert main(["data", "import", "lab", str(raw / "day1.yaml"), "--out", str(data), *KEEP]) == 0
    assert main(["data", "list", str(data)]) == 0
    assert main(["data", "validate", str(data)]) == 0
    capsys.readouterr()
    assert main(["pretrain", "--data", str(data), "--out", str(run), *SMALL]) == 0
    said = capsys.readouterr().out
    assert "leave-one-out GLM" in said
    assert f"next: neurobridge evaluate {run}" in " ".join(said.split())
    assert main(["evaluate", str(run)]) == 0
    assert main(["report", str(run)]) == 0
    text = re.sub(r"data:image[^\"]*|<[^>]*>", " ", (run / "report.html").read_text())
    for title in ("Leave-one-out co-smoothing", "Spikes and predicted rates", "Latents over time and behaviour"):
        assert title in text
    assert ("hand of day1, decoded and true" in text) == ("behaviour" in manifest)
