"""Bad input: one sentence, exit code 2, no traceback, nothing half-written left behind."""

import json
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from neurobridge.cli import main
from neurobridge.data.recording import read_recording, write_recording
from neurobridge.data.simulate import simulate

MODEL = {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8}
SHORT = {"steps": 4, "windows": 8, "groups": 1, "checkpoint_every": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    sizes = {"images": 40, "test_images": 6, "test_repeats": 2, "valid_images": 6, "sessions": 1, "electrodes": 14}
    return simulate(tmp_path_factory.mktemp("bad") / "data", seed=1, **sizes)


@pytest.fixture
def data(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


def refused(capsys, *arguments: object) -> str:
    """Run a command that must be refused; return its sentence."""
    code = None
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as stop:  # the parser's own errors
        code = stop.code
    errors = capsys.readouterr().err
    assert code == 2, errors
    assert "Traceback" not in errors
    sentences = [line for line in errors.splitlines() if line.startswith(("neurobridge:", "error:"))]
    assert len(sentences) == 1, errors
    return sentences[0]


def pretrain(data: Path, out: Path, **options) -> list[str]:
    config = out.parent / "bad.yaml"
    config.write_text(yaml.safe_dump({"data": str(data), "model": MODEL, "pretrain": SHORT, **options}))
    return ["pretrain", "--config", str(config), "--out", str(out)]


def test_missing_folder(capsys, tmp_path):
    assert "no sessions under" in refused(capsys, *pretrain(tmp_path / "nowhere", tmp_path / "run"))
    assert "no folder at" in refused(capsys, "data", "import", "v4", tmp_path / "nowhere", "--out", tmp_path / "v4")
    assert not (tmp_path / "v4").exists()


@pytest.mark.parametrize("keep", [0, 3000])
def test_empty_or_truncated_hdf5(capsys, data, tmp_path, keep):
    file = next((data / "sessions").glob("*.h5"))
    file.write_bytes(file.read_bytes()[:keep])
    sentence = refused(capsys, *pretrain(data, tmp_path / "run"))
    assert file.name in sentence
    assert "import it again" in sentence


def test_a_session_without_stimuli_cannot_be_aligned(capsys, data, tmp_path):
    for file in (data / "sessions").glob("*.h5"):
        recording = read_recording(file)
        recording.stimuli = None
        write_recording(recording, file)
    command = pretrain(data, tmp_path / "run")
    assert main(command) == 0
    assert main(["adapt", *command[1:]]) == 0
    assert "need stimuli" in refused(capsys, "align", *command[1:])
    assert not (tmp_path / "run" / "align").exists()


def test_an_image_that_is_no_image(capsys, tmp_path):
    raw = tmp_path / "raw"
    (raw / "responses_mean").mkdir(parents=True)
    (raw / "images").mkdir()
    np.save(raw / "responses_mean" / "responses_201025.npy", np.ones((3, 2)))
    with zipfile.ZipFile(raw / "images" / "images_201025.zip", "w") as archive:
        archive.writestr("a.jpg", b"this is no picture")
        archive.writestr("b.jpg", b"nor is this")
    sentence = refused(capsys, "data", "import", "v4", raw, "--out", tmp_path / "v4")
    assert "a.jpg" in sentence
    assert not list(tmp_path.glob("v4/**/*.h5"))


def test_a_config_key_that_does_not_exist(capsys, data, tmp_path):
    assert "modle" in refused(capsys, *pretrain(data, tmp_path / "run", modle={"width": 3}))
    assert not (tmp_path / "run").exists()


def test_sessions_that_are_not_there_or_named_twice(capsys, data, tmp_path):
    assert "'monkeyZ' is not in" in refused(capsys, *pretrain(data, tmp_path / "one", sessions=["monkeyZ"]))
    name = sorted(p.stem for p in (data / "sessions").glob("*.h5"))[0]
    sentence = refused(capsys, *pretrain(data, tmp_path / "two", sessions=[name], held_out=[name]))
    assert "both in sessions and in held_out" in sentence


def test_a_folder_that_holds_another_run_or_something_else(capsys, data, tmp_path):
    out = tmp_path / "run"
    assert main(pretrain(data, out)) == 0
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    assert "another 'seed'" in refused(capsys, *pretrain(data, out, seed=4))
    assert "already holds a run" in refused(capsys, *pretrain(data, out), "--resume", "never")
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}

    config = out / "config.yaml"
    older = yaml.safe_load(config.read_text())
    del older["pretrain"]["jitter_ms"], older["evaluate"]
    config.write_text(yaml.safe_dump(older))
    assert "another 'pretrain.jitter_ms'" in refused(capsys, *pretrain(data, out, pretrain=SHORT | {"jitter_ms": 3}))
    assert yaml.safe_load(config.read_text()) == older
    assert main(pretrain(data, out)) == 0, "what an earlier version did not know has its default"

    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.txt").write_text("years of work")
    assert "is not empty" in refused(capsys, *pretrain(data, other))
    assert [p.name for p in other.iterdir()] == ["chapter1.txt"]


def test_stages_out_of_order(capsys, data, tmp_path):
    command = pretrain(data, tmp_path / "run")
    assert "pretrain stage has not finished" in refused(capsys, "adapt", *command[1:])


def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        command = [sys.executable, "-m", "neurobridge", "data", "simulate", "--quick", "--out", str(disk / "data")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        left = [p for p in disk.rglob("*") if p.is_file()]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert done.returncode == 2, done.stderr
    assert "is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert left == []


def test_a_typo_is_answered_by_what_was_meant(capsys):
    for argv, meant in (
        (["pretrian"], "did you mean 'pretrain'?"),
        (["data", "lst"], "did you mean 'list'?"),
        (["run", "--modle.width", "3"], "did you mean --model.width?"),
        (["pretrain", "--pretrain.step", "3"], "did you mean --pretrain.steps?"),
        (["pretrain", "--pretrain.steps", "few"], "--pretrain.steps: expected int, got few ('"),
        (["data", "import", "lab", "x", "--quality.min_rate", "high"], "min_rate: expected float or null, got high ('"),
        (["evaluate"], "give the folder that pretrain or run has made, as in 'neurobridge evaluate runs/mine'"),
        (["run", "--model.preset", "huge"], "--model.preset: expected one of 'none', 'tiny'"),
    ):
        assert main(argv) == 2
        told = capsys.readouterr().err
        assert meant in told
        assert told.count("\n") == 1
        assert "usage" not in told


def test_help_is_short_and_of_the_command_itself(capsys):
    assert main([]) == 0
    assert "  data list  " in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "neurobridge 0.1.0\n"
    with pytest.raises(SystemExit):
        main(["adapt", "--help"])
    told = capsys.readouterr().out
    assert told.startswith("usage: neurobridge adapt RUN [options]")
    assert "--adapt.steps" in told
    assert "--align.steps" not in told


def test_the_first_words_come_at_once():
    """No command loads what it does not need: help needs no numbers, a list of sessions no network."""
    for argv, absent in ((["--help"], ("numpy", "torch")), (["data", "list", "nowhere"], ("torch", "scipy.signal"))):
        code = f"import sys, neurobridge.cli as c; c.main({argv!r}); print([m for m in {absent!r} if m in sys.modules])"
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert told.strip().endswith("[]")


def test_the_doctor_tells_what_is_there_and_tables_may_be_json(made, capsys):
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = {row["what"]: row["found"] for row in told["rows"]}
    assert found["Python"] == platform.python_version()
    assert "threads of torch" in found["cores and threads"]
    assert main(["data", "list", str(made), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["session"] for row in rows] == ["monkeyA_1", "monkeyB_1"]
    assert main(["data", "list", str(made)]) == 0
    assert "session" in capsys.readouterr().out


def test_tab_completes_commands_and_options(tmp_path, capsys):
    for words, among in (
        ([], "pretrain"),
        (["data"], "import"),
        (["data", "import"], "lab"),
        (["adapt"], "--adapt.steps"),
    ):
        assert main(["--complete", *words]) == 0
        assert among in capsys.readouterr().out.splitlines()
    for shell in ("bash", "zsh"):
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert "complete -o filenames -F _neurobridge neurobridge" in script
    (tmp_path / "done.bash").write_text(script.split("\n", 1)[1])
    subprocess.run(["bash", "-n", str(tmp_path / "done.bash")], check=True)
