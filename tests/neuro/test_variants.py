"""The ablations and sizes: sparse look-up, grid decoder, prompts, masking behind the Perceiver, IDEncoder, presets."""

import numpy as np
import pytest
import torch

from neurobridge.neuro.augmentation import augment
from neurobridge.neuro.batch import SpikeBatch, bin_events, collate_windows
from neurobridge.neuro.encoder import ChunkReader, expected_events
from neurobridge.neuro.identity import IDEncoder
from neurobridge.neuro.losses import masked_losses, sample_cells
from neurobridge.neuro.masking import MODES, Masker, nothing_hidden
from neurobridge.neuro.model import PRESETS, NeuroBridge, parameter_count


def random_batch(*, units=6, groups=2, windows=4, spikes=40, window_ms=200, seed=0) -> SpikeBatch:
    rng = np.random.default_rng(seed)

    def window():
        return rng.integers(units, size=spikes), rng.integers(window_ms, size=spikes), None

    return collate_windows(
        unit_rows=[list(range(g * units, (g + 1) * units)) for g in range(groups)],
        regions=[[n % 2 for n in range(units)]] * groups,
        windows=[[window() for _ in range(windows)] for _ in range(groups)],
        window_ms=window_ms,
        bin_ms=10,
    )


def model_for(batch: SpikeBatch, **options) -> NeuroBridge:
    torch.manual_seed(0)
    model = NeuroBridge(**({"width": 32, "depth": 2, "heads": 2, "latents": 2, "unit_width": 16} | options))
    units = int(batch.unit_row.max()) + 1
    model.units.extend([f"d/m/s/{n}" for n in range(units)], log_rates=torch.linspace(-3, -1, units))
    return model


def train_step(model: NeuroBridge, batch: SpikeBatch, **masking) -> float:
    plan = Masker(**masking).draw(batch, np.random.default_rng(0))
    losses = masked_losses(model(batch, plan), batch.target, plan, plan.scored(batch), poisson=True)
    loss = torch.stack(list(losses.values())).mean()
    loss.backward()
    return float(loss.detach())


def test_both_ways_of_summing_weights_have_the_same_gradients():
    batch = random_batch(units=30)
    torch.manual_seed(0)
    layer = ChunkReader(width=32, unit_width=16, latents=2, heads=2, chunk_ms=50).double()
    unit = torch.randn(2, 30, 16, dtype=torch.float64)
    plan, gradients = nothing_hidden(batch), []
    expected = expected_events(batch, plan, torch.full((2, 30), -2.0, dtype=torch.float64), 50)
    for cost in (0, 1e9):
        layer.sparse_cost = cost
        attended = layer(batch, unit, plan, expected)
        gradients.append(torch.autograd.grad(attended.square().sum(), layer.key.weight)[0])
    torch.testing.assert_close(*gradients)


def test_ten_thousand_units_and_two_hundred_thousand_spikes_in_a_window():
    rng = np.random.default_rng(0)
    units, spikes = 10_000, 200_000
    window, unit, tick = (torch.from_numpy(rng.integers(high, size=spikes)) for high in (1, units, 1000))
    batch = SpikeBatch(
        unit_row=torch.arange(units)[None],
        unit_mask=torch.ones(1, units, dtype=torch.bool),
        region=torch.zeros(1, units, dtype=torch.int64),
        event_window=window,
        event_unit=unit,
        event_tick=tick,
        event_value=None,
        target=bin_events(window, unit, tick, None, (1, units, 50), 20),
        window_ms=1000,
        bin_ms=20,
        stimulus=torch.tensor([-1]),
        locked=torch.tensor([False]),
        session=torch.tensor([0]),
        row=torch.tensor([0]),
    )
    model = model_for(batch, latents=4)
    assert np.isfinite(train_step(model, batch, modes=["neuron"]))
    assert model.units.embedding.grad is not None


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_size_they_say_and_take_a_step(name):
    low, high = {
        "tiny": (1e5, 1e6), "small": (5e5, 2e6), "base": (25e6, 35e6), "plan": (38e6, 48e6), "large": (90e6, 110e6)
    }[name]  # fmt: skip
    batch = random_batch(groups=1, windows=1, window_ms=100)
    model = model_for(batch, **PRESETS[name])
    assert low < parameter_count(model.encoder) + parameter_count(model.decoder) < high
    assert np.isfinite(train_step(model, batch))


def test_grid_decoder_starts_at_the_bias_and_samples_the_cells_it_would_compute():
    batch = random_batch()
    model = model_for(batch, decoder="grid", decoder_depth=2)
    bias = batch.per_window(model.units.bias[batch.unit_row])[..., None].expand(-1, -1, 20)
    torch.testing.assert_close(model(batch), bias)
    torch.nn.init.normal_(model.decoder.out.weight)
    cells = torch.randint(6 * 20, (8, 30))
    some = model(batch, cells=cells)
    torch.testing.assert_close(some, model(batch).flatten(1).gather(1, cells), rtol=1e-4, atol=1e-5)


def test_sampled_cells_estimate_the_loss_without_bias():
    batch = random_batch(windows=1)
    plan = Masker(modes=["neuron"]).draw(batch, np.random.default_rng(0))
    scored = plan.scored(batch)
    prediction = torch.randn(batch.target.shape)
    whole = masked_losses(prediction, batch.target, plan, scored, poisson=True)["neuron"]
    cells, weight = sample_cells(scored, batch.target, 20_000, generator=torch.Generator().manual_seed(0))
    assert scored.flatten(1).gather(1, cells).all()
    picked, target = (x.flatten(1).gather(1, cells) for x in (prediction, batch.target))
    estimate = masked_losses(picked, target, plan, weight, poisson=True)["neuron"]
    assert float(estimate) == pytest.approx(float(whole), rel=0.03)
    nothing = torch.zeros_like(scored)
    assert sample_cells(nothing, batch.target, 5)[1].sum() == 0


def test_prompts_tell_the_mode_and_are_averaged_downstream():
    batch = random_batch()
    model = model_for(batch, prompts=True)
    plan = nothing_hidden(batch)
    each = []
    for mode in range(len(MODES)):
        plan.mode[:] = mode
        each.append(model.encode(batch, plan))
    assert not torch.allclose(each[0], each[1])
    torch.testing.assert_close(model.encode(batch), torch.stack(each).mean(0))
    assert np.isfinite(train_step(model, batch))


def test_masking_behind_the_perceiver_hides_whole_chunks():
    batch = random_batch()
    plan = Masker(modes=["temporal"], whole_chunks_ms=50).draw(batch, np.random.default_rng(0))
    share = plan.hidden_tick.view(8, 4, 50).float().mean(-1)
    assert set(share.unique().tolist()) <= {0.0, 1.0}
    model = model_for(batch, mask_latents=True)
    before = model(batch, plan)
    torch.nn.init.normal_(model.encoder.masked_latent)
    assert not torch.allclose(model(batch, plan), before)
    unhidden = nothing_hidden(batch)
    visible = model(batch, unhidden)
    torch.nn.init.normal_(model.encoder.masked_latent)
    torch.testing.assert_close(model(batch, unhidden), visible)


def test_identity_encoder_ignores_order_and_starts_at_the_mean_embedding(tmp_path):
    torch.manual_seed(0)
    encoder = IDEncoder(bins=10, unit_width=8)
    known = torch.randn(50, 8)
    encoder.fit_scale(known)
    counts, mask = torch.poisson(torch.full((2, 7, 5, 10), 0.4)), torch.ones(2, 5, dtype=torch.bool)
    mask[1, 4] = False
    torch.testing.assert_close(encoder(counts, mask)[0], known.mean(0).expand(5, -1))
    torch.nn.init.normal_(encoder.unit[-1].weight)
    out = encoder(counts, mask)
    units, windows = torch.randperm(5), torch.randperm(7)
    torch.testing.assert_close(encoder(counts[:1, :, units], mask[:1]), out[:1, units])
    torch.testing.assert_close(encoder(counts[:, windows], mask), out)
    torch.testing.assert_close(encoder(counts[1:, :, :4], mask[1:, :4]), out[1:, :4])
    encoder.save(tmp_path)
    torch.testing.assert_close(IDEncoder.load(tmp_path)(counts, mask), out)


def test_augmentation_removes_units_and_moves_spikes_with_their_counts():
    batch = random_batch(units=20, spikes=300)
    changed = augment(batch, np.random.default_rng(0), unit_dropout=0.3, jitter_ms=1)
    assert changed.unit_mask.sum() < batch.unit_mask.sum()
    assert (changed.unit_mask.sum(1) >= 2).all()
    assert changed.unit_mask[changed.event_window // 4, changed.event_unit].all()
    assert changed.target.sum() == len(changed.event_tick)
    again = augment(batch, np.random.default_rng(0), unit_dropout=0.3, jitter_ms=1)
    torch.testing.assert_close(again.event_tick, changed.event_tick)
    moved = augment(batch, np.random.default_rng(0), jitter_ms=1)
    shift = (moved.event_tick - batch.event_tick).abs()
    assert shift.max() == 1
    assert augment(batch, np.random.default_rng(0)).event_tick is batch.event_tick
