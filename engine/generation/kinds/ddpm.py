"""DDPM (Ho et al., NeurIPS 2020, arXiv 2006.11239) in pixel space, the mask's picture concatenated to the noisy image.

diffusers' U-Net and schedules: 1000 steps of linear beta from 1e-4 to 0.02, the noise is predicted, mean squared error
(their Eq. 14). Images are drawn with UniPC in ``generation.sampler_steps`` steps, as those of the other kinds.

Shape legend: N masks, B batch, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel, UniPCMultistepScheduler
from torch import Tensor
from torch.nn import functional

from engine.errors import UserError
from engine.generation.condition_images import CONDITION_CHANNELS, ConditionImages
from engine.generation.conditioning import mask_condition
from engine.generation.generators import GeneratorSetup, Shapes
from engine.generation.images import ImageSource
from engine.generation.losses import refuse_divergence
from engine.generation.optimiser import optimiser_state, restore_optimiser
from engine.generation.pixels import to_levels
from engine.generation.stored_arrays import read_arrays, write_arrays
from engine.models.execution import autocast
from engine.seeding import derive_seed, torch_generator

MAX_GRADIENT_NORM = 1.0
"""As in Ho et al.'s code."""


@dataclass(frozen=True)
class DdpmSize:
    """Widths of the U-Net's levels, residual blocks of each, and which levels attend."""

    widths: tuple[int, ...]
    layers: int
    attention: tuple[bool, ...]
    groups: int

    @property
    def multiple_px(self) -> int:
        """What an image's side must be a multiple of."""
        return int(2 ** (len(self.widths) - 1))


SIZES: Mapping[str, DdpmSize] = {
    "mini": DdpmSize((32, 64, 96), layers=1, attention=(False, False, True), groups=8),
    # Ho et al., appendix B: 256 x 256, attention at 16 x 16.
    "paper": DdpmSize(
        (128, 128, 256, 256, 512, 512), layers=2, attention=(False, False, False, False, True, False), groups=32
    ),
}


class DdpmTraining:
    """One site's training of the whole model."""

    def __init__(self, setup: GeneratorSetup, *, images: ImageSource, site: str) -> None:
        config = setup.config
        _check_side(config.generator.image_px, SIZES[config.ddpm.size])
        self._setup, self._site, self.done = setup, site, 0
        self.unet = _new_unet(setup).to(setup.device)
        self._adam = torch.optim.Adam(self.unet.parameters(), lr=config.ddpm.learning_rate)
        self._scheduler = DDPMScheduler()
        part = config.generator
        self._images = ConditionImages(
            images, px=part.image_px, batch_size=part.batch_size, seed=config.seed, site=site
        )

    @property
    def total(self) -> int:
        """Return how many steps there are."""
        return self._setup.config.generator.steps

    def step(self) -> float:
        """Do the next step and return || noise - U-Net(noisy image and mask, t) ||^2, the mean over all pixels."""
        config, device = self._setup.config, self._setup.device
        image, condition = self._images.batch(self.done)
        generator = torch_generator(config.seed, "generator", self._site, "noise", self.done)
        noise = torch.randn(image.shape, generator=generator)
        steps = torch.randint(self._scheduler.config.num_train_timesteps, (len(image),), generator=generator)
        noisy = self._scheduler.add_noise(image, noise, steps)
        self.unet.train()
        with autocast(device, config.precision):
            predicted = _predict(self.unet, noisy.to(device), condition.to(device), steps.to(device))
        loss = functional.mse_loss(predicted.float(), noise.to(device))
        refuse_divergence(float(loss.detach()), site=self._site, step=self.done + 1)
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), MAX_GRADIENT_NORM)
        self._adam.step()
        self.done += 1
        return float(loss.detach())

    def arrays(self) -> dict[str, np.ndarray]:
        """Return every weight as float16."""
        return {key: tensor.detach().cpu().half().numpy() for key, tensor in self.unet.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed training needs."""
        return {"done": self.done, "unet": dict(self.unet.state_dict()), "adam": optimiser_state(self._adam)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state` was taken."""
        self.unet.load_state_dict(state["unet"])
        restore_optimiser(self._adam, state["adam"])
        self.done = int(state["done"])


@dataclass(frozen=True)
class DdpmGenerator:
    """Draws by UniPC from noise at the image's size."""

    unet: UNet2DModel
    setup: GeneratorSetup

    @torch.inference_mode()
    def sample(
        self, masks_NKHW: np.ndarray, *, seeds: Sequence[int], check_cancelled: Callable[[], None] | None = None
    ) -> np.ndarray:
        """Return images (N, H, W, 3); see :class:`engine.generation.generators.Generator`."""
        config, device = self.setup.config, self.setup.device
        size, found = config.generation.batch_size, []
        for start in range(0, len(masks_NKHW), size):
            condition = (mask_condition(masks_NKHW[start : start + size]) * 2.0 - 1.0).to(device)
            shape = (3, *condition.shape[2:])
            chosen = seeds[start : start + size]
            image = torch.stack([torch.randn(shape, generator=torch_generator(seed, "noise")) for seed in chosen])
            image = image.to(device)
            scheduler = UniPCMultistepScheduler.from_config(DDPMScheduler().config)
            scheduler.set_timesteps(config.generation.sampler_steps, device=device)
            for step in scheduler.timesteps:
                if check_cancelled is not None:
                    check_cancelled()
                with autocast(device, config.precision):
                    predicted = _predict(self.unet, image, condition, step)
                image = scheduler.step(predicted.float(), step, image).prev_sample
            found.append(to_levels(image))
        return np.concatenate(found)


def start(setup: GeneratorSetup, *, images: ImageSource, site: str) -> DdpmTraining:
    """Return the training of a new model; all sites begin with the same weights."""
    return DdpmTraining(setup, images=images, site=site)


def shapes(setup: GeneratorSetup) -> Shapes:
    """Return the names and shapes of the model's weights."""
    with torch.device("meta"):
        unet = _build(SIZES[setup.config.ddpm.size])
    return {key: tuple(tensor.shape) for key, tensor in unet.state_dict().items()}


def rebuild(arrays: Mapping[str, np.ndarray], setup: GeneratorSetup) -> DdpmGenerator:
    """Return the model of a site's arrays, for inference."""
    unet = _new_unet(setup)
    unet.load_state_dict({key: torch.from_numpy(np.array(array)).float() for key, array in arrays.items()})
    return DdpmGenerator(unet.to(setup.device).eval().requires_grad_(False), setup)


def save(arrays: Mapping[str, np.ndarray], folder: Path, setup: GeneratorSetup) -> None:
    """Write a site's arrays."""
    write_arrays(arrays, folder, kind="ddpm")


def load(folder: str | Path, setup: GeneratorSetup) -> DdpmGenerator:
    """Return the generator of a folder that :func:`save` wrote."""
    return rebuild(read_arrays(Path(folder)), setup)


def _predict(unet: UNet2DModel, noisy_B3HW: Tensor, condition_B3HW: Tensor, steps: Tensor) -> Tensor:
    return unet(torch.cat([noisy_B3HW, condition_B3HW], dim=1), steps).sample


def _new_unet(setup: GeneratorSetup) -> UNet2DModel:
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed(setup.config.seed, "ddpm"))
        return _build(SIZES[setup.config.ddpm.size])


def _build(size: DdpmSize) -> UNet2DModel:
    return UNet2DModel(
        in_channels=3 + CONDITION_CHANNELS,
        out_channels=3,
        block_out_channels=size.widths,
        layers_per_block=size.layers,
        down_block_types=tuple("AttnDownBlock2D" if attends else "DownBlock2D" for attends in size.attention),
        up_block_types=tuple("AttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(size.attention)),
        norm_num_groups=size.groups,
    )


def _check_side(image_px: int, size: DdpmSize) -> None:
    if image_px % size.multiple_px:
        raise UserError(
            "generator.image_size",
            what=f"DDPM cannot make images of {image_px} pixels (generator.image_px).",
            why=f"Its U-Net halves the side {len(size.widths) - 1} times.",
            fix=f"Set generator.image_px to a multiple of {size.multiple_px}.",
        )
