"""The spike side: from spike tokens to latents to firing rates. Knows nothing of images.

Shape letters, the same in every file of this folder
----------------------------------------------------
B  windows in a batch          G  sessions in a batch; B = G * (windows a session)
N  units of a session, padded  S  events (spikes, or values) in the batch
T  bins of the rate grid       P  ticks of 1 ms in a chunk
C  chunks of a window          L  latents a chunk
H  attention heads             D  width of the backbone
E  width of a unit embedding   M  tokens of the backbone, M = C * L

One polarity everywhere: a mask that is True means hidden from the encoder and scored by the loss. What a plan hides and
does not score (other regions, where a unit is told from its own) is told apart by ``MaskPlan.unscored_unit``.

>>> import torch
>>> from neurobridge.neuro.model import NeuroBridge
>>> from neurobridge.neuro.batch import collate_windows
>>> model = NeuroBridge(width=32, depth=1, heads=2, latents=2, unit_width=16)
>>> model.units.extend(["lab/monkey/day1/u0", "lab/monkey/day1/u1"], log_rates=torch.tensor([-2.0, -3.0]))
>>> batch = collate_windows(unit_rows=[[0, 1]], regions=[[0, 0]], window_ms=100, bin_ms=10,
...                         windows=[[([0, 1, 1], [3, 40, 77], None)]])
>>> model(batch).shape  # log expected counts [B, N, T]
torch.Size([1, 2, 10])
"""
