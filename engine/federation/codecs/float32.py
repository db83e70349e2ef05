"""No step: numbers of an update as they are, float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.federation.codecs.layout import CodedFault, Part


class Float32:
    """Four bytes a number."""

    def parts(self, size: int, *, num_channels: int) -> tuple[Part, ...]:
        """Return what ``size`` numbers are written as."""
        return (Part("float32", size),)

    def encode(self, numbers: np.ndarray, *, num_channels: int) -> tuple[np.ndarray, ...]:
        """Return finite float32 (n,) as its parts."""
        return (numbers,)

    def decode(self, parts: Sequence[np.ndarray], *, num_channels: int) -> np.ndarray:
        """Return float32 (n,); :class:`CodedFault` where a number is not finite."""
        (numbers,) = parts
        if not np.isfinite(numbers).all():
            raise CodedFault("it has numbers that are not finite")
        return numbers
