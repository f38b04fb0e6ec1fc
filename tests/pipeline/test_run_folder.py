"""A run folder is one process's, its data stay what they were, and what a stage left is trusted only unaltered."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from neurobridge.cli import main
from neurobridge.data.recording import read_recording, write_recording
from neurobridge.data.simulate import simulate
from neurobridge.pipeline.commands import demo_settings
from neurobridge.pipeline.folder import settings_of

MODEL = {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8}
SHORT = {"steps": 4, "windows": 8, "groups": 1, "checkpoint_every": 2, "images": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    sizes = {"images": 40, "test_images": 6, "test_repeats": 2, "valid_images": 6, "sessions": 1, "electrodes": 14}
    return simulate(tmp_path_factory.mktemp("folder") / "data", seed=1, **sizes)


@pytest.fixture
def data(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


def names(data: Path) -> list[str]:
    return sorted(path.stem for path in (data / "sessions").glob("*.h5"))


def options(data: Path, out: Path, **changes) -> list[str]:
    adapt = {"steps": 2, "windows": 8, "checkpoint_every": 2}
    config = {"data": str(data), "model": MODEL, "pretrain": SHORT, "adapt": adapt, "held_out": names(data)[-1:]}
    path = out.parent / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(config | changes))
    return ["--config", str(path), "--out", str(out), "--accelerator", "cpu"]


def refused(capsys, stage: str, arguments: list[str]) -> str:
    capsys.readouterr()
    assert main([stage, *arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1, errors
    return errors


def weights(out: Path, stage: str = "pretrain") -> bytes:
    return (out / stage / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"held_out": ["monkeyB_3"]}, "held_out: session 'monkeyB_3' is not in"),
        ({"sessions": ["monkeyZ"]}, "sessions: session 'monkeyZ' is not in"),
        ({"picture_sessions": ["monkeyZ"]}, "picture_sessions: session 'monkeyZ' is not in"),
        ({"align": {"sessions": ["monkeyZ"]}}, "align.sessions: session 'monkeyZ' is not in"),
        ({"held_out": ["monkeyA_1", "monkeyB_1"]}, "every session of"),
        ({"held_out": ["monkeyA_1", "monkeyA_1"]}, "named twice"),
        ({"sessions": ["monkeyA_1"], "held_out": [], "picture_sessions": ["monkeyB_1"]}, "neither in sessions nor"),
        ({"align": {"sessions": ["monkeyA_1"]}, "picture_sessions": ["monkeyB_1"]}, "not in align.sessions"),
        ({"mixture": {"data": ["nowhere"]}}, "no sessions under nowhere"),
    ],
)
def test_names_are_checked_before_anything_is_made(made, tmp_path, capsys, changes, sentence):
    assert names(made) == ["monkeyA_1", "monkeyB_1"]
    assert sentence in refused(capsys, "run", options(made, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("valued", [False, True])
def test_an_event_that_is_no_number_is_refused_before_training(data, tmp_path, capsys, bad, valued):
    path = data / "sessions" / f"{names(data)[0]}.h5"
    if valued:
        recording = read_recording(path)
        recording.signal_kind = "mua_envelope"
        recording.spike_values = np.ones(len(recording.spike_times), np.float32)
        write_recording(recording, path)
    with h5py.File(path, "r+") as file:
        events = next(group for group in file.values() if isinstance(group, h5py.Group) and "unit_index" in group)
        column = events["value" if valued else "timestamps"]
        column[len(column) // 2] = bad
    sentence = refused(capsys, "pretrain", options(data, tmp_path / "run"))
    assert path.name in sentence
    assert "no finite number" in sentence or "import it again" in sentence
    assert not (tmp_path / "run").exists()


def alter_spikes(data: Path) -> str:
    path = data / "sessions" / f"{names(data)[0]}.h5"
    recording = read_recording(path)
    recording.spike_units = (recording.spike_units + 1) % len(recording.unit_ids)
    write_recording(recording, path)
    return path.name


def exchange_splits(data: Path) -> str:
    path = data / "sessions" / f"{names(data)[0]}.h5"
    recording = read_recording(path)
    split = recording.stimuli.split
    recording.stimuli.split = np.where(split == "train", "test", np.where(split == "test", "train", split))
    write_recording(recording, path)
    return path.name


def alter_pixels(data: Path) -> str:
    with h5py.File(data / "images.h5", "r+") as file:
        pixels = file["pixels"]
        pixels[0] = 255 - pixels[0]
    return "images.h5"


def take_session(data: Path) -> str:
    path = data / "sessions" / f"{names(data)[0]}.h5"
    path.unlink()
    return path.name


def add_session(data: Path) -> str:
    shutil.copy(data / "sessions" / f"{names(data)[0]}.h5", data / "sessions" / "monkeyC_1.h5")
    return "monkeyC_1.h5"


@pytest.fixture(scope="module")
def pretrained(made, tmp_path_factory) -> tuple[Path, Path]:
    """Data and a run that has pretrained on them."""
    folder = tmp_path_factory.mktemp("pretrained")
    data = Path(shutil.copytree(made, folder / "data"))
    assert main(["pretrain", *options(data, folder / "run")]) == 0
    return data, folder / "run"


@pytest.fixture
def run(pretrained, tmp_path) -> tuple[Path, Path]:
    """A copy of the run, whose data have moved: they are the same, so it goes on."""
    data = shutil.copytree(pretrained[0], tmp_path / "moved")
    return Path(data), Path(shutil.copytree(pretrained[1], tmp_path / "run"))


@pytest.mark.parametrize("change", [alter_spikes, exchange_splits, alter_pixels, take_session, add_session])
def test_data_that_changed_between_stages_are_named(run, capsys, change):
    data, out = run
    held_out = names(data)[-1:]
    changed = change(data)
    before = (out / "config.yaml").read_text()
    assert changed in refused(capsys, "adapt", options(data, out, held_out=held_out))
    assert not (out / "adapt").exists()
    assert (out / "config.yaml").read_text() == before


def test_moved_and_touched_data_are_the_same_data(run):
    data, out = run
    for path in (data / "sessions").glob("*.h5"):
        os.utime(path)
    assert main(["adapt", *options(data, out)]) == 0
    assert main(["adapt", *options(data / ".." / data.name, out)]) == 0


@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("model.safetensors", "flipped"),
        ("model.safetensors", "gone"),
        ("model.json", "emptied"),
        ("done.json", "emptied"),
    ],
)
def test_what_a_stage_left_is_checked_and_made_again(run, capsys, file, how):
    data, out = run
    path, before = out / "pretrain" / file, weights(out)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"" if how == "emptied" else bytes(content))
    sentence = refused(capsys, "adapt", options(data, out))
    assert "run 'neurobridge pretrain'" in sentence
    assert file in sentence
    assert main(["pretrain", *options(data, out)]) == 0
    assert weights(out) == before, "made again, from the checkpoint, bit for bit"
    assert main(["adapt", *options(data, out)]) == 0


def test_options_are_fixed_once_a_stage_that_reads_them_has_begun(run, capsys):
    data, out = run
    assert "another 'pretrain.learning_rate'" in refused(
        capsys, "pretrain", options(data, out, pretrain=SHORT | {"learning_rate": 0.5})
    )
    shutil.rmtree(out / "pretrain")
    sentence = refused(capsys, "pretrain", options(data, out, pretrain=SHORT | {"learning_rate": 0.5}))
    assert f"remove {out / 'checkpoints' / 'pretrain'} to begin that stage anew" in sentence
    shutil.rmtree(out / "checkpoints" / "pretrain")
    assert main(["pretrain", *options(data, out, pretrain=SHORT | {"learning_rate": 0.5})]) == 0
    mended = {"pretrain": SHORT | {"learning_rate": 0.5}, "adapt": {"steps": 3, "windows": 4, "checkpoint_every": 3}}
    assert main(["adapt", *options(data, out, **mended)]) == 0, "no stage has read it yet"
    assert "another 'adapt.steps'" in refused(capsys, "adapt", options(data, out, pretrain=mended["pretrain"]))


def begun(arguments: list[str], out: Path) -> subprocess.Popen:
    """A process that pretrains, with a checkpoint behind it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-m", "neurobridge", "pretrain", *arguments]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while process.poll() is None and not list(out.glob("checkpoints/pretrain/step=*.ckpt")):
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    return process


@pytest.fixture
def one_thread():
    """Sums are rounded by the number of threads that make them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_two_runs_in_one_folder_and_sigterm_and_kill(made, tmp_path, capsys, one_thread):
    """The second is refused; SIGTERM is answered by 143; after kill -9 the lock is free; the weights are the same."""
    long = SHORT | {"steps": 90, "checkpoint_every": 7}
    out, arguments = tmp_path / "run", options(made, tmp_path / "run", pretrain=long)
    process = begun(arguments, out)
    assert f"in use by another run (process {process.pid})" in refused(capsys, "pretrain", arguments)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in errors
    saved = sorted(int(path.stem.split("=")[1]) for path in out.glob("checkpoints/pretrain/step=*.ckpt"))
    process = begun(arguments, out)
    while process.poll() is None and max(saved) in (
        now := [int(path.stem.split("=")[1]) for path in out.glob("checkpoints/pretrain/step=*.ckpt")]
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert max(now) > max(saved), "it went on from where it was terminated"
    assert main(["pretrain", *arguments]) == 0
    assert main(["pretrain", *options(made, tmp_path / "whole", pretrain=long)]) == 0
    assert weights(out) == weights(tmp_path / "whole"), "bit for bit"
    assert not list(out.rglob("*.part"))


def test_a_rate_that_is_much_too_high_is_a_sentence(made, tmp_path, capsys):
    steep = SHORT | {"learning_rate": 1e6, "steps": 60}
    sentence = refused(capsys, "pretrain", options(made, tmp_path / "run", pretrain=steep))
    assert "pretrain stopped at step" in sentence
    assert "no finite number" in sentence
    assert not (tmp_path / "run" / "pretrain").exists()


def test_the_shipped_configuration_of_the_demo_is_what_the_demo_runs(tmp_path):
    (tmp_path / "sessions").mkdir()
    (tmp_path / "sessions" / "monkeyB_3.h5").touch()
    path = Path(__file__).resolve().parents[2] / "configs" / "experiments" / "demo.yaml"
    shipped = settings_of(path.read_text())
    assert demo_settings(tmp_path, shipped.out, quick=False, seed=0) == replace(shipped, data=tmp_path)
