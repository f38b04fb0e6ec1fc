"""What ``neurobridge plan`` foretells is what a step takes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from neurobridge.cli import main
from neurobridge.neuro.model import NeuroBridge, parameter_count
from neurobridge.pipeline.image_data import Bridge
from neurobridge.pipeline.plan import made_up, plan, task_of
from neurobridge.pipeline.spikes import make_batcher
from neurobridge.training.settings import (
    AlignSettings,
    ImageSettings,
    ModelSettings,
    PretrainSettings,
    RunSettings,
    TrainSettings,
)

ALIGN, IMAGE = AlignSettings(queries=2, hidden=32), ImageSettings(dimensions=16)


@pytest.mark.parametrize(
    ("model", "images", "modes"),
    [
        (ModelSettings(width=32, depth=2, heads=4, latents=2, unit_width=16), True, ["neuron"]),
        (ModelSettings(width=64, depth=3, heads=4, latents=4, unit_width=32), False, ["neuron"]),
        (ModelSettings(width=48, depth=1, heads=4, latents=4, unit_width=16), True, PretrainSettings().modes),
    ],
)
def test_operations_and_memory_are_those_of_a_step_of_the_whole_batch(model, images, modes):
    pretrain = PretrainSettings(windows=48, groups=2, images=images, modes=modes)
    options = {"model": model, "pretrain": pretrain, "align": ALIGN, "image": IMAGE}
    found = plan(units=60, recordings=2, **options)
    settings = RunSettings(**options)
    sessions = [made_up(number, 60, 8.0, settings) for number in range(2)]
    task = task_of(settings, sessions)
    assert sum(found.weights.values()) == parameter_count(task)
    batch = make_batcher(task.model, sessions, settings).batch([(i, np.arange(24)) for i in range(2)])

    with FlopCounterMode(display=False) as counter:
        task.losses(batch, np.random.default_rng(0))["loss"].backward()
    assert found.flops == pytest.approx(counter.get_total_flops(), rel=0.15)

    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        task.losses(batch, np.random.default_rng(1))["loss"].backward()
        optimizer.step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    static = found.memory["weights"] + found.memory["moments"]
    assert sum(found.memory.values()) == pytest.approx(static + held.max(), rel=0.15)


def test_options_that_spare_memory_spare_what_they_say():
    model = ModelSettings(width=64, depth=4, heads=4, latents=4, unit_width=32)
    pretrain = PretrainSettings(windows=64, groups=2, images=False)
    common = {"units": 40, "recordings": 2, "gpus": 2, "model": model}
    plain = plan(**common, pretrain=pretrain)
    spared = {
        name: plan(**common, pretrain=pretrain, train=TrainSettings(**{name: value}))
        for name, value in {"strategy": "fsdp", "accumulate": 4, "activation_checkpointing": True}.items()
    }
    for name in ("weights", "gradients", "moments"):
        assert spared["strategy"].memory[name] == plain.memory[name] / 2
    assert spared["accumulate"].memory["activations"] < plain.memory["activations"] / 2
    assert spared["accumulate"].flops == pytest.approx(plain.flops, rel=0.1)
    assert spared["activation_checkpointing"].memory["activations"] < 0.8 * plain.memory["activations"]
    assert 1.0 < spared["activation_checkpointing"].flops / plain.flops < 4 / 3
    averaged = plan(**common, pretrain=replace(pretrain, average=0.99))
    assert averaged.memory["average"] == plain.memory["weights"]


def test_weights_are_those_of_the_run(tiny_config, tmp_path, capsys):
    config = tiny_config(out=str(tmp_path / "run"))
    assert main(["pretrain", "--config", str(config), "--pretrain.steps", "1"]) == 0
    model, bridge = NeuroBridge.load(tmp_path / "run" / "pretrain"), Bridge.load(tmp_path / "run" / "pretrain")
    capsys.readouterr()
    dimensions = ["--image.dimensions", str(bridge.space.components.shape[1])]
    made_of = ["--units", "1", "--recordings", str(len(model.units))]
    assert main(["plan", "--config", str(config), *made_of, *dimensions, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["weights"]
    assert found["body"] == parameter_count(model) - parameter_count(model.units)
    assert found["units"] == parameter_count(model.units)
    assert found["head"] == parameter_count(bridge.head)
    assert main(["plan", "--utilisation", "2"]) == 2
    assert "--utilisation is 2" in capsys.readouterr().err
