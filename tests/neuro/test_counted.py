"""Latents of counts: as the encoder reads them where timing does not matter, close to it where it does."""

import pytest
import torch

from neurobridge.neuro.batch import collate_windows
from neurobridge.neuro.counted import latents_of_counts
from neurobridge.neuro.model import NeuroBridge


def windows(ticks_of_chunk: list[int], count: int = 6):
    """``count`` windows of two chunks of 10 ms, three units; every event at one of the ticks of its chunk."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 4, (count, 3, 2), generator=generator)
    parts = []
    for window in counts:
        unit, chunk = (
            x.repeat_interleave(window.flatten())
            for x in torch.meshgrid(*map(torch.arange, (3, 2)), indexing="ij")
            for x in [x.flatten()]
        )
        tick = chunk * 10 + torch.tensor(ticks_of_chunk)[torch.arange(len(chunk)) % len(ticks_of_chunk)]
        parts.append((unit, tick, None))
    batch = collate_windows(
        unit_rows=[[0, 1, 2]],
        regions=[[0, 0, 0]],
        windows=[parts],
        stimuli=[list(range(count))],
        window_ms=20,
        bin_ms=10,
    )
    return batch, counts.float()


def model_of(**options) -> NeuroBridge:
    torch.manual_seed(0)
    model = NeuroBridge(width=16, depth=1, heads=2, latents=2, unit_width=8, chunk_ms=10, **options).eval()
    model.units.extend([f"lab/m/s/{n}" for n in range(3)], log_rates=torch.tensor([0.2, -0.3, 0.0]))
    return model


def test_counts_are_read_as_their_events_are():
    model = model_of()
    model.encoder.chunks.scale.data.zero_()  # attention that looks at no millisecond: then the two are one
    batch, counts = windows([3])
    first, _ = windows([3], count=1)
    with torch.no_grad():
        torch.testing.assert_close(latents_of_counts(model, first, counts), model.encode(batch, level=0))


@pytest.mark.parametrize("options", [{"cls": True}, {"prompts": True}])
def test_a_token_in_front_is_left_out(options):
    model = model_of(**options)
    model.encoder.chunks.scale.data.zero_()
    batch, counts = windows([3])
    first, _ = windows([3], count=1)
    with torch.no_grad():
        expected = model.encode(batch, level=0)[:, 1:]
        torch.testing.assert_close(latents_of_counts(model, first, counts), expected)


def test_timing_within_a_chunk_is_averaged_over():
    model = model_of()
    batch, counts = windows([1, 4, 8])
    first, _ = windows([5], count=1)
    with torch.no_grad():
        read, true = latents_of_counts(model, first, counts), model.encode(batch, level=0)
    assert float((read - true).norm() / (true - true.mean(0)).norm()) < 0.35
    half = latents_of_counts(model, first, counts.mean(0, keepdim=True))
    assert torch.isfinite(half).all()
