"""Masks hide what they say, score only what they hide, and never hide nothing."""

import numpy as np
import pytest
import torch

from neurobridge.neuro.batch import collate_windows
from neurobridge.neuro.losses import cell_loss, expected_counts, masked_losses
from neurobridge.neuro.masking import MODES, Masker, nothing_hidden


def batch_of(regions, *, windows=40, window_ms=300, bin_ms=10):
    units = len(regions)
    event = (list(range(units)), [window_ms // 2] * units, None)
    return collate_windows(
        unit_rows=[list(range(units))],
        regions=[regions],
        windows=[[event] * windows],
        window_ms=window_ms,
        bin_ms=bin_ms,
    )


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_hides_and_scores(mode):
    batch = batch_of([0] * 8 + [1] * 6 + [2])
    plan = Masker().draw(batch, np.random.default_rng(0), mode)
    scored = plan.scored(batch)
    assert (plan.mode == MODES.index(mode)).all()
    assert scored.flatten(1).any(1).all()
    if mode == "temporal":
        share = plan.hidden_tick.float().mean(1)
        assert (share >= 0.5).all()
        assert (share <= 0.9).all()
        assert not plan.hidden_unit.any()
    if mode == "neuron":
        assert (plan.hidden_unit.sum(1) >= 4).all()
        assert (plan.hidden_unit.sum(1) <= 8).all()
    if mode == "intra_region":
        assert not scored[:, 14].any(), "a region of one unit is never chosen"


def test_regions_are_hidden_as_the_protocols_hide_them():
    """Within a region: its other units alone are seen. Between: half of it to all; units of no known region never."""
    region = torch.tensor([0] * 8 + [1] * 6 + [2] + [-1] * 3)
    batch, rng = batch_of(region.tolist(), windows=400), np.random.default_rng(0)
    shares = {}
    for mode in ("intra_region", "inter_region"):
        plan = Masker().draw(batch, rng, mode)
        units = plan.scored(batch).any(-1)
        assert torch.equal(units, plan.scored(batch).all(-1))
        assert not (units & ~plan.hidden_unit).any()
        assert torch.equal(plan.hidden_unit, units | plan.unscored_unit)
        event = plan.hides_event(batch).view(batch.windows, -1)
        assert torch.equal(event, plan.hidden_unit), "each unit has one event a window"
        for hidden, scored in zip(plan.hidden_unit, units, strict=True):
            (chosen,) = region[scored].unique().tolist()
            seen = region[~hidden].unique().tolist()
            assert seen == [chosen] if mode == "intra_region" else set(seen) - {chosen} == {0, 1, 2} - {chosen}
            shares.setdefault((mode, chosen), []).append(float(scored.sum() / (region == chosen).sum()))
    assert {key[1] for key in shares if key[0] == "intra_region"} == {0, 1}
    assert {key[1] for key in shares if key[0] == "inter_region"} == {0, 1, 2}
    assert {min(shares["inter_region", 0]), max(shares["inter_region", 0])} == {0.5, 1.0}
    assert {min(shares["intra_region", 0]), max(shares["intra_region", 0])} == {0.5, 0.75}


def test_guards_fall_back_rather_than_mask_nothing():
    rng = np.random.default_rng(0)
    one_region = batch_of([0] * 5)
    assert (Masker().draw(one_region, rng, "inter_region").mode == MODES.index("neuron")).all()
    lone_units = batch_of([0, 1, 2])
    assert (Masker().draw(lone_units, rng, "intra_region").mode == MODES.index("neuron")).all()
    one_unit = batch_of([0])
    assert (Masker().draw(one_unit, rng, "neuron").mode == MODES.index("temporal")).all()
    unknown = batch_of([-1] * 4)
    assert (Masker().draw(unknown, rng, "inter_region").mode == MODES.index("neuron")).all()


@pytest.mark.parametrize(("bin_ms", "mode"), [(10, "temporal"), (100, "neuron"), (300, "neuron")])
def test_time_is_not_hidden_where_no_whole_bin_would_be(bin_ms, mode):
    batch = batch_of([0, 0, 1], bin_ms=bin_ms)
    plan = Masker().draw(batch, np.random.default_rng(0), "temporal")
    assert {MODES[m] for m in plan.mode.tolist()} == {mode}
    assert plan.scored(batch).any()


def test_temporal_stretches_ignore_chunk_borders():
    batch = batch_of([0] * 3, windows=300)
    hidden = Masker().draw(batch, np.random.default_rng(0), "temporal").hidden_tick.numpy()
    starts = np.flatnonzero(np.diff(hidden.astype(int), axis=1) == 1) % 299
    assert len(np.unique(starts % 50)) > 40


def test_partly_hidden_bins_are_not_scored():
    batch = batch_of([0, 0])
    plan = nothing_hidden(batch)
    plan.hidden_tick[:, 15:40] = True
    scored = plan.scored(batch)[0, 0]
    assert scored.nonzero()[:, 0].tolist() == [2, 3]


def test_same_generator_same_plan():
    batch = batch_of([0] * 4 + [1] * 4)
    a, b = (Masker().draw(batch, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(a.hidden_unit, b.hidden_unit)
    assert torch.equal(a.hidden_tick, b.hidden_tick)


def test_losses_are_means_over_hidden_cells_of_each_mode():
    batch = batch_of([0] * 8 + [1] * 6)
    plan = Masker().draw(batch, np.random.default_rng(1))
    scored = plan.scored(batch)
    prediction = torch.randn(batch.target.shape)
    losses = masked_losses(prediction, batch.target, plan, scored, poisson=True)
    for index, mode in enumerate(MODES):
        cells = [
            float(prediction[b, n, t].exp() - batch.target[b, n, t] * prediction[b, n, t])
            for b in range(batch.windows)
            if int(plan.mode[b]) == index
            for n, t in scored[b].nonzero().tolist()
        ]
        assert float(losses[mode]) == pytest.approx(np.mean(cells), rel=1e-4)


def test_huge_log_rates_do_not_overflow():
    assert torch.isfinite(cell_loss(torch.full((1, 1, 1), 1e4), torch.ones(1, 1, 1), poisson=True)).all()


def test_no_modes_are_refused():
    with pytest.raises(ValueError, match="masking modes are"):
        Masker(modes=[])


def test_expected_counts_are_bounded_as_in_the_loss():
    rates = expected_counts(torch.tensor([0.0, 3.0, 500.0]))
    assert torch.isfinite(rates).all()
    torch.testing.assert_close(rates[:2], torch.tensor([0.0, 3.0]).exp())
