"""Step ``int8``: the numbers of an update as whole multiples of a scale, one scale for each output channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.federation.codecs.layout import CodedFault, Part

LEVELS = 127
"""The largest multiple: -127 to 127, as far to either side."""


class Int8:
    """One byte a number and four a channel: number = scale * level, scale = max |number| of the channel / 127.

    Levels are rounded to the nearest (half to even), so a number is off by half a scale at most.
    """

    def parts(self, size: int, *, num_channels: int) -> tuple[Part, ...]:
        """Return what ``size`` numbers are written as; ``num_channels`` divides it."""
        return Part("float32", num_channels), Part("int8", size)

    def encode(self, numbers: np.ndarray, *, num_channels: int) -> tuple[np.ndarray, ...]:
        """Return finite float32 (n,) as (scales float32 (num_channels,), levels int8 (n,))."""
        numbers_CN = numbers.reshape(num_channels, -1)
        scale_C = (np.abs(numbers_CN).max(axis=1, initial=0.0) / LEVELS).astype(np.float32)
        divisor_C = np.where(scale_C > 0, scale_C, np.float32(1))
        levels_CN = np.clip(np.rint(numbers_CN / divisor_C[:, None]), -LEVELS, LEVELS)
        levels_CN[scale_C == 0] = 0
        return scale_C, levels_CN.astype(np.int8).reshape(-1)

    def decode(self, parts: Sequence[np.ndarray], *, num_channels: int) -> np.ndarray:
        """Return float32 (n,); :class:`CodedFault` where a scale is negative or not finite."""
        scale_C, levels = parts
        if not np.isfinite(scale_C).all() or (scale_C < 0).any():
            raise CodedFault("it has a scale that is negative or not finite")
        with np.errstate(over="ignore"):  # a hostile scale: what is infinite then is refused with the arrays
            return (levels.reshape(num_channels, -1) * scale_C[:, None]).reshape(-1)
