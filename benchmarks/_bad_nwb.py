"""A small NWB file as pynwb writes it, and its defects."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
from pynwb import NWBHDF5IO, NWBFile


def nwb(
    path: Path,
    *,
    obs: Sequence[Sequence[float]] | None = None,
    invalid: Sequence[Sequence[float]] = (),
    edit: Callable[[h5py.File], object] | None = None,
) -> Path:
    """Two units at two electrodes for a minute; ``edit`` spoils the file once it is written."""
    made = NWBFile("s", "id", datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC))
    group = made.create_electrode_group("g", "d", "V1", made.create_device("p"))
    for _ in range(2):
        made.add_electrode(location="V1", group=group)
    for row in range(2):
        times = np.arange(0.1 + row / 10, 60, 0.2)
        seen = {} if obs is None else {"obs_intervals": obs}
        made.add_unit(spike_times=times, electrodes=[row], **seen)
    for start, stop in invalid:
        made.add_invalid_time_interval(start_time=float(start), stop_time=float(stop))
    with NWBHDF5IO(path, "w") as io:
        io.write(made)
    if edit is not None:
        with h5py.File(path, "r+") as file:
            edit(file)
    return path
