"""A model for others: weights, names and a card, without data, checkpoints or paths; and such a model, opened again."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from neurobridge import __version__
from neurobridge.api.model import STAGES, Model, load, weights_in
from neurobridge.api.scratch import new_folder
from neurobridge.errors import UserError, needs
from neurobridge.neuro.model import parameter_count
from neurobridge.pipeline.folder import RunFolder, write_config
from neurobridge.pipeline.inputs import read_inputs
from neurobridge.terminal import console

SHIPPED = {"neurobridge/demo": "demo"}  # name -> folder among the package's own weights
CARD = "README.md"
TOLD = ("NeuroBridge, decoding", "NeuroBridge, likelihood", "NeuroBridge, decoding and likelihood")
FLOORS = ("ridge decoding, same target", "linear encoding likelihood, stacked", "windowed encoding likelihood")


def export(run: Path, *, out: Path, licence: str = "other", name: str = "") -> Path:
    """Write a model that can be shared: safetensors, options, names of units, prior over units, and a model card.

    No recording, no picture, no checkpoint and no path of this machine goes along; names of sessions and units do.

    Args:
        run: Folder of a run whose stage pretrain is done.
        out: Folder to write; it must not exist yet.
        licence: Licence that the weights are given under: yours to say, for it follows from the data.
        name: What the card calls the model; empty: the name of the run folder.

    Raises:
        UserError: There is no such run, or something lies at ``out``.
    """
    model = load(run)
    if out.exists():
        raise UserError(f"{out} is there already: choose another --out, or remove it")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    settings = replace(model.settings, data=Path("data"), out=Path("."))
    part.mkdir(parents=True)
    write_config(settings, part)
    folder = RunFolder.existing(part)
    for stage in STAGES[: STAGES.index(model.stage) + 1]:
        (part / stage).mkdir()
        kept = weights_in(model.path / stage) if stage == model.stage else []
        kept += (model.path / stage).glob("prior.*") if stage == "pretrain" else []
        for path in kept:
            shutil.copy2(path, part / stage / path.name)
        facts = {k: v for k, v in model.folder.facts(stage).items() if k not in ("files", "after")}
        folder.finish(stage, **facts)
    for path in part.rglob(".*"):
        path.unlink()  # second copies of what a run lives by
    (part / CARD).write_text(card(model, name or model.path.resolve().name, licence))
    part.rename(out)
    console.print(f"model: {out}; read {out / CARD} before you share it", markup=False, soft_wrap=True)
    return out


def from_pretrained(name: str | Path, *, revision: str | None = None, token: str | None = None) -> Model:
    """A model that somebody exported: a folder, ``neurobridge/demo`` (of the package itself), or owner/name on the hub.

    Weights are safetensors, names and options JSON and YAML: nothing in them is run. revision: branch, tag or commit on
    the hub. Raises UserError where there is none, or where it was altered since it was exported.
    """
    if str(name) in SHIPPED:
        source = Path(str(files("neurobridge") / "weights" / SHIPPED[str(name)]))
    elif Path(name).is_dir():
        source = Path(name)
    elif isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/")):
        source = _fetched(name, revision, token)
    else:
        raise UserError(f"no model at {name}: give the folder of an exported one, or owner/name on the hub")
    where = new_folder("model")
    shutil.copytree(source, where, ignore=shutil.ignore_patterns(".*", CARD))
    return load(where)


def push_to_hub(model: Path, name: str, *, private: bool = True, token: str | None = None) -> str:
    """Upload an exported ``model`` folder to owner/name on the hub; its address. Raises UserError where that fails."""
    if not (Path(model) / CARD).is_file():
        raise UserError(f"{model} is no exported model (no {CARD}): neurobridge export RUN --out {model} first")
    with needs("image"):
        from huggingface_hub import HfApi
    api = HfApi(token=token)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=str(model)))
    except Exception as error:
        raise UserError(
            f"{name} could not be uploaded ({str(error).splitlines()[0]}): check name, token, net"
        ) from error


def _fetched(name: str, revision: str | None, token: str | None) -> Path:
    with needs("image"):
        from huggingface_hub import snapshot_download
    patterns = ["*.safetensors", "*.json", "*.yaml", "*/*.safetensors", "*/*.json", CARD]
    try:
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=patterns))
    except Exception as error:
        raise UserError(
            f"{name} is no folder here and could not be fetched from the hub ({str(error).splitlines()[0]}): check the "
            "name and the network, or give a local folder"
        ) from error


def card(model: Model, name: str, licence: str) -> str:
    """The model card, in Markdown: what it was made of, how good it is beside its floors, what it is not for."""
    settings = model.settings
    window = settings.window
    keys = [key.split("/") for key in model.net.units.keys]
    subjects = Counter(f"{dataset}/{subject}" for dataset, subject, *_ in keys)
    animals = ", ".join(f"{name} ({count} units)" for name, count in subjects.items())
    images = "none" if model.bridge is None else f"embeddings of {settings.image.encoder}"
    gives = "spike trains to latents" + ("" if model.bridge is None else " and image embeddings")
    rows = "\n".join(f"| `{file}` | {digest} |" for file, (_, _, digest) in read_inputs(model.path).items())
    return f"""---
license: {licence}
library_name: neurobridge
tags: [neuroscience, spike-trains, representation-learning]
---

# {name}

A NeuroBridge model (version {__version__}), stage `{model.stage}`: {gives}.

```python
import neurobridge as nb

model = nb.from_pretrained("{name}")
model = nb.adapt(model, nb.open("my/data"))  # units of your own sessions; everything else stays
latents = nb.embed(model, nb.open("my/data")[0])
```

## What it was made of

- Sessions: {", ".join(model.sessions)}.
- Animals: {animals}.
- Weights: {parameter_count(model.net):,}, of which units {parameter_count(model.net.units):,}.
- Windows of {window.window_ms} ms from {window.offset_ms} ms; bins of {window.bin_ms} ms.
- Images: {images}. Trained for {settings.pretrain.steps} steps, seed {settings.seed}.

| input | SHA-256 |
|---|---|
{rows or "| not noted | |"}

## How good it is

{scores(model)}

## Licences

The weights: {licence}. What they were trained on keeps the terms of those who recorded it; image embeddings are of
{settings.image.encoder}, under its own licence.

## What it is not for

It is a research tool: not for diagnosis, treatment or any decision about a person or an animal, not for reading out
what somebody thinks or saw without consent, and not evidence by itself that an area carries something. A score holds
for the recordings, splits and image set that it names, and for no others.
"""


def scores(model: Model) -> str:
    """The run's own scores as a table, rivals beside; or that there are none."""
    path = model.path / "evaluate" / "results.json"
    if not path.is_file():
        return "Not evaluated: `neurobridge evaluate` had not run. `nb.score` scores it on recordings of yours."
    results = json.loads(path.read_text())
    lines = ["| session | what | figure | chance |", "|---|---|---|---|"]
    for row in results.get("retrieval", []):
        if row["method"] in (*TOLD, *FLOORS):
            value, low, high = row["top1"]
            what = f"{row['method']}, top-1 of {row['gallery']}"
            lines.append(
                f"| {row['session']} | {what} | {value:.3f} [{low:.3f}, {high:.3f}] | {row['chance_top1']:.3f} |"
            )
    for row in results.get("spikes", []):
        if "interval" in row:
            value, low, high = row["interval"]
            what = f"{row['method']}, {row['task']}, {row['unit']}"
            lines.append(f"| {row['session']} | {what} | {value:.3f} [{low:.3f}, {high:.3f}] | 0 |")
    return "\n".join(lines)
