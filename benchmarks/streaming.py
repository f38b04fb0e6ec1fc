"""Streaming: how long a chunk of 50 ms takes, and whether what is streamed is what the model says offline.

Route: made-up spikes of 300 units at 10 Hz -> `nb.Live` of a model of preset small (untrained: the time does not depend
on the weights), one thread, packets of 5 ms. Measured from the packet that ends a chunk to its moment: latents, rates
of all units, image embedding and the nearest of 2,000 library images. Bars: the 99th percentile below 25 ms, and
latents equal to those of the same windows offline to 1e-5. Control: spikes told 7 ms late do not give them.

    python benchmarks/streaming.py [--seconds 60]    # a minute
"""

from __future__ import annotations

import argparse
import time

import _common  # noqa: F401, sets threads to sleep while they wait
import numpy as np
import torch
from _common import last_line
from rich.console import Console
from rich.table import Table

import neurobridge as nb

UNITS, RATE, PACKET = 300, 10.0, 0.005
BAR_MS, EQUAL = 25.0, 1e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    count = int(UNITS * RATE * seconds)
    times, units = np.sort(rng.uniform(0, seconds, count)), rng.integers(0, UNITS, count)
    start = np.arange(0, seconds - 1, 0.5)
    images = rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    shown = {"start": start, "end": start + 0.3, "image": np.arange(len(start)) % 40}
    seen = nb.recording(times, units, unit_ids=range(UNITS), stimuli=shown, images=images, duration=(0.0, seconds + 1))
    model = nb.pretrain(seen, model="small", steps=0, progress=False)
    assert model.bridge is not None, "the model was made with images"
    width = model.bridge.space.components.shape[1]
    library = [str(i) for i in range(2000)], rng.standard_normal((2000, width)).astype(np.float32)

    live, late = nb.Live(model, seen, library=library), nb.Live(model, seen, library=library)
    took, moments, shifted = [], [], []
    for at in np.arange(0, seconds, PACKET):
        some = (times >= at) & (times < at + PACKET)
        began = time.perf_counter()
        for moment in live.feed(times[some], units[some], until=at + PACKET):
            now = time.perf_counter()
            took.append((now - began) * 1000)
            moments.append(moment)
            began = now
        shifted += list(late.feed(times[some] + 0.007, units[some], until=at + PACKET))
    session = model.session(seen)
    ends = np.array([moment.time for moment in moments])
    batch = model.batcher(session).batch_from([(0, ends - session.window_ms / 1000)])
    with torch.no_grad():
        offline = model.net.encode(batch)[:, -model.net.encoder.latents :].numpy()
    worst = float(np.abs(np.stack([m.latents for m in moments]) - offline).max())
    control = float(np.abs(np.stack([m.latents for m in shifted[: len(offline)]]) - offline[: len(shifted)]).max())
    p50, p99 = np.percentile(took, [50, 99])
    table = Table("a chunk of 50 ms", "measured", "bar")
    table.add_row("median", f"{p50:.1f} ms", "")
    table.add_row("99th percentile", f"{p99:.1f} ms", f"< {BAR_MS:g} ms")
    table.add_row("largest difference from offline", f"{worst:.1e}", f"<= {EQUAL:g}")
    table.add_row("the same, spikes 7 ms late (control)", f"{control:.1e}", "more")
    Console(width=100).print(table)
    ok = p99 < BAR_MS and worst <= EQUAL < control
    bars = {"p99_ms": BAR_MS, "difference": EQUAL}
    return last_line("streaming", p99, bars, ok, p50_ms=p50, difference=worst, control=control, chunks=len(took))


if __name__ == "__main__":
    raise SystemExit(main())
