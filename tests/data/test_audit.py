"""The leakage audit finds what was planted, and nothing in a clean folder."""

import json

import numpy as np
import pytest

from neurobridge.cli import main
from neurobridge.data.audit import Leak, audit, audit_record, difference_hash, thumbnails
from neurobridge.data.images import ImageSet
from neurobridge.data.recording import Recording, Stimuli, read_recording, write_recording
from neurobridge.errors import UserError

SPLIT = ("train",) * 6 + ("valid",) * 2 + ("test",) * 4


def pictures() -> np.ndarray:
    """Twelve smooth random pictures [12, 24, 24, 3]."""
    coarse = np.random.default_rng(1).uniform(0, 255, (12, 6, 6, 3))
    return coarse.repeat(4, 1).repeat(4, 2).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path, pictures())
    return tmp_path


def write_folder(path, pixels, labels=None) -> None:
    images = ImageSet.from_pixels(pixels, labels)
    images.write(path / "images.h5")
    for session in ("day1", "day2"):
        start = np.arange(12) * 0.5
        stimuli = Stimuli(
            start=start,
            end=start + 0.25,
            image_id=images.ids,
            repeat=np.zeros(12, int),
            split=np.array(SPLIT),
            valid=np.ones(12, bool),
        )
        recording = Recording(
            dataset="lab",
            subject="monkey",
            session=session,
            signal_kind="sorted",
            spike_times=np.array([0.1, 5.9]),
            spike_units=np.array([0, 0]),
            unit_ids=np.array(["u"]),
            regions=np.array(["V4"]),
            duration=(0.0, 7.0),
            stimuli=stimuli,
        )
        write_recording(recording, path / "sessions" / f"{session}.h5")


def change(folder, session: str, column: str, row: int, value) -> None:
    file = folder / "sessions" / f"{session}.h5"
    recording = read_recording(file)
    getattr(recording.stimuli, column)[row] = value
    write_recording(recording, file)


def only(leaks: list[Leak]) -> Leak:
    assert len(leaks) == 1, leaks
    return leaks[0]


def test_a_clean_folder_has_no_leak(folder, capsys):
    assert audit(folder) == []
    assert main(["data", "audit", str(folder)]) == 0
    assert "no leak" in capsys.readouterr().out


def test_one_picture_in_two_splits(folder, capsys):
    change(folder, "day2", "split", 10, "train")
    leak = only(audit(folder))
    assert (leak.kind, leak.splits, leak.count, leak.of, leak.certain) == ("duplicate", ("train", "test"), 1, 12, True)
    key = read_recording(folder / "sessions" / "day1.h5").stimuli.image_id[10]
    assert leak.examples == [f"{key}: train in day2, test in day1"]
    assert audit(folder, sessions=["day1"]) == []
    change(folder, "day2", "valid", 10, False)
    assert audit(folder) == [], "what is not valid is not used"
    change(folder, "day2", "valid", 10, True)
    assert main(["data", "audit", str(folder)]) == 2
    assert "1 leaks that no split may have (duplicate" in capsys.readouterr().err


def test_presentations_and_windows_that_overlap(folder):
    change(folder, "day1", "end", 7, 4.1)
    leak = only(audit(folder))
    assert (leak.kind, leak.splits, leak.where, leak.count) == ("overlap", ("valid", "test"), "session day1", 1)
    assert leak.examples == ["test presentation at 4.000 s"]
    change(folder, "day1", "end", 7, 4.0)
    assert audit(folder) == [], "touching is not overlapping"
    assert audit(folder, window_ms=500) == []
    wide = audit(folder, window_ms=600)
    assert {(leak.kind, leak.splits) for leak in wide} == {
        ("overlap", ("train", "valid")),
        ("overlap", ("valid", "test")),
    }
    assert len(wide) == 4
    long = audit(folder, window_ms=1600)
    assert ("train", "test") in {leak.splits for leak in long}
    assert audit(folder, window_ms=500, offset_ms=-100) == []


def test_a_near_duplicate_is_found_and_a_plain_picture_is_not(tmp_path, capsys):
    pixels = pictures()
    noise = np.random.default_rng(2).integers(-4, 5, pixels[0].shape)
    pixels[9] = np.clip(pixels[2].astype(int) + noise, 0, 255)
    pixels[3], pixels[10] = 40, 200
    write_folder(tmp_path, pixels)
    leak = only(audit(tmp_path))
    assert (leak.kind, leak.splits, leak.count, leak.of, leak.certain) == (
        "near_duplicate",
        ("train", "test"),
        1,
        4,
        False,
    )
    ids = ImageSet.read(tmp_path / "images.h5").ids
    assert leak.examples == [f"test {ids[9]} is like train {ids[2]}"]
    assert main(["data", "audit", str(tmp_path)]) == 0, "to be known, not forbidden"
    assert "near_duplicate" in capsys.readouterr().out


def test_shared_concepts(tmp_path):
    concept = np.array([f"c{i}" for i in range(8)] + ["c0", "c7", "x", "y"])
    write_folder(tmp_path, pictures(), {"concept": concept})
    found = {leak.splits: leak for leak in audit(tmp_path)}
    assert set(found) == {("train", "test"), ("valid", "test")}
    assert (found["train", "test"].examples, found["train", "test"].of) == (["c0"], 4)


def test_the_record_is_plain_json(folder):
    change(folder, "day2", "split", 10, "train")
    record = audit_record(folder, window_ms=200)
    assert json.loads(json.dumps(record)) == record
    assert record["certain"] == 1
    assert record["leaks"][0]["kind"] == "duplicate"
    assert record["options"] == {"window_ms": 200}


def test_missing_and_broken_folders(folder, tmp_path_factory):
    with pytest.raises(UserError, match="no sessions under"):
        audit(tmp_path_factory.mktemp("empty"))
    with pytest.raises(UserError, match="'day9' is not in"):
        audit(folder, sessions=["day9"])
    file = folder / "sessions" / "day1.h5"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"day1\.h5 is cut off"):
        audit(folder)


def test_hash_and_thumbnails_of_any_size():
    small = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    assert difference_hash(small).shape == (3,)
    assert len(set(difference_hash(pictures()).tolist())) == 12
    plain = np.full((1, 30, 20, 3), 51, dtype=np.uint8)
    np.testing.assert_allclose(thumbnails(plain, 16), 0.2, rtol=1e-6)
    ramp = np.broadcast_to(np.arange(0, 180, 10, dtype=np.uint8)[None, None, :, None], (1, 16, 18, 3))
    assert difference_hash(ramp)[0] == 2**64 - 1
    assert difference_hash(ramp[:, :, ::-1])[0] == 0
