"""The vocabulary grows by name, keeps what it knew, and lets the units of a data set share a vector."""

import pytest
import torch

from neurobridge.neuro.units import UnitVocabulary


def grown() -> UnitVocabulary:
    units = UnitVocabulary(unit_width=4)
    units.extend(["a/m/s1/u0", "a/m/s1/u1"], log_rates=torch.tensor([-1.0, -2.0]))
    return units


def test_growing_keeps_rows_and_starts_new_units_at_their_rate():
    units = grown()
    before = units(torch.tensor([0, 1])).detach()
    units.extend(["a/m/s1/u1", "b/n/s9/u0"], log_rates=torch.tensor([5.0, -3.0]))
    assert units.rows_of(["b/n/s9/u0", "a/m/s1/u0"]) == [2, 0]
    torch.testing.assert_close(units(torch.tensor([0, 1])), before)
    torch.testing.assert_close(units.bias.detach(), torch.tensor([-1.0, -2.0, -3.0]))
    with pytest.raises(ValueError, match="a/m/s2/u0"):
        units.rows_of(["a/m/s2/u0"])


def test_units_of_a_data_set_share_a_vector_that_survives_growth_and_reloading():
    units = grown()
    units.extend(["b/n/s9/u0"], log_rates=torch.tensor([-3.0]))
    with torch.no_grad():
        units.dataset[1] = torch.arange(4.0)
    units.extend(["b/n/s10/u0", "c/o/s1/u0"], log_rates=torch.tensor([-3.0, -3.0]))
    assert units.dataset.shape == (3, 4)
    shared = (units(torch.arange(5)) - units.embedding).detach()
    torch.testing.assert_close(shared[2], torch.arange(4.0))
    torch.testing.assert_close(shared[3], torch.arange(4.0))
    assert not shared[[0, 1, 4]].any()
    again = UnitVocabulary(unit_width=4)
    again.restore(units.keys)
    again.load_state_dict(units.state_dict())
    torch.testing.assert_close(again(torch.arange(5)), units(torch.arange(5)))
    again.set_vectors([2, 0], torch.ones(2, 4))
    torch.testing.assert_close(again(torch.tensor([2, 0])), torch.ones(2, 4))
