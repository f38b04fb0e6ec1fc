"""Folders that phy and Kilosort write: spike times, clusters, and tables of what was said of clusters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neurobridge.data.importing import refuse_pointer
from neurobridge.data.tables import Raw, read_csv
from neurobridge.errors import UserError, reading

TIMES = "spike_times.npy"
CLUSTERS = ("spike_clusters.npy", "spike_templates.npy")  # after curation; as the sorter found them
GROUPS = ("group", "KSLabel")  # the curator's verdict; the sorter's own
CHANNELS = ("ch", "channel", "peak_channel", "max_channel")
IDS = ("cluster_id", "id")
RATE = re.compile(r"^\s*sample_rate\s*=\s*([0-9.eE+]+)\s*(?:#.*)?$", re.MULTILINE)
UNSORTED, NOISE = "unsorted", "noise"
USUAL = ("good", "mua", UNSORTED)


def is_phy(path: Path) -> bool:
    """True for a folder with spike times and clusters."""
    return (path / TIMES).is_file() and any((path / name).is_file() for name in CLUSTERS)


def phy_files(path: Path) -> list[Path]:
    """What :func:`read_phy` reads of a folder. Raises UserError for one that is none of phy's."""
    if not is_phy(path):
        raise UserError(f"{path} is no phy folder: it needs {TIMES} and {' or '.join(CLUSTERS)}; mend path or format")
    clusters = next(path / name for name in CLUSTERS if (path / name).is_file())
    return [path / TIMES, clusters, *_tables(path), *(file for file in (path / "params.py",) if file.is_file())]


def read_phy(path: Path, groups: Sequence[str] = ()) -> Raw:
    """``time`` (in samples) and ``unit_id`` of every spike; ``units`` what is said of each cluster.

    ``groups``: those of the clusters that are kept; all but noise if there are none. Raises UserError for a folder that
    cannot be right, and for groups that no cluster is in.
    """
    times_file, clusters_file = phy_files(path)[:2]
    times, clusters = (_array(file) for file in (times_file, clusters_file))
    if len(times) != len(clusters):
        raise UserError(
            f"{path}: {times_file.name} holds {len(times)} spikes and {clusters_file.name} {len(clusters)}; they have "
            "to be of one length: export the folder again"
        )
    ids = np.unique(clusters)
    columns: dict[str, np.ndarray] = {}
    differ: dict[str, int] = {}
    for file in _tables(path):
        for name, told in _of_clusters(file, ids).items():
            before = columns.get(name, told)
            columns[name] = np.where(told == "", before, told)
            if name == GROUPS[0] and (other := int(((before != "") & (told != "") & (before != told)).sum())):
                differ[file.name] = other
    group = next((columns[name] for name in GROUPS if name in columns), np.full(len(ids), UNSORTED, dtype=object))
    group = np.array([str(one) or UNSORTED for one in group.tolist()], dtype=object)
    there = sorted(set(group.tolist()))
    if absent := [one for one in groups if one not in there]:
        raise UserError(f"{path}: no cluster is in the group '{absent[0]}'; there are {', '.join(there)}: mend groups")
    named = np.isin(group, list(groups))
    keep = named if groups else np.array([one.lower() != NOISE for one in group.tolist()], dtype=bool)
    if not keep.any():
        raise UserError(f"{path}: all {len(ids)} clusters are noise; sort it again, or name 'groups: [noise]'")
    channel = next((columns[name] for name in CHANNELS if name in columns), None)
    further = {name: column for name, column in columns.items() if name not in (*GROUPS[:1], *CHANNELS)}
    units = {"unit_id": ids.astype(str).astype(object), "group": group, **further}
    if channel is not None:
        units["electrode_id"] = channel
    of_kept = keep[np.searchsorted(ids, clusters)]
    left = f"left out {int((~keep).sum())} of {len(ids)} clusters ({', '.join(sorted(set(group[~keep].tolist())))})"
    said = [] if keep.all() else [f"{left}, {int((~of_kept).sum())} of {len(times)} spikes"]
    said += [f"the group of {count} clusters is that of {name}, not of another table" for name, count in differ.items()]
    if not groups and (strange := sorted(set(group[keep].tolist()) - set(USUAL))):
        said.append(f"clusters called {', '.join(strange)} are units too ('groups' chooses)")
    return Raw(
        columns={"time": times[of_kept], "unit_id": clusters[of_kept]},
        names=["time", "unit_id"],
        rows=np.flatnonzero(of_kept),
        sampling_rate=sampling_rate(path),
        units={name: column[keep] for name, column in units.items()},
        left_out="; ".join(said),
    )


def sampling_rate(path: Path) -> float | None:
    """Samples a second, from the folder's params.py; None where it does not say."""
    file = path / "params.py"
    if not file.is_file():
        return None
    with reading(file, "phy parameter file"):
        told = RATE.search(file.read_text())
    return float(told[1]) if told else None


def _tables(path: Path) -> list[Path]:
    """Tables on clusters, those that say most first: what a later one says of the same holds."""
    files = {*path.glob("cluster_*.tsv"), *path.glob("cluster_*.csv")}
    return sorted(files, key=lambda file: (file.stem != "cluster_info", file.name))


def _array(file: Path) -> np.ndarray:
    refuse_pointer(file)
    with reading(file, ".npy array", "export the folder again"):
        values = np.load(file, allow_pickle=False)
    if values.dtype.kind not in "iuf" or values.size != max(values.shape, default=0):
        raise UserError(
            f"{file} holds {values.dtype} of shape {values.shape}, expected one list of whole numbers: export it again"
        )
    values = values.ravel()
    bad = np.flatnonzero(~(np.isfinite(values) & (values == np.round(values)) & (values >= 0)))
    if len(bad):
        raise UserError(
            f"{file}, row {bad[0]} (from 0): {values[bad[0]]} is no whole number from 0 ({len(bad)} such rows); give "
            "samples and clusters as the sorter wrote them"
        )
    return values.astype(np.int64)


def _of_clusters(file: Path, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of a table in the order of ``ids``; '' for a cluster that is not in it."""
    raw = read_csv(file)
    key = next((name for name in IDS if name in raw.columns), None)
    if key is None:
        return {}
    told = [str(cluster).strip() for cluster in raw.columns[key].tolist()]
    row_of = {cluster: row for row, cluster in enumerate(told)}
    if len(row_of) < len(told):
        twice = next(cluster for cluster in told if told.count(cluster) > 1)
        raise UserError(f"{file}: cluster {twice} is there twice; remove one of the lines")
    rows = [row_of.get(str(cluster), -1) for cluster in ids.tolist()]
    return {
        name: np.array(["" if row < 0 else str(column[row]).strip() for row in rows], dtype=object)
        for name, column in raw.columns.items()
        if name not in IDS and name.strip()
    }
