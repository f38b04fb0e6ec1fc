"""Options, names and data that a later stage could not use are refused before the first one, and nothing is made."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from neurobridge.cli import main
from neurobridge.data.recording import read_recording, write_recording
from neurobridge.errors import UserError
from neurobridge.training.ranges import RANGES, check_ranges, numbers
from neurobridge.training.settings import MixtureSettings, RunSettings, WindowSettings

TINY = {
    "model": {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8},
    "pretrain": {"steps": 2, "windows": 8, "groups": 1, "checkpoint_every": 2},
    "image": {"layer": "block2", "resolution": 64},
    "encoding": {"layers": ["block2@4"]},
    "reconstruct": {"feature_layers": ["block2@4"]},
}
EVERY = {"pretrain.unit_learning_rate": 1.0, "mixture.max_events": 1, "adapt.labels": 1, "image.resolution": 64}


def refused(capsys, data: Path, out: Path, stage: str = "pretrain", **changes) -> str:
    """The sentence with which a run is refused; no folder is made."""
    config = {"data": str(data), **{key: dict(value) for key, value in TINY.items()}}
    for key, value in changes.items():
        config[key] = config.get(key, {}) | value if isinstance(value, dict) else value
    path = out.parent / "options.yaml"
    path.write_text(yaml.safe_dump(config))
    capsys.readouterr()
    assert main([stage, "--config", str(path), "--out", str(out)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("neurobridge: "), errors
    assert errors.count("\n") == 1, errors
    assert not out.exists()
    return errors


def test_every_number_has_a_range_and_the_defaults_lie_within():
    settings = RunSettings()
    check_ranges(settings)
    assert set(RANGES) == {name for name, _ in numbers(settings)} | set(EVERY)


@pytest.mark.parametrize("name", sorted(RANGES))
@pytest.mark.parametrize("value", [float("nan"), -(10**12)])
def test_no_number_is_nan_or_far_below_its_range(name, value):
    *groups, option = name.split(".")
    settings = RunSettings()
    if groups:
        part = replace(getattr(settings, groups[0]), **{option: value})
        settings = replace(settings, **{groups[0]: part})
    else:
        settings = replace(settings, **{option: value})
    if name == "mixture.power" and value == value:
        check_ranges(settings)
        return
    with pytest.raises(UserError, match=rf"{name} is .*: give "):
        check_ranges(settings)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"window": {"bin_ms": 7}}, "not a multiple of window.bin_ms"),
        ({"model": {"width": 18}}, "no multiple of twice model.heads"),
        ({"align": {"readout": "cls"}}, "no [CLS] token"),
        ({"model": {"cls": True, "prompts": True}}, "both put a token in front"),
        ({"align": {"level": 4}}, "align.level is 4, but the model has 1 blocks"),
        ({"align": {"area_windows": {"V1": [200, 100]}}}, "align.area_windows gives V1"),
        ({"align": {"area_windows": {"Nowhere": [0, 100]}}}, "no session has units there"),
        ({"pretrain": {"modes": []}}, "pretrain.modes is []"),
        ({"pretrain": {"ratios": {"temporal": [0.9, 0.1]}}}, "pretrain.ratios gives 'temporal'"),
        ({"pretrain": {"span_ms": [40, 25]}}, "pretrain.span_ms is 40 to 25"),
        ({"encoding": {"layers": ["block99@4"]}}, "block99"),
        (
            {"reconstruct": {"feature_layers": ["block2"]}},
            "reconstruct.feature_layers names the layer 'block2' without",
        ),
        ({"image": {"encoder": "no-such-network"}}, "no image encoder is called"),
        ({"image": {"grid": 1}}, "image.grid is 1, but the small generator draws on 4 x 4"),
        ({"generator": {"weights": "/nowhere"}}, "no generator at /nowhere"),
        ({"generator": {"tiny_autoencoder": "/nowhere"}}, "no tiny autoencoder weights"),
        ({"accelerator": "quantum"}, "accelerator is 'quantum'"),
        ({"sessions": ["x" * 300]}, "is not in"),
    ],
)
def test_options_at_odds(tiny_data, tmp_path, capsys, changes, sentence):
    assert sentence in refused(capsys, tiny_data, tmp_path / "run", **changes)


def test_windows_of_the_mixture_have_the_same_ranges():
    mixture = MixtureSettings(windows={"other": WindowSettings(bin_ms=0)})
    with pytest.raises(UserError, match=r"mixture\.windows gives other a bin_ms of 0"):
        check_ranges(RunSettings(mixture=mixture))


@pytest.fixture
def data(tiny_data, tmp_path) -> Path:
    """A copy with two sessions."""
    folder = tmp_path / "data"
    (folder / "sessions").mkdir(parents=True)
    for name in ("monkeyA_1.h5", "monkeyB_1.h5"):
        (folder / "sessions" / name).write_bytes((tiny_data / "sessions" / name).read_bytes())
    (folder / "images.h5").write_bytes((tiny_data / "images.h5").read_bytes())
    return folder


@pytest.mark.parametrize("row", [-1, 10_000])
@pytest.mark.parametrize("held_out", [[], ["monkeyB_1"]])
def test_a_spike_of_no_unit_is_found_before_training_wherever_it_is(data, tmp_path, capsys, row, held_out):
    with h5py.File(data / "sessions" / "monkeyB_1.h5", "r+") as file:
        file["spikes/unit_index"][40] = row
    sentence = refused(capsys, data, tmp_path / "run", held_out=held_out)
    assert "monkeyB_1.h5: spike 40 belongs to unit row" in sentence


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_split_that_a_later_stage_needs_is_missed_before_the_first(data, tmp_path, capsys, split):
    path = data / "sessions" / "monkeyB_1.h5"
    recording = read_recording(path)
    shown = recording.stimuli.split
    recording.stimuli.split = np.where(shown == split, "none", shown)
    write_recording(recording, path)
    assert f"{split} split" in refused(capsys, data, tmp_path / "run", "run", held_out=["monkeyB_1"])


def test_an_image_set_that_is_cut_off_or_lacks_what_is_shown(data, tmp_path, capsys):
    with h5py.File(data / "images.h5", "r+") as file:
        file["ids"][0] = b"0" * 16
    assert "shows 1 images that are not in" in refused(capsys, data, tmp_path / "run")
    content = (data / "images.h5").read_bytes()
    (data / "images.h5").write_bytes(content[: len(content) // 2])
    assert "images.h5 is cut off" in refused(capsys, data, tmp_path / "run")
