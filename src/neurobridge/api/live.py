"""Live: spikes in as they come, and every chunk (50 ms) what the last window says: latents, rates, embedding, image.

The model sees the window that has just ended and nothing after it, so that what is streamed is what it would say
offline of the same window. In a causal model (model.causal_ms) no chunk sees a later one: keys and values of those
before are kept, so that a chunk costs a chunk, and what is streamed is what it would say offline of the whole
recording. Time is that of the spikes; the clock of this machine is only compared with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from neurobridge.api.model import Model, load
from neurobridge.api.recordings import open_recordings
from neurobridge.data.continuous import EPSILON, TICK
from neurobridge.data.datamodule import region_codes
from neurobridge.errors import UserError, needs
from neurobridge.neuro.batch import SpikeBatch, collate_windows
from neurobridge.neuro.stream import ChunkStream, behind
from neurobridge.terminal import console


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What is known at ``time`` (s, the end of a chunk) of the window that ended there.

    latents [L, D] of the last chunk; rates [N] Hz expected in it; embedding [K] unit length, image: id of the library
    image whose embedding is nearest, cosine: how near (all three None for a model without images).
    """

    time: float
    latents: np.ndarray
    rates: np.ndarray
    embedding: np.ndarray | None
    image: str | None
    cosine: float | None


class Live:
    """A model that is fed spikes of one recording's units.

    >>> live = Live(model, recording)  # doctest: +SKIP
    >>> for moment in live.feed(times, units, until=12.35): print(moment.time, moment.image)  # doctest: +SKIP

    ``late``: spikes that came after the moment of their chunk, which did not see them; later moments do, unless the
    model is causal.
    """

    def __init__(
        self, model: Model, recording: object, *, library: tuple[Sequence[str], np.ndarray] | None = None
    ) -> None:
        """library: ids [I] and embeddings [I, K] in the model's space; empty: the images that the model was aligned to.

        Raises UserError if the model does not know the units, or for a recording of values.
        """
        (found,) = open_recordings(recording)
        session = model.session(found)
        if session.valued:
            raise UserError(
                f"session {session.name} has values, not spikes: these come at presentations, not as a stream"
            )
        self.model, self.units = model, found.unit_ids.tolist()
        self.column = {unit: i for i, unit in enumerate(self.units)}
        self.window, self.chunk = session.window_ms, model.net.encoder.chunk_ms
        self.rows = model.net.units.rows_of(found.unit_keys)
        codes = region_codes([session])
        self.regions = [codes.get(region, -1) for region in found.regions.tolist()]
        self.ticks, self.columns = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.next: int | None = None  # ms: the end of the chunk that comes next
        self.done: int | None = None  # ms: the end of the last chunk that was given
        self.late = 0
        self.library = self._library() if library is None else library
        self.stream = ChunkStream(model.net.encoder) if model.net.encoder.reach else None
        self.levels: list[list[torch.Tensor]] = []  # of the last chunks of a causal model, a window of them
        bin_ms = model.settings.window.bin_ms
        if self.stream is not None and (self.chunk % bin_ms or self.window % self.chunk):
            raise UserError(
                f"a causal model is streamed a chunk of {self.chunk} ms at a time, which windows of {self.window} ms "
                f"and bins of {bin_ms} ms do not suit: pretrain it with windows of whole chunks of whole bins"
            )
        self._heard: list[tuple[float, float]] = []  # (time of the newest spike, this machine's clock), both s

    def _library(self) -> tuple[Sequence[str], np.ndarray] | None:
        path = self.model.path / "align" / "embeddings.npz"
        if self.model.bridge is None or not path.is_file():
            return None
        with np.load(path) as kept:
            embeddings = torch.from_numpy(kept["embeddings"][kept["train"]])
            return kept["ids"][kept["train"]].tolist(), F.normalize(self.model.bridge.space(embeddings), dim=-1).numpy()

    def feed(self, times: np.ndarray, units: Sequence[Any], *, until: float | None = None) -> Iterator[Moment]:
        """Take spikes (``times`` s, ``units`` ids) and give a moment for every chunk that has ended by ``until`` s.

        until: the time up to which everything has come; empty: the newest spike's. The first moment is a whole window
        after the first spike. Raises UserError for a unit that is not the recording's, or a time that is no number.
        """
        times = np.asarray(times, dtype=np.float64).ravel()
        unknown = [unit for unit in units if str(unit) not in self.column]
        if unknown or not np.isfinite(times).all() or len(times) != len(units):
            what = f"unit '{unknown[0]}' is not one of the recording's" if unknown else "a spike has no time"
            raise UserError(f"{what}: give one finite time and one known unit a spike")
        ticks = np.floor((times + EPSILON) / TICK).astype(np.int64)
        if len(ticks):
            self._heard.append((float(times.max()), time.monotonic()))
            if self.next is None:
                self.next = int(ticks.min()) // self.chunk * self.chunk + self.window
        if self.next is None:
            return
        kept = ticks >= self.next - self.window
        if self.done is not None:
            self.late += int((ticks < self.done).sum())
        self.ticks = np.concatenate([self.ticks, ticks[kept]])
        self.columns = np.concatenate(
            [self.columns, [self.column[str(u)] for u, k in zip(units, kept, strict=True) if k]]
        )
        self.columns = self.columns.astype(np.int64)
        newest = until if until is not None else float(times.max()) if len(times) else -np.inf
        while self.next <= (newest + EPSILON) / TICK:
            yield self._moment(self.next)
            self.done, self.next = self.next, self.next + self.chunk
            still = self.ticks >= self.next - self.window
            self.ticks, self.columns = self.ticks[still], self.columns[still]

    def _batch(self, start: int, length: int) -> SpikeBatch:
        """The spikes of ``length`` ms from ``start`` as one window."""
        inside = (self.ticks >= start) & (self.ticks < start + length)
        order = np.argsort(self.ticks[inside], kind="stable")
        return collate_windows(
            unit_rows=[self.rows],
            regions=[self.regions],
            windows=[[(self.columns[inside][order], self.ticks[inside][order] - start, None)]],
            window_ms=length,
            bin_ms=self.model.settings.window.bin_ms,
        )

    def _encoded(self, batch: SpikeBatch, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The last latents [1, M, D] of the window that ``batch`` holds, and those that the head reads."""
        net, bridge = self.model.net, self.model.bridge
        level = None if bridge is None else bridge.head.level
        if self.stream is None:
            latent = net.encode(batch)
            return latent, latent if level is None else net.encode(batch, level=level)
        chunks = self.window // self.chunk
        for ago in range(1 if self.levels else chunks, 0, -1):  # all of the first window, then the newest alone
            self.levels.append(self.stream(net.encode(self._batch(end - ago * self.chunk, self.chunk), level=0)))
        self.levels = self.levels[-chunks:]
        return behind(self.levels, None), behind(self.levels, level)

    @torch.no_grad()
    def _moment(self, end: int) -> Moment:
        net, bridge, bin_ms = self.model.net, self.model.bridge, self.model.settings.window.bin_ms
        batch = self._batch(end - self.window, self.window)
        latent, read = self._encoded(batch, end)
        rates = net.decode(latent, batch)[0, :, -max(1, self.chunk // bin_ms) :].exp().mean(-1) * (1000 / bin_ms)
        embedding = image = cosine = None
        if bridge is not None:
            embedding = F.normalize(bridge.head(read), dim=-1)[0].numpy()
            if self.library is not None:
                near = self.library[1] @ embedding
                image, cosine = str(self.library[0][int(near.argmax())]), float(near.max())
        return Moment(
            time=end / 1000,
            latents=latent[0, -net.encoder.latents :].numpy(),
            rates=rates.numpy(),
            embedding=embedding,
            image=image,
            cosine=cosine,
        )

    def drift(self) -> float | None:
        """How much faster the spikes' clock runs than this machine's, in ms a minute; None before there is a minute."""
        if len(self._heard) < 3 or self._heard[-1][1] - self._heard[0][1] < 60:
            return None
        theirs, ours = np.array(self._heard).T
        return float((np.polyfit(ours, theirs, 1)[0] - 1) * 60_000)


def live(
    run: Path, *, session: str, data: Path | None = None, source: str = "tcp://127.0.0.1:5555",
    sink: str = "tcp://127.0.0.1:5556", seconds: float | None = None,
) -> int:  # fmt: skip
    """Take spikes from a ZeroMQ socket as they come, and send what every 50 ms say; the number of moments sent.

    What comes: JSON, {"times": [s, ...], "units": [id, ...], "until": s}. What goes: JSON, {"time", "rates",
    "embedding", "image", "cosine", "ms"}.

    Args:
        run: Folder of a run that knows the session's units.
        session: Whose units are streamed.
        data: Data folder of the session; empty: the run's own.
        source: Address that spikes come from (a PUSH socket connects here); this machine alone by default.
        sink: Address that moments go to (SUB sockets connect here).
        seconds: Stop after so long without a spike; empty: never, Ctrl-C ends it.
    """
    with needs("live"):
        import zmq
    model = load(run)
    (recording,) = (model.recordings if data is None else open_recordings(data)).named(session)
    stream = Live(model, recording)
    context = zmq.Context()
    pull, publish = context.socket(zmq.PULL), context.socket(zmq.PUB)
    sent = 0
    try:
        pull.bind(source)
        publish.bind(sink)
        console.print(
            f"{len(stream.units)} units: spikes from {source}, moments to {sink}", markup=False, soft_wrap=True
        )
        wait = None if seconds is None else int(seconds * 1000)
        while pull.poll(wait):
            words = json.loads(pull.recv())
            start = time.perf_counter()
            for moment in stream.feed(words["times"], words["units"], until=words.get("until")):
                told = {"time": moment.time, "rates": moment.rates.round(3).tolist(), "image": moment.image}
                told |= {"embedding": None if moment.embedding is None else moment.embedding.tolist()}
                told |= {"cosine": moment.cosine, "ms": (time.perf_counter() - start) * 1000}
                publish.send_string(json.dumps(told))
                sent, start = sent + 1, time.perf_counter()
    finally:
        context.destroy(linger=200)
    drift = stream.drift()
    said = "" if drift is None else f"; the spikes' clock is {drift:+.2f} ms a minute faster than this machine's"
    console.print(f"{sent} moments; {stream.late} spikes came late{said}", markup=False, soft_wrap=True)
    return sent
