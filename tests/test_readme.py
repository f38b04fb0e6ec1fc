"""What the README says, works: make targets, command lines with their options, extras, configurations, the example."""

from __future__ import annotations

import contextlib
import datetime
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from neurobridge.cli import COMMANDS, main
from neurobridge.data.images import ImageSet
from neurobridge.data.recording import read_recording
from neurobridge.data.simulate import simulate

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMAND_PAGE = (ROOT / "docs" / "commands.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    """The fenced blocks of ``text`` in ``language``."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def command_lines(first_word: str) -> list[str]:
    """Lines of the bash blocks, and rows of the command table, that start with ``first_word``."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    lines += re.findall(r"^\| `(.+?)` \|", COMMAND_PAGE, flags=re.MULTILINE)
    lines += re.findall(r"\| `(.+?)` \|$", README, flags=re.MULTILINE)
    return [line for line in lines if line.split()[:1] == [first_word]]


def subcommand(line: str) -> list[str]:
    """'neurobridge data import v4 PATH --out DIR' -> ['data', 'import', 'v4']: the plain words before any argument."""
    words = shlex.split(line)[1:]
    depth = {"data": 3 if words[1:2] == ["import"] else 2, "generator": 2}.get(words[0], 1)
    return words[:depth]


def test_the_two_commands_stand_alone_in_a_block_each():
    assert blocks("bash")[:2] == ["make demo\n", "make test\n"]


def test_bash_blocks_hold_commands_that_are_checked_here():
    for block in blocks("bash"):
        for line in block.splitlines():
            assert line.split()[0] in {"make", "neurobridge", "pip"}, line


@pytest.mark.parametrize("line", command_lines("make"))
def test_make_target_exists(line: str):
    done = subprocess.run(["make", "-n", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", command_lines("pip"))
def test_installed_extras_exist(line: str):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.search(r"\[(.+)\]", line)[1].split(",")
    assert set(extras) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("line", command_lines("neurobridge"))
def test_command_and_its_options_exist(line: str, capsys: pytest.CaptureFixture[str]):
    with contextlib.suppress(SystemExit):
        assert main([*subcommand(line), "--help"]) == 0
    text = capsys.readouterr().out
    for option in re.findall(r"--[\w.-]+", line):
        assert re.search(rf"{re.escape(option)}\b", text), f"'{line}': no {option}"


def test_every_command_is_in_the_table():
    assert {name.split()[0] for name in COMMANDS} == {subcommand(line)[0] for line in command_lines("neurobridge")}


def test_shipped_configurations_are_the_ones_named():
    named = set(re.findall(r"configs/[\w./-]+\.yaml", README))
    assert named == {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configuration_loads_and_states_its_command(path: Path, capsys: pytest.CaptureFixture[str]):
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"--config {path.relative_to(ROOT).as_posix()}" in header
    with pytest.raises(SystemExit) as end:
        main(["run", "--config", str(path), "--print_config"])
    assert end.value.code in (0, None)
    assert "pretrain:" in capsys.readouterr().out


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / target).exists(), target


SHORTER = {  # the README's example at a size of seconds
    "steps=400": "steps=4, windows=16, groups=2, model=TINY, layer='block2', resolution=64, progress=False",
    "recordings[-1:])": "recordings[-1:], steps=2, windows=16, progress=False)",
    'images="runs/simulated-0/images.h5")': "images=DATA / 'images.h5', steps=2, joint_steps=2, windows=16, hidden=16)",
    '"runs/simulated-0"': "DATA",
    "nb.reconstruct(model, recordings[-1])": "nb.reconstruct(model, recordings[-1], **DRAWN)",
    '"runs/day1"': "DATA.parent / 'day1'",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict:
    """What the examples find: a simulated data folder, and options that make them short."""
    sizes = {"images": 60, "test_images": 8, "test_repeats": 4, "valid_images": 12, "sessions": 2, "electrodes": 16}
    return {
        "DATA": simulate(tmp_path_factory.mktemp("readme") / "data", seed=3, **sizes),
        "TINY": {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8},
        "DRAWN": {"train_steps": 2, "sketch_steps": 4, "batch": 8, "samples": 1, "steps": 2, "posterior_steps": 4},
    }


def test_the_example_from_recordings_to_pictures(tiny: dict):
    (source,) = (block for block in blocks("python") if "nb.reconstruct" in block)
    for words, shorter in SHORTER.items():
        assert words in source, f"the README no longer says {words}"
        source = source.replace(words, shorter)
    names = dict(tiny)
    exec(compile(source, "README.md", "exec"), names)
    assert names["z"].dims == ("window", "time", "latent", "feature")
    assert names["hz"].dims == ("window", "unit", "time")
    assert {"ours", "rival"} <= set(names["ranks"].role)
    assert {"ours", "rival", "floor", "ceiling", "decoy"} == set(names["rows"].role)
    assert names["model"].stage == "align"


def test_latents_of_a_tsgroup_in_few_lines(tiny: dict):
    (source,) = (block for block in blocks("python") if "TsGroup({" in block)
    assert len([line for line in source.splitlines() if line.strip()]) <= 15
    names = dict(tiny)
    exec(compile(source.replace("steps=400", "steps=4, model=TINY, progress=False"), "README.md", "exec"), names)
    assert names["latents"].shape[1] == 16 * 2
    assert len(names["latents"]) > 1000


def test_example_of_the_data_format_writes_what_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for source in blocks("python", (ROOT / "docs" / "data-format.md").read_text()):
        exec(compile(source, "data-format.md", "exec"), {})
    main(["data", "list", "DIR"])
    recording = read_recording("DIR/sessions/day1.h5")
    assert recording.unit_keys == ["lab/monkey/day1/u0", "lab/monkey/day1/u1"]
    assert recording.stimuli is not None
    assert len(ImageSet.read("DIR/images.h5").rows(recording.stimuli.image_id)) == 4
    declared = {"dataset": "lab", "subject": "ann", "session_id": "tensor", "signal_kind": "binned_count"}
    declared |= {"time_unit": "s", "index_base": 0, "duration": [0, 60], "areas": ["V1"], "image_root": None}
    declared |= {"spikes": {"format": "npz", "path": "responses.npz", "layout": "binned"}, "split": "image"}
    declared |= {"stimuli": {"format": "csv", "path": "shown.csv"}, "session_date": datetime.date(2024, 5, 1)}
    Path("tensor.yaml").write_text(yaml.safe_dump(declared))
    assert main(["data", "import", "lab", "tensor.yaml", "--out", "DIR"]) == 0
    tensor = read_recording("DIR/sessions/tensor.h5")
    assert tensor.stimuli is not None
    assert len(tensor.stimuli) == 20 * 4 - 2


def test_the_chinese_readme_says_the_same():
    """Headings level by level, every fenced block, every command and link, and every figure in order."""
    chinese = (ROOT / "README.zh-CN.md").read_text()
    alike = {
        "headings": r"^(#+) ",
        "blocks": r"^```[^`]*^```",
        "commands and files": r"`[^`\n]+`",
        "links": r"\]\((?!README)([^)]+)\)",
        "figures": r"\d+\.\d+",
    }
    for what, pattern in alike.items():
        ours, theirs = (re.findall(pattern, text, flags=re.MULTILINE) for text in (README, chinese))
        key = sorted if what == "commands and files" else list
        assert key(ours) == key(theirs), f"README.zh-CN.md differs in {what}"
