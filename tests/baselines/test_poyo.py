"""POYO as a peer: it learns a rate-coded variable, tells classes apart, serves sessions of different units."""

import numpy as np
import pytest
import torch

from neurobridge.baselines.poyo import PoyoDecoder, build_poyo, poyo_inputs

WINDOW_S = 0.5


def rate_coded(windows, units, seed, first=0):
    """Windows of ``units`` units whose rates follow a variable of two dimensions, and that variable [W, 2]."""
    tuning = np.random.default_rng(99).normal(size=(units, 2))
    rng = np.random.default_rng(seed)
    variable = rng.normal(size=(windows, 2))
    counts = rng.poisson(4.0 * np.exp(0.5 * variable @ tuning.T))
    unit = [np.repeat(np.arange(units), row) + first for row in counts]
    return [(u, rng.uniform(0, WINDOW_S, len(u))) for u in unit], variable


def r2(target, prediction):
    return 1 - ((target - prediction) ** 2).sum() / ((target - target.mean(0)) ** 2).sum()


def test_it_decodes_a_rate_coded_variable_of_held_out_windows():
    windows, variable = rate_coded(400, 20, 0)
    held_out, truth = rate_coded(100, 20, 1)
    decoder = PoyoDecoder(
        unit_session=np.zeros(20, int), window_s=WINDOW_S, width=32, depth=1, latents=4, steps=200, batch=16
    ).fit(windows, variable)
    assert r2(truth, decoder.predict(held_out)) > 0.5
    latents = decoder.encode(held_out)
    assert latents.shape == (100, 32)
    fitted = np.linalg.lstsq(np.c_[decoder.encode(windows), np.ones(400)], variable, rcond=None)[0]
    assert r2(truth, np.c_[latents, np.ones(100)] @ fitted) > 0.5
    np.testing.assert_allclose(decoder.predict(held_out[:1]), decoder.predict(held_out)[:1], atol=1e-4)


def test_labels_and_sessions_of_different_units():
    first, x = rate_coded(120, 12, 0)
    second, y = rate_coded(120, 20, 1, first=12)
    session = np.repeat([0, 1], 120)
    labels = (np.r_[x, y][:, 0] > 0).astype(int)
    unit_session = np.repeat([0, 1], [12, 20])
    options = {"unit_session": unit_session, "window_s": WINDOW_S, "width": 32, "depth": 1, "latents": 2, "steps": 120}
    decoder = PoyoDecoder(**options).fit(first + second, labels, session)
    odds = decoder.predict(first + second, session)
    assert odds.shape == (240, 2)
    assert (odds.argmax(1) == labels).mean() > 0.75
    again = PoyoDecoder(**options).fit(first + second, labels, session)
    np.testing.assert_array_equal(odds, again.predict(first + second, session))


def test_targets_along_the_window_and_tokens_of_silent_units():
    model = build_poyo(units=3, outputs=2, width=16, depth=1, heads=2, latents=2, window_s=0.2, latent_step_s=0.1)
    windows = [(np.array([0, 2]), np.array([0.01, 0.15])), (np.array([], int), np.array([]))]
    inputs = poyo_inputs(
        windows, unit_session=np.zeros(3, int), session=np.zeros(2, int), output_times=np.arange(5) / 25, model=model
    )
    assert inputs["input_unit_index"].shape == (2, 8)  # two spikes, and two edge tokens for each of three units
    assert inputs["input_mask"].sum(1).tolist() == [8, 6]
    assert model(**inputs).shape == (2, 5, 2)
    assert torch.isfinite(model(**inputs)).all()
    same = {**inputs, "input_timestamps": inputs["input_timestamps"].clone()}
    same["input_timestamps"][1, 6:] = 0.1  # padding carries nothing
    assert torch.equal(model(**inputs)[1], model(**same)[1])


def test_bad_arguments_are_named():
    windows, variable = rate_coded(4, 3, 0)
    decoder = PoyoDecoder(unit_session=np.zeros(3, int), window_s=WINDOW_S, steps=1)
    with pytest.raises(ValueError, match="for 4 windows"):
        decoder.fit(windows, variable[:3])
    with pytest.raises(ValueError, match="integer labels"):
        decoder.fit(windows, variable[:, 0])
    with pytest.raises(ValueError, match="multiple of four times"):
        build_poyo(units=3, outputs=1, width=12, depth=1, heads=2, latents=1)
    with pytest.raises(ValueError, match="latent_step_s"):
        build_poyo(units=3, outputs=1, width=16, depth=1, heads=2, latents=1, window_s=1.0, latent_step_s=0.3)
