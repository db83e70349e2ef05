"""Which sites a round asks: all, or a share of them drawn anew for each round. Free of Flower and of PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from engine.seeding import numpy_generator


def draw_participants(
    sites: Sequence[str], *, count: int, seed: int, round_number: int, draw: int = 0
) -> tuple[str, ...]:
    """Return ``count`` of the sites (all where there are fewer), sorted, from the stream ("participation", round).

    Each site is as likely as any other, whatever its n_k: the average weighs by n_k already. A round that is drawn
    anew, for the ``draw``-th time, has the stream ("participation", round, draw).
    """
    names = sorted(sites)
    stream = (round_number, draw) if draw else (round_number,)
    order = numpy_generator(seed, "participation", *stream).permutation(len(names))
    return tuple(names[place] for place in sorted(order[:count]))
