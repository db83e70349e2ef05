"""The paper's bubble figure: traffic of a site against Dice, inference time as area; published systems and runs.

Torch-free. The published points are the Prostate column of ``experiments/published`` (tables 2 and 3), each with its
source; their traffic is one client's over 100 rounds, as a run's is one site's over the whole run, both ways.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.experiments.comparison import ComparedRun
from engine.experiments.measures import MEASURES
from engine.experiments.spec import load_experiment, load_published
from engine.runs.store import RunStore

COLUMN = "Prostate"
"""The only images of which the paper gives traffic and inference time."""
ACCURACY, EFFICIENCY = "2", "3"
"""Tables whose published figures make the points."""
TRAFFIC, INFERENCE = "traffic_client_mib", "inference_s"


@dataclass(frozen=True)
class Bubble:
    """One point: MiB over a site's border, Dice in [0, 1], seconds for one image."""

    name: str
    traffic_mib: float
    dice: float
    inference_s: float | None
    """None where nobody has measured it."""
    about: str
    """What it was measured on, or where it was published."""


def published_bubbles() -> tuple[Bubble, ...]:
    """Return the paper's systems of which traffic, Dice and inference time are published, in the table's order."""
    accuracy, efficiency = load_published(ACCURACY), load_published(EFFICIENCY)
    found = []
    for system in load_experiment(EFFICIENCY).systems:
        keys = [(system.name, COLUMN, name) for name in (TRAFFIC, INFERENCE)]
        dice = accuracy.get((system.name, COLUMN, "dice"))
        if dice is not None and all(key in efficiency for key in keys):
            (traffic, source), (seconds, _) = (efficiency[key] for key in keys)
            found.append(Bubble(system.title, traffic, dice[0], seconds, source))
    return tuple(found)


def run_bubble(store: RunStore, run: ComparedRun, *, is_timed: bool) -> Bubble | str:
    """Return the point of a run: its final model on all unseen images; or a sentence that says why there is none.

    With ``is_timed`` its exported model is timed now (``engine.experiments.inference``), on this machine. Raises
    ``UserError`` where its bundle cannot be loaded.
    """
    name, run_id = run.record.name, run.record.run_id
    tested = [row for (split, _), row in run.rows.items() if split == "test" and math.isfinite(row.dice)]
    if not tested:
        return f"{name} was not measured on unseen images."
    traffic = MEASURES[TRAFFIC].of_run
    seconds = MEASURES[INFERENCE].of_run
    assert traffic is not None and seconds is not None, "both are of a whole run"
    mib = traffic(store, run_id)
    if not mib:
        return f"{name} has sent nothing but numbers over a site's border."
    row = max(tested, key=lambda row: row.num_images)  # of a test of several sites the row of all
    student = None if run.config is None else run.config.student
    model = "" if student is None else f", {student.name}/{student.size}"
    side = "" if run.config is None else f", {run.config.data.image_px} px"
    about = f"{row.num_images} unseen images of {row.site}{side}{model}"
    return Bubble(name, mib, row.dice, seconds(store, run_id) if is_timed else None, about)
