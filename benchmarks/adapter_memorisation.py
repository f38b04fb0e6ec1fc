"""Does an adapter learn to steer a frozen Stable Diffusion? 32 images, recognised from their own embeddings.

No weights of Stable Diffusion are at hand offline, so a tiny one is trained first: the real classes (``AutoencoderKL``,
``UNet2DConditionModel`` with cross-attention of width 768, the noise schedule of Stable Diffusion) at 32 pixels, on
1,024 procedural scenes with "captions" that the adapter never sees (8 tokens, a fixed random projection of the picture
at 4 x 4 pixels). It is saved, read back through ``StableDiffusionPipeline.from_pretrained`` and frozen. An adapter
(4-layer refiner, width 768) is then trained by the denoising loss alone on 32 other scenes, from their
EfficientNet-Lite0 embeddings, and the pipeline draws each of the 32 from its embedding (DDIM, 50 steps, guidance 2).

The bar: two-way identification in pixels >= 0.9. Beside it EfficientNet-Lite1 block 10, which the tiny autoencoder's
blur limits (the ceiling is its own copy of the picture); the adapter before training and the null condition, which are
the floors. All of it for epsilon and for v-prediction.

    python benchmarks/adapter_memorisation.py [--prediction epsilon]    # about ten minutes on one thread for each
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
import torch.nn.functional as F
from _common import last_line
from diffusers import DDIMScheduler, StableDiffusionPipeline

from neurobridge.bridge.adapter import Adapter
from neurobridge.data.simulate import render_scenes
from neurobridge.evaluation.controls import bootstrap_interval
from neurobridge.evaluation.images import two_way_identification
from neurobridge.training.generator_training import encode_images, train_condition
from neurobridge.training.trainer import read_metrics
from neurobridge.vision.encoders import ImageEncoder, embed_images, to_tensor
from neurobridge.vision.stable_diffusion import StableDiffusion

TINY = runpy.run_path(str(Path(__file__).resolve().parents[1] / "tests" / "tiny_diffusion.py"))
IMAGES, TOKENS, WIDTH, SIDE, BAR = 32, 8, 768, 32, 0.9


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--prediction", choices=("epsilon", "v_prediction"), nargs="*")
    arguments.add_argument("--vae-steps", type=int, default=400)
    arguments.add_argument("--unet-steps", type=int, default=1500)
    arguments.add_argument("--adapter-steps", type=int, default=500)
    options = arguments.parse_args()
    scenes = render_scenes(1024 + IMAGES, seed=7_000_000)
    pixels = F.interpolate(to_tensor(scenes.pixels), SIDE, mode="bilinear", antialias=True)
    shown, others = pixels[:IMAGES], pixels[IMAGES:]
    encoder = ImageEncoder("efficientnet-lite0", layer="block7")
    embeddings = torch.from_numpy(embed_images(encoder, scenes.ids[:IMAGES], scenes.pixels[:IMAGES], None))
    values = {}
    for prediction in options.prediction or ("epsilon", "v_prediction"):
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            train_tiny(others, folder, prediction=prediction, vae_steps=options.vae_steps, steps=options.unet_steps)
            generator = StableDiffusion.load(folder)
        print(f"{prediction}: the tiny Stable Diffusion took {time.monotonic() - start:.0f} s", flush=True)
        values[prediction] = memorise(generator, shown, embeddings, steps=options.adapter_steps)
        print(f"{prediction}: {time.monotonic() - start:.0f} s in all", flush=True)
    lowest = min(value["trained, pixels"][0] for value in values.values())
    return last_line("adapter_memorisation", values, BAR, lowest >= BAR)


def train_tiny(images: torch.Tensor, folder: str, *, prediction: str, vae_steps: int, steps: int) -> None:
    """An autoencoder, then a captioned UNet on its latents; the pipeline is written into ``folder``."""
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(0)
    vae, unet = TINY["autoencoder"]((16, 32, 32)), TINY["unet"](WIDTH, SIDE // 4, (32, 48))
    for step, rate in rates(vae, vae_steps, 2e-3):
        some = images[torch.randint(0, len(images), (16,), generator=rng)] * 2 - 1
        loss = F.l1_loss(vae.decode(vae.encode(some).latent_dist.mode()).sample, some)
        rate(loss)
        report(step, vae_steps, "autoencoder", loss)
    with torch.no_grad():
        latents = torch.cat([vae.encode(batch * 2 - 1).latent_dist.mode() for batch in images.split(64)])
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    latents = latents / latents.std()

    scheduler = TINY["scheduler"](prediction)
    noising = DDIMScheduler.from_config(scheduler.config)
    captions = F.adaptive_avg_pool2d(images, 4).flatten(1) * 2 - 1
    captions = captions @ (torch.randn(captions.shape[1], TOKENS * WIDTH, generator=rng) / 4)
    captions = captions.unflatten(1, (TOKENS, WIDTH))
    for step, rate in rates(unet, steps, 2e-3):
        rows = torch.randint(0, len(images), (32,), generator=rng)
        noise = torch.randn(latents[rows].shape, generator=rng)
        timesteps = torch.randint(0, 1000, (len(rows),), generator=rng)
        noisy = noising.add_noise(latents[rows], noise, timesteps)
        kept = (torch.rand(len(rows), 1, 1, generator=rng) > 0.1).float()
        target = noise if prediction == "epsilon" else noising.get_velocity(latents[rows], noise, timesteps)
        loss = F.mse_loss(unet(noisy, timesteps, encoder_hidden_states=kept * captions[rows]).sample, target)
        rate(loss)
        report(step, steps, "UNet", loss)
    parts = {"unet": unet.eval(), "vae": vae.eval(), "scheduler": scheduler}
    nothing = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    StableDiffusionPipeline(**parts, **nothing, requires_safety_checker=False).save_pretrained(folder)


def rates(network: torch.nn.Module, steps: int, peak: float):
    """(step, what to call with the loss) for each step: AdamW with a warm-up and a cosine."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=peak, weight_decay=0.01)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = peak * min(1, (step + 1) / 50) * 0.5 * (1 + np.cos(np.pi * step / steps))

        def descend(loss: torch.Tensor) -> None:
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()

        yield step, descend


def report(step: int, steps: int, name: str, loss: torch.Tensor) -> None:
    """A line at every fifth of the way."""
    if (step + 1) % (steps // 5) == 0:
        print(f"  {name} {step + 1:5d}  loss {loss.item():.3f}", flush=True)


def memorise(generator: StableDiffusion, shown: torch.Tensor, embeddings: torch.Tensor, *, steps: int) -> dict:
    """Two-way identification with its interval, of pictures drawn before and after training, and from nothing."""
    torch.manual_seed(1)
    adapter = Adapter(
        embedding_width=embeddings.shape[1], condition_width=generator.condition_width, tokens=TOKENS, hidden=256
    )
    adapter.fit_statistics(embeddings)
    judge = ImageEncoder("efficientnet-lite1", layer="block10")
    values = {}

    @torch.no_grad()
    def drawn(*, null: bool = False) -> torch.Tensor:
        condition = adapter.null.expand(IMAGES, -1, -1) if null else adapter.eval()(embeddings)
        return generator.sample(condition, adapter.null, seeds=list(range(IMAGES)), steps=50, guidance=2.0)

    @torch.no_grad()
    def score(name: str, pictures: torch.Tensor) -> None:
        for layer, (a, b) in {"block10": (judge(pictures), judge(shown)), "pixels": (pictures, shown)}.items():
            interval = bootstrap_interval(two_way_identification(a.numpy(), b.numpy()), seed=0, share=False)
            values[f"{name}, {layer}"] = [float(x) for x in interval]
            print(
                f"  {name:10s} {layer:8s} two-way {interval[0]:.3f} [{interval[1]:.3f}, {interval[2]:.3f}]", flush=True
            )

    score("untrained", drawn())
    pixels = (shown * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    with tempfile.TemporaryDirectory() as out:
        train_condition(
            generator,
            adapter,
            encode_images(generator, pixels),
            embeddings,
            out=Path(out),
            steps=steps,
            sketch_steps=0,
            batch_size=16,
            learning_rate=1e-3,
            average=0.98,
        )
        rows = [float(row["value"]) for row in read_metrics(Path(out) / "metrics.csv") if row["name"] == "train/loss"]
    print("  adapter losses", [round(value, 3) for value in rows[::5]], flush=True)
    score("trained", drawn())
    score("null", drawn(null=True))
    with torch.no_grad():
        score("ceiling", generator.decode(generator.encode(shown)))
    return values


if __name__ == "__main__":
    sys.exit(main())
