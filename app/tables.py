"""The papers' tables over the runs of a home, for the page: read, filled, kept until a run changes. Torch-free."""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from engine.experiments.spec import ExperimentSpec, Scale, load_experiment
from engine.experiments.spec import tables as table_names
from engine.runs.store import RunStore

if TYPE_CHECKING:  # the planning of runs and the reading of data sets come with them
    from engine.experiments import tables
    from engine.experiments.cells import Cell
    from engine.experiments.sweep import Outcome

MEASURED_BY_COMMAND = ("inference_s", "inference_p95_s", "torch_inference_s")
"""Measures that compute; a page that many look at does not."""
LEFT_OUT = ("smoke",)
"""Experiments that are tests."""


def titles() -> dict[str, str]:
    """Return the title of every table that is offered, by its name: numbered ones first."""
    names = sorted(
        (name for name in table_names() if name not in LEFT_OUT), key=lambda name: (not name.isdigit(), name)
    )
    return {name: load_experiment(name).title for name in names}


class Tables:
    """Fills tables; one is kept for each choice, until some run of it stands otherwise.

    Figures that are ``recorded`` in that folder (those of this version when left out) count as runs'.
    """

    def __init__(self, store: RunStore, *, recorded: Path | None = None) -> None:
        self._store, self._recorded = store, recorded
        self._kept: dict[tuple[str, Scale], tuple[dict[str, Outcome], tables.Table]] = {}
        self._lock = threading.Lock()

    def fill(self, which: str, scale: Scale) -> tables.Table:
        """Return the table ``which`` at ``scale``; ``UserError`` where there is none, or no such part of it."""
        from engine.experiments import recorded, tables
        from engine.experiments.standing import standing

        experiment, cells = _cells(which, scale)
        with self._lock:  # one after the other: it reads the figures of many images
            outcomes = recorded.beside(standing(self._store, cells), cells, self._recorded)
            kept = self._kept.get((which, scale))
            if kept is None or kept[0] != outcomes:
                kept = (outcomes, tables.fill(which, experiment, scale, self._store, cells, outcomes))
                self._kept[which, scale] = kept
            return kept[1]


@lru_cache(maxsize=64)
def _cells(which: str, scale: Scale) -> tuple[ExperimentSpec, tuple[Cell, ...]]:
    """Return the experiment without what the page does not measure, and its cells."""
    from engine.experiments import cells as cells_of

    experiment = load_experiment(which)
    shown = tuple(name for name in experiment.measures if name not in MEASURED_BY_COMMAND)
    experiment = experiment.model_copy(update={"measures": shown})
    return experiment, cells_of.make_cells(experiment, scale)
