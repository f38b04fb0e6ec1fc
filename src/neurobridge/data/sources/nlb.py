"""MC_Maze of the Neural Latents Benchmark (DANDI 000128; 000138-140 are the smaller sets): reaches of a macaque.

A presentation is a trial: the 700 ms from 250 ms before the onset of movement on (:data:`BEFORE`, :data:`AFTER`), on
whole milliseconds as the benchmark cuts them; its condition is ``trial_type/trial_version``. There are no pictures.

Splits: the benchmark's ``val`` is our ``test``, for it is the only held-out part whose held-out units are public and so
the only one that can be scored and compared; it must not choose a model as well, so ``valid`` is drawn from the
benchmark's ``train``. Trials of the desc-test files, and those of no split, are ``none``.

Letters: N units, S spikes, P trials, K intervals, T samples, D dimensions.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from rich.progress import Progress

from neurobridge import __version__
from neurobridge.data.doctor import Finding
from neurobridge.data.importing import file_hash, is_there, repeats, signature, write_session
from neurobridge.data.intervals import contains
from neurobridge.data.nwb import Nwb, Series, open_nwb, some_file
from neurobridge.data.nwb_doctor import examine_nwb
from neurobridge.data.nwb_observed import observed_by_all, seen_by_unit, split_intervals
from neurobridge.data.recording import UNKNOWN_REGION, Recording, Stimuli, TimeSeries
from neurobridge.data.sessions import Identity
from neurobridge.data.sources.nlb_file import TRIALS, Found, is_test, look_at
from neurobridge.errors import UserError

DATASET = "nlb_mc_maze"
BEFORE, AFTER = 0.250, 0.450
SPLITS = {"train": "train", "val": "test"}


def import_nlb(
    path: Path,
    out: Path = Path("data/nlb"),
    *,
    held_out: bool = True,
    valid_fraction: float = 0.1,
    seed: int = 0,
) -> Path:
    """Import NLB MC_Maze files (NWB) into the data folder ``out``; return ``out``.

    Units are not filtered: their set is the benchmark's. A trial is valid if every unit was observed throughout its
    window. Sessions already written from the same bytes and options are skipped. Raises UserError for input that cannot
    be used.

    Args:
        path: An NWB file, or a folder that holds ...desc-train... files at any depth. The desc-test files, whose labels
            are not public, are imported only when given one by one.
        out: Data folder to write.
        held_out: Keep the held-out units (unit column heldout). Without them nothing later can see their spikes.
        valid_fraction: Share of the benchmark's training trials that become the valid split.
        seed: Seed of the draw of the valid split.
    """
    path, out = Path(path), Path(out)
    if not 0 <= valid_fraction < 1:
        raise UserError(f"valid_fraction is {valid_fraction}: give a share of the training trials, from 0 to below 1")
    with Progress(transient=True) as progress:
        for session, file in progress.track(_sessions(path).items(), description="sessions"):
            mark = signature([file], held_out=held_out, valid_fraction=valid_fraction, seed=seed)
            with open_nwb(file) as nwb:
                if is_there(out, Identity(DATASET, _subject(nwb), session), mark):
                    continue
                look, found = look_at(nwb)
                look.refuse()
                recording = _recording(nwb, found, session, valid_fraction, seed)
            recording = recording if held_out else held_in(recording)
            recording.provenance["signature"] = mark
            write_session(recording, out)
    return out


def held_in(recording: Recording) -> Recording:
    """``recording`` without the held-out units (column ``heldout``) and all of their spikes: what a model may see.

    Raises UserError if the recording does not tell, or holds out every unit.
    """
    if "heldout" not in recording.unit_columns:
        raise UserError(f"session {recording.session} has no unit column 'heldout': import it with 'data import nlb'")
    keep = ~recording.unit_columns["heldout"].astype(bool)
    if not keep.any():
        raise UserError(f"session {recording.session} holds out every unit: nothing is left to see")
    of_kept = keep[recording.spike_units]
    row = np.cumsum(keep) - 1
    return replace(
        recording,
        spike_times=recording.spike_times[of_kept],
        spike_units=row[recording.spike_units[of_kept]],
        spike_values=None if recording.spike_values is None else recording.spike_values[of_kept],
        unit_ids=recording.unit_ids[keep],
        regions=recording.regions[keep],
        unit_columns={name: column[keep] for name, column in recording.unit_columns.items()},
        provenance={**recording.provenance, "held_out": f"{int((~keep).sum())} of {len(keep)} units were removed"},
    )


def recognises(path: Path) -> bool:
    """True for an NWB file of MC_Maze (held-out units, onsets of movement), and for a folder that holds one."""
    return some_file(path, lambda nwb: nwb.has("units/heldout") and nwb.has(f"{TRIALS}/move_onset_time"))


def examine(path: Path) -> list[Finding]:
    """What each file of ``path`` holds beside what :func:`import_nlb` needs; never raises."""
    try:
        files = session_files(Path(path))
    except (UserError, OSError) as error:
        return [
            Finding(file=Path(path), key="file", found=str(error), expected="NWB files", ok=False, mend="give them")
        ]
    return [finding for file in files for finding in examine_nwb(file, lambda nwb: look_at(nwb)[0])]


def session_files(path: Path) -> list[Path]:
    """The file at ``path``, or the NWB files of a folder but for desc-test."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"nothing at {path}: give an NWB file of MC_Maze, or a folder that holds such files")
    files = [file for file in sorted(path.rglob("*.nwb")) if not is_test(file)]
    if not files:
        raise UserError(f"{path} holds no NWB file with training trials (*desc-train*.nwb): download DANDI 000128")
    return files


def _recording(nwb: Nwb, found: Found, session: str, valid_fraction: float, seed: int) -> Recording:
    ids, spikes, observed = found.ids, found.spikes, found.observed
    onset, within, trial_split = found.onset, found.within, found.trial_split
    assert ids is not None, "refused before"
    assert spikes is not None, "refused before"
    assert observed is not None, "refused before"
    assert onset is not None, "refused before"
    assert within is not None, "refused before"
    assert trial_split is not None, "refused before"
    unit = np.repeat(np.arange(len(ids)), spikes.counts)
    of_units = split_intervals(observed)
    seen = seen_by_unit(spikes.values, unit, of_units)
    span = float(observed.values[:, 0].min()), float(observed.values[:, 1].max())
    shared = observed_by_all(of_units, found.invalid, span, nwb.path)
    shared = np.array([span]) if shared is None else shared
    start = np.ceil(np.round((onset - BEFORE) * 1000, 6)) / 1000
    told = np.isfinite(start)
    start, end = start[told], start[told] + BEFORE + AFTER
    condition = None if found.condition is None else found.condition[told]
    split = np.array([SPLITS.get(name, "none") for name in trial_split[told].tolist()], dtype=str)
    train = np.flatnonzero(split == "train")
    drawn = np.random.default_rng(seed).permutation(train)[: round(valid_fraction * len(train))]
    split[drawn] = "valid"
    valid = contains(start, end, shared) & within[told]
    behaviour = {name: _without_gaps(series) for name, series in found.behaviour.items()}
    clocks = [observed.values.ravel(), start, end, *(series.timestamps for series in behaviour.values())]
    clock = np.concatenate(clocks)
    gaps = ", ".join(f"{name} in '{series.unit}'" for name, series in found.behaviour.items())
    return Recording(
        dataset=DATASET,
        subject=_subject(nwb),
        session=session,
        species=nwb.species("MACACA_MULATTA"),
        signal_kind="sorted",
        spike_times=spikes.values[seen].astype(np.float64),
        spike_units=unit[seen],
        unit_ids=ids.astype(str),
        regions=np.full(len(ids), UNKNOWN_REGION) if found.regions is None else found.regions,
        unit_columns={} if found.held_out is None else {"heldout": found.held_out.astype(bool)},
        duration=(float(clock.min()), float(clock.max())),
        stimuli=Stimuli(
            start=start,
            end=end,
            image_id=np.full(len(start), "", dtype=str),
            repeat=np.zeros(len(start), np.int64) if condition is None else repeats(condition),
            split=split,
            valid=valid,
            condition=condition,
        ),
        behaviour=behaviour,
        observed=shared,
        provenance={
            "source": "Neural Latents Benchmark, MC_Maze, DANDI 000128",
            "origin_version": f"NWB {nwb.version}",
            "file": f"{nwb.path.name} {file_hash(nwb.path)}",
            "reader": f"neurobridge {__version__}, h5py {h5py.__version__}",
            "spikes": f"{int((~seen).sum())} of {len(seen)} outside their unit's observed intervals were dropped",
            "trials": f"{len(told)}, {int((~told).sum())} without onset left out, {int((~valid).sum())} not valid, for "
            "their windows leave the observed intervals or their onset its trial",
            "split": f"the benchmark's val is test; {len(drawn)} of {len(train)} train trials are valid, seed {seed}",
            "behaviour": f"{gaps or 'none'}; missing samples are left out",
        },
    )


def _subject(nwb: Nwb) -> str:
    return nwb.word("general/subject/subject_id", "Jenkins")


def _without_gaps(series: Series) -> TimeSeries:
    known = np.isfinite(series.values).all(axis=1)
    return TimeSeries(timestamps=series.times[known], values=series.values[known])


def _sessions(path: Path) -> dict[str, Path]:
    """Session -> file, named after the size and the part. Raises UserError for a session that is there twice."""
    sessions: dict[str, Path] = {}
    for file in session_files(path):
        size = re.search(r"ses-([A-Za-z0-9]+)", file.stem)
        session = f"mc_maze_{size[1]}" + "_test" * is_test(file) if size else file.stem
        if session in sessions:
            raise UserError(f"{sessions[session]} and {file} are both session {session}: remove one of them")
        sessions[session] = file
    return sessions
