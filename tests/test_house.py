"""The house: make targets, exact pins, the import contract, and what must never be in the tree."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MACHINE_PATH = re.compile(r"(?<![\w.:/~-])/(?:home|Users|root|work|mnt|opt|scratch)/\w+")
IMAGE_AND_REPORT = ("PIL", "diffusers", "transformers", "jinja2", "matplotlib", "skimage", "wandb")


def pins() -> dict[str, str]:
    """Name -> version of constraints.txt; fails on any line that is not an exact pin."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)==([A-Za-z0-9.]+)", line)
        assert match, f"constraints.txt: '{line}' is no exact pin without local suffix"
        found[canonicalize_name(match[1])] = match[2]
    return found


def requirements() -> list[Requirement]:
    """What pyproject.toml asks for, the extras that tests need included."""
    extras = PROJECT["optional-dependencies"]
    lines = PROJECT["dependencies"] + [
        line for name in ("data", "image", "report", "dev", "docs", "peers") for line in extras[name]
    ]
    return [r for r in map(Requirement, lines) if canonicalize_name(r.name) != PROJECT["name"]]


def repository_files() -> list[Path]:
    """Tracked and not yet tracked files, ignored ones left out."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_at_most_ten_targets_and_each_explains_itself():
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)[1].split()
    explained = re.findall(r"^([a-z]+):.*## \w+", text, flags=re.MULTILINE)
    assert phony == explained
    assert len(phony) <= 10
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert re.findall(r"^  make (\w+)", shown, flags=re.MULTILINE) == phony


def test_setup_fetches_torch_alone_and_first():
    lines = subprocess.run(
        ["make", "-n", "--no-print-directory", "-W", "pyproject.toml", "setup"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    installs = [line for line in lines if "pip install" in line]
    assert installs[0].endswith(f"pip install torch=={pins()['torch']} -c constraints.txt")
    assert installs[1].endswith("pip install -e '.[dev]' -c constraints.txt")


def test_pins_satisfy_what_the_package_asks_for():
    pinned = pins()
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{requirement} has no pin in constraints.txt"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} excludes the pinned {pinned[name]}"


def test_lightning_is_newer_than_the_compromised_releases():
    lightning = next(r for r in requirements() if r.name == "lightning")
    assert not any(lightning.specifier.contains(bad) for bad in ("2.6.2", "2.6.3"))
    for name in ("lightning", "pytorch-lightning"):
        assert Version(pins()[name]) >= Version("2.6.4")


def test_import_contract_holds():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_no_torchvision():
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(name.split(".")[0] == "torchvision" for name in names), path


def test_no_path_of_a_machine_in_the_tree():
    found = []
    for path in repository_files():
        content = path.read_bytes()
        if b"\0" not in content[:8192]:
            found += [
                f"{path.relative_to(ROOT)}: {hit}" for hit in MACHINE_PATH.findall(content.decode(errors="replace"))
            ]
    assert not found


def test_large_files_stay_out():
    assert not [p for p in repository_files() if p.stat().st_size > 20e6]


def test_importing_the_package_is_quick():
    code = "import sys, neurobridge; sys.exit('torch' in sys.modules)"
    start = time.perf_counter()
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0, "import neurobridge loads torch"
    assert time.perf_counter() - start < 1.0


def test_core_imports_without_the_image_and_report_extras():
    code = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {IMAGE_AND_REPORT!r}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
import neurobridge.data.images, neurobridge.data.recording, neurobridge.neuro.model
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_walk_of_the_design_page_exists():
    """From file to picture in at most 12 hops, each a class or function that is there."""
    page = (ROOT / "docs" / "design.md").read_text()
    hops = re.findall(r"^\| (\d+) \| (.+?) \|", page, flags=re.MULTILINE)
    assert [int(number) for number, _ in hops] == list(range(1, len(hops) + 1))
    assert len(hops) <= 12
    named = re.findall(r"`([\w/]+\.py):(\w+)`", page)
    assert len(named) >= len(hops)
    for file, name in named:
        tree = ast.parse((ROOT / "src" / "neurobridge" / file).read_text())
        assert name in {node.name for node in tree.body if hasattr(node, "name")}, f"{file} has no {name}"


def test_the_contract_in_the_design_page_is_the_contract():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        house = runpy.run_path(str(ROOT / "benchmarks" / "house.py"))
    finally:
        sys.path.pop(0)
    assert house["drawn"]() in (ROOT / "docs" / "design.md").read_text(), "run benchmarks/house.py --draw"


def test_what_the_plan_page_names_is_there():
    page = (ROOT / "docs" / "plan.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) >= 25
    for line in rows:
        for name in re.findall(r"`([\w./-]+/[\w./-]*|pyproject.toml)`", line):
            assert (ROOT / name).exists(), name
        assert re.search(r"\| (done|part|not yet)\b", line), line
