"""Stand-ins of the size of three public sets, in the sources' own formats, written a part at a time.

    python benchmarks/_full_size_sets.py tvsd|ibl|allen FOLDER SCALE

Pictures are smooth, drawn from 48 numbers, and responses are linear in those numbers, so that there is something to
learn. What is random is drawn from seeds that follow from the unit, session or part, not from the scale.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

FIXTURES = Path(__file__).resolve().parents[1] / "tests" / "data"
SIDE, NUMBERS, CHANNELS = 64, 48, 1024
TRAIN, TEST, REPEATS, CONCEPTS = 22_248, 100, 30, 1854  # TVSD
SESSIONS = 459  # IBL
UNITS, SPIKES, SECONDS, SCENES, SHOWN = 2000, 10**8, 9000.0, 118, 50  # Allen
AT_ONCE = 1024


def write_picture(path: Path, seed: int) -> np.ndarray:
    """A picture of :data:`SIDE` pixels; the numbers [NUMBERS] that it is drawn from."""
    numbers = np.random.default_rng([1, seed]).standard_normal(NUMBERS)
    colours = np.clip(128 + 50 * numbers, 0, 255).reshape(4, 4, 3).astype(np.uint8)
    Image.fromarray(colours).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
    return numbers


def things_path(concept: int, number: str) -> str:
    """A path as the release writes it."""
    return f"concept{concept:04d}\\concept{concept:04d}_{number}.jpg"


def write_tvsd(root: Path, scale: float) -> None:
    """One animal: THINGS_normMUA.mat and things_imgs.mat of MATLAB v7.3, and the pictures."""
    fixture = runpy.run_path(str(FIXTURES / "tvsd_fixture.py"))
    train, test = max(40, round(TRAIN * scale)), max(12, round(TEST * min(1.0, 4 * scale)))
    names = {
        "train": [
            f"concept{i % CONCEPTS:04d}\\concept{i % CONCEPTS:04d}_{i // CONCEPTS:02d}b.jpg" for i in range(train)
        ],
        "test": [f"concept{i:04d}\\concept{i:04d}_99s.jpg" for i in range(test)],
    }
    numbers = {}
    for part, first in (("train", 0), ("test", TRAIN)):
        numbers[part] = np.empty((len(names[part]), NUMBERS))
        for row, name in enumerate(names[part]):
            path = root / "pictures" / name.replace("\\", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            numbers[part][row] = write_picture(path, first + row)
    images = {
        f"{part}_imgs": {"class": [n.split("\\")[0] for n in some], "things_path": some, "local_path": some}
        for part, some in names.items()
    }
    folder = root / "monkeyF"
    fixture["mat73"](folder / "_logs" / "things_imgs.mat", images)
    rng = np.random.default_rng(2)
    weights = rng.standard_normal((NUMBERS, CHANNELS)) / np.sqrt(NUMBERS)
    columns = {"SNR": rng.gamma(2.0, 1.0, (CHANNELS, 3)), "SNR_max": rng.gamma(4.0, 1.0, (1, CHANNELS))}
    path = fixture["mat73"](folder / "THINGS_normMUA.mat", columns)
    with h5py.File(path, "r+") as file:
        values = file.create_dataset("train_MUA", (train, CHANNELS), "f8")
        repeats = file.create_dataset("test_MUA_reps", (REPEATS, test, CHANNELS), "f8")
        for at in range(0, train, AT_ONCE):
            some = numbers["train"][at : at + AT_ONCE] @ weights
            values[at : at + AT_ONCE] = some + np.random.default_rng([3, at]).standard_normal(some.shape)
        for show in range(REPEATS):
            some = numbers["test"] @ weights
            repeats[show] = some + np.random.default_rng([4, show]).standard_normal(some.shape)


def write_ibl(root: Path, scale: float) -> None:
    """Sessions of one probe with twenty clusters and 12,000 spikes in five minutes, trials and a wheel."""
    fixture = runpy.run_path(str(FIXTURES / "ibl_fixture.py"))
    areas = [fixture[name] for name in ("VISP5", "CA1", "VPL")]
    for number in range(max(3, round(SESSIONS * scale))):
        rng = np.random.default_rng([5, number])
        clusters = [(rng.uniform(1, 3), 1.0 if unit % 5 else 1 / 3, areas[unit % 3]) for unit in range(20)]
        alf = root / "lab" / "Subjects" / f"mouse{number // 4:03d}" / f"2020-01-{number % 4 + 1:02d}" / "001" / "alf"
        fixture["write_sorting"](alf / "probe00" / "iblsorter", clusters, number)
        fixture["trial_table"](40, number).to_parquet(alf / "_ibl_trials.table.pqt")
        times = np.arange(0.05, fixture["SECONDS"], 0.1)
        np.save(alf / "_ibl_wheel.timestamps.npy", times)
        np.save(alf / "_ibl_wheel.position.npy", np.sin(0.6 * times + number))


def write_allen(root: Path, scale: float) -> None:
    """One session: an NWB file with all spikes and 118 scenes shown fifty times, and the pictures."""
    units, each = max(20, round(UNITS * np.sqrt(scale))), max(2000, round(SPIKES / UNITS * np.sqrt(scale)))
    seconds = SECONDS * each / (SPIKES / UNITS)
    shows = max(4, round(SHOWN * each / (SPIKES / UNITS)))
    root.mkdir(parents=True, exist_ok=True)
    (root / "pictures").mkdir(exist_ok=True)
    numbers = np.array([write_picture(root / "pictures" / f"{i}.png", 10**6 + i) for i in range(SCENES)])
    frame = np.concatenate([np.random.default_rng([6, show]).permutation(SCENES) for show in range(shows)])
    start = 5.0 + 0.25 * np.arange(len(frame))
    assert start[-1] + 1 < seconds, "the scenes fit into the recording"
    with h5py.File(root / "session.nwb", "w") as file:
        file.attrs["nwb_version"] = "2.2.2"
        for key, text in {
            "identifier": "1000001", "general/session_id": "1000001", "general/subject/subject_id": "2000001",
            "general/subject/species": "Mus musculus",
        }.items():  # fmt: skip
            file[key] = text
        electrodes = file.create_group("general/extracellular_ephys/electrodes")
        electrodes["id"], electrodes["valid_data"] = 10 * np.arange(units), np.ones(units, dtype=bool)
        electrodes["location"] = np.array([b"VISp", b"VISl", b"LGd", b"CA1"])[np.arange(units) % 4]
        table = file.create_group("intervals/natural_scenes_presentations")
        table["start_time"], table["stop_time"], table["frame"] = start, start + 0.25, frame.astype(float)
        group = file.create_group("units")
        group["id"], group["peak_channel_id"] = np.arange(units), 10 * np.arange(units)
        group["quality"] = np.array([b"good"] * units)
        spikes, ends = group.create_dataset("spike_times", (0,), "f8", maxshape=(None,), chunks=(2**20,)), []
        for unit in range(units):
            times = train_of(np.random.default_rng([7, unit]), numbers, frame, start, each, seconds)
            ends.append(len(times) + (ends[-1] if ends else 0))
            spikes.resize((ends[-1],))
            spikes[ends[-1] - len(times) :] = times
        group["spike_times_index"] = np.array(ends)


def train_of(
    rng: np.random.Generator, numbers: np.ndarray, frame: np.ndarray, start: np.ndarray, count: int, seconds: float
) -> np.ndarray:
    """About ``count`` times in s, ascending, none within 1.5 ms of another; more or fewer by what is shown."""
    gain = np.exp(0.6 * numbers @ rng.standard_normal(NUMBERS) / np.sqrt(NUMBERS))
    each = rng.poisson(count / seconds * 0.25 * (gain / gain.mean())[frame])
    shown = np.repeat(start, each) + 0.25 * rng.random(each.sum())
    rest = rng.uniform(0.5, seconds - 0.5, round(1.01 * count) - len(shown))
    rest = rest[(rest < start[0]) | (rest > start[-1] + 0.25)]
    more = rng.uniform(start[-1] + 0.25, seconds - 0.5, max(0, round(1.01 * count) - len(shown) - len(rest)))
    times = np.sort(np.concatenate([shown, rest, more]))
    return times[np.diff(times, prepend=-1.0) > 1.5e-3]


SETS = {"tvsd": write_tvsd, "ibl": write_ibl, "allen": write_allen}

if __name__ == "__main__":
    SETS[sys.argv[1]](Path(sys.argv[2]), float(sys.argv[3]))
