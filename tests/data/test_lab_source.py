"""A lab's own recordings: every declared format comes back exactly, and what cannot be right is one sentence."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import h5py
import numpy as np
import pynapple as nap
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pynwb import NWBHDF5IO, NWBFile
from pynwb.epoch import TimeIntervals

from neurobridge.cli import main
from neurobridge.data.images import ImageSet
from neurobridge.data.quality import QualitySettings
from neurobridge.data.recording import Recording, Stimuli, read_recording
from neurobridge.data.sources.lab import examine, import_lab, recognises, recording_from_tsgroup
from neurobridge.data.sources.lab.manifest import read_manifest
from neurobridge.errors import UserError

ALL = QualitySettings(min_rate=None, max_isi_violations=None)


def imported(manifest: Path, tmp: Path, quality: QualitySettings = ALL) -> Recording:
    return read_recording(import_lab(manifest, tmp / "out", quality=quality) / "sessions" / "day1.h5")


def by_unit(recording: Recording) -> dict[str, list[float]]:
    rows, times = recording.spike_units, recording.spike_times
    return {unit: np.sort(times[rows == row]).tolist() for row, unit in enumerate(recording.unit_ids.tolist())}


def expected(tables: dict) -> dict[str, list[float]]:
    spikes = tables["spikes"]
    trains: dict[str, list[float]] = {unit: [] for unit in tables["units"]["unit_id"]}
    for unit, time in zip(spikes["unit_id"], spikes["time"], strict=True):
        trains[unit].append(time)
    return trains


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_tables_come_back_exactly(write_lab, lab_tables, tmp_path, suffix):
    manifest = write_lab(tmp_path / "raw", lab_tables, suffix=suffix, units={"columns": {"snr": "snr"}})
    r = imported(manifest, tmp_path)
    assert by_unit(r) == expected(lab_tables)
    assert r.unit_keys == ["lab/monkeyA/day1/u1", "lab/monkeyA/day1/u2", "lab/monkeyA/day1/mua 3"]
    assert r.regions.tolist() == ["V1", "V4", "IT"]
    assert r.unit_columns["electrode_id"].tolist() == ["7", "7", "32"]
    assert r.unit_columns["snr"].tolist() == [2.5, 3.0, 1.25]
    assert (r.signal_kind, r.duration) == ("sorted", (0.0, 600.0))
    shown = lab_tables["stimuli"]
    assert r.stimuli.start.tolist() == shown["onset"]
    assert r.stimuli.end.tolist() == shown["offset"]
    assert r.stimuli.repeat.tolist() == shown["repeat"]
    assert r.stimuli.split.tolist() == shown["split"]
    assert r.stimuli.valid.tolist() == [True] * 7 + [False]
    images = ImageSet.read(tmp_path / "out" / "images.h5")
    rows = images.rows(r.stimuli.image_id)
    assert images.labels["name"][rows].tolist() == shown["image_id"]
    for path, row in zip(shown["image_path"], rows, strict=True):
        np.testing.assert_array_equal(images.pixels[row], np.asarray(Image.open(tmp_path / "raw" / "images" / path)))
    assert r.provenance["session_date"] == "2024-05-01"
    assert "kept 3 of 3 units" in r.provenance["quality"]
    assert "spikes" + suffix in r.provenance["spikes_hash"]


@st.composite
def tables(draw) -> dict:
    """Any sound tables: few units with any printable names, times in the declared unit, presentations in order."""
    printable = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), min_size=1, max_size=6)
    printable = printable.map(lambda text: unicodedata.normalize("NFC", text).strip()).filter(bool)  # as it is kept
    ids = draw(st.lists(printable.filter(str.strip), min_size=1, max_size=4, unique=True))
    unit = draw(st.sampled_from(["s", "ms", "samples"]))
    base = draw(st.sampled_from([0, 1]))
    if unit == "samples":
        time = st.integers(base, 600 * 30_000)
    else:
        time = st.floats(0, 600 if unit == "s" else 600_000, allow_subnormal=False)
    times = sorted(draw(st.lists(time, min_size=1, max_size=30)))
    rows = draw(st.lists(st.integers(0, len(ids) - 1), min_size=len(times), max_size=len(times)))
    areas = draw(st.lists(st.sampled_from(["V1", "V4", "IT", "unknown"]), min_size=len(ids), max_size=len(ids)))
    onsets = sorted(draw(st.lists(st.floats(0, 590), min_size=1, max_size=6, unique=True)))
    images = draw(st.lists(st.integers(0, 3), min_size=len(onsets), max_size=len(onsets)))
    return {
        "time_unit": unit,
        "index_base": base,
        "rows": rows,
        "spikes": {"time": times, "unit_id": [ids[row] for row in rows]},
        "units": {"unit_id": ids, "electrode_id": ["1"] * len(ids), "area": areas},
        "stimuli": {
            "onset": onsets,
            "offset": [t + 0.5 for t in onsets],
            "image_id": [f"im{i}" for i in images],
            "image_path": [f"set/{i}.png" for i in images],
            "split": [("train", "valid", "test", "none")[i] for i in images],
        },
    }


def in_seconds(times: list, unit: str, base: int) -> np.ndarray:
    values = np.asarray(times, dtype=np.float64)
    return {"s": values, "ms": values / 1000.0, "samples": (values - base) / 30_000.0}[unit]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
@given(made=tables())
def test_any_sound_table_comes_back_exactly(write_lab, tmp_path_factory, suffix, made):
    folder = tmp_path_factory.mktemp("any")
    unit, base, rows = made["time_unit"], made["index_base"], made["rows"]
    content = {name: made[name] for name in ("spikes", "units", "stimuli")}
    declared: dict = {"time_unit": unit, "index_base": base, "stimuli": {"time_unit": "s"}}
    declared |= {"sampling_rate": 30_000} if unit == "samples" else {}
    if suffix == ".npz":
        content["spikes"] = {"spike_times": made["spikes"]["time"], "spike_units": [row + base for row in rows]}
        declared["spikes"] = {"layout": "indices"}
    r = imported(write_lab(folder / "raw", content, suffix=suffix, **declared), folder)
    want = in_seconds(made["spikes"]["time"], unit, base)
    assert r.unit_ids.tolist() == made["units"]["unit_id"]
    assert r.regions.tolist() == made["units"]["area"]
    for row, train in enumerate(by_unit(r).values()):
        assert train == sorted(want[np.asarray(rows) == row].tolist())
    assert r.stimuli.start.tolist() == made["stimuli"]["onset"]
    assert r.stimuli.end.tolist() == made["stimuli"]["offset"]
    assert r.stimuli.split.tolist() == made["stimuli"]["split"]
    names = made["stimuli"]["image_id"]
    assert r.stimuli.repeat.tolist() == [names[:i].count(name) for i, name in enumerate(names)]


def spoil(tables: dict, what: str, row: int) -> dict:
    """Make one thing wrong in row ``row`` (of as many as there are); return what the manifest declares then."""
    spikes, units, shown = tables["spikes"], tables["units"], tables["stimuli"]
    at, unit, trial = row % len(spikes["time"]), row % len(units["unit_id"]), row % len(shown["onset"])
    declared: dict = {}
    if what == "negative time":
        spikes["time"][at] = -0.5
    elif what == "NaN time":
        spikes["time"][at] = float("nan")
    elif what == "text for a time":
        spikes["time"] = [*map(str, spikes["time"])]
        spikes["time"][at] = "later"
    elif what == "unsorted times":
        last = len(spikes["time"]) - 1 - spikes["unit_id"][::-1].index(spikes["unit_id"][0])
        spikes["time"][last] = spikes["time"][0] / 2
    elif what == "time after the end":
        spikes["time"][at] = 601.0
    elif what == "ms for s":
        spikes["time"] = [1000 * t for t in spikes["time"]]
    elif what == "s for ms":
        declared = {"time_unit": "ms", "stimuli": {"time_unit": "s"}}
    elif what == "ms for s, the duration too":
        spikes["time"] = [1000 * t for t in spikes["time"]]
        declared = {"duration": [0, 600_000]}
    elif what == "unknown unit":
        spikes["unit_id"][at] = "nobody"
    elif what == "unknown region":
        units["area"][unit] = "V44"
    elif what == "empty region":
        units["area"][unit] = ""
    elif what == "unit twice":
        units["unit_id"][unit] = units["unit_id"][unit - 1]
    elif what == "onset outside":
        shown["onset"][-1], shown["offset"][-1] = 700.0, 700.25
    elif what == "offset before onset":
        shown["offset"][trial] = shown["onset"][trial] - 0.1
    elif what == "missing image":
        shown["image_path"] = [p.replace("set/2.png", "set/9.png") for p in shown["image_path"]]
    elif what == "image in two splits":
        shown["split"][4 + trial % 4] = "none"
    elif what == "unknown split":
        shown["split"] = ["exam" if s == "test" else s for s in shown["split"]]
    elif what == "valid is no truth":
        shown["valid"][trial] = "perhaps"
    elif what == "repeat below 0":
        shown["repeat"][trial] = -1
    else:
        raise AssertionError(what)
    return declared


WRONG = {
    "negative time": r"spikes\.csv, line {at}: time is -0\.5, before the first moment.*; ",
    "NaN time": r"spikes\.csv, line {at}: 'time' is nan; mend or remove the row",
    "text for a time": r"spikes\.csv, line {at}: 'time' is 'later', expected a number",
    "unsorted times": r"spikes\.csv, line \d+: time .* comes after a later spike of unit .*; sort by time",
    "time after the end": r"spikes\.csv, line \d+: .*sort by time|spikes\.csv, line {at}: time is 601 .*0 to 600 s",
    "ms for s": r"spikes\.csv, line \d+: time is .*outside the duration of 0 to 600 s; is the time_unit right",
    "s for ms": r"spikes\.csv: unit 'mua 3' has 1500 spikes in 0\.\d+ s, more than 1000 a second; is the time_unit",
    "ms for s, the duration too": r"a recording of 167 h with 1200 spikes a unit; is the time_unit right",
    "unknown unit": r"spikes\.csv, line {at}: unit_id 'nobody' is not in units\.csv; add the unit there",
    "unknown region": r"units\.csv, line {unit}: area 'V44' is not among the areas of day1\.yaml \(V1, V4, IT\)",
    "empty region": r"units\.csv, line {unit}: 'area' is empty; fill it in",
    "unit twice": r"units\.csv, line \d+: unit_id '.*' was there before; give every unit an id of its own",
    "onset outside": r"stimuli\.csv, line 9: the onset is at 700 s, outside the duration of 0 to 600 s",
    "offset before onset": r"stimuli\.csv, line {trial}: the offset .* is not after the onset",
    "missing image": r"stimuli\.csv, line 4: the image 'set/9\.png' is not in .*images; add it.*\(2 such rows\)",
    "image in two splits": r"stimuli\.csv, line \d: image_id 'im\d' is in the split none, but the same picture .*line",
    "unknown split": r"stimuli\.csv, line 5: split is 'exam', expected train, valid, test or none",
    "valid is no truth": r"stimuli\.csv, line {trial}: 'valid' is 'perhaps', expected true or false",
    "repeat below 0": r"stimuli\.csv, line {trial}: repeat is -1; showings count from 0",
}


@pytest.mark.parametrize("what", WRONG)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.integers(0, 3000))
def test_what_cannot_be_right_is_one_sentence(write_lab, tmp_path_factory, what, row):
    from_conftest = write_lab.__globals__["example"]()
    folder = tmp_path_factory.mktemp("wrong")
    declared = spoil(from_conftest, what, row)
    lengths = {"at": ("spikes", "time"), "unit": ("units", "area"), "trial": ("stimuli", "onset")}
    lines = {name: row % len(from_conftest[table][column]) + 2 for name, (table, column) in lengths.items()}
    manifest = write_lab(folder / "raw", from_conftest, **declared)
    sentence = WRONG[what]
    for name, line in lines.items():
        sentence = sentence.replace(f"{{{name}}}", str(line))
    with pytest.raises(UserError, match=sentence) as caught:
        import_lab(manifest, folder / "out", quality=ALL)
    assert "\n" not in str(caught.value)
    assert not (folder / "out").exists(), "nothing half-written"
    broken = [finding for finding in examine(manifest) if not finding.ok]
    assert [finding.mend for finding in broken] == [str(caught.value)]


def test_index_base_is_checked_at_both_ends(write_lab, lab_tables, tmp_path):
    row = {unit: i for i, unit in enumerate(lab_tables["units"]["unit_id"])}
    index = [row[unit] for unit in lab_tables["spikes"]["unit_id"]]
    lab_tables["spikes"] = {"spike_times": lab_tables["spikes"]["time"], "spike_units": index}
    manifest = write_lab(tmp_path / "a", lab_tables, suffix=".npz", spikes={"layout": "indices"}, index_base=1)
    with pytest.raises(UserError, match=r"spike_units is 0, but with index_base 1 .* are 1 to 3; .*index_base: 0"):
        import_lab(manifest, tmp_path / "out")
    lab_tables["spikes"]["spike_units"] = [i + 1 for i in index]
    manifest = write_lab(tmp_path / "b", lab_tables, suffix=".npz", spikes={"layout": "indices"})
    with pytest.raises(UserError, match=r"spike_units is 3, but with index_base 0 .* are 0 to 2; .*index_base: 1"):
        import_lab(manifest, tmp_path / "out")


def test_no_unit_left_names_the_manifest(write_lab, tmp_path):
    with pytest.raises(UserError, match=r"day1\.yaml: session day1: no unit is left .*dropped 3"):
        import_lab(write_lab(tmp_path / "raw"), tmp_path / "out", quality=QualitySettings(min_rate=40.0))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tme_unit": "s"}, "unknown key 'tme_unit'; do you mean 'time_unit'"),
        ({"time_unit": ...}, "'time_unit' is missing; nothing is guessed"),
        ({"time_unit": "minutes"}, r"time_unit is 'minutes' \(str\), expected one of s, ms, samples"),
        ({"time_unit": "samples"}, "times are in samples but sampling_rate is None"),
        ({"sampling_rate": 30000}, "sampling_rate is given but no time is in samples"),
        ({"index_base": True}, "index_base is 'True'"),
        ({"signal_kind": "lfp"}, "signal_kind is 'lfp'"),
        ({"session_id": 20240501}, "session_id is '20240501' .*put it in quotes"),
        ({"subject": "a/b"}, "subject is 'a/b': use letters"),
        ({"session_date": "yesterday"}, "session_date is 'yesterday' .*YYYY-MM-DD"),
        ({"duration": 600}, "duration is '600' .*two numbers"),
        ({"duration": [600, 0]}, r"duration is \[600, 0\]"),
        ({"areas": []}, "areas is empty"),
        ({"image_root": ...}, "stimuli are given but no image_root"),
        ({"image_root": "nowhere"}, "image_root .*nowhere is not a folder"),
        ({"split": ...}, "stimuli are given but no split"),
        ({"split": "concept"}, "has no column 'concept'"),
        ({"split_test": 1.5}, "split_test and split_valid are 1.5"),
        ({"spikes": {"layout": "binned"}}, "it needs stimuli and the signal_kind binned_count or mua_envelope"),
        ({"spikes": {"format": "tsgroup"}, "time_unit": "ms"}, "tsgroup, whose times are in s"),
        ({"spikes": {"path": "nowhere.csv"}}, "no file at .*nowhere.csv, which a manifest names"),
        ({"spikes": {"columns": {"time": "t"}}}, r"has no column 't' \(our 'time'\); it holds time, unit_id"),
        ({"spikes": {"columns": {"tiem": "time"}}}, "name 'tiem', which nothing reads"),
        ({"units": {"format": "tsgroup"}}, "units cannot have the format tsgroup"),
        ({"signal_kind": "mua_envelope"}, "has no column 'value'"),
    ],
)
def test_manifest_says_too_little_or_too_much(write_lab, tmp_path, changes, sentence):
    manifest = write_lab(tmp_path / "raw", **changes)
    with pytest.raises(UserError, match=sentence) as caught:
        import_lab(manifest, tmp_path / "out")
    assert str(tmp_path) in str(caught.value)
    assert any(not finding.ok for finding in examine(manifest))


def test_manifest_that_is_no_yaml_or_none(tmp_path):
    (tmp_path / "a.yaml").write_text("spikes: [1, 2\nsignal_kind: x")
    with pytest.raises(UserError, match=r"a\.yaml is not a readable YAML manifest"):
        import_lab(tmp_path, tmp_path / "out")
    (tmp_path / "a.yaml").write_text("time_unit: s\nspikes: {}\ntime_unit: ms\n")
    with pytest.raises(
        UserError, match=r"a\.yaml is not a readable YAML manifest \(line 3: the key 'time_unit' is there twice"
    ):
        import_lab(tmp_path, tmp_path / "out")
    (tmp_path / "a.yaml").write_text("- 1")
    with pytest.raises(UserError, match="holds a list, expected keys and values"):
        import_lab(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="no manifest at"):
        import_lab(tmp_path / "b.yaml", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no manifest"):
        import_lab(tmp_path / "empty", tmp_path / "out")


def test_one_table_of_many_sessions_and_a_second_import(write_lab, lab_tables, tmp_path):
    first = lab_tables["spikes"]
    for table in lab_tables.values():
        count = len(next(iter(table.values())))
        for name, column in table.items():
            table[name] = column * 2
        table["session_id"] = ["day1"] * count + ["day2"] * count
    write_lab(tmp_path / "raw", lab_tables)
    write_lab(tmp_path / "raw", lab_tables, session_id="day2")
    out = import_lab(tmp_path / "raw", tmp_path / "out", quality=ALL)
    files = sorted((out / "sessions").glob("*.h5"))
    assert [file.stem for file in files] == ["day1", "day2"]
    assert len(read_recording(files[1]).spike_times) == len(first["time"]) / 2
    assert len(ImageSet.read(out / "images.h5")) == 4
    written = [file.stat().st_mtime_ns for file in files]
    import_lab(tmp_path / "raw", out, quality=ALL)
    assert written == [file.stat().st_mtime_ns for file in files]
    import_lab(tmp_path / "raw", out)
    assert all(a != file.stat().st_mtime_ns for a, file in zip(written, files, strict=True)), "other thresholds"
    write_lab(tmp_path / "raw", session_id="day3")
    lab_tables["spikes"]["session_id"] = ["day9"] * len(lab_tables["spikes"]["time"])
    write_lab(tmp_path / "late", lab_tables)
    with pytest.raises(UserError, match=r"no row of session 'day1' \(session_ids there: day9\)"):
        import_lab(tmp_path / "late", tmp_path / "out")


def test_one_picture_has_one_split_in_all_sessions(write_lab, lab_tables, tmp_path):
    import_lab(write_lab(tmp_path / "one"), tmp_path / "out", quality=ALL)
    lab_tables["stimuli"]["split"] = ["test"] * 8
    other = write_lab(tmp_path / "two", lab_tables, session_id="day2")
    with pytest.raises(UserError, match="in the split test that session day1 has in train; give one picture one split"):
        import_lab(other, tmp_path / "out", quality=ALL)


def test_same_content_under_two_names_in_two_splits(write_lab, lab_tables, tmp_path):
    manifest = write_lab(tmp_path / "raw", lab_tables)
    images = tmp_path / "raw" / "images" / "set"
    (images / "3.png").write_bytes((images / "0.png").read_bytes())
    with pytest.raises(UserError, match=r"line 5: image_id 'im3' is in the split test, but the same picture .image_id"):
        import_lab(manifest, tmp_path / "out")


def test_splits_by_content_and_by_concept(write_lab, lab_tables, tmp_path):
    del lab_tables["stimuli"]["split"]
    lab_tables["stimuli"]["concept"] = ["cat", "cat", "dog", "dog"] * 2
    r = imported(write_lab(tmp_path / "a", lab_tables, split="image", split_test=0.5), tmp_path / "a")
    per_image = {(key, split) for key, split in zip(r.stimuli.image_id.tolist(), r.stimuli.split.tolist(), strict=True)}
    assert len(per_image) == 4
    r = imported(write_lab(tmp_path / "b", lab_tables, split="concept", split_test=0.5, split_seed=2), tmp_path / "b")
    assert len(set(r.stimuli.split[[0, 1, 4, 5]].tolist())) == 1
    assert "seed 2" in r.provenance["split"]
    assert ImageSet.read(tmp_path / "b" / "out" / "images.h5").labels["concept"].tolist() == [
        "cat",
        "cat",
        "dog",
        "dog",
    ]


def test_without_pictures_and_without_stimuli(write_lab, lab_tables, tmp_path):
    r = imported(write_lab(tmp_path / "a", lab_tables, image_root=None), tmp_path / "a")
    assert r.stimuli.image_id.tolist() == lab_tables["stimuli"]["image_id"], "the lab's own names"
    assert r.stimuli.repeat.tolist() == [0] * 4 + [1] * 4
    assert not (tmp_path / "a" / "out" / "images.h5").exists()
    del lab_tables["stimuli"]
    r = imported(write_lab(tmp_path / "b", lab_tables, image_root=..., split=...), tmp_path / "b")
    assert r.stimuli is None


@pytest.mark.parametrize("kind", ["binned_count", "mua_envelope"])
def test_binned_values(write_lab, lab_tables, tmp_path, kind):
    values = np.random.default_rng(0).poisson(2.0, (8, 2, 3)).astype(np.float32)
    del lab_tables["spikes"]
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw" / "b.npz", values=values, bin_edges=np.array([0.0, 100.0, 250.0]))
    spikes = {"format": "npz", "path": "b.npz", "layout": "binned"}
    options = {"signal_kind": kind, "time_unit": "ms", "stimuli": {"time_unit": "s"}, "spikes": spikes}
    manifest = write_lab(tmp_path / "raw", lab_tables, **options)
    r = imported(manifest, tmp_path)
    onset = np.array(lab_tables["stimuli"]["onset"])
    trial = np.searchsorted(onset, r.spike_times, side="right") - 1
    bins = (r.spike_times - onset[trial] > 0.1).astype(int)
    back = np.full(values.shape, np.nan, np.float32)
    back[trial, bins, r.spike_units] = r.spike_values
    np.testing.assert_array_equal(back, values)
    np.testing.assert_allclose(np.unique((r.spike_times - onset[trial]).round(6)), [0.05, 0.175])
    np.savez(tmp_path / "raw" / "b.npz", values=values.transpose(2, 1, 0), bin_edges=np.array([0.0, 100.0, 250.0]))
    with pytest.raises(UserError, match=r"shape \(3, 2, 8\), expected \(8, 2, 3\): presentations"):
        import_lab(manifest, tmp_path / "out")
    values[5, 1, 2] = np.nan
    np.savez(tmp_path / "raw" / "b.npz", values=values, bin_edges=np.array([0.0, 100.0, 250.0]))
    with pytest.raises(UserError, match=r"values\[5, 1, 2\] is nan \(1 such values\)"):
        import_lab(manifest, tmp_path / "out")


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_matlab_files(write_lab, lab_tables, tmp_path, version):
    row = {unit: i + 1.0 for i, unit in enumerate(lab_tables["units"]["unit_id"])}
    times = np.array(lab_tables["spikes"]["time"])
    index = np.array([row[unit] for unit in lab_tables["spikes"]["unit_id"]])
    want = expected(lab_tables)
    del lab_tables["spikes"]
    (tmp_path / "raw").mkdir()
    path = tmp_path / "raw" / "s.mat"
    if version == "5":
        scipy.io.savemat(path, {"spike_times": times[None], "clu": index[:, None]})
    else:
        with h5py.File(path, "w", userblock_size=512) as file:
            for name, array in (("spike_times", times[:, None]), ("clu", index[None])):
                file.create_dataset(name, data=array).attrs["MATLAB_class"] = np.bytes_("double")
    spikes = {"format": "mat", "path": "s.mat", "layout": "indices", "columns": {"spike_units": "clu"}}
    r = imported(write_lab(tmp_path / "raw", lab_tables, spikes=spikes, index_base=1), tmp_path)
    assert by_unit(r) == want


def test_matlab_cell_arrays_of_text(write_lab, lab_tables, tmp_path):
    (tmp_path / "raw").mkdir()
    units = {name: np.array(column, dtype=object) for name, column in lab_tables["units"].items() if name != "snr"}
    scipy.io.savemat(tmp_path / "raw" / "u5.mat", units)
    with h5py.File(tmp_path / "raw" / "u73.mat", "w", userblock_size=512) as file:
        for name, column in units.items():
            refs = np.empty((1, len(column)), dtype=h5py.ref_dtype)
            for i, text in enumerate(column.tolist()):
                codes = np.array([[ord(letter)] for letter in text], dtype=np.uint16)
                refs[0, i] = file.create_dataset(f"#refs#/{name}{i}", data=codes).ref
            file.create_dataset(name, data=refs).attrs["MATLAB_class"] = np.bytes_("cell")
    for name in ("u5.mat", "u73.mat"):
        r = imported(write_lab(tmp_path / "raw", lab_tables, units={"format": "mat", "path": name}), tmp_path)
        assert r.unit_ids.tolist() == lab_tables["units"]["unit_id"]
        assert r.regions.tolist() == ["V1", "V4", "IT"]


def write_nwb(path: Path, tables: dict) -> None:
    """The example as pynwb writes it; units in one electrode each, presentations in an interval table."""
    import datetime

    nwb = NWBFile("a session", "id", datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC))
    group = nwb.create_electrode_group("g", "a shank", "cortex", nwb.create_device("probe"))
    for number, area in ((40, "IT"), (41, "V4"), (42, "V1")):
        nwb.add_electrode(id=number, location=area, group=group)
    nwb.add_unit_column("unit_name", "the lab's own name")
    trains = expected(tables)
    for i, unit in enumerate(tables["units"]["unit_id"]):
        nwb.add_unit(spike_times=trains[unit], electrodes=[2 - i], unit_name=unit)
    shown = TimeIntervals(name="pictures", description="presentations")
    for name in ("image_id", "image_path", "split"):
        shown.add_column(name, name)
    stimuli = tables["stimuli"]
    for i, onset in enumerate(stimuli["onset"]):
        row = {name: stimuli[name][i] for name in ("image_id", "image_path", "split")}
        shown.add_interval(start_time=onset, stop_time=stimuli["offset"][i], **row)
    nwb.add_time_intervals(shown)
    with NWBHDF5IO(path, "w") as io:
        io.write(nwb)


def test_nwb_with_declared_tables_and_columns(write_lab, lab_tables, tmp_path):
    (tmp_path / "raw").mkdir()
    write_nwb(tmp_path / "raw" / "x.nwb", lab_tables)
    nwb = {"format": "nwb", "path": "x.nwb"}
    of_unit = {"unit_id": "unit_name", "area": "electrodes.location", "electrode_id": "electrodes.id"}
    sections = {
        "spikes": {**nwb, "table": "units", "columns": {"time": "spike_times", "unit_id": "unit_name"}},
        "units": {**nwb, "table": "units", "columns": of_unit},
        "stimuli": {**nwb, "table": "intervals/pictures", "columns": {"onset": "start_time", "offset": "stop_time"}},
    }
    r = imported(write_lab(tmp_path / "raw", {}, **sections), tmp_path)
    assert by_unit(r) == expected(lab_tables)
    assert r.regions.tolist() == ["V1", "V4", "IT"]
    assert r.unit_columns["electrode_id"].tolist() == ["42", "41", "40"]
    assert r.stimuli.start.tolist() == lab_tables["stimuli"]["onset"]
    assert r.stimuli.split.tolist() == lab_tables["stimuli"]["split"]
    sections["stimuli"]["table"] = "intervals/images"
    with pytest.raises(UserError, match="has no table 'intervals/images'; beside it there are pictures"):
        import_lab(write_lab(tmp_path / "raw", {}, **sections), tmp_path / "out")


def tsgroup(tables: dict) -> nap.TsGroup:
    support = nap.IntervalSet(0, 600)
    trains = [nap.Ts(np.array(t)) for t in expected(tables).values()]
    return nap.TsGroup(dict(enumerate(trains)), time_support=support, metadata={"area": tables["units"]["area"]})


def test_saved_tsgroup(write_lab, lab_tables, tmp_path):
    (tmp_path / "raw").mkdir()
    tsgroup(lab_tables).save(str(tmp_path / "raw" / "group.npz"))
    want = list(expected(lab_tables).values())
    lab_tables["units"]["unit_id"] = ["0", "1", "2"]
    del lab_tables["spikes"]
    r = imported(write_lab(tmp_path / "raw", lab_tables, spikes={"format": "tsgroup", "path": "group.npz"}), tmp_path)
    assert list(by_unit(r).values()) == want
    np.savez(tmp_path / "raw" / "group.npz", t=np.zeros(3))
    with pytest.raises(UserError, match="is not a saved TsGroup"):
        import_lab(tmp_path / "raw", tmp_path / "out")


def test_tsgroup_in_memory(lab_tables):
    group = tsgroup(lab_tables)
    r = recording_from_tsgroup(group, subject="monkeyA", session="day1", regions="area")
    assert list(by_unit(r).values()) == list(expected(lab_tables).values())
    assert (r.unit_ids.tolist(), r.regions.tolist(), r.duration) == (["0", "1", "2"], ["V1", "V4", "IT"], (0.0, 600.0))
    with pytest.raises(UserError, match="no metadata column 'region'"):
        recording_from_tsgroup(group, subject="monkeyA", session="day1", regions="region")
    with pytest.raises(UserError, match="2 regions for 3 units"):
        recording_from_tsgroup(group, subject="monkeyA", session="day1", regions=["V1", "V4"])
    with pytest.raises(UserError, match="holds times only"):
        recording_from_tsgroup(group, subject="a", session="b", regions="area", signal_kind="binned_count")
    valued = nap.TsGroup({4: nap.Tsd(np.array([0.5, 1.5]), np.array([3.0, 0.0]))}, time_support=nap.IntervalSet(0, 2))
    one = np.ones(1)
    shown = Stimuli(
        start=0.4 * one,
        end=0.6 * one,
        image_id=np.array(["x"]),
        repeat=0 * one,
        split=np.array(["train"]),
        valid=one > 0,
    )
    r = recording_from_tsgroup(
        valued, subject="a", session="b", regions=["V4"], signal_kind="binned_count", stimuli=shown
    )
    assert (r.spike_values.tolist(), len(r.stimuli)) == ([3.0, 0.0], 1)


@pytest.mark.parametrize("layout", ["folder", "old folder", "npz"])
def test_saved_spikeinterface_sorting(write_lab, lab_tables, tmp_path, layout):
    """The layouts of spikeinterface 0.105: sorting.save(folder=...), the npz folder of before 0.99, write_sorting."""
    ids = lab_tables["units"]["unit_id"]
    samples = np.round(np.array(lab_tables["spikes"]["time"]) * 30_000).astype(np.int64)
    row = np.array([ids.index(unit) for unit in lab_tables["spikes"]["unit_id"]])
    folder = tmp_path / "raw" / "sorting"
    folder.mkdir(parents=True)
    if layout == "folder":
        fields = [("sample_index", "int64"), ("unit_index", "int64"), ("segment_index", "int64")]
        spikes = np.zeros(len(samples), dtype=fields)
        spikes["sample_index"], spikes["unit_index"] = samples, row
        np.save(folder / "spikes.npy", spikes)
        info = {"sampling_frequency": 30_000.0, "unit_ids": ids, "num_segments": 1}
        (folder / "numpysorting_info.json").write_text(json.dumps(info))
    else:
        arrays = {"unit_ids": np.array(ids), "num_segment": np.array([1]), "sampling_frequency": np.array([30_000.0])}
        arrays |= {"spike_indexes_seg0": samples, "spike_labels_seg0": np.array(ids)[row]}
        np.savez(folder / "sorting_cached.npz", **arrays)
    del lab_tables["spikes"]
    path = "sorting/sorting_cached.npz" if layout == "npz" else "sorting"
    options = {"time_unit": "samples", "sampling_rate": 30_000, "stimuli": {"time_unit": "s"}}
    manifest = write_lab(tmp_path / "raw", lab_tables, spikes={"format": "spikeinterface", "path": path}, **options)
    r = imported(manifest, tmp_path)
    assert r.spike_times.tolist() == (samples / 30_000).tolist()
    assert r.unit_ids[r.spike_units].tolist() == np.array(ids)[row].tolist()
    options["sampling_rate"] = 25_000
    write_lab(tmp_path / "raw", lab_tables, spikes={"format": "spikeinterface", "path": path}, **options)
    with pytest.raises(UserError, match=r"was sampled at 30000 Hz but day1\.yaml declares 25000"):
        import_lab(manifest, tmp_path / "out")


def test_a_sorting_that_spikeinterface_itself_saved(write_lab, lab_tables, tmp_path):
    core = pytest.importorskip("spikeinterface.core")
    ids = lab_tables["units"]["unit_id"]
    samples = np.round(np.array(lab_tables["spikes"]["time"]) * 30_000).astype(np.int64)
    labels = np.array(lab_tables["spikes"]["unit_id"])
    sorting = core.NumpySorting.from_samples_and_labels([samples], [labels], 30_000.0, unit_ids=ids)
    (tmp_path / "raw").mkdir()
    sorting.save(folder=tmp_path / "raw" / "sorting")
    del lab_tables["spikes"]
    options = {"time_unit": "samples", "sampling_rate": 30_000, "stimuli": {"time_unit": "s"}}
    spikes = {"format": "spikeinterface", "path": "sorting"}
    r = imported(write_lab(tmp_path / "raw", lab_tables, spikes=spikes, **options), tmp_path)
    assert r.spike_times.tolist() == (samples / 30_000).tolist()


def test_examine_names_columns_and_recognises_manifests(write_lab, lab_tables, tmp_path):
    manifest = write_lab(tmp_path / "raw", lab_tables)
    found = {finding.key: finding for finding in examine(manifest)}
    assert all(finding.ok for finding in found.values())
    assert found["time"].found == "text [3600]"
    assert found["time"].expected == "numbers in s"
    assert "3 units, 3600 events, 4 pictures" in found["contents"].found
    assert recognises(manifest)
    assert recognises(tmp_path / "raw")
    assert not recognises(tmp_path)
    assert not recognises(tmp_path / "raw" / "spikes.csv")
    del lab_tables["spikes"]["unit_id"]
    manifest = write_lab(tmp_path / "raw", lab_tables)
    bad = [finding for finding in examine(manifest) if not finding.ok]
    assert [finding.key for finding in bad] == ["unit_id", "contents"]
    assert bad[0].file.name == "spikes.csv"
    (tmp_path / "raw" / "spikes.csv").write_text("/annex/objects/MD5-s12--abc")
    assert any("pointer" in finding.mend for finding in examine(manifest))


def test_a_csv_with_another_shape_of_trouble(write_lab, lab_tables, tmp_path):
    manifest = write_lab(tmp_path / "raw", lab_tables)
    csv = tmp_path / "raw" / "spikes.csv"
    for content, sentence in (
        ("", "is empty"),
        ("time,unit_id\n", "holds no spikes of session day1"),
        ("time,unit_id\n1,5,u1\n2,5,u1\n", "2 column names but more values a line"),
        ("time,unit_id\n1.5,u1\n1,5,u1\n", "a line unlike its header .*line 3"),
        ("time;unit_id\n1,5;u1\n", "line 2: 'time' is '1,5', expected a number; write decimal points, not commas"),
        ("time,unit_id,time\n1,u1,2\n", "two columns named 'time'"),
        ("time,unit_id\n1.5,u1\n2.5\n", "line 3 has 1 values, and the header 2"),
        ("time,unit_id\n\n1.5,u1\n", "line 2: 'time' is empty|line 2: 'unit_id' is empty"),
    ):
        csv.write_text(content)
        with pytest.raises(UserError, match=sentence):
            import_lab(manifest, tmp_path / "out")


def test_manifest_paths_are_relative_to_it(write_lab, tmp_path, monkeypatch):
    manifest = write_lab(tmp_path / "raw")
    monkeypatch.chdir(tmp_path / "raw")
    assert read_manifest(Path("day1.yaml")).session_id == "day1"
    import_lab(Path("day1.yaml"), Path("out"), quality=ALL)
    assert (tmp_path / "raw" / "out" / "sessions" / "day1.h5").is_file()
    assert manifest.is_file()


def test_example_of_the_documentation(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "data-format.md").read_text()
    files = dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
    assert list(files) == ["day1.yaml", "spikes.csv", "units.csv", "stimuli.csv"]
    for name, content in files.items():
        Path(name).write_text(content)
    Path("pictures").mkdir()
    for name, grey in (("a.png", 50), ("b.png", 200)):
        Image.fromarray(np.full((16, 16, 3), grey, np.uint8)).save(Path("pictures") / name)
    assert main(["data", "import", "lab", "day1.yaml", "--out", "DIR"]) == 0
    assert main(["data", "validate", "DIR"]) == 0
    r = read_recording("DIR/sessions/day1.h5")
    assert r.unit_keys == ["ourlab/monkeyA/day1/u0", "ourlab/monkeyA/day1/u1"]
    assert by_unit(r) == {"u0": [0.56025, 1.61, 2.5925], "u1": [0.5715, 1.62375, 2.588]}
    assert r.stimuli.start.tolist() == [0.5, 1.5, 2.5]
    assert r.stimuli.image_id[0] == r.stimuli.image_id[2] != r.stimuli.image_id[1]
    assert "Traceback" not in capsys.readouterr().err
