"""Generation (Eq. 2): one synthetic image for each mask, by diffusers' own ControlNet pipeline and UniPC.

Shape legend: N masks, K classes, H W pixels (multiples of the backbone's factor).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler

from engine.errors import UserError
from engine.generation.backbone import Backbone
from engine.generation.conditioning import mask_condition
from engine.models.execution import Precision, autocast
from engine.seeding import torch_generator


def generate(
    backbone: Backbone,
    controlnet: ControlNetModel,
    masks_NKHW: np.ndarray,
    *,
    seeds: Sequence[int],
    prompt: str,
    steps: int = 20,
    guidance: float = 7.5,
    batch_size: int = 8,
    precision: Precision = "auto",
    on_batch: Callable[[int, np.ndarray], None] | None = None,
    check_cancelled: Callable[[], None] | None = None,
) -> np.ndarray:
    """Return synthetic images (N, H, W, 3) uint8 RGB for ``masks_NKHW`` (uint8 in {0, 1}).

    Parameters
    ----------
    seeds : sequence of int
        One a mask; the starting noise of an image depends on its own seed only, not on the batch that it is in.
    guidance : float
        Classifier-free guidance scale; 1 skips the unconditional pass and halves the time.
    on_batch : callable, optional
        Called with the index of the first image and the images (B, H, W, 3) after each batch.
    check_cancelled : callable, optional
        Called after each denoising step; may raise to stop.

    Raises
    ------
    UserError
        ``generator.mask_size`` when H or W is not a multiple of the backbone's pixels per latent.
    """
    height, width = _checked_size(backbone, masks_NKHW, seeds=seeds)
    pipeline = build_pipeline(backbone, controlnet)
    prompts = {
        "prompt_embeds": backbone.embed_prompts([prompt]),
        "negative_prompt_embeds": backbone.embed_prompts([""]),
    }
    images = np.empty((len(masks_NKHW), height, width, 3), np.uint8)
    for start in range(0, len(masks_NKHW), batch_size):
        stop = min(start + batch_size, len(masks_NKHW))
        with torch.inference_mode(), autocast(backbone.device, precision):
            latents = pipeline(
                **{name: embedding.expand(stop - start, -1, -1) for name, embedding in prompts.items()},
                image=mask_condition(masks_NKHW[start:stop]).to(backbone.device),
                latents=_noise(backbone, seeds[start:stop], height=height, width=width),
                num_inference_steps=steps,
                guidance_scale=guidance,
                output_type="latent",
                callback_on_step_end=_step_callback(check_cancelled),
            ).images
            images[start:stop] = _decode(backbone, latents)
        if on_batch is not None:
            on_batch(start, images[start:stop])
    return images


def _checked_size(backbone: Backbone, masks_NKHW: np.ndarray, *, seeds: Sequence[int]) -> tuple[int, int]:
    height, width = masks_NKHW.shape[-2:]
    if height % backbone.factor or width % backbone.factor or not len(seeds) == len(masks_NKHW):
        raise UserError(
            "generator.mask_size",
            what=f"{len(seeds)} seeds came with masks of shape {tuple(masks_NKHW.shape)}.",
            why=f"The generator needs one seed a mask, and sides that are multiples of {backbone.factor} pixels.",
            fix=f"Set generator.image_px to a multiple of {backbone.factor}.",
        )
    return height, width


def build_pipeline(backbone: Backbone, controlnet: ControlNetModel) -> StableDiffusionControlNetPipeline:
    """Return diffusers' pipeline with UniPC in place of the training schedule, and no safety checker."""
    pipeline = StableDiffusionControlNetPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoder,
        tokenizer=backbone.tokenizer,
        unet=backbone.unet,
        controlnet=controlnet.eval(),
        scheduler=UniPCMultistepScheduler.from_config(backbone.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _noise(backbone: Backbone, seeds: Sequence[int], *, height: int, width: int) -> torch.Tensor:
    """Return starting noise (B, C, h, w), drawn on the CPU so that every device starts from the same."""
    shape = (backbone.unet.config.in_channels, height // backbone.factor, width // backbone.factor)
    rows = [torch.randn(shape, generator=torch_generator(seed, "noise")) for seed in seeds]
    return torch.stack(rows).to(backbone.device)


def _decode(backbone: Backbone, latents: torch.Tensor) -> np.ndarray:
    image = backbone.vae.decode(latents / backbone.vae.config.scaling_factor).sample.float()
    levels = ((image / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def _step_callback(check_cancelled: Callable[[], None] | None) -> Callable[..., dict[str, Any]] | None:
    if check_cancelled is None:
        return None

    def after_step(_pipeline: Any, _index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        check_cancelled()
        return tensors

    return after_step
