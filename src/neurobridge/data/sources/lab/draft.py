"""'neurobridge data doctor FILE --manifest draft.yaml': what a raw file holds, and a manifest to go on from.

The draft proposes; every line that only its user can know says so.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from neurobridge.data import tables
from neurobridge.data.doctor import Finding
from neurobridge.data.matfile import read_mat
from neurobridge.data.matvalues import Unread
from neurobridge.data.nwb import open_nwb
from neurobridge.data.sources.lab.containers import SORTING_ARCHIVE, SORTING_FILES, read_sorting, read_tsgroup
from neurobridge.data.sources.lab.manifest import NAME
from neurobridge.data.sources.lab.phy import is_phy, phy_files, read_phy
from neurobridge.data.sources.lab.trains import read_trains
from neurobridge.errors import UserError, atomic_path, reading

MOST_KEYS = 200
TIME = re.compile(r"(^|[._/])(t|times?|spike_?times?|timestamps?|(time_?)?samples?)$", re.IGNORECASE)
UNIT = re.compile(
    r"(^|[._/])(units?|unit_?ids?|clusters?([._/]main)?|cluster_?ids?|clu|labels?|neurons?|cells?|ids?)$", re.IGNORECASE
)
TRAINS = re.compile(r"spike|train|unit|cell|neuron", re.IGNORECASE)
CHECK = "check"
SOON = 0.05  # of the last spike: where the first one comes later, the recording is taken to begin with it


@dataclass(kw_only=True)
class Draft:
    """What is proposed: ``spikes`` the lines of that table, ``span`` first and last time as written, and so on."""

    keys: dict[str, str]
    spikes: dict[str, str] = field(default_factory=dict)
    span: tuple[float, float] | None = None
    time_unit: str = "s"
    rate: float | None = None
    kind: str = "sorted"
    areas: tuple[str, ...] = ("unknown",)
    known: dict[str, str] = field(default_factory=dict)
    stimuli: str = ""


def draft_manifest(path: Path, out: Path) -> list[Finding]:
    """Write a draft for the file or folder ``path`` to ``out``; return what it holds, a finding a key.

    Raises UserError for a file that is there already, and for one of a kind that nothing is known of.
    """
    path, out = Path(path), Path(out)
    if out.exists():
        raise UserError(f"{out} is there already: give --manifest another name, or remove it")
    if not path.exists():
        raise UserError(f"nothing at {path}: check the path")
    draft = _look(path)
    with atomic_path(out) as temporary:
        temporary.write_text(_text(draft, path, out), encoding="utf-8")
    expected = "a column, if a manifest names it"
    return [Finding(file=path, key=key, found=what, expected=expected, ok=True) for key, what in draft.keys.items()]


def _look(path: Path) -> Draft:
    if path.is_dir():
        return _folder(path)
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv", ".txt"):
        return _table(path, "csv", tables.read_csv(path).columns)
    if suffix in (".parquet", ".pq", ".pqt"):
        return _table(path, "parquet", tables.read_parquet(path).columns)
    if suffix == ".npz":
        return _npz(path)
    if suffix == ".mat":
        return _matlab(path)
    if h5py.is_hdf5(path):
        with reading(path, "HDF5 file"), h5py.File(path, "r") as file:
            is_nwb = "nwb_version" in file.attrs
            keys = dict(_hdf5(file))
        return _nwb(path, keys) if is_nwb else _columns(path, "mat", keys, _first_axis(path, keys))
    raise UserError(
        f"{path} is of no kind that a manifest takes: give a phy folder, a SpikeInterface sorting, NWB, HDF5, MATLAB, "
        "NPZ, Parquet or CSV"
    )


def _folder(path: Path) -> Draft:
    if is_phy(path):
        raw = read_phy(path)
        keys = {file.name: f"{file.stat().st_size} bytes" for file in phy_files(path)}
        keys |= {f"clusters: {name}": _of(column) for name, column in (raw.units or {}).items()}
        keys |= {"spikes": f"{len(raw.columns['time'])}"} | ({"left out": raw.left_out} if raw.left_out else {})
        span = _span(raw.columns["time"])
        return Draft(keys=keys, spikes={"format": "phy"}, span=span, time_unit="samples", rate=raw.sampling_rate)
    if all((path / name).is_file() for name in SORTING_FILES) or (path / SORTING_ARCHIVE).is_file():
        raw = read_sorting(path)
        keys = {name: _of(column) for name, column in raw.columns.items()}
        span = _span(raw.columns["time"])
        spikes = {"format": "spikeinterface"}
        return Draft(keys=keys, spikes=spikes, span=span, time_unit="samples", rate=raw.sampling_rate)
    raise UserError(f"{path} is no phy folder and no SpikeInterface sorting: give the file that holds the spikes")


def _table(path: Path, form: str, columns: Mapping[str, np.ndarray]) -> Draft:
    lists = [n for n, c in columns.items() if c.dtype == object and len(c) and isinstance(c[0], (list, np.ndarray))]
    if lists:
        raw = read_trains(path, form, lists[0], "unit_id")
        spikes = {"format": form, "layout": "trains", "columns": f"{{spike_times: {lists[0]}}}"}
        return _of_times(Draft(keys={n: _of(c) for n, c in columns.items()}, spikes=spikes), raw.columns["time"])
    return _columns(path, form, {name: _of(c) for name, c in columns.items()}, dict(columns))


def _npz(path: Path) -> Draft:
    names = tables.read_npz(path, ()).names
    if "type" in names and "index" in names:
        raw = read_tsgroup(path)
        keys = dict.fromkeys(names, "array")
        return _of_times(Draft(keys=keys, spikes={"format": "tsgroup"}), raw.columns["time"])
    columns = tables.read_npz(path, names).columns
    return _columns(path, "npz", {name: _of(c) for name, c in columns.items()}, columns)


def _matlab(path: Path) -> Draft:
    names = read_mat(path, ())[1][:MOST_KEYS]
    values, _ = read_mat(path, names)
    keys = {name: _of(value) for name, value in values.items()}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    draft = _columns(path, "mat", keys, {n: a for n, a in arrays.items() if a.dtype != object})
    if draft.spikes:
        return draft
    for name in (n for n, a in arrays.items() if a.dtype == object and TRAINS.search(n)):
        for field_of in ("", ".time", ".times", ".t", ".timestamps", ".spike_times", ".data(:,1)"):
            try:
                raw = read_trains(path, "mat", name + field_of, "unit_id")
            except UserError:
                continue
            spikes = {"format": "mat", "layout": "trains", "columns": f"{{spike_times: '{name}{field_of}'}}"}
            return _of_times(Draft(keys=keys, spikes=spikes), raw.columns["time"])
    return draft


def _columns(path: Path, form: str, keys: dict[str, str], columns: Mapping[str, np.ndarray]) -> Draft:
    """Two lists of one length, times and units; or a matrix of counts."""
    draft = Draft(keys=keys)
    flat = {n: c.ravel() for n, c in columns.items() if c.size == max(c.shape, default=0)}
    times = [n for n in flat if TIME.search(n)]
    units = [n for n in flat if UNIT.search(n) and n not in times]
    pair = next(((t, u) for t in times for u in units if len(flat[t]) == len(flat[u])), None)
    if pair is not None:
        named = {"time": pair[0], "unit_id": pair[1]}
        changed = ", ".join(f"{ours}: '{theirs}'" for ours, theirs in named.items() if ours != theirs)
        draft.spikes = {"format": form, **({"columns": f"{{{changed}}}"} if changed else {})}
        return _of_times(draft, flat[pair[0]])
    counts = {n: c for n, c in columns.items() if c.ndim == 2 and min(c.shape) > 1 and c.dtype.kind in "iufb"}
    if counts and form in ("mat", "npz"):
        name = max(counts, key=lambda one: counts[one].size)
        draft.spikes = {"format": form, "layout": "continuous", "columns": f"{{values: '{name}'}}", "bin_width": "TODO"}
        draft.kind, draft.span = "binned_count", None
        draft.keys[name] += " (read as [time, unit])"
    return draft


def _nwb(path: Path, keys: dict[str, str]) -> Draft:
    table = next((key.removesuffix("/spike_times") for key in keys if key.endswith("/spike_times")), "")
    draft = Draft(keys=keys)
    with open_nwb(path) as nwb:
        told = {"subject": "general/subject/subject_id", "session_id": "general/session_id"}
        draft.known = {key: nwb.word(place) for key, place in told.items() if nwb.word(place)}
        draft.known.setdefault("session_id", nwb.word("identifier"))
        draft.known["session_date"] = nwb.word("session_start_time")[:10]
        if not table:
            return draft
        draft.spikes = {"format": "nwb", **({} if table == "units" else {"table": table})}
        draft = _of_times(draft, nwb.numbers(f"{table}/spike_times"))
        if nwb.has(f"{table}/electrodes") and nwb.has("general/extracellular_ephys/electrodes/location"):
            places = set(nwb.of_first_electrode(table, "location").tolist()) - {""}
            draft.areas = tuple(sorted(map(str, places))) or draft.areas
    shown = [key.removesuffix("/start_time") for key in keys if re.fullmatch(r"intervals/\w+/start_time", key)]
    shown = [key for key in shown if key != "intervals/invalid_times"]
    draft.stimuli = f"{{format: nwb, path: PATH, table: {shown[0]}, columns: {{image_id: TODO}}}}" if shown else ""
    return draft


def _hdf5(file: h5py.File) -> Iterator[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    def note(name: str, item: object) -> bool | None:
        if isinstance(item, h5py.Dataset) and not name.startswith(("specifications/", "#refs#")):
            kind = "text" if h5py.check_string_dtype(item.dtype) else str(item.dtype)
            found.append((name, f"{kind} {list(item.shape or ())}"))
        return True if len(found) >= MOST_KEYS else None

    file.visititems(note)
    yield from found


def _first_axis(path: Path, keys: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The lists of numbers in a plain HDF5 file, which is read as MATLAB's are; matrices would come turned."""
    values, _ = read_mat(path, [key.replace("/", ".") for key in keys])
    lists = {name: value for name, value in values.items() if isinstance(value, np.ndarray) and value.dtype != object}
    return {name: value for name, value in lists.items() if value.size == max(value.shape, default=0)}


def _of_times(draft: Draft, times: np.ndarray) -> Draft:
    """With the first and the last time, and the unit that times of this kind mostly have."""
    try:
        known = np.asarray(times).astype(np.float64)
    except (TypeError, ValueError):
        return draft
    known = known[np.isfinite(known)]
    draft.span = _span(known)
    whole = len(known) and (known == np.round(known)).all()
    long = draft.span[1] > 1e5
    draft.time_unit = "samples" if whole and long else "ms" if long else "s"
    return draft


def _span(times: np.ndarray) -> tuple[float, float]:
    """First and last, or 0 and 0 of no times."""
    return (float(times.min()), float(times.max())) if len(times) else (0.0, 0.0)


def _of(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, np.ndarray):
        kind = {"O": "cells", "U": "text", "S": "text"}.get(value.dtype.kind, str(value.dtype))
        return f"{kind} {list(value.shape)}"
    if isinstance(value, Unread):
        return value.what
    return f"text '{value[:40]}'" if isinstance(value, str) else "a struct"


def _text(draft: Draft, path: Path, out: Path) -> str:
    where = Path(os.path.relpath(path.resolve(), out.resolve().parent)).as_posix()
    session = draft.known.get("session_id", "") or path.stem
    named = {"session_id": re.sub(r"[^\w.-]+", "-", session, flags=re.ASCII).strip("-._") or "session1"}
    named["subject"] = re.sub(r"[^\w.-]+", "-", draft.known.get("subject", "subject1"), flags=re.ASCII).strip("-._")
    assert all(NAME.fullmatch(name) for name in named.values()), "made of what names may hold"
    date = draft.known.get("session_date", "")
    dated = re.fullmatch(r"\d{4}-\d\d-\d\d", date) is not None
    date = date if dated else datetime.date.fromtimestamp(path.stat().st_mtime).isoformat()
    per = {"s": 1.0, "ms": 1000.0, "samples": draft.rate or np.nan}[draft.time_unit]
    low, high = (np.nan, np.nan) if draft.span is None else np.array(draft.span) / per
    begun = np.floor(low) if low > SOON * high else 0.0  # a clock that ran before the recording did
    start, end = (f"{begun:.0f}", f"{np.ceil(high):.0f}") if np.isfinite(high) else ("0", "TODO")
    runs = f"; spikes run from {low:.6g} to {high:.6g}" if np.isfinite(high) else ""
    spikes = {"path": repr(where), **draft.spikes} if draft.spikes else {"format": "TODO", "path": repr(where)}
    lines = [
        f"# A draft for {path.name}. What says '{CHECK}' is a proposal, and TODO only you know; docs/data-format.md.",
        f"dataset: lab                 # {CHECK}: a name for all your sessions",
        f"subject: '{named['subject']}'          # {CHECK}",
        f"session_id: '{named['session_id']}'",
        f"session_date: {date}     # YYYY-MM-DD{'' if dated else f'; {CHECK}: the day when the file was written'}",
        f"signal_kind: {draft.kind}          # sorted, threshold_crossing, binned_count or mua_envelope",
        f"time_unit: {draft.time_unit}                 # {CHECK}: s, ms or samples",
        *([f"sampling_rate: {draft.rate or 'TODO'}"] if draft.time_unit == "samples" else []),
        "index_base: 0",
        f"duration: [{start}, {end}]          # {CHECK}: of the recording, in s{runs}",
        f"areas: [{', '.join(map(repr, draft.areas))}]       # {CHECK}: one name is that of all units without an area",
        f"spikes: {{{', '.join(f'{key}: {value}' for key, value in spikes.items())}}}",
        "# units: {format: csv, path: units.csv}       # unit_id, electrode_id, area, ...: where regions differ",
    ]
    stimuli = draft.stimuli.replace("PATH", repr(where)) or "{format: csv, path: stimuli.csv}"
    lines += [
        f"# stimuli: {stimuli}",
        "# image_root: pictures         # null: the pictures are not at hand",
        "# split: image                 # with stimuli",
    ]
    return "\n".join(lines) + "\n"
