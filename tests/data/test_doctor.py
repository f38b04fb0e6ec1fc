"""The doctor names who recognises a path, every key, and every defect of a broken copy; never a traceback."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest

from neurobridge.cli import main
from neurobridge.data import doctor
from neurobridge.data.doctor import examine_path
from neurobridge.data.simulate import simulate
from neurobridge.data.validation import validate_folder
from neurobridge.errors import UserError

HERE = [name for name in doctor.READERS if find_spec(name) is not None]


@pytest.fixture(autouse=True)
def readers_that_are_here(monkeypatch):
    monkeypatch.setattr(doctor, "READERS", HERE)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    sizes = {"images": 24, "test_images": 4, "test_repeats": 2, "valid_images": 4, "sessions": 1, "electrodes": 14}
    return simulate(tmp_path_factory.mktemp("made") / "data", seed=1, **sizes)


@pytest.fixture
def data(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


@pytest.fixture
def session(data) -> Path:
    return min((data / "sessions").glob("*.h5"))


def by_key(path: Path) -> dict[str, doctor.Finding]:
    return {finding.key: finding for finding in examine_path(path)}


def wrong(path: Path) -> list[str]:
    return [finding.key for finding in examine_path(path) if not finding.ok]


def test_sources_come_from_one_tuple():
    sources = [name.rpartition(".")[2] for name in doctor.READERS if ".sources." in name]
    assert set(sources) <= {"allen", "nlb", "tvsd", "ibl", "v4", "retina", "lab"}
    assert {"v4", "lab"} <= set(sources)


def test_a_session_of_ours(session):
    found = by_key(session)
    assert wrong(session) == []
    assert found["reader"].found == "ours"
    assert found["spikes/timestamps"].found.startswith("float64 [")
    assert found["units/id"].found.startswith("text [")
    assert found["spikes/value"].found == "nothing"
    assert found["session.signal_kind"].found == "sorted"
    assert "units" in found["contents"].found


def test_images_and_whole_folders_of_ours(data):
    assert wrong(data / "images.h5") == []
    assert by_key(data / "images.h5")["pixels"].found == "uint8 [24, 64, 64, 3]"
    assert wrong(data) == []
    assert len(examine_path(data)) == 1 + 1 + len(list((data / "sessions").glob("*.h5")))


DEFECTS = {
    "spikes/unit_index": lambda file: file["spikes"].pop("unit_index"),
    "units/id": lambda file: file["units"].move("id", "name"),
    "spikes/timestamps": lambda file: replace(file, "spikes/timestamps", np.array([b"a", b"b"])),
    "units/brain_region": lambda file: replace(file, "units/brain_region", np.arange(3)),
    "stimuli/start": lambda file: replace(file, "stimuli/start", np.zeros((2, 2))),
    "stimuli/image_id": lambda file: file["stimuli"].pop("image_id"),
    "stimuli/valid": lambda file: replace(file, "stimuli/valid", file["stimuli/valid"][:].astype(float)),
    "domain/start": lambda file: replace(file, "domain/start", None),
}


def replace(file: h5py.File, key: str, value) -> None:
    del file[key]
    if value is None:
        file.create_group(key)
    else:
        file[key] = value


@pytest.mark.parametrize("key", DEFECTS)
def test_every_defect_is_named(session, key):
    with h5py.File(session, "r+") as file:
        DEFECTS[key](file)
    assert key in wrong(session)


def test_all_defects_at_once_are_all_named(session):
    with h5py.File(session, "r+") as file:
        for defect in DEFECTS.values():
            defect(file)
    assert {*DEFECTS, "contents"} == {*wrong(session)}


def test_values_that_cannot_be_right_are_in_the_contents(session):
    with h5py.File(session, "r+") as file:
        file["spikes/timestamps"][3] = np.nan
    findings = [finding for finding in examine_path(session) if not finding.ok]
    assert [finding.key for finding in findings] == ["contents"]
    assert "has time nan" in findings[0].mend


@pytest.mark.parametrize("content", ["nothing", "empty", "text", "pointer", "truncated", "foreign", "csv", "hole"])
def test_what_nobody_can_read_is_one_finding(tmp_path, session, content):
    path = tmp_path / "file.h5"
    raw = session.read_bytes()
    if content == "empty":
        path.touch()
    elif content == "text":
        path.write_text("hello")
    elif content == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    elif content == "truncated":
        path.write_bytes(raw[: len(raw) // 2])
    elif content == "foreign":
        with h5py.File(path, "w") as file:
            file["something"] = np.zeros(3)
    elif content == "csv":
        path = path.with_suffix(".csv")
        path.write_text("time,unit\n1,2\n")
    elif content == "hole":
        at = raw.rindex(b"GCOL") + 16
        path.write_bytes(raw[:at] + bytes(4096) + raw[at + 4096 :])
    findings = examine_path(path)
    assert len(findings) == 1
    assert not findings[0].ok
    expected = {
        "nothing": "check the path",
        "empty": "is empty",
        "pointer": "is a git-annex or Git LFS pointer",
        "truncated": "is cut off",
        "hole": "its text storage is damaged",
        "csv": "write a manifest",
    }
    assert expected.get(content, "the release's own download") in findings[0].mend


def test_v4_release_and_its_defects(tmp_path):
    import zipfile

    from PIL import Image

    root = tmp_path / "v4"
    (root / "responses_mean").mkdir(parents=True)
    (root / "images").mkdir()
    np.save(root / "responses_mean" / "responses_190925.npy", np.ones((3, 2)))
    np.save(root / "responses_mean" / "responses_201025.npy", np.full((3, 2), np.nan))
    with zipfile.ZipFile(root / "images" / "images_190925.zip", "w") as archive:
        for name in ("a.png", "b.png", "c.png"):
            with archive.open(name, "w") as file:
                Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file, format="PNG")
    findings = examine_path(root)
    assert findings[0].found == "v4"
    assert [(f.key, f.ok) for f in findings[1:]] == [
        ("responses", True),
        ("pictures", False),
        ("responses", False),
        ("pictures", True),
    ]
    assert "they are not of one session" in findings[2].mend
    assert "response nan" in findings[3].mend


def test_doctor_command(capsys, data, session, write_lab, tmp_path):
    assert main(["data", "doctor", str(session)]) == 0
    text = capsys.readouterr().out
    assert "spikes/timestamps" in text
    assert "float64 [S]" in " ".join(text.split())
    assert main(["data", "doctor", str(write_lab(tmp_path / "raw"))]) == 0
    with h5py.File(session, "r+") as file:
        DEFECTS["units/id"](file)
    assert main(["data", "doctor", str(session)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("neurobridge: ")
    assert "2 of" in errors
    assert "Traceback" not in errors


def test_validate_names_pictures_and_splits(capsys, data, session):
    assert all(finding.ok for finding in validate_folder(data))
    assert main(["data", "validate", str(data)]) == 0
    with h5py.File(session, "r+") as file:
        file["stimuli/image_id"][0] = b"0123456789abcdef"
        split = file["stimuli/split"][:]
        file["stimuli/split"][5] = b"test" if split[5] != b"test" else b"train"
    bad = [finding for finding in validate_folder(data) if not finding.ok]
    assert any("1 pictures not in images.h5 (first 0123456789abcdef)" in finding.found for finding in bad)
    assert any("pictures in two splits" in finding.found for finding in bad)
    assert main(["data", "validate", str(data)]) == 2
    (data / "images.h5").unlink()
    assert any("no images.h5" in finding.found for finding in validate_folder(data))
    shutil.copy(session, session.with_name("zz_again.h5"))
    assert any("a name of its own" in finding.expected for finding in validate_folder(data) if not finding.ok)
    session.write_bytes(b"cut")
    assert any("is no HDF5 file" in finding.mend for finding in validate_folder(data))
    with pytest.raises(UserError, match="no sessions under"):
        validate_folder(data / "nowhere")
    assert "Traceback" not in capsys.readouterr().err


def test_list_and_show_write_a_picture(capsys, data, session, tmp_path):
    assert main(["data", "list", str(data)]) == 0
    assert main(["data", "show", str(data), "--session", session.stem, "--out", str(tmp_path / "figures")]) == 0
    text = capsys.readouterr().out
    assert "mean rate (Hz)" in text
    pictures = list((tmp_path / "figures").iterdir())
    assert [picture.name for picture in pictures] == [f"{session.stem}.png"]
    assert pictures[0].read_bytes().startswith(b"\x89PNG")
    assert main(["data", "show", str(data), "--session", "nobody"]) == 2
    assert "'nobody' is not in" in capsys.readouterr().err


def test_show_of_values_and_without_stimuli(write_lab, lab_tables, tmp_path):
    rng = np.random.default_rng(0)
    del lab_tables["spikes"]
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw" / "b.npz", values=rng.normal(size=(8, 1, 3)), bin_edges=np.array([0.0, 0.1]))
    spikes = {"format": "npz", "path": "b.npz", "layout": "binned"}
    manifest = write_lab(tmp_path / "raw", lab_tables, signal_kind="mua_envelope", spikes=spikes)
    assert main(["data", "import", "lab", str(manifest), "--out", str(tmp_path / "a")]) == 0
    assert main(["data", "show", str(tmp_path / "a"), "--out", str(tmp_path / "figures")]) == 0
    assert (tmp_path / "figures" / "day1.png").stat().st_size > 1000
    other = write_lab(tmp_path / "plain", stimuli=None, session_id="day2", image_root=..., split=...)
    assert main(["data", "import", "lab", str(other), "--out", str(tmp_path / "b")]) == 0
    assert main(["data", "show", str(tmp_path / "b"), "--out", str(tmp_path / "figures")]) == 0
    assert (tmp_path / "figures" / "day2.png").stat().st_size > 1000
