"""Pictures with masks that are pictures, too: read by the project's own readers, brought to planes of {0, 1}."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from engine.data.prepare.downloads import Entry
from engine.data.prepare.records import Bench, Case, LeaveOut, Made
from engine.data.readers import image_info, read_image, read_mask

Planes = Callable[[list[Path]], Mapping[str, np.ndarray]]
"""From the paths of a case's mask files to its planes (H, W) by class."""


def picture_case(
    site: str, name: str, image: Entry, masks: tuple[Entry, ...], planes: Planes, *, patient: str | None = None
) -> Case:
    """Return the case of an image that is copied as it is and of masks that are drawn anew as PNG."""
    return Case(site, name, patient, (image, *masks), partial(_made, image=image, masks=masks, planes=planes))


def _made(bench: Bench, *, image: Entry, masks: tuple[Entry, ...], planes: Planes) -> Made:
    size = image_info(bench.local(image))
    found = planes([bench.local(mask) for mask in masks])
    for plane in found.values():
        require_size(plane, (size.height_px, size.width_px))
    return Made(image, found)


def require_size(plane: np.ndarray, size: tuple[int, int]) -> None:
    """Raise ``LeaveOut`` where a mask is not of its image's (height, width)."""
    if plane.shape != size:
        raise LeaveOut(f"its mask is {plane.shape[1]} x {plane.shape[0]} pixels, the image {size[1]} x {size[0]}")


def brightness(path: Path) -> np.ndarray:
    """Return how bright each pixel is shown, (H, W) float32 in [0, 255]: of masks saved as JPEG, RGB or 16 bits."""
    pixels, _ = read_image(path)
    if pixels.dtype.kind == "f":
        return pixels.mean(axis=2, dtype=np.float32) * 255
    return pixels.mean(axis=2, dtype=np.float32) * np.float32(255 / np.iinfo(pixels.dtype).max)


def bright(path: Path, *, above: float = 127.5) -> np.ndarray:
    """Return (H, W) bool: brighter than ``above`` of 255."""
    return brightness(path) > above


def labels(path: Path) -> np.ndarray:
    """Return the stored numbers of a mask (H, W): palette indices, or grey levels."""
    return read_mask(path, white=None)


def white(paths: list[Path]) -> dict[str, np.ndarray]:
    """Return the plane of a mask with one class, white on black."""
    return {"": bright(paths[0])}
