"""What a site keeps of a run on its own disk: it survives restarts and never crosses the border."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.runs.checkpoint import CheckpointStore


@dataclass(frozen=True)
class SiteState:
    """The optimiser's files lie in ``folder``; unfinished work is in ``checkpoints``, under names with ``suffix``.

    On one machine all sites share the run's checkpoints, and the suffix tells them apart: a site's own name may hold
    any sign that a folder's name can. ``answered`` are the rounds of the run ``run_id`` that a server elsewhere has had
    this site's answers of, as it says: the site's state of these must still be here.
    """

    folder: Path
    checkpoints: CheckpointStore
    suffix: str = ""
    run_id: str = ""
    answered: tuple[int, ...] = ()

    def name_of(self, work: str) -> str:
        """Return the checkpoint's name of unfinished ``work``."""
        return f"{work}{self.suffix}"
