"""Images to try a model on: real ones that came with it, else drawn ones. None leaves this machine."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app import text

if TYPE_CHECKING:
    from app.studio import Studio

FOLDER = "examples"
"""Beside a shipped model, images that its training never saw, with where they are from in SOURCE.md."""
SHIPPED = "shipped/"
MOST = 4
EXAMPLE_PX = 256
FIRST_PHANTOM = 9000
"""Index of the first drawn example: far beyond the indices that runs train and test on."""


def captioned(studio: Studio, key: str) -> list[tuple[np.ndarray, str]]:
    """Return (picture, caption) of the model's examples; none where there is neither a file nor a built-in phantom."""
    files, many = _files(studio, key), MOST
    if files:
        many = len(files)
    elif not _can_be_drawn(studio, key):
        return []
    return [
        (shown(studio, key, image(studio, key, number)), text.SAMPLE_BUTTON.format(number=number + 1))
        for number in range(many)
    ]


def are_real(studio: Studio, key: str) -> bool:
    """Return whether the model's examples are images that somebody took."""
    return bool(_files(studio, key))


def image(studio: Studio, key: str, number: int) -> np.ndarray:
    """Return an example, (H, W, 3): a file, or a phantom of a site that the training did not see, drawn now.

    A model of real images has seen no phantom site: the task's first one stands in.
    """
    files = _files(studio, key)
    if files:
        from engine.data.readers import read_image

        return read_image(files[min(number, len(files) - 1)], **studio.manifest(key).reading)[0]
    from engine.data.phantoms import TASKS

    manifest = studio.manifest(key)
    sites = TASKS[manifest.task].sites
    held_out = manifest.config.get("data", {}).get("held_out")
    site = held_out if held_out in sites else (sites[0] if held_out else sites[-1])
    return _drawn(manifest.task, site, FIRST_PHANTOM + number)


@lru_cache(maxsize=32)
def _drawn(task: str, site: str, index: int) -> np.ndarray:
    """Return a phantom, read-only; each visitor's page asks for the same ones, which takes 30 ms an image to draw."""
    from engine.data.phantoms import render

    image_HW3 = render(task, site=site, index=index, image_px=EXAMPLE_PX).image
    image_HW3.setflags(write=False)
    return image_HW3


def shown(studio: Studio, key: str, image_HW3: np.ndarray) -> np.ndarray:
    """Return an image (uint8) as the model is given its values: a dark one would be shown black."""
    from export.results import as_seen

    return as_seen(image_HW3, studio.manifest(key).normalise)


def _files(studio: Studio, key: str) -> list[Path]:
    """Return the files of a model that came with the program; an imported one's would be somebody's."""
    if not key.startswith(SHIPPED):
        return []
    return sorted((studio.bundle_folder(key) / FOLDER).glob("*.png"))[:MOST]


def _can_be_drawn(studio: Studio, key: str) -> bool:
    from engine.data.phantoms import TASKS

    return studio.manifest(key).task in TASKS
