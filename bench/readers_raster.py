"""The everyday formats against independent readers: Pillow for PNG and JPEG, libtiff for TIFF, numpy for npy.

Files: what scikit-image ships (imageio, Pillow and tifffile ship none), and a matrix of TIFFs. An independent
reader gives stored numbers; what a viewer makes of them is stated here once more.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import imagecodecs
import imageio.v3 as imageio
import numpy as np
import skimage
import tifffile

from bench.reading import Outcome
from engine.data.readers import image_info, is_supported, read_image
from engine.errors import UserError
from engine.seeding import numpy_generator

COMPRESSIONS = ("none", "lzw", "zlib", "packbits", "zstd", "lzma")


def compare() -> list[Outcome]:
    """Return what came of every file: a value, or a refusal by its right name."""
    shipped = sorted(path for path in Path(skimage.__file__).parent.rglob("*") if is_supported(path))
    with tempfile.TemporaryDirectory() as folder:
        groups = {
            "scikit-image": [_against(path, list(_independent(path))) for path in shipped],
            "libtiff": [_against(path, list(_libtiff(path))) for path in _matrix(Path(folder))],
        }
    return [replace(one, file=f"{group}/{one.file}") for group, outcomes in groups.items() for one in outcomes]


def _against(path: Path, slices: list[np.ndarray]) -> Outcome:
    """Compare every slice with what another reader stored of it, (H, W) or (H, W, C), brought to what is shown."""
    try:
        count = image_info(path).num_slices
        ours = [read_image(path, slice_index=index)[0] for index in range(count)]
    except UserError as error:
        named = error.code == "data.image_unsupported" and _fault(slices[0]) in error.what
        return Outcome(path.name, "refused" if named else "wrong", error.what)
    if count != len(slices):
        return Outcome(path.name, "wrong", f"{count} slices for {len(slices)}")
    window = _window(slices)
    worst = max(_distance(image, stored, window) for image, stored in zip(ours, slices, strict=True))
    # Pillow cuts 16-bit colour to 8 bits
    allowed = 1 / 255 if (ours[0].dtype, slices[0].dtype) == (np.uint16, np.uint8) else 1e-6
    return Outcome(
        path.name, "equal" if worst <= allowed else "wrong", f"{count} slices, differs by {worst:.3g} of white"
    )


def _fault(stored: np.ndarray) -> str:
    return "complex" if stored.dtype.kind == "c" else f"{stored.shape[-1]} channels"


def _window(slices: list[np.ndarray]) -> tuple[float, float]:
    whole = np.stack([_colours(stored) for stored in slices])
    if whole.dtype == bool or whole.dtype in (np.uint8, np.uint16):
        return 0.0, 1.0 if whole.dtype == bool else float(np.iinfo(whole.dtype).max)
    if whole.dtype.kind == "f" and whole.min() >= 0 and whole.max() <= 1:
        return 0.0, 1.0
    low, high = np.quantile(whole.astype(np.float32), (0.005, 0.995), method="inverted_cdf")
    return float(low), float(high)


def _distance(image: np.ndarray, stored: np.ndarray, window: tuple[float, float]) -> float:
    low, high = window
    expected = np.clip((_colours(stored).astype(np.float64) - low) / (high - low), 0, 1)
    ours = image / (np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1)
    if ours.shape[:2] != expected.shape[:2]:
        return np.inf
    return float(np.abs(ours - (expected if expected.ndim == 3 else expected[..., None])).max())


def _colours(stored: np.ndarray) -> np.ndarray:
    return stored if stored.ndim == 2 else stored[..., : 1 if stored.shape[2] == 2 else 3]


def _independent(path: Path) -> Iterator[np.ndarray]:
    if path.suffix == ".npy":
        yield np.load(path)
    elif path.suffix == ".tif":
        yield from _libtiff(path)
    else:
        yield imageio.imread(path, plugin="pillow", index=0)


def _libtiff(path: Path) -> Iterator[np.ndarray]:
    """Yield the pages as libtiff decodes them, white-is-zero turned over."""
    data = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        tags = [(page.photometric, page.planarconfig) for page in file.pages]
    for index, (photometric, planes) in enumerate(tags):
        stored = imagecodecs.tiff_decode(data, index=index)
        if stored.ndim == 3 and planes == 2:
            stored = np.moveaxis(stored, 0, -1)
        yield (np.iinfo(stored.dtype).max - stored) if photometric == 0 else stored


def _matrix(folder: Path) -> Iterator[Path]:
    noise = numpy_generator(0, "readers").integers(0, 256, (2, 37, 53, 3))
    layouts: dict[str, dict] = {
        "strips": {"rowsperstrip": 9, "byteorder": "<"},
        "tiles": {"tile": (16, 32), "byteorder": ">"},
    }
    for (layout, options), compression in itertools.product(layouts.items(), COMPRESSIONS):
        for dtype in (np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64):
            shift = 500 if np.dtype(dtype).kind == "i" else 0
            values = (noise * (1 if dtype == np.uint8 else 13) - shift).astype(dtype)
            for photometric in ("rgb", "minisblack", "miniswhite", "planes"):
                if photometric == "miniswhite" and np.dtype(dtype).kind != "u":
                    continue  # what is turned over is the range, which libtiff does not know
                pages = values if photometric == "rgb" else np.ascontiguousarray(values[..., 0])
                more = {"photometric": photometric, "compression": compression, **options}
                if photometric == "planes":
                    pages = np.ascontiguousarray(np.moveaxis(values, -1, 1))
                    more |= {"photometric": "rgb", "planarconfig": "separate"}
                path = folder / f"{layout}_{compression}_{np.dtype(dtype).name}_{photometric}.tif"
                tifffile.imwrite(path, pages, metadata=None, **more)
                yield path
