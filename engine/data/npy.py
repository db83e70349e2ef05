"""Decoder of npy (numpy): (H, W) or (H, W, C), never unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib.format import MAGIC_PREFIX

from engine.data.budget import require_bytes
from engine.data.pixels import Geometry
from engine.data.samples import picture, unsupported

RESHAPE = "Save it as (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) numbers: one picture a file, channels last."

MOST_CHANNELS = 4
LEAST_PX = 16
"""Sides from which on an array of one to four rows is taken for one with channels first (ours): no picture has so
few rows beside so many channels."""


class NpyFormat:
    """npy: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); a mask may have a channel per class."""

    @staticmethod
    def header(path: Path, *, slice_axis: int) -> Geometry:
        """Return the size from the header, after checking that the file is as long as it claims."""
        shape = _mapped(path).shape
        return Geometry(shape[0], shape[1], channels=shape[2] if len(shape) == 3 else 1)

    @staticmethod
    def image(path: Path, *, slice_index: int, slice_axis: int, value_range: tuple[float, float] | None) -> np.ndarray:
        """Return the array, of known depth; a fourth channel is alpha and dropped."""
        stored = _mapped(path)
        channels = stored.shape[2] if stored.ndim == 3 else 1
        if channels not in (1, 3, 4):
            _refuse_channels_first(path, stored, least_px=1)
            raise unsupported(path, f"it has {channels} channels", fix=RESHAPE)
        values = _native(path, stored[..., :3] if channels == 4 else stored)
        return picture(path, values, bits=1 if values.dtype == bool else values.itemsize * 8, value_range=value_range)

    @staticmethod
    def labels(path: Path, *, slice_index: int, slice_axis: int) -> np.ndarray:
        """Return the array."""
        return _native(path, _mapped(path))


def _mapped(path: Path) -> np.ndarray:
    with path.open("rb") as stream:
        if stream.read(len(MAGIC_PREFIX)) != MAGIC_PREFIX:  # numpy takes any other bytes for a pickle, and advises so
            raise ValueError("it does not begin as an npy file")
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "Python objects" not in str(error):
            raise
        fault = "it holds no plain numbers but Python objects"
        raise unsupported(path, fault, fix="Save it as integers or floats.") from error
    if stored.dtype.kind not in "biuf":
        kind = "complex numbers" if stored.dtype.kind == "c" else f"no plain numbers but {stored.dtype}"
        raise unsupported(path, f"it holds {kind}", fix="Save it as integers or floats.")
    if stored.ndim not in (2, 3):
        raise unsupported(path, f"its shape {stored.shape} is neither (H, W) nor (H, W, C)", fix=RESHAPE)
    _refuse_channels_first(path, stored, least_px=LEAST_PX)
    return stored


def _refuse_channels_first(path: Path, stored: np.ndarray, *, least_px: int) -> None:
    """Raise where the first axis is as short as channels are, and the others are sides of at least ``least_px``."""
    if stored.ndim == 3 and stored.shape[0] <= MOST_CHANNELS and min(stored.shape[1:]) >= least_px:
        fault = f"its axes look as if channels came first: its shape is {stored.shape}"
        raise unsupported(path, fault, fix="Save it with channels last: numpy.moveaxis(array, 0, -1).")


def _native(path: Path, stored: np.ndarray) -> np.ndarray:
    working = np.result_type(stored.dtype, np.float32) if stored.itemsize > 2 else stored.dtype
    require_bytes(path, num_values=stored.size, dtype=working, copies=3)
    return np.array(stored, dtype=stored.dtype.newbyteorder("="))
