"""Small NWB files of an Allen session and of MC_Maze, written by the official pynwb (any version since 1.2).

No two axes are of one length, ids are no row numbers, and the tables hold what makes real files hard to read. The
truth they were written from stands in constants and functions here. ``python nwb_fixtures.py FOLDER`` writes them all.
"""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from pathlib import Path

import h5py
import numpy as np
import pynwb
from pynwb.epoch import TimeIntervals

START = datetime(2019, 1, 8, tzinfo=timezone.utc)  # noqa: UP017, for old Pythons write this fixture too
NOT_ON_DISK = "beside the point"

CHANNELS = np.array([850249253, 850249259, 850249261, 850249265, 850256331, 850256337, 850256341])
LOCATIONS = ["VISp", "", "grey", "LGd", "None", "VISl", "nan"]  # pynwb takes no '': it is patched in
VALID = np.array([True, True, True, True, True, False, True])
PEAKS = np.array([3, 0, 1, 2, 5, 0, 4, 6])  # rows of CHANNELS
UNITS = np.array([950911932, 950911986, 950912164, 950912190, 950912214, 950912406, 950912448, 950912928])
QUALITY = ["good", "good", "good", "good", "good", "noise", "good", "good"]
FRAMES = np.array([17, -1, 3, 17, 99, 3, -1, 17, 42, 99, 17], dtype=float)
ONSET = 8.0
INVALID = (8.3, 8.45)
ALLEN_SECONDS = 20.0

MAZE_UNITS = np.array([7, 11, 12, 20, 31])
HELD_OUT = np.array([False, True, False, True, False])
MAZE_ELECTRODES = [[2], [0], [5], [3], [1, 4]]
MAZE_LOCATIONS = ["M1", "M1", "PMd", "PMd", "PMd", "M1"]
OBSERVED = np.array([[0.0, 14.1], [14.3, 23.0]])
TRIALS = 9
SPLIT = ["train", "train", "val", "train", "train", "none", "val", "train", "train"]


def allen_spikes() -> list[np.ndarray]:
    """Seconds of each unit: 1.2 to 5 Hz, no interval below 25 ms."""
    rng = np.random.default_rng(1)
    return [
        np.sort(rng.choice(np.arange(0.5, 19.5, 0.05), 24 + 11 * unit, replace=False)) for unit in range(len(UNITS))
    ]


def running() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(start, end, speed in cm/s) [13] of irregular samples; one speed is missing."""
    start = 1.0 + np.cumsum(np.full(13, 0.7) + 0.01 * np.arange(13))
    speed = np.linspace(-2.0, 40.0, 13)
    speed[4] = np.nan
    return start, start + 0.5, speed


def maze_spikes() -> list[np.ndarray]:
    """Seconds of each unit, on whole milliseconds; the last unit has one spike in the gap."""
    rng = np.random.default_rng(2)
    spikes = []
    for unit in range(len(MAZE_UNITS)):
        times = np.sort(rng.choice(np.arange(100, 22900), 60 + 13 * unit, replace=False)) / 1000
        spikes.append(times[(times <= OBSERVED[0, 1]) | (times >= OBSERVED[1, 0])])
    spikes[-1] = np.sort(np.append(spikes[-1], 14.2))
    return spikes


def maze_trials() -> dict[str, list]:
    """Columns of the trial table; trial 5 crosses the gap, trial 7 has no onset."""
    start = 0.4 + 2.4 * np.arange(TRIALS)
    onset = np.round(start + 1.1 + 0.013 * np.arange(TRIALS), 3)
    onset[5], onset[7] = 14.25, np.nan
    return {
        "start_time": start.tolist(),
        "stop_time": (start + 2.2).tolist(),
        "split": SPLIT,
        "trial_type": [1, 2, 1, 1, 2, 1, 2, 2, 1],
        "trial_version": [0, 1, 0, 2, 1, 0, 1, 1, 0],
        "target_on_time": (start + 0.2).tolist(),
        "go_cue_time": (start + 0.7).tolist(),
        "move_onset_time": onset.tolist(),
        "success": [True] * TRIALS,
    }


def maze_behaviour() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(seconds [T], name -> [T, 2]) at 1 kHz with 200 samples missing and 7 of the hand's velocity NaN."""
    times = np.arange(0, 23000) / 1000
    times = np.delete(times, np.arange(9000, 9200))
    phase = times[:, None] * np.array([1.0, 1.7])
    values = {name: np.sin(phase + k) for k, name in enumerate(("hand_pos", "hand_vel", "cursor_pos", "eye_pos"))}
    values["hand_vel"][5000:5007] = np.nan
    return times, values


def write_allen(
    path: Path, *, session: str = "715093703", frames_as_text: bool = False, scenes: bool = True, movie: int = 0
) -> Path:
    """An Allen Visual Coding Neuropixels session; ``movie``: frames of a movie that is shown twice."""
    file = pynwb.NWBFile(
        session_description="Data and metadata for an Ecephys session",
        identifier=session,
        session_id=session,
        session_start_time=START,
        institution="Allen Institute for Brain Science",
        stimulus_notes="brain_observatory_1.1" if scenes else "functional_connectivity",
    )
    file.subject = pynwb.file.Subject(subject_id="699733573", species="Mus musculus", age="P118D", sex="M")
    _electrodes(file)
    columns = {
        "peak_channel_id": CHANNELS[PEAKS],
        "quality": QUALITY,
        "firing_rate": np.array([len(times) / ALLEN_SECONDS for times in allen_spikes()]),
        "isi_violations": np.linspace(0, 0.07, len(UNITS)),
        "presence_ratio": np.linspace(0.9, 0.99, len(UNITS)),
        "amplitude_cutoff": np.linspace(0.01, 0.08, len(UNITS)),
        "snr": np.linspace(1.1, 4.6, len(UNITS)),
        "d_prime": np.append(np.linspace(2.0, 8.0, len(UNITS) - 1), np.nan),
    }
    for name in columns:
        file.add_unit_column(name, NOT_ON_DISK)
    for row, times in enumerate(allen_spikes()):
        file.add_unit(id=int(UNITS[row]), spike_times=times, **{name: column[row] for name, column in columns.items()})
    if scenes:
        _table(
            file,
            "natural_scenes",
            ONSET + 0.25 * np.arange(len(FRAMES)),
            0.25,
            frame=["N/A" if row == 9 else str(f) for row, f in enumerate(FRAMES)] if frames_as_text else FRAMES,
        )
    _table(file, "drifting_gratings", np.array([2.0, 5.0]), 2.0, orientation=["45.0", "N/A"], contrast=[0.8, 0.8])
    _table(file, "spontaneous", np.array([13.0]), 4.0)
    if movie:
        _table(file, "natural_movie_one", 30 + np.arange(2 * movie) / 30, 1 / 30, frame=np.tile(np.arange(movie), 2))
    file.add_invalid_time_interval(start_time=INVALID[0], stop_time=INVALID[1], tags=["EcephysProbe", "1", "probeB"])
    start, end, speed = running()
    module = file.create_processing_module("running", "running speed data")
    series = pynwb.TimeSeries(name="running_speed", data=speed, timestamps=start, unit="cm/s")
    nothing = np.full(len(end), np.nan)
    ends = pynwb.TimeSeries(name="running_speed_end_times", data=nothing, timestamps=end, unit="cm/s")
    turned = pynwb.TimeSeries(name="running_wheel_rotation", data=speed, timestamps=series, unit="radians")
    for part in (series, ends, turned):
        module.add(part)
    _write(file, path)
    with h5py.File(path, "r+") as raw:
        raw["general/extracellular_ephys/electrodes/location"][1] = ""
    return path


def write_lfp(path: Path) -> Path:
    """The LFP file of a probe, which lies beside a session's file and is none."""
    file = pynwb.NWBFile(session_description="LFP", identifier="760640094", session_start_time=START)
    file.add_acquisition(pynwb.TimeSeries(name="probe_1_lfp", data=np.zeros((9, 3)), rate=1250.0, unit="V"))
    return _write(file, path)


def write_maze(path: Path) -> Path:
    """A file of MC_Maze with training labels, or one without where ``path`` says desc-test."""
    test = "desc-test" in path.name
    file = pynwb.NWBFile(session_description="delayed reaches", identifier="maze", session_start_time=START)
    file.subject = pynwb.file.Subject(subject_id="Jenkins", species="Macaca mulatta", age="P6Y", sex="M")
    device = file.create_device("array")
    group = file.create_electrode_group("electrode_group_M1", description="Utah", location="M1", device=device)
    for location in MAZE_LOCATIONS:
        file.add_electrode(x=0.0, y=0.0, z=0.0, imp=0.0, location=location, filtering="none", group=group)
    file.add_unit_column("heldout", "held-out unit")
    for row, times in enumerate(maze_spikes()):
        if not (test and HELD_OUT[row]):
            file.add_unit(
                id=int(MAZE_UNITS[row]),
                spike_times=times,
                obs_intervals=OBSERVED,
                electrodes=MAZE_ELECTRODES[row],
                heldout=bool(HELD_OUT[row]),
            )
    columns = maze_trials()
    if test:
        kept = ("start_time", "stop_time", "split", "move_onset_time")
        columns = {name: column for name, column in columns.items() if name in kept} | {"split": ["test"] * TRIALS}
    for name in columns:
        if name not in ("start_time", "stop_time"):
            file.add_trial_column(name, NOT_ON_DISK)
    for row in range(TRIALS):
        file.add_trial(**{name: column[row] for name, column in columns.items()})
    if not test:
        module = file.create_processing_module("behavior", "processed behavior")
        times, values = maze_behaviour()
        for name, data in values.items():
            module.add(pynwb.TimeSeries(name=name, data=data, timestamps=times, unit="mm"))
    return _write(file, path)


def age(path: Path) -> Path:
    """Rewrite a session's file as one of 2019: schema 2.1 and types of an extension whose schema is not inside."""
    with h5py.File(path, "r+") as file:
        file.attrs["nwb_version"] = "2.1.0"
        file.attrs.pop(".specloc", None)
        file.pop("specifications", None)
        extension = {
            "general/subject": "EcephysSpecimen",
            "general/devices/probeA": "EcephysProbe",
            "general/extracellular_ephys/probeA": "EcephysElectrodeGroup",
        }
        for key, kind in extension.items():
            file[key].attrs["neurodata_type"], file[key].attrs["namespace"] = kind, "AIBS_ecephys"
        table = file["general/extracellular_ephys/electrodes"]
        table.move("probe_channel_number", "local_index")
        table.attrs["neurodata_type"], table.attrs["namespace"] = "DynamicTable", "core"
    return path


def _electrodes(file: pynwb.NWBFile) -> None:
    groups = []
    for name in ("probeA", "probeB"):
        device = file.create_device(name)
        groups.append(file.create_electrode_group(name, description="probe", location="see channels", device=device))
    for name in ("probe_id", "probe_channel_number", "probe_vertical_position", "valid_data"):
        file.add_electrode_column(name, NOT_ON_DISK)
    for row, channel in enumerate(CHANNELS):
        file.add_electrode(
            id=int(channel),
            x=float("nan"), y=2.0, z=3.0, imp=float("nan"),
            location=LOCATIONS[row] or "to be patched",
            filtering="AP band",
            group=groups[row // 4],
            probe_id=row // 4,
            probe_channel_number=10 * row,
            probe_vertical_position=20 * row,
            valid_data=bool(VALID[row]),
        )  # fmt: skip


def _table(file: pynwb.NWBFile, name: str, start: np.ndarray, seconds: float, **parameters) -> None:
    table = TimeIntervals(name=f"{name}_presentations", description=NOT_ON_DISK)
    columns = {"stimulus_name": [name] * len(start), "stimulus_block": [1.0] * len(start), **parameters}
    for column in columns:
        table.add_column(name=column, description=NOT_ON_DISK)
    for row, at in enumerate(start):
        values = {column: values[row] for column, values in columns.items()}
        table.add_interval(start_time=float(at), stop_time=float(at) + seconds, tags=["stimulus"], **values)
    file.add_time_intervals(table)


def _write(file: pynwb.NWBFile, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file)
    return path


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(write_allen(folder / "allen" / "session_715093703.nwb"))
    print(write_maze(folder / "nlb" / "sub-Jenkins_ses-full_desc-train_behavior+ecephys.nwb"))
    print(write_maze(folder / "nlb" / "sub-Jenkins_ses-full_desc-test_ecephys.nwb"))
