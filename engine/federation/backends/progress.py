"""What a site says of work that goes on, and the bytes of saying it: for questions that are asked again and again."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import RecordDict

from engine.federation.payload import content_bytes
from engine.federation.tasks import STEP, TOTAL, SiteReply
from engine.types import Direction, Traffic

MOST_STEPS = 10**9
"""More than any work has; what says more is none of ours (ours)."""


def progress_of(said: SiteReply) -> tuple[int, int] | None:
    """Return (step, number of steps) that a reply says, step from 0 to the number; None where they cannot be."""
    step, total = said.metrics.get(STEP, -1.0), said.metrics.get(TOTAL, 0.0)
    return (int(step), int(total)) if 0 <= step <= total <= MOST_STEPS and total > 0 else None


class BytesSoFar:
    """Counts, in bytes, what goes to and fro as records of traffic with ``number``: each has all of its kind so far."""

    def __init__(self, count: Callable[[Traffic], None], *, number: int) -> None:
        self._count, self._number = count, number
        self._bytes: dict[tuple[str, Direction], int] = {}

    def add(self, site: str, direction: Direction, content: RecordDict) -> None:
        """Count a message's settings, figures and texts; such messages have no arrays."""
        self._bytes[site, direction] = self._bytes.get((site, direction), 0) + content_bytes(content)[1]
        self._count(Traffic(site, direction, "metrics", self._bytes[site, direction], self._number))
