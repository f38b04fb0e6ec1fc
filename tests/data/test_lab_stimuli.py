"""The stimulus and unit tables of a lab's session: what is kept beside, images without pictures, units of time."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from neurobridge.cli import main
from neurobridge.data.audit import audit
from neurobridge.data.images import ImageSet
from neurobridge.data.quality import QualitySettings
from neurobridge.data.recording import Recording, read_recording, write_recording
from neurobridge.data.sources.lab import import_lab
from neurobridge.data.splits import split_of
from neurobridge.data.store import Session
from neurobridge.data.validation import validate_folder
from neurobridge.errors import UserError

ALL = QualitySettings(min_rate=None, max_isi_violations=None)


def imported(manifest: Path, out: Path) -> Recording:
    return read_recording(import_lab(manifest, out, quality=ALL) / "sessions" / "day1.h5")


def test_further_columns_of_a_csv_are_kept(write_lab, lab_tables, tmp_path):
    lab_tables["stimuli"] |= {
        "condition": ["warm", "cold"] * 4,
        "contrast": [0.1, 1.0, 0.5, ""] * 2,
        "rewarded": ["true", "False"] * 4,
        "block": ["007", "1_30", "2", "3"] * 2,
        "level": ["3", "-4"] * 4,
        "note": ["naïve", "", "two\twords", "x"] * 2,
        "": list(range(8)),
    }
    lab_tables["units"] |= {"good": ["True", "true", "false"], "code": ["01", "02", "03"], "depth": ["10", "", "20"]}
    r = imported(write_lab(tmp_path / "raw", lab_tables), tmp_path / "out")
    columns = r.stimuli.columns
    assert r.stimuli.condition.tolist() == ["warm", "cold"] * 4
    np.testing.assert_array_equal(columns["contrast"], [0.1, 1.0, 0.5, np.nan] * 2)
    assert (columns["rewarded"].dtype.kind, columns["rewarded"].tolist()) == ("b", [True, False] * 4)
    assert columns["block"].tolist() == ["007", "1_30", "2", "3"] * 2
    assert (columns["level"].dtype.kind, columns["level"].tolist()) == ("i", [3, -4] * 4)
    assert columns["note"].tolist() == ["naïve", "", "two\twords", "x"] * 2
    assert columns["trial_id"].tolist() == [str(k) for k in range(8)]
    assert set(columns) == {"contrast", "rewarded", "block", "level", "note", "trial_id"}
    assert (r.unit_columns["good"].dtype.kind, r.unit_columns["good"].tolist()) == ("b", [True, True, False])
    assert r.unit_columns["code"].tolist() == ["01", "02", "03"]
    np.testing.assert_array_equal(r.unit_columns["depth"], [10.0, np.nan, 20.0])


def test_dates_lists_and_gaps_of_a_parquet_file_are_kept(write_lab, lab_tables, tmp_path):
    manifest = write_lab(tmp_path / "raw", lab_tables, suffix=".parquet", stimuli={"columns": {"condition": "what"}})
    extra = {
        "what": [1, 2] * 4,
        "day": [datetime.date(2024, 5, 1)] * 8,
        "at": pd.to_datetime(["2024-05-01T10:00:00", None] * 4),
        "rf": [[1.5, 2.0], [3.0]] * 4,
        "seen": [True, None] * 4,
        "hit": [True, False] * 4,
        "reaction": [0.25, None] * 4,
        "name": ["a", None] * 4,
    }
    pd.DataFrame({**lab_tables["stimuli"], **extra}).to_parquet(tmp_path / "raw" / "stimuli.parquet")
    r = imported(manifest, tmp_path / "out")
    columns = r.stimuli.columns
    assert r.stimuli.condition.tolist() == ["1", "2"] * 4
    assert columns["day"].tolist() == ["2024-05-01"] * 8
    assert [text[:19] for text in columns["at"].tolist()] == ["2024-05-01T10:00:00", ""] * 4
    assert columns["rf"].tolist() == ["[1.5, 2.0]", "[3.0]"] * 4
    assert columns["seen"].tolist() == ["True", ""] * 4
    assert columns["hit"].dtype.kind == "b"
    np.testing.assert_array_equal(columns["reaction"], [0.25, np.nan] * 4)
    assert columns["name"].tolist() == ["a", ""] * 4


@pytest.mark.parametrize(
    ("table", "name", "why"),
    [
        ("stimuli", "start", "a field of ours"),
        ("stimuli", "keys", "of its own"),
        ("units", "_x", "do not begin with '_'"),
    ],
)
def test_names_that_no_column_can_have_are_refused(write_lab, lab_tables, tmp_path, table, name, why):
    lab_tables[table][name] = [1] * len(next(iter(lab_tables[table].values())))
    with pytest.raises(UserError, match=rf"{table}\.csv: a column cannot be called '{name}' .*{why}"):
        imported(write_lab(tmp_path / "raw", lab_tables), tmp_path / "out")


def test_such_names_are_refused_of_a_recording_too(write_lab, tmp_path):
    r = imported(write_lab(tmp_path / "raw"), tmp_path / "out")
    r.stimuli.columns["_hidden"] = np.zeros(8)
    with pytest.raises(UserError, match="'_hidden' cannot be the name of a column"):
        write_recording(r, tmp_path / "a.h5")


def test_one_picture_under_two_names_is_counted_through(write_lab, lab_tables, tmp_path):
    manifest = write_lab(tmp_path / "raw", lab_tables)
    pictures = tmp_path / "raw" / "images" / "set"
    (pictures / "1.png").write_bytes((pictures / "0.png").read_bytes())
    r = imported(manifest, tmp_path / "out")
    assert r.stimuli.repeat.tolist() == [0, 1, 0, 0, 2, 3, 1, 1], "0 and 1 are one image; the others as the table says"
    assert len({*zip(r.stimuli.image_id.tolist(), r.stimuli.repeat.tolist(), strict=True)}) == 8
    del lab_tables["stimuli"]["repeat"]
    write_lab(tmp_path / "raw", lab_tables)
    assert imported(manifest, tmp_path / "out").stimuli.repeat.tolist() == [0, 1, 0, 0, 2, 3, 1, 1]


def test_images_without_pictures_keep_their_names(write_lab, lab_tables, tmp_path, capsys):
    del lab_tables["stimuli"]["split"]
    manifest = write_lab(tmp_path / "raw", lab_tables, image_root=None, split="image", split_test=0.3, split_valid=0.2)
    r = imported(manifest, tmp_path / "out")
    names = lab_tables["stimuli"]["image_id"]
    assert r.stimuli.image_id.tolist() == names
    assert r.stimuli.split.tolist() == [split_of(name, test=0.3, valid=0.2) for name in names]
    assert r.stimuli.columns["image_path"].tolist() == lab_tables["stimuli"]["image_path"]
    assert all(finding.ok for finding in validate_folder(tmp_path / "out"))
    assert main(["data", "list", str(tmp_path / "out")]) == 0
    session = Session(r, window_ms=200)
    session.attach_images(ImageSet.from_pixels(np.zeros((1, 4, 4, 3), np.uint8)))
    assert (session.image_row == -1).all(), "a name is no picture that was lost"
    r.stimuli.image_id[:] = "0123456789abcdef"
    with pytest.raises(UserError, match="name images that are not in the image set"):
        Session(r, window_ms=200).attach_images(ImageSet.from_pixels(np.zeros((1, 4, 4, 3), np.uint8)))


def test_a_name_is_one_image_within_its_data_set(write_lab, lab_tables, tmp_path):
    out = tmp_path / "out"
    imported(write_lab(tmp_path / "one", lab_tables, image_root=None), out)
    lab_tables["stimuli"]["split"] = ["test", "train", "train", "valid"] * 2
    other = write_lab(tmp_path / "two", lab_tables, image_root=None, session_id="day2")
    with pytest.raises(UserError, match="in the split test that session day1 has in train"):
        import_lab(other, out, quality=ALL)
    foreign = write_lab(tmp_path / "three", lab_tables, image_root=None, session_id="day3", dataset="elsewhere")
    import_lab(foreign, out, quality=ALL)
    assert all(finding.ok for finding in validate_folder(out))
    assert not [leak for leak in audit(out) if leak.certain]


@pytest.mark.parametrize(
    ("declared", "onset", "length", "sentence"),
    [
        ({"stimuli": {"time_unit": "ms"}}, 1.0, 0.25, r"presentations of 0.00025 s, all within .*\(s taken for ms"),
        ({"stimuli": {"time_unit": "samples"}, "sampling_rate": 30000}, 1.0, 0.25, "expected a whole number"),
        ({"stimuli": {"time_unit": "samples"}, "sampling_rate": 30000}, 1, 1, "presentations of 3.33333e-05 s"),
        ({"stimuli": {"time_unit": "s"}}, 1000.0, 250.0, "outside the duration of 0 to 600 s"),
    ],
)
def test_stimulus_times_in_another_unit_than_declared(
    write_lab, lab_tables, tmp_path, declared, onset, length, sentence
):
    rows = [onset * (10 + 2 * k) for k in range(8)]
    lab_tables["stimuli"] |= {"onset": rows, "offset": [row + length for row in rows]}
    with pytest.raises(UserError, match=sentence):
        imported(write_lab(tmp_path / "raw", lab_tables, **declared), tmp_path / "out")


def test_short_flashes_throughout_a_session_are_no_mix_up(write_lab, lab_tables, tmp_path):
    lab_tables["stimuli"]["offset"] = [onset + 0.001 for onset in lab_tables["stimuli"]["onset"]]
    assert len(imported(write_lab(tmp_path / "raw", lab_tables), tmp_path / "out").stimuli) == 8


@pytest.mark.parametrize(("edges", "unit"), [([0.0, 0.05, 0.1], "ms"), ([0.0, 50.0, 100.0], "s")])
def test_bin_edges_in_another_unit_than_declared(write_lab, lab_tables, tmp_path, edges, unit):
    del lab_tables["spikes"]
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw" / "b.npz", values=np.ones((8, 2, 3)), bin_edges=np.array(edges))
    spikes = {"format": "npz", "path": "b.npz", "layout": "binned"}
    options = {"signal_kind": "binned_count", "spikes": spikes, "time_unit": unit, "stimuli": {"time_unit": "s"}}
    with pytest.raises(
        UserError, match=r"the bins span .* beside presentations of up to 0.25 s; is the time_unit right"
    ):
        imported(write_lab(tmp_path / "raw", lab_tables, **options), tmp_path / "out")


def test_all_missing_keys_are_named_at_once(write_lab, tmp_path):
    gone = {"subject": ..., "duration": ..., "split": ..., "image_root": ..., "time_unit": "samples"}
    manifest = write_lab(tmp_path / "raw", units={"path": "units.csv"}, **gone)
    text = manifest.read_text().replace("units:\n  format: csv\n", "units:\n")
    manifest.write_text(text)
    with pytest.raises(UserError) as caught:
        import_lab(manifest, tmp_path / "out")
    told = str(caught.value)
    for name in ("'subject'", "'duration'", "'units: format'", "no image_root and no split", "sampling_rate is None"):
        assert name in told
    assert "\n" not in told
