"""Windows are advised by how many spikes there are and how long it lasts; what is given stays."""

from pathlib import Path

import numpy as np
import pytest

from neurobridge.cli import main
from neurobridge.data.recording import Recording, Stimuli, write_recording
from neurobridge.data.stored import StoredRecording
from neurobridge.pipeline.advice import advise, advised
from neurobridge.pipeline.chunk_latents import cover
from neurobridge.training.settings import PretrainSettings, RunSettings, WindowSettings


def recorded(folder: Path, rate: float, seconds: float, *, shown: float = 0.0, valued: bool = False) -> Path:
    """Two units that fire ``rate`` spikes a second together; presentations of ``shown`` s if above 0."""
    count = int(rate * seconds)
    times = np.linspace(0.01, seconds - 0.01, count)
    starts = np.arange(1.0, seconds - 2, 1.0)
    stimuli = None
    if shown:
        split = np.array(["train", "valid", "test"])[np.arange(len(starts)) % 3]
        stimuli = Stimuli(
            start=starts, end=starts + shown, image_id=np.full(len(starts), ""), repeat=np.arange(len(starts)),
            split=split, valid=np.ones(len(starts), bool),
        )  # fmt: skip
    recording = Recording(
        dataset="lab", subject="rat", session="day1", signal_kind="binned_count" if valued else "sorted",
        spike_times=times, spike_units=np.arange(count) % 2, spike_values=np.ones(count) if valued else None,
        unit_ids=np.array(["a", "b"]), regions=np.array(["CA1", "CA1"]), duration=(0.0, seconds), stimuli=stimuli,
    )  # fmt: skip
    path = folder / "sessions" / "day1.h5"
    write_recording(recording, path)
    return path


@pytest.mark.parametrize(
    ("rate", "seconds", "window"),
    [(1500, 120, (300, 10, 50)), (80, 2000, (1000, 20, 50)), (15, 940, (4000, 50, 250)), (2, 100, (1000, 20, 50))],
)
def test_sparse_recordings_get_long_windows_and_short_ones_shorter(tmp_path, rate, seconds, window):
    advice = advise([StoredRecording(recorded(tmp_path, rate, seconds))])
    assert (advice.window_ms, advice.bin_ms, advice.chunk_ms) == window
    assert advice.random_starts
    assert advice.modes == ["neuron"]
    assert 16 <= advice.windows <= 128
    assert 1000 <= advice.steps <= 3000


def test_windows_follow_presentations_and_values_get_no_advice(tmp_path):
    advice = advise([StoredRecording(recorded(tmp_path, 100, 60, shown=0.25))])
    assert (advice.window_ms, advice.random_starts, advice.ratios) == (300, False, {})
    assert len(advice.modes) == 4
    assert advise([StoredRecording(recorded(tmp_path, 100, 60, valued=True))]) is None


def test_what_is_given_stays(tmp_path):
    recorded(tmp_path, 15, 940)
    given = RunSettings(data=tmp_path, window=WindowSettings(window_ms=600), pretrain=PretrainSettings(steps=7))
    settings, advice = advised(given)
    assert advice.window_ms == 4000
    assert (settings.window.window_ms, settings.window.bin_ms, settings.pretrain.steps) == (600, 50, 7)
    assert advised(settings)[0] == settings


def test_window_auto_on_the_command_line(tmp_path, capsys):
    recorded(tmp_path / "data", 15, 400)
    small = ["--model.width", "16", "--model.depth", "1", "--model.heads", "2", "--pretrain.steps", "2"]
    small += ["--pretrain.windows", "4", "--accelerator", "cpu"]
    arguments = ["pretrain", "--data", str(tmp_path / "data"), *small]
    assert main([*arguments, "--out", str(tmp_path / "auto"), "--window", "auto"]) == 0
    assert "windows of 4000 ms, bins of 50 ms, chunks of 250 ms, 4 windows a batch, 2 steps" in capsys.readouterr().out
    assert main(["pretrain", str(tmp_path / "auto")]) == 0, "the same folder, by the options in it"
    assert main([*arguments, "--out", str(tmp_path / "plain")]) == 0
    assert "windows of 4000 ms, bins of 50 ms and chunks of 250 ms did better" in capsys.readouterr().out


def test_windows_over_a_stretch_keep_their_middles_and_the_ends():
    assert cover((0, 8), 4) == [(0, slice(0, 3)), (2, slice(1, 3)), (4, slice(1, 4))]
    for length, window in [(9, 4), (5, 5), (7, 1), (13, 6)]:
        kept = [list(range(start + part.start, start + part.stop)) for start, part in cover((0, length), window)]
        assert sorted({i for one in kept for i in one}) == list(range(length))
