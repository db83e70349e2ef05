"""Training of a site's ControlNet on the site's own images and masks; the backbone stays frozen (Eq. 1).

The recipe is diffusers' (methods.md 7): latents by the VAE, a uniform timestep, DDPM noise, mean squared error against
the noise (or the velocity, whatever the backbone predicts), AdamW, gradient norm at most 1.

Shape legend: N images of the site, B batch, K classes, H W pixels, C latent channels, h w latent side, T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from diffusers import ControlNetModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from torch.nn import functional

from engine.accounting import sampled_epsilon
from engine.config import GeneratorConfig
from engine.generation.backbone import Backbone
from engine.generation.conditioning import mask_condition
from engine.generation.images import ImageSource, batch_indices, read_scaled
from engine.generation.losses import refuse_divergence
from engine.generation.optimiser import make_adamw, optimiser_state, restore_optimiser
from engine.models.execution import Precision, autocast
from engine.seeding import torch_generator

if TYPE_CHECKING:
    from engine.generation.private_training import PrivateSteps

MAX_GRADIENT_NORM = 1.0
PLAIN_ATTENTION_TOKENS = 1024
"""Latents up to which attention spelt out is the faster one on a CPU."""


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
        system_noise: bool = False,
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
        self._private: PrivateSteps | None = None
        if config.is_private:
            from engine.generation.private_training import PatientSource, PrivateSteps  # Opacus takes a second

            patients = cast(PatientSource, images)
            private = {"config": config, "images": patients, "seed": seed, "site": site, "system": system_noise}
            self._private = PrivateSteps(controlnet, **private)

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
        total = self._gradient() if self._private is None else self._private.gradient(self.done, self._errors)
        refuse_divergence(total, site=self._site, step=self.done + 1)
        if self._private is None:
            torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRADIENT_NORM)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.done += 1
        return total

    def privacy_spent(self) -> dict[str, float]:
        """Return ``patient_epsilon``, what all steps together spend of a patient's privacy; nothing without DP-SGD."""
        config = self._config
        if self._private is None or config.dp_noise_multiplier is None:
            return {}
        return {
            "patient_epsilon": sampled_epsilon(
                noise_multiplier=config.dp_noise_multiplier,
                sampling_rate=config.sampling_rate(self._private.num_patients),
                steps=config.steps,
                delta=config.dp_delta,
            )
        }

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

    def _gradient(self) -> float:
        """Set the gradients of a step of plain training, and return its mean loss."""
        total = 0.0
        for part in range(self._config.accumulation):
            loss = self._loss(part) / self._config.accumulation
            loss.backward()
            total += float(loss.detach())
        return total

    def _errors(self, indices: np.ndarray) -> Tensor:
        """Return the loss (B,) of each image by itself, in float32; its randomness is named by the image."""
        assert self._private is not None
        scheduler, device = self._backbone.scheduler, self._backbone.device
        drawn = [self._drawn(index, self._private.name_of(index)) for index in indices]
        latents, noise, steps, prompts = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        predicted = predict(
            self._backbone,
            self._private.module,
            scheduler.add_noise(latents, noise, steps).to(device),
            steps=steps.to(device),
            prompt_BTD=prompts,
            condition_B3HW=mask_condition(self._masks[indices]).to(device),
        )
        target = diffusion_target(scheduler, latents, noise, steps).to(device)
        return (predicted.float() - target).square().mean(dim=(1, 2, 3))

    def _drawn(self, index: int, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return an image's latents, noise, timestep and prompt in the step that comes."""
        generator = torch_generator(self._seed, "generator", self._site, "noise", self.done, name)
        posterior = DiagonalGaussianDistribution(self._moments[index : index + 1])
        latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
        latents = latents * self._backbone.vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=generator)
        steps = torch.randint(self._backbone.scheduler.config.num_train_timesteps, (1,), generator=generator)
        empty = float(torch.rand((), generator=generator)) < self._config.empty_prompt_fraction
        return latents, noise, steps, self._empty_1TD if empty else self._prompt_1TD

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
        """Return the images of batch ``number``."""
        size = self._config.batch_size
        return batch_indices(number, count=len(self._masks), size=size, seed=self._seed, site=self._site)

    @torch.no_grad()
    def _encode(self, images: ImageSource) -> tuple[Tensor, np.ndarray]:
        """Return the latent moments (N, 2C, h, w) float32 on the CPU and the masks (N, K, H, W) uint8."""
        moments, masks = [], []
        for image_B3HW, mask_BKHW in read_scaled(images, self._config.image_px, device=self._backbone.device):
            moments.append(self._backbone.vae.encode(image_B3HW).latent_dist.parameters.float().cpu())
            masks.append(mask_BKHW)
        return torch.cat(moments), np.concatenate(masks)


def use_plain_attention(backbone: Backbone, controlnet: ControlNetModel) -> None:
    """Spell attention out: PyTorch's fused kernel is up to six times slower backwards on a CPU for few tokens."""
    for model in (backbone.unet, controlnet):
        model.set_attn_processor(AttnProcessor())


def predict(
    backbone: Backbone,
    controlnet: torch.nn.Module,
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
