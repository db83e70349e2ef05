"""Pre-training of the mini U-Net with its text encoder, and of the mask-conditioned ControlNet on top of it.

Both learn on cached latents of the six tasks. The loss is diffusers' v-prediction with min-SNR weights (Hang et al.,
ICCV 2023, gamma 5), which lets few steps go far.

Shape legend: N images, B batch, C latent channels, h w latent side, T tokens, D text width.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from engine.data.phantoms import TASKS
from engine.generation.backbone import Backbone, embed_prompts
from engine.generation.conditioning import mask_condition
from engine.generation.controlnet import new_controlnet
from engine.generation.training import diffusion_target, predict
from engine.pretraining.corpus import Corpus
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
        moments: list[Tensor] = []
        self._masks: list[tuple[np.ndarray, int]] = []
        self.tasks: list[int] = []
        for number, corpus in enumerate(corpora.values()):
            for start in range(0, len(corpus), _ENCODE_BATCH):
                image = to_signed(np.asarray(corpus.images_NHW3[start : start + _ENCODE_BATCH]))
                with torch.no_grad(), settings.autocast():
                    moments.append(backbone.vae.encode(image).latent_dist.parameters.half())
            self._masks.extend((corpus.masks_NKHW, row) for row in range(len(corpus)))
            self.tasks.extend([number] * len(corpus))
        self._moments = torch.cat(moments)

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


class UnetPretraining:
    """The U-Net and the text encoder together; the prompt is the task's modality, empty for one batch row in ten."""

    name = "unet"
    learning_rate = 6e-4
    weight_decay = 1e-2
    ema_decay = 0.999
    batch_size = 64

    def __init__(self, settings: Settings, *, backbone: Backbone) -> None:
        self.settings, self.backbone = settings, backbone
        self.model = nn.ModuleDict({"unet": backbone.unet, "text_encoder": backbone.text_encoder})
        self.model.requires_grad_(True)
        self._latents = Latents(backbone, settings.training_corpora(), settings=settings)
        self._held_out = Latents(backbone, settings.held_out_corpora(), settings=settings)

    def loss(self, step: int) -> Tensor:
        """Return the loss of one batch over all tasks."""
        return self._loss(self._latents, step=step, stream="unet", size=self.batch_size)

    def evaluate(self) -> dict[str, float]:
        """Return the held-out loss at fixed noise."""
        losses = [self._loss(self._held_out, step=part, stream="unet-held-out", size=64) for part in range(4)]
        return {"held_out_loss": float(torch.stack(losses).mean())}

    def _loss(self, latents: Latents, *, step: int, stream: str, size: int) -> Tensor:
        indices, generator = _draw(latents, seed=self.settings.seed, stream=stream, step=step, size=size)
        clean = latents.sample(indices, generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        times = _timesteps(self.backbone, size, generator=generator)
        empty = torch.rand(size, generator=generator) < EMPTY_PROMPT_SHARE
        rows = torch.tensor([latents.tasks[index] for index in indices]).masked_fill(empty, len(_TASKS))
        noisy = self.backbone.scheduler.add_noise(clean, noise, times)
        with self.settings.autocast():
            prompt_BTD = _embed_tasks(self.backbone)[rows]
            predicted = self.backbone.unet(noisy, times, encoder_hidden_states=prompt_BTD).sample
        return weighted_loss(self.backbone, predicted, clean=clean, noise=noise, times=times)


class ControlnetPretraining:
    """ControlNet from the U-Net's copy and zero convolutions, on random generic masks of all tasks."""

    name = "controlnet"
    learning_rate = 4e-4
    weight_decay = 1e-2
    ema_decay = 0.998
    batch_size = 48

    def __init__(self, settings: Settings, *, backbone: Backbone) -> None:
        self.settings, self.backbone = settings, backbone
        self.model = new_controlnet(backbone, source=None, seed=settings.seed)
        self._latents = Latents(backbone, settings.training_corpora(), settings=settings)
        self._held_out = Latents(backbone, settings.held_out_corpora(), settings=settings)
        with torch.no_grad():
            self._prompts = _embed_tasks(backbone)

    def loss(self, step: int) -> Tensor:
        """Return the loss of one batch over all tasks."""
        return self._loss(self._latents, step=step, stream="controlnet", size=self.batch_size)

    def evaluate(self) -> dict[str, float]:
        """Return the held-out loss at fixed noise, with the ControlNet and without it."""
        parts = range(4)
        with_masks = [self._loss(self._held_out, step=part, stream="cn-held-out", size=64) for part in parts]
        without = [self._loss(self._held_out, step=part, stream="cn-held-out", size=64, off=True) for part in parts]
        return {
            "held_out_loss": float(torch.stack(with_masks).mean()),
            "without_controlnet": float(torch.stack(without).mean()),
        }

    def _loss(self, latents: Latents, *, step: int, stream: str, size: int, off: bool = False) -> Tensor:
        indices, generator = _draw(latents, seed=self.settings.seed, stream=stream, step=step, size=size)
        clean = latents.sample(indices, generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        times = _timesteps(self.backbone, size, generator=generator)
        empty = torch.rand(size, generator=generator) < EMPTY_PROMPT_SHARE
        rows = torch.tensor([latents.tasks[index] for index in indices]).masked_fill(empty, len(_TASKS))
        noisy, prompt_BTD = self.backbone.scheduler.add_noise(clean, noise, times), self._prompts[rows]
        with self.settings.autocast():
            if off:
                predicted = self.backbone.unet(noisy, times, encoder_hidden_states=prompt_BTD).sample
            else:
                predicted = predict(
                    self.backbone,
                    self.model,
                    noisy,
                    steps=times,
                    prompt_BTD=prompt_BTD,
                    condition_B3HW=latents.condition(indices),
                )
        return weighted_loss(self.backbone, predicted, clean=clean, noise=noise, times=times)


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


def _draw(latents: Latents, *, seed: int, stream: str, step: int, size: int) -> tuple[np.ndarray, torch.Generator]:
    indices = numpy_generator(seed, stream, "batch", step).integers(len(latents), size=size)
    return indices, torch_generator(seed, stream, "noise", step)


def _timesteps(backbone: Backbone, size: int, *, generator: torch.Generator) -> Tensor:
    """Return timesteps (B,), stratified: one in each B-th of the schedule, which lowers the loss's variance."""
    spread = (torch.arange(size) + torch.rand(size, generator=generator)) / size
    return (spread * backbone.scheduler.config.num_train_timesteps).long()
