"""Work in a thread that tells how far it is, and that is over when nobody asks any more. Torch-free."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Step = TypeVar("Step")
Result = TypeVar("Result")
TOLD_EVERY_S = 0.3
LEFT_S = 60.0
"""Work that nobody has asked after for so long is ended: its browser is gone (ours)."""


class LeftAlone(Exception):
    """Nobody asks after the work any more; raised in its thread."""


def watched(
    work: Callable[[Callable[[Step], None]], Result], *, first: Step, name: str
) -> Iterator[tuple[Step, Result | None]]:
    """Yield how far ``work`` is every ``TOLD_EVERY_S``, then with its result. Left in between, it is over.

    ``work`` is given what it calls with each of its steps; that call raises where nobody listens any more. What it
    raises is raised here.
    """
    under_way = _Work(work, first)
    threading.Thread(target=under_way.run, name=name, daemon=True).start()
    try:
        while not under_way.over.wait(TOLD_EVERY_S):
            under_way.asked_at = time.monotonic()
            yield under_way.step, None
        yield under_way.step, under_way.result()
    finally:
        under_way.left.set()


class _Work(Generic[Step, Result]):
    def __init__(self, work: Callable[[Callable[[Step], None]], Result], first: Step) -> None:
        self._work = work
        self._found: list[Result] = []
        self._failed: BaseException | None = None
        self.step, self.asked_at = first, time.monotonic()
        self.left, self.over = threading.Event(), threading.Event()

    def result(self) -> Result:
        if self._failed is not None:
            raise self._failed
        return self._found[0]

    def run(self) -> None:
        try:
            self._found.append(self._work(self._go_on))
        except BaseException as failed:  # told where the answer is waited for
            self._failed = failed
        finally:
            self.over.set()

    def _go_on(self, step: Step) -> None:
        if self.left.is_set() or time.monotonic() - self.asked_at > LEFT_S:
            raise LeftAlone
        self.step = step
