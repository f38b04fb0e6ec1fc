"""What 'neurobridge data doctor' says of a manifest and the files that it names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from neurobridge.data.doctor import Finding
from neurobridge.data.sources.lab.behaviour import behaviour_columns
from neurobridge.data.sources.lab.columns import read_arrays
from neurobridge.data.sources.lab.events import event_columns
from neurobridge.data.sources.lab.manifest import (
    MOST_BYTES,
    BehaviourTable,
    Manifest,
    Table,
    manifests_of,
    read_manifest,
    resolve,
    stimulus_unit,
)
from neurobridge.data.sources.lab.presentations import STIMULUS_OPTIONS, stimulus_columns
from neurobridge.data.sources.lab.session import UNIT_COLUMNS, UNIT_OPTIONS, build
from neurobridge.errors import UserError

OWN_KEYS = ("signal_kind", "spikes")
EXPECTED = {
    "unit_id": "text, as in the unit table",
    "electrode_id": "text",
    "value": "finite numbers",
    "values": "numbers [trial, time, unit]",
    "image_id": "text",
    "image_path": "a file under image_root",
    "repeat": "whole numbers from 0",
    "split": "train, valid, test or none",
    "valid": "true or false",
    "trial_id": "text, each once",
    "concept": "text",
    "condition": "text",
}


def recognises(path: Path) -> bool:
    """True for a manifest (YAML with ``signal_kind`` and ``spikes``), or a folder that holds one. Never raises."""
    path = Path(path)
    try:
        files = manifests_of(path) if path.is_dir() else [path]
        return any(_is_manifest(file) for file in files)
    except (OSError, UserError):
        return False


def _is_manifest(file: Path) -> bool:
    if file.suffix not in (".yaml", ".yml") or not file.is_file() or file.stat().st_size > MOST_BYTES:
        return False
    text = file.read_bytes().decode("utf-8", errors="replace")
    if not all(f"{key}:" in text for key in OWN_KEYS):
        return False
    try:
        loaded = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return True  # a broken manifest is still one: examine says what is wrong
    return isinstance(loaded, dict) and all(key in loaded for key in OWN_KEYS)


def examine(path: Path) -> list[Finding]:
    """Every column that the manifests of ``path`` declare, as found, and what the import would refuse."""
    path = Path(path)
    try:
        files = manifests_of(path)
    except (OSError, UserError) as error:
        return [_refused(path, "manifest", "a YAML manifest", error)]
    return [finding for file in files for finding in _examine(file)]


def _examine(file: Path) -> Iterator[Finding]:
    try:
        m = read_manifest(file)
    except UserError as error:
        yield _refused(file, "manifest", "keys as in docs/data-format.md", error)
        return
    kind = f"{m.signal_kind}, session {m.session_id}"
    yield Finding(file=file, key="manifest", found=kind, expected="keys as in docs/data-format.md", ok=True)
    needed, optional = event_columns(m)
    if m.spikes.layout != "trains":  # which has no columns
        yield from _columns(m, m.spikes, needed, optional, m.time_unit)
    if m.units is not None:
        yield from _columns(m, m.units, UNIT_COLUMNS, UNIT_OPTIONS, "")
    if m.stimuli is not None:
        needed = stimulus_columns(m)
        optional = tuple(name for name in STIMULUS_OPTIONS if name not in needed)
        yield from _columns(m, m.stimuli, needed, optional, stimulus_unit(m))
    for table in m.behaviour.values():
        if table.format != "nwb":
            yield from _columns(m, table, behaviour_columns(table), (), table.time_unit or m.time_unit)
    try:
        session = build(m)
    except UserError as error:
        yield _refused(file, "contents", "what can be imported", error)
        return
    r = session.recording
    if told := r.provenance.get("behaviour"):
        yield Finding(file=file, key="behaviour", found=told, expected="series over time", ok=True)
    if told := r.provenance.get("observed"):
        yield Finding(file=file, key="observed", found=told, expected="when spikes were recorded", ok=True)
    found = f"{len(r.unit_ids)} units, {len(r.spike_times)} events, {len(session.pictures)} pictures"
    yield Finding(file=file, key="contents", found=found, expected="what can be imported", ok=True)


def _columns(
    m: Manifest, table: Table, needed: tuple[str, ...], optional: tuple[str, ...], unit: str
) -> Iterator[Finding]:
    file = resolve(m, table.path)
    try:
        _, raw = read_arrays(m, table, (), (*needed, *optional))
    except UserError as error:
        yield _refused(file, table.format, f"a readable {table.format} file", error)
        return
    for name in (*needed, *optional):
        key = table.columns.get(name, name)
        expected = EXPECTED.get(name, f"numbers in {unit}" if unit else f"one of {', '.join(m.areas)} or unknown")
        if isinstance(table, BehaviourTable) and name in table.values:
            expected = "numbers, empty or NaN where not known"
        if name == "spike_units":
            expected = f"whole numbers from {m.index_base}"
        if name in raw.columns:
            column = np.asarray(raw.columns[name])
            kind = "text" if column.dtype.kind in "OUS" else str(column.dtype)
            yield Finding(file=file, key=key, found=f"{kind} {list(column.shape)}", expected=expected, ok=True)
        elif name in needed:
            mend = f"add the column, or name yours under columns in {m.file.name}"
            yield Finding(file=file, key=key, found="nothing", expected=expected, ok=False, mend=mend)


def _refused(file: Path, key: str, expected: str, error: Exception) -> Finding:
    return Finding(file=file, key=key, found="refused", expected=expected, ok=False, mend=str(error))
