"""The house: files, lines, circles, callers, reads. Its bar is a plan; what is missed is shown.

Counted over the package: source files and lines; the longest file; circles of imports between files; public functions
and classes that nothing but tests calls; how often a command opens the image set.

    python benchmarks/house.py [--draw]    # half a minute; --draw writes the import contract into docs/design.md
"""

from __future__ import annotations

import argparse
import ast
import itertools
import re
import tempfile
import tomllib
from pathlib import Path

from _common import ROOT, last_line
from rich.console import Console
from rich.table import Table

SOURCE = ROOT / "src" / "neurobridge"
BAR = {"files": 125, "lines": 19_000, "longest": 320, "circles": 0, "uncalled": 0, "image_reads": 1}


def sources() -> dict[str, Path]:
    """Module name -> file."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Module -> modules of ours that it imports as it is loaded (not inside of functions)."""
    graph: dict[str, set[str]] = {name: set() for name in trees}
    for name, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("neurobridge"):
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    graph[name].add(whole if whole in trees else node.module)
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name] & graph.keys()):
            if other not in index:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def uncalled(trees: dict[str, ast.Module], texts: dict[str, str]) -> list[str]:
    """Public functions and classes that no source, command, benchmark or page names but where they are defined."""
    outside = [path.read_text() for path in (ROOT / "benchmarks").glob("*.py")]
    outside += [path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]]
    words = [set(re.findall(r"\w+", text)) for text in outside]
    found = []
    for name, tree in trees.items():
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            own = len(re.findall(rf"\b{node.name}\b", texts[name])) > 1
            others = (re.search(rf"\b{node.name}\b", text) for other, text in texts.items() if other != name)
            if not own and not any(others) and not any(node.name in some for some in words):
                found.append(f"{name}.{node.name}")
    return found


def image_reads() -> int:
    """How often the image set of a tiny run is read from disk, all stages in one command."""
    from neurobridge.cli import main
    from neurobridge.data import images
    from neurobridge.data.simulate import simulate

    with tempfile.TemporaryDirectory() as folder:
        sizes = {"images": 60, "test_images": 8, "test_repeats": 4, "valid_images": 12, "sessions": 1, "electrodes": 16}
        data = simulate(Path(folder) / "data", seed=3, **sizes)
        images._read.cache_clear()
        sized = ["--model.width=16", "--model.depth=1", "--model.heads=2", "--model.latents=2", "--model.unit_width=8"]
        short = ["--pretrain.steps=2", "--adapt.steps=2", "--align.steps=2", "--align.joint_steps=2"]
        short += ["--pretrain.windows=8", "--adapt.windows=8", "--align.windows=8", "--generator.adapter_steps=2"]
        short += ["--generator.sketch_steps=2", "--reconstruct.samples=1", "--reconstruct.steps=2"]
        short += ["--reconstruct.posterior_steps=2", "--reconstruct.inversion_steps=1", "--image.resolution=64"]
        code = main(["run", f"--data={data}", f"--out={folder}/run", "--held_out=[monkeyB_1]", *sized, *short])
        assert code == 0, "the tiny run ends well"
        return images._read.cache_info().misses


def drawn() -> str:
    """The layers of the import contract, as Mermaid: an arrow means 'may import'."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers")
    floors = [[part.strip().removeprefix("neurobridge.") for part in layer.split("|")] for layer in layers]
    lines = ["```mermaid", "flowchart TD"]
    for above, below in itertools.pairwise(floors):
        lines += [f"    {a} --> {b}" for a in above for b in below]
    lines += ["    pipeline --> data", "    pipeline --> evaluation", "    pipeline --> baselines", "```"]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draw", action="store_true")
    if parser.parse_args().draw:
        page = ROOT / "docs" / "design.md"
        before, _, after = page.read_text().split("<!-- house -->")
        page.write_text(f"{before}<!-- house -->\n{drawn()}\n<!-- house -->{after}")
        return 0
    files = sources()
    texts = {name: path.read_text() for name, path in files.items()}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    lengths = {name: text.count("\n") for name, text in texts.items()}
    longest = max(lengths, key=lambda name: lengths[name])
    rings, alone = circles(imports(trees)), uncalled(trees, texts)
    value = {
        "files": len(files),
        "lines": sum(lengths.values()),
        "longest": lengths[longest],
        "circles": len(rings),
        "uncalled": len(alone),
        "image_reads": image_reads(),
    }
    table = Table("what", "counted", "bar", "which")
    which = {
        "longest": longest,
        "circles": "; ".join(" <-> ".join(ring) for ring in rings),
        "uncalled": ", ".join(alone),
    }
    for key, count in value.items():
        table.add_row(key, str(count), f"<= {BAR[key]}", which.get(key, ""), style=None if count <= BAR[key] else "red")
    Console(width=160).print(table)
    return last_line("house", value["lines"], BAR, all(value[key] <= BAR[key] for key in BAR), **value)


if __name__ == "__main__":
    raise SystemExit(main())
