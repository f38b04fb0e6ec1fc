"""Situations of benchmarks/bad_input.py as they come from the field: what a lab's own tables and files really hold."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pynapple as nap
import scipy.io
from _bad_files import SHOWN, TIMES, bring, equal, imports, manifest, pictures, refuses, run, shown, tables
from _bad_readers import npz, of_nwb
from _bad_recordings import said, without_pictures

from neurobridge.data.sources.lab import recording_from_tsgroup

Situation = Callable[[Path], str]
T0, T1 = TIMES["u0"], TIMES["u1"]
ONE_REGION = {"units": None, "areas": ["V1"]}
NFC, NFD = (unicodedata.normalize(form, "grün") for form in ("NFC", "NFD"))


def edited(d: Path, old: str, new: str) -> Path:
    """A manifest with other words in it."""
    file = manifest(d)
    assert old in file.read_text(), f"the manifest has no '{old}'"
    file.write_text(file.read_text().replace(old, new))
    return file


def spikes(d: Path, rows: str, **keys: object) -> Path:
    tables(d, spikes="time,unit_id\n" + rows)
    return manifest(d, **keys)


def blanks(d: Path) -> str:
    rows = "".join(f"{t:.3f},{'u0' if i % 2 else 'u0 '}\n" for i, t in enumerate(T0))
    return equal(bring(spikes(d, rows, **ONE_REGION)).unit_ids, ["u0"])


def ids(d: Path, one: str, other: str) -> Path:
    text = f"onset,offset,image_id,split\n1,1.5,{one},train\n2,2.5,{other},test\n3,3.5,dog,valid\n"
    return without_pictures(d, text)


def spelled(d: Path) -> str:
    pictures(d, [f"{NFD}.png", "b.png", "c.png"])
    return equal(len(bring(shown(d, SHOWN.replace("a.png", f"{NFC}.png"))).stimuli.start), 3)


def in_folder(d: Path) -> Path:
    pictures(d)
    (d / "pics/sub").mkdir()
    (d / "pics/a.png").rename(d / "pics/sub/a.png")
    return shown(d, SHOWN.replace("a.png", "sub\\a.png"))


def twice(d: Path, kind: str) -> Path:
    return spikes(d, "".join(f"{t:.3f},u0\n" * 2 for t in T0), **ONE_REGION, signal_kind=kind)


IDENTITY: dict[str, Situation] = {
    "unit ids with blanks behind": blanks,
    "image ids with blanks behind, two splits": lambda d: imports("'cat'|one split", ids(d, "cat", "cat ")),
    "one accent in two spellings, two splits": lambda d: imports("one split", ids(d, NFC, NFD)),
    "a picture's name in the other spelling": spelled,
    "a Windows path": lambda d: imports("write / between folders", in_folder(d)),
    "a picture's name in capitals": lambda d: (
        pictures(d) or imports("there is 'a.png'", shown(d, SHOWN.replace("a.png", "A.PNG")))
    ),
    "one image id, two pictures": lambda d: imports(
        "is 'b.png' here but 'a.png' above", shown(d, SHOWN.replace("2,2.5,b", "2,2.5,a"))
    ),
    "a presentation written twice": lambda d: imports(
        "was there before; remove one of the rows", shown(d, SHOWN + "3,3.5,c,c.png,test\n")
    ),
    "presentations of two splits at once": lambda d: said(
        "1 presentations that overlap one of another split", shown(d, SHOWN.replace("2,2.5", "1.2,2.5"))
    ),
    "a subject with a slash, in Python": lambda d: refuses("the subject is 'a/b'|rename it", slashed),
    "the same unit ids in NWB": lambda d: imports(
        "unit_id '5' was there before", alone(d, lambda f: f["units/id"].write_direct(np.array([5, 5])))
    ),
}


def slashed() -> object:
    return recording_from_tsgroup(nap.TsGroup({0: nap.Ts(T0)}), subject="a/b", session="s", regions=["V1"])


def alone(d: Path, edit: Callable[[h5py.File], object]) -> Path:
    """An NWB file that brings its own units."""
    of_nwb(d, edit)
    return manifest(d, **ONE_REGION, spikes={"format": "nwb", "path": "s.nwb"})


def mat(d: Path, *, unit: str = "s", layout: str = "labels", **content: object) -> Path:
    d.mkdir(exist_ok=True)
    scipy.io.savemat(d / "s.mat", content)
    table = {"format": "mat", "path": "s.mat", "layout": layout}
    rate = {"sampling_rate": 30000, "duration": [0, 100_001]} if unit == "samples" else {}
    return manifest(d, **ONE_REGION, spikes=table, time_unit=unit, **rate)


def trains(*each: np.ndarray) -> np.ndarray:
    cells = np.empty((1, len(each)), object)
    for number, train in enumerate(each):
        cells[0, number] = train
    return cells


def behaviour(d: Path, times: np.ndarray, values: np.ndarray) -> Path:
    d.mkdir(exist_ok=True)
    pd.DataFrame({"time": times, "value": values}).to_csv(d / "b.csv", index=False)
    return manifest(d, behaviour={"speed": {"format": "csv", "path": "b.csv"}})


def narrow(d: Path) -> Path:
    spikes_table = {"format": "npz", "path": "narrow.npz", "layout": "continuous", "bin_width": 1e-4}
    file = manifest(d, **ONE_REGION, signal_kind="binned_count", spikes=spikes_table)
    np.savez(d / "narrow.npz", values=np.ones((500, 3), int))
    return file


def late() -> str:
    return "".join(f"{t:.3f},u0\n" for t in T0 if t > 40)


def drafted(d: Path) -> str:
    spikes(d, late())
    run("data", "doctor", d / "spikes.csv", "--manifest", d / "draft.yaml")
    return equal("duration: [40, 60] " in (d / "draft.yaml").read_text(), True)


TIME = np.arange(100) * 0.5
CLOCKS: dict[str, Situation] = {
    "1:00 in a manifest, which YAML takes for 60": lambda d: imports("base 60|line 7", edited(d, "- 60\n", "- 1:00\n")),
    "0100 in a manifest, which YAML takes for 64": lambda d: imports("base 8", edited(d, "- 60\n", "- 0100\n")),
    "one unit of several in ms": lambda d: imports(
        "unit '1' has 300 spikes|time_unit right", mat(d, layout="trains", spike_times=trains(T0 / 1000, T1))
    ),
    "float16 times": lambda d: imports("knows steps of 0.031 s", npz(d, time=T0.astype("f2"), unit_id=["u0"] * 300)),
    "float32 samples of 100 000 s": lambda d: imports(
        "float32|float64 or whole numbers",
        mat(d, unit="samples", time=np.float32(np.arange(300) * 1e7), unit_id=np.ones(300)),
    ),
    "int32 samples that ran over": lambda d: imports(
        "before the first moment",
        mat(d, unit="samples", time=(np.arange(300) * 10**7).astype("i4"), unit_id=np.ones(300)),
    ),
    "a time in h:min:s": lambda d: imports("'00:00:00.060'|a number", spikes(d, "0.050,u0\n00:00:00.060,u1\n")),
    "dates for times in Parquet": lambda d: imports("datetime64|expected numbers", dated(d)),
    "a presentation off the end": lambda d: imports(
        "after the end of the recording", shown(d, SHOWN.replace("3,3.5", "59.8,60.3"))
    ),
    "a clock that ran long before the recording": lambda d: said(
        "no unit fired in 0 to 40.05 s, 67% of the duration", spikes(d, late(), **ONE_REGION)
    ),
    "a draft for such a file": drafted,
    "NaN in a table of trials": lambda d: imports("'onset' is nan", shown(d, SHOWN.replace("3,3.5", "nan,nan"))),
    "obs_intervals the wrong way round": lambda d: imports("a start and a later stop", reversed_intervals(d)),
    "a recording of no length": lambda d: imports("first and last second", manifest(d, duration=[0, 0])),
    "behaviour on the clock of samples": lambda d: imports(
        "one of its 100 samples|time_unit right", behaviour(d, TIME * 2000, TIME)
    ),
    "behaviour with a sentinel": lambda d: said(
        "from -9999 to", behaviour(d, TIME, np.where(np.arange(100) % 7, TIME, -9999))
    ),
    "behaviour with times twice": lambda d: said(
        "50 at the very time of the one before", behaviour(d, TIME // 1, np.arange(100))
    ),
    "behaviour that ends early": lambda d: said("over 4.95 of 60 s", behaviour(d, TIME / 10, TIME)),
}


def dated(d: Path) -> Path:
    tables(d)
    when = pd.Timestamp("2024-05-01") + pd.to_timedelta(T0, unit="s")
    pd.DataFrame({"time": when, "unit_id": ["u0"] * 300}).to_parquet(d / "s.pq")
    return manifest(d, spikes={"format": "parquet", "path": "s.pq"})


def reversed_intervals(d: Path) -> Path:
    from _bad_nwb import nwb

    nwb(d / "s.nwb", obs=[[20, 0], [30, 60]])
    return manifest(d, **ONE_REGION, spikes={"format": "nwb", "path": "s.nwb"})
