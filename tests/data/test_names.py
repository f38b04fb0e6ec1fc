"""Hostile names: too long, outside their folder, beyond ASCII, in the language of terminals or formulas."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from neurobridge.cli import main
from neurobridge.data.datamodule import open_sessions
from neurobridge.data.images import ImageSet
from neurobridge.data.importing import write_session
from neurobridge.data.recording import Recording, Stimuli, read_recording, write_recording
from neurobridge.data.sources.lab import import_lab
from neurobridge.data.stored import StoredRecording
from neurobridge.errors import UserError
from neurobridge.evaluation import figures


def small(**changes) -> Recording:
    """Two units over a minute, two presentations without pictures."""
    times = np.arange(1, 60, 0.25)
    shown = Stimuli(
        start=np.array([2.0, 5.0]),
        end=np.array([2.5, 5.5]),
        image_id=np.array(["grün", "絵"]),
        repeat=np.zeros(2, int),
        split=np.array(["train", "test"]),
        valid=np.ones(2, bool),
    )
    whole = Recording(
        dataset="lab",
        subject="ann",
        session="day1",
        signal_kind="sorted",
        spike_times=times,
        spike_units=np.arange(len(times)) % 2,
        unit_ids=np.array(["a", "b"]),
        regions=np.array(["V1", "V4"]),
        duration=(0.0, 60.0),
        stimuli=shown,
    )
    return replace(whole, **changes)


@pytest.mark.parametrize("field", ["session", "subject", "dataset"])
def test_a_name_that_no_file_can_have_is_one_sentence(tmp_path, field):
    with pytest.raises(UserError, match=r"cannot name a file: .* at most 200 fit; shorten 'nnn"):
        write_session(small(**{field: "n" * 300}), tmp_path)
    assert not list(tmp_path.glob("sessions/*"))


def test_a_manifest_with_a_name_of_300_characters(capsys, write_lab, tmp_path):
    folder = tmp_path / "raw"
    manifest = write_lab(folder).rename(folder / "m.yaml")
    manifest.write_text(manifest.read_text().replace("session_id: day1", f"session_id: {'n' * 300}"))
    assert main(["data", "import", "lab", str(manifest), "--out", str(tmp_path / "out")]) == 2
    assert "cannot name a file" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["above", "absolute", "link"])
def test_a_picture_outside_of_its_folder_is_not_read(write_lab, lab_tables, tmp_path, kind):
    manifest = write_lab(tmp_path / "raw", lab_tables)
    inside = tmp_path / "raw" / "images" / "set" / "0.png"
    secret = Path(inside.rename(tmp_path / "outside.png"))
    if kind == "link":
        inside.symlink_to(secret)
    told = {"above": "../../outside.png", "absolute": str(secret), "link": "set/0.png"}[kind]
    shown = lab_tables["stimuli"]
    shown["image_path"] = [told if path == "set/0.png" else path for path in shown["image_path"]]
    write_lab(tmp_path / "raw", lab_tables)
    with pytest.raises(UserError, match=r"stimuli\.csv, line 2: the image '.*' lies outside of .*images"):
        import_lab(manifest, tmp_path / "out")


def test_a_name_that_looks_like_a_content_id_is_refused(write_lab, lab_tables, tmp_path):
    shown = lab_tables["stimuli"]
    shown["image_id"] = ["0123456789abcdef" if name == "im2" else name for name in shown["image_id"]]
    manifest = write_lab(tmp_path / "raw", lab_tables, image_root=None)
    with pytest.raises(UserError, match=r"stimuli\.csv, line 4: image_id '0123456789abcdef' is written .* 'im_0123"):
        import_lab(manifest, tmp_path / "out")


def test_names_beyond_ascii_come_back(tmp_path):
    path = write_session(small(subject="Änne"), tmp_path)
    assert read_recording(path).stimuli.image_id.tolist() == ["grün", "絵"]
    assert StoredRecording(path).subject == "Änne"
    assert main(["data", "validate", str(tmp_path)]) == 0
    assert main(["data", "audit", str(tmp_path)]) == 0


def test_what_a_terminal_would_obey_is_shown_and_not_obeyed(capsys, tmp_path):
    escape = "\x1b[31mred\x1b[2J"
    hostile = small(session="[/x]", subject=escape, regions=np.array([escape, "[bold]"]))
    write_recording(hostile, tmp_path / "sessions" / "[bold]a.h5")
    for command in (["list"], ["show", "--out", str(tmp_path / "f")], ["validate"], ["audit"], ["doctor"]):
        assert main(["data", command[0], str(tmp_path), *command[1:]]) == 0
    assert main(["data", "show", str(tmp_path), "--session", escape]) == 2
    told = "".join(capsys.readouterr())
    assert "\x1b" not in told
    assert "\\x1b[31mred" in told


def test_names_are_drawn_as_they_are():
    areas = np.array(["V1$\\bad{$", "[/x]", "$a$", "a_b^c"])
    with warnings.catch_warnings(action="error"):
        figure = figures.raster_and_psth(np.ones((2, 4, 5)), areas, bin_s=0.01)
        figure.canvas.draw()
        losses = {"$\\x{$": {"$\\y{$": ([1, 2, 3], [1.0, 0.1, 0.01])}}
        figures.loss_curves(losses, log=True).canvas.draw()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_refused_when_the_session_is_opened(tmp_path, value):
    counts = small(signal_kind="binned_count", spike_values=np.ones(236, np.float32))
    path = write_session(counts, tmp_path)
    with h5py.File(path, "r+") as file:
        file["spikes/value"][7] = value
    with pytest.raises(UserError, match=rf"day1\.h5: event 7 has the value {value}"):
        open_sessions(tmp_path, window_ms=100)


def test_the_pictures_of_sessions_without_pictures_have_names(tmp_path):
    """What is not at hand is shown by its name, and never looked for in the image set."""
    write_session(small(), tmp_path)
    ImageSet.from_pixels(np.zeros((1, 4, 4, 3), np.uint8)).write(tmp_path / "images.h5")
    session = open_sessions(tmp_path, window_ms=100)[0]
    session.attach_images(ImageSet.read(tmp_path / "images.h5"))
    assert session.image_row.tolist() == [-1, -1]
