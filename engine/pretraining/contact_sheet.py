"""The contact sheet: masks that no training has seen, and what the mini generator draws for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from engine.data.phantoms import TASKS, random_mask
from engine.generation.backbone import WEIGHTS_FOLDER, load_backbone
from engine.generation.conditioning import mask_condition
from engine.generation.controlnet import load_controlnet
from engine.generation.sampling import generate
from engine.models.assets import ASSETS_FOLDER
from engine.seeding import derive_seed

SHEET_PATH = ASSETS_FOLDER / "samples" / "generator_contact_sheet.png"


def write_contact_sheet(
    path: Path = SHEET_PATH,
    *,
    weights: Path = WEIGHTS_FOLDER,
    columns: int = 5,
    image_px: int = 128,
    steps: int = 20,
    guidance: float = 2.0,
    seed: int = 7,
) -> Path:
    """Write a PNG with one row a task, ``columns`` pairs of mask (colours as the ControlNet sees them) and image."""
    backbone = load_backbone(weights / "ldm-mini")
    controlnet = load_controlnet(weights / "controlnet-mini")
    rows = []
    for task in TASKS.values():
        masks = np.stack([random_mask(task.name, index=i, image_px=image_px, seed=seed) for i in range(columns)])
        images = generate(
            backbone,
            controlnet,
            masks,
            seeds=[derive_seed(seed, "contact sheet", task.name, index) for index in range(columns)],
            prompt=task.modality,
            steps=steps,
            guidance=guidance,
        )
        pictures = (mask_condition(masks).numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        rows.append(np.concatenate([part for pair in zip(pictures, images, strict=True) for part in pair], axis=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path, optimize=True)
    return path
