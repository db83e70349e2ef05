"""The pool without the samples that a person has left out: no epoch scores them or trains on them (ours)."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import UserError

if TYPE_CHECKING:
    from engine.distillation.mutual import Pool

SHOWN = 5
"""Of unknown ids, in a message."""


class PartOfPool:
    """The pairs of ``pool`` at ``kept``, ascending indices (n,), in the order of the pool."""

    def __init__(self, pool: Pool, kept: np.ndarray) -> None:
        self._pool, self._kept = pool, kept

    @property
    def names(self) -> tuple[str, ...]:
        """Identifier of each pair."""
        names = self._pool.names
        return tuple(names[index] for index in self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def batch(self, indices: np.ndarray, *, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return image_B3HW and mask_BKHW of these pairs, as the whole pool gives them."""
        return self._pool.batch(self._kept[indices], rng=rng)


def without(pool: Pool, excluded: Collection[str]) -> Pool:
    """Return ``pool`` without the pairs of these names; the very pool where there are none.

    Raises ``UserError`` ``distillation.no_such_sample`` for a name that the pool does not have, and
    ``distillation.nothing_left`` where all are left out.
    """
    if not excluded:
        return pool
    left_out = set(excluded)
    unknown = sorted(left_out.difference(pool.names))
    if unknown:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise UserError(
            "distillation.no_such_sample",
            what=f"distillation.excluded_samples: no sample of this run is {', '.join(unknown[:SHOWN])}{more}.",
            why="A sample's id is its site and its number; other settings of the generation make other samples.",
            fix="Give ids that the Samples tab shows for this run, or leave the setting out.",
        )
    kept = np.array([index for index, name in enumerate(pool.names) if name not in left_out], dtype=np.int64)
    if not len(kept):
        raise UserError(
            "distillation.nothing_left",
            what=f"distillation.excluded_samples leaves out all {len(pool)} samples.",
            why="Distillation learns from those that are left.",
            fix="Leave fewer of them out.",
        )
    return PartOfPool(pool, kept)
