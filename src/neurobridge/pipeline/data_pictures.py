"""The picture of a session for 'neurobridge data show': raster and mean response, or values where there are no spikes.

Letters: W windows, N units, T bins, P presentations.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neurobridge.data.intervals import contains
from neurobridge.data.recording import Recording
from neurobridge.errors import atomic_path, needs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOWS = 400
BEFORE_S, AFTER_S, BIN_S = 0.1, 0.4, 0.01


def draw_session(recording: Recording, path: Path) -> None:
    """Write a PNG of ``recording``. Raises UserError without matplotlib."""
    with needs("report"):
        from neurobridge.evaluation import figures
    if recording.spike_values is None:
        counts, length_s = windows_of(recording)
        busiest = int(counts.sum((1, 2)).argmax())
        figure = figures.raster_and_psth(
            counts, recording.regions, bin_s=BIN_S, start_s=-BEFORE_S, window=busiest, stimulus_s=length_s
        )
    else:
        figure = figures.styled(_draw_values)(recording)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def windows_of(r: Recording) -> tuple[np.ndarray, float]:
    """Spike counts [W, N, T] around at most :data:`WINDOWS` valid presentations (without stimuli: spread over the
    recording) that were observed, in bins of :data:`BIN_S`, and how long a stimulus lasts in s."""
    if r.stimuli is not None and r.stimuli.valid.any():
        starts = r.stimuli.start[r.stimuli.valid]
        length = float(np.median(r.stimuli.end[r.stimuli.valid] - starts))
    else:
        starts, length = np.linspace(r.duration[0], r.duration[1], WINDOWS + 2)[1:-1], 0.0
    whole = contains(starts - BEFORE_S, starts + AFTER_S, r.observed_time)
    starts = starts[whole] if whole.any() else starts
    starts = starts[np.linspace(0, len(starts) - 1, min(len(starts), WINDOWS)).astype(np.int64)] - BEFORE_S
    order = np.argsort(r.spike_times, kind="stable")
    times, units = r.spike_times[order], r.spike_units[order]
    bins = round((BEFORE_S + AFTER_S) / BIN_S)
    counts = np.zeros((len(starts), len(r.unit_ids), bins))
    for w, start in enumerate(starts):
        first, last = np.searchsorted(times, [start, start + bins * BIN_S])
        column = np.minimum(((times[first:last] - start) / BIN_S).astype(np.int64), bins - 1)
        np.add.at(counts[w], (units[first:last], column), 1)
    return counts, length


def _draw_values(r: Recording) -> Figure:
    """Left: values of the first events of every unit, units by region. Right: each unit's mean value, by region."""
    from matplotlib.figure import Figure

    assert r.spike_values is not None
    order = np.lexsort((r.spike_times, r.spike_units))
    trains = np.split(r.spike_values[order], np.cumsum(np.bincount(r.spike_units, minlength=len(r.unit_ids)))[:-1])
    shown = np.full((len(trains), min(WINDOWS, max(len(train) for train in trains))), np.nan)
    for row, train in zip(shown, trains, strict=True):
        row[: len(train)] = train[: len(row)]
    mean = np.array([train.mean() if len(train) else np.nan for train in trains])
    by_region = np.lexsort((mean, r.regions))
    figure = Figure(figsize=(9.2, 3.4))
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    low, high = np.nanpercentile(shown, [1, 99])
    picture = left.imshow(shown[by_region], aspect="auto", cmap="viridis", vmin=low, vmax=high, interpolation="nearest")
    figure.colorbar(picture, ax=left, shrink=0.8)
    left.set(title="Values of each unit", xlabel=f"event (the first {shown.shape[1]})", ylabel="unit, by region")
    for region in sorted(set(r.regions.tolist())):
        rows = np.flatnonzero(r.regions[by_region] == region)
        right.plot(mean[by_region][rows], rows, ".", label=f"{region} ({len(rows)} units)")
    right.set(title="Mean over all events", xlabel="value", ylabel="unit, by region")
    right.invert_yaxis()
    right.legend()
    return figure
