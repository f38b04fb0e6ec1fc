"""Every command of the command line, one function each; a stage command takes the options of the whole run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from neurobridge.errors import help_with, helping
from neurobridge.pipeline.folder import DONE, METRICS, STAGES, RunFolder, begun
from neurobridge.pipeline.inputs import keep_inputs, read_inputs, shows_pictures
from neurobridge.pipeline.kept import mend_from_copy
from neurobridge.pipeline.preflight import check_run
from neurobridge.terminal import console
from neurobridge.training.ranges import check_ranges
from neurobridge.training.settings import RunSettings

MODULES = {
    "pretrain": "pretraining",
    "adapt": "adaptation",
    "align": "alignment",
    "adapter": "generators",
    "reconstruct": "pictures",
    "evaluate": "scoring",
    "report": "reporting",
}  # stage -> module of this package that holds the function of that name; imported when it runs
PICTURED = ("align", "adapter", "reconstruct")  # stages for recordings whose pictures are at hand
TRAINED = ("pretrain", "adapt", "align", "adapter")  # by a Trainer, on several devices if there are


def run(**options) -> None:
    """Do the whole job: pretrain, adapt, evaluate, report, and the stages in between where pictures are at hand."""
    settings = RunSettings(**options)
    stages = list(STAGES) if shows_pictures(settings) else [name for name in STAGES if name not in PICTURED]
    if len(stages) < len(STAGES):
        left_out = f"no session of {settings.data} shows pictures that are at hand: {', '.join(PICTURED)} are left out"
        console.print(left_out, markup=False, soft_wrap=True)
    run_stages(settings, stages)


def pretrain(**options) -> None:
    """Masked pretraining; ends with scores of the valid split, whether it still got better, and the next command."""
    folder = run_stages(RunSettings(**options), ["pretrain"])
    if not helping():
        import_module("neurobridge.pipeline.ending").ending(folder)


def adapt(**options) -> None:
    """Learn unit embeddings of the held-out sessions; the body is frozen."""
    run_stages(RunSettings(**options), ["adapt"])


def align(**options) -> None:
    """Align the spikes' representation to image embeddings."""
    run_stages(RunSettings(**options), ["align"])


def adapter(**options) -> None:
    """Train the generator's adapter, on images alone."""
    run_stages(RunSettings(**options), ["adapter"])


def reconstruct(**options) -> None:
    """Draw pictures of held-out images from spikes, with their floors and the oracle."""
    run_stages(RunSettings(**options), ["reconstruct"])


def evaluate(**options) -> None:
    """Score spikes, retrieval and pictures, with intervals."""
    run_stages(RunSettings(**options), ["evaluate"])


def report(**options) -> None:
    """Write report.html from what the run folder holds."""
    run_stages(RunSettings(**options), ["report"])


def run_stages(settings: RunSettings, stages: list[str]) -> RunFolder:
    """The stages that are not done yet, in order; a stage of which a file was altered or is gone is done again.

    Options, names and data are checked before anything is made, and before every stage that the data are what they
    were. Of several processes that do the stages together, all but the first leave after the last one that trains by a
    Trainer.
    """
    check_ranges(settings)
    if settings.devices * settings.nodes != 1 and process_rank() != 0:
        if settings.advise:
            settings, _ = import_module("neurobridge.pipeline.advice").advised(settings)
        help_with(settings.out)
        console.quiet = True
        folder = RunFolder(settings)
        for name in trained(settings, stages):
            if not folder.done(name):
                stage_function(name)(folder)
                folder.wait(name)
        return folder
    if settings.advise:
        settings, advice = import_module("neurobridge.pipeline.advice").advised(settings)
        if not begun(settings.out):
            said = import_module("neurobridge.pipeline.ending").told(settings, advice)
            console.print(said, markup=False, soft_wrap=True)
    if not all((settings.out / name / DONE).is_file() for name in stages):
        check_run(settings, stages)
    folder = RunFolder(settings)
    if folder.reopened:
        steps, again = settings.pretrain.steps, ", ".join(folder.reopened)
        console.print(f"pretrain.steps is now {steps}: no longer done: {again}", markup=False, soft_wrap=True)
    mend_from_copy(folder / METRICS)
    read_inputs(folder.path)  # which mends it
    for number, name in enumerate(stages, 1):
        if folder.done(name) and not folder.outdated(name):
            console.print(f"[{number}/{len(stages)}] {name}: done before")
            continue
        if reason := folder.spoilt(name) or ("others were done since" if folder.outdated(name) else ""):
            console.print(f"[{number}/{len(stages)}] {name}: {reason}, so it is done again", markup=False)
        keep_inputs(settings, folder.path)
        console.print(f"[{number}/{len(stages)}] {name} ...", markup=False)
        start = time.monotonic()
        stage_function(name)(folder)
        console.print(f"[{number}/{len(stages)}] {name}: {time.monotonic() - start:.0f} s", markup=False)
    return folder


def trained(settings: RunSettings, stages: list[str]) -> list[str]:
    """Those of ``stages`` in which something is trained."""
    return [name for name in stages if name in TRAINED and (name, settings.generator.kind) != ("adapter", "ip-adapter")]


def process_rank() -> int:
    """Which of the processes that do one command together this is, as whoever started them says."""
    named = (os.environ[name] for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if name in os.environ)
    return int(next(named, 0))


def stage_function(name: str) -> Callable[[RunFolder], None]:
    """The function of a stage; its module is imported when it is first asked for."""
    return getattr(import_module(f"neurobridge.pipeline.{MODULES[name]}"), name)


def demo(out: Path = Path("runs/demo"), *, quick: bool = False, seed: int = 0) -> None:
    """The main job on the embedded default: a simulated ventral stream, from spikes to pictures and a report.

    Args:
        out: Run folder; the simulation is written beside it.
        quick: A small version of three minutes.
        seed: Seed of the simulation and of everything that is drawn.
    """
    from neurobridge.data.simulate import simulate

    data = out.parent / f"simulated-{'quick-' if quick else ''}{seed}"
    simulate(out=data, seed=seed, quick=quick)
    folder = run_stages(demo_settings(data, out, quick=quick, seed=seed), list(STAGES))
    console.print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)


def demo_settings(data: Path, out: Path, *, quick: bool, seed: int) -> RunSettings:
    """What the demo runs: the defaults and lessons, the last session held out; shorter and narrower where quick."""
    names = sorted(path.stem for path in (data / "sessions").glob("*.h5"))
    settings = RunSettings(data=data, out=out, held_out=names[-1:], seed=seed)
    settings.encoding = replace(settings.encoding, taught=4.0, dreamt=0.6)
    settings.model = replace(settings.model, memory_features=128)
    settings.pretrain = replace(settings.pretrain, unit_learning_rate=0.1)
    if quick:
        settings.model = replace(settings.model, width=64, depth=2, unit_width=32)
        settings.pretrain = replace(settings.pretrain, steps=120, windows=64, checkpoint_every=60)
        settings.adapt = replace(settings.adapt, steps=60, checkpoint_every=60)
        settings.align = replace(settings.align, steps=60, joint_steps=60, windows=64, hidden=128, checkpoint_every=60)
        settings.generator = replace(settings.generator, adapter_steps=30, sketch_steps=60)
        settings.reconstruct = replace(settings.reconstruct, samples=2, steps=10, posterior_steps=100)
    return settings


def train_scene_generator(out: Path, *, images: int = 20_000, steps: int = 2000, seed: int = 1_000_000) -> None:
    """Train the generator that the package ships, on procedural scenes that no simulation shows.

    Args:
        out: Folder for generator.safetensors and adapter.safetensors.
        images: Scenes to render.
        steps: Optimiser steps.
        seed: Seed of the scenes; simulations use seeds below a million.
    """
    from neurobridge.data.simulate import render_scenes
    from neurobridge.training.generator_training import train_generator
    from neurobridge.vision.encoders import ImageEncoder

    scenes = render_scenes(images, seed=seed)
    encoder = ImageEncoder()
    train_generator(
        scenes.pixels,
        scenes.ids,
        out,
        encoder=encoder,
        steps=steps,
        sketch_steps=3000,
        half=True,
        cache_dir=out / "cache",
    )
