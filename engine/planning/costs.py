"""What models weigh and what a pass through them costs: tables, and the arithmetic on them. Torch-free.

Parameters, strides and the bytes of the state that crosses a site's border are held equal to the real models by
``tests/unit/test_planning.py``. GFLOP of a forward pass and the activations that training keeps were counted once on
those models; no test follows them. Of SAM with adapters ViT-B and ViT-L, adapters' operations were added to SAM's, and
activations are SAM's times 0.743, as counted at 256 pixels.

Seconds are GFLOP divided by a rate, scaled by a short test of this machine that ``calibration`` keeps. The rates of
the mini SAM, TinySAM and generator were set from CPU seconds of single steps and then lowered towards one whole run,
both on a machine that was busy with other work. Those of the U-Net and of the official sizes on a CPU are assumed, not
measured. Those on CUDA come from `python -m bench.paper_scale --preset-batches --repeats 8` on one H100, with
deterministic kernels; those of the mini sizes, of SAM ViT-L, of SAM with adapters
and of nnU-Net's U-Net there are assumed, and all of U-Nets on timm's encoders.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from engine.models.assets import find_weights_folder

GIB = 2**30
TRAIN_PASSES = 3.0
"""Forward and backward together cost three forward passes."""
TRAIN_BYTES_PER_PARAMETER = 16
"""float32 weight, gradient and Adam's two moments."""

REFERENCE_CORES = 2
REFERENCE_CORE_GFLOPS = 97.0
"""Small float32 matrix products on one core of the reference machine (AMD EPYC), GFLOP/s."""
CORES_EXPONENT = 0.7
"""Models of this size gain less than n-fold from n cores (ours)."""
BF16_GAIN = 1.6
"""What bfloat16 gives on a CPU that has it; on others, and with precision = fp32, rates are so much lower."""
SMALL_IMAGE_PX = 128
"""Below this side, layers are too small to fill the vector units; the rate falls with the side."""


@dataclass(frozen=True)
class ModelCost:
    """One model at its native side: GFLOP of one image forward, and MB of activations that its training keeps."""

    parameters: int
    state_bytes: int
    image_px: int
    gflop: float
    activation_mb: float
    cpu_gflops: float
    """GFLOP/s on the reference machine's two cores in bfloat16; where each comes from, see the module's docstring."""
    cuda_gflops: float
    """GFLOP/s of training in bfloat16 on one H100. What is small or full of small layers waits for its launches."""
    feature_stride: int
    mask_stride: int
    """Pixels per feature cell, which the side must be a multiple of, and pixels per logit."""
    feature_channels: int | None = None
    """Width of the image encoder's features, where the model is an encoder and a decoder."""
    trained: int | None = None
    """Parameters that learn, where the others are frozen."""

    @property
    def trained_parameters(self) -> int:
        """Parameters that learn."""
        return self.parameters if self.trained is None else self.trained


MODELS: dict[tuple[str, str], ModelCost] = {
    ("sam", "mini"): ModelCost(3_571_584, 14_286_848, 128, 1.689, 28.6, 160.0, 1_000.0, 8, 2, 128),
    ("sam", "vit_b"): ModelCost(93_735_472, 374_942_912, 1024, 975.7, 6611.0, 220.0, 45_000.0, 16, 4, 256),
    ("sam", "vit_l"): ModelCost(312_342_832, 1_249_372_352, 1024, 2989.0, 13403.0, 240.0, 45_000.0, 16, 4, 256),
    ("msa", "mini"): ModelCost(3_795_648, 15_183_104, 128, 1.803, 20.8, 160.0, 1_000.0, 8, 2, 128, 848_820),
    ("msa", "vit_b"): ModelCost(
        100_836_400, 403_346_624, 1024, 1037.5, 4915.0, 220.0, 45_000.0, 16, 4, 256, 11_159_268
    ),
    ("msa", "vit_l"): ModelCost(
        337_570_096, 1_350_281_408, 1024, 3212.0, 9965.0, 240.0, 45_000.0, 16, 4, 256, 29_285_604
    ),
    ("tinysam", "mini"): ModelCost(1_389_680, 5_572_568, 128, 0.502, 21.4, 70.0, 400.0, 8, 2, 128),
    ("tinysam", "5m"): ModelCost(9_808_452, 39_274_472, 1024, 81.1, 2393.0, 110.0, 7_000.0, 16, 4, 256),
    ("unet", "mini"): ModelCost(1_625_420, 6_501_680, 128, 0.382, 7.0, 90.0, 400.0, 16, 1),
    ("unet", "paper"): ModelCost(3_071_558, 12_286_232, 1024, 45.9, 605.0, 110.0, 10_000.0, 16, 1),
    ("nnunet", "mini"): ModelCost(1_290_388, 5_161_552, 128, 0.451, 10.4, 90.0, 400.0, 32, 1),
    ("nnunet", "paper"): ModelCost(3_512_999, 14_051_996, 1024, 90.4, 1285.0, 110.0, 10_000.0, 256, 1),
    ("nnunet", "planned"): ModelCost(59_161_159, 236_644_636, 1024, 479.0, 2641.0, 110.0, 10_000.0, 256, 1),
    ("timm", "mobilenetv3"): ModelCost(495_549, 2_010_964, 128, 0.275, 11.1, 90.0, 400.0, 32, 1),
    ("timm", "resnet10"): ModelCost(6_005_881, 24_051_300, 128, 1.238, 16.5, 90.0, 400.0, 32, 1),
    ("timm", "resnet18"): ModelCost(13_719_409, 54_924_212, 384, 21.724, 179.6, 110.0, 10_000.0, 32, 1),
    ("timm", "resnet34"): ModelCost(23_827_569, 95_386_676, 384, 32.596, 209.2, 110.0, 10_000.0, 32, 1),
    ("timm", "pvt_v2"): ModelCost(4_078_481, 16_317_828, 384, 5.221, 162.5, 110.0, 10_000.0, 32, 2),
}


@dataclass(frozen=True)
class GeneratorCost:
    """A latent diffusion model with its ControlNet at ``image_px``; GFLOP of one image through each part."""

    backbone_parameters: int
    controlnet_parameters: int
    image_px: int
    unet_gflop: float
    controlnet_gflop: float
    encode_gflop: float
    decode_gflop: float
    activation_mb: float
    cpu_gflops: float
    cuda_gflops: float
    """GFLOP/s of training in bfloat16 on one H100, in batches of one with checkpointing where the size needs it."""
    cuda_sampling_gflops: float
    """The same of drawing images, in batches."""


GENERATORS: dict[str, GeneratorCost] = {
    "mini": GeneratorCost(9_479_531, 3_783_216, 128, 0.901, 0.776, 0.711, 2.274, 15.5, 125.0, 400.0, 1_000.0),
    "sd15": GeneratorCost(
        1_028_684_647, 361_279_120, 512, 803.3, 283.3, 1116.7, 2514.5, 4500.0, 220.0, 9_000.0, 80_000.0
    ),
}


def generator_size(backbone: str) -> str:
    """Return the row of ``GENERATORS`` for a backbone's name or folder: by its U-Net's widths, else by its name."""
    folder = find_weights_folder(backbone)
    if folder is not None and (folder / "unet" / "config.json").is_file():
        widths = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
        return "mini" if max(widths.get("block_out_channels", [320])) < 320 else "sd15"
    return "mini" if "mini" in backbone else "sd15"


def model_cost(name: str, size: str) -> ModelCost:
    """Return the row of a model; an unknown size counts as the family's largest."""
    known = MODELS.get((name, size))
    return known or max((row for key, row in MODELS.items() if key[0] == name), key=lambda row: row.parameters)


def scale(image_px: int, native_px: int) -> float:
    """Return how much dearer an image of ``image_px`` is than one of ``native_px``: with its area."""
    return (image_px / native_px) ** 2


@dataclass(frozen=True)
class Speed:
    """How fast this machine is, relative to the reference machine: its two cores (CPU), or one H100 (CUDA)."""

    device: str
    factor: float

    def seconds(self, gflop: float, *, cpu_gflops: float, cuda_gflops: float, image_px: int) -> float:
        """Return the seconds of ``gflop`` GFLOP in a part that reaches these rates on the reference machine."""
        if self.device == "cuda":
            return gflop / (cuda_gflops * self.factor)
        return gflop / (cpu_gflops * self.factor * min(1.0, image_px / SMALL_IMAGE_PX))


def has_bf16() -> bool:
    """Return whether this CPU multiplies bfloat16 numbers in hardware (Linux tells; elsewhere no)."""
    try:
        return "_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
