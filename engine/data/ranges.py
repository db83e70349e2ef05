"""The range of a stack of pages that need not be in memory together. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from engine.data.transforms import HIGH_PERMILLE, LOW_PERMILLE

HALF = 1 << 16
SIGN = np.uint32(1 << 31)


def range_of_pages(pages: Callable[[], Iterable[np.ndarray]], *, has_unit: bool = True) -> tuple[float, float]:
    """Return the range of all values of ``pages()`` as float32: the 0.5-99.5 percentiles of the whole.

    With ``has_unit`` floats that all lie in [0, 1] have that range, as :func:`engine.data.samples.picture` has it for
    one page; where both percentiles coincide, the extremes count (:func:`engine.data.transforms.percentile_range`). The
    values are ranked exactly by their bits in two passes, upper half and lower half, with one page in memory at a time.
    """
    upper, unit = np.zeros(HALF, np.int64), has_unit
    low, high = np.inf, -np.inf
    for page in pages():
        upper += np.bincount(_keys(page) >> 16, minlength=HALF)
        low, high = min(low, float(page.min())), max(high, float(page.max()))
        unit = unit and page.dtype.kind == "f"
    if unit and low >= 0 and high <= 1:
        return 0.0, 1.0
    cumulated = np.cumsum(upper)
    ranks = [-(-permille * int(cumulated[-1]) // 1000) - 1 for permille in (LOW_PERMILLE, HIGH_PERMILLE)]
    halves = [int(np.searchsorted(cumulated, rank, side="right")) for rank in ranks]
    lower = np.zeros((2, HALF), np.int64)
    for page in pages():
        keys = _keys(page)
        for row, half in zip(lower, halves, strict=True):
            row += np.bincount(keys[keys >> 16 == half] & (HALF - 1), minlength=HALF)
    found = []
    for row, half, rank in zip(lower, halves, ranks, strict=True):
        within = rank - int(cumulated[half] - upper[half])
        found.append(_value(half << 16 | int(np.searchsorted(np.cumsum(row), within, side="right"))))
    return (found[0], found[1]) if found[0] < found[1] else (low, high)


def _keys(page: np.ndarray) -> np.ndarray:
    """Return uint32 numbers in the order of the page's values as float32."""
    bits = page.astype(np.float32).reshape(-1).view(np.uint32)
    return np.where(bits & SIGN, ~bits, bits | SIGN)


def _value(key: int) -> float:
    bits = np.uint32(key)
    return float((bits ^ SIGN if bits & SIGN else ~bits).view(np.float32))
