"""Units of sessions that a step does not draw stay where they are; all else is AdamW; a resumed run is the same run."""

import numpy as np
import pytest
import torch

from neurobridge.data.datamodule import Batcher, Share, StepBatches
from neurobridge.data.recording import Recording
from neurobridge.data.store import Session
from neurobridge.neuro.masking import Masker
from neurobridge.neuro.model import NeuroBridge
from neurobridge.training.optimiser import RowAdamW
from neurobridge.training.tasks import MaskedTask
from neurobridge.training.trainer import fit

STEPS, DRAWN, UNITS, SESSIONS = 12, 4, 3, 500


def make_sessions() -> list[Session]:
    rng = np.random.default_rng(0)
    sessions = []
    for number in range(SESSIONS):
        recording = Recording(
            dataset=f"lab{number % 2}",
            subject="monkey",
            session=f"s{number:03d}",
            signal_kind="sorted",
            spike_times=rng.integers(0, 2000, 120) / 1000,
            spike_units=rng.integers(UNITS, size=120),
            spike_values=None,
            unit_ids=np.array([f"u{n}" for n in range(UNITS)]),
            regions=np.array(["V1", "V1", "V4"]),
            duration=(0.0, 2.0),
            stimuli=None,
        )
        sessions.append(Session(recording, window_ms=100))
    return sessions


class Watched(MaskedTask):
    """Notes for every step which sessions were drawn, and the table of units before and after."""

    def on_train_batch_start(self, batch, batch_idx: int) -> None:
        self.before = self.model.units.embedding.detach().clone(), self.model.units.bias.detach().clone()

    def on_train_batch_end(self, outputs, batch, batch_idx: int) -> None:
        after = self.model.units.embedding.detach(), self.model.units.bias.detach()
        moved = [(a != b).view(len(a), -1).any(1) for a, b in zip(self.before, after, strict=True)]
        self.seen.append((batch.session.tolist(), *moved))
        if self.global_step == self.stop:
            raise KeyboardInterrupt


def make_task(sessions: list[Session], *, stop: int = 0) -> Watched:
    torch.manual_seed(0)
    model = NeuroBridge(width=16, depth=1, heads=2, latents=2, unit_width=8)
    for session in sessions:
        rates = torch.from_numpy(session.start_bias(10))
        model.units.extend(session.recording.unit_keys, log_rates=rates)
    rows = {s.name: model.units.rows_of(s.recording.unit_keys) for s in sessions}
    batcher = Batcher(sessions, rows_of_units=rows, bin_ms=10)

    def loader(first: int, last: int, share: Share) -> StepBatches:
        options = {"split": "train", "windows": 8, "groups": DRAWN, "seed": 0}
        return StepBatches(batcher, first=first, last=last, share=share, **options)

    options = {"steps": STEPS, "checkpoint_every": 3, "learning_rate": 1e-3, "weight_decay": 0.01, "seed": 0}
    task = Watched(model, masker=Masker(), unit_learning_rate=2e-2, loader=loader, **options)
    task.seen, task.stop = [], stop
    return task


@pytest.fixture(scope="module")
def sessions() -> list[Session]:
    return make_sessions()


def test_rows_that_were_not_drawn_do_not_move_and_a_resumed_run_is_the_same(sessions, tmp_path):
    whole = make_task(sessions)
    start = whole.model.units.embedding.detach().clone()
    fit(whole, stage="units", out=tmp_path / "whole", accelerator="cpu")
    assert len(whole.seen) == STEPS
    for step, (drawn, embedding, bias) in enumerate(whole.seen):
        rows = torch.zeros(SESSIONS * UNITS, dtype=torch.bool)
        for session in drawn:
            rows[session * UNITS : (session + 1) * UNITS] = True
        assert len(set(drawn)) == DRAWN
        assert not (embedding & ~rows).any(), f"step {step}: drawn rows alone move"
        assert embedding.sum() >= 0.7 * rows.sum(), "all but units that were hidden and unscored in all their windows"
        assert not (bias & ~rows).any()
        assert bias.any()
    moved = (whole.model.units.embedding - start).abs().mean(1)
    assert moved[moved > 0].mean() > 2e-3, "at the units' own rate"

    broken = make_task(sessions, stop=8)
    with pytest.raises(KeyboardInterrupt):
        fit(broken, stage="units", out=tmp_path / "broken", accelerator="cpu")
    resumed = make_task(sessions)
    fit(resumed, stage="units", out=tmp_path / "broken", accelerator="cpu")
    assert len(resumed.seen) == STEPS - 6
    for (name, one), other in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_a_row_that_is_always_drawn_is_adamw_and_a_rare_row_counts_its_own_steps():
    torch.manual_seed(0)
    table = torch.nn.Parameter(torch.randn(4, 3))
    alone = [torch.nn.Parameter(table[[row]].detach().clone()) for row in range(4)]
    body, twin = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    options = {"lr": 0.05, "betas": (0.9, 0.98)}
    mine = RowAdamW(
        [{"params": [table], "weight_decay": 0.0, "rows": True}, {"params": [body], "weight_decay": 0.1}], **options
    )
    rivals = [torch.optim.AdamW([row], weight_decay=0.0, **options) for row in alone]
    dense = torch.optim.AdamW([twin], weight_decay=0.1, **options)
    for step in range(30):
        body.grad = torch.randn(5)
        twin.grad = body.grad.clone()
        drawn = [row for row in range(4) if step % (row + 1) == 0]
        table.grad = torch.zeros(4, 3)
        table.grad[drawn] = torch.randn(len(drawn), 3)
        for row in drawn:
            alone[row].grad = table.grad[[row]].clone()
            rivals[row].step()
        mine.step()
        dense.step()
    torch.testing.assert_close(table, torch.cat(alone), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(body, twin)
    assert mine.state[table]["step"].tolist() == [30, 15, 10, 8]
