"""Situations of benchmarks/bad_input.py: readers, metrics, messages that fit their cause, and doors."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse
from _bad_files import TIMES, bring, equal, imports, manifest, refuses, tables
from _bad_nwb import nwb

from neurobridge.evaluation import controls, distributions, probes, similarity, spikes

Situation = Callable[[Path], str]
ROWS = 540


def csv(d: Path, change: Callable[[str], str | bytes]) -> Path:
    tables(d)
    content = change((d / "spikes.csv").read_text())
    (d / "spikes.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return manifest(d)


def events(file: Path) -> str:
    return equal(len(bring(file).spike_times), ROWS)


def mat(d: Path, name: str = "time", **content: object) -> Path:
    """A table of spikes in MATLAB v5; unit ids from 1."""
    tables(d, units="unit_id,electrode_id,area\n1,1,V1\n")
    scipy.io.savemat(d / "s.mat", content)
    columns = {} if name == "time" else {"time": name}
    return manifest(d, spikes={"format": "mat", "path": "s.mat", "columns": columns})


def mat73(d: Path, fill: Callable[[h5py.File], object]) -> Path:
    tables(d, units="unit_id,electrode_id,area\n1,1,V1\n")
    with h5py.File(d / "s.mat", "w", userblock_size=512) as file:
        fill(file)
    with (d / "s.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return manifest(d, spikes={"format": "mat", "path": "s.mat"})


def put(file: h5py.File, name: str, value: np.ndarray, kind: str) -> None:
    file[name] = value
    file[name].attrs["MATLAB_class"] = np.bytes_(kind)


def sparse73(file: h5py.File) -> None:
    group, time = file.create_group("time"), TIMES["u0"]
    group.attrs["MATLAB_class"], group.attrs["MATLAB_sparse"] = np.bytes_(b"double"), np.uint64(len(time))
    group["data"], group["ir"], group["jc"] = time, np.arange(len(time), dtype="u8"), np.array([0, len(time)], "u8")
    put(file, "unit_id", np.ones((1, len(time))), "double")


def text73(file: h5py.File) -> None:
    put(file, "time", TIMES["u0"][None], "double")
    put(file, "unit_id", np.full((1, len(TIMES["u0"])), ord("1"), np.uint8), "char")


def of_nwb(d: Path, edit: Callable[[h5py.File], object]) -> Path:
    nwb(d / "s.nwb", edit=edit)
    return manifest(
        d,
        units={"format": "nwb", "path": "s.nwb", "columns": {"area": "electrodes.location"}},
        spikes={"format": "nwb", "path": "s.nwb"},
    )


def parquet(d: Path, **columns: object) -> Path:
    tables(d)
    pd.DataFrame({"unit_id": ["u0", "u1"], "electrode_id": [1, 2], "area": ["V1", "V4"], **columns}).to_parquet(
        d / "u.pq"
    )
    return manifest(d, units={"format": "parquet", "path": "u.pq"})


def unwritten(d: Path) -> Path:
    def edit(file: h5py.File) -> None:
        shape = file["units/spike_times"].shape
        del file["units/spike_times"]
        file.create_dataset("units/spike_times", shape, "f8", chunks=(50,))

    return of_nwb(d, edit)


def npz(d: Path, **arrays: object) -> Path:
    tables(d)
    np.savez(d / "s.npz", **arrays)
    return manifest(d, spikes={"format": "npz", "path": "s.npz"})


def edited(key: str, at: int, value: object) -> Callable[[h5py.File], object]:
    def edit(file: h5py.File) -> None:
        file[key][at] = value

    return edit


T0 = TIMES["u0"]
READERS: dict[str, Situation] = {
    "semicolons": lambda d: events(csv(d, lambda t: t.replace(",", ";"))),
    "UTF-16 with its mark, CRLF": lambda d: events(csv(d, lambda t: t.replace("\n", "\r\n").encode("utf-16"))),
    "empty last lines": lambda d: events(csv(d, lambda t: t + "\n,\n\n")),
    "decimal commas": lambda d: imports("decimal points", csv(d, lambda t: t.replace(",", ";").replace(".", ","))),
    "a line with one value": lambda d: imports("line 3|1 values", csv(d, lambda t: t.replace(",u1\n", "\n", 1))),
    "1_30 is no number": lambda d: imports("'1_30'|a number", csv(d, lambda t: t.replace("\n0.060", "\n" + "1_30"))),
    "digits of another script": lambda d: imports("a number", csv(d, lambda t: t.replace("\n0.060", "\n" + "٣"))),
    "an infinite time": lambda d: imports("'time' is inf", csv(d, lambda t: t.replace("\n0.060", "\n" + "inf"))),
    "a time out of order": lambda d: imports("comes after a later spike", csv(d, lambda t: t + "1.0,u0\n")),
    "a unit that is in no table": lambda d: imports("unit_id 'u9'", csv(d, lambda t: t + "59.9,u9\n")),
    "two columns of one name": lambda d: imports(
        "two columns", csv(d, lambda t: t.replace("time,unit", "unit_id,unit"))
    ),
    "Latin-1": lambda d: imports("UTF-8", csv(d, lambda t: t.replace("u0", "µ0").encode("latin-1"))),
    "Parquet category": lambda d: equal(bring(parquet(d, area=pd.Categorical(["V1", "V4"]))).regions, ["V1", "V4"]),
    "Parquet nullable truth": lambda d: equal(
        bring(parquet(d, ok=pd.array([True, None], dtype="boolean"))).unit_columns["ok"], ["True", ""]
    ),
    "a list in a Parquet cell": lambda d: imports("a list of 2", parquet(d, area=[["V1", "V4"], ["V1", "V1"]])),
    "pickles in an NPZ": lambda d: imports("Python objects", npz(d, time=np.array([1, "a"], object), unit_id=[1, 2])),
    "NPZ columns [N, 1]": lambda d: equal(len(bring(npz(d, time=T0[:, None], unit_id=["u0"] * 300)).spike_times), 300),
    "MATLAB v5 struct": lambda d: equal(len(bring(mat(d, "s.t", s={"t": T0}, unit_id=np.ones(300))).spike_times), 300),
    "a struct where a column should be": lambda d: imports(
        "is a struct|s.t", mat(d, "s", s={"t": T0}, unit_id=np.ones(9))
    ),
    "MATLAB v5 sparse": lambda d: equal(
        len(bring(mat(d, time=scipy.sparse.csc_matrix(T0[:, None]), unit_id=np.ones(300))).spike_times), 300
    ),
    "MATLAB v7.3 sparse": lambda d: equal(len(bring(mat73(d, sparse73)).spike_times), 300),
    "MATLAB v7.3 text of bytes": lambda d: equal(len(bring(mat73(d, text73)).spike_times), 300),
    "a nested cell": lambda d: imports("a cell is one text or one number", mat(d, time=nested(), unit_id=np.ones(2))),
    "NWB: electrode row -1": lambda d: imports(
        "-1|electrodes are 0 to 1", of_nwb(d, edited("units/electrodes", 0, -1))
    ),
    "NWB: electrode row past the end": lambda d: imports("9|0 to 1", of_nwb(d, edited("units/electrodes", 1, 9))),
    "NWB: spikes behind the last index": lambda d: imports(
        "its index ends at", of_nwb(d, edited("units/spike_times_index", 1, 400))
    ),
    "NWB: an index that falls": lambda d: imports("its index", of_nwb(d, edited("units/spike_times_index", 0, 900))),
    "NWB: values that nobody wrote": lambda d: imports("never written", unwritten(d)),
}


def nested() -> np.ndarray:
    cells = np.empty(2, object)
    cells[0], cells[1] = np.array([1.0, 2.0]), np.array([3.0])
    return cells


RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(1.0, (10, 3, 20)).astype(float)
FEATURES = RNG.normal(size=(20, 8))


def with_one(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array.flat[3] = value
    return array


def noisy(function: Callable[..., object], *arguments: object, **named: object) -> str:
    return refuses("", lambda: function(*arguments, **named), ValueError)


def constant_target(d: Path) -> str:
    x, noise = RNG.normal(size=(200, 10)), RNG.normal(size=(200, 2))
    alone = probes.ridge_probe(x, noise, seed=0)[1]
    beside = probes.ridge_probe(x, np.c_[noise, np.full(200, 5.1)], seed=0)[1]
    return equal(alone, beside)


def in_volts(d: Path) -> str:
    value = RNG.normal(size=(10, 3, 20))
    close = value + 0.3 * RNG.normal(size=value.shape)
    return equal(spikes.gaussian_r2(close * 1e-9, value * 1e-9), spikes.gaussian_r2(close, value))


METRICS: dict[str, Situation] = {
    "bits/spike of an infinite rate": lambda d: noisy(spikes.bits_per_spike, with_one(COUNTS + 1, np.inf), COUNTS),
    "bits/spike of a NaN rate": lambda d: noisy(spikes.bits_per_spike, with_one(COUNTS + 1, np.nan), COUNTS),
    "Poisson D2 of a negative rate": lambda d: noisy(spikes.poisson_d2, with_one(COUNTS + 1, -1.0), COUNTS),
    "R2 of an infinite prediction": lambda d: noisy(spikes.gaussian_r2, with_one(COUNTS, np.inf), COUNTS),
    "R2 in volts": in_volts,
    "R2 beside a constant target": constant_target,
    "R2 of a constant target alone": lambda d: equal(
        probes.ridge_probe(FEATURES, np.full(20, 5.1), seed=0, folds=2)[1], np.nan
    ),
    "retrieval with a NaN": lambda d: noisy(similarity.retrieval, with_one(FEATURES, np.nan), FEATURES, np.arange(20)),
    "two-way identification with a NaN": lambda d: noisy(
        similarity.two_way_identification, FEATURES, with_one(FEATURES, np.nan)
    ),
    "FID of NaN features": lambda d: noisy(distributions.frechet_distance, with_one(FEATURES, np.nan), FEATURES),
    "0 of 18 hits": lambda d: equal(controls.share_interval(np.zeros(18)).high > 0.1, True),
    "18 of 18 hits": lambda d: equal(controls.share_interval(np.ones(18)).low < 0.9, True),
}


def renamed(text: str) -> str:
    return text.replace("time", "t")


def locked(d: Path) -> str:
    file = of_nwb(d, lambda f: None)
    with (d / "s.nwb").open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        return imports("locked by another program", file)


CSV = b"time,unit_id\n1,u0\n"


def held(d: Path, name: str, content: bytes, form: str) -> Path:
    tables(d)
    (d / name).write_bytes(content)
    return manifest(d, spikes={"format": form, "path": name})


def cut(d: Path) -> Path:
    file = of_nwb(d, lambda f: None)
    (d / "s.nwb").write_bytes((d / "s.nwb").read_bytes()[:20_000])
    return file


MESSAGES: dict[str, Situation] = {
    "locked by another program": locked,
    "an NWB file cut off": lambda d: imports("cut off", cut(d)),
    "an empty NPZ": lambda d: imports("is empty", held(d, "s.npz", b"", "npz")),
    "a CSV called .npz": lambda d: imports("of another kind", held(d, "s.npz", CSV, "npz")),
    "a CSV called .parquet": lambda d: imports("of another kind", held(d, "s.pq", CSV, "parquet")),
    "a CSV called .mat": lambda d: imports("no MATLAB file", held(d, "s.mat", CSV, "mat")),
    "a git-annex pointer": lambda d: imports("pointer", held(d, "s.mat", b"/annex/objects/MD5E-s1--a\n", "mat")),
    "a folder for a file": lambda d: imports("folder", manifest(d, spikes={"format": "csv", "path": "."})),
    "times beyond the duration": lambda d: imports("outside the duration", manifest(d, duration=[0, 30])),
    "ms for s": lambda d: imports("time_unit right", manifest(d, time_unit="ms")),
    "index base off by one": lambda d: imports("index_base: 0", indexed(d)),
    "a column that is not there": lambda d: imports("no column 'time'|it holds t", csv(d, renamed)),
}


def indexed(d: Path) -> Path:
    tables(d)
    np.savez(d / "s.npz", spike_times=T0, spike_units=np.arange(300) % 2)
    return manifest(d, index_base=1, spikes={"format": "npz", "path": "s.npz", "layout": "indices"})


def phy(d: Path, spikes: int = 300) -> Path:
    """A folder of phy with a good, a multi-unit and a noise cluster."""
    (d / "sorted").mkdir(parents=True)
    np.save(d / "sorted/spike_times.npy", np.round(T0 * 30_000).astype(np.uint64)[:, None])
    np.save(d / "sorted/spike_clusters.npy", (np.arange(spikes) % 3).astype(np.int32))
    (d / "sorted/cluster_group.tsv").write_text("cluster_id\tgroup\n0\tgood\n1\tmua\n2\tnoise\n")
    (d / "sorted/params.py").write_text("sample_rate = 30000.\n")
    table = {"format": "phy", "path": "sorted"}
    return manifest(d, units=None, areas=["V1"], time_unit="samples", spikes=table)


def cells(d: Path) -> Path:
    made = np.empty(2, object)
    made[0], made[1] = {"t": T0[:, None]}, {"t": TIMES["u1"][None]}
    scipy.io.savemat(d / "c.mat", {"spikes": made})
    table = {"format": "mat", "path": "c.mat", "layout": "trains", "columns": {"spike_times": "spikes.t"}}
    return manifest(d, units=None, areas=["V1"], spikes=table)


def counts(d: Path, values: np.ndarray) -> Path:
    np.savez(d / "c.npz", values=values, bin_edges=np.arange(501) * 0.1)
    spikes = {"format": "npz", "path": "c.npz", "layout": "continuous"}
    return manifest(d, units=None, areas=["V1"], signal_kind="binned_count", spikes=spikes)


def in_ms(d: Path) -> Path:
    nwb(d / "s.nwb", edit=lambda f: f["units/spike_times"].write_direct(f["units/spike_times"][:] * 1000))
    return manifest(d, units=None, areas=["V1"], time_unit="ms", spikes={"format": "nwb", "path": "s.nwb"})


DOORS: dict[str, Situation] = {
    "phy: noise is no unit": lambda d: equal(bring(phy(d)).unit_ids, ["0", "1"]),
    "phy: fewer clusters than spikes": lambda d: imports("of one length", phy(d, spikes=200)),
    "MATLAB cells of structs of trains": lambda d: equal(np.bincount(bring(cells(d)).spike_units), [300, 240]),
    "counts: every one is kept": lambda d: equal(
        np.bincount(bring(counts(d, np.tile([3, 1, 2], (500, 1)))).spike_units), [1500, 500, 1000]
    ),
    "counts the other way round": lambda d: imports("transposed", counts(d, np.ones((3, 500), int))),
    "counts that are none": lambda d: imports("whole number", counts(d, np.full((500, 3), 0.5))),
    "NWB in ms, declared": lambda d: equal(bring(in_ms(d)).spike_times[-1] < 60, True),
    "no region column, two regions": lambda d: imports(
        "no column 'area'|declare the one region", manifest(d, units=None)
    ),
}
