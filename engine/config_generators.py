"""The sections of a configuration that are about the sites' image generators, and what each kind of generator is.

Torch-free: form, plan, hashes and messages are made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from engine.config_fields import (
    Batch,
    Delta,
    Factor,
    Fraction,
    NoiseSource,
    Plain,
    PositiveFactor,
    Section,
    Source,
    StepSize,
)

GeneratorKindName = Literal["controlnet", "controlnet_lora", "pix2pix", "ddpm"]


class GeneratorConfig(Section):
    """The image generator that each site trains (Eq. 1); settings of one kind alone are in a section of its own."""

    kind: GeneratorKindName = Field(
        "controlnet", description="ControlNet [P], ControlNet as LoRA (ours), Pix2Pix or DDPM as compared with [P]"
    )
    backbone: Source = Field("ldm-mini", description="Registry name or folder of the frozen latent diffusion model")
    controlnet: Source | None = Field(
        "controlnet-mini", description="Mask-conditioned ControlNet to start from; zero convolutions when left out"
    )
    asynchronous: bool = Field(
        False, description="Sites train it while the student's rounds go on, which do not wait for it [P]; off: after"
    )
    steps: int = Field(150, ge=1, le=1_000_000, description="Optimiser steps at a site (ours)")
    batch_size: Batch = Field(4, description="Images in a batch [D: 4]")
    accumulation: Batch = Field(1, description="Batches summed before an optimiser step")
    learning_rate: StepSize = Field(1e-5, description="AdamW step size [D: 1e-5]")
    image_px: Annotated[int, Field(ge=32, le=1024)] = Field(128, description="Side of the generated image, pixels")
    gradient_checkpointing: bool = Field(False, description="Less memory, slower")
    optimiser_8bit: bool = Field(False, description="8-bit AdamW; needs bitsandbytes and a CUDA GPU")
    empty_prompt_fraction: Fraction = Field(0.1, description="Share of batches with an empty prompt (ours)")
    prompt: Annotated[str, Plain] | None = Field(
        None, max_length=1000, description="Text prompt; the dataset's modality when left out"
    )
    dp_noise_multiplier: PositiveFactor | None = Field(
        None, description="DP-SGD: noise on a step's gradient over dp_clip_norm; no privacy when left out (ours)"
    )
    dp_clip_norm: PositiveFactor = Field(
        1.0, description="DP-SGD: L2 norm that each drawn patient's gradient is shortened to (ours)"
    )
    dp_delta: Delta = Field(1e-5, description="DP-SGD: delta of epsilon; far below 1 / patients of a site (ours)")
    dp_noise_source: NoiseSource = Field(
        "auto", description="DP-SGD: noise and drawn patients of the seed or the system, as privacy.noise_source (ours)"
    )

    @property
    def is_private(self) -> bool:
        """Whether it is trained by DP-SGD."""
        return self.dp_noise_multiplier is not None

    def sampling_rate(self, patients: int) -> float:
        """Return the probability that DP-SGD draws each of ``patients`` in a step: a batch is expected, at most all."""
        return min(1.0, self.batch_size * self.accumulation / patients)

    def privacy_fault(self) -> str | None:
        """Return why DP-SGD cannot be with the other settings, None where it can."""
        if not self.is_private:
            return None
        if "dp_noise_multiplier" in GENERATORS[self.kind].unread:
            return (
                f"generator.dp_noise_multiplier needs a ControlNet, and generator.kind is '{self.kind}': it would be "
                "trained without noise"
            )
        if self.gradient_checkpointing:
            return (
                "generator.dp_noise_multiplier needs generator.gradient_checkpointing off: a layer that is worked out "
                "twice has no gradient of each patient"
            )
        return None


class GeneratorLoraConfig(Section):
    """ControlNet as LoRA: low-rank updates of its copied layers (Hu et al., ICLR 2022)."""

    rank: int = Field(8, ge=1, le=1024, description="Rank of each update (ours)")
    alpha: Annotated[float, Field(gt=0, le=1e6)] = Field(8.0, description="Updates are scaled by alpha / rank (ours)")


class Pix2PixConfig(Section):
    """A U-Net against a patch discriminator (Isola et al., CVPR 2017)."""

    size: Literal["mini", "paper"] = Field("mini", description="mini, or the widths and depth of Isola et al.")
    learning_rate: StepSize = Field(2e-4, description="Adam step size of both networks (Isola et al.: 2e-4)")
    l1_weight: Factor = Field(100.0, description="Weight of the L1 loss beside the adversarial one (Isola et al.: 100)")


class DdpmConfig(Section):
    """A diffusion model in pixel space that sees the mask as further channels (Ho et al., NeurIPS 2020)."""

    size: Literal["mini", "paper"] = Field("mini", description="mini, or the widths of Ho et al. for 256 pixels")
    learning_rate: StepSize = Field(2e-4, description="Adam step size (Ho et al.: 2e-4)")


class ReleaseConfig(Section):
    """What a site measures of its generator before it leaves, and what keeps it there (ours)."""

    check: bool = Field(False, description="Measure quality and memorisation; a site's own rules can demand it (ours)")
    images: int = Field(
        32, ge=2, le=10_000, description="Images drawn from training masks and from held-out masks, at most (ours)"
    )
    most_membership_auc: Annotated[float, Field(ge=0.5, le=1)] = Field(
        0.9, description="A generator that tells training from held-out images better than this is withheld (ours)"
    )
    most_copies: int | None = Field(
        None, ge=0, le=10_000, description="Copies of training images above which it is withheld; any when left out"
    )
    on_withheld: Literal["stop", "skip"] = Field(
        "stop", description="A site withholds its generator: stop the run, or go on without it (ours)"
    )
    inception: Source | None = Field(
        None, description="File of torch-fidelity's Inception weights; SAM's features alone when left out"
    )


@dataclass(frozen=True)
class GeneratorSpec:
    """What one kind of generator is, in words; ``engine.generation.kinds`` has a file for each."""

    title: str
    trained: str
    """Half a sentence: what learns at a site."""
    sent: str
    """Half a sentence: what goes up, and what stays."""
    section: str | None
    """The section that this kind alone reads."""
    unread: tuple[str, ...] = ()
    """Keys of ``generator`` that it does not read."""
    has_backbone: bool = True
    """Whether it steers a frozen latent diffusion model that server and sites have."""


_OF_CONTROLNET = (
    "backbone", "controlnet", "accumulation", "learning_rate", "gradient_checkpointing", "optimiser_8bit",
    "empty_prompt_fraction", "prompt", "dp_noise_multiplier", "dp_clip_norm", "dp_delta", "dp_noise_source",
)  # fmt: skip
GENERATORS: Mapping[str, GeneratorSpec] = {
    "controlnet": GeneratorSpec(
        "ControlNet",
        "all weights of a ControlNet on a frozen latent diffusion model",
        "all weights of the ControlNet, in half precision",
        section=None,
    ),
    "controlnet_lora": GeneratorSpec(
        "ControlNet as LoRA",
        "low-rank updates of a ControlNet's copied layers, its mask embedding and its closing zero convolutions",
        "these alone, in half precision; server and sites begin with the same ControlNet",
        section="generator_lora",
    ),
    "pix2pix": GeneratorSpec(
        "Pix2Pix",
        "a U-Net that draws from the mask, and a discriminator that judges it",
        "the U-Net's weights, in half precision; the discriminator stays at the site",
        section="pix2pix",
        unread=_OF_CONTROLNET,
        has_backbone=False,
    ),
    "ddpm": GeneratorSpec(
        "DDPM",
        "a diffusion model in pixel space, all of it",
        "all of its weights, in half precision",
        section="ddpm",
        unread=_OF_CONTROLNET,
        has_backbone=False,
    ),
}
SECTION_OF: Mapping[str, str] = {spec.section: name for name, spec in GENERATORS.items() if spec.section is not None}
"""The kind that reads a section, by the section."""


def unread_of_kind(kind: str) -> frozenset[str]:
    """Return the sections of other kinds of generator than ``kind``."""
    return frozenset(section for section, reader in SECTION_OF.items() if reader != kind)
