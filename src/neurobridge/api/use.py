"""What a model says of a recording: latents, image embeddings, rates. Arrays with names and times, for xarray users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from neurobridge.api.model import Model
from neurobridge.api.recordings import open_recordings
from neurobridge.data.checks import SPLITS
from neurobridge.data.intervals import merged
from neurobridge.data.store import Session
from neurobridge.data.stored import StoredRecording
from neurobridge.errors import UserError, needs
from neurobridge.neuro.batch import SpikeBatch
from neurobridge.neuro.losses import expected_counts
from neurobridge.neuro.masking import MaskPlan, nothing_hidden

if TYPE_CHECKING:
    from xarray import DataArray

AT_ONCE = 256
Split = Literal["train", "valid", "test"]


def one(recording: object) -> StoredRecording:
    """The one recording that is meant. Raises UserError for several."""
    found = open_recordings(recording)
    if len(found) != 1:
        raise UserError(f"{len(found)} recordings are given where one is expected: ask for them one by one")
    return found[0]


def embed(
    model: Model,
    recording: object,
    *,
    into: Literal["latents", "image"] = "latents",
    hide: Sequence[object] = (),
    split: Split | None = None,
    windows: Sequence[int] | None = None,
    level: int | None = None,
) -> DataArray:
    """Latents of a recording, or what they say of the image that was seen.

    Args:
        model: The model.
        recording: A recording whose units the model knows.
        into: latents: [window, time, latent, feature], one time a chunk; image: [window, feature], unit vectors in the
            space of the image embeddings, one a window.
        hide: Units (ids) whose spikes are not seen.
        split: Windows of this split alone; empty: all.
        windows: These windows alone, counted from 0 over all of the recording; empty: those of ``split``.
        level: Which latents: 0 those of the chunks, k those behind block k; empty: the last. For images the head's own.

    Returns:
        A DataArray; coordinates: start of each window (s), its split, image (id), and time (ms since its start).

    Raises:
        UserError: The model does not know the units, or no images; a unit to hide or a window is not there.
    """
    session = model.session(one(recording))
    rows = rows_of(session, split, windows)
    plan = hiding(session, hide)
    bridge = model.bridge
    if into == "image" and bridge is None:
        raise UserError("the model knows no images: nb.align(model, recordings) with recordings that show some")
    parts = []
    with torch.no_grad():
        for batch in model.batcher(session).sequence(0, rows, AT_ONCE):
            if bridge is not None and into == "image":
                read = model.net.encode(batch, plan(batch), level=bridge.head.level)
                parts.append(F.normalize(bridge.head(read), dim=-1))
            else:
                parts.append(model.net.encode(batch, plan(batch), level=level))
    values = torch.cat(parts)
    if into == "image":
        return labelled(values.numpy(), ("window", "feature"), session, rows, {}, "image embedding")
    encoder = model.net.encoder
    times = encoder.latent_times(session.window_ms)
    if encoder.in_front:
        values, times = values[:, 1:], times[1:]
    values = values.unflatten(1, (-1, encoder.latents))
    time = times[:: encoder.latents].numpy()
    return labelled(values.numpy(), ("window", "time", "latent", "feature"), session, rows, {"time": time}, "latents")


def rates(
    model: Model,
    recording: object,
    *,
    hide: Sequence[object] = (),
    split: Split | None = None,
    windows: Sequence[int] | None = None,
) -> DataArray:
    """What the model expects of every unit, from the spikes that it sees.

    Args:
        model: The model.
        recording: A recording whose units the model knows.
        hide: Units (ids) whose spikes are not seen: their rates follow from the others alone.
        split: Windows of this split alone; empty: all.
        windows: These windows alone, counted from 0 over all of the recording; empty: those of ``split``.

    Returns:
        DataArray [window, unit, time] in Hz, or in the values of a recording that has values; time: centre of a bin, ms
        since the window's start.

    Raises:
        UserError: The model does not know the units, or one to hide is not there.
    """
    session = model.session(one(recording))
    rows = rows_of(session, split, windows)
    plan = hiding(session, hide)
    parts = []
    with torch.no_grad():
        for batch in model.batcher(session).sequence(0, rows, AT_ONCE):
            parts.append(model.net(batch, plan(batch)))
    values = torch.cat(parts)
    bin_ms = model.settings.window.bin_ms
    values = values if session.valued else expected_counts(values) * (1000 / bin_ms)
    time = (np.arange(values.shape[2]) + 0.5) * bin_ms
    coordinates = {"time": time, "unit": session.recording.unit_ids, "region": ("unit", session.recording.regions)}
    unit = "value" if session.valued else "Hz"
    return labelled(values.numpy(), ("window", "unit", "time"), session, rows, coordinates, "rates", units=unit)


def hiding(session: Session, hide: Sequence[object]) -> Callable[[SpikeBatch], MaskPlan]:
    """The plan that hides the units ``hide`` in every window. Raises UserError for one that is not there."""
    ids = session.recording.unit_ids.tolist()
    wanted = {str(unit) for unit in hide}
    missing = sorted(wanted - set(ids))
    if missing:
        raise UserError(
            f"there is no unit '{missing[0]}' to hide; session {session.name} has {', '.join(ids[:8])}, ..."
        )
    hidden = torch.tensor([unit in wanted for unit in ids])

    def plan(batch: SpikeBatch) -> MaskPlan:
        made = nothing_hidden(batch)
        made.hidden_unit |= hidden
        return made

    return plan


def rows_of(session: Session, split: str | None, windows: Sequence[int] | None = None) -> np.ndarray:
    """The windows asked for, those of a split, or all. UserError for a split or window that is empty or not there."""
    if windows is not None:
        rows = np.asarray(windows, dtype=np.int64).ravel()
        there = len(session.starts)
        wrong = rows[(rows < 0) | (rows >= there)]
        if len(wrong) or not len(rows):
            asked = f"window {wrong[0]} is asked for" if len(wrong) else "no window is asked for"
            raise UserError(f"{asked}, and session {session.name} has windows 0 to {there - 1}")
        return rows
    if split is None:
        return np.arange(len(session.starts))
    if split not in SPLITS:
        raise UserError(f"there is no split '{split}': {', '.join(SPLITS)}, or none for all windows")
    rows = session.rows(split)
    if not len(rows):
        raise UserError(f"session {session.name} has no window in the split '{split}'")
    return rows


def labelled(
    values: np.ndarray,
    dims: Sequence[str],
    session: Session,
    rows: np.ndarray,
    coordinates: dict[str, Any],
    name: str,
    **attributes: str,
) -> DataArray:
    """``values`` with the start (s), split and image of each window."""
    with needs("data"):
        from xarray import DataArray
    shown = np.full(len(rows), "")
    if session.recording.stimuli is not None:
        locked = session.stimulus_row[rows] >= 0
        shown = np.where(locked, session.recording.stimuli.image_id[session.stimulus_row[rows]], "")
    windows = {
        "start": ("window", session.starts[rows]),
        "split": ("window", session.split[rows]),
        "image": ("window", shown),
    }
    attributes |= {"session": session.name, "window_ms": session.window_ms}  # pyright: ignore
    return DataArray(values, dims=dims, coords=windows | coordinates, name=name, attrs=attributes)


def to_tsd(array: DataArray) -> Any:
    """A pynapple TsdFrame of what :func:`embed` or :func:`rates` returned: a row a moment (s), a column a feature.

    Windows follow each other in time; where two overlap, UserError says so, for a moment has one value.
    """
    with needs("data"):
        import pynapple as nap
    if "time" not in array.dims:
        times, values = array["start"].values, array.values.reshape(len(array), -1)
    else:
        inside = array["time"].values / 1000
        moved = array.transpose("window", "time", ...)
        times = (array["start"].values[:, None] + inside).ravel()
        values = moved.values.reshape(len(times), -1)
    order = np.argsort(times, kind="stable")
    starts = np.sort(array["start"].values)
    length = float(array.attrs["window_ms"]) / 1000
    if "time" in array.dims and (np.diff(starts) < length - 1e-6).any():
        raise UserError(
            "windows overlap, so that a moment has two values: choose a split, or windows by .isel(window=...)"
        )
    support = nap.IntervalSet(*merged(np.stack([starts, starts + length], axis=1)).T)
    columns = array["unit"].values if "unit" in array.dims else None
    return nap.TsdFrame(t=times[order], d=values[order], columns=columns, time_support=support)
