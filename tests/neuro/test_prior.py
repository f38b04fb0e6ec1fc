"""A prior over unit vectors: what many units tell of the next one, and vectors that learn in its measure."""

import numpy as np
import torch

from neurobridge.neuro.prior import NewUnits, UnitPrior


def some_vectors(units: int) -> tuple[torch.Tensor, list[str]]:
    """Two areas with means of their own; units differ along one direction, and hardly along the others."""
    rng = np.random.default_rng(0)
    area = np.where(np.arange(units) % 2 == 0, "V1", "IT")
    vectors = 0.05 * rng.normal(size=(units, 6)) + np.where(area == "V1", 1.0, -1.0)[:, None] * np.eye(6)[1]
    vectors += rng.normal(size=(units, 1)) * np.eye(6)[0]
    return torch.from_numpy(vectors).float(), area.tolist()


def test_the_prior_finds_areas_and_the_direction_in_which_units_differ():
    vectors, regions = some_vectors(400)
    prior = UnitPrior.fit(vectors, regions)
    means = prior.means(["V1", "IT", "nowhere"])
    assert means[0, 1] > 0.8
    assert means[1, 1] < -0.8
    torch.testing.assert_close(means[2], vectors.mean(0))
    covariance = prior.factor @ prior.factor.T
    assert covariance[0, 0] > 10 * covariance[2, 2]


def test_few_units_are_shrunk_to_what_all_share(tmp_path):
    vectors, _ = some_vectors(12)
    prior = UnitPrior.fit(vectors, ["V4"] * 2 + ["unknown"] * 10)
    assert set(prior.areas) == {"V4"}
    own = vectors[:2].mean(0) - vectors.mean(0)
    assert float((prior.areas["V4"] - prior.mean).norm()) < 0.2 * float(own.norm())
    prior.save(tmp_path)
    again = UnitPrior.load(tmp_path)
    torch.testing.assert_close(again.means(["V4", "x"]), prior.means(["V4", "x"]))
    torch.testing.assert_close(again.factor, prior.factor)


def test_few_samples_are_fitted_better_under_the_prior_than_without():
    """Linear responses to five samples: the MAP under the prior against the same steps without it."""
    vectors, regions = some_vectors(400)
    prior = UnitPrior.fit(vectors[:399], regions[:399])
    torch.manual_seed(1)
    x, test = torch.randn(5, 6), torch.randn(500, 6)
    true = vectors[399]
    errors = []
    for factor in (prior.factor, 0.5 * torch.eye(6)):
        units = NewUnits(prior.means(regions[399:]), factor, first=399)
        optimiser = torch.optim.AdamW(units.parameters(), lr=0.05, weight_decay=0.3)
        for _ in range(150):
            loss = (x @ units(torch.tensor([399]))[0] - x @ true - 0.5 * torch.randn(5)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        errors.append(float((test @ (units(torch.tensor([399]))[0] - true)).square().mean()))
    assert errors[0] < 0.6 * errors[1]
