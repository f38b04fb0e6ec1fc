"""Situations of benchmarks/bad_input.py in the files of public data sets: Allen, NLB, IBL, retina, V4, TVSD."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from _bad_field_files import packed
from _bad_files import Silent, fits, run, says
from _common import ROOT

sys.path.insert(0, str(ROOT / "tests" / "data"))  # where small files in the sources' own formats are written

import ibl_fixture
import nwb_fixtures
import tvsd_fixture

Situation = Callable[[Path], str]


def refused(words: str, source: str, path: Path, *options: object) -> str:
    out = path.parent / "out"
    told = says(words, "data", "import", source, path, "--out", out, *options)
    if list(out.glob("sessions/*.h5")):
        raise Silent("a session was written all the same")
    return told


def told(words: str, source: str, path: Path, *options: object) -> str:
    code, out, err = run("data", "import", source, path, "--out", path.parent / "out", *options)
    if code:
        raise Silent(f"exit code {code}: {err[:100]}")
    return fits(words, [" ".join((out + err).split())])


def allen(d: Path, edit: Callable[[h5py.File], object] = lambda f: None) -> Path:
    d.mkdir(exist_ok=True)
    file = nwb_fixtures.write_allen(d / "a.nwb")
    with h5py.File(file, "r+") as opened:
        edit(opened)
    return file


def nlb(d: Path, edit: Callable[[h5py.File], object]) -> Path:
    (d / "n").mkdir(parents=True)
    file = nwb_fixtures.write_maze(d / "n" / "sub-Jenkins_ses-full_desc-train_behavior+ecephys.nwb")
    with h5py.File(file, "r+") as opened:
        edit(opened)
    return d / "n"


def changed(key: str, change: Callable[[np.ndarray], object]) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        values = file[key][:]
        change(values)
        file[key][:] = values

    return edit


def at(row: int, value: object) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[row] = value

    return change


def ibl(d: Path, name: str, change: Callable[[Path], object]) -> Path:
    d.mkdir(exist_ok=True)
    ibl_fixture.write_ibl(d / "one")
    for file in sorted((d / "one").rglob(name)):
        change(file)
    return d / "one"


def resaved(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda file: np.save(file, change(np.load(file)))


def late_trials(file: Path) -> None:
    table = pd.read_parquet(file)
    for name in table.columns:
        if name.endswith("_times") or name.startswith("intervals"):
            table[name] *= 1000
    table.to_parquet(file)


def retina(d: Path, contrast: Callable[[np.ndarray], np.ndarray], spikes: Callable = lambda x: x) -> Path:
    (d / "r").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with h5py.File(d / "r/responses2naturalimages.h5", "w") as file:
        file["spikes"] = spikes((rng.random((6, 15, 4, 300)) < 0.02).astype(np.uint8))
        file["images"] = contrast(rng.uniform(-1, 1, (12, 10, 10)))
    return d / "r"


def v4(d: Path, responses: np.ndarray) -> Path:
    (d / "v/responses_mean").mkdir(parents=True)
    np.save(d / "v/responses_mean/responses_190923.npy", responses)
    return d / "v"


def frames_last(d: Path) -> str:
    file = allen(d)
    np.save(d / "scenes.npy", np.random.default_rng(0).integers(0, 256, (200, 220, 118), dtype=np.uint8))
    return refused("frames last", "allen", file, "--images", d / "scenes.npy")


def tvsd(d: Path, change: Callable[[Path], object]) -> Path:
    d.mkdir(exist_ok=True)
    root = tvsd_fixture.write_things(d / "t")
    tvsd_fixture.write_monkey(root, "F")
    change(root)
    return root


def cut(root: Path) -> None:
    file = next(root.rglob("*normMUA*.mat"))
    file.write_bytes(file.read_bytes()[:20_000])


def unknown(root: Path) -> None:
    with h5py.File(next(root.rglob("*normMUA*.mat")), "r+") as file:
        file["train_MUA"][0, 0] = np.nan


SCENES = "intervals/natural_scenes_presentations"
SOURCES: dict[str, Situation] = {
    "allen: a filter that is not installed": lambda d: refused("filter 32015|compression", "allen", allen(d, packed)),
    "allen: a stack with its frames last": frames_last,
    "allen: spikes in ms": lambda d: refused(
        "milliseconds taken for seconds", "allen", allen(d, changed("units/spike_times", lambda x: x.__imul__(1000)))
    ),
    "allen: half a frame": lambda d: refused(
        "17.5|frame numbers", "allen", allen(d, changed(f"{SCENES}/frame", at(3, 17.5)))
    ),
    "allen: a unit id twice": lambda d: refused(
        "one id a unit", "allen", allen(d, changed("units/id", at(1, nwb_fixtures.UNITS[0])))
    ),
    "nlb: a filter that is not installed": lambda d: refused("filter 32015", "nlb", nlb(d, packed)),
    "nlb: a split of another word": lambda d: refused(
        "'Train'|no split", "nlb", nlb(d, changed("intervals/trials/split", at(0, "Train")))
    ),
    "nlb: spikes in ms": lambda d: refused(
        "milliseconds taken for seconds", "nlb", nlb(d, changed("units/spike_times", lambda x: x.__imul__(1000)))
    ),
    "ibl: float16 times": lambda d: refused(
        "steps of 0.25 s", "ibl", ibl(d, "spikes.times*.npy", resaved(lambda x: x.astype("f2")))
    ),
    "ibl: samples for seconds": lambda d: refused(
        "Divide by the rate", "ibl", ibl(d, "spikes.times*.npy", resaved(lambda x: x * 30_000))
    ),
    "ibl: big-endian times": lambda d: told(
        "kept 6 of 6", "ibl", ibl(d, "spikes.times*.npy", resaved(lambda x: x.astype(">f8")))
    ),
    "ibl: every spike twice": lambda d: refused(
        "at the very time of another", "ibl", ibl(d, "spikes.*.npy", resaved(lambda x: np.repeat(x, 2, axis=0)))
    ),
    "ibl: trials in ms": lambda d: refused("milliseconds", "ibl", ibl(d, "_ibl_trials.table*.pqt", late_trials)),
    "retina: grey levels for contrasts": lambda d: refused(
        "from 0|no grey levels", "retina", retina(d, lambda c: np.round((c - c.min()) * 127))
    ),
    "retina: counts for spikes": lambda d: refused(
        "expected 0 or 1", "retina", retina(d, lambda c: c, lambda x: x * 2)
    ),
    "v4: responses in z-scores": lambda d: refused(
        "averaged counts are finite", "v4", v4(d, np.random.default_rng(0).normal(size=(5, 12)))
    ),
    "v4: float16 that ran over": lambda d: refused("response inf", "v4", v4(d, np.full((5, 12), 7e4).astype("f2"))),
    "tvsd: one value that is not finite": lambda d: told(
        "left out 1 presentations with a value that is not finite", "tvsd", tvsd(d, unknown)
    ),
    "tvsd: a file cut off": lambda d: refused("cut off", "tvsd", tvsd(d, cut)),
}
