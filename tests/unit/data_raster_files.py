"""Small TIFF files and the expectations that the tests of the everyday formats share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from engine.data.budget import at_most
from engine.data.readers import read_image, read_mask
from engine.errors import UserError

TURNED = {  # tag 274: what a viewer makes of the stored rows (TIFF 6.0, page 36)
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: np.rot90,
    9: lambda a: a,
}


def grey3(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def tiff(path: Path, values: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, values, **{"metadata": None, **options})
    return path


def tag(code: int, value: int | str, kind: str = "H") -> dict[str, object]:
    return {"extratags": [(code, kind, 0 if kind == "s" else 1, value, True)]}


def retag(path: Path, name: str, value: int) -> Path:
    with tifffile.TiffFile(path, mode="r+") as file:
        for page in file.pages:
            page.tags[name].overwrite(value)
    return path


def refused(path: Path, word: str, read: Callable = read_image, **options: object) -> None:
    with pytest.raises(UserError) as caught:
        read(path, **options)
    assert caught.value.code == "data.image_unsupported"
    assert word in caught.value.what and str(path) in caught.value.what and "damaged" not in caught.value.what


def packed(values: np.ndarray, bits: int) -> bytes:
    rows = ("".join(format(int(v), f"0{bits}b") for v in row) for row in values)
    return b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in rows)


def too_large(path: Path, limit: int = 1 << 20) -> None:
    for read in (read_image, read_mask):
        with at_most(limit), pytest.raises(UserError) as caught:
            read(path)
        assert caught.value.code == "data.image_too_large"
