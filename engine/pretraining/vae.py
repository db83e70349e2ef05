"""Pre-training of the mini autoencoder: images of all six tasks to latents at an eighth of the side, and back.

Shape legend: B crops, H = W = crop side in pixels, C latent channels, h = w = H / 8.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from engine.generation.backbone import build_backbone
from engine.pretraining.corpus import Corpus
from engine.pretraining.settings import Settings
from engine.seeding import numpy_generator, torch_generator

CROP_PX = 64
BATCH = 32
KL_WEIGHT = 3e-6
GRADIENT_WEIGHT = 0.5
TEXTURE_WEIGHT = 0.25
COLOUR_WEIGHT = 2.0
START_LOG_VARIANCE = -5.0
GUIDED_STEPS = 400


class VaePretraining:
    """L1 + gradients + local contrast + a small KL, on random crops with flips and colour gains.

    The contrast term compares the standard deviation of the fine detail in small windows: grain that no decoder could
    place exactly is drawn with the right strength instead of being averaged away. At first the latents are drawn to
    the blocks' principal components, and the decoder is fed with these: encoder and decoder then need not find a
    common language through a deep bottleneck, which takes longer than all the rest.
    """

    name = "vae"
    learning_rate = 2e-3
    weight_decay = 1e-4
    ema_decay = 0.995

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model = build_backbone("mini", seed=settings.seed).vae
        _quieten(self.model)
        self._corpora = list(settings.training_corpora().values())
        sample = [_crops(self._corpora, rng=numpy_generator(settings.seed, "vae", "components", i)) for i in range(16)]
        self._weight, self._bias = principal_components(np.concatenate(sample), self.model.config.latent_channels)
        self._held_out = settings.held_out_corpora()

    def loss(self, step: int) -> Tensor:
        """Return the loss of one batch of crops."""
        image = torch.from_numpy(_crops(self._corpora, rng=numpy_generator(self.settings.seed, "vae", step)))
        noise = torch_generator(self.settings.seed, "vae", "noise", step)
        target = functional.conv2d(image, self._weight, self._bias, stride=self._weight.shape[-1])
        guided = max(0.0, 1.0 - step / GUIDED_STEPS)
        with self.settings.autocast():
            posterior = self.model.encode(image).latent_dist
            latent = torch.lerp(posterior.sample(generator=noise).float(), target, guided)
            restored = self.model.decode(latent).sample
        loss = reconstruction_loss(restored.float(), image) + KL_WEIGHT * posterior.kl().float().mean()
        return loss + guided * functional.mse_loss(posterior.mean.float(), target)

    def evaluate(self) -> dict[str, float]:
        """Return the PSNR in dB of each task's held-out images through the latents' means, and the latents' spread."""
        measures, spreads = {}, []
        for task, corpus in self._held_out.items():
            image = to_signed(np.asarray(corpus.images_NHW3))
            latent = self.model.encode(image).latent_dist.mode()
            restored = self.model.decode(latent).sample.clamp(-1, 1)
            error = ((restored - image) / 2).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
            measures[f"psnr_{task}"] = float((-10 * error.log10()).mean())
            spreads.append(latent.std())
        measures["latent_std"] = float(torch.stack(spreads).mean())
        return measures


def _quieten(vae: AutoencoderKL) -> None:
    """Start with little noise on the latents: at the usual standard deviation of 1, weak signals such as hue drown."""
    channels = vae.config.latent_channels
    with torch.no_grad():
        vae.quant_conv.weight[channels:] = 0.0
        vae.quant_conv.bias[channels:] = START_LOG_VARIANCE


def principal_components(image_B3HW: np.ndarray, count: int, *, block_px: int = 8) -> tuple[Tensor, Tensor]:
    """Return the convolution (weight, bias) of stride ``block_px`` that gives a block's whitened first components."""
    batch, channels, height, width = image_B3HW.shape
    shape = (batch, channels, height // block_px, block_px, width // block_px, block_px)
    blocks = image_B3HW.reshape(shape).transpose(0, 2, 4, 1, 3, 5).reshape(-1, channels * block_px**2)
    blocks = blocks.astype(np.float64)
    mean = blocks.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(blocks, rowvar=False))
    matrix = (vectors[:, ::-1][:, :count] / np.sqrt(values[::-1][:count])).T
    weight = torch.from_numpy(matrix.reshape(count, channels, block_px, block_px).copy()).float()
    return weight, torch.from_numpy(-matrix @ mean).float()


def to_signed(image_BHW3: np.ndarray) -> Tensor:
    """Return uint8 images as float32 (B, 3, H, W) in [-1, 1], the range of the autoencoder."""
    return torch.from_numpy(np.ascontiguousarray(image_BHW3.transpose(0, 3, 1, 2))).float() / 127.5 - 1.0


def reconstruction_loss(restored_B3HW: Tensor, image_B3HW: Tensor) -> Tensor:
    """Return L1 of the values, of their differences, of the colours of 8 px blocks, and of the fine detail's spread."""
    loss = functional.l1_loss(restored_B3HW, image_B3HW)
    for axis in (-1, -2):
        difference = torch.diff(restored_B3HW, dim=axis) - torch.diff(image_B3HW, dim=axis)
        loss = loss + GRADIENT_WEIGHT * difference.abs().mean()
    blocks = functional.avg_pool2d(restored_B3HW, 8), functional.avg_pool2d(image_B3HW, 8)
    loss = loss + COLOUR_WEIGHT * functional.l1_loss(*blocks)
    return loss + TEXTURE_WEIGHT * functional.l1_loss(_texture(restored_B3HW), _texture(image_B3HW))


def _texture(image_B3HW: Tensor) -> Tensor:
    detail = image_B3HW - functional.avg_pool2d(image_B3HW, 3, stride=1, padding=1, count_include_pad=False)
    return (functional.avg_pool2d(detail.square(), 8, stride=4) + 1e-5).sqrt()


def _crops(corpora: list[Corpus], *, rng: np.random.Generator) -> np.ndarray:
    """Return float32 crops (B, 3, H, W) in [-1, 1]."""
    crops = []
    for _ in range(BATCH):
        corpus = corpora[rng.integers(len(corpora))]
        image = corpus.images_NHW3[rng.integers(len(corpus))]
        top, left = rng.integers(0, image.shape[0] - CROP_PX + 1, size=2)
        crop = image[top : top + CROP_PX, left : left + CROP_PX].astype(np.float32) / 127.5 - 1.0
        if rng.random() < 0.3:
            # Real sites have casts and contrasts that no generic phantom has; the latents must carry them too.
            crop = np.clip(crop * rng.uniform(0.6, 1.4, size=3) + rng.uniform(-0.3, 0.3, size=3), -1, 1)
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        crops.append(np.rot90(crop, rng.integers(4)).transpose(2, 0, 1))
    return np.stack(crops).astype(np.float32)
