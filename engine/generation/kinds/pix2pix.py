"""Pix2Pix (Isola et al., CVPR 2017, arXiv 1611.07004): a U-Net draws from the mask, a patch discriminator judges.

MONAI's U-Net and PatchGAN; loss GAN + l1_weight * L1 (their Eq. 4, cross entropy). Where they use dropout as noise, the
U-Net is given a plane of noise (ours): an image depends on its own seed alone. Instance normalisation, which is what
their batch normalisation is for single images.

Shape legend: N masks, B batch, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses.adversarial_loss import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator, UNet
from torch import Tensor, nn
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

BETAS = (0.5, 0.999)
"""Of Adam (Isola et al., 3.3)."""
SLOPE = 0.2
"""Of the leaky ReLUs (Isola et al., appendix)."""


@dataclass(frozen=True)
class Pix2PixSize:
    """Widths of the U-Net's levels, each after the first at half the side; width and layers of the discriminator."""

    widths: tuple[int, ...]
    judge_width: int
    judge_layers: int

    @property
    def multiple_px(self) -> int:
        """What an image's side must be a multiple of."""
        return int(2 ** len(self.widths))


SIZES: Mapping[str, Pix2PixSize] = {
    # A receptive field of 34 pixels, about half of a mini image, as 70 pixels are of 128 or so (ours).
    "mini": Pix2PixSize((32, 64, 128, 128), judge_width=32, judge_layers=2),
    # C64-C128-C256-C512-..., and the 70 x 70 PatchGAN (Isola et al., appendix 6.1).
    "paper": Pix2PixSize((64, 128, 256, 512, 512, 512, 512), judge_width=64, judge_layers=3),
}


class DrawingUNet(nn.Module):
    """From a mask picture and a plane of noise to an image in [-1, 1]."""

    def __init__(self, size: Pix2PixSize) -> None:
        super().__init__()
        self.unet = UNet(
            spatial_dims=2,
            in_channels=CONDITION_CHANNELS + 1,
            out_channels=3,
            channels=(size.widths[0], *size.widths),
            strides=(2,) * len(size.widths),
            kernel_size=3,
            act=("LEAKYRELU", {"negative_slope": SLOPE}),
            norm="INSTANCE",
        )

    def forward(self, condition_B3HW: Tensor, noise_B1HW: Tensor) -> Tensor:
        """Return images (B, 3, H, W) in [-1, 1]; conditions in [-1, 1], noise standard normal."""
        return torch.tanh(self.unet(torch.cat([condition_B3HW, noise_B1HW], dim=1)))


class Pix2PixTraining:
    """One site's training: in each step the discriminator learns first, then the U-Net, on the same batch."""

    def __init__(self, setup: GeneratorSetup, *, images: ImageSource, site: str) -> None:
        config, size = setup.config, SIZES[setup.config.pix2pix.size]
        _check_side(config.generator.image_px, size)
        self._setup, self._site, self.done = setup, site, 0
        self.unet = _new_unet(setup).to(setup.device)
        self.judge = _new_judge(size, seed=config.seed).to(setup.device)
        rate = config.pix2pix.learning_rate
        self._unet_adam, self._judge_adam = (
            torch.optim.Adam(network.parameters(), lr=rate, betas=BETAS) for network in (self.unet, self.judge)
        )
        self._gan = PatchAdversarialLoss(criterion="bce")
        part = config.generator
        self._images = ConditionImages(
            images, px=part.image_px, batch_size=part.batch_size, seed=config.seed, site=site
        )

    @property
    def total(self) -> int:
        """Return how many steps there are."""
        return self._setup.config.generator.steps

    def step(self) -> float:
        """Do the next step of both networks and return the U-Net's loss, GAN + l1_weight * L1."""
        config, device = self._setup.config, self._setup.device
        image, condition = (part.to(device) for part in self._images.batch(self.done))
        generator = torch_generator(config.seed, "generator", self._site, "noise", self.done)
        noise = torch.randn((len(image), 1, *image.shape[2:]), generator=generator).to(device)
        self.unet.train()
        with autocast(device, config.precision):
            drawn = self.unet(condition, noise)
        drawn = drawn.float()
        judged = [self._judged(condition, picture, is_real=picture is image) for picture in (image, drawn.detach())]
        # Halved, so that it learns more slowly than the U-Net (Isola et al., 3.3).
        self._move(self._judge_adam, (judged[0] + judged[1]) / 2)
        fooled = self._gan(self.judge(torch.cat([condition, drawn], dim=1))[-1], True, False)
        loss = fooled + config.pix2pix.l1_weight * functional.l1_loss(drawn, image)
        refuse_divergence(float(loss.detach()), site=self._site, step=self.done + 1)
        self._move(self._unet_adam, loss)
        self.done += 1
        return float(loss.detach())

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the U-Net's weights as float16; the discriminator has seen the images, and stays."""
        return {key: tensor.detach().cpu().half().numpy() for key, tensor in self.unet.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed training needs."""
        return {
            "done": self.done,
            "unet": dict(self.unet.state_dict()),
            "judge": dict(self.judge.state_dict()),
            "unet_adam": optimiser_state(self._unet_adam),
            "judge_adam": optimiser_state(self._judge_adam),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state` was taken."""
        self.unet.load_state_dict(state["unet"])
        self.judge.load_state_dict(state["judge"])
        restore_optimiser(self._unet_adam, state["unet_adam"])
        restore_optimiser(self._judge_adam, state["judge_adam"])
        self.done = int(state["done"])

    def _judged(self, condition: Tensor, picture: Tensor, *, is_real: bool) -> Tensor:
        return self._gan(self.judge(torch.cat([condition, picture], dim=1))[-1], is_real, True)

    def _move(self, adam: torch.optim.Adam, loss: Tensor) -> None:
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()


@dataclass(frozen=True)
class Pix2PixGenerator:
    """Draws in one pass of the U-Net."""

    unet: DrawingUNet
    setup: GeneratorSetup

    @torch.inference_mode()
    def sample(
        self, masks_NKHW: np.ndarray, *, seeds: Sequence[int], check_cancelled: Callable[[], None] | None = None
    ) -> np.ndarray:
        """Return images (N, H, W, 3); see :class:`engine.generation.generators.Generator`."""
        config, device = self.setup.config, self.setup.device
        height, width = masks_NKHW.shape[-2:]
        size, found = config.generation.batch_size, []
        for start in range(0, len(masks_NKHW), size):
            if check_cancelled is not None:
                check_cancelled()
            chosen = seeds[start : start + size]
            noise = [torch.randn((1, height, width), generator=torch_generator(seed, "noise")) for seed in chosen]
            condition = mask_condition(masks_NKHW[start : start + size]) * 2.0 - 1.0
            with autocast(device, config.precision):
                drawn = self.unet(condition.to(device), torch.stack(noise).to(device))
            found.append(to_levels(drawn))
        return np.concatenate(found)


def start(setup: GeneratorSetup, *, images: ImageSource, site: str) -> Pix2PixTraining:
    """Return the training of a new U-Net; all sites begin with the same weights."""
    return Pix2PixTraining(setup, images=images, site=site)


def shapes(setup: GeneratorSetup) -> Shapes:
    """Return the names and shapes of the U-Net's weights."""
    with torch.device("meta"):
        unet = DrawingUNet(SIZES[setup.config.pix2pix.size])
    return {key: tuple(tensor.shape) for key, tensor in unet.state_dict().items()}


def rebuild(arrays: Mapping[str, np.ndarray], setup: GeneratorSetup) -> Pix2PixGenerator:
    """Return the U-Net of a site's arrays, for inference."""
    unet = _new_unet(setup)
    unet.load_state_dict({key: torch.from_numpy(np.array(array)).float() for key, array in arrays.items()})
    return Pix2PixGenerator(unet.to(setup.device).eval().requires_grad_(False), setup)


def save(arrays: Mapping[str, np.ndarray], folder: Path, setup: GeneratorSetup) -> None:
    """Write a site's arrays."""
    write_arrays(arrays, folder, kind="pix2pix")


def load(folder: str | Path, setup: GeneratorSetup) -> Pix2PixGenerator:
    """Return the generator of a folder that :func:`save` wrote."""
    return rebuild(read_arrays(Path(folder)), setup)


def _new_unet(setup: GeneratorSetup) -> DrawingUNet:
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed(setup.config.seed, "pix2pix", "unet"))
        return DrawingUNet(SIZES[setup.config.pix2pix.size])


def _new_judge(size: Pix2PixSize, *, seed: int) -> PatchDiscriminator:
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed(seed, "pix2pix", "discriminator"))
        return PatchDiscriminator(
            spatial_dims=2,
            channels=size.judge_width,
            in_channels=CONDITION_CHANNELS + 3,
            num_layers_d=size.judge_layers,
            norm="INSTANCE",
        )


def _check_side(image_px: int, size: Pix2PixSize) -> None:
    if image_px % size.multiple_px or image_px == size.multiple_px:  # a single pixel has no variance to normalise by
        raise UserError(
            "generator.image_size",
            what=f"Pix2Pix cannot make images of {image_px} pixels (generator.image_px).",
            why=f"Its U-Net halves the side {len(size.widths)} times.",
            fix=f"Set generator.image_px to a larger multiple of {size.multiple_px}.",
        )
