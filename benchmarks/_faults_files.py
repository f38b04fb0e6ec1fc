"""Files of a finished run folder, spoilt in five ways: each is named, and made again from what is sound."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from _faults import Bench, Fault, command, fault

WAYS: dict[str, Callable[[bytes], bytes | None]] = {
    "emptied": lambda content: b"",
    "cut off": lambda content: content[: len(content) // 2],
    "flipped": lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 8]) + content[len(content) // 2 + 1 :]
    ),
    "garbage": lambda content: bytes(range(256)) * 4,
    "gone": lambda content: None,
}
EARLY = (
    "pretrain/model.safetensors",
    "pretrain/model.json",
    "pretrain/done.json",
    "adapt/model.safetensors",
    "align/head.json",
    "align/embeddings.npz",
    "adapter/adapter.safetensors",
    "config.yaml",
    "inputs.json",
    "metrics.csv",
    "pretrain/audit.json",
)
LATE = (("reconstruct/pictures.npz", "flipped"), ("evaluate/results.json", "emptied"), ("report.html", "gone"))
SAME = (
    "pretrain/model.safetensors",
    "adapt/model.safetensors",
    "align/head.safetensors",
    "adapter/adapter.safetensors",
)


def faults(bench: Bench) -> Iterator[Fault]:
    for name in EARLY:
        for how in WAYS:
            yield spoilt(bench, name, how)
    for name, how in LATE:
        yield spoilt(bench, name, how)
    for how in WAYS:
        yield foreign_cache(bench, how)


def spoilt(bench: Bench, name: str, how: str) -> Fault:
    """One file spoilt; the same command again names it and ends with the same bytes of models and scores."""
    whole = bench.finished
    out = bench.copied(whole, "run")
    path = out / name
    content = WAYS[how](path.read_bytes())
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    found = command("run", *bench.options(out))
    named = name in found.text.replace("\n", "") or (name.endswith("done.json") and how == "gone")
    same = all((out / part).is_file() and (out / part).read_bytes() == (whole / part).read_bytes() for part in SAME)
    scores = [scores_of(folder) for folder in (out, whole)]
    right = found.code == 0 and not found.traceback and named and same and scores[0] == scores[1]
    if (name, how) == ("config.yaml", "flipped"):  # what still reads may be what somebody wrote there
        right = right or found.refused("config.yaml", "another")
    said = next((line for line in found.text.splitlines() if name in line), found.said)
    shutil.rmtree(out)
    return fault(f"{name} {how}", found, right, "" if found.traceback else said)


def scores_of(out: Path) -> object:
    try:
        return json.loads((out / "evaluate" / "results.json").read_text())
    except (OSError, ValueError):
        return None


def foreign_cache(bench: Bench, how: str) -> Fault:
    """A shard of the cache of embeddings spoilt before alignment."""
    data, out = bench.copied(bench.data, "data"), bench.stages("adapt")
    shutil.rmtree(out / "checkpoints" / "align")
    shutil.rmtree(out / "checkpoints" / "align-joint")
    for path in list(data.glob("embeddings/*/*.npz")):
        content = WAYS[how](path.read_bytes())
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
    found = command("align", *bench.options(out, data=data))
    right = (
        found.code == 0
        and (out / "align/head.safetensors").read_bytes() == (bench.finished / "align/head.safetensors").read_bytes()
    )
    return fault(f"cached embeddings {how}", found, right, "computed again" if right else "")
