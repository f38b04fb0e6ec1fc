"""What the pages say, works: Python blocks run, commands are parsed by their own parsers, links lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import unicodedata
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from jsonargparse import auto_parser
from PIL import Image

import neurobridge as nb
from neurobridge import cli
from neurobridge.data.simulate import simulate

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
OUTSIDE = [ROOT / name for name in ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "CHANGELOG.md")]
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
TINY = {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8}
SIZES = {"images": 60, "test_images": 8, "test_repeats": 4, "valid_images": 12, "sessions": 2, "electrodes": 16}
PLACEHOLDERS = {
    "RUN": "runs/mine",
    "DIR": "data/mine",
    "NEW": "data/new",
    "DATA": "data/mine",
    "NAME": "monday",
    "FILE": "run.yaml",
    "PATH": "data/mine/sessions/monday.h5",
    "MANIFEST": "day1.yaml",
    "COMMAND": "run",
}
RUN_HERE = (
    "doctor", "completion", "plan", "data list", "data validate", "data audit", "embed", "adapt", "predict", "export",
)  # fmt: skip
OF_ANOTHER_PLACE = ("downloads/", "phy", "configs/", "000128")  # what the pages have and a test has not


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(page.read_text()) if language in languages]


def commands(page: Path) -> list[str]:
    """Lines of a page's blocks that call the command line, continued lines in one, comments and launchers cut off."""
    text = "\n".join(blocks(page, "", "bash", "console")).replace("\\\n", " ")
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines()]
    found = [re.search(r"^(?:srun |torchrun .* -m )?(neurobridge .*)", line) for line in lines]
    return [match[1] for match in found if match]


def inline(page: Path) -> list[str]:
    """Commands within a line of text or a table."""
    return re.findall(r"`(neurobridge [^`\n]+)`", FENCE.sub("", page.read_text()))


def cases(of) -> list:
    return [pytest.param(page, line, id=f"{page.stem}: {line}") for page in PAGES for line in dict.fromkeys(of(page))]


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A folder in which what the pages name lies about, at a size of seconds."""
    where = tmp_path_factory.mktemp("world")
    simulate(where / "data" / "mine", seed=3, **SIZES)
    sessions = where / "data" / "mine" / "sessions"
    names = dict(zip(sorted(path.stem for path in sessions.glob("*.h5")), ("monday", "sunday", "other"), strict=False))
    for name, called in names.items():
        (sessions / f"{name}.h5").rename(sessions / f"{called}.h5")
    shutil.copytree(where / "data" / "mine", where / "data" / "new", ignore=shutil.ignore_patterns("[mso]*.h5"))
    (last,) = (path for path in sessions.glob("*.h5") if path.stem not in names.values())
    (where / "data" / "new" / "sessions").mkdir(exist_ok=True)
    shutil.copy2(where / "data" / "mine" / "images.h5", where / "data" / "new" / "images.h5")
    last.rename(where / "data" / "new" / "sessions" / "tuesday.h5")
    short = {"model": TINY, "windows": 16, "groups": 2, "layer": "block2", "resolution": 64, "progress": False}
    recordings = nb.open(where / "data" / "mine")
    model = nb.pretrain(recordings, steps=4, out=where / "runs" / "pretrained", **short)
    head = {"windows": 16, "queries": 2, "hidden": 16, "progress": False}
    nb.align(model, recordings, steps=2, joint_steps=1, out=where / "runs" / "mine", **head)
    (where / "pictures").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(where / "pictures" / f"{number}.png")
    (where / "run.yaml").write_text("data: data/mine\nout: runs/new\n")
    shutil.copytree(ROOT / "configs", where / "configs")
    return where


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_every_python_block_of_a_page_runs(page: Path, world: Path, monkeypatch, capsys):
    """In order, in one namespace, as a reader would type them."""
    monkeypatch.chdir(world)
    names = {"__name__": "page"}
    for source in blocks(page, "python"):
        exec(compile(source, page.name, "exec"), names)


@pytest.mark.slow
def test_every_cell_of_the_tour_runs(tmp_path, monkeypatch, capsys):
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "tour"}
    cells = blocks(ROOT / "docs" / "tour.md", "{code-cell}")
    assert len(cells) >= 6
    for source in cells:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
            exec(compile(source, "tour.md", "exec"), names)
    top1 = names["top1"].set_index("method")
    assert top1.value["NeuroBridge, decoding"] > 3 * top1.chance.iloc[0]
    assert (names["top1"].role == "rival").any()
    matplotlib.pyplot.close("all")


def parsed(line: str, monkeypatch) -> list:
    """The options of ``line``, by the command's own parser; nothing is called."""
    found = []

    def parse(function, *, args, **options):
        found.append(auto_parser(function, **options).parse_args(args))

    monkeypatch.setattr("neurobridge.options.auto_cli", parse)
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(line)[1:]]
    words = [word.replace("'[NAME]'", "'[monday]'").replace("[NAME]", "[monday]") for word in words]
    assert cli.run(words) == 0
    return found


@pytest.mark.parametrize(("page", "line"), cases(commands))
def test_every_command_of_a_block_is_parsed(page: Path, line: str, world: Path, monkeypatch, capsys):
    monkeypatch.chdir(world)
    if "--help" in line:
        assert cli.COMMANDS[" ".join(shlex.split(line)[1:-1])]
    else:
        assert len(parsed(line, monkeypatch)) == 1


@cache
def options_of(command: str) -> set[str]:
    module, function = cli.COMMANDS[command].split(":")
    from neurobridge.options import Parser

    parser = auto_parser(
        getattr(importlib.import_module(module), function), parser_class=Parser, prog=f"neurobridge {command}"
    )
    return {name for action in parser._actions for name in action.option_strings}


@pytest.mark.parametrize(("page", "line"), cases(inline))
def test_every_command_in_a_line_is_there_with_its_options(page: Path, line: str):
    words = line.replace("...", "").split()[1:]
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    plain = [word for word in words if not word.startswith("-")]
    if plain and plain[0] == "COMMAND":
        return
    names = [name for name in cli.COMMANDS if plain[: len(name.split())] == name.split()]
    if not names:  # the head of several: 'neurobridge analyse', 'neurobridge data get SOURCE'
        head = [word for word in plain if word.islower()]
        names = [name for name in cli.COMMANDS if name.split()[: len(head)] == head]
        assert names, line
        names = names[:1]
    if names[0] == "adapt" and {"--data", "--sessions"} & set(given):
        names = [cli.LATER]
    known = options_of(names[0]) | {"--help", "--json", "--print_config", "--config", "--window"}
    assert set(given) <= known, set(given) - known


@pytest.mark.parametrize(
    ("page", "line"),
    [case for case in cases(commands) if shlex.split(case.values[1])[1:] and any(
        case.values[1].startswith(f"neurobridge {name}") for name in RUN_HERE
    ) and not any(word in case.values[1] for word in OF_ANOTHER_PLACE)],
)  # fmt: skip
def test_quick_commands_of_the_pages_are_run(page: Path, line: str, world: Path, monkeypatch, capsys, tmp_path):
    """Each in a copy of the world that it may change."""
    shutil.copytree(world, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(line)[1:]]
    sized = [] if words[0] != "adapt" else ["--steps", "2"]
    if words[0] == "embed" and "later" in line:
        assert cli.main(["adapt", "runs/mine", "--data", "data/new", "--sessions", "[tuesday]", "--steps", "0"]) == 0
    made = Path(words[words.index("--out") + 1]) if "--out" in words else None
    for zarr in ("zarr",) if line.endswith(".zarr") else ():
        pytest.importorskip(zarr, reason="the extra zarr is not installed")
    assert cli.main([*words, *sized]) == 0, capsys.readouterr().err
    assert made is None or made.exists()


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    kept = "".join(c for c in text if c in " -_" or unicodedata.category(c)[0] in "LN")
    return kept.replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text())
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)}


@pytest.mark.parametrize(
    "page", [*PAGES, *OUTSIDE, ROOT / "benchmarks" / "RESULTS.md"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_links_and_anchors_lead_somewhere(page: Path):
    text = FENCE.sub("", page.read_text())
    text = re.sub(r"`[^`\n]*`", "", text)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        assert there.is_relative_to(ROOT), f"{page.name}: {target} lies outside"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}: no such heading"


def test_the_site_builds_without_a_warning(tmp_path):
    """All but the tour's cells, which have a test of their own; 'make docs' runs them too."""
    for name in ("sphinx", "myst_nb", "pydata_sphinx_theme", "sphinx_copybutton"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: make docs brings the extra docs")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-D", "nb_execution_mode=off"]
    done = subprocess.run(
        [*command, "-d", str(tmp_path / "trees"), str(ROOT / "docs"), str(tmp_path / "site")],
        capture_output=True,
        text=True,
        env={**os.environ, "JAXTYPING_DISABLE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    design = (tmp_path / "site" / "design.html").read_text()
    assert "pipeline may import training" in design, "the street is drawn"
    api = (tmp_path / "site" / "api.html").read_text()
    for name in nb.__all__:
        assert f"neurobridge.{name}" in api or f"api.{name}" in api, name
