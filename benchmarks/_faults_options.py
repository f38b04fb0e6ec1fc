"""Option values that no run can use: refused before anything is made. Names of sessions that are not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from _faults import Bench, Fault, command, fault

BAD: dict[str, tuple[object, ...]] = {
    "window.window_ms": (0, -300, 5, 305),
    "window.offset_ms": (10**9,),
    "window.bin_ms": (0, -10, 7),
    "model.width": (0, 15, -16),
    "model.depth": (-1,),
    "model.heads": (0, 3),
    "model.latents": (0,),
    "model.unit_width": (0,),
    "model.chunk_ms": (0, -50),
    "model.decoder_depth": (0,),
    "model.dropout": (1.5, -0.1, ".nan"),
    "pretrain.steps": (-1,),
    "pretrain.learning_rate": (-1e-3, ".nan", ".inf"),
    "pretrain.unit_learning_rate": (-1.0,),
    "pretrain.weight_decay": (-0.1,),
    "pretrain.masked_weight": (-1.0, ".nan"),
    "pretrain.windows": (0, -4),
    "pretrain.groups": (0,),
    "pretrain.modes": ([], ["sideways"]),
    "pretrain.ratios": ({"temporal": [0.9, 0.1]}, {"neuron": [-1, 2]}, {"sideways": [0.1, 0.2]}),
    "pretrain.span_ms": ([40, 25], [0, 0]),
    "pretrain.unit_dropout": (1.0, -0.5),
    "pretrain.jitter_ms": (-3,),
    "pretrain.cells": (0,),
    "pretrain.checkpoint_every": (0, -1),
    "adapt.steps": (-1,),
    "adapt.learning_rate": (".nan",),
    "adapt.labels": (-1,),
    "adapt.windows": (0,),
    "adapt.unfreeze_every": (-1,),
    "adapt.calibration": (0,),
    "adapt.checkpoint_every": (0,),
    "image.encoder": ("no-such-network", "/nowhere/at/all"),
    "image.layer": ("block99", "nonsense"),
    "image.grid": (0, -1),
    "image.resolution": (0, -64),
    "image.dimensions": (0,),
    "image.whitening": (-1.0, ".inf"),
    "image.batch": (0,),
    "encoding.layers": ([], ["block2"], ["block2@0"], ["block99@4"], ["block2@4", "block2@4"]),
    "align.steps": (-1,),
    "align.joint_blocks": (-1,),
    "align.anti_forgetting": (-0.1,),
    "align.windows": (0, 1),
    "align.groups": (0,),
    "align.level": (7, -1),
    "align.readout": ("cls",),
    "align.queries": (0,),
    "align.hidden": (0,),
    "align.dropout": (1.0,),
    "align.unit_dropout": (1.0,),
    "align.checkpoint_every": (0,),
    "align.area_windows": ({"V1": [200, 100]}, {"V1": [5000, 6000]}, {"Nowhere": [0, 100]}),
    "generator.weights": ("/nowhere",),
    "generator.train_steps": (-1,),
    "generator.tiny_autoencoder": ("/nowhere",),
    "generator.adapter_steps": (-1,),
    "generator.sketch_steps": (-1,),
    "generator.adapter_noise": (-0.1,),
    "generator.batch": (0,),
    "generator.oracle_two_way": (2.0,),
    "reconstruct.images": (0, 1),
    "reconstruct.samples": (0,),
    "reconstruct.steps": (0,),
    "reconstruct.guidance": (".nan",),
    "reconstruct.posterior_steps": (-1,),
    "reconstruct.feature_layers": ([], ["block2"], ["block99@4"]),
    "reconstruct.inversion_steps": (-1,),
    "seed": (-1,),
    "devices": (0, -2),
    "accelerator": ("quantum",),
    "held_out": (
        ["monkeyB_3"],
        ["monkeyA_1", "monkeyA_2", "monkeyB_1", "monkeyB_2"],
        ["monkeyB_1", "monkeyB_1"],
        ["x" * 300],
    ),
    "sessions": (["monkeyZ_1"], ["../monkeyA_1"]),
    "picture_sessions": (["monkeyZ_1"],),
    "align.sessions": (["monkeyZ_1"],),
    "data": ("/nowhere", "x" * 300),
    "mixture.power": (".nan",),
    "mixture.max_events": (0,),
    "mixture.data": (["/nowhere"],),
}


def faults(bench: Bench) -> Iterator[Fault]:
    for option, values in BAD.items():
        for value in values:
            value = float(value[1:]) if value in (".nan", ".inf") else value
            out = bench.folder() / "run"
            section, _, key = option.rpartition(".")
            found = command("pretrain", *bench.options(out, **({section: {key: value}} if section else {key: value})))
            shown = str(value) if len(str(value)) < 60 else f"{str(value)[:57]}..."
            said = found.said.splitlines()[0]
            yield fault(f"{option} {shown}", found, found.refused() and not out.exists(), said)

    out = bench.folder() / ("y" * 300)
    found = command("pretrain", *bench.options(bench.folder() / "run")[:-1], out)
    yield fault("--out of 300 characters", found, found.refused())
    out = bench.stages("pretrain")
    found = command("adapt", *bench.options(out, pretrain={"weight_decay": 0.5}))
    yield fault("an option of a finished stage changed", found, found.refused("another 'pretrain.weight_decay'"))
    found = command("adapt", *bench.options(out, adapt={"steps": 3, "checkpoint_every": 3}))
    yield fault("an option of a stage that has begun changed", found, found.refused("has begun stage adapt"))
    shutil.rmtree(out / "checkpoints" / "adapt")
    found = command("adapt", *bench.options(out, adapt={"steps": -1}))
    again = command("adapt", *bench.options(out, adapt={"steps": 3, "checkpoint_every": 3}))
    yield fault("a bad option of a later stage, then mended", found, found.refused("adapt.steps") and not again.code)
