"""A small IBL folder tree written by ONE's own ALF writer: python tests/data/ibl_fixture.py DIR

Session 1: two probes, the first sorted twice (iblsorter with revisions, pykilosort), the second by pykilosort without a
revision and with its channel locations one folder up; trials and wheel carry no revision. Session 2: one probe without
a sorter's folder, trials in a revision beside an outdated table. Session 3: behaviour alone.
"""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
from one.alf.cache import make_parquet_db
from one.alf.io import save_object_npy

SECONDS = 300.0
VISP5, VISP6A, CA1, VPL, ROOT, VOID, CORPUS_CALLOSUM = 778, 33, 382, 718, 997, 0, 776
SESSIONS = {
    "KS014_2019-12-07_001": "cortexlab/Subjects/KS014/2019-12-07/001",
    "SWC_038_2020-08-01_002": "hoferlab/Subjects/SWC_038/2020-08-01/002",
    "SWC_038_2020-08-02_001": "hoferlab/Subjects/SWC_038/2020-08-02/001",
}
# of each cluster: rate in Hz, label, and the atlas id of its channel
PROBES = {
    ("KS014_2019-12-07_001", "probe00"): [
        *((3.0, 1.0, VISP5), (2.0, 1.0, -VISP6A), (4.0, 2 / 3, VISP5), (1.0, 1.0, ROOT)),
        *((2.0, 1.0, -CA1), (1.5, 0.0, CA1), (1.2, 1.0, CORPUS_CALLOSUM)),
    ],
    ("KS014_2019-12-07_001", "probe01"): [
        (2.0, 1.0, VPL),
        (1.0, 1 / 3, VPL),
        (3.0, 1.0, VOID),
        (2.5, 1.0, VPL),
        (1.0, 1.0, CA1),
    ],
    ("SWC_038_2020-08-01_002", "probe00"): [(2.0, 1.0, CA1), (2.0, 1.0, VISP5), (1.0, 1 / 3, CA1)],
}
TRIALS = {"KS014_2019-12-07_001": 43, "SWC_038_2020-08-01_002": 31, "SWC_038_2020-08-02_001": 12}


def write_sorting(
    folder: Path, clusters: list[tuple[float, float, int]], seed: int, *, located: Path | None = None
) -> dict:
    """Spikes, clusters and channels of one probe; the locations go to ``located`` where it is given."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    counts = [round(rate * SECONDS) for rate, _, _ in clusters]
    times = np.concatenate([rng.uniform(0.2, SECONDS, n) for n in counts])
    owner = np.repeat(np.arange(len(clusters)), counts)
    order = np.argsort(times)
    spikes = {"times": times[order], "clusters": owner[order].astype(np.uint16)}
    noise = {"amps": rng.gamma(2.0, 1e-5, len(times)), "depths": rng.uniform(0, 3840, len(times))}
    save_object_npy(folder, spikes | noise, "spikes")
    channels = 2 * len(clusters) + 3
    channel = rng.permutation(channels)[: len(clusters)]
    save_object_npy(folder, {"channels": channel, "depths": 20.0 * channel}, "clusters")
    label = np.array([label for _, label, _ in clusters])
    rate = np.array([rate for rate, _, _ in clusters])
    rows = pd.DataFrame({"cluster_id": np.arange(len(clusters)), "label": label, "firing_rate": rate})
    rows.to_parquet(folder / "clusters.metrics.pqt")
    names = [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in clusters]
    pd.DataFrame({"uuids": names}).to_csv(folder / "clusters.uuids.csv", index=False)
    ids = np.full(channels, ROOT)
    ids[channel] = [atlas for _, _, atlas in clusters]
    place = rng.normal(0, 1000, (channels, 3))
    local = np.stack([np.full(channels, 43.0), 20.0 * np.arange(channels)], 1)
    target = located or folder
    save_object_npy(target, {"mlapdv": place, "localCoordinates": local, "rawInd": np.arange(channels)}, "channels")
    np.save(target / "channels.brainLocationIds_ccf_2017.npy", ids)  # ONE's writer mangles this name
    return spikes | {"uuids": names, "label": label, "channel": channel, "ids": ids}


def trial_table(count: int, seed: int) -> pd.DataFrame:
    """Trials of the task; the fifth is too fast, the eighth lacks its first movement, the ninth has no choice."""
    rng = np.random.default_rng(seed)
    begin = 2.0 + 6.5 * np.arange(count) + rng.uniform(0, 0.5, count)
    shown = begin + 0.5
    moved = shown + rng.uniform(0.1, 1.0, count)
    moved[4] = shown[4] + 0.05
    moved[7] = np.nan
    answered = np.nan_to_num(moved, nan=shown[7] + 0.4) + 0.2
    right = rng.random(count) < 0.5
    contrast = rng.choice([0.0, 0.0625, 0.25, 1.0], count)
    choice = rng.choice([-1, 1], count)
    choice[8] = 0
    return pd.DataFrame(
        {
            "intervals_0": begin,
            "intervals_1": answered + 1.0,
            "stimOn_times": shown,
            "goCue_times": shown + 0.001,
            "firstMovement_times": moved,
            "response_times": answered,
            "feedback_times": answered + 0.01,
            "choice": choice.astype(float),
            "feedbackType": rng.choice([-1.0, 1.0], count),
            "contrastLeft": np.where(right, np.nan, contrast),
            "contrastRight": np.where(right, contrast, np.nan),
            "probabilityLeft": np.repeat([0.5, 0.2, 0.8], [10, 10, count - 20] if count > 20 else [count, 0, 0]),
            "rewardVolume": np.full(count, 1.5),
        }
    )


def write_behaviour(folder: Path, session: str, seed: int, *, revision: str = "") -> dict:
    """Trials and wheel of a session; an outdated table of half the trials stays where the new one has a revision."""
    folder.mkdir(parents=True, exist_ok=True)
    table = trial_table(TRIALS[session], seed)
    if revision:
        table.iloc[::2].to_parquet(folder / "_ibl_trials.table.pqt")
    place = folder / f"#{revision}#" if revision else folder
    place.mkdir(exist_ok=True)
    table.to_parquet(place / "_ibl_trials.table.pqt")
    rng = np.random.default_rng(seed + 1)
    timestamps = np.sort(rng.uniform(0.05, SECONDS + 5, 4001))
    wheel = {"position": 0.5 * np.sin(2 * np.pi * 0.1 * timestamps), "timestamps": timestamps}
    save_object_npy(folder, wheel, "wheel", namespace="ibl")
    return {"table": table, "wheel": wheel}


def write_ibl(root: Path, *, hash_files: bool = False) -> dict:
    """Write the three sessions, and ONE's cache tables; return what is in them."""
    one, two, three = SESSIONS
    made: dict = {}
    probe = root / SESSIONS[one] / "alf" / "probe00"
    write_sorting(probe / "pykilosort", PROBES[one, "probe01"], 1)
    write_sorting(probe / "iblsorter" / "#2023-01-01#", PROBES[one, "probe01"], 2)
    made[one, "probe00"] = write_sorting(probe / "iblsorter" / "#2024-05-06#", PROBES[one, "probe00"], 3)
    probe = root / SESSIONS[one] / "alf" / "probe01"
    made[one, "probe01"] = write_sorting(probe / "pykilosort", PROBES[one, "probe01"], 4, located=probe)
    made[two, "probe00"] = write_sorting(root / SESSIONS[two] / "alf" / "probe00", PROBES[two, "probe00"], 5)
    for seed, (session, revision) in enumerate({one: "", two: "2025-03-03", three: ""}.items()):
        made[session] = write_behaviour(root / SESSIONS[session] / "alf", session, 10 * seed, revision=revision)
    make_parquet_db(root, hash_files=hash_files)
    return made


if __name__ == "__main__":
    write_ibl(Path(sys.argv[1]), hash_files=True)
