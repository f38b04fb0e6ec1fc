"""A session is (dataset, subject, session), several may write one folder at once, and what is there decides."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from neurobridge.cli import main
from neurobridge.data.datamodule import open_sessions
from neurobridge.data.images import ImageSet
from neurobridge.data.importing import add_images, is_there, write_session
from neurobridge.data.quality import QualitySettings
from neurobridge.data.recording import Recording, Stimuli, read_recording
from neurobridge.data.sessions import Identity, file_of, identity_of, locked
from neurobridge.data.sources.lab import import_lab
from neurobridge.data.validation import validate_folder
from neurobridge.errors import UserError

ALL = QualitySettings(min_rate=None, max_isi_violations=None)


def recording(*, dataset: str = "lab", subject: str = "ann", session: str = "day1", seed: int = 0) -> Recording:
    rng = np.random.default_rng(seed)
    return Recording(
        dataset=dataset, subject=subject, session=session, signal_kind="sorted",
        spike_times=np.sort(rng.uniform(0, 60, 300)), spike_units=rng.integers(0, 2, 300),
        unit_ids=np.array(["a", "b"]), regions=np.array(["V1", "V4"]), duration=(0.0, 60.0),
    )  # fmt: skip


def sound(folder: Path) -> bool:
    return all(finding.ok for finding in validate_folder(folder))


def test_sessions_of_one_name_stand_beside_each_other(tmp_path, capsys):
    first = write_session(recording(), tmp_path)
    second = write_session(recording(subject="bob", seed=1), tmp_path)
    third = write_session(recording(dataset="other", subject="bob", seed=2), tmp_path)
    assert [p.stem for p in (first, second, third)] == ["day1", "bob_day1", "other_bob_day1"]
    assert "stored beside another session day1, as it is lab/bob/day1" in capsys.readouterr().out
    for path, seed in ((first, 0), (second, 1), (third, 2)):
        assert len(read_recording(path).spike_times) == 300
        assert read_recording(path).spike_times[0] == recording(seed=seed).spike_times[0]
    assert write_session(recording(subject="bob", seed=3), tmp_path) == second, "its own file, once more"
    assert file_of(tmp_path, identity_of(third)) == third
    sessions = open_sessions(tmp_path, window_ms=200)
    assert [s.name for s in sessions] == ["bob_day1", "day1", "other_bob_day1"]
    assert len({key for s in sessions for key in s.recording.unit_keys}) == 6
    assert sound(tmp_path)
    for twin in ("other_bob_day1", "bob_other_bob_day1", "x_bob_other_bob_day1"):  # taken, as odd as that may be
        write_session(recording(dataset="y", session=twin), tmp_path)
    with pytest.raises(UserError, match="holds other sessions under every name for x/bob/other_bob_day1"):
        file_of(tmp_path, Identity("x", "bob", "other_bob_day1"))


def test_one_session_in_two_files_is_refused(tmp_path):
    path = write_session(recording(), tmp_path)
    shutil.copy(path, path.with_name("again.h5"))
    with pytest.raises(UserError, match="day1 and again are one session, lab/ann/day1: remove one"):
        open_sessions(tmp_path, window_ms=200)


def test_manifests_of_two_animals_with_one_session_name(write_lab, tmp_path, capsys):
    for animal in ("ann", "bob"):
        write_lab(tmp_path / animal, subject=animal)
        assert main(["data", "import", "lab", str(tmp_path / animal), "--out", str(tmp_path / "out")]) == 0
    assert sorted(p.stem for p in (tmp_path / "out" / "sessions").glob("*.h5")) == ["bob_day1", "day1"]
    capsys.readouterr()
    assert main(["data", "import", "lab", str(tmp_path / "bob"), "--out", str(tmp_path / "out")]) == 0
    assert "bob_day1: already imported" in capsys.readouterr().out
    both = tmp_path / "both"
    shutil.copytree(tmp_path / "ann", both)
    (both / "other.yaml").write_text((tmp_path / "bob" / "day1.yaml").read_text())
    import_lab(both, tmp_path / "second", quality=ALL)
    assert len(list((tmp_path / "second" / "sessions").glob("*.h5"))) == 2
    (both / "other.yaml").write_text((tmp_path / "ann" / "day1.yaml").read_text())
    with pytest.raises(UserError, match="both declare session 'lab/ann/day1': rename one"):
        import_lab(both, tmp_path / "third", quality=ALL)


WRITER = """
import sys
from pathlib import Path
import numpy as np
from neurobridge.data.importing import add_images
seed, out = int(sys.argv[1]), Path(sys.argv[2])
rng = np.random.default_rng(seed)
for _ in range(4):
    add_images(out, rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8))
"""


def test_several_processes_add_pictures_to_one_folder_and_none_is_lost(tmp_path):
    command = [sys.executable, "-c", WRITER]
    jobs = [subprocess.Popen([*command, str(seed), str(tmp_path)]) for seed in range(3)]
    while any(job.poll() is None for job in jobs):  # a reader beside the writers never sees half of anything
        if (tmp_path / "images.h5").is_file():
            assert len(ImageSet.read(tmp_path / "images.h5")) % 5 == 0
        time.sleep(0.05)
    assert [job.returncode for job in jobs] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["images.h5"], "the lock is gone"
    assert len(ImageSet.read(tmp_path / "images.h5")) == 3 * 4 * 5


def test_a_lock_is_taken_again_by_whoever_has_it_and_is_left_at_an_error(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        held = subprocess.run(
            [sys.executable, "-c", "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)",
             str(tmp_path / ".lock")], capture_output=True, text=True,
        )  # fmt: skip
        assert "BlockingIOError" in held.stderr


def test_what_is_there_decides_whether_a_session_is_imported_again(write_lab, tmp_path, capsys):
    manifest = write_lab(tmp_path / "raw")
    out = import_lab(manifest, tmp_path / "out", quality=ALL)
    images, session = out / "images.h5", out / "sessions" / "day1.h5"
    whole = ImageSet.read(images)
    for spoil in (
        lambda: ImageSet(ids=whole.ids[:2], pixels=whole.pixels[:2]).write(images),
        images.unlink,
        session.unlink,
        lambda: session.write_bytes(session.read_bytes()[:5000]),
    ):
        spoil()
        import_lab(manifest, out, quality=ALL)
        assert sound(out)
        assert len(ImageSet.read(images)) == 4
    capsys.readouterr()
    import_lab(manifest, out, quality=ALL)
    assert capsys.readouterr().out.strip() == "day1: already imported"
    images.write_bytes(b"no")
    with pytest.raises(UserError, match=r"images.h5 .*remove .*images.h5 first"):
        import_lab(manifest, out, quality=ALL)


def test_being_there_is_told_without_reading_the_spikes(tmp_path):
    made = recording()
    made.provenance["signature"] = "mine"
    path = write_session(made, tmp_path)
    with h5py.File(path, "r+") as file:
        offset = file["spikes/unit_index"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset : offset + 800] = b"\xff" * 800
    path.write_bytes(content)
    identity = Identity("lab", "ann", "day1")
    assert not is_there(tmp_path, identity, "mark"), "another signature"
    assert is_there(tmp_path, identity, "mine")
    with pytest.raises(UserError):
        read_recording(path)
    assert identity_of(path) == identity


def test_a_broken_session_hides_no_other(write_lab, tmp_path, capsys):
    out = import_lab(write_lab(tmp_path / "one"), tmp_path / "out", quality=ALL)
    (out / "sessions" / "day0.h5").write_bytes(b"cut off")
    assert main(["data", "list", str(out)]) == 0
    told = capsys.readouterr().out
    assert "broken" in told
    assert "day0.h5 is no HDF5 file" in told
    assert "monkeyA" in told
    assert main(["data", "show", str(out), "--out", str(tmp_path / "figures")]) == 0
    assert (tmp_path / "figures" / "day1.png").is_file()
    other = write_lab(tmp_path / "two", session_id="day2")
    assert main(["data", "import", "lab", str(other), "--out", str(out)]) == 0
    assert "its splits are not compared" in capsys.readouterr().err


def test_an_import_beside_this_one_cannot_give_a_picture_another_split(write_lab, lab_tables, tmp_path):
    from neurobridge.data.sources.lab.manifest import read_manifest
    from neurobridge.data.sources.lab.session import build
    from neurobridge.data.sources.lab.splits import Splits

    late = write_lab(tmp_path / "late", session_id="day2")
    splits = Splits(tmp_path / "out", skip=[])
    session = build(read_manifest(late))
    splits.refuse_other(session.recording, late)  # nothing is there yet
    lab_tables["stimuli"]["split"] = ["test"] * 8
    import_lab(write_lab(tmp_path / "early", lab_tables), tmp_path / "out", quality=ALL)
    with pytest.raises(UserError, match="that session day1 has in test"):
        splits.refuse_other(session.recording, late)


def test_v4_adds_its_pictures_to_those_of_others(write_lab, tmp_path):
    from neurobridge.data.sources.v4 import import_v4

    out = import_lab(write_lab(tmp_path / "raw"), tmp_path / "out", quality=ALL)
    release = tmp_path / "v4"
    for folder in ("responses_mean", "images"):
        (release / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(release / "responses_mean" / "responses_190925.npy", rng.gamma(2.0, 1.0, (3, 2)))
    import zipfile

    with zipfile.ZipFile(release / "images" / "images_190925.zip", "w") as file:
        for name in "ab":
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
            file.write(tmp_path / f"{name}.png", f"{name}.png")
    import_v4(release, out)
    assert len(ImageSet.read(out / "images.h5")) == 6
    assert sound(out)


def test_an_import_says_what_it_kept_and_which_splits_are_empty(write_lab, lab_tables, tmp_path, capsys):
    lab_tables["stimuli"]["split"] = ["train"] * 8
    manifest, out = write_lab(tmp_path / "raw", lab_tables), tmp_path / "out"
    command = ["data", "import", "lab", str(manifest), "--out", str(out), "--quality.min_rate", "1.8"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "day1: kept 2 of 3 units: 1 below 1.8 Hz; `--quality.min_rate null` keeps them" in said.out
    assert "warning: day1 has no valid presentation in valid and test" in said.err
    assert main([*command, "--quality.min_snr", "2"]) == 0
    said = capsys.readouterr().out
    assert "1 below 1.8 Hz, 1 with an SNR below 2; `--quality.min_rate null` and `--quality.min_snr null` keep" in said


def test_stimuli_without_a_split_that_is_empty_say_nothing(tmp_path, capsys):
    shown = Stimuli(
        start=np.arange(3.0), end=np.arange(3.0) + 0.5, image_id=np.full(3, ""), repeat=np.zeros(3, int),
        split=np.array(["train", "valid", "test"]), valid=np.ones(3, bool),
    )  # fmt: skip
    r = recording()
    r.stimuli = shown
    write_session(r, tmp_path)
    assert capsys.readouterr() == ("day1: 2 units\n", "")
    assert add_images(tmp_path, []) == []
