"""Energy guidance: what one step does, and Stable Diffusion and an IP-Adapter led by it, through the real pipelines."""

import runpy
from pathlib import Path

import pytest
import torch

from neurobridge.vision.energy import EnergyGuidance
from neurobridge.vision.ip_adapter import EmbeddingCondition, IPAdapter
from neurobridge.vision.stable_diffusion import StableDiffusion

TINY = runpy.run_path(str(Path(__file__).parents[1] / "tiny_diffusion.py"))
STEPS, SEEDS = 4, [1, 2, 3]
KINDS = ("epsilon", "v_prediction", "ip-adapter")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Stable Diffusion of both predictions, and one with an IP-Adapter."""
    folder = tmp_path_factory.mktemp("models")
    found = {kind: StableDiffusion(TINY["pipeline"](width=32, prediction=kind)) for kind in KINDS[:2]}
    (folder / "words").mkdir()
    pipeline = TINY["pipeline"](width=32, words=folder / "words")
    pipeline.save_pretrained(folder / "sd")
    weights = TINY["ip_adapter"](folder / "ip.safetensors", pipeline.unet, embedding=32)
    return found | {"ip-adapter": IPAdapter.load(str(folder / "sd"), weights=str(weights))}


@pytest.fixture(scope="module", params=KINDS)
def model(models, request):
    return models[request.param]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def wanted(model):
    """A picture to come near to for each seed, one that the autoencoder can draw."""
    with torch.no_grad():
        return model.decode(noise(len(SEEDS), *model.latent_shape, seed=5))


def distance_to(targets):
    """The energy of pictures: how far each is from the target of its own row."""
    return lambda pictures, rows: (pictures - targets[rows]).square().mean(dim=(1, 2, 3))


def draw(model, rows=slice(None), **options):
    embeddings = noise(len(SEEDS), model.condition_width)
    if isinstance(model, IPAdapter):
        conditioner = EmbeddingCondition(model.condition_width)
        condition, null = conditioner(embeddings), conditioner.null
    else:
        condition = embeddings[:, None].expand(-1, model.tokens, -1)
        null = torch.zeros(model.tokens, model.condition_width)
    return model.sample(condition[rows], null, seeds=SEEDS[rows], steps=STEPS, **{"guidance": 3.0, **options})


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_step_moves_what_is_foreseen_straight_down_by_its_weight(models, prediction):
    model = models[prediction]
    targets, latents, predicted = wanted(model), noise(3, 4, 8, 8, seed=1), noise(3, 4, 8, 8, seed=2)
    options = {"decode": model.decode, "scheduler": model.scheduler, "at_once": 2}
    leader = EnergyGuidance(energy=distance_to(targets), weight=0.3, **options)
    model.scheduler.set_timesteps(4)
    timestep = model.scheduler.timesteps[1]
    led = leader.lead(predicted, timestep, latents)

    def foreseen(output):
        return model.scheduler.step(output, timestep, latents).pred_original_sample

    before = foreseen(predicted).requires_grad_()
    distance_to(targets)(model.decode(before), slice(0, 3)).sum().backward()
    moved = foreseen(led) - before.detach()
    torch.testing.assert_close(moved.square().mean(dim=(1, 2, 3)).sqrt(), torch.full((3,), 0.3), atol=1e-3, rtol=1e-3)
    along = torch.cosine_similarity(moved.flatten(1), -before.grad.flatten(1))
    torch.testing.assert_close(along, torch.ones(3), atol=1e-3, rtol=0)

    alone = leader.lead(predicted[2:], timestep, latents[2:], first=2)
    torch.testing.assert_close(alone, led[2:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("started", [False, True], ids=["from noise", "from a start"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_energy_of_every_picture_falls(model, guidance, started):
    targets = wanted(model)
    energy = distance_to(targets)
    options = {"guidance": guidance}
    if started:
        options |= {"start": torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)), "strength": 0.6}
    plain = draw(model, **options)
    assert torch.equal(draw(model, energy=energy, energy_weight=0.0, **options), plain)

    steered = draw(model, energy=energy, energy_weight=0.5, **options)
    assert 0 <= steered.min() <= steered.max() <= 1
    assert (energy(steered, slice(0, 3)) < 0.8 * energy(plain, slice(0, 3))).all()
    assert torch.equal(draw(model, **options), plain), "nothing of it stays"
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_a_steered_picture_depends_on_its_own_row_only(model, monkeypatch):
    targets = wanted(model)
    together = draw(model, energy=distance_to(targets), energy_weight=0.3)
    rows = slice(1, 2)
    alone = draw(model, rows, energy=distance_to(targets[rows]), energy_weight=0.3)
    torch.testing.assert_close(alone, together[rows], atol=1e-4, rtol=0)
    if not isinstance(model, IPAdapter):
        monkeypatch.setattr(StableDiffusion, "batch", 2)
        batches = draw(model, energy=distance_to(targets), energy_weight=0.3)
        torch.testing.assert_close(batches, together, atol=1e-4, rtol=0)


def test_an_error_inside_the_energy_leaves_the_sampler_as_it_was(models):
    model = models["epsilon"]
    plain = draw(model)

    def broken(pictures, rows):
        raise RuntimeError("no such energy")

    with pytest.raises(RuntimeError, match="no such energy"):
        draw(model, energy=broken, energy_weight=0.3)
    assert torch.equal(draw(model), plain)


def test_networks_in_bfloat16_are_led_by_small_steps_too():
    model = StableDiffusion(TINY["pipeline"](width=32).to(dtype=torch.bfloat16), checkpoint_gradients=True)
    assert model.vae.decoder.gradient_checkpointing
    energy = distance_to(wanted(model))
    plain, steered = draw(model), draw(model, energy=energy, energy_weight=0.02)
    assert steered.dtype == torch.float32
    assert (energy(steered, slice(0, 3)) < energy(plain, slice(0, 3))).all()
