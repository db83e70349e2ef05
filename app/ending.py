"""An ordinary end on SIGTERM, which takes the passing files with it, wherever the program is when it comes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN_S = 5.0
"""After how long a signal that had no effect is given again (ours)."""


@contextmanager
def ends_on_sigterm(*, again_s: float = AGAIN_S) -> Iterator[None]:
    """Let SIGTERM raise ``SystemExit(0)`` inside the ``with``, in the main thread.

    Python passes over what is raised where it clears away objects (weak references, ``__del__``), an exit as well. The
    signal is then given again, to whoever handles it by that time, until the ``with`` is left.
    """

    def end(*_: object) -> None:
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
        signal.setitimer(signal.ITIMER_REAL, again_s)
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    except SystemExit:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise
