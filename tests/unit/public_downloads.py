"""Small archives in the official layouts of public datasets: real files, a few pixels each."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from engine.data.prepare.preparation import Report, prepare
from engine.data.prepare.registry import find_dataset
from engine.data.problems import raise_problems
from engine.data.scan import Scan
from engine.data.validation import check_sites
from tests.unit.data_world import picture_at


def encoded(pixels: np.ndarray, kind: str = "png", **options: object) -> bytes:
    """Return a picture's file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format={"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper()), **options)
    return stream.getvalue()


def photo(number: int, *, height: int = 12, width: int = 16) -> np.ndarray:
    return picture_at("public", number, height=height, width=width)


def box(
    top: int, left: int, bottom: int, right: int, *, value: int = 255, height: int = 12, width: int = 16
) -> np.ndarray:
    """Return (height, width) uint8 with ``value`` in rows top to bottom - 1 and columns left to right - 1."""
    plane = np.zeros((height, width), np.uint8)
    plane[top:bottom, left:right] = value
    return plane


def write_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def extract(folder: Path, members: Mapping[str, bytes]) -> Path:
    """Write the files as somebody would have extracted them."""
    for name, content in members.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def prepared(name: str, downloads: Path, folder: Path) -> tuple[Report, Scan]:
    """Return what ``data prepare`` made, opened by the project's own reader: without a fault, every file decoded."""
    from engine.data.layout import scan_dataset

    report = prepare(find_dataset(name), downloads=downloads, folder=folder, progress=lambda *_: None)
    scan = scan_dataset(folder)
    check_sites(scan, thorough=True, classes=None, min_images=1)
    raise_problems(scan.problems, dataset=name)
    return report, scan


def read(scan: Scan, site: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return image (H, W, 3) and mask (K, H, W) of one image."""
    (item,) = (item for item in scan.items[site] if item.name == name)
    return item.read()


def patients(scan: Scan, site: str) -> list[str | None]:
    return [item.patient for item in scan.items[site]]


def polyp_downloads(folder: Path) -> Path:
    """Write Kvasir-SEG and two of PolypGen's centres as they are downloaded."""
    soft = box(2, 3, 8, 9)
    kvasir = {
        "Kvasir-SEG/images/cju0.jpg": encoded(photo(1), "jpg"),
        "Kvasir-SEG/masks/cju0.jpg": encoded(np.repeat(soft[..., None], 3, axis=2), "jpg", quality=95, subsampling=0),
        "__MACOSX/Kvasir-SEG/._images": b"litter",
    }
    write_zip(folder / "kvasir-seg.zip", kvasir)
    centres = {}
    for centre, names in (
        ("1", ("100H0050", "100H0051")),
        ("4", ("7_endocv2021_positive_16", "8_endocv2021_positive_1")),
    ):
        for number, name in enumerate(names):
            centres |= {
                f"PolypGen2021_MultiCenterData_v3/data_C{centre}/images_C{centre}/{name}.jpg": encoded(
                    photo(10 * int(centre) + number), "jpg"
                ),
                f"PolypGen2021_MultiCenterData_v3/data_C{centre}/masks_C{centre}/{name}_mask.jpg": encoded(soft, "jpg"),
            }
    write_zip(folder / "PolypGen2021_MultiCenterData_v3.zip", centres)
    return folder
