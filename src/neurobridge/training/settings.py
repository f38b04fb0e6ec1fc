"""Every option of a run, with its type, its default and one sentence. The defaults are the embedded demo."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from neurobridge.neuro.modes import Mode


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
        mask_latents: Hide whole chunks behind the Perceiver in temporal mode, not spikes before it (ablation).
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
    mask_latents: bool = False


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
        continuous: Sessions with stimuli give windows between and outside presentations too, none near held-out ones.
        modes: Masking modes to draw from.
        ratios: Share hidden and scored in a mode, lowest and highest; modes not named keep their defaults.
        span_ms: Shortest and longest hidden stretch of time in ms.
        unit_dropout: Mean share of units removed from a training window's session (augmentation).
        jitter_ms: Spikes move by up to so many ms (augmentation).
        cells: Queries a window in training, of a grid decoder.
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
    continuous: bool = False
    modes: list[Mode] = field(default_factory=lambda: ["temporal", "neuron", "intra_region", "inter_region"])
    ratios: dict[str, tuple[float, float]] = field(default_factory=dict)
    span_ms: tuple[int, int] = (25, 40)
    unit_dropout: float = 0.0
    jitter_ms: int = 0
    cells: int = 512
    checkpoint_every: int = 100


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
class ImageSettings:
    """The frozen image encoder whose embedding is the target.

    Args:
        encoder: efficientnet-lite0/1, clip-vit-b32/l14/h14, dinov2-small/base/large/giant, owner/model, or a folder.
        layer: pooled, block0, block1, ...; of CLIP and DINOv2 block0.class too, of CLIP projected; empty: the usual.
        grid: Blocks are pooled to grid x grid positions.
        resolution: Side of the encoder's input in pixels; empty: the network's own (EfficientNet-Lite: 128).
        dimensions: Principal components kept of the centred embedding (statistics of the training images).
        whitening: Power of the whitening: 0 keeps variances, 1 makes them equal.
        batch: Images a batch of the encoder.
        device: Where images are embedded: auto (a GPU if there is one), cpu, cuda.
    """

    encoder: str = "efficientnet-lite0"
    layer: str | None = None
    grid: int = 4
    resolution: int | None = None
    dimensions: int = 1280
    whitening: float = 0.0
    batch: int = 8
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(kw_only=True)
class EncodingSettings:
    """Images to responses, for identification by likelihood.

    Args:
        layers: Layers of the image encoder with the grid of each: block4@8 is block4 averaged to 8 x 8 positions.
    """

    layers: list[str] = field(default_factory=lambda: ["block2@8", "block4@8", "block7@8", "block10@8", "block14@4"])


@dataclass(kw_only=True)
class AlignSettings:
    """Alignment: readout and projector on the frozen encoder first, then the last blocks and the units too.

    Args:
        sessions: Sessions to align; empty: all that show images.
        steps: Steps of stage 1 (encoder frozen).
        joint_steps: Steps of stage 2 (last blocks and unit embeddings unfrozen).
        joint_blocks: Backbone blocks unfrozen in stage 2.
        anti_forgetting: Weight of masked reconstruction and of encoding in stage 2.
        learning_rate: Peak learning rate of the readout and of the projector's linear part.
        projector_learning_rate: Peak learning rate of the projector's network.
        joint_learning_rate: Peak learning rate of the backbone in stage 2.
        joint_unit_learning_rate: Peak learning rate of unit embeddings in stage 2.
        weight_decay: Of readout and projector.
        windows: Windows a batch.
        groups: Sessions a batch.
        level: Which latents are read: 0 those of the chunks, k those behind block k, null the last.
        readout: How latents are read: queries (learnable, by attention), average (over time) or cls ([CLS] token).
        queries: Readout queries.
        area_windows: Window of an area in ms after stimulus onset, outside which its spikes are not looked at.
        hidden: Width of the projector's hidden layer.
        dropout: Dropout in the projector.
        unit_dropout: Share of the units hidden at random in training windows.
        checkpoint_every: Steps between checkpoints.
    """

    sessions: list[str] = field(default_factory=list)
    steps: int = 300
    joint_steps: int = 100
    joint_blocks: int = 4
    anti_forgetting: float = 0.2
    learning_rate: float = 2e-3
    projector_learning_rate: float = 5e-4
    joint_learning_rate: float = 5e-4
    joint_unit_learning_rate: float = 1e-2
    weight_decay: float = 0.05
    windows: int = 128
    groups: int = 2
    level: int | None = 0
    readout: Literal["queries", "average", "cls"] = "queries"
    queries: int = 8
    area_windows: dict[str, tuple[int, int]] = field(default_factory=dict)
    hidden: int = 512
    dropout: float = 0.3
    unit_dropout: float = 0.1
    checkpoint_every: int = 200


@dataclass(kw_only=True)
class GeneratorSettings:
    """The picture generator and its adapter.

    Args:
        kind: small (by this package), stable-diffusion (its adapter is trained) or ip-adapter (nothing is trained).
        model: Stable Diffusion of the last two kinds: a local folder with model_index.json, or an id on the hub.
        ip_adapter: IP-Adapter weights: a local file, or owner/name/folder/file on the hub.
        oracle_images: Training images that an adapter of the last two kinds does not see: drawn from true embeddings.
        oracle_two_way: The stage refuses to go on unless they are told apart more often than this (chance 0.5).
        checkpoint_gradients: Compute activations of UNet and decoder twice for their gradients, in less memory.
        weights: Folder of small generator weights; empty: the package's own, trained on procedural scenes.
        train_steps: Train a generator on the data set's own training images for that many steps instead.
        tiny_autoencoder: Folder with taef2_encoder.pth and taef2_decoder.pth: latent space of a generator trained here.
        adapter_steps: Steps of the adapter against the frozen generator.
        sketch_steps: Cheap steps before them, of the adapter's regression to the generator's latents alone.
        adapter_learning_rate: Peak learning rate of the adapter.
        adapter_noise: Noise added to the standardised embedding in training, so that decoded ones are served too.
        batch: Images a batch.
    """

    kind: Literal["small", "stable-diffusion", "ip-adapter"] = "small"
    model: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    ip_adapter: str = "h94/IP-Adapter/models/ip-adapter_sd15.safetensors"
    oracle_images: int = 64
    oracle_two_way: float = 0.7
    checkpoint_gradients: bool = False
    weights: Path | None = None
    train_steps: int = 0
    tiny_autoencoder: Path | None = None
    adapter_steps: int = 100
    sketch_steps: int = 600
    adapter_learning_rate: float = 3e-3
    adapter_noise: float = 0.3
    batch: int = 32


@dataclass(kw_only=True)
class ReconstructSettings:
    """Pictures of the held-out images.

    Args:
        images: Test images a session at most (also the size of the retrieval gallery).
        samples: Candidates an image, ranked by how well they explain the spikes.
        steps: Sampler steps.
        guidance: Classifier-free guidance.
        posterior_steps: Training steps of the posterior means' net; 0: the closed form for a Gaussian prior.
        feature_layers: Layers of the image encoder that are decoded, with their grids, as in encoding.layers.
        inversion_steps: Steps of giving a picture the decoded features; 0: no such pictures.
    """

    images: int = 100
    samples: int = 4
    steps: int = 25
    guidance: float = 2.0
    posterior_steps: int = 600
    feature_layers: list[str] = field(default_factory=lambda: ["block4@4", "block7@4", "block10@4", "pooled"])
    inversion_steps: int = 30


@dataclass(kw_only=True)
class EvaluateSettings:
    """Scores that ask for networks of your own. They may still be changed while stage evaluate is not done.

    Args:
        captioner: For caption similarity, a GIT: microsoft/git-large-coco, another one (owner/model), or a folder.
        text_encoder: Compares captions, a CLIP: clip-vit-b32/l14/h14, another one (owner/model), or a folder.
    """

    captioner: str | None = None
    text_encoder: str = "clip-vit-l14"


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
        accelerator: Where to train: auto, cpu, gpu.
        devices: Number of devices.
        precision: Numerical precision of training.
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
    accelerator: str = "auto"
    devices: int = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
