"""Pre-training of the mini U-Net with its text encoder, and of the mask-conditioned ControlNet beside it.

Both learn on cached latents of the six tasks. The loss is diffusers' v-prediction with min-SNR weights (Hang et al.,
ICCV 2023, gamma 5), which lets few steps go far.

Shape legend: N images, B batch, C latent channels, h w latent side, T tokens, D text width.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.data.phantoms import TASKS
from engine.generation.backbone import Backbone, embed_prompts
from engine.generation.conditioning import mask_condition
from engine.generation.controlnet import new_controlnet
from engine.generation.training import diffusion_target, use_plain_attention
from engine.pretraining.corpus import Corpus, cache_folder, drawing_version
from engine.pretraining.settings import Settings
from engine.pretraining.vae import to_signed
from engine.seeding import numpy_generator, torch_generator

MIN_SNR_GAMMA = 5.0
EMPTY_PROMPT_SHARE = 0.1
_ENCODE_BATCH = 16
_TASKS = tuple(TASKS)


class Latents:
    """Latent moments (N, 2C, h, w) of corpora, float16, encoded once, with their masks and tasks."""

    def __init__(self, backbone: Backbone, corpora: dict[str, Corpus], *, settings: Settings) -> None:
        self._scale = backbone.vae.config.scaling_factor
        self._masks = [(corpus.masks_NKHW, row) for corpus in corpora.values() for row in range(len(corpus))]
        self.tasks = [number for number, corpus in enumerate(corpora.values()) for _ in range(len(corpus))]
        path = _moments_path(backbone, count=len(self.tasks), settings=settings)
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            save_file({"moments": _encode(backbone, corpora, settings=settings)}, temporary)
            temporary.replace(path)
        self._moments = load_file(path)["moments"]

    def __len__(self) -> int:
        return len(self._moments)

    def sample(self, indices: np.ndarray, *, generator: torch.Generator) -> Tensor:
        """Return scaled latents (B, C, h, w) float32, drawn from the encoder's distribution."""
        posterior = DiagonalGaussianDistribution(self._moments[indices].float())
        return (posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)) * self._scale

    def condition(self, indices: np.ndarray) -> Tensor:
        """Return the conditioning pictures (B, 3, H, W) of the masks, float32 in [0, 1]."""
        rows = (self._masks[index] for index in indices)
        return torch.cat([mask_condition(masks[row][None]) for masks, row in rows])


class _Diffusion:
    """What both pre-trainings share: batches over all tasks, and the weighted loss with or without the masks."""

    def __init__(self, settings: Settings, *, backbone: Backbone, controlnet: ControlNetModel) -> None:
        self.settings, self.backbone, self.controlnet = settings, backbone, controlnet
        use_plain_attention(backbone, controlnet)
        self._latents = Latents(backbone, settings.training_corpora(), settings=settings)
        self._held_out = Latents(backbone, settings.held_out_corpora(), settings=settings)

    def evaluate(self) -> dict[str, float]:
        """Return the held-out loss at fixed noise, with the masks and without them."""
        measures = {}
        for name, share in (("held_out_loss", 1.0), ("without_masks", 0.0)):
            parts = [
                self._loss(self._held_out, step=part, stream="held-out", size=64, masked_share=share)
                for part in range(4)
            ]
            measures[name] = float(torch.stack(parts).mean())
        return measures

    def _loss(self, latents: Latents, *, step: int, stream: str, size: int, masked_share: float) -> Tensor:
        seed = self.settings.seed
        indices = numpy_generator(seed, stream, "batch", step).integers(len(latents), size=size)
        generator = torch_generator(seed, stream, "noise", step)
        clean = latents.sample(indices, generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        times = _timesteps(self.backbone, size, generator=generator)
        empty_B, masked_B = torch.rand(2, size, generator=generator)
        rows = torch.tensor([latents.tasks[index] for index in indices]).masked_fill(
            empty_B < EMPTY_PROMPT_SHARE, len(_TASKS)
        )
        noisy = self.backbone.scheduler.add_noise(clean, noise, times)
        with self.settings.autocast():
            prompt_BTD = self._prompts()[rows]
            residuals = self._residuals(
                noisy, times, prompt_BTD, latents.condition(indices), masked_B=masked_B < masked_share
            )
            predicted = self.backbone.unet(noisy, times, encoder_hidden_states=prompt_BTD, **residuals).sample
        return weighted_loss(self.backbone, predicted, clean=clean, noise=noise, times=times)

    def _prompts(self) -> Tensor:
        return _embed_tasks(self.backbone)

    def _residuals(
        self, noisy: Tensor, times: Tensor, prompt_BTD: Tensor, condition_B3HW: Tensor, *, masked_B: Tensor
    ) -> dict[str, Any]:
        """Return the ControlNet's residuals for the rows in ``masked_B`` and zeros for the others."""
        if not masked_B.any():
            return {}
        down, middle = self.controlnet(
            noisy, times, encoder_hidden_states=prompt_BTD, controlnet_cond=condition_B3HW, return_dict=False
        )
        keep = masked_B.reshape(-1, 1, 1, 1).to(middle.dtype)
        return {
            "down_block_additional_residuals": [residual * keep for residual in down],
            "mid_block_additional_residual": middle * keep,
        }


class UnetPretraining(_Diffusion):
    """The U-Net, its text encoder and a ControlNet beside it, from random weights.

    One row in ten has the empty prompt; one in four has no mask, so that the U-Net also stands alone. That the masks
    help from the start halves the time to images that follow them.
    """

    name = "unet"
    learning_rate = 6e-4
    weight_decay = 1e-2
    ema_decay = 0.995
    batch_size = 40

    def __init__(self, settings: Settings, *, backbone: Backbone) -> None:
        super().__init__(
            settings, backbone=backbone, controlnet=new_controlnet(backbone, source=None, seed=settings.seed)
        )
        parts = {"unet": backbone.unet, "text_encoder": backbone.text_encoder, "controlnet": self.controlnet}
        self.model = nn.ModuleDict(parts).requires_grad_(True)

    def loss(self, step: int) -> Tensor:
        """Return the loss of one batch over all tasks."""
        return self._loss(self._latents, step=step, stream=self.name, size=self.batch_size, masked_share=0.75)


class ControlnetPretraining(_Diffusion):
    """The ControlNet alone on the frozen backbone, as at the sites, on generic masks of all tasks."""

    name = "controlnet"
    learning_rate = 3e-4
    weight_decay = 1e-2
    ema_decay = 0.995
    batch_size = 40

    def __init__(self, settings: Settings, *, backbone: Backbone, source: Path | None) -> None:
        self.model = new_controlnet(backbone, source=source, seed=settings.seed)
        super().__init__(settings, backbone=backbone, controlnet=self.model)
        with torch.no_grad():
            self._embedded = _embed_tasks(backbone)

    def loss(self, step: int) -> Tensor:
        """Return the loss of one batch over all tasks."""
        return self._loss(self._latents, step=step, stream=self.name, size=self.batch_size, masked_share=1.0)

    def _prompts(self) -> Tensor:
        return self._embedded


def weighted_loss(backbone: Backbone, predicted: Tensor, *, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """Return the mean squared error of the velocity, weighted min(SNR, gamma) / (SNR + 1)."""
    target = diffusion_target(backbone.scheduler, clean, noise, times)
    error_B = (predicted.float() - target).square().mean(dim=(1, 2, 3))
    share_B = backbone.scheduler.alphas_cumprod[times]
    snr_B = share_B / (1.0 - share_B)
    # A floor keeps the first step, which starts from pure noise and has SNR 0, from being left untrained.
    weight_B = (snr_B.clamp(max=MIN_SNR_GAMMA) / (snr_B + 1.0)).clamp_min(0.1)
    return (weight_B * error_B).mean()


def latent_scale(backbone: Backbone, corpora: dict[str, Corpus], *, settings: Settings) -> float:
    """Return the scaling factor that gives latents of ``corpora`` a standard deviation of 1."""
    backbone.vae.register_to_config(scaling_factor=1.0)
    latents = Latents(backbone, corpora, settings=settings)
    sample = latents.sample(np.arange(len(latents)), generator=torch_generator(settings.seed, "latent scale"))
    return float(1.0 / sample.std())


def _embed_tasks(backbone: Backbone) -> Tensor:
    """Return the embeddings (tasks + 1, T, D) of the tasks' modalities and, last, of the empty prompt."""
    prompts = [TASKS[task].modality for task in _TASKS] + [""]
    return embed_prompts(backbone.text_encoder, backbone.tokenizer, prompts)


def _encode(backbone: Backbone, corpora: dict[str, Corpus], *, settings: Settings) -> Tensor:
    moments = []
    for corpus in corpora.values():
        for start in range(0, len(corpus), _ENCODE_BATCH):
            image = to_signed(np.asarray(corpus.images_NHW3[start : start + _ENCODE_BATCH]))
            with torch.no_grad(), settings.autocast():
                moments.append(backbone.vae.encode(image).latent_dist.parameters.half())
    return torch.cat(moments)


def _moments_path(backbone: Backbone, *, count: int, settings: Settings) -> Path:
    """Return the file of the latents that this very autoencoder makes of these corpora."""
    digest = hashlib.sha256(f"{count} {settings} {drawing_version()}".encode())
    for tensor in backbone.vae.encoder.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return cache_folder().parent / "latents" / f"{digest.hexdigest()[:16]}.safetensors"


def _timesteps(backbone: Backbone, size: int, *, generator: torch.Generator) -> Tensor:
    """Return timesteps (B,), stratified: one in each B-th of the schedule, which lowers the loss's variance."""
    spread = (torch.arange(size) + torch.rand(size, generator=generator)) / size
    return (spread * backbone.scheduler.config.num_train_timesteps).long()
