"""Which way of looking at images a model is best at, by masks at the images' own resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from engine.data.sources import Item
from engine.data.tiling import MOST_LOOKS, Eye, Looks, Run, resize_logits
from engine.evaluation.mask_dice import mean_dice
from engine.evaluation.segmentation import eval_mode
from engine.models.execution import place_images, place_model

WAYS: tuple[Looks, ...] = get_args(Looks)
NUM_IMAGES = "num_images"
Figures = dict[str, float]
"""Mean Dice of each way of looking, in [0, 1], and ``num_images``."""


def compare_looks(eye: Eye, run: Run, images: Iterable[tuple[np.ndarray, np.ndarray]]) -> Figures | None:
    """Return the mean Dice of each way over (image (H, W, 3), mask (K, H, W)); None without any image."""
    found = [[_dice(eye, run, image, true, looks) for looks in WAYS] for image, true in images]
    if not found:
        return None
    means = np.mean(found, axis=0)
    return {way: round(float(mean), 6) for way, mean in zip(WAYS, means, strict=True)} | {NUM_IMAGES: len(found)}


def measure_looks(
    model: nn.Module,
    items: Sequence[Item],
    *,
    eye: Eye,
    device: torch.device,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Figures | None:
    """Return :func:`compare_looks` of a model over as many of ``items``, evenly, as ``MOST_LOOKS`` are enough for."""

    def run(image_13gg: np.ndarray) -> np.ndarray:
        check_cancelled()
        return model(place_images(image_13gg, device)).float()[0].cpu().numpy()

    if not items:
        return None
    place_model(model, device)
    first = items[0].read()[0]
    each = sum(eye.num_looks((first.shape[0], first.shape[1]), looks) for looks in WAYS)
    count = min(len(items), max(1, MOST_LOOKS // each))
    chosen = [items[place * len(items) // count] for place in range(count)]
    with eval_mode(model), torch.inference_mode():
        return compare_looks(eye, run, (item.read() for item in chosen))


def together(of_sites: Iterable[Mapping[str, float]]) -> Figures | None:
    """Return the figures of all images of several sites; None where no site has any."""
    told = list(of_sites)
    count = sum(int(site[NUM_IMAGES]) for site in told)
    if not count:
        return None
    means = {way: round(sum(site[way] * site[NUM_IMAGES] for site in told) / count, 6) for way in WAYS}
    return means | {NUM_IMAGES: count}


def fault_of(told: Mapping[str, Any], *, most_images: int) -> str | None:
    """Return what is wrong with figures that a site sends, None where nothing is; some sites send none."""
    if not told:
        return None
    if told.keys() != {*WAYS, NUM_IMAGES} or not all(isinstance(value, int | float) for value in told.values()):
        return f"its figures are {sorted(told)[:5]}, not Dice of {', '.join(WAYS)}"
    count = told[NUM_IMAGES]
    if not all(0 <= told[way] <= 1 for way in WAYS) or not (1 <= count <= most_images and count == int(count)):
        return "a Dice is outside [0, 1], or its images are not as many as it has said"
    return None


def _dice(eye: Eye, run: Run, image_HW3: np.ndarray, true_KHW: np.ndarray, looks: Looks) -> float:
    size_hw = (image_HW3.shape[0], image_HW3.shape[1])
    logits_Khw = eye.look(run, image_HW3, looks)
    logits_KHW = resize_logits(logits_Khw, size_hw=size_hw, part=eye.part_of(size_hw, looks))
    return mean_dice(logits_KHW > 0, true_KHW)
