"""One probe of an IBL session: spikes, clusters, channels, and what is wrong with them.

``spikes.clusters`` are 0-based rows of the cluster table, ``clusters.channels`` 0-based rows of the channel table.

Letters: S spikes, N clusters, C channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from neurobridge.data.findings import Check, reading, require, unreadable
from neurobridge.data.recording import UNKNOWN_REGION
from neurobridge.data.sources.ibl_files import LOCATIONS, Probe
from neurobridge.data.tables import read_csv, read_parquet
from neurobridge.errors import UserError

DAY_S = 86_400.0
SILENCE_S, SILENT_SPIKES = 5.0, 100
NO_GREY = ("root", "void", UNKNOWN_REGION)
FETCH = "download it again with ONE"
T = TypeVar("T")


@dataclass(kw_only=True)
class ProbeData:
    """times [S] s, cluster of each spike [S]; of each cluster [N]: id, label, region, and further columns."""

    times: np.ndarray
    clusters: np.ndarray
    unit_ids: np.ndarray
    label: np.ndarray
    regions: np.ndarray
    columns: dict[str, np.ndarray]


class Checks(list[Check]):
    """Checks of one probe's files, with the arrays that could be read."""

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.probe = probe

    def array(self, name: str, *, needed: bool = True, mend: str = FETCH) -> np.ndarray | None:
        """Content of a .npy file; None, with a check that is not ok, if it is absent or unreadable."""
        return self._load(read_array, name, needed, mend)

    def table(self, name: str, *, needed: bool = True, mend: str = FETCH) -> pd.DataFrame | None:
        """The same for a parquet or CSV file."""
        return self._load(read_table, name, needed, mend)

    def _load(self, read: Callable[[Path], T], name: str, needed: bool, mend: str) -> T | None:
        path = self.probe.files.get(name)
        if path is None:
            where = self.probe.folder / name
            self.append(
                Check(file=where, key=name, found="absent", expected="a file", ok=False, mend=mend, needed=needed)
            )
            return None
        try:
            return read(path)
        except UserError as error:
            self.append(unreadable(path, error))
            return None

    def add(self, name: str, found: str, expected: str, ok: bool, mend: str = FETCH, *, needed: bool = True) -> bool:
        """Note a check of a file's content; return ``ok``."""
        path, mend = self.probe.files[name], "" if ok else mend
        key = name.rsplit(".", 1)[0]
        self.append(Check(file=path, key=key, found=found, expected=expected, ok=bool(ok), mend=mend, needed=needed))
        return bool(ok)


def read_array(path: Path) -> np.ndarray:
    """A .npy array, mapped into memory. Raises UserError."""
    with reading(path):
        return np.load(path, mmap_mode="r", allow_pickle=False)


def read_table(path: Path) -> pd.DataFrame:
    """A parquet or CSV table. Raises UserError."""
    require(path)
    return pd.DataFrame((read_csv(path) if path.suffix == ".csv" else read_parquet(path)).columns)


def read_probe(probe: Probe) -> tuple[Checks, ProbeData | None]:
    """All checks of a probe's files, and its content if nothing that is needed failed."""
    checks = Checks(probe)
    channels = _clusters(checks)
    count = None if channels is None else len(channels)
    spikes = _spikes(checks, count)
    label = _labels(checks, count)
    ids = _unit_ids(checks, count)
    depths = checks.array("clusters.depths.npy", needed=False, mend="units are kept without a depth") if count else None
    atlas = _locations(checks, channels)
    if spikes is None or label is None or channels is None or ids is None:
        return checks, None
    columns = {"label": label, "atlas_id": atlas, "probe": np.full(len(label), probe.name)}
    if depths is not None and checks.add(
        "clusters.depths.npy",
        f"{depths.dtype} {depths.shape}",
        f"({count},) micrometres",
        depths.shape == (count,) and depths.dtype.kind in "fiu",
        needed=False,
    ):
        columns["depth_um"] = np.asarray(depths, dtype=np.float64)
    times, clusters = spikes
    names = np.array([f"{probe.name}/{name}" for name in ids])
    data = ProbeData(times=times, clusters=clusters, unit_ids=names, label=label, regions=beryl(atlas), columns=columns)
    return checks, data


def probe_observed(times: np.ndarray) -> np.ndarray:
    """[K, 2] s when a probe was recorded, by the times [S] of all its clusters, noise among them.

    From the first spike to the last, but for silences so long that a recording probe has none: :data:`SILENCE_S` in
    which :data:`SILENT_SPIKES` were to be expected at its mean rate.
    """
    times = np.sort(times)
    rate = len(times) / max(float(times[-1] - times[0]), 1e-9)
    gap = np.flatnonzero(np.diff(times) > max(SILENCE_S, SILENT_SPIKES / rate))
    return np.stack([times[np.concatenate([[0], gap + 1])], times[np.concatenate([gap, [-1]])]], axis=1)


def in_a_day(low: float, high: float) -> bool:
    """Can this be a session's clock in s?"""
    return low >= -DAY_S and high <= DAY_S


def beryl(atlas_ids: np.ndarray) -> np.ndarray:
    """Beryl acronyms of Allen atlas ids (negative: left hemisphere); 'unknown' for ids that the atlas has not."""
    regions = _regions()
    known = np.isin(atlas_ids, regions.id)
    names = np.full(len(atlas_ids), UNKNOWN_REGION, dtype=object)
    names[known] = regions.id2acronym(atlas_ids[known], mapping="Beryl")
    return names.astype(str)


@functools.cache
def _regions():
    from iblatlas.regions import BrainRegions

    return BrainRegions()


def _vector(checks: Checks, name: str, kinds: str, what: str) -> np.ndarray | None:
    array = checks.array(name)
    if array is None:
        return None
    ok = array.ndim == 1 and array.dtype.kind in kinds and len(array) > 0
    return array if checks.add(name, f"{array.dtype} {array.shape}", what, ok) else None


def _spikes(checks: Checks, count: int | None) -> tuple[np.ndarray, np.ndarray] | None:
    times = _vector(checks, "spikes.times.npy", "f", "floats (spikes,) in s")
    clusters = _vector(checks, "spikes.clusters.npy", "iu", "integers (spikes,)")
    good = times is not None and clusters is not None
    if times is not None:
        bad = np.flatnonzero(~np.isfinite(times))
        text = f"spike {bad[0]} has time {times[bad[0]]}" if len(bad) else "finite"
        good &= checks.add("spikes.times.npy", text, "finite times", len(bad) == 0)
        step = float(np.spacing(np.abs(times).max())) if len(bad) == 0 else 0.0
        text = f"{times.dtype}, which knows steps of {step:.2g} s there"
        good &= checks.add("spikes.times.npy", text, "steps below 1 ms", step < 1e-3)
        if len(bad) == 0:
            low, high = float(times.min()), float(times.max())
            mend = "is it in milliseconds or samples? Divide by the rate, or download it again"
            good &= checks.add(
                "spikes.times.npy", f"{low:.3f} to {high:.3f}", "s, within one day", in_a_day(low, high), mend
            )
            mend = "they are sorted on import"
            backwards = np.flatnonzero(np.diff(times) < 0)
            text = f"spike {backwards[0] + 1} before spike {backwards[0]}" if len(backwards) else "ascending"
            checks.add("spikes.times.npy", text, "ascending", len(backwards) == 0, mend, needed=False)
    if times is not None and clusters is not None:
        mend = "the two files are of different revisions: download both again"
        text = f"{len(clusters)} clusters for {len(times)} times"
        good &= checks.add("spikes.clusters.npy", text, "one cluster a spike", len(times) == len(clusters), mend)
    if clusters is not None and count is not None:
        low, high = int(clusters.min()), int(clusters.max())
        mend = "rows count from 0: is the index base off by one, or are the files of different revisions?"
        text, ok = f"rows {low} to {high}", low >= 0 and high < count
        good &= checks.add("spikes.clusters.npy", text, f"rows 0 to {count - 1} of the clusters", ok, mend)
    return (times, clusters) if good else None


def _clusters(checks: Checks) -> np.ndarray | None:
    return _vector(checks, "clusters.channels.npy", "iu", "integers (clusters,)")


def _labels(checks: Checks, count: int | None) -> np.ndarray | None:
    name = "clusters.metrics.pqt"
    table = checks.table(name)
    if table is None or count is None:
        return None
    if not checks.add(name, f"columns {', '.join(map(str, table.columns[:6]))}", "label", "label" in table.columns):
        return None
    rows = table["cluster_id"].to_numpy() if "cluster_id" in table.columns else np.arange(len(table))
    whole = rows.dtype.kind in "iu" and len(np.unique(rows)) == len(rows) and len(rows) > 0
    ok = whole and rows.min() >= 0 and rows.max() < count and ("cluster_id" in table.columns or len(rows) == count)
    if not checks.add(name, f"{len(rows)} rows", f"one row for each of {count} clusters", ok):
        return None
    values = table["label"].to_numpy()
    numbers = (
        values.dtype.kind in "fiub"
        and (np.isnan(values := values.astype(float)) | ((values >= 0) & (values <= 1))).all()
    )
    if not checks.add(name, "labels from 0 to 1" if numbers else "other labels", "0, 1/3, 2/3 or 1", numbers):
        return None
    label = np.full(count, np.nan)
    label[rows] = values
    return label


def _unit_ids(checks: Checks, count: int | None) -> list[str] | None:
    name = "clusters.uuids.csv"
    if count is None:
        return None
    table = checks.table(name, needed=False, mend="units are named by their row")
    if table is None:
        return None if name in checks.probe.files else [str(row) for row in range(count)]
    names = table.iloc[:, -1].astype(str).tolist() if table.shape[1] else []
    ok = len(names) == count and len(set(names)) == count
    text = f"{len(names)} ids, {len(set(names))} different"
    return names if checks.add(name, text, f"{count} different ids", ok) else None


def _locations(checks: Checks, channels: np.ndarray | None) -> np.ndarray:
    """Atlas id of each cluster [N]; an id that no atlas has where it is not known."""
    count = 0 if channels is None else len(channels)
    nowhere = np.full(count, np.iinfo(np.int64).max)
    mend = "units of this probe have no region: download it with ONE, or import with --outside unknown"
    ids = checks.array(LOCATIONS, needed=False, mend=mend)
    if ids is None or channels is None:
        return nowhere
    whole = ids.ndim == 1 and ids.dtype.kind in "iuf" and len(ids) > 0 and bool(np.isfinite(ids).all())
    if not checks.add(LOCATIONS, f"{ids.dtype} {ids.shape}", "atlas ids (channels,)", whole):
        return nowhere
    low, high = int(channels.min()), int(channels.max())
    ok = low >= 0 and high < len(ids)
    mend = "rows count from 0: are the files of different revisions? Download both again"
    name = "clusters.channels.npy"
    if not checks.add(name, f"rows {low} to {high}", f"rows 0 to {len(ids) - 1} of the channels", ok, mend):
        return nowhere
    ids = np.asarray(ids).astype(np.int64)
    strange = np.flatnonzero(~np.isin(ids, _regions().id))
    text = f"channel {strange[0]} has id {ids[strange[0]]}" if len(strange) else "known ids"
    mend = "such units have no region; download it again with ONE"
    checks.add(LOCATIONS, text, "ids of the Allen atlas", len(strange) == 0, mend, needed=False)
    return ids[np.asarray(channels).astype(np.int64)]
