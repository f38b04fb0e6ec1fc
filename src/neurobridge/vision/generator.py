"""A small conditional latent diffusion model: condition tokens in, images out.

Shape letters: B batch, I images, H height, W width, C latent channels, h, w latent height and width, G side of the
token grid, T = G x G condition tokens, K condition width.

The denoiser is ``diffusers.UNet2DConditionModel``. The tokens are a coarse map of the picture, row by row. They reach
the UNet three times: through cross-attention, as in latent diffusion (Rombach et al. 2022); as a map beside the noisy
latents; and as a *sketch*, a small convolutional net of that map trained by squared error to be the mean of the latents
given the condition (a regression that the diffusion refines, as in CorrDiff, Mardani et al. 2023). The two spatial ways
make a small net usable after minutes of training on a CPU, and give a new adapter a direct gradient.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from neurobridge.errors import UserError
from neurobridge.vision.autoencoder import build_autoencoder, read_module, save_module
from neurobridge.vision.draws import drawn

FILE = "generator.safetensors"


class Generator(nn.Module):
    """An autoencoder, a conditional UNet on its latents, and a DDIM sampler (Song et al. 2021), v-prediction.

    ``image_size`` is the side in pixels of what it draws; ``grid`` G the side of the map that the G x G condition
    tokens of ``condition_width`` form; ``channels`` the UNet's widths, from the latents' resolution downwards, with
    attention from the second level on; ``layers`` its residual blocks a level; ``heads`` its attention heads;
    ``sketch_width`` and ``sketch_depth`` the regression's. Latents are standardised channel by channel.
    """

    licence = (
        "the small generator: trained by this package, under its licence; what it has seen are its training images"
    )
    sketches = True

    def __init__(
        self,
        *,
        autoencoder: nn.Module,
        image_size: int = 64,
        grid: int = 4,
        condition_width: int = 64,
        channels: tuple[int, ...] = (64, 128),
        layers: int = 1,
        heads: int = 4,
        sketch_width: int = 192,
        sketch_depth: int = 3,
        train_timesteps: int = 1000,
    ) -> None:
        super().__init__()
        diffusers = _diffusers()
        self.autoencoder = autoencoder
        self.side = image_size // autoencoder.factor
        assert self.side % grid == 0, "the latents' side is a multiple of the token grid's"
        self.latent_channels = autoencoder.channels
        self.settings = {
            "image_size": image_size,
            "grid": grid,
            "condition_width": condition_width,
            "channels": list(channels),
            "layers": layers,
            "heads": heads,
            "sketch_width": sketch_width,
            "sketch_depth": sketch_depth,
            "train_timesteps": train_timesteps,
        }
        places = 2
        self.unet = diffusers.UNet2DConditionModel(
            sample_size=self.side,
            in_channels=2 * self.latent_channels + condition_width + places,
            out_channels=self.latent_channels,
            block_out_channels=tuple(channels),
            layers_per_block=layers,
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (len(channels) - 1),
            up_block_types=("CrossAttnUpBlock2D",) * (len(channels) - 1) + ("UpBlock2D",),
            cross_attention_dim=condition_width,
            attention_head_dim=heads,
            norm_num_groups=16,
        )
        zoom = self.side // grid
        self.sketcher = nn.Sequential(
            nn.Conv2d(condition_width, sketch_width, 1),
            *(_Residual(sketch_width) for _ in range(sketch_depth)),
            nn.GroupNorm(16, sketch_width),
            nn.SiLU(),
            nn.Conv2d(sketch_width, self.latent_channels * zoom**2, 3, padding=1),
            nn.PixelShuffle(zoom),
        )
        self.scheduler = diffusers.DDIMScheduler(
            num_train_timesteps=train_timesteps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
            clip_sample=False,
            timestep_spacing="trailing",
            rescale_betas_zero_snr=True,
        )
        line = torch.linspace(-1.0, 1.0, self.side)
        self.register_buffer("places", torch.stack(torch.meshgrid(line, line, indexing="ij")), persistent=False)
        self.register_buffer("latent_mean", torch.zeros(self.latent_channels, 1, 1))
        self.register_buffer("latent_scale", torch.ones(self.latent_channels, 1, 1))
        self.autoencoder.requires_grad_(False)

    @property
    def condition_width(self) -> int:
        """K, read from the UNet."""
        return int(self.unet.config.cross_attention_dim)

    @property
    def tokens(self) -> int:
        """T, the number of condition tokens."""
        return int(self.settings["grid"]) ** 2

    @property
    def image_size(self) -> int:
        """Side of a drawn image in pixels."""
        return int(self.settings["image_size"])

    def freeze(self) -> Generator:
        """No parameter takes gradients from here on; gradients still flow through to the condition."""
        self.requires_grad_(False)
        return self.eval()

    def fit_latents(self, images: torch.Tensor) -> None:
        """Set the standardisation of the latents from ``images`` [I, 3, H, W]."""
        with torch.no_grad():
            latents = torch.cat([self.autoencoder.encode(batch) for batch in self.resize(images).split(64)])
        self.latent_mean.copy_(latents.mean(dim=(0, 2, 3))[:, None, None])
        self.latent_scale.copy_(latents.std(dim=(0, 2, 3))[:, None, None].clamp(min=1e-6))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """``images`` [B, 3, H, W] in [0, 1] -> standardised latents [B, C, h, w]."""
        return (self.autoencoder.encode(self.resize(images)) - self.latent_mean) / self.latent_scale

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Standardised latents [B, C, h, w] -> images [B, 3, H, W] in [0, 1]."""
        return self.autoencoder.decode(latents * self.latent_scale + self.latent_mean)

    def sketch(self, condition: torch.Tensor) -> torch.Tensor:
        """The mean latents [B, C, h, w] that ``condition`` [B, T, K] stands for (the regression alone)."""
        return self.sketcher(self._map(condition))

    def predict(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor, sketch: torch.Tensor
    ) -> torch.Tensor:
        """The UNet's v [B, C, h, w] for noisy latents [B, C, h, w] at ``timesteps`` [B]."""
        places = self.places.expand(len(noisy), -1, -1, -1)
        tokens = F.interpolate(self._map(condition), size=(self.side, self.side), mode="nearest")
        inputs = torch.cat([noisy, sketch, tokens, places], dim=1)
        return self.unet(inputs, timesteps, encoder_hidden_states=condition).sample

    def loss(self, images: torch.Tensor, condition: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Denoising loss plus sketch loss of ``images`` [B, 3, H, W] under ``condition`` [B, T, K]; a scalar."""
        with torch.no_grad():
            latents = self.encode(images)
        losses = self.latent_losses(latents, condition, generator)
        return losses["denoising"] + losses["sketch"]

    def latent_losses(
        self,
        latents: torch.Tensor,
        condition: torch.Tensor,
        generator: torch.Generator,
        *,
        part: tuple[int, int] = (0, 1),
    ) -> dict[str, torch.Tensor]:
        """``denoising``: mean squared error of v at random timesteps; ``sketch``: of the regression. Both scalars.

        ``latents`` [B, C, h, w] from :meth:`encode`. ``generator`` draws the noise and the timesteps. The channels are
        weighted by their standard deviation in pixels, so that coarse structure counts for more than fine grain.
        """
        noise = drawn(torch.randn, latents.shape, generator, part)
        total = self.settings["train_timesteps"]
        timesteps = drawn(partial(torch.randint, 0, total), (len(latents),), generator, part)
        noise, timesteps = noise.to(latents.device), timesteps.to(latents.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps)

        sketch = self.sketch(condition)
        velocity = self.predict(noisy, timesteps, condition, sketch)

        return {"denoising": self._mean_square(velocity - target), "sketch": self._mean_square(sketch - latents)}

    def sketch_loss(self, latents: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """The sketch's part of :meth:`latent_losses` alone: cheap, since the UNet does not run."""
        return self._mean_square(self.sketch(condition) - latents)

    @torch.no_grad()
    def sample(
        self,
        condition: torch.Tensor,
        null_condition: torch.Tensor,
        *,
        seeds: list[int],
        steps: int = 25,
        guidance: float = 2.0,
        temperature: float = 0.6,
        start: torch.Tensor | None = None,
        strength: float = 0.6,
    ) -> torch.Tensor:
        """Draw one image [B, 3, H, W] in [0, 1] for each condition [B, T, K].

        ``null_condition`` [T, K] is what classifier-free guidance (Ho & Salimans 2022) pushes away from, by
        ``guidance`` (1 = off). ``seeds`` holds one integer an image: an image depends on its own seed and condition
        only, not on the batch it is drawn in. ``temperature`` scales the noise that sampling starts from: at 1 the
        draws are as varied as the model, below 1 they are nearer its mean and less grainy. With ``start``
        [B, 3, H, W], sampling starts from these images, noised to ``strength`` of the whole way (1 = forgets them).
        """
        assert len(seeds) == len(condition), "one seed an image"
        shape = (self.latent_channels, self.side, self.side)
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds])
        noise = temperature * noise.to(condition.device)

        self.scheduler.set_timesteps(steps, device=condition.device)
        timesteps = self.scheduler.timesteps
        latents = noise
        if start is not None:
            timesteps = timesteps[min(steps - 1, round((1.0 - strength) * steps)) :]
            latents = self.scheduler.add_noise(self.encode(start), noise, timesteps[:1].expand(len(noise)))

        guided = guidance != 1.0
        null = null_condition[None].expand(len(condition), -1, -1)
        both = torch.cat([condition, null]) if guided else condition
        sketch = self.sketch(both)
        for timestep in timesteps:
            doubled = torch.cat([latents, latents]) if guided else latents
            velocity = self.predict(doubled, timestep.expand(len(doubled)), both, sketch)
            if guided:
                conditional, unconditional = velocity.chunk(2)
                velocity = unconditional + guidance * (conditional - unconditional)
            latents = self.scheduler.step(velocity, timestep, latents).prev_sample
        return self.decode(latents)

    def save(self, folder: Path | str, *, half: bool = False) -> None:
        """Write ``generator.safetensors`` (``half``: as float16) and ``generator.json``, the autoencoder included."""
        config = {"generator": self.settings, "autoencoder": self.autoencoder.config}
        save_module(Path(folder) / FILE, self, config, half=half)

    @staticmethod
    def load(folder: Path | str) -> Generator:
        """Read what :meth:`save` wrote (``folder``, or the path of the .safetensors file itself)."""
        path = Path(folder)
        tensors, config = read_module(path if path.suffix == ".safetensors" else path / FILE)
        try:
            generator = Generator(autoencoder=build_autoencoder(config["autoencoder"]), **config["generator"])
            generator.load_state_dict({name: value.float() for name, value in tensors.items()})
        except (KeyError, TypeError, RuntimeError) as error:
            raise UserError(
                f"{path} holds no generator of this version: train it again, or give another folder"
            ) from error
        return generator.eval()

    def resize(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] at this generator's own side."""
        size = (self.image_size, self.image_size)
        if images.shape[-2:] == size:
            return images
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True).clamp(0.0, 1.0)

    def _map(self, condition: torch.Tensor) -> torch.Tensor:
        """Tokens [B, T, K] as a map [B, K, G, G]."""
        grid = int(self.settings["grid"])
        return condition.transpose(1, 2).unflatten(2, (grid, grid))

    def _mean_square(self, error: torch.Tensor) -> torch.Tensor:
        """Mean square of ``error`` [B, C, h, w], each channel weighted by its scale in pixels; a scalar."""
        return (self.latent_scale / self.latent_scale.mean() * error.square()).mean()


class _Residual(nn.Module):
    """Normalise, activate, convolve, add."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.GroupNorm(16, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, width, G, G] -> the same shape."""
        return x + self.layers(x)


def _diffusers():
    """The optional library, or a sentence that says how to get it."""
    try:
        import diffusers
    except ImportError as error:
        raise UserError("the image generator needs diffusers: pip install 'neurobridge[image]'") from error
    return diffusers
