"""The IBL importer on a small folder tree written by ONE's ALF writer, and on broken copies of it."""

import re
import runpy
import shutil
import warnings
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from one.api import One
from torch_brain.data import Data

from neurobridge.data.quality import QualitySettings
from neurobridge.data.recording import read_recording
from neurobridge.data.sources.ibl import SORTERS, examine, import_ibl, recognises
from neurobridge.data.sources.ibl_files import find_probes, find_sessions
from neurobridge.data.store import Session
from neurobridge.errors import UserError

FIXTURE = runpy.run_path(str(Path(__file__).with_name("ibl_fixture.py")))
PLACES = FIXTURE["SESSIONS"]
FIRST, SECOND, THIRD = PLACES
BERYL = {778: "VISp", -33: "VISp", 382: "CA1", -382: "CA1", 718: "VPL", 997: "root", 0: "void", 776: "root"}
NEW, PROBE1 = "alf/probe00/iblsorter/#2024-05-06#", "alf/probe01/pykilosort"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("ibl") / "one"
    return root, FIXTURE["write_ibl"](root)


@pytest.fixture
def tree(made, tmp_path) -> Path:
    """A copy of the tree, to break."""
    return Path(shutil.copytree(made[0], tmp_path / "one"))


def good(probe: dict) -> list[int]:
    """Rows of the units that stay by label and region."""
    regions = [BERYL[int(probe["ids"][channel])] for channel in probe["channel"]]
    return [row for row, name in enumerate(regions) if probe["label"][row] == 1 and name not in ("root", "void")]


def test_spikes_units_and_regions_round_trip(made, tmp_path):
    root, arrays = made
    out = import_ibl(root, tmp_path / "out")
    assert sorted(p.stem for p in (out / "sessions").glob("*.h5")) == [FIRST, SECOND], "behaviour alone is passed over"
    for session, probes in ((FIRST, ("probe00", "probe01")), (SECOND, ("probe00",))):
        r = read_recording(out / "sessions" / f"{session}.h5")
        assert (r.dataset, r.subject, r.signal_kind) == ("ibl", session.split("_20")[0], "sorted")
        row = 0
        for probe in probes:
            data = arrays[session, probe]
            for cluster in good(data):
                assert r.unit_ids[row] == f"{probe}/{data['uuids'][cluster]}"
                np.testing.assert_array_equal(
                    r.spike_times[r.spike_units == row], data["times"][data["clusters"] == cluster]
                )
                atlas = int(data["ids"][data["channel"][cluster]])
                assert (r.regions[row], r.unit_columns["atlas_id"][row]) == (BERYL[atlas], atlas)
                assert r.unit_columns["depth_um"][row] == 20 * data["channel"][cluster]
                assert r.unit_columns["probe"][row] == probe
                row += 1
        assert row == len(r.unit_ids)
        assert (np.diff(r.spike_times) >= 0).all()
    assert (
        "probe01: pykilosort, revision none, kept 3 of 5, dropped 1 by label and 1"
        in read_recording(out / "sessions" / f"{FIRST}.h5").provenance["probes"]
    )


def test_trials_and_wheel_round_trip(made, tmp_path):
    root, arrays = made
    out = import_ibl(root, tmp_path / "out")
    for session in (FIRST, SECOND):
        r, table, wheel = read_recording(out / "sessions" / f"{session}.h5"), *arrays[session].values()
        s = r.stimuli
        assert len(s) == len(table), "the newest revision of the trials is read"
        np.testing.assert_array_equal(s.start, table["stimOn_times"])
        np.testing.assert_array_equal(s.end, table["feedback_times"])
        assert np.flatnonzero(~s.valid).tolist() == [4, 7], "too fast, and without a movement"
        assert set(s.columns) == set(table.columns)
        for name, column in s.columns.items():
            np.testing.assert_array_equal(column, table[name])
        left = np.isfinite(table["contrastLeft"].to_numpy())
        assert [c.split()[0] for c in s.condition.tolist()] == np.where(left, "left", "right").tolist()
        assert set(s.image_id.tolist()) == {""}
        size = len(table) // 10
        assert s.split[4 * size : 5 * size].tolist() == ["valid"] * size
        assert s.split[9 * size : 10 * size].tolist() == ["test"] * size
        assert (s.split == "train").sum() == len(table) - 2 * size
        assert f"blocks of {size} trials" in r.provenance["split"]
        np.testing.assert_array_equal(r.behaviour["wheel_position"].timestamps, wheel["timestamps"])
        np.testing.assert_array_equal(r.behaviour["wheel_position"].values, wheel["position"])
        velocity = r.behaviour["wheel_velocity"]
        np.testing.assert_allclose(np.diff(velocity.timestamps), 0.01, atol=1e-9)
        inner = slice(100, -100)
        true = 0.1 * np.pi * np.cos(0.2 * np.pi * velocity.timestamps)
        assert np.abs(velocity.values - true)[inner].mean() < 0.01
        assert r.duration[1] == pytest.approx(wheel["timestamps"][-1])
    with h5py.File(out / "sessions" / f"{FIRST}.h5") as file:
        assert Data.from_hdf5(file, lazy=True).stimuli.choice.shape == (len(arrays[FIRST]["table"]),)
    windows = Session.open(out / "sessions" / f"{FIRST}.h5", window_ms=200)
    assert {"train", "valid", "test"} == set(windows.split.tolist())


def test_files_are_those_that_one_takes(made):
    root, _ = made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = One(cache_dir=root, mode="local")
        for session in find_sessions(root):
            assert session.eid == str(one.path2eid(session.path))
            for probe in find_probes(session, SORTERS):
                collection = probe.folder.relative_to(session.path).as_posix()
                for name in ("spikes.times.npy", "clusters.metrics.pqt"):
                    path = one.load_dataset(session.eid, name, collection=collection, download_only=True)
                    assert Path(str(path)) == probe.files[name]


def test_without_tables_and_from_any_folder(made, tmp_path):
    root, _ = made
    tree = shutil.copytree(root, tmp_path / "one", ignore=shutil.ignore_patterns("sessions.pqt", "datasets.pqt"))
    with_tables = read_recording(import_ibl(root, tmp_path / "a") / "sessions" / f"{FIRST}.h5")
    without = read_recording(import_ibl(tree, tmp_path / "b") / "sessions" / f"{FIRST}.h5")
    np.testing.assert_array_equal(with_tables.spike_times, without.spike_times)
    assert len(with_tables.provenance["eid"]) == 36
    assert "no cache tables" in without.provenance["eid"]
    inside = tree / PLACES[FIRST]
    places = [tree / "cortexlab", tree / "cortexlab" / "Subjects", inside.parents[1], inside.parent, inside]
    for folder in [*places, inside / "alf", inside / NEW / "spikes.times.npy"]:
        assert [s.name for s in find_sessions(folder)] == [FIRST]
        assert recognises(folder)
    assert recognises(root)
    assert not any(recognises(p) for p in (tmp_path, tmp_path / "nothing", Path(__file__), Path(__file__).parent))


def test_options_choose_sorter_revision_label_and_regions(made, tmp_path):
    root, _ = made
    other = {"quality": QualitySettings(min_rate=None, max_isi_violations=None), "sessions": (FIRST,)}

    def probes(name: str, **options) -> str:
        out = import_ibl(root, tmp_path / name, **other | options)
        assert [p.stem for p in (out / "sessions").glob("*.h5")] == [FIRST]
        return read_recording(out / "sessions" / f"{FIRST}.h5").provenance["probes"]

    assert "probe00: iblsorter, revision 2024-05-06, kept 3 of 7" in probes("a")
    assert "probe00: iblsorter, revision 2023-01-01, kept 3 of 5" in probes("b", revision="2023-12-31")
    assert "probe00: pykilosort, revision none, kept 3 of 5" in probes("c", sorters=("pykilosort", "iblsorter"))
    assert "kept 4 of 7, dropped 1 by label and 2" in probes("d", min_label=0.6)
    assert "kept 5 of 7, dropped 2 by label and 0" in probes("e", outside="unknown")
    r = read_recording(tmp_path / "e" / "sessions" / f"{FIRST}.h5")
    assert (r.regions == "unknown").sum() == 3
    with pytest.raises(UserError, match="session 'KS014' is not under"):
        import_ibl(root, tmp_path / "f", sessions=("KS014",))


def test_units_below_the_quality_thresholds_go(made, tmp_path):
    root, _ = made
    out = import_ibl(root, tmp_path / "out", quality=QualitySettings(min_rate=1.9))
    r = read_recording(out / "sessions" / f"{FIRST}.h5")
    assert len(r.unit_ids) == 5
    assert "dropped 1" in r.provenance["quality"]


def test_sessions_without_a_unit_are_passed_over_and_said(made, tmp_path, capsys):
    root, _ = made
    out = import_ibl(root, tmp_path / "out", quality=QualitySettings(min_rate=2.2))
    assert [p.stem for p in (out / "sessions").glob("*.h5")] == [FIRST]
    assert f"passed over: session {SECOND}: no unit is left" in capsys.readouterr().err
    with pytest.raises(UserError, match="no unit is left after the quality filters"):
        import_ibl(root, tmp_path / "none", quality=QualitySettings(min_rate=50))
    with pytest.raises(UserError, match=r"no unit has a label of at least 1.5 in grey matter: lower --min_label"):
        import_ibl(root, tmp_path / "none", min_label=1.5)
    with pytest.raises(UserError, match="has a spike sorting"):
        import_ibl(root, tmp_path / "none", sessions=(THIRD,))
    with pytest.raises(UserError, match="--block is 0"):
        import_ibl(root, tmp_path / "none", block=0)
    with pytest.raises(UserError, match="no IBL session under"):
        import_ibl(tmp_path / "nowhere", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_observed_is_what_every_probe_recorded(tree, tmp_path):
    """The second probe starts late and has a gap; a trial that leaves what both recorded is not valid."""
    folder = tree / PLACES[FIRST] / PROBE1
    times = np.load(folder / "spikes.times.npy")
    late, low, high = 20.0, 60.0, 75.0
    kept = (times > late) & ((times < low) | (times > high))
    for name in ("times", "clusters"):
        file = folder / f"spikes.{name}.npy"
        np.save(file, np.load(file)[kept])
    whole = read_recording(import_ibl(tree, tmp_path / "a", sessions=(FIRST,)) / "sessions" / f"{FIRST}.h5")
    assert len(whole.observed) == 2
    np.testing.assert_allclose(whole.observed[0], [late, low], atol=1.0)
    assert abs(whole.observed[1, 0] - high) < 1.0
    stimuli = whole.stimuli
    assert not stimuli.valid[(stimuli.start < late) | ((stimuli.end > low + 1) & (stimuli.start < high - 1))].any()
    assert stimuli.valid.any()
    windows = Session(whole, window_ms=500).starts
    assert not ((windows < whole.observed[0, 0]) | ((windows > low) & (windows < high - 1))).any()


def test_a_name_that_two_labs_gave_is_refused(tree, tmp_path):
    lab = tree / Path(PLACES[FIRST]).parts[0]
    other = tmp_path / "other" / "secondlab"
    shutil.copytree(lab, other)
    out = import_ibl(lab, tmp_path / "out")
    before = {p: p.read_bytes() for p in (out / "sessions").iterdir()}
    np.save(next(other.rglob("spikes.times.npy")), np.zeros(1))
    with pytest.raises(UserError, match=r"is that of the lab .*, not secondlab: import each lab"):
        import_ibl(other, out)
    assert before == {p: p.read_bytes() for p in (out / "sessions").iterdir()}
    shutil.copytree(other, tree / "secondlab")
    with pytest.raises(UserError, match=r"are both session .*: import each lab into a folder of its own"):
        import_ibl(tree, tmp_path / "both")


def test_second_import_skips_what_is_written(tree, tmp_path):
    out = import_ibl(tree, tmp_path / "out")
    files = [out / "sessions" / f"{name}.h5" for name in (FIRST, SECOND)]
    first = [f.stat().st_mtime_ns for f in files]
    import_ibl(tree, out)
    assert [f.stat().st_mtime_ns for f in files] == first
    rewrite_table(tree / PLACES[SECOND] / "alf" / "#2025-03-03#" / "_ibl_trials.table.pqt", lambda t: t.iloc[:-3])
    import_ibl(tree, out)
    assert [f.stat().st_mtime_ns == t for f, t in zip(files, first, strict=True)] == [True, False]
    assert len(read_recording(files[1]).stimuli) == 28
    import_ibl(tree, out, block=1)
    assert files[0].stat().st_mtime_ns != first[0]


def test_a_uuid_in_the_file_name_and_a_missing_optional_file(tree, tmp_path):
    place = tree / PLACES[FIRST] / NEW
    uuid = "0a1b2c3d-1111-4222-8333-444455556666"
    (place / "spikes.times.npy").rename(place / f"spikes.times.{uuid}.npy")
    (place / "clusters.uuids.csv").unlink()
    (tree / PLACES[FIRST] / "alf" / "probe00" / "iblsorter" / "#2023-01-01#" / "clusters.uuids.csv").unlink()
    (tree / PLACES[FIRST] / PROBE1 / "clusters.depths.npy").unlink()
    (tree / PLACES[FIRST] / "alf" / "_ibl_trials.table.pqt").unlink()
    (tree / PLACES[FIRST] / "alf" / "_ibl_wheel.position.npy").unlink()
    found = [(f.key, f.found) for f in examine(tree / PLACES[FIRST]) if not f.ok]
    names = ("clusters.uuids.csv", "clusters.depths.npy", "_ibl_trials.table.pqt", "_ibl_wheel.position.npy")
    assert found == [(name, "absent") for name in names]
    r = read_recording(import_ibl(tree / PLACES[FIRST], tmp_path / "out") / "sessions" / f"{FIRST}.h5")
    assert r.unit_ids[0] == "probe00/0"
    assert "depth_um" not in r.unit_columns
    assert (r.stimuli, r.behaviour) == (None, {})
    assert r.provenance["trials"] == "none"


def rewrite(path: Path, change) -> None:
    array = np.load(path)
    np.save(path, change(array))


def rewrite_table(path: Path, change) -> None:
    change(pd.read_parquet(path)).to_parquet(path)


def put(row: int, value: float, column: str | None = None):
    def change(array):
        if column is None:
            array[row] = value
        else:
            array.loc[row, column] = value
        return array

    return change


def array_defect(name: str, change):
    return f"{NEW}/{name}", lambda p: rewrite(p, change)


def table_defect(name: str, change):
    return name, lambda p: rewrite_table(p, change)


TRIALS, METRICS = "alf/_ibl_trials.table.pqt", f"{NEW}/clusters.metrics.pqt"
UUIDS, POSITION, TIMES = f"{NEW}/clusters.uuids.csv", "alf/_ibl_wheel.position.npy", "alf/_ibl_wheel.timestamps.npy"
NEEDED = {  # what: (file and damage, key, what the doctor finds)
    "NaN": (array_defect("spikes.times.npy", put(7, np.nan)), "spikes.times", "spike 7 has time nan"),
    "ms": (array_defect("spikes.times.npy", lambda a: a * 1000), "spikes.times", r"to 29\d+"),
    "long before": (array_defect("spikes.times.npy", put(0, -1e9)), "spikes.times", "-1000000000.000 to 299"),
    "too short": (
        array_defect("spikes.clusters.npy", lambda a: a[:-2]),
        "spikes.clusters",
        "4408 clusters for 4410 times",
    ),
    "two columns": (array_defect("spikes.times.npy", lambda a: np.stack([a, a], 1)), "spikes.times", r"\(4410, 2\)"),
    "base 1": (array_defect("spikes.clusters.npy", lambda a: a + 1), "spikes.clusters", "rows 1 to 7"),
    "fractions": (array_defect("spikes.clusters.npy", lambda a: a / 2), "spikes.clusters", r"float64 \(4410,\)"),
    "channels too high": (array_defect("clusters.channels.npy", lambda a: a + 9), "clusters.channels", "rows 9 to 25"),
    "truncated": (
        (f"{NEW}/spikes.times.npy", lambda p: p.write_bytes(p.read_bytes()[:-9])),
        "file",
        "is cut off, an array",
    ),
    "empty": ((f"{NEW}/spikes.clusters.npy", lambda p: p.write_bytes(b"")), "file", "is empty"),
    "pointer": (
        (f"{NEW}/spikes.times.npy", lambda p: p.write_bytes(b"/annex/objects/SHA256E-s9--a.npy\n")),
        "file",
        "pointer",
    ),
    "objects": (
        (f"{NEW}/spikes.times.npy", lambda p: np.save(p, np.array([{}, 1]))),
        "file",
        "is an array of Python objects",
    ),
    "no label": (table_defect(METRICS, lambda t: t.drop(columns="label")), "clusters.metrics", "columns cluster_id"),
    "odd label": (table_defect(METRICS, put(2, 3.0, "label")), "clusters.metrics", "other labels"),
    "rows twice": (table_defect(METRICS, put(2, 1, "cluster_id")), "clusters.metrics", "7 rows"),
    "metrics truncated": ((METRICS, lambda p: p.write_bytes(p.read_bytes()[:200])), "file", "is cut off, a Parquet"),
    "ids twice": ((UUIDS, lambda p: p.write_text("uuids\n" + "a\n" * 7)), "clusters.uuids", "7 ids, 1 different"),
    "locations": (
        array_defect("channels.brainLocationIds_ccf_2017.npy", lambda a: a[None]),
        "channels.brainLocationIds_ccf_2017",
        r"\(1, 17\)",
    ),
    "no column": (table_defect(TRIALS, lambda t: t.drop(columns="choice")), "trials columns", "no column choice"),
    "text column": (table_defect(TRIALS, lambda t: t.assign(choice="left")), "trials columns", "choice is no number"),
    "trials in ms": (
        table_defect(TRIALS, lambda t: t.assign(feedback_times=t.feedback_times * 1000)),
        "trials times",
        "row 13: a time beyond one day",
    ),
    "trials in disorder": (
        table_defect(TRIALS, put(6, 9.0, "intervals_0")),
        "trials intervals_0",
        "row 6: starts before",
    ),
    "odd choice": (table_defect(TRIALS, put(3, 2.0, "choice")), "trials choice", "row 3: another choice"),
    "odd feedback": (table_defect(TRIALS, put(5, 0.0, "feedbackType")), "trials feedbackType", "row 5: another type"),
    "trials truncated": ((TRIALS, lambda p: p.write_bytes(p.read_bytes()[:-50])), "file", "is cut off, a Parquet"),
    "wheel NaN": ((POSITION, lambda p: rewrite(p, put(5, np.nan))), "wheel.position", r"float64 \(4001,\)"),
    "wheel too short": (
        (TIMES, lambda p: rewrite(p, lambda a: a[:-1])),
        "wheel length",
        "4000 times for 4001 positions",
    ),
    "wheel backwards": ((TIMES, lambda p: rewrite(p, put(9, 0.0))), "wheel order", "sample 9 is before sample 8"),
    "wheel in ms": ((TIMES, lambda p: rewrite(p, lambda a: a * 1000)), "wheel times", r"to 304\d+"),
    "wheel too far": ((POSITION, lambda p: rewrite(p, put(5, 1e9))), "wheel angle", r"up to 1e\+09"),
    "wheel truncated": ((TIMES, lambda p: p.write_bytes(p.read_bytes()[:90])), "file", "is cut off, an array"),
}
TOLERATED = {
    "spikes in disorder": (
        array_defect("spikes.times.npy", lambda a: a[::-1]),
        "spikes.times",
        "spike 1 before spike 0",
    ),
    "unknown id": (
        array_defect("channels.brainLocationIds_ccf_2017.npy", put(4, 123456789)),
        "channels.brainLocationIds_ccf_2017",
        "channel 4 has id 123456789",
    ),
    "a trial without end": (
        table_defect(TRIALS, put(2, np.nan, "intervals_1")),
        "trials intervals",
        "row 2: no start or end",
    ),
    "trials after the spikes": (
        table_defect(TRIALS, lambda t: t.assign(intervals_0=t.intervals_0 + 250.0, intervals_1=t.intervals_1 + 250)),
        "trials within spikes",
        "35 of 43 trials outside",
    ),
}


@pytest.mark.parametrize("what", NEEDED)
def test_every_defect_is_named_by_the_doctor_and_refused_by_the_importer(tree, tmp_path, what):
    (name, damage), key, found = NEEDED[what]
    path = tree / PLACES[FIRST] / name
    damage(path)
    bad = [f for f in examine(tree / PLACES[FIRST]) if not f.ok]
    assert [f.key for f in bad] == [key], bad
    assert bad[0].file == path
    assert bad[0].mend
    assert re.search(found, bad[0].found), bad[0].found
    with pytest.raises(UserError, match=found) as caught:
        import_ibl(tree / PLACES[FIRST], tmp_path / "out")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out/**/*.*"))


@pytest.mark.parametrize("what", TOLERATED)
def test_defects_that_the_importer_copes_with_are_named_too(tree, tmp_path, what):
    (name, damage), key, found = TOLERATED[what]
    damage(tree / PLACES[FIRST] / name)
    bad = [f for f in examine(tree / PLACES[FIRST]) if not f.ok]
    assert [(f.key, f.file.name) for f in bad] == [(key, name.split("/")[-1])], bad
    assert re.search(found, bad[0].found), bad[0].found
    r = read_recording(import_ibl(tree / PLACES[FIRST], tmp_path / "out") / "sessions" / f"{FIRST}.h5")
    assert (np.diff(r.spike_times) >= 0).all()
    assert len(r.stimuli) == (42 if "without end" in what else 43)


def test_missing_spikes_and_broken_tables(tree, tmp_path):
    (tree / PLACES[SECOND] / "alf" / "probe00" / "spikes.clusters.npy").unlink()
    found = [(f.key, f.found, f.file.name) for f in examine(tree / PLACES[SECOND]) if not f.ok]
    assert found == [("spikes.clusters.npy", "absent", "spikes.clusters.npy")]
    with pytest.raises(UserError, match=r"spikes.clusters.npy\): absent; expected a file: download it"):
        import_ibl(tree, tmp_path / "out")
    (tree / "sessions.pqt").write_bytes(b"no table")
    assert [f.key for f in examine(tree) if not f.ok] == ["file"]
    with pytest.raises(UserError, match=r"sessions.pqt is not a readable file"):
        import_ibl(tree, tmp_path / "out")
    assert [f.key for f in examine(tmp_path / "nowhere")] == ["sessions"]


def test_damaged_bytes_never_end_in_a_traceback(made, tmp_path):
    session = shutil.copytree(made[0] / PLACES[FIRST], tmp_path / "KS014" / "2019-12-07" / "001")
    rng = np.random.default_rng(0)
    names = [NEW + "/" + n for n in ("spikes.times.npy", "spikes.clusters.npy", "clusters.channels.npy")]
    names += [METRICS, UUIDS, TRIALS, POSITION, TIMES]
    for _ in range(25):
        path = session / names[rng.integers(len(names))]
        whole = path.read_bytes()
        content = bytearray(whole)
        for at in rng.integers(0, min(len(content), 4000), 8):
            content[at] = rng.integers(256)
        path.write_bytes(bytes(content))
        assert examine(session)
        with suppress(UserError):
            import_ibl(session, tmp_path / "out")
        path.write_bytes(whole)
