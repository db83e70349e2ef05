"""Where and in which precision models run: the device, autocast and the way arrays get there."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from engine.errors import UserError

Precision = Literal["auto", "fp32", "bf16"]


def resolve_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device to run on; ``auto`` takes CUDA where it is. UserError when CUDA is asked for and absent.

    A process that gets a GPU computes with deterministic kernels from then on: same configuration, seed and GPU, same
    numbers, and a resumed run is the uninterrupted one there too.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError(
            "device.no_cuda",
            what="The configuration asks for device 'cuda', but PyTorch sees no CUDA GPU on this machine.",
            why="Nothing can be placed on a device that is not there.",
            fix="Set device to 'auto' or 'cpu', or run on a machine with an NVIDIA GPU and its driver.",
        )
    if name == "cpu" or not available:
        return torch.device("cpu")
    _use_deterministic_kernels()
    return torch.device("cuda")


def _use_deterministic_kernels() -> None:
    """Make PyTorch refuse every CUDA kernel whose sum depends on the order in which its threads come."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS at its first product
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    # It would also fill every new tensor, against reads of memory never written: slow, and no sum depends on it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the autocast context: bfloat16 where asked for, or with ``auto`` where the device gains from it."""
    enabled = precision == "bf16" or (precision == "auto" and gains_from_bf16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def gains_from_bf16(device: torch.device) -> bool:
    """Return whether bfloat16 is faster there: on GPUs and CPUs with bfloat16 instructions (Ampere; AVX512-BF16, AMX).

    Training steps on one such CPU core: 1.4 to 1.7 times for TinySAM-mini, 2.2 to 3 times for SAM-mini. Elsewhere a CPU
    emulates it, slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def place_model(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Move ``model`` to ``device`` in the channels-last layout that its convolutions run fastest in; returns it."""
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def place_images(image_B3HW: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return float32 images (B,3,H,W) on ``device``, channels-last."""
    return torch.from_numpy(image_B3HW).to(device, memory_format=torch.channels_last)


def place_masks(mask_BKhw: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return masks (B,K,h,w) as float32 on ``device``."""
    return torch.from_numpy(mask_BKhw).to(device, torch.float32)


@dataclass(frozen=True)
class Placement:
    """Where and how a model computes: device, ``fp32`` or ``bf16`` autocast (weights stay float32), memory layout."""

    device: str = "cpu"
    precision: Precision = "fp32"
    channels_last: bool = False

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of a forward pass."""
        return autocast(torch.device(self.device), self.precision)

    def place(self, model: torch.nn.Module) -> torch.nn.Module:
        """Return ``model`` on the device in the chosen layout."""
        device = torch.device(self.device)
        return place_model(model, device) if self.channels_last else model.to(device)

    def batch(self, image_B3HW: np.ndarray) -> torch.Tensor:
        """Return images as a tensor on the device in the chosen layout."""
        device = torch.device(self.device)
        return place_images(image_B3HW, device) if self.channels_last else torch.from_numpy(image_B3HW).to(device)
