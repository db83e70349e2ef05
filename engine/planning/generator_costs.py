"""What a site's generator weighs and costs, of whichever kind. Torch-free.

Parameters are held equal to the real models by ``tests/unit/test_planning.py``; GFLOP and activations were counted once
on them. Rates of Pix2Pix and DDPM at mini size come from single steps on a busy machine; those of the paper's sizes,
and activations there, are assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.config import RunConfig
from engine.planning.costs import GENERATORS, TRAIN_BYTES_PER_PARAMETER, TRAIN_PASSES, generator_size

JUDGED = 3
"""Passes of Pix2Pix's discriminator in a step: the real picture, the drawn one, and the drawn one for the U-Net."""


@dataclass(frozen=True)
class GeneratorWork:
    """One generator at ``image_px``; GFLOP of one image."""

    trained_parameters: int
    sent_parameters: int
    frozen_parameters: int
    image_px: int
    train_gflop: float
    encode_gflop: float
    """Once for each image of the site, before training."""
    pass_gflop: float
    """One pass while drawing; how many there are, see ``passes``."""
    passes: int
    decode_gflop: float
    activation_mb: float
    cpu_gflops: float
    cuda_gflops: float
    cuda_sampling_gflops: float
    multiple_px: int | None
    """What an image's side must be a multiple of; None where the backbone says."""

    @property
    def parameters(self) -> int:
        """All that is loaded to draw."""
        return self.frozen_parameters + self.sent_parameters


@dataclass(frozen=True)
class LoraSize:
    """Parameters of a ControlNet's updates for each rank, and of what learns as a whole."""

    of_each_rank: int
    whole: int


@dataclass(frozen=True)
class PixelGeneratorCost:
    """A generator without a backbone at ``image_px``; ``judge_*`` is what learns with it and stays at the site."""

    parameters: int
    image_px: int
    gflop: float
    activation_mb: float
    cpu_gflops: float
    multiple_px: int
    judge_parameters: int = 0
    judge_gflop: float = 0.0


LORA: Mapping[str, LoraSize] = {"mini": LoraSize(17_792, 406_000), "sd15": LoraSize(274_752, 12_566_160)}
PIXEL_GENERATORS: Mapping[tuple[str, str], PixelGeneratorCost] = {
    ("pix2pix", "mini"): PixelGeneratorCost(454_979, 128, 0.156, 17.0, 60.0, 16, 168_993, 0.348),
    ("pix2pix", "paper"): PixelGeneratorCost(21_280_387, 256, 2.756, 200.0, 110.0, 128, 2_766_913, 6.394),
    ("ddpm", "mini"): PixelGeneratorCost(1_807_139, 128, 11.345, 119.0, 90.0, 4),
    ("ddpm", "paper"): PixelGeneratorCost(113_676_675, 256, 497.5, 4000.0, 220.0, 32),
}


def generator_work(config: RunConfig) -> GeneratorWork:
    """Return the row of the generator that the configuration names."""
    part = config.generator
    if part.kind not in ("controlnet", "controlnet_lora"):
        return _pixel_work(config)
    size = generator_size(part.backbone)
    cost = GENERATORS[size]
    trained, frozen = cost.controlnet_parameters, cost.backbone_parameters
    if part.kind == "controlnet_lora":
        trained = LORA[size].whole + config.generator_lora.rank * LORA[size].of_each_rank
        frozen += cost.controlnet_parameters
    guided = 2 if config.generation.guidance_scale > 1 else 1
    return GeneratorWork(
        trained_parameters=trained,
        sent_parameters=trained,
        frozen_parameters=frozen,
        image_px=cost.image_px,
        # The frozen U-Net passes gradients on through its decoder: about one more forward pass of it.
        train_gflop=2 * cost.unet_gflop + TRAIN_PASSES * cost.controlnet_gflop,
        encode_gflop=cost.encode_gflop,
        pass_gflop=cost.unet_gflop + cost.controlnet_gflop,
        passes=config.generation.sampler_steps * guided,
        decode_gflop=cost.decode_gflop,
        activation_mb=cost.activation_mb,
        cpu_gflops=cost.cpu_gflops,
        cuda_gflops=cost.cuda_gflops,
        cuda_sampling_gflops=cost.cuda_sampling_gflops,
        multiple_px=None,
    )


def _pixel_work(config: RunConfig) -> GeneratorWork:
    kind = config.generator.kind
    cost = PIXEL_GENERATORS[kind, pixel_size(config)]
    rates = GENERATORS["mini" if pixel_size(config) == "mini" else "sd15"]  # on a GPU, assumed alike for their size
    return GeneratorWork(
        trained_parameters=cost.parameters + cost.judge_parameters,
        sent_parameters=cost.parameters,
        frozen_parameters=0,
        image_px=cost.image_px,
        train_gflop=TRAIN_PASSES * (cost.gflop + JUDGED * cost.judge_gflop),
        encode_gflop=0.0,
        pass_gflop=cost.gflop,
        passes=config.generation.sampler_steps if kind == "ddpm" else 1,
        decode_gflop=0.0,
        activation_mb=cost.activation_mb,
        cpu_gflops=cost.cpu_gflops,
        cuda_gflops=rates.cuda_gflops,
        cuda_sampling_gflops=rates.cuda_sampling_gflops,
        multiple_px=cost.multiple_px,
    )


def pixel_size(config: RunConfig) -> str:
    """Return the size of a generator without a backbone."""
    return config.pix2pix.size if config.generator.kind == "pix2pix" else config.ddpm.size


def state_bytes(config: RunConfig, work: GeneratorWork) -> float:
    """Return the memory of training without activations: frozen weights, and weight, gradient and moments of others."""
    optimiser = TRAIN_BYTES_PER_PARAMETER - (6 if config.generator.optimiser_8bit else 0)
    return 4 * work.frozen_parameters + optimiser * work.trained_parameters


def is_mini(config: RunConfig) -> bool:
    """Return whether the generator is of a size whose rates were measured."""
    if config.generator.kind in ("controlnet", "controlnet_lora"):
        return generator_size(config.generator.backbone) == "mini"
    return pixel_size(config) == "mini"
