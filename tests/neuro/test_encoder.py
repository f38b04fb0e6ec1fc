"""The table form of the chunk attention equals plain rotary cross-attention, event by event, on 1 ms times."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from neurobridge.neuro.batch import collate_windows
from neurobridge.neuro.encoder import ChunkReader, expected_events
from neurobridge.neuro.layers import ShortAttention, ShortSelfAttention, SwiGLU, rotary_phase, rotate
from neurobridge.neuro.masking import everything_hidden, nothing_hidden
from neurobridge.neuro.model import NeuroBridge


def spikes(*, groups=2, windows=3, units=7, window_ms=130, rate=12, seed=0, values=False):
    rng = np.random.default_rng(seed)

    def window():
        count = rng.poisson(rate)
        value = rng.standard_normal(count) if values else None
        return rng.integers(units, size=count), rng.integers(window_ms, size=count), value

    return collate_windows(
        unit_rows=[list(range(g * units, (g + 1) * units)) for g in range(groups)],
        regions=[[n % 3 for n in range(units)]] * groups,
        windows=[[window() for _ in range(windows)] for _ in range(groups)],
        window_ms=window_ms,
        bin_ms=10,
    )


def plain_reading(layer: ChunkReader, batch, unit: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """One softmax per (window, chunk, latent, head) over the events and the null key, no table; counts unit by unit."""
    chunks = math.ceil(batch.window_ms / layer.chunk_ms)
    out = []
    query = F.normalize(layer.query, dim=-1) * layer.scale[:, None]
    for b in range(batch.windows):
        of_window = unit[b // (batch.windows // batch.groups)]
        for c in range(chunks):
            chosen = (batch.event_window == b) & (batch.event_tick // layer.chunk_ms == c)
            tick = (batch.event_tick[chosen] % layer.chunk_ms).double()
            vectors = of_window[batch.event_unit[chosen]]
            key = F.normalize(layer.key(vectors).unflatten(-1, (layer.heads, -1)), dim=-1)
            phase = rotary_phase(tick, key.shape[-1], longest_ms=4.0 * layer.chunk_ms)
            score = torch.einsum("lhd,shd->lhs", query, rotate(key, phase[:, None]))
            score = torch.cat([score, layer.null_score[..., None]], dim=-1)
            weight = score.softmax(-1)
            value = layer.value(vectors).unflatten(-1, (layer.heads, -1))
            value = torch.cat([value, layer.null_value[None]])
            mixed = torch.einsum("lhs,shd->lhd", weight, value)
            total = torch.zeros(unit.shape[-1], dtype=torch.float64)
            for n, own in enumerate(of_window):
                mine = chosen & (batch.event_unit == n)
                count = mine.sum().double()
                if batch.event_value is not None:
                    surprise = batch.event_value[mine].double().sum() / count.clamp(min=1).sqrt()
                else:
                    surprise = (count - expected[b, n, c]) / (expected[b, n, c] + layer.floor).sqrt()
                total = total + surprise * own / math.sqrt(len(of_window))
            counted = layer.counted(total).view(layer.latents, -1)
            out.append(layer.out(mixed.flatten(1)) + counted)
    return torch.stack(out).view(batch.windows, chunks, layer.latents, -1)


@pytest.mark.parametrize("way", ["sparse", "dense"])
@pytest.mark.parametrize("values", [False, True])
def test_table_equals_plain_rotary_attention_and_counts(values, way):
    torch.manual_seed(0)
    batch = spikes(values=values)
    layer = ChunkReader(width=32, unit_width=16, latents=3, heads=2, chunk_ms=50).double()
    layer.sparse_cost = 0 if way == "sparse" else 1e9
    torch.nn.init.normal_(layer.null_score)
    torch.nn.init.normal_(layer.null_value)
    unit = torch.randn(2, 7, 16, dtype=torch.float64)
    plan = nothing_hidden(batch)
    expected = expected_events(batch, plan, torch.linspace(-3, 0, 14, dtype=torch.float64).view(2, 7), 50)
    read = layer(batch, unit, plan, expected)
    torch.testing.assert_close(read, plain_reading(layer, batch, unit, expected), rtol=1e-9, atol=1e-11)


def test_expected_events_follow_the_visible_milliseconds_and_the_time_course():
    batch = spikes(windows=2)
    plan = nothing_hidden(batch)
    plan.hidden_tick[0, 10:35] = True
    plan.hidden_unit[0, 3] = True
    bias = torch.full((2, 7), math.log(0.2))
    flat = expected_events(batch, plan, bias, 50)
    assert flat.shape == (4, 7, 3)
    torch.testing.assert_close(flat[0, 0], torch.tensor([0.5, 1.0, 0.6]))  # 25, 50 and 30 ms at 0.02 events a ms
    assert (flat[0, 3] == 0).all()
    course = torch.zeros(2, 7, 13)
    course[:, :, 5:10] = math.log(2.0)
    locked = replace(batch, course=course, locked=torch.tensor([True, False, True, True]))
    own = expected_events(locked, plan, bias, 50)
    torch.testing.assert_close(own[0, 0], torch.tensor([0.5, 2.0, 0.6]))
    torch.testing.assert_close(own[1, 0], torch.tensor([1.0, 1.0, 0.6]))


def test_rotation_of_the_query_backwards_is_rotation_of_the_key_forwards():
    torch.manual_seed(0)
    query, key = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 8, dtype=torch.float64)
    phase = rotary_phase(torch.arange(5, dtype=torch.float64), 8)
    torch.testing.assert_close((query * rotate(key, phase)).sum(-1), (rotate(query, phase.conj()) * key).sum(-1))


def model_for(batch, **options) -> NeuroBridge:
    torch.manual_seed(1)
    model = NeuroBridge(**({"width": 32, "depth": 1, "heads": 2, "latents": 2, "unit_width": 16} | options))
    units = int(batch.unit_row.max()) + 1
    model.units.extend([f"d/m/s/{n}" for n in range(units)], log_rates=torch.linspace(-4, -2, units))
    return model


def test_empty_windows_and_fully_hidden_input_stay_finite():
    batch = spikes(rate=0)
    model = model_for(batch)
    plan = nothing_hidden(batch)
    plan.hidden_unit[:] = True
    plan.hidden_tick[:] = True
    assert torch.isfinite(model(batch, plan)).all()


@pytest.mark.parametrize("way", ["sparse", "dense"])
def test_hidden_events_cannot_reach_the_output(way):
    batch = spikes(rate=60)
    model = model_for(batch)
    model.encoder.chunks.sparse_cost = 0 if way == "sparse" else 1e9
    plan = nothing_hidden(batch)
    plan.hidden_unit[:, 2] = True
    plan.hidden_tick[:, 40:75] = True
    before = model(batch, plan)
    moved = plan.hides_event(batch)
    assert moved.any()
    kept = batch.to("cpu")
    kept.event_window, kept.event_unit = batch.event_window[~moved], batch.event_unit[~moved]
    kept.event_tick = batch.event_tick[~moved]
    torch.testing.assert_close(model(kept, plan), before)


def test_silent_and_hidden_differ():
    batch = spikes(rate=0)
    model = model_for(batch)
    plan = nothing_hidden(batch)
    silent = model.encode(batch, plan)
    plan.hidden_unit[:, 0] = True
    assert not torch.allclose(model.encode(batch, plan), silent)


def test_a_session_is_read_alike_alone_and_in_a_batch():
    batch = spikes(rate=40)
    model = model_for(batch)
    together = model(batch)
    first = spikes(rate=40)
    keep = first.event_window < 3
    for name in ("event_window", "event_unit", "event_tick"):
        setattr(first, name, getattr(first, name)[keep])
    first.unit_row, first.unit_mask, first.region = first.unit_row[:1], first.unit_mask[:1], first.region[:1]
    first.target, first.stimulus, first.session = first.target[:3], first.stimulus[:3], first.session[:1]
    first.locked = first.locked[:3]
    torch.testing.assert_close(model(first), together[:3])


def test_optional_parts_conditioning_and_cls():
    batch = spikes()
    model = model_for(batch, depth=2, memory_width=12, cls=True)
    latent = model.encode(batch, memory=torch.randn(6, 5, 12))
    assert latent.shape == (6, 1 + 3 * 2, 32)


def test_step_zero_predicts_close_to_the_null_model():
    batch = spikes()
    model = model_for(batch)
    with torch.no_grad():
        difference = (model(batch) - batch.per_window(model.units.bias[batch.unit_row])[..., None]).abs()
    assert difference.max() < 0.5


def test_save_and_load_without_pickle(tmp_path):
    batch = spikes()
    model = model_for(batch)
    model.save(tmp_path)
    loaded = NeuroBridge.load(tmp_path)
    assert loaded.units.keys == model.units.keys
    torch.testing.assert_close(loaded(batch), model(batch), rtol=0, atol=0)


def test_attention_written_out_equals_the_fused_one_with_its_gradients():
    torch.manual_seed(0)
    q = torch.randn(2, 3, 7, 8, requires_grad=True)
    k, v = (torch.randn(2, 3, 5, 8, requires_grad=True) for _ in range(2))
    weight = torch.randn(2, 3, 7, 8)
    results = []
    for attend in (ShortAttention.apply, F.scaled_dot_product_attention):
        out = attend(q, k, v)
        results.append((out, *torch.autograd.grad((out * weight).sum(), (q, k, v))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_joint_attention_and_gate_have_the_values_and_gradients_of_their_plain_forms():
    torch.manual_seed(0)
    together = torch.randn(2, 5, 3 * 12, dtype=torch.float64, requires_grad=True)
    phase = rotary_phase(torch.arange(5.0, dtype=torch.float64) * 7, 4)
    q, k, v = together.unflatten(-1, (3, 3, 4)).unbind(2)
    q, k = (rotate(part, phase[:, None]) for part in (q, k))
    plain = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)))
    joint = ShortSelfAttention.apply(together, phase, 3)
    torch.testing.assert_close(joint, plain.transpose(1, 2).flatten(2))
    assert torch.autograd.gradcheck(lambda x: ShortSelfAttention.apply(x, phase, 3), together)

    up, gate = together.chunk(2, -1)
    torch.testing.assert_close(SwiGLU.apply(together), up * F.silu(gate))
    assert torch.autograd.gradcheck(SwiGLU.apply, together)


def test_seeing_nothing_is_told_without_looking_at_a_spike():
    batch = spikes(rate=40)
    model = model_for(batch, memory_width=6, memory_side=3, depth=2)
    shortcut, plain = everything_hidden(batch), everything_hidden(batch)
    plain.sees_nothing = False
    memory = torch.randn(6, 9, 6)
    model.eval()
    torch.testing.assert_close(model(batch, shortcut, memory=memory), model(batch, plain, memory=memory))
    assert not torch.allclose(model(batch, shortcut, memory=memory), model(batch, shortcut, memory=memory.flip(1)))
