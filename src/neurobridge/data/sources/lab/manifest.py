"""The manifest: a YAML file that declares what a session's files hold, so that nothing has to be guessed."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from neurobridge.data.recording import UNKNOWN_REGION, SignalKind
from neurobridge.data.shapes import name_defect
from neurobridge.data.sources.lab.filling import fill, kind, missing_keys
from neurobridge.data.sources.lab.plain_yaml import load_yaml
from neurobridge.errors import UserError

TimeUnit = Literal["s", "ms", "samples"]
TableFormat = Literal["csv", "parquet", "npz", "mat", "nwb", "tsgroup", "spikeinterface", "phy"]
Layout = Literal["labels", "indices", "trains", "binned", "continuous"]
NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
MOST_BYTES = 1_000_000
TABLES = "spikes units stimuli domain observed_domain train_domain valid_domain test_domain session subject brainset"
VALUED = ("binned_count", "mua_envelope")
LAYOUTS = {
    "csv": ("labels", "indices"),
    "parquet": ("labels", "indices", "trains"),
    "nwb": ("labels",),
    "tsgroup": ("labels",),
    "spikeinterface": ("labels",),
    "phy": ("labels",),
}  # of the formats that cannot have every layout
TIGHT = 1 / 500  # share of the duration in which only a mix-up of units puts everything
MIX_UP = "is the time_unit right (s taken for ms, or ms for s)?"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file of columns.

    path: The file, relative to the manifest. format: How it is written. table: For NWB, the table inside
    (``units``, ``intervals/trials``). columns: Our column name -> the file's, where they differ.
    """

    path: Path
    format: TableFormat
    table: str = ""
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SpikeTable(Table):
    """The events.

    layout: ``labels`` (``time`` and ``unit_id`` of each event), ``indices`` (``spike_times`` and ``spike_units``, rows
    of the unit table), ``trains`` (``spike_times``, one list a unit), ``binned`` (``values`` [trial, time, unit] and
    ``bin_edges`` after the onset) or ``continuous`` (``values`` [time, unit] in bins one after the other). Events of
    ``binned_count`` and ``mua_envelope`` signals need a ``value`` too, but for layouts of values.
    bin_width: Of the layout continuous, in the time unit; the first bin begins with the duration.
    groups: Of the format phy: which clusters are units (good, mua, unsorted); all but noise if there are none.
    """

    layout: Layout = "labels"
    bin_width: float | None = None
    groups: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class StimulusTable(Table):
    """The presentations, with a clock unit of their own where it differs from the spikes'."""

    time_unit: TimeUnit | None = None


@dataclass(frozen=True, kw_only=True)
class BehaviourTable(Table):
    """A behaviour over time: a ``time`` column and those that ``values`` names, one or more a dimension.

    Cells may be empty or NaN, and times may have gaps: there nothing is known. time_unit: of its clock, where it is not
    the spikes'. sampling_rate, start: Hz, and the moment in s of the first sample, of a table without a time column. In
    the format nwb, ``table`` is a time series, which has its times in itself.
    """

    values: list[str] = field(default_factory=lambda: ["value"])
    time_unit: TimeUnit | None = None
    sampling_rate: float | None = None
    start: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What one session's files hold.

    dataset, subject, session_id: Names; letters, digits, ``.``, ``_``, ``-``.
    session_date: Day of the recording, YYYY-MM-DD.
    signal_kind: sorted, threshold_crossing, binned_count or mua_envelope.
    time_unit: Of spike times and bin edges (and of stimuli, unless they say otherwise): s, ms or samples.
    index_base: What the first unit, and the first sample, is called: 0 or 1.
    duration: First and last moment of the recording, in s whatever the time unit: the check against a mix-up.
    areas: Every region name that the unit table may use; ``unknown`` is always allowed.
    spikes, units, stimuli: The tables. Without units the spikes tell which there are, and areas name their one
    region; without stimuli the session serves pretraining only.
    behaviour: Series by name, such as hand_velocity.
    observed: Intervals [start, stop] in s in which spikes were recorded; outside, a count is unknown and not zero.
    species: NCBI name, such as MACACA_MULATTA.
    sampling_rate: Samples a second, where a time unit is samples.
    image_root: Folder of the pictures, relative to the manifest; null: they are not at hand. Needed with stimuli.
    split: ``column`` (the table's own), ``image`` or ``concept`` (drawn from the picture's content, or its image_id
    where it is not at hand, or from the concept). Needed with stimuli.
    split_seed, split_test, split_valid: Seed and shares of such a draw.
    """

    dataset: str
    subject: str
    session_id: str
    session_date: datetime.date
    signal_kind: SignalKind
    time_unit: TimeUnit
    index_base: Literal[0, 1]
    duration: tuple[float, float]
    areas: list[str]
    spikes: SpikeTable
    units: Table | None = None
    stimuli: StimulusTable | None = None
    behaviour: dict[str, BehaviourTable] = field(default_factory=dict)
    observed: list[tuple[float, float]] = field(default_factory=list)
    species: str = "UNKNOWN"
    sampling_rate: float | None = None
    image_root: Path | None = None
    split: Literal["column", "image", "concept"] | None = None
    split_seed: int = 0
    split_test: float = 1 / 6
    split_valid: float = 0.07
    file: Path = field(default=Path(), metadata={"ours": True})


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest. Raises UserError that names the file, the key and the mend."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no manifest at {path}: write one (see docs/data-format.md), or check the path")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path} has {path.stat().st_size} bytes, too many for a manifest: is it another file?")
    loaded = load_yaml(path)
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds {kind(loaded)}, expected keys and values: see docs/data-format.md")
    _refuse_missing(loaded, path)
    manifest = fill(Manifest, loaded, str(path), file=path)
    _check(manifest)
    return manifest


def _refuse_missing(given: dict, where: Path) -> None:
    """Raise UserError for all that is missing, in one sentence."""
    missing, told = [f"'{key}'" for key in missing_keys(Manifest, given, str(where))], []
    if missing:
        are, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        told.append(f"{', '.join(missing)} {are} missing; nothing is guessed, so declare {them}")
    stimuli = given.get("stimuli")
    absent = [f"no {key}" for key in ("image_root", "split") if stimuli is not None and key not in given]
    if absent:
        told.append(f"stimuli are given but {' and '.join(absent)}; declare it ('image_root: null': no pictures)")
    units = (given.get("time_unit"), stimuli.get("time_unit") if isinstance(stimuli, dict) else None)
    spikes = given.get("spikes")
    knows = isinstance(spikes, dict) and spikes.get("format") == "phy"
    if "samples" in units and "sampling_rate" not in given and not knows:
        told.append("times are in samples but sampling_rate is None; give it in Hz")
    if told:
        raise UserError(f"{where}: {'; '.join(told)} (see docs/data-format.md)")


def manifests_of(path: Path) -> list[Path]:
    """The manifest, or those of a folder. Raises UserError if there is none."""
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
        if not found:
            raise UserError(f"{path} holds no manifest (.yaml): write one for each session (see docs/data-format.md)")
        return found
    if not path.is_file():
        raise UserError(f"no manifest at {path}: give a .yaml file or a folder of them")
    return [path]


def resolve(manifest: Manifest, path: Path) -> Path:
    """``path`` as the manifest means it: relative to the manifest's folder."""
    return manifest.file.parent / path


def _check(m: Manifest) -> None:
    where = m.file
    for key in ("dataset", "subject", "session_id"):
        if not NAME.fullmatch(getattr(m, key)):
            raise UserError(f"{where}: {key} is '{getattr(m, key)}': use letters, digits, '.', '_' and '-' only")
    start, end = m.duration
    if not 0 <= start < end < float("inf"):
        raise UserError(f"{where}: duration is [{start:g}, {end:g}]; give first and last second, from 0 on, ascending")
    units = {m.time_unit, m.stimuli.time_unit if m.stimuli else None}
    knows = m.spikes.format == "phy" and m.sampling_rate is None  # in its params.py
    if "samples" in units and not knows and not (m.sampling_rate and 0 < m.sampling_rate < float("inf")):
        raise UserError(f"{where}: times are in samples but sampling_rate is {m.sampling_rate}; give it in Hz")
    units |= {table.time_unit for table in m.behaviour.values()}
    if "samples" not in units and m.sampling_rate is not None:
        raise UserError(f"{where}: sampling_rate is given but no time is in samples; remove it or mend time_unit")
    if not m.areas:
        raise UserError(f"{where}: areas is empty; list every region name of the unit table ('{UNKNOWN_REGION}' too)")
    for name, table in m.behaviour.items():
        _check_behaviour(m, name, table)
    for low, high in m.observed:
        if not low < high or high <= start or low >= end:
            raise UserError(
                f"{where}: observed holds [{low:g}, {high:g}]; give a start and a later stop, in s, within the "
                f"duration of {start:g} to {end:g} s"
            )
    if m.stimuli is not None and m.split is None:
        raise UserError(f"{where}: split is null; declare column, image or concept")
    if min(m.split_test, m.split_valid) < 0 or not m.split_test + m.split_valid < 1:
        shares = f"{m.split_test:g} and {m.split_valid:g}"
        raise UserError(f"{where}: split_test and split_valid are {shares}; they are shares that leave some train")
    valued = m.signal_kind in VALUED
    if m.spikes.layout == "binned" and not (valued and m.stimuli):
        raise UserError(
            f"{where}: the layout binned holds values after stimulus onset: it needs stimuli and the signal_kind "
            f"{' or '.join(VALUED)}, not {m.signal_kind}"
        )
    fixed = {"tsgroup": "s", "spikeinterface": "samples", "phy": "samples"}
    for name, table, unit in (("spikes", m.spikes, m.time_unit), ("stimuli", m.stimuli, stimulus_unit(m))):
        if table is not None and fixed.get(table.format, unit) != unit:
            raise UserError(
                f"{where}: {name} have the format {table.format}, whose times are in {fixed[table.format]}, but the "
                f"time_unit {unit}; mend one of them"
            )
    if m.spikes.format == "spikeinterface" and m.index_base != 0:
        raise UserError(f"{where}: a SpikeInterface sorting counts from 0; declare index_base: 0")
    if m.spikes.layout not in LAYOUTS.get(m.spikes.format, (m.spikes.layout,)):
        raise UserError(
            f"{where}: spikes of the format {m.spikes.format} have the layout {' or '.join(LAYOUTS[m.spikes.format])}, "
            f"not {m.spikes.layout}; mend one of them"
        )
    if m.spikes.layout == "continuous" and not valued:
        raise UserError(
            f"{where}: the layout continuous holds values in bins: declare the signal_kind {' or '.join(VALUED)}, not "
            f"{m.signal_kind}"
        )
    if m.spikes.bin_width is not None and m.spikes.layout != "continuous":
        raise UserError(f"{where}: bin_width is given, but spikes have the layout {m.spikes.layout}; remove it")
    if m.spikes.groups and m.spikes.format != "phy":
        raise UserError(f"{where}: groups are given, but spikes have the format {m.spikes.format}; remove them")
    if m.units is None and m.spikes.layout == "indices":
        raise UserError(f"{where}: the layout indices counts rows of a unit table; declare 'units'")
    for name, table in (("units", m.units), ("stimuli", m.stimuli)):
        if table is not None and table.format in ("tsgroup", "spikeinterface", "phy"):
            raise UserError(f"{where}: {name} cannot have the format {table.format}, which holds spikes; write a CSV")


def _check_behaviour(m: Manifest, name: str, table: BehaviourTable) -> None:
    where, rate = f"{m.file}: the behaviour '{name}'", table.sampling_rate
    defect = "it is a table of ours" if name in TABLES.split() else name_defect(name)
    if defect or not NAME.fullmatch(name):
        told = defect or "use letters, digits, '.', '_' and '-' only"
        raise UserError(f"{where} needs another name ({told})")
    if table.format in ("tsgroup", "spikeinterface", "phy"):
        raise UserError(f"{where} cannot have the format {table.format}, which holds spikes; write a CSV or NPZ")
    if not table.values or "time" in table.values or (table.format == "nwb" and not table.table):
        raise UserError(f"{where} names no column in 'values', or (format nwb) no time series in 'table'; name it")
    if table.format == "nwb" and (rate is not None or table.time_unit not in (None, "s")):
        raise UserError(f"{where} is an NWB series, which has its times in s: remove sampling_rate and time_unit")
    if rate is not None and not 0 < rate < float("inf"):
        raise UserError(f"{where}: sampling_rate is {rate:g}; give samples a second, above 0")
    if rate is not None and (table.time_unit is not None or "time" in table.columns):
        raise UserError(f"{where} has a sampling_rate, so no time column is read: remove time_unit and 'time'")
    if m.time_unit == "samples" and table.time_unit is None and rate is None and table.format != "nwb":
        raise UserError(f"{where}: spikes have times in samples; declare the time_unit of this one too")
    if table.time_unit == "samples" and m.sampling_rate is None:
        raise UserError(f"{where} has times in samples; give the manifest's sampling_rate in Hz")


def stimulus_unit(m: Manifest) -> TimeUnit:
    """The clock unit of the stimulus table."""
    return m.stimuli.time_unit if m.stimuli is not None and m.stimuli.time_unit is not None else m.time_unit


def per_second(m: Manifest) -> float:
    """Time units of the spikes in a second."""
    if m.time_unit == "samples":
        assert m.sampling_rate is not None, "the manifest was checked"
        return m.sampling_rate
    return {"s": 1.0, "ms": 1000.0}[m.time_unit]
