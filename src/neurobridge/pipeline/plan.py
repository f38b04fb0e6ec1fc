"""Command plan: what a pretraining will take, before it begins: weights, operations, memory, time and disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from neurobridge.bridge.alignment import EmbeddingSpace
from neurobridge.bridge.image_maps import ImageMaps
from neurobridge.data.datamodule import Batcher
from neurobridge.data.recording import Recording, Stimuli
from neurobridge.data.store import Session
from neurobridge.errors import UserError
from neurobridge.neuro.model import parameter_count
from neurobridge.pipeline.image_data import MAP_SIDE, MAP_WIDTH, Bridge, new_head
from neurobridge.pipeline.spikes import add_units, make_batcher, make_model, spike_task
from neurobridge.terminal import console
from neurobridge.training.blocks import blocks, rewrite
from neurobridge.training.joint_task import Seen
from neurobridge.training.settings import RunSettings
from neurobridge.training.tasks import MaskedTask

IMAGES = 64
SIZES = (4, 12)  # windows of a session in the steps that are measured: what a step takes is linear in them
KEPT_CHECKPOINTS = 2
BYTES = 4


@dataclass(kw_only=True)
class Plan:
    """weights: of the body, the units and the image head; flops: floating point operations of a step, forwards and
    backwards; memory: bytes at the peak of a step, by part; the rest follows from these and from what was assumed."""

    weights: dict[str, int]
    flops: float
    memory: dict[str, float]
    spikes_per_step: float
    seconds_per_step: float
    hours: float
    gpu_hours: float
    spikes_per_second: float
    disk: float
    assumed: dict[str, float]


def plan(
    *,
    units: int = 300,
    rate: float = 8.0,
    recordings: int = 8,
    gpus: int = 1,
    peak_tflops: float = 100.0,
    utilisation: float = 0.3,
    **options,
) -> Plan:
    """Say what a pretraining takes: weights, operations a step, memory, hours and disk. Nothing is trained.

    Short steps on made-up spikes are measured on this machine, and what they take is scaled to the run's batches.

    Args:
        units: Units of a session.
        rate: Mean rate of a unit in Hz.
        recordings: Sessions in all, each with so many units.
        gpus: Devices that share the pretrain.windows windows of a step.
        peak_tflops: What a device can do at most, in 10^12 operations a second, in the precision that is trained in.
        utilisation: Share of that which training reaches.
    """
    settings = RunSettings(**options)
    for name, value in {"units": units, "rate": rate, "recordings": recordings, "gpus": gpus}.items():
        if value <= 0:
            raise UserError(f"--{name} is {value}: give a number above 0")
    if not 0 < utilisation <= 1 or peak_tflops <= 0:
        raise UserError(f"--utilisation is {utilisation} and --peak_tflops {peak_tflops}: a share of 1, and above 0")
    groups = min(settings.pretrain.groups, recordings)
    sessions = [made_up(number, units, rate, settings) for number in range(groups)]
    task = task_of(settings, sessions)
    weights = weights_of(task, units * recordings)
    batcher = make_batcher(task.model, sessions, settings)
    parts, cut = settings.train.accumulate, gpus if settings.train.strategy == "fsdp" else 1
    rewrite(blocks(task), twice=settings.train.activation_checkpointing, compiled=False)
    measured = np.array([measure(task, batcher, count) for count in SIZES])
    windows = max(1, settings.pretrain.windows // groups // gpus // parts)
    flops, activations = (extrapolated(SIZES, column, windows) for column in measured.T)
    flops, total = flops * parts, sum(weights.values())
    held = BYTES * total / cut  # by a device
    seconds = flops / (peak_tflops * 1e12 * utilisation)
    spikes = groups * windows * parts * units * rate * settings.window.window_ms / 1000
    found = Plan(
        weights=weights,
        flops=flops,
        memory={
            "weights": held,
            "gradients": held,
            "moments": 2.0 * held,
            **({"average": held} if settings.pretrain.average else {}),
            "activations": activations,
        },
        spikes_per_step=spikes * gpus,
        seconds_per_step=seconds,
        hours=seconds * settings.pretrain.steps / 3600,
        gpu_hours=gpus * seconds * settings.pretrain.steps / 3600,
        spikes_per_second=spikes * gpus / seconds,
        disk=BYTES * total * (3 * KEPT_CHECKPOINTS + 2),  # and the best weights, and the model
        assumed={"peak_tflops": peak_tflops, "utilisation": utilisation, "gpus": gpus, "units": units, "rate": rate},
    )
    if console.as_json:
        print(json.dumps(asdict(found)))
    else:
        tell(found, settings)
    return found


def made_up(number: int, units: int, rate: float, settings: RunSettings) -> Session:
    """A session of Poisson spikes that shows :data:`IMAGES` images, twice each."""
    rng = np.random.default_rng(number)
    length = settings.window.window_ms / 1000
    start = (np.arange(2 * IMAGES) * (length + 0.05)) + max(0.0, -settings.window.offset_ms / 1000)
    end = float(start[-1] + 2 * length + max(0, settings.window.offset_ms) / 1000 + 1)
    count = max(1, int(rng.poisson(units * rate * end)))
    shown = np.arange(2 * IMAGES) % IMAGES
    stimuli = Stimuli(
        start=start,
        end=start + length,
        image_id=np.array([f"{image:016x}" for image in shown]),
        repeat=np.arange(2 * IMAGES) // IMAGES,
        split=np.full(2 * IMAGES, "train"),
        valid=np.ones(2 * IMAGES, dtype=bool),
    )
    recording = Recording(
        dataset="plan",
        subject=f"animal{number}",
        session=f"session{number}",
        signal_kind="sorted",
        spike_times=np.sort(rng.uniform(0, end, count)),
        spike_units=rng.integers(0, units, count),
        unit_ids=np.array([f"u{unit}" for unit in range(units)]),
        regions=np.array([f"area{unit % 3}" for unit in range(units)]),
        duration=(0.0, end),
        stimuli=stimuli,
    )
    window = settings.window
    session = Session(recording, window_ms=window.window_ms, offset_ms=window.offset_ms)
    session.image_row = shown[session.stimulus_row]
    return session


def task_of(settings: RunSettings, sessions: Sequence[Session]) -> MaskedTask:
    """The task of a pretraining on ``sessions``, with images of which nothing is known but their number."""
    seen = settings.pretrain.images
    maps = ImageMaps(grids=[MAP_SIDE], channels=[MAP_WIDTH], side=MAP_SIDE, components=MAP_WIDTH) if seen else None
    model = make_model(settings, maps=maps)
    add_units(model, sessions, settings)
    if maps is None:
        return spike_task(model, sessions, settings, only_units=False)
    dimensions = settings.image.dimensions
    space = EmbeddingSpace(width=dimensions, dimensions=dimensions)
    bridge = Bridge(head=new_head(settings, model, dimensions), space=space, maps=maps)
    shown = Seen(maps=torch.zeros(IMAGES, MAP_SIDE**2, MAP_WIDTH), targets=torch.randn(IMAGES, dimensions))
    return spike_task(model, sessions, settings, only_units=False, bridge=bridge, seen=shown)


def weights_of(task: MaskedTask, units: int) -> dict[str, int]:
    """Weights of the body, of ``units`` (a vector and a bias each), and of the image head."""
    model, head = task.model, getattr(task, "head", None)
    a_unit = model.units.embedding.shape[1] + 1
    return {
        "body": parameter_count(model) - parameter_count(model.units),
        "units": units * a_unit + model.units.dataset.numel(),
        "head": 0 if head is None else parameter_count(head),
    }


def measure(task: MaskedTask, batcher: Batcher, windows: int) -> tuple[float, float]:
    """Operations of a step of so many windows a session, and bytes that are held when its losses are known."""
    batch = batcher.batch([(index, np.arange(windows)) for index in range(len(batcher.sessions))])
    task.zero_grad(set_to_none=True)
    with FlopCounterMode(display=False) as counter:
        task.losses(batch, np.random.default_rng(0))["loss"].backward()
    task.zero_grad(set_to_none=True)
    held: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = task.losses(batch, np.random.default_rng(0))
    for part in (*task.parameters(), *task.buffers()):
        held.pop(part.untyped_storage().data_ptr(), None)
    del losses
    return float(counter.get_total_flops()), float(sum(held.values()))


def extrapolated(sizes: Sequence[int], values: np.ndarray, size: float) -> float:
    """The line through the measured values, at ``size``."""
    return float(np.polyval(np.polyfit(sizes, values, 1), size))


def tell(found: Plan, settings: RunSettings) -> None:
    """The plan as a table."""
    total, memory, assumed = sum(found.weights.values()), sum(found.memory.values()), found.assumed
    table = Table("what", "how much", "of which")
    parts = ", ".join(f"{name} {count:,}" for name, count in found.weights.items())
    table.add_row("weights", f"{total:,}", parts)
    table.add_row("operations a step", f"{found.flops / 1e12:.3g} TFLOP", "forwards and backwards, a device")
    parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in found.memory.items())
    table.add_row("memory at the peak", f"{memory / 2**30:.2f} GiB", parts)
    told = f"{assumed['peak_tflops']:g} TFLOP/s a device, of which {assumed['utilisation']:.0%} are reached"
    table.add_row("time a step", f"{found.seconds_per_step:.3g} s", told)
    table.add_row("spikes a second", f"{found.spikes_per_second:,.0f}", f"{found.spikes_per_step:,.0f} a step")
    told = f"{settings.pretrain.steps:,} steps on {assumed['gpus']:g} devices: {found.gpu_hours:.3g} device hours"
    table.add_row("time", f"{found.hours:.3g} h", told)
    kept = f"{KEPT_CHECKPOINTS} checkpoints, the best weights and the model, without data"
    table.add_row("disk", f"{found.disk / 2**30:.2f} GiB", kept)
    console.print(table)
