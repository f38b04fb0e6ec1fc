"""What is streamed is what the model says offline of the same windows, whatever the packets spikes come in."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zmq

import neurobridge as nb
from neurobridge.cli import main
from neurobridge.data.simulate import simulate
from neurobridge.errors import UserError

TINY = {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8}
SHORT = {"model": TINY, "windows": 16, "groups": 2, "layer": "block2", "resolution": 64, "progress": False}


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """An aligned model and a recording that it knows."""
    sizes = {"images": 60, "test_images": 8, "test_repeats": 4, "valid_images": 12, "sessions": 1, "electrodes": 16}
    recordings = nb.open(simulate(tmp_path_factory.mktemp("live") / "data", seed=3, **sizes))
    model = nb.pretrain(recordings, steps=4, **SHORT)
    return nb.align(model, steps=2, joint_steps=0, windows=16, queries=2, hidden=16, progress=False), recordings[0]


@pytest.fixture(scope="module")
def spikes(known):
    """Times [S] s in order and units [S] of the first four seconds."""
    recording = known[1]
    times, rows = recording.spike_times[:], recording.spike_units[:]
    first = times < 4.0
    return times[first], recording.unit_ids[rows[first]]


@pytest.mark.parametrize("packet", [1, 37, 100_000])
def test_streamed_is_offline(known, spikes, packet):
    model, recording = known
    times, units = spikes
    live = nb.Live(model, recording)
    moments = []
    for at in range(0, len(times), packet):
        moments += live.feed(times[at : at + packet], units[at : at + packet])
    assert len(moments) > 50
    assert live.late == 0
    session = model.session(recording)
    starts = np.array([moment.time for moment in moments]) - session.window_ms / 1000
    batch = model.batcher(session).batch_from([(0, starts)])
    with torch.no_grad():
        latents = model.net.encode(batch)[:, -2:].numpy()
        embedding = F.normalize(
            model.bridge.head(model.net.encode(batch, level=model.bridge.head.level)), dim=-1
        ).numpy()
        rates = model.net(batch)[:, :, -5:].exp().mean(-1).numpy() * 100
    np.testing.assert_allclose(np.stack([m.latents for m in moments]), latents, atol=1e-5)
    np.testing.assert_allclose(np.stack([m.embedding for m in moments]), embedding, atol=1e-5)
    np.testing.assert_allclose(np.stack([m.rates for m in moments]), rates, rtol=1e-4)
    assert all(m.image in set(live.library[0]) and -1 <= m.cosine <= 1 for m in moments)


@pytest.fixture(scope="module")
def causal(known):
    """A causal model of two blocks, aligned at its last one, and the same recording."""
    options = SHORT | {"model": TINY | {"depth": 2, "causal_ms": 100}}
    model = nb.pretrain([known[1]], steps=4, **options)
    options = {"windows": 16, "queries": 2, "hidden": 16, "level": None, "progress": False}
    return nb.align(model, steps=2, joint_steps=0, **options), known[1]


@pytest.mark.parametrize("packet", [37, 100_000])
def test_a_causal_model_streams_what_it_says_offline_of_the_whole_recording(causal, spikes, packet):
    model, recording = causal
    times, units = spikes
    live, whole = nb.Live(model, recording), nb.Live(model, recording)
    moments = []
    for at in range(0, len(times), packet):
        moments += live.feed(times[at : at + packet], units[at : at + packet])
    first, chunks = live.next // 50 - len(moments) - live.window // 50, len(moments) + live.window // 50 - 1
    next(whole.feed(times, units))  # it holds all spikes now
    net = model.net
    window = live.window // 50 * net.encoder.latents
    with torch.no_grad():
        batch = whole._batch(first * 50, chunks * 50)
        latent, read = (
            net.encode(batch, level=level)[0].unfold(0, window, net.encoder.latents).transpose(1, 2)
            for level in (None, model.bridge.head.level)
        )
        embedding = F.normalize(model.bridge.head(read), dim=-1)
    np.testing.assert_allclose(np.stack([m.latents for m in moments]), latent[:, -2:].numpy(), atol=1e-5)
    np.testing.assert_allclose(np.stack([m.embedding for m in moments]), embedding.numpy(), atol=1e-5)
    assert {len(kept[0]) for kept in live.stream.kept} == {net.encoder.latents}, "one chunk before is within reach"


def test_a_causal_model_does_not_see_what_comes_later(causal, known):
    (model, recording), (other, _) = causal, known
    for net, sees in ((model.net, False), (other.net, True)):
        batch = model.batcher(model.session(recording)).batch_from([(0, np.array([1.0]))])
        late = batch.event_tick >= 250
        fewer = replace(batch, **{k: getattr(batch, k)[~late] for k in ("event_window", "event_unit", "event_tick")})
        with torch.no_grad():
            before, without = (net.encode(x)[0, : 5 * net.encoder.latents] for x in (batch, fewer))
        assert late.any()
        assert (not torch.equal(before, without)) == sees


def test_late_and_unknown_spikes_are_told(known, spikes):
    live = nb.Live(*known)
    times, units = spikes
    list(live.feed(times, units))
    list(live.feed([0.5], [units[0]]))
    assert live.late == 1
    with pytest.raises(UserError, match="unit 'u99' is not one of the recording's"):
        list(live.feed([5.0], ["u99"]))
    with pytest.raises(UserError, match="a spike has no time"):
        list(live.feed([np.nan], [units[0]]))
    assert live.drift() is None


def free_address(context: zmq.Context) -> str:
    """An address of this machine that nobody listens at."""
    with context.socket(zmq.PULL) as taken:
        return f"tcp://127.0.0.1:{taken.bind_to_random_port('tcp://127.0.0.1')}"


def test_spikes_in_and_moments_out_through_sockets(known, spikes, capsys):
    model, recording = known
    times, units = spikes
    context = zmq.Context()
    listener, sender = context.socket(zmq.SUB), context.socket(zmq.PUSH)
    source, sink = free_address(context), free_address(context)
    listener.setsockopt_string(zmq.SUBSCRIBE, "")
    listener.connect(sink)
    sender.connect(source)

    def send() -> None:
        for at in np.arange(0, 4.0, 0.05):
            some = (times >= at) & (times < at + 0.05)
            words = {"times": times[some].tolist(), "units": units[some].tolist(), "until": float(at + 0.05)}
            sender.send_string(json.dumps(words))

    thread = threading.Thread(target=send)
    thread.start()
    run = ["live", str(model.path), "--session", recording.path.stem, "--source", source, "--sink", sink]
    assert main([*run, "--seconds", "1"]) == 0
    thread.join()
    heard = []
    while listener.poll(100):
        heard.append(json.loads(listener.recv()))
    context.destroy(linger=0)
    assert "0 spikes came late" in capsys.readouterr().out
    assert len(heard) > 40
    assert heard[-1]["image"]
    assert len(heard[-1]["rates"]) == len(recording.unit_ids)
