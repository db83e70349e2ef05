"""Step ``fp16``: the numbers of an update in half precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.federation.codecs.layout import CodedFault, Part

_LARGEST = float(np.finfo(np.float16).max)


class Float16:
    """Two bytes a number, rounded to the nearest, 65,504 at most; what is below 6e-8 waits for error feedback."""

    def parts(self, size: int, *, num_channels: int) -> tuple[Part, ...]:
        """Return what ``size`` numbers are written as."""
        return (Part("float16", size),)

    def encode(self, numbers: np.ndarray, *, num_channels: int) -> tuple[np.ndarray, ...]:
        """Return finite float32 (n,) as its parts."""
        return (np.clip(numbers, -_LARGEST, _LARGEST).astype(np.float16),)

    def decode(self, parts: Sequence[np.ndarray], *, num_channels: int) -> np.ndarray:
        """Return float32 (n,); :class:`CodedFault` where a number is not finite."""
        (half,) = parts
        if not np.isfinite(half).all():
            raise CodedFault("it has numbers that are not finite")
        return half.astype(np.float32)
