"""Training of a site's ControlNet on the site's own images and masks; the backbone stays frozen (Eq. 1).

The recipe is diffusers' (methods.md 7): latents by the VAE, a uniform timestep, DDPM noise, mean squared error against
the noise (or the velocity, whatever the backbone predicts), AdamW, gradient norm at most 1.

Shape legend: N images of the site, B batch, K classes, H W pixels, C latent channels, h w latent side, T tokens.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import ControlNetModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from torch.nn import functional

from engine.config import GeneratorConfig
from engine.data.transforms import mask_to_grid
from engine.errors import UserError
from engine.generation.backbone import Backbone
from engine.generation.conditioning import mask_condition
from engine.generation.optimiser import make_adamw, optimiser_state, restore_optimiser
from engine.models.execution import Precision, autocast
from engine.seeding import numpy_generator, torch_generator

MAX_GRADIENT_NORM = 1.0
PLAIN_ATTENTION_TOKENS = 1024
"""Latents up to which attention spelt out is the faster one on a CPU."""
_ENCODE_BATCH = 8


class ImageSource(Protocol):
    """What is read of a site's images: :class:`engine.data.datasets.ImageSet` has it."""

    def __len__(self) -> int:
        """Return N."""

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return images (B, 3, H, W) float32 in [0, 1] and masks (B, K, H, W) uint8 in {0, 1}."""


class ControlNetTraining:
    """One site's generator training, a step at a time, resumable bit for bit on CPU.

    Batch order, timesteps and noise of a step depend on ``seed``, ``site`` and the step's number only. The images'
    latent moments, the conditioning pictures and the two prompt embeddings are computed once.
    """

    def __init__(
        self,
        backbone: Backbone,
        controlnet: ControlNetModel,
        *,
        images: ImageSource,
        config: GeneratorConfig,
        prompt: str,
        site: str,
        seed: int,
        precision: Precision = "auto",
    ) -> None:
        self.controlnet = controlnet
        self.done = 0
        self._backbone, self._config, self._site, self._seed = backbone, config, site, seed
        self._precision = precision
        if config.gradient_checkpointing:
            controlnet.enable_gradient_checkpointing()
            backbone.unet.enable_gradient_checkpointing()
        if backbone.device.type == "cpu" and (config.image_px // backbone.factor) ** 2 <= PLAIN_ATTENTION_TOKENS:
            use_plain_attention(backbone, controlnet)
        self._parameters = [parameter for parameter in controlnet.parameters() if parameter.requires_grad]
        self._optimiser = make_adamw(
            self._parameters, learning_rate=config.learning_rate, eight_bit=config.optimiser_8bit
        )
        self._prompt_1TD = backbone.embed_prompts([prompt])
        self._empty_1TD = backbone.embed_prompts([""])
        self._moments, self._masks = self._encode(images)

    @property
    def total(self) -> int:
        """Return how many steps there are."""
        return self._config.steps

    def step(self) -> float:
        """Do the next optimiser step and return its mean loss.

        Raises
        ------
        UserError
            ``generator.diverged`` when the loss is not a number; names the site and the step.
        """
        self.controlnet.train()
        total = 0.0
        for part in range(self._config.accumulation):
            loss = self._loss(part) / self._config.accumulation
            loss.backward()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise UserError(
                "generator.diverged",
                what=f"The generator's loss at site '{self._site}' is {total} at step {self.done + 1}.",
                why="A generator trained on such a loss only makes noise.",
                fix="Fork the run from generator_training with a lower generator.learning_rate, or start one in fp32.",
            )
        torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRADIENT_NORM)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.done += 1
        return total

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed training needs, as a checkpoint can hold it."""
        return {
            "done": self.done,
            "controlnet": dict(self.controlnet.state_dict()),
            "optimiser": optimiser_state(self._optimiser),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state` was taken."""
        self.controlnet.load_state_dict(state["controlnet"])
        restore_optimiser(self._optimiser, state["optimiser"])
        self.done = int(state["done"])

    def _loss(self, part: int) -> Tensor:
        """Return the loss of one batch: E || target - U-Net(z_t, t, prompt, ControlNet(z_t, t, prompt, mask)) ||^2."""
        device, number = self._backbone.device, self.done * self._config.accumulation + part
        indices = self._indices(number)
        generator = torch_generator(self._seed, "generator", self._site, "noise", number)
        posterior = DiagonalGaussianDistribution(self._moments[indices])
        latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
        latents = latents * self._backbone.vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=generator)
        scheduler = self._backbone.scheduler
        steps = torch.randint(scheduler.config.num_train_timesteps, (len(indices),), generator=generator)
        empty = float(torch.rand((), generator=generator)) < self._config.empty_prompt_fraction
        prompt_BTD = (self._empty_1TD if empty else self._prompt_1TD).expand(len(indices), -1, -1)
        with autocast(device, self._precision):
            predicted = predict(
                self._backbone,
                self.controlnet,
                scheduler.add_noise(latents, noise, steps).to(device),
                steps=steps.to(device),
                prompt_BTD=prompt_BTD,
                condition_B3HW=mask_condition(self._masks[indices]).to(device),
            )
        return functional.mse_loss(predicted.float(), diffusion_target(scheduler, latents, noise, steps).to(device))

    def _indices(self, number: int) -> np.ndarray:
        """Return the images of batch ``number``: passes over the site in an order shuffled anew for each pass."""
        count, size = len(self._masks), self._config.batch_size
        positions = np.arange(number * size, (number + 1) * size)
        orders = {
            epoch: numpy_generator(self._seed, "generator", self._site, "order", int(epoch)).permutation(count)
            for epoch in np.unique(positions // count)
        }
        return np.array([orders[position // count][position % count] for position in positions])

    @torch.no_grad()
    def _encode(self, images: ImageSource) -> tuple[Tensor, np.ndarray]:
        """Return the latent moments (N, 2C, h, w) float32 on the CPU and the masks (N, K, H, W) uint8."""
        px, moments, masks = self._config.image_px, [], []
        for start in range(0, len(images), _ENCODE_BATCH):
            image, mask = images.batch(np.arange(start, min(start + _ENCODE_BATCH, len(images))))
            image_B3HW = torch.from_numpy(image).to(self._backbone.device) * 2.0 - 1.0
            if image_B3HW.shape[-1] != px:
                image_B3HW = functional.interpolate(image_B3HW, size=(px, px), mode="bilinear", antialias=True)
            moments.append(self._backbone.vae.encode(image_B3HW).latent_dist.parameters.float().cpu())
            masks.append(mask_to_grid(mask, px))
        return torch.cat(moments), np.concatenate(masks)


def use_plain_attention(backbone: Backbone, controlnet: ControlNetModel) -> None:
    """Spell attention out: PyTorch's fused kernel is up to six times slower backwards on a CPU for few tokens."""
    for model in (backbone.unet, controlnet):
        model.set_attn_processor(AttnProcessor())


def predict(
    backbone: Backbone,
    controlnet: ControlNetModel,
    noisy_BChw: Tensor,
    *,
    steps: Tensor,
    prompt_BTD: Tensor,
    condition_B3HW: Tensor,
) -> Tensor:
    """Return the backbone's prediction (B, C, h, w) with the ControlNet's residuals added (Eq. 1)."""
    down, middle = controlnet(
        noisy_BChw, steps, encoder_hidden_states=prompt_BTD, controlnet_cond=condition_B3HW, return_dict=False
    )
    return backbone.unet(
        noisy_BChw,
        steps,
        encoder_hidden_states=prompt_BTD,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    ).sample


def diffusion_target(scheduler: Any, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
    """Return what the U-Net of ``scheduler`` predicts: the noise, or the velocity (Salimans and Ho, 2022)."""
    if scheduler.config.prediction_type == "v_prediction":
        return scheduler.get_velocity(latents, noise, steps)
    return noise
