"""The simulated ventral stream: scenes with natural statistics, noise as in cortex, latencies, files, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from neurobridge.data.images import ImageSet
from neurobridge.data.recording import Recording, read_recording
from neurobridge.data.simulate import noise_statistics, render_scenes, simulate, window_counts
from neurobridge.errors import UserError

TINY = {"images": 40, "test_images": 6, "test_repeats": 3, "valid_images": 4, "sessions": 1, "electrodes": 12}


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    return simulate(tmp_path_factory.mktemp("simulated"), quick=True)


@pytest.fixture(scope="module")
def recordings(quick) -> list[Recording]:
    return [read_recording(path) for path in sorted((quick / "sessions").glob("*.h5"))]


def test_a_scene_depends_on_seed_and_index_alone():
    few, many, other = render_scenes(4, seed=3), render_scenes(7, seed=3), render_scenes(4, seed=4)
    assert few.pixels.shape == (4, 64, 64, 3)
    assert few.pixels.dtype == np.uint8
    np.testing.assert_array_equal(few.pixels, many.pixels[:4])
    assert not set(few.ids.tolist()) & set(other.ids.tolist())


def test_scenes_have_the_amplitude_spectrum_of_natural_images():
    grey = render_scenes(200, seed=1).pixels.astype(float).mean(-1)
    amplitude = np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True))).mean(0)
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)) * 64
    rings = np.arange(1, 24)
    mean = [amplitude[np.abs(frequency - ring) < 0.5].mean() for ring in rings]
    slope = np.polyfit(np.log(rings), np.log(mean), 1)[0]
    assert -1.3 < slope < -0.8


def test_labels_say_what_is_in_the_picture(quick):
    images = ImageSet.read(quick / "images.h5")
    labels = images.labels
    assert len(images) == 640
    assert len(set(labels["category"].tolist())) >= 12
    assert {"hue", "x", "y", "size", "texture", "background"} <= set(labels)
    assert np.bincount(np.unique(labels["category"], return_inverse=True)[1]).min() > 15
    assert (labels["size"] > 0.25).all()
    assert (labels["size"] < 0.7).all()
    # The hue label is the hue of the pixels at the object, for plain bodies that fill their centre.
    rows = np.flatnonzero((labels["category"] == "star") & (labels["texture"] == "plain"))
    for row in rows:
        x, y = int(labels["x"][row] * 64), int((labels["y"][row] - 0.15 * labels["size"][row]) * 64)
        r, g, b = images.pixels[row, y - 1 : y + 2, x - 1 : x + 2].mean((0, 1)) / 255
        hue = np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b) / (2 * np.pi)
        assert abs((hue - labels["hue"][row] + 0.5) % 1 - 0.5) < 0.15


def test_sessions_read_back_like_any_recording(quick, recordings):
    images = ImageSet.read(quick / "images.h5")
    assert [r.session for r in recordings] == ["monkeyA_1", "monkeyA_2", "monkeyB_1", "monkeyB_2"]
    split_of = dict(zip(images.ids.tolist(), images.labels["split"].tolist(), strict=True))
    for r in recordings:
        assert set(r.regions.tolist()) == {"V1", "V4", "IT"}
        assert 40 <= len(r.unit_ids) <= 60
        assert r.stimuli is not None
        images.rows(r.stimuli.image_id)
        assert [split_of[key] for key in r.stimuli.image_id.tolist()] == r.stimuli.split.tolist()
        shown = {
            name: np.unique(r.stimuli.image_id[r.stimuli.rows(name)], return_counts=True)[1]
            for name in split_of.values()
        }
        assert (len(shown["test"]), *set(shown["test"].tolist())) == (40, 10)
        assert (len(shown["valid"]), *set(shown["valid"].tolist())) == (40, 2)
        assert (len(shown["train"]), *set(shown["train"].tolist())) == (560, 1)
        assert set(r.stimuli.repeat[r.stimuli.rows("test")].tolist()) == set(range(10))
        assert 20 <= 1 / np.diff(r.behaviour["running_speed"].timestamps).mean() <= 50
        assert r.behaviour["running_speed"].values.max() > 5


def test_noise_is_that_of_cortex(recordings):
    for r in recordings:
        found = noise_statistics(r)
        assert 2 <= found["rate"] <= 10
        assert 1.0 <= found["fano_factor"] <= 1.6
        assert 0.2 <= found["reliability"] <= 0.6  # 10 repeats; 0.3-0.6 with the 20 of the full simulation


def test_no_unit_fires_within_its_dead_time(recordings):
    for unit in range(len(recordings[0].unit_ids)):
        times = np.sort(recordings[0].spike_times[recordings[0].spike_units == unit])
        assert np.diff(times).min() > 0.0019


def test_areas_answer_in_order_and_return_to_baseline(quick, recordings):
    for r in recordings:
        assert r.stimuli is not None
        phase = (r.spike_times[:, None] - r.stimuli.start[0])[:, 0] % 0.4
        half, windows = {}, {"V1": (0.03, 0.08), "V4": (0.06, 0.12), "IT": (0.08, 0.2)}
        for area, (low, high) in windows.items():
            inside = np.isin(r.spike_units, np.flatnonzero(r.regions == area))
            psth = np.histogram(phase[inside], bins=80, range=(0, 0.4))[0].astype(float)
            smooth = np.convolve(np.r_[psth[-2:], psth, psth[:2]], np.ones(3) / 3, "same")[2:-2]
            base, peak = np.sort(smooth)[:6].mean(), smooth[:60].max()
            half[area] = 0.005 * (np.flatnonzero(smooth[5:] > (base + peak) / 2)[0] + 5)
            assert low <= half[area] <= high
            assert peak > 1.8 * base
        assert half["V1"] < half["V4"] < half["IT"]
        with h5py.File(quick / "truth" / f"{r.session}.h5") as truth:
            latency, area = truth["latency"][:], truth["area"][:].astype(str)
        assert all(
            low <= latency[area == name].min() <= latency[area == name].max() <= high
            for name, (low, high) in windows.items()
        )


def test_truth_predicts_the_counts_and_neurons_last_over_sessions(quick, recordings):
    rates, neurons = [], []
    images = ImageSet.read(quick / "images.h5")
    for r in recordings[:2]:
        assert r.stimuli is not None
        with h5py.File(quick / "truth" / f"{r.session}.h5") as truth:
            rate, neuron = truth["expected_rate"][:], truth["neuron"][:]
            assert truth["unit_id"][:].astype(str).tolist() == r.unit_ids.tolist()
            assert {"gain/everywhere", "drift", "tuning/V1/orientation", "tuning/IT/category"} <= set(_names(truth))
        rows = r.stimuli.rows("test")
        shown, image = np.unique(images.rows(r.stimuli.image_id)[rows], return_inverse=True)
        counts = window_counts(r)[rows]
        mean = np.stack([counts[image == i].mean(0) for i in range(len(shown))])
        agreement = [np.corrcoef(mean[:, u], rate[shown, u])[0, 1] for u in range(len(neuron))]
        assert np.median(agreement) > 0.6
        rates.append(rate)
        neurons.append(neuron.tolist())
    both = sorted(set(neurons[0]) & set(neurons[1]))
    assert len(both) > 10
    assert set(neurons[0]) != set(neurons[1])
    first, second = (rate[:, [list_.index(n) for n in both]] for rate, list_ in zip(rates, neurons, strict=True))
    assert np.median([np.corrcoef(first[:, i], second[:, i])[0, 1] for i in range(len(both))]) > 0.8


def test_running_raises_the_gain(recordings):
    slopes = []
    for r in recordings:
        assert r.stimuli is not None
        series = r.behaviour["running_speed"]
        speed = np.interp(r.stimuli.start, series.timestamps, series.values)
        slopes.append(np.corrcoef(speed, window_counts(r)[:, r.regions == "V1"].sum(1))[0, 1])
    assert np.mean(slopes) > 0.05


def test_same_seed_same_files_and_a_second_call_returns_at_once(tmp_path, capsys):
    first, again, other = (
        simulate(tmp_path / name, seed=seed, **TINY) for name, seed in zip("abc", (5, 5, 6), strict=True)
    )
    one, two, three = (read_recording(out / "sessions" / "monkeyB_1.h5") for out in (first, again, other))
    np.testing.assert_array_equal(one.spike_times, two.spike_times)
    np.testing.assert_array_equal(one.spike_units, two.spike_units)
    assert len(one.spike_times) != len(three.spike_times)
    assert json.loads((first / "simulation.json").read_text())["seed"] == 5
    stamp = (first / "images.h5").stat().st_mtime_ns
    capsys.readouterr()
    assert simulate(first, seed=5, **TINY) == first
    assert "already holds" in capsys.readouterr().out
    assert (first / "images.h5").stat().st_mtime_ns == stamp


def test_another_simulation_or_foreign_files_are_refused(tmp_path):
    out = simulate(tmp_path / "a", **TINY)
    with pytest.raises(UserError, match=r"another simulation.*seed"):
        simulate(out, seed=9, **TINY)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("dear reader")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        simulate(tmp_path / "b", **TINY)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["thesis.tex"]
    (tmp_path / "c").write_text("")
    with pytest.raises(UserError, match="is a file"):
        simulate(tmp_path / "c", **TINY)


def test_an_interrupted_simulation_is_done_again(tmp_path):
    out = simulate(tmp_path / "a", **TINY)
    whole = (out / "sessions" / "monkeyA_1.h5").stat().st_size
    (out / "simulation.json").unlink()
    shutil.rmtree(out / "truth")
    simulate(out, **TINY)
    assert (out / "simulation.json").is_file()
    assert (out / "truth" / "monkeyB_1.h5").is_file()
    assert (out / "sessions" / "monkeyA_1.h5").stat().st_size == whole
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize(
    ("option", "value"), [("images", 8), ("test_repeats", 0), ("electrodes", 3), ("seed", -1), ("selectivity", 0.0)]
)
def test_numbers_that_do_not_fit_are_one_sentence(tmp_path, option, value):
    with pytest.raises(UserError, match=f"--{option} is"):
        simulate(tmp_path / "a", **{**TINY, option: value})
    assert not (tmp_path / "a").exists()


def test_noise_statistics_need_repeats(recordings):
    r = recordings[0]
    assert r.stimuli is not None
    once = Recording(**{**r.__dict__, "stimuli": None})
    with pytest.raises(UserError, match="no stimuli"):
        noise_statistics(once)


def _names(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visit(names.append)
    return names
