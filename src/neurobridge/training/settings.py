"""Every option of a run, with its type, its default and one sentence. The defaults are the embedded demo."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from neurobridge.neuro.modes import Mode
from neurobridge.training.image_settings import (
    AlignSettings,
    EncodingSettings,
    EvaluateSettings,
    GeneratorSettings,
    ImageSettings,
    ReconstructSettings,
)


@dataclass(kw_only=True)
class WindowSettings:
    """How recordings are cut.

    Args:
        window_ms: Length of a window in ms.
        offset_ms: Start of a window after stimulus onset in ms.
        bin_ms: Bin of the rate grid in ms; divides window_ms.
    """

    window_ms: int = 300
    offset_ms: int = 0
    bin_ms: int = 10


@dataclass(kw_only=True)
class ModelSettings:
    """Size of the spike encoder.

    Args:
        preset: tiny, small, base, plan or large (1 to 100 million weights) replace the sizes below; none keeps them.
        width: Width of the backbone.
        depth: Blocks of the backbone.
        heads: Attention heads.
        latents: Latents a chunk.
        unit_width: Width of a unit embedding.
        chunk_ms: Length of a chunk in ms.
        decoder: Rate decoder: factorised (time decoded once) or grid (a query a cell, sampled in training).
        decoder_depth: Cross-attention layers of the rate decoder.
        dropout: Dropout in the backbone.
        cls: Put a [CLS] token in front of the latents, for that readout.
        prompts: Tell the model its masking mode by a learnt token (ablation).
        memory_features: Features of an image's map that every second block reads.
        mask_latents: Hide whole chunks behind the Perceiver in temporal mode, not spikes before it (ablation).
        causal_ms: A chunk sees so many ms up to its end and nothing later, for streams; 0: the whole window.
    """

    preset: Literal["none", "tiny", "small", "base", "plan", "large"] = "none"
    width: int = 128
    depth: int = 4
    heads: int = 4
    latents: int = 4
    unit_width: int = 64
    chunk_ms: int = 50
    decoder: Literal["factorised", "grid"] = "factorised"
    decoder_depth: int = 1
    dropout: float = 0.0
    cls: bool = False
    prompts: bool = False
    memory_features: int = 64
    mask_latents: bool = False
    causal_ms: int = 0


@dataclass(kw_only=True)
class PretrainSettings:
    """Pretraining: masked prediction, and where sessions show images both ways between spikes and images.

    Args:
        steps: Optimiser steps.
        learning_rate: Peak learning rate (linear warm-up over a tenth, then cosine).
        unit_learning_rate: Peak learning rate of unit embeddings and biases; empty: 20 times that of the body.
        weight_decay: Of the body.
        unit_weight_decay: Of unit embeddings, in steps that draw them.
        images: Sessions that show images learn encoding (image seen, spikes hidden) and decoding (the other way) too.
        masked_weight: Weight of the mean over masking modes.
        encode_weight: Weight of the mean loss of a cell when the image alone is seen.
        decode_weight: Weight of InfoNCE between what is read from the latents and the image embedding.
        windows: Windows a batch.
        groups: Sessions a batch.
        share: Share of each session's training windows that are used, drawn by seed (for curves over data).
        continuous: Sessions with stimuli give windows between and outside presentations too, none near held-out ones.
        modes: Masking modes to draw from.
        ratios: Share hidden and scored in a mode, lowest and highest; modes not named keep their defaults.
        span_ms: Shortest and longest hidden stretch of time in ms.
        unit_dropout: Mean share of units removed from a training window's session (augmentation).
        jitter_ms: Spikes move by up to so many ms (augmentation).
        cells: Queries a window in training, of a grid decoder.
        average: Decay of a moving average of the weights, which is validated and kept (0.999, say; 0: none).
        checkpoint_every: Steps between checkpoints.
    """

    steps: int = 400
    learning_rate: float = 1e-3
    unit_learning_rate: float | None = None
    weight_decay: float = 0.01
    unit_weight_decay: float = 0.1
    images: bool = True
    masked_weight: float = 1.0
    encode_weight: float = 1.0
    decode_weight: float = 0.1
    windows: int = 128
    groups: int = 4
    share: float = 1.0
    continuous: bool = False
    modes: list[Mode] = field(default_factory=lambda: ["temporal", "neuron", "intra_region", "inter_region"])
    ratios: dict[str, tuple[float, float]] = field(default_factory=dict)
    span_ms: tuple[int, int] = (25, 40)
    unit_dropout: float = 0.0
    jitter_ms: int = 0
    cells: int = 512
    average: float = 0.0
    checkpoint_every: int = 100


@dataclass(kw_only=True)
class TrainSettings:
    """How all trainings compute: over devices, in what memory. See docs/training.md for what each costs.

    Args:
        strategy: Of several devices: ddp (each holds all weights) or fsdp (each holds its part of them, FSDP2).
        accumulate: Parts in which a device computes its share of a batch, one after another, for less memory.
        clip: Largest norm of the gradient of all weights; 0: no limit.
        workers: Processes of each device that read batches ahead; 0: none.
        activation_checkpointing: Compute activations of the transformer blocks twice instead of keeping them.
        compile: Compute the transformer blocks through torch.compile, which needs a compiler.
    """

    strategy: Literal["ddp", "fsdp"] = "ddp"
    accumulate: int = 1
    clip: float = 1.0
    workers: int = 0
    activation_checkpointing: bool = False
    compile: bool = False


@dataclass(kw_only=True)
class MixtureSettings:
    """Several data folders in one pretraining. Without any of these options a step draws from one folder, as always.

    Args:
        data: More data folders to pretrain on; the last part of a folder's path is the name of its data set.
        windows: How the recordings of a data set are cut (name -> window), where that differs from the run's own.
        weights: Weight of a data set over the steps (name -> [[step, weight], ...], linear in between); others weigh 1.
        power: A data set of n windows is drawn as often as weight * n ** power says, its sessions likewise.
        max_events: Most events a step, so that dense recordings give fewer windows; empty: no limit.
        random_starts: Training windows of sessions without stimuli begin on any millisecond, not on the grid.
    """

    data: list[Path] = field(default_factory=list)
    windows: dict[str, WindowSettings] = field(default_factory=dict)
    weights: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    power: float = 0.5
    max_events: int | None = None
    random_starts: bool = False


@dataclass(kw_only=True)
class AdaptSettings:
    """Unit embeddings of new sessions; the body is frozen.

    Args:
        method: gradient learns the embeddings; identity computes them without (IDEncoder, from calibration windows).
        start: Where vectors start: carried (the same electrode and unit of the subject, checked without labels; the
            prior for the rest) or prior (what pretraining learnt of units, by area).
        prior_decay: Pull of a vector towards its start, a share a step at the peak learning rate of one.
        labels: Images of a new session whose responses count as labelled; empty: all of its train split, 0: none.
        steps: Optimiser steps: of the embeddings, or of the IDEncoder on the pretraining sessions (0: none).
        learning_rate: Peak learning rate of the embeddings.
        windows: Windows a batch.
        unfreeze_every: Gradual unfreezing: one more backbone block from the top after so many steps (0: never).
        calibration: Windows from which an IDEncoder computes embeddings.
        checkpoint_every: Steps between checkpoints.
    """

    method: Literal["gradient", "identity"] = "gradient"
    start: Literal["carried", "prior"] = "carried"
    prior_decay: float = 0.3
    labels: int | None = None
    steps: int = 100
    learning_rate: float = 1e-2
    windows: int = 128
    unfreeze_every: int = 0
    calibration: int = 512
    checkpoint_every: int = 50


@dataclass(kw_only=True)
class RunSettings:
    """The main job: pretrain, adapt, align, adapter, reconstruct, evaluate, report.

    Args:
        data: Data folder (sessions/*.h5, images.h5).
        out: Run folder: config.yaml, metrics.csv, checkpoints, results and report.html.
        sessions: Sessions to pretrain on; empty: all but the held-out ones.
        held_out: Sessions kept from pretraining, whose unit embeddings are then adapted.
        picture_sessions: Sessions to draw pictures for; empty: the held-out ones, or all with images.
        advise: Choose window, bin, chunk, windows a batch and steps by rates and durations, where they are not given.
        window: How recordings are cut.
        model: Size of the spike encoder.
        pretrain: Masked pretraining.
        mixture: Several data folders in one pretraining.
        adapt: Unit embeddings of held-out sessions.
        image: Image encoder.
        encoding: Images to responses.
        align: Alignment to image embeddings.
        generator: Picture generator and adapter.
        reconstruct: Pictures of held-out images.
        evaluate: Scores that ask for networks of your own.
        seed: Seed of everything that is drawn.
        resume: auto goes on where an interrupted run stopped; never refuses a folder that is in use.
        wandb: Log to Weights & Biases too: off, offline or online.
        train: Devices and memory of all trainings.
        accelerator: Where all is computed: auto, cpu, gpu.
        devices: Number of devices, of each node.
        nodes: Number of nodes that a scheduler has started this command on.
        precision: Numerical precision of training; 16-mixed (float16) on a GPU alone.
    """

    data: Path = Path("data/simulated")
    out: Path = Path("runs/demo")
    sessions: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    picture_sessions: list[str] = field(default_factory=list)
    advise: bool = False
    window: WindowSettings = field(default_factory=WindowSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    pretrain: PretrainSettings = field(default_factory=PretrainSettings)
    mixture: MixtureSettings = field(default_factory=MixtureSettings)
    adapt: AdaptSettings = field(default_factory=AdaptSettings)
    image: ImageSettings = field(default_factory=ImageSettings)
    encoding: EncodingSettings = field(default_factory=EncodingSettings)
    align: AlignSettings = field(default_factory=AlignSettings)
    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    reconstruct: ReconstructSettings = field(default_factory=ReconstructSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    seed: int = 0
    resume: Literal["auto", "never"] = "auto"
    wandb: Literal["off", "offline", "online"] = "off"
    train: TrainSettings = field(default_factory=TrainSettings)
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
