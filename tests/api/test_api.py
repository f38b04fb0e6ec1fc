"""``import neurobridge as nb``: from recordings, however they come, to latents, rates, pictures and scores."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pynapple as nap
import pytest
from PIL import Image
from pynwb import NWBHDF5IO

import neurobridge as nb
from neurobridge.cli import main
from neurobridge.data.images import ImageSet
from neurobridge.data.simulate import simulate
from neurobridge.errors import UserError

TINY = {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8}
SHORT = {"model": TINY, "windows": 16, "groups": 2, "layer": "block2", "resolution": 64, "progress": False}
HEAD = {"windows": 16, "queries": 2, "hidden": 16, "progress": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    sizes = {"images": 60, "test_images": 8, "test_repeats": 4, "valid_images": 12, "sessions": 2, "electrodes": 16}
    return simulate(tmp_path_factory.mktemp("api") / "data", seed=3, **sizes)


@pytest.fixture(scope="module")
def pretrained(data):
    return nb.pretrain(nb.open(data)[:-1], steps=10, **SHORT)


@pytest.fixture(scope="module")
def aligned(data, pretrained):
    recordings = nb.open(data)
    adapted = nb.adapt(pretrained, recordings[-1:], steps=4, windows=16, progress=False)
    return nb.align(adapted, recordings, steps=4, joint_steps=2, **HEAD)


def spikes(seed: int, *, units: int = 6, seconds: float = 60.0, rate: float = 8.0) -> tuple[np.ndarray, np.ndarray]:
    """Times [S] s and units [S] of independent units."""
    rng = np.random.default_rng(seed)
    count = int(rate * seconds * units)
    return rng.uniform(0, seconds, count), rng.integers(0, units, count)


def test_from_recordings_to_latents_rates_and_back(data, pretrained):
    recordings = nb.open(data)
    assert [r.path.stem for r in recordings[:-1]] == pretrained.sessions
    model = nb.adapt(pretrained, recordings[-1:], steps=4, windows=16, progress=False)
    assert (pretrained.stage, model.stage) == ("pretrain", "adapt")
    assert set(model.sessions) == {r.path.stem for r in recordings}
    z = nb.embed(model, recordings[-1])
    assert z.dims == ("window", "time", "latent", "feature")
    assert z.sizes["time"] == 6
    assert z.sel(time=slice(0, 100)).sizes["time"] == 2
    assert set(z.split.values.tolist()) == {"train", "valid", "test"}
    unit = recordings[-1].unit_ids[2]
    seen, hidden = (nb.rates(model, recordings[-1], hide=hide, split="test") for hide in ([], [unit]))
    assert hidden.dims == ("window", "unit", "time")
    assert not np.allclose(seen.sel(unit=unit), hidden.sel(unit=unit))
    assert hidden.attrs["units"] == "Hz"
    frame = z.isel(window=slice(0, 3)).pipe(nb.to_tsd)
    assert frame.shape == (18, 32)
    np.testing.assert_allclose(frame.times()[:2], float(z.start[0]) + np.array([0.025, 0.075]))


def test_identification_pictures_and_one_table_of_scores(data, aligned):
    recording = nb.open(data)[-1]
    found = nb.identify(aligned, recording, progress=False)
    assert set(found.role) == {"ours", "rival"}
    top1 = found[found.task == "identification, top-1"]
    np.testing.assert_allclose(top1.chance, 1 / 8)
    assert nb.embed(aligned, recording, into="image", split="test").dims == ("window", "feature")
    drawing = {"train_steps": 2, "sketch_steps": 4, "batch": 8, "samples": 1, "steps": 2, "posterior_steps": 4}
    pictures = nb.reconstruct(aligned, recording, inversion_steps=2, progress=False, **drawing)
    assert pictures["target"].shape == pictures["features inverted"].shape
    assert len(pictures) == 8
    assert pictures._repr_html_().count("<img") >= 24
    rows = nb.score(aligned, recording, pictures=pictures, progress=False)
    assert {"ours", "rival", "floor", "ceiling", "decoy"} == set(rows.role)
    assert rows.groupby("role").size().min() > 0
    assert (rows.value.notna()).all()
    with pytest.raises(UserError, match="no pictures 'dream'"):
        pictures["dream"]


def test_a_saved_model_is_a_run_folder_of_the_command_line(data, aligned, tmp_path, capsys):
    nb.save(aligned, tmp_path / "run")
    assert main(["align", "--config", str(tmp_path / "run" / "config.yaml")]) == 0
    assert "align: done before" in capsys.readouterr().out
    again = nb.load(tmp_path / "run")
    z = [nb.embed(model, nb.open(data)[0], split="test") for model in (aligned, again)]
    np.testing.assert_array_equal(*z)
    with pytest.raises(UserError, match="not empty"):
        nb.save(aligned, tmp_path / "run")


def test_recordings_in_memory_without_stimuli_survive_saving_and_moving(tmp_path):
    rng = np.random.default_rng(0)
    group = nap.TsGroup({i: nap.Ts(np.cumsum(rng.gamma(4, 1 / 32, 480))) for i in range(6)})
    first = nb.open(group, session="day1", regions=["V1"] * 6)
    times, units = spikes(1)
    second = nb.recording(times, units, regions=dict.fromkeys(range(6), "V4"), session="day2")
    model = nb.pretrain(first, steps=4, **SHORT)
    both = nb.adapt(model, second, steps=2, windows=16, progress=False)
    assert both.sessions == ["day1", "day2"]
    assert nb.embed(both, second).sizes["window"] == 199
    nb.save(both, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    moved = nb.load(tmp_path / "there")
    assert [r.path.stem for r in moved.recordings] == ["day1", "day2"]
    np.testing.assert_array_equal(nb.embed(moved, moved.recordings[1]), nb.embed(both, second))


def test_files_of_spikes_are_opened_as_their_draft_says(tmp_path, capsys):
    rng = np.random.default_rng(0)
    times = np.concatenate([np.cumsum(rng.gamma(4, 1 / 32, 400)) for _ in range(4)])
    pd.DataFrame({"spike_time": times, "unit": np.repeat(np.arange(4), 400)}).to_csv(tmp_path / "day1.csv", index=False)
    (r,) = nb.open(tmp_path / "day1.csv", subject="rat7")
    assert (r.subject, len(r.unit_ids)) == ("rat7", 4)
    assert "day1.csv: taken as" in capsys.readouterr().out
    times_file = tmp_path / "phy"
    times_file.mkdir()
    np.save(times_file / "spike_times.npy", np.sort((times * 30_000).astype(np.int64)))
    np.save(times_file / "spike_clusters.npy", rng.integers(0, 3, len(times)).astype(np.int32))
    with pytest.raises(UserError, match="sampling_rate: TODO"):
        nb.open(times_file)
    (r,) = nb.open(times_file, sampling_rate=30_000, duration=[0, float(times.max()) + 1])
    assert len(r.unit_ids) <= 3


def test_stimuli_and_images_of_a_recording_in_memory():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    start = np.arange(60) * 0.5
    table = pd.DataFrame({"start": start, "end": start + 0.3, "image": np.arange(60) % 12, "contrast": 0.5})
    r = nb.recording(*spikes(2), stimuli=table, images=images)
    assert len(set(r.stimuli.image_id.tolist())) == 12
    assert r.stimuli.columns["contrast"].tolist() == [0.5] * 60
    by_image = {i: set(r.stimuli.split[r.stimuli.image_id == i]) for i in r.stimuli.image_id}
    assert all(len(splits) == 1 for splits in by_image.values())
    with pytest.raises(UserError, match="shows image 12, but there are images 0 to 11"):
        nb.recording(*spikes(2), stimuli={"start": [0.0], "end": [1.0], "image": [12]}, images=images)
    with pytest.raises(UserError, match="no images are given"):
        nb.recording(*spikes(2), stimuli={"start": [0.0], "end": [1.0], "image": [1]})


def test_errors_are_the_sentences_of_the_command_line(data, pretrained, tmp_path):
    recordings = nb.open(data)
    for wrong, sentence in (
        (lambda: nb.embed(pretrained, recordings[-1]), "does not know .* units of session monkeyB_2"),
        (lambda: nb.identify(pretrained, recordings[0]), "not aligned"),
        (lambda: nb.rates(pretrained, recordings[0], hide=["u99"]), "no unit 'u99'"),
        (lambda: nb.embed(pretrained, recordings[:2]), "2 recordings are given where one is expected"),
        (lambda: nb.adapt(pretrained, recordings[0]), "knows the units of session monkeyA_1"),
        (lambda: nb.pretrain(recordings, steps="many"), "--pretrain.steps: expected int, got many"),
        (lambda: nb.pretrain([]), "no recording to pretrain on"),
        (lambda: nb.pretrain([recordings[0], recordings[0]]), "two recordings are of one session"),
        (lambda: nb.open(tmp_path / "nothing"), "no recording at"),
        (lambda: nb.open(3), "a int is no recording"),
        (lambda: nb.load(tmp_path), "holds no run"),
        (lambda: nb.recording([0.1, np.nan], [0, 0]), "non-finite"),
        (lambda: nb.recording([0.1], [0, 0]), "1 spike times but 2 units"),
        (lambda: nb.recording([0.1], [0], regions={1: "V1"}), "do not say where unit 0 lies"),
        (lambda: nb.align(pretrained, images=tmp_path / "images.h5"), "no image set"),
    ):
        with pytest.raises(UserError, match=sentence):
            wrong()
    with pytest.raises(TypeError, match="no option 'step'; did you mean 'steps'"):
        nb.pretrain(recordings, step=3)


def test_every_option_is_a_keyword_with_a_default_and_a_sentence():
    for function in (nb.pretrain, nb.adapt, nb.align, nb.reconstruct):
        for name, parameter in inspect.signature(function).parameters.items():
            if name in ("model", "recordings", "recording"):
                continue
            assert parameter.default is not inspect.Parameter.empty, name
            assert re.search(rf"^ +{name}: \w.*", function.__doc__, flags=re.MULTILINE), f"{function.__name__}: {name}"


def test_the_command_embed_writes_what_the_functions_return(data, aligned, tmp_path, capsys):
    run, recording = str(aligned.path), nb.open(data)[-1]
    assert main(["embed", run, "--out", str(tmp_path / "z.npz"), "--split", "test"]) == 0
    assert "monkeyB_2: 32 window x 6 time x 2 latent x 16 feature" in capsys.readouterr().out
    with np.load(tmp_path / "z.npz") as arrays:
        np.testing.assert_array_equal(arrays["monkeyB_2/latents"], nb.embed(aligned, recording, split="test"))
        np.testing.assert_array_equal(arrays["monkeyB_2/rates"], nb.rates(aligned, recording, split="test"))
        assert arrays["monkeyB_2/unit"].tolist() == recording.unit_ids.tolist()
        assert set(arrays["monkeyA_1/split"].tolist()) == {"test"}
    written = ["embed", run, "--out", str(tmp_path / "z.nwb")]
    assert main([*written, "--sessions", "[monkeyB_2]", "--split", "test"]) == 0
    with NWBHDF5IO(str(tmp_path / "z.nwb"), "r") as io:
        series = io.read().processing["neurobridge"]["latents"]
        assert series.data.shape == (32 * 6, 32)
        assert (np.diff(series.timestamps[:]) > 0).all()
    capsys.readouterr()
    for wrong, sentence in (
        (written, "an NWB file holds one session, and 4 are asked for"),
        (["embed", run, "--out", "z.txt"], "its ending says what is written"),
        (["embed", run, "--out", "z.npz", "--sessions", "[day9]"], "session 'day9' is not among the recordings"),
    ):
        assert main(wrong) == 2
        assert sentence in capsys.readouterr().err


def test_two_data_folders_become_one(data, tmp_path):
    times, units = spikes(3)
    extra = nb.recording(times, units, session="extra")
    model = nb.pretrain([nb.open(data)[0], extra], steps=2, images=False, out=tmp_path / "run", **SHORT)
    assert set(model.sessions) == {"extra", "monkeyA_1"}
    assert (tmp_path / "run" / "data" / "images.h5").is_file()
    assert isinstance(model.recordings[0].unit_ids, np.ndarray)


def test_recordings_are_split_anew_and_the_old_ones_stay(data):
    recordings = nb.open(data)
    before = [r.stimuli.split.copy() for r in recordings]
    made = recordings.split_by("time_block", test=0.2, valid=0.1, seed=1)
    assert [r.path.name for r in made] == [r.path.name for r in recordings]
    for old, new, split in zip(recordings, made, before, strict=True):
        np.testing.assert_array_equal(nb.open(old.path)[0].stimuli.split, split)
        np.testing.assert_array_equal(new.stimuli.image_id, old.stimuli.image_id)
        np.testing.assert_array_equal(new.spike_times, old.spike_times)
        assert {"train", "valid", "test"} == set(new.stimuli.split.tolist()) != set()
        assert not np.array_equal(new.stimuli.split, split)
        assert new.provenance["split"].startswith("by time_block, seed 1")
    assert ImageSet.read(made[0].path.parent.parent / "images.h5").ids.tolist() == (
        ImageSet.read(data / "images.h5").ids.tolist()
    )
    with pytest.raises(UserError, match="has no concept"):
        recordings.split_by("concept", concepts={})


def test_a_table_for_a_notebook_tells_what_is_there(data, pretrained):
    recordings = nb.open(data)
    for thing in (recordings, recordings[0], pretrained):
        assert "monkeyA_1" in thing._repr_html_()
        assert "<table>" in thing._repr_html_()
    assert "monkeyA_1" in repr(recordings[0])
    assert {"open", "pretrain", "embed", "score"} <= set(dir(nb))


def test_the_twin_expects_what_units_answer_and_says_how_far_to_trust_it(data, aligned, tmp_path, capsys):
    recording = nb.open(data)[0]
    images = ImageSet.read(data / "images.h5").pixels[:5]
    found = nb.predict(aligned, recording, images)
    assert found.dims == ("image", "unit", "time")
    assert (found >= 0).all()
    assert found.attrs["units"] == "Hz"
    assert ((found.ceiling >= 0) & (found.ceiling <= 1)).all()
    (tmp_path / "shown").mkdir()
    for number, picture in enumerate(images):
        Image.fromarray(picture).save(tmp_path / "shown" / f"{number}.png")
    written = ["predict", str(aligned.path), "--images", str(tmp_path / "shown"), "--session", "monkeyA_1"]
    assert main([*written, "--out", str(tmp_path / "expected.csv")]) == 0
    assert "of what noise allows" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "expected.csv")
    assert len(table) == found.sizes["image"] * found.sizes["unit"]
    np.testing.assert_allclose(table.expected[0], float(found[0, 0].mean()), rtol=1e-4)

    drawn = nb.exciting(aligned, recording, recording.unit_ids[:3], steps=4)
    assert drawn.sizes["unit"] == 3
    assert (drawn.expected.sel(picture="drawn") >= drawn.expected.sel(picture="library") - 1e-3).all()
    with pytest.raises(UserError, match="no picture at"):
        nb.predict(aligned, recording, tmp_path / "none")
