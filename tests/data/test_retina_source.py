"""The retina importer on a tiny release in its own format, with MATLAB's order of axes too."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from neurobridge.cli import main
from neurobridge.data.images import ImageSet
from neurobridge.data.quality import QualitySettings
from neurobridge.data.recording import Recording, read_recording
from neurobridge.data.sources.retina import examine, import_retina, recognises
from neurobridge.data.splits import split_of
from neurobridge.data.store import Session
from neurobridge.errors import UserError

CELLS, NATURAL, TRIALS, TICKS = 6, 12, 4, 300
OWN = np.array([4, 4, 2, 2, 2, 0])
ALL = QualitySettings(min_rate=None, max_isi_violations=None)


def made() -> tuple[np.ndarray, np.ndarray]:
    """spikes [C, I, R, T] and contrasts [I, H, W], whose top row is bright once it stands upright."""
    rng = np.random.default_rng(0)
    spikes = (rng.random((CELLS, NATURAL + 3, TRIALS, TICKS)) < 0.02).astype(np.uint8)
    for cell, own in enumerate(OWN):
        spikes[cell, :, own:] = 0
    contrast = rng.uniform(-0.5, 0.5, (NATURAL, 10, 10))
    contrast[:, :, -1] = 1.0  # the last column is on top after a turn by 90 degrees
    contrast[:, :, 0] = -1.0
    return spikes, contrast


@pytest.fixture
def release(tmp_path) -> Path:
    folder = tmp_path / "release"
    folder.mkdir()
    spikes, contrast = made()
    write(folder, spikes, contrast)
    (folder / "trialnumbers.txt").write_text("\n".join(map(str, OWN)) + "\n")
    return folder


def write(folder: Path, spikes: np.ndarray, contrast: np.ndarray) -> None:
    with h5py.File(folder / "responses2naturalimages.h5", "w") as file:
        file["spikes"], file["images"] = spikes, contrast


def sessions(folder: Path, out: Path, **options) -> dict[str, Recording]:
    import_retina(folder, out, side=16, quality=ALL, **options)
    return {path.stem: read_recording(path) for path in sorted((out / "sessions").glob("*.h5"))}


def test_missing_trials_are_not_silence(release, tmp_path, capsys):
    found = sessions(release, tmp_path / "out")
    assert list(found) == ["trials_02", "trials_04"]
    assert found["trials_04"].unit_ids.tolist() == ["000", "001"]
    assert found["trials_02"].unit_ids.tolist() == ["002", "003", "004"], "a cell without trials is nowhere"
    for r, trials in ((found["trials_04"], 4), (found["trials_02"], 2)):
        assert len(r.stimuli) == trials * (NATURAL + 3)
        assert len(r.observed) == len(r.stimuli)
        np.testing.assert_allclose(np.diff(r.observed, axis=1), 0.3)
    assert "3 of 6 cells have 2 trials, 1 none" in capsys.readouterr().out


def test_every_spike_is_where_it_was(release, tmp_path):
    spikes, _ = made()
    for r in sessions(release, tmp_path / "out").values():
        session = Session(r, window_ms=300)
        counts = session.binned(np.arange(len(session.starts)), 1)  # [P, N, T], a trial after the other
        cells = r.unit_ids.astype(int)
        expected = spikes[cells, :, : r.stimuli.repeat.max() + 1].transpose(2, 1, 0, 3).reshape(counts.shape)
        np.testing.assert_array_equal(counts, expected)
        assert r.spike_times.size == expected.sum()


def test_pictures_stand_upright_and_split_by_content(release, tmp_path):
    found = sessions(release, tmp_path / "out", seed=3)
    images = ImageSet.read(tmp_path / "out" / "images.h5")
    assert images.pixels.shape == (NATURAL, 16, 16, 3)
    assert images.pixels[:, 0].mean() > 200 > 60 > images.pixels[:, -1].mean()
    stimuli = found["trials_04"].stimuli
    natural = stimuli.image_id != ""
    assert natural.sum() == 4 * NATURAL
    assert stimuli.split[natural].tolist() == [split_of(key, seed=3) for key in stimuli.image_id[natural].tolist()]
    assert set(stimuli.split[~natural].tolist()) == {"none"}
    assert set(stimuli.condition[~natural].tolist()) == {"black", "grey", "white"}
    for condition in set(stimuli.condition.tolist()):
        assert stimuli.repeat[stimuli.condition == condition].tolist() == [0, 1, 2, 3]
    assert main(["data", "validate", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("turned", ["all", "images"])
def test_axes_in_the_order_of_matlab(release, tmp_path, turned):
    expected = sessions(release, tmp_path / "out")["trials_02"]
    spikes, contrast = made()
    write(release, spikes.T if turned == "all" else spikes, contrast.transpose(2, 1, 0))
    found = sessions(release, tmp_path / "again")["trials_02"]
    np.testing.assert_array_equal(found.spike_times, expected.spike_times)
    assert found.unit_ids.tolist() == expected.unit_ids.tolist()


def test_without_the_list_trials_are_those_with_a_spike(release, tmp_path):
    (release / "trialnumbers.txt").unlink()
    found = sessions(release, tmp_path / "out")
    assert list(found) == ["trials_02", "trials_04"]
    assert "counted from the last trial" in found["trials_04"].provenance["trials"]
    assert [finding.ok for finding in examine(release)] == [True, True, True, False]


def test_what_cannot_be_right(release, tmp_path, capsys):
    (release / "trialnumbers.txt").write_text("4 4 1 2 2 0")
    with pytest.raises(UserError, match=r"trialnumbers\.txt: cell 2 .* has 1 trials, but its last spike is in trial 2"):
        import_retina(release, tmp_path / "out")
    (release / "trialnumbers.txt").write_text("4 4")
    with pytest.raises(UserError, match="holds 2 entries for 6 cells"):
        import_retina(release, tmp_path / "out")
    (release / "trialnumbers.txt").unlink()
    spikes, contrast = made()
    spikes[1, 2, 3, 4] = 7
    write(release, spikes, contrast)
    with pytest.raises(UserError, match=r"spikes\[1, 2, 3, 4\] is 7, expected 0 or 1"):
        import_retina(release, tmp_path / "out")
    write(release, made()[0], contrast[:5])
    with pytest.raises(UserError, match=r"axes.*: spikes \(6, 15, 4, 300\) beside images \(5, 10, 10\)"):
        import_retina(release, tmp_path / "out")
    whole = (release / "responses2naturalimages.h5").read_bytes()
    (release / "responses2naturalimages.h5").write_bytes(whole[: len(whole) // 2])
    assert main(["data", "import", "retina", str(release), "--out", str(tmp_path / "out")]) == 2
    assert "cut off" in capsys.readouterr().err
    (release / "responses2naturalimages.h5").write_text("/annex/objects/MD5E-s1--a.h5")
    with pytest.raises(UserError, match="pointer, not the file itself"):
        import_retina(release, tmp_path / "out")
    assert not list((tmp_path / "out").glob("sessions/*"))


def test_recognised_examined_and_skipped(release, tmp_path, capsys):
    assert recognises(release)
    assert recognises(release / "responses2naturalimages.h5")
    assert not recognises(tmp_path)
    assert all(finding.ok for finding in examine(release))
    assert main(["data", "doctor", str(release)]) == 0
    command = [
        "data",
        "import",
        "retina",
        str(release),
        "--out",
        str(tmp_path / "out"),
        "--quality.max_isi_violations",
        "null",
    ]
    assert main(command) == main(command) == 0
    assert "trials_02: already imported" in capsys.readouterr().out
