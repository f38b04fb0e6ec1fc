"""The one place where a Trainer is made: logging, checkpoints, resume. Devices and precision are options of it."""

from __future__ import annotations

import csv
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import lightning
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only

from neurobridge.errors import UserError, atomic_path, helping
from neurobridge.terminal import console
from neurobridge.training.average import Average
from neurobridge.training.blocks import blocks, rewrite
from neurobridge.training.checkpoints import Checkpoints, SealedIO, beyond_chance
from neurobridge.training.ranks import normalised
from neurobridge.training.sharding import Sharded, whole
from neurobridge.training.task import NotFinite, Task

COLUMNS = ("stage", "step", "name", "value")
EXPECTED = (
    "num_workers",
    "LeafSpec",
    "val_dataloader",
    "IterableDataset",
    r"isinstance\(treespec",
    "broadcast_buffers",
    "logging interval",
    "recommended to use",
    "exists and is not empty",
    "in eval mode at the start of training",
)  # warnings of the Trainer that say nothing to a user


def fit(
    task: Task,
    *,
    stage: str,
    out: Path,
    accelerator: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    precision: str = "32-true",
    wandb: Literal["off", "offline", "online"] = "off",
    strategy: Literal["ddp", "fsdp"] = "ddp",
    accumulate: int = 1,
    clip: float = 1.0,
    workers: int = 0,
    activation_checkpointing: bool = False,
    compile: bool = False,
    average: float = 0.0,
    folder: Path | None = None,
) -> int:
    """Train ``task`` to its last step, from the newest sound checkpoint in ``folder``, if there is one.

    folder: out/checkpoints/stage if not given. strategy and what follows: see :class:`TrainSettings`. average: decay of
    a moving average of the weights, which ``task`` has at the end (0: none).

    Returns the step whose weights it has then: the last, or that of the lowest valid loss where the task has one.

    Raises UserError where a loss or a gradient is no finite number, and where a worker dies: checkpoints are kept,
    nothing is made of it. Ctrl-C is answered by KeyboardInterrupt; SIGTERM by a checkpoint, then SystemExit with code
    143 (0 in processes that help).
    """
    warnings.filterwarnings("ignore", f".*({'|'.join(EXPECTED)}).*")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    folder = folder or out / "checkpoints" / stage
    checkpoints = Checkpoints(folder, origin=task.origin(stage), steps=task.steps)
    path, last = checkpoints.newest() or (None, {"epoch": -1, "global_step": 0})
    done = last["global_step"]
    checkpoints.best(done)
    loggers: list[Logger] = [MetricsCSV(out / "metrics.csv", stage=stage, keep_below=done)]
    if done >= task.steps:
        task.load_state_dict(last["state_dict"] | (last.get("average", {}) if average else {}))
        return with_best(task, checkpoints, last.get("valid_parts", []))
    if done and not helping():
        console.print(f"{stage}: goes on from step {done} of {task.steps}")
    loggers.append(TensorBoardLogger(out / "tensorboard", name=stage, version=""))
    if wandb != "off":
        from lightning.pytorch.loggers import WandbLogger

        loggers.append(
            WandbLogger(name=f"{out.name}/{stage}", save_dir=out, offline=wandb == "offline", project="neurobridge")
        )
    stops, processes = Stops(), devices * nodes
    strategies = {"ddp": DDPStrategy(find_unused_parameters=True, broadcast_buffers=False), "fsdp": Sharded(processes)}
    running = task.twin() if processes != 1 or activation_checkpointing or compile else task
    running.parts, running.workers = accumulate, workers
    for norm in running.norms() if processes != 1 else ():
        norm.forward = partial(normalised, norm)
    rewrite(blocks(running), twice=activation_checkpointing, compiled=compile)
    mean = Average(average) if average else None
    if mean is not None:
        running.averaged = partial(mean.instead, running)
    bar = [] if console.quiet else [Bar(refresh_rate=5)]
    trainer = lightning.Trainer(
        max_epochs=last["epoch"] + 1 + task.stretches(done),
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        precision=precision,  # pyright: ignore
        strategy=strategies[strategy] if processes != 1 else "auto",
        plugins=[SealedIO()],
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip or None,
        logger=loggers,
        callbacks=[checkpoints, *bar, stops, *([] if mean is None else [mean])],
        enable_progress_bar=not console.quiet,
        reload_dataloaders_every_n_epochs=1,
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        inference_mode=False,
    )
    try:
        with stops:
            trainer.fit(running, ckpt_path=path and str(path), weights_only=path and True)
    except NotFinite as error:
        raise UserError(
            f"{stage} stopped at step {error.step}, where {error.what} is no finite number: look for unsound values "
            f"('neurobridge data validate'), or remove {folder} and run again with a lower learning rate; checkpoints "
            "up to there are kept"
        ) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"{stage}: a process that reads batches has died, often for want of memory: run the same command again to "
            "go on from the last checkpoint, with fewer train.workers"
        ) from error
    if stops.terminated:
        if not helping():
            print("neurobridge: terminated; run the same command again to go on from here", file=sys.stderr)
        sys.exit(0 if helping() else 143)
    if mean is not None:
        mean.settle(running)
    if running is not task:
        task.load_state_dict({name: whole(value) for name, value in running.state_dict().items()})
    return with_best(task, checkpoints, running.valid_parts)


def with_best(task: Task, checkpoints: Checkpoints, last: Sequence[float]) -> int:
    """Give ``task`` the weights of its lowest valid loss, if some were kept and are better than the ``last`` beyond
    chance; the step they are of.
    """
    best = checkpoints.best(task.steps)
    if best is None or not beyond_chance(best.get("parts", []), last):
        return task.steps
    task.load_state_dict(best["state_dict"])
    return best["step"]


class Bar(RichProgressBar):
    """Without the end of the loggers' names, which the Trainer shows as a version."""

    def get_metrics(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> dict:  # pyright: ignore
        return {name: value for name, value in super().get_metrics(trainer, task).items() if name != "v_num"}


class Stops(Callback):
    """Ctrl-C stops training before its next step, as a KeyboardInterrupt; a second one stops it at once.

    In the middle of a step it may catch a logger while it holds a queue, which the Trainer then waits for without end.
    SIGTERM ends the stretch before the next step, so that it is saved, and with it the training: ``terminated``.
    """

    asked = terminated = False

    def __enter__(self) -> None:
        self.on_main = threading.current_thread() is threading.main_thread()  # no other thread may set a handler
        self.before = signal.getsignal(signal.SIGINT) if self.on_main else None
        if self.before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._hear)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)  # the Trainer may leave it ignored
        if (error is None and self.asked) or follows_ctrl_c(error):
            raise KeyboardInterrupt from error

    def on_train_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        if self.on_main:
            signal.signal(signal.SIGTERM, self._hear_end)  # in place of the Trainer's, which exits with code 0

    def on_train_batch_start(self, trainer: lightning.Trainer, task: Task, batch: object, batch_idx: int) -> None:
        if self.asked:
            raise KeyboardInterrupt
        if batch_idx % task.parts:
            return  # a step that has begun is finished
        self.terminated = trainer.strategy.reduce_boolean_decision(self.terminated, all=False)
        if self.terminated:
            task.stopping = trainer.should_stop = True

    def _hear(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def _hear_end(self, number: int, frame: object) -> None:
        self.terminated = True


def follows_ctrl_c(error: BaseException | None) -> bool:
    """Whether ``error`` is a KeyboardInterrupt, or was raised while one was handled: the Trainer answers by SystemExit,
    or by whatever its clearing up raises.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


class MetricsCSV(Logger):
    """One long table for the whole run: stage, step, name, value. On resume, rows from ``keep_below`` are dropped."""

    def __init__(self, path: Path, *, stage: str, keep_below: int) -> None:
        super().__init__()
        self.path, self.stage = path, stage
        rows = [r for r in read_metrics(path) if r["stage"] != stage or int(r["step"]) < keep_below]
        if helping():
            return
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return self.stage

    @rank_zero_only
    def log_hyperparams(self, *args, **kwargs) -> None:
        """Options are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            writer.writerows((self.stage, step, k, f"{v:.6g}") for k, v in metrics.items() if k != "epoch")


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Rows of a metrics.csv; none where there is no file. Raises UserError for a foreign or a spoilt file."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is spoilt: remove it (the run goes on without the losses so far)") from error
    if rows and set(COLUMNS) - set(rows[0]):
        raise UserError(f"{path} is not a metrics table of ours: choose another --out")
    return [row for row in rows if row["value"] is not None and row["step"].isdecimal()]
