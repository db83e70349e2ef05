"""ControlNet (Eq. 1): made from the backbone or from mask-conditioned weights, sent as arrays, kept as a folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel

from engine.errors import UserError
from engine.generation.backbone import Backbone, Outline, find_folder, save_half
from engine.generation.training import ControlNetTraining
from engine.seeding import derive_seed

__all__ = [
    "ControlNetTraining",
    "blank_controlnet",
    "controlnet_arrays",
    "load_controlnet",
    "new_controlnet",
    "save_controlnet",
]

SILU_GAIN = 1.2
"""What SiLU loses more than the ReLU that Kaiming's start is made for."""
_EMBEDDING_WIDTHS = (16, 32, 96, 256)
"""Widths of the mask embedding in the released ControlNets; each step after the first halves the side."""


def new_controlnet(
    backbone: Backbone, *, source: str | Path | None, seed: int, device: torch.device | str = "cpu"
) -> ControlNetModel:
    """Return a trainable ControlNet, float32, in training mode.

    Parameters
    ----------
    source : str, Path or None
        Registry name or folder of mask-conditioned weights to start from (what the paper's sites do); None copies the
        encoder half of the backbone's U-Net and closes it with zero convolutions, so that the first output equals the
        backbone's (Eq. 1 with Z = 0).
    seed : int
        Names the stream of the mask embedding's random start (``source`` None only).

    Raises
    ------
    UserError
        ``generator.controlnet_absent``, or ``generator.controlnet_misfit`` when it belongs to another backbone.
    """
    if source is not None:
        controlnet = load_controlnet(source, device=device)
        # diffusers gives a tuple or, after a round trip through JSON, a list.
        if tuple(controlnet.config.block_out_channels) != tuple(backbone.unet.config.block_out_channels):
            raise UserError(
                "generator.controlnet_misfit",
                what=f"The ControlNet '{source}' has widths {tuple(controlnet.config.block_out_channels)}, "
                f"the backbone {tuple(backbone.unet.config.block_out_channels)}.",
                why="A ControlNet adds to the features of the U-Net that it was copied from.",
                fix="Set generator.controlnet to weights of this backbone, or leave it out to start from the backbone.",
            )
        return controlnet.train().requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed(seed, "controlnet"))
        controlnet = _from_backbone(backbone)
        _keep_signal(controlnet)
    return controlnet.to(device).train()


def load_controlnet(name_or_folder: str | Path, *, device: torch.device | str = "cpu") -> ControlNetModel:
    """Return the ControlNet in a folder, or in ``assets/weights/NAME``, as float32 for inference on ``device``."""
    folder = find_folder(name_or_folder)
    if folder is None or not (folder / "config.json").is_file():
        raise UserError(
            "generator.controlnet_absent",
            what=f"There is no ControlNet '{name_or_folder}'.",
            why="Sites start from mask-conditioned weights, and the server generates with what they trained.",
            fix="Run `python -m engine pretrain controlnet`, give the folder of a ControlNet in the diffusers layout, "
            "or leave generator.controlnet out.",
        )
    controlnet = ControlNetModel.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    return controlnet.to(device).eval().requires_grad_(False)


def save_controlnet(controlnet: ControlNetModel, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write ``controlnet`` as a diffusers folder; it appears whole or not at all, and replaces an earlier one."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    save_half(controlnet, temporary, dtype=dtype)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)


def controlnet_arrays(controlnet: ControlNetModel) -> dict[str, np.ndarray]:
    """Return what a site uploads: every weight of its ControlNet as float16, half the bytes of float32."""
    return {key: tensor.detach().cpu().half().numpy() for key, tensor in controlnet.state_dict().items()}


def blank_controlnet(backbone: Backbone | Outline) -> ControlNetModel:
    """Return a ControlNet of the backbone's shapes, to be given weights."""
    return _from_backbone(backbone, copy_weights=False)


def _from_backbone(backbone: Backbone | Outline, *, copy_weights: bool = True) -> ControlNetModel:
    levels = len(backbone.vae.config.block_out_channels)
    widest = backbone.unet.config.block_out_channels[0]
    return ControlNetModel.from_unet(
        backbone.unet,
        conditioning_embedding_out_channels=tuple(min(width, widest) for width in _EMBEDDING_WIDTHS[:levels]),
        load_weights_from_unet=copy_weights,
    )


def _keep_signal(controlnet: ControlNetModel) -> None:
    """Start the mask embedding's convolutions so that a mask keeps its strength on the way to the closing zero one.

    PyTorch's own start loses half of it in each of the seven layers, and a ControlNet then needs thousands of steps
    before it notices its mask (the "sudden convergence" of methods.md 7).
    """
    embedding = controlnet.controlnet_cond_embedding
    for convolution in (embedding.conv_in, *embedding.blocks):
        torch.nn.init.kaiming_normal_(convolution.weight)
        convolution.weight.data.mul_(SILU_GAIN)
