"""Small datasets on disk for the data tests: real files, a few pixels each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

DESCRIPTION = 'name = "toy"\nmodality = "test pictures"\nclasses = ["blob"]\n'
TWO_CLASSES = 'name = "toy"\nmodality = "test pictures"\nclasses = ["disc", "cup"]\n'


def picture(number: int, *, height: int = 12, width: int = 16) -> np.ndarray:
    """Return (height, width, 3) uint8 noise that only ``number`` decides."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture_at(site: str, number: int, *, height: int = 12, width: int = 16) -> np.ndarray:
    """Return the picture that ``site`` stores under ``number``; no two sites store the same."""
    return picture(1000 * sum(site.encode()) + number, height=height, width=width)


def blob(*, height: int = 12, width: int = 16, value: int = 255) -> np.ndarray:
    """Return (height, width) uint8 with a rectangle of ``value``."""
    mask = np.zeros((height, width), np.uint8)
    mask[2:7, 3:9] = value
    return mask


def write_png(path: Path, pixels: np.ndarray) -> Path:
    """Write ``pixels`` as PNG, making folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_site(root: Path, site: str, *, count: int = 4, groups: list[str] | None = None, start: int = 0) -> None:
    """Write ``count`` images with masks, and ``meta.csv`` where ``groups`` are given."""
    for number in range(start, start + count):
        write_png(root / site / "images" / f"img_{number}.png", picture_at(site, number))
        write_png(root / site / "masks" / f"img_{number}.png", blob())
    if groups is not None:
        rows = "".join(f"img_{start + k}.png,{group}\n" for k, group in enumerate(groups))
        (root / site / "meta.csv").write_text(f"file,group\n{rows}", encoding="utf-8")


def write_dataset(
    root: Path, *, sites: tuple[str, ...] = ("alpha", "beta", "gamma"), count: int = 4, description: str = DESCRIPTION
) -> Path:
    """Write a sound one-class dataset and return ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.toml").write_text(description, encoding="utf-8")
    for site in sites:
        write_site(root, site, count=count)
    return root


def write_npy_layout(root: Path, *, sites: tuple[str, ...] = ("a", "b"), channels: int = 1, image_px: int = 32) -> Path:
    """Write the authors' layout: masks a quarter of the images' side, 3 pairs for training, 1 for validation."""
    for site in sites:
        for prefix, count in (("", 3), ("val_", 1)):
            for k in range(count):
                data = root / site / f"{prefix}data_npy" / f"{prefix}case_{k}.npy"
                label = root / site / f"{prefix}label_npy" / data.name
                for path in (data, label):
                    path.parent.mkdir(parents=True, exist_ok=True)
                np.save(data, picture_at(site, 10 * bool(prefix) + k, height=image_px, width=image_px))
                mask = np.zeros((image_px // 4, image_px // 4, channels), np.uint8)
                mask[1:5, 2:6] = 1
                np.save(label, mask)
    return root


def write_nnunet(root: Path, *, count: int = 3) -> Path:
    """Write a dataset in nnU-Net's layout, pictures with one class, and return ``root``; its images are its own."""
    about = {"channel_names": {"0": "microscopy"}, "labels": {"background": 0, "blob": 1}, "file_ending": ".png"}
    for number in range(count):
        write_png(root / "imagesTr" / f"case_{number}_0000.png", picture_at(root.name, number))
        write_png(root / "labelsTr" / f"case_{number}.png", blob(value=1))
    (root / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    return root
