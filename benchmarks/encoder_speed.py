"""What does a training step cost, and what does a spike add to it? Beside torch_brain's POYO, in the same run.

One step = forward, loss, backward, AdamW on 8 windows of 1 s from 300 units, two CPU threads, no dropout. Ours: mask
drawn, masked Poisson loss on the 10 ms grid (100 bins, all units). POYO: mean squared error of 2 outputs at 100 times,
from the same spikes and its own start and end token for every unit, without padding. Both: width 128, depth 12, 8
heads, 4 latents every 50 ms (80 a window). Repetitions are interleaved over sizes and models, so that whatever else the
machine does hits all of them, and each timed step follows an untimed one of its own kind, as in training; the medians
are compared. Two to ten minutes.

The bars: at least 2.9 / 8 / 28 times faster than POYO at 4,000 / 16,000 / 64,000 spikes a window; 64,000 spikes cost at
most 1.5 times what 1,000 cost; a step at 4,000 takes at most twice its matrix products alone: their floating-point
operations (attention included) over the rate at which this machine does the products of the step's own shapes, timed
in the same repetitions.

    python benchmarks/encoder_speed.py
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a waiting thread sleeps,
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # but not at once: between small operations waits are short

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from neurobridge.baselines.poyo import build_poyo, poyo_inputs
from neurobridge.cli import keep_memory
from neurobridge.neuro.batch import SpikeBatch, collate_windows
from neurobridge.neuro.losses import masked_losses
from neurobridge.neuro.masking import Masker
from neurobridge.neuro.model import NeuroBridge, parameter_count

UNITS, REGIONS, WINDOWS, WINDOW_MS, BIN_MS, CHUNK_MS = 300, 6, 8, 1000, 10, 50
SIZE = {"width": 128, "depth": 12, "heads": 8, "latents": 4}
REPETITIONS = {1_000: 7, 4_000: 7, 16_000: 5, 64_000: 2}  # of POYO; ours always takes the most
MIDDLE = 4_000
SPEEDUP = {4_000: 2.9, 16_000: 8.0, 64_000: 28.0}
GROWTH, PRODUCTS = 1.5, 2.0
aten = torch.ops.aten


def draw_spikes(spikes: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Windows of exactly ``spikes`` spikes: (unit, ms since the start)."""
    return [(rng.integers(UNITS, size=spikes), rng.integers(WINDOW_MS, size=spikes)) for _ in range(WINDOWS)]


def our_batch(windows: list[tuple[np.ndarray, np.ndarray]]) -> SpikeBatch:
    return collate_windows(
        unit_rows=[range(UNITS)],
        regions=[[n * REGIONS // UNITS for n in range(UNITS)]],
        windows=[[(unit, tick, None) for unit, tick in windows]],
        window_ms=WINDOW_MS,
        bin_ms=BIN_MS,
    )


def our_step() -> tuple[Callable[[SpikeBatch], None], NeuroBridge]:
    model = NeuroBridge(**SIZE, chunk_ms=CHUNK_MS)
    model.units.extend([f"bench/one/day/{n}" for n in range(UNITS)], log_rates=torch.full((UNITS,), -2.0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    masker, rng = Masker(), np.random.default_rng(0)

    def step(batch: SpikeBatch) -> None:
        plan = masker.draw(batch, rng)
        losses = masked_losses(model(batch, plan), batch.target, plan, plan.scored(batch), poisson=True)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).mean().backward()
        optimizer.step()

    return step, model


def poyo_step() -> tuple[Callable[[dict], None], torch.nn.Module]:
    model = build_poyo(
        units=UNITS, outputs=2, window_s=WINDOW_MS / 1000, latent_step_s=CHUNK_MS / 1000, dropout=0.0, **SIZE
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    target = torch.zeros(WINDOWS, WINDOW_MS // BIN_MS, 2)

    def step(inputs: dict) -> None:
        loss = F.mse_loss(model(**inputs), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step, model


class Products(TorchDispatchMode):
    """Counts the two-dimensional matrix products under it by the shapes and strides of their factors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (aten.mm.default, aten.addmm.default):
            self.seen[tuple((tuple(x.shape), x.stride()) for x in args[-2:])] += 1
        return func(*args, **(kwargs or {}))

    def replay(self) -> tuple[Callable[[], None], float]:
        """A function that does all of them again on random numbers, and their floating-point operations."""
        pairs = [([torch.empty_strided(*x).normal_() for x in pair], times) for pair, times in self.seen.items()]

        def run() -> None:
            for (a, b), times in pairs:
                for _ in range(times):
                    torch.mm(a, b)

        return run, sum(2.0 * a.shape[0] * a.shape[1] * b.shape[1] * times for (a, b), times in pairs)


def operations(step: Callable[[], None]) -> float:
    """Floating-point operations of all matrix products of a step, those inside the fused attention included."""
    fused = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=fused) as counter:
        step()
    return float(counter.get_total_flops())


def seconds(run: Callable[[], None]) -> float:
    """Time of a step that follows one of its own kind, as in training: caches hold its data, not another model's."""
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> int:
    keep_memory()  # as the command line does, for both models
    torch.set_num_threads(2)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    ours, model = our_step()
    rival, peer = poyo_step()
    batches, inputs = {}, {}
    for spikes in REPETITIONS:
        windows = draw_spikes(spikes, rng)
        batches[spikes] = our_batch(windows)
        inputs[spikes] = poyo_inputs(
            [(unit, tick / 1000) for unit, tick in windows],
            unit_session=np.zeros(UNITS, np.int64),
            session=np.zeros(WINDOWS, np.int64),
            output_times=(np.arange(WINDOW_MS // BIN_MS) + 0.5) * BIN_MS / 1000,
            model=peer,
        )
    with Products() as products:
        ours(batches[MIDDLE])
    work = operations(lambda: ours(batches[MIDDLE]))
    replay, replayed = products.replay()
    ours(batches[max(batches)])  # warm: memory, optimiser state
    rival(inputs[MIDDLE])
    replay()

    times: dict[str, dict[int, list[float]]] = {name: {n: [] for n in batches} for name in ("ours", "poyo")}
    product_times = []
    for repetition in range(max(REPETITIONS.values())):
        product_times.append(seconds(replay))
        for spikes, wanted in REPETITIONS.items():
            times["ours"][spikes].append(seconds(lambda n=spikes: ours(batches[n])))
            if repetition < wanted:
                times["poyo"][spikes].append(seconds(lambda n=spikes: rival(inputs[n])))

    median = {name: {n: float(np.median(t)) for n, t in rows.items()} for name, rows in times.items()}
    rate = replayed / float(np.median(product_times))
    print(f"parameters: ours {parameter_count(model) / 1e6:.2f} M, POYO {parameter_count(peer) / 1e6:.2f} M")
    print(f"{'spikes':>8s} {'ours ms':>9s} {'POYO ms':>9s} {'ratio':>7s} {'bar':>5s}   (median [fastest, slowest])")
    speedup = {}
    for spikes in REPETITIONS:
        a, b = median["ours"][spikes], median["poyo"][spikes]
        speedup[spikes] = b / a
        span = "; ".join(
            f"{name} [{1e3 * min(times[name][spikes]):.0f}, {1e3 * max(times[name][spikes]):.0f}]" for name in times
        )
        print(f"{spikes:8,d} {1e3 * a:9.0f} {1e3 * b:9.0f} {b / a:7.2f} {SPEEDUP.get(spikes, ''):>5}   {span}")
    growth = median["ours"][64_000] / median["ours"][1_000]
    against_products = median["ours"][MIDDLE] / (work / rate)
    print(f"ours at 64,000 against 1,000 spikes: {growth:.2f} (bar {GROWTH})")
    print(
        f"step at {MIDDLE:,d} against its products alone: {against_products:.2f} (bar {PRODUCTS}); "
        f"{work / 1e9:.1f} G operations at {rate / 1e9:.0f} G a second = {1e3 * work / rate:.0f} ms "
        f"(of them {replayed / 1e9:.1f} G in plain products of the step's shapes, {1e3 * replayed / rate:.0f} ms)"
    )
    ok = all(speedup[n] >= bar for n, bar in SPEEDUP.items()) and growth <= GROWTH and against_products <= PRODUCTS
    value = {f"speedup_{n}": round(speedup[n], 2) for n in SPEEDUP}
    value |= {"growth": round(growth, 2), "against_products": round(against_products, 2)}
    bar = {f"speedup_{n}": bar for n, bar in SPEEDUP.items()} | {"growth": GROWTH, "against_products": PRODUCTS}
    print(json.dumps({"name": "encoder_speed", "value": value, "bar": bar, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
