"""A small TVSD release in the source's own formats: python tests/data/tvsd_fixture.py DIR

MATLAB v7.3 is HDF5 behind a 512-byte header, with reversed axes, ``MATLAB_class`` attributes and strings behind object
references; the channel map is MATLAB v5. The normalised values are computed from the trials as the release does it:
window mean, minus mean, over standard deviation of the day's test samples. Sizes differ on every axis but the channels.
"""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image

CHANNELS, SAMPLES = 1024, 300
AREAS = {"F": [("V1", 512), ("IT", 320), ("V4", 192)], "N": [("V1", 512), ("V4", 256), ("IT", 256)]}
WINDOWS = {"V1": (25, 125), "V4": (50, 150), "IT": (75, 175)}
CONCEPTS = ("aardvark", "abacus", "zucchini", "acorn")
PER_CONCEPT, REPEATS = 4, 3
TEST = ("aardvark\\aardvark_09s.jpg", "zucchini\\zucchini_11s.jpg", "wolf\\wolf_01s.jpg")
TRAIN = tuple(f"{c}\\{c}_{i:02d}b.jpg" for i in range(1, PER_CONCEPT + 1) for c in CONCEPTS)
TWIN = (TRAIN[3], TEST[2])  # two paths, one picture


def mat73(path: Path, variables: dict[str, np.ndarray | dict[str, list[str]]], **options: object) -> Path:
    """Write MATLAB v7.3. Arrays come in MATLAB's order of axes; a dict is a struct array of strings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            if isinstance(value, dict):
                _struct(file, name, value)
            else:
                dataset = file.create_dataset(name, data=np.asarray(value).T, **(options if value.ndim > 2 else {}))
                dataset.attrs["MATLAB_class"] = np.bytes_("single" if value.dtype == np.float32 else "double")
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan 10 12:00:00 2022 HDF5 schema 1.00 ."
    with path.open("r+b") as raw:
        raw.write(head.ljust(116) + bytes(8) + b"\x00\x02IM")
    return path


def _struct(file: h5py.File, name: str, fields: dict[str, list[str]]) -> None:
    group, store = file.create_group(name), file.require_group("#refs#")
    group.attrs["MATLAB_class"] = np.bytes_("struct")
    for key, texts in fields.items():
        references = np.empty((len(texts), 1), dtype=h5py.ref_dtype)
        for row, text in enumerate(texts):
            units = np.frombuffer(text.encode("utf-16-le"), dtype=np.uint16)
            string = store.create_dataset(f"{name}{key}{row}", data=units[:, None])
            string.attrs["MATLAB_class"] = np.bytes_("char")
            string.attrs["MATLAB_int_decode"] = np.int32(2)
            references[row, 0] = string.ref
        group.create_dataset(key, data=references)


def channel_map(letter: str) -> np.ndarray:
    """1-based recorded channel of each physical one; not an involution."""
    return np.random.default_rng(ord(letter)).permutation(CHANNELS) + 1


def trial_table(letter: str, *, columns: int, days: int) -> np.ndarray:
    """ALLMAT [trials, columns]: trial, train_idx, test_idx, rep, count, [correct,] day; in random order."""
    rng = np.random.default_rng(ord(letter) + 1)
    train = [(i + 1, 0, 1) for i in range(len(TRAIN))]
    test = [(0, i + 1, r + 1) for r in range(REPEATS) for i in range(len(TEST))]
    shown = rng.permutation(np.array(train + test))
    table = np.zeros((len(shown), columns))
    table[:, 0] = np.arange(len(shown)) + 1
    table[:, 1:4] = shown
    table[:, 4] = np.arange(len(shown)) % 4 + 1
    if columns == 7:
        table[:, 5] = 1
    table[:, -1] = np.arange(len(shown)) * days // len(shown) + 1
    return table


def trials(letter: str, table: np.ndarray) -> np.ndarray:
    """ALLMUA [electrode, trial, time] in recording order: noise on an offset, gain and drift a day, and a response."""
    rng = np.random.default_rng(ord(letter) + 2)
    day = table[:, -1]
    gain = rng.uniform(0.5, 2.0, (CHANNELS, 1, 1)) * day[None, :, None]
    noise = rng.standard_normal((CHANNELS, len(table), 1)) + 0.1 * rng.standard_normal((1, len(table), SAMPLES))
    response = np.exp(-((np.arange(SAMPLES) - 200) ** 2) / 800.0)
    return (20 * day[None, :, None] + gain * noise * (0.2 + response)).astype(np.float32)


def normalised(letter: str, mua: np.ndarray, table: np.ndarray, *, pool: np.ndarray) -> np.ndarray:
    """[electrode in physical order, trial]: what the release's script makes of the trials, channel by channel."""
    tb = np.arange(SAMPLES) - 100
    mapping = channel_map(letter) - 1
    areas = np.repeat([a for a, _ in AREAS[letter]], [n for _, n in AREAS[letter]])
    out = np.empty((CHANNELS, len(table)))
    for physical, recorded in enumerate(mapping):
        first, last = WINDOWS[areas[physical]]
        window = mua[recorded][:, (tb > first) & (tb <= last)].astype(float)
        for day in np.unique(table[:, -1]):
            samples = window[pool & (table[:, -1] == day)]
            rows = table[:, -1] == day
            out[physical, rows] = (window[rows].mean(1) - samples.mean()) / samples.std(ddof=1)
    return out


def write_monkey(
    root: Path, letter: str, *, raw: bool = False, columns: int = 6, days: int = 2
) -> dict[str, np.ndarray]:
    """Write one animal's files under ``root``/monkeyX; return what is in them (MATLAB's order of axes)."""
    folder = root / f"monkey{letter}"
    table = trial_table(letter, columns=columns, days=days)
    mua = trials(letter, table)
    norm = normalised(letter, mua, table, pool=table[:, 2] > 0)
    train = norm[:, np.argsort(np.where(table[:, 1] > 0, table[:, 1], np.inf), kind="stable")[: len(TRAIN)]]
    reps = np.empty((CHANNELS, len(TEST), REPEATS))
    for image in range(len(TEST)):
        reps[:, image] = norm[:, table[:, 2] == image + 1]
    rng = np.random.default_rng(ord(letter) + 3)
    made = {
        "train_MUA": train,
        "test_MUA": reps.mean(2),
        "test_MUA_reps": reps,
        "SNR": rng.gamma(2.0, 1.0, (CHANNELS, days)),
        "SNR_max": rng.gamma(4.0, 1.0, (1, CHANNELS)),
        "lats": rng.uniform(30, 90, (CHANNELS, days)),
        "oracle": rng.uniform(-0.1, 0.9, (1, CHANNELS)),
        "reliab": rng.uniform(-0.1, 0.9, (CHANNELS, REPEATS * (REPEATS - 1) // 2)),
        "tb": np.arange(SAMPLES, dtype=float)[None] - 100,
    }
    mat73(folder / "THINGS_normMUA.mat", made)
    if raw:
        chunks = {"chunks": (SAMPLES // 2, 4, 100)}
        mat73(folder / "THINGS_MUA_trials.mat", {"ALLMUA": mua, "ALLMAT": table, "tb": made["tb"]}, **chunks)
    images = {
        f"{part}_imgs": {
            "class": [p.split("\\")[0] for p in paths],
            "things_path": list(paths),
            "local_path": [f"D:\\imgs\\{p}" for p in paths],
        }
        for part, paths in (("train", TRAIN), ("test", TEST))
    }
    mat73(folder / "_logs" / "things_imgs.mat", images)
    mapping = {"mapping": channel_map(letter)[None].astype(float)}
    scipy.io.savemat(folder / "_logs" / "1024chns_mapping_20220105.mat", mapping)
    return made | {"ALLMUA": mua, "ALLMAT": table}


def write_things(root: Path) -> Path:
    """THINGS pictures, 40 x 32 pixels of coarse colours; two paths show the same one."""
    for number, text in enumerate((*TRAIN, *TEST)):
        seed = TRAIN.index(TWIN[0]) if text == TWIN[1] else number
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        file = root / text.replace("\\", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((40, 32)).save(file, quality=95)
    return root


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for name in "FN":
        write_monkey(target, name, raw=True)
    write_things(target / "things")
