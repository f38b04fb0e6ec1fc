"""Options of what has to do with images: encoder, alignment, generator, pictures and their scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


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
        taught: Weight of lessons: what the windowed encoding, fitted to each session, expects of all training images.
        dreamt: Share of the windows that are decoded in training whose response is drawn about what it expects.
    """

    layers: list[str] = field(default_factory=lambda: ["block2@8", "block4@8", "block7@8", "block10@8", "block14@4"])
    taught: float = 0.0
    dreamt: float = 0.0


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
