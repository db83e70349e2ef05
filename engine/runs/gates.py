"""What the sites' validation has said of each epoch of distillation, and which one is kept. Torch-free.

The worker, the report, the command line and the page follow one rule, :func:`best_epoch`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError
from engine.methods import catalogue
from engine.runs.records import MetricSeries

CANDIDATE = "candidate"
"""Kind of what goes down to be judged: a stage that sends it has a gate."""
GATE_FILE = Path("distillation") / "gate.json"
"""Below a run's folder; written by the stage that distils, when it ends."""
VAL_DICE, TEACHER_VAL_DICE, MIX_DICE = "val_dice", "teacher_val_dice", "mix_dice"
"""Curves of that stage: the student after each epoch (0 is before the first), the foundation model before it, and means
of the first and the last student by the last's share in percent."""


@dataclass(frozen=True)
class GateRecord:
    """How the gate has decided. ``dice`` is the student's by epoch, in [0, 1], over all validation images; 0 is before.

    It is empty where no site has validation images: the last epoch is kept then, as without a gate.
    """

    began_with: str
    """Name of the student of epoch 0."""
    model: str
    """Name of the student that was kept."""
    kept_epoch: int
    dice: tuple[float, ...]
    teacher_dice: float | None = None
    """Of the foundation model before distillation; None where it was not asked for."""
    student_listens: bool = True
    """Whether the student has learned from the foundation model, too; else only the other way about."""
    share: float | None = None
    """Of the last student in the kept mean of the first and the last; None where an epoch was chosen instead."""
    mixes: tuple[tuple[float, float], ...] = ()
    """Shares that were judged, with their Dice; ``dice`` is then that of before alone."""
    tolerance: float = 0.0
    """How much lower than before the Dice of a mean might be."""
    is_watched: bool = False
    """Whether the sites were asked for their figures alone, and the last epoch is kept whatever these say."""

    @property
    def keeps_the_first(self) -> bool:
        """Whether no epoch was better than what distillation began with."""
        return self.kept_epoch == 0

    def sentences(self) -> tuple[str, ...]:
        """Return what came of it, for people."""
        if not self.dice:
            return ("No site has validation images: the gate had nothing to judge by, the last epoch is kept.",)
        first = self.dice[0]
        if self.is_watched:
            return self._watched(first)
        if self.share is not None:
            said = self._mixed(first, self.share)
        elif self.keeps_the_first:
            before = self._before
            later = f"; the best epoch has {max(self.dice[1:]):.3f}" if self.dice[1:] else ""
            said = f"Distillation did not help; {before} is kept (validation Dice {first:.3f}{later})."
        else:
            said = (
                f"Epoch {self.kept_epoch} of distillation is kept: validation Dice {self.dice[self.kept_epoch]:.3f}, "
                f"{first:.3f} before it."
            )
        if self.teacher_dice is None:
            return (said,)
        beside = f"The foundation model had {self.teacher_dice:.3f} there before distillation, the student {first:.3f}"
        if self.student_listens:
            return (said, f"{beside}: they have learned as configured.")
        return (said, f"{beside}: the student has learned from masks alone, not from the foundation model.")

    def _watched(self, first: float) -> tuple[str, ...]:
        best = best_epoch(dict(enumerate(self.dice))) or 0
        said = f"Distillation ends with a validation Dice of {self.dice[-1]:.3f}; {self._before} has {first:.3f}."
        if best == len(self.dice) - 1:
            return (said,)
        which = self._before if best == 0 else f"epoch {best} ({self.dice[best]:.3f})"
        return (said, f"The best there was {which}; distillation.gate = 'best' would keep it.")

    @property
    def _before(self) -> str:
        return "FedAvg's model" if self.began_with == "fedavg_student" else "the model of before"

    def _mixed(self, first: float, share: float) -> str:
        limit = f"{self.tolerance:g} below {first:.3f}"
        if not share:
            return (
                f"{self._before[0].upper()}{self._before[1:]} is kept: on the way to the distilled one every mean "
                + (f"has a validation Dice more than {limit}.")
            )
        told = f"validation Dice {dict(self.mixes)[share]:.3f}, {first:.3f} before distillation"
        if share == 1:
            return f"The distilled student is kept: {told}."
        return f"The mean of {self._before} and the distilled one, {share:.0%} the latter, is kept: {told}. " + (
            f"Nearer to the distilled one it is more than {limit}."
        )


def best_epoch(dice: Mapping[int, float]) -> int | None:
    """Return the epoch of the highest Dice, of equal ones the earliest; None of nothing."""
    return min(dice, key=lambda epoch: (-dice[epoch], epoch)) if dice else None


def judged_epochs(series: Iterable[MetricSeries]) -> dict[int, float]:
    """Return the pooled validation Dice of each epoch of distillation that the sites have judged, 0 being before it.

    Nothing where none was asked; the curve of federated rounds is another.
    """
    for curve in series:
        stage = catalogue.stage(curve.stage)
        is_gated = stage is not None and CANDIDATE in {kind.name for kind in stage.sends}
        if is_gated and curve.name == VAL_DICE and curve.site is None:
            return dict(zip(curve.steps, curve.values, strict=True))
    return {}


def read_gate(run_dir: Path) -> GateRecord | None:
    """Return what the gate of the run in ``run_dir`` has decided; None where it had none or is not that far.

    Raises ``UserError`` ``stage.output_damaged``.
    """
    path = run_dir / GATE_FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        mixes = tuple((float(share), float(dice)) for share, dice in values.get("mixes", ()))
        return GateRecord(**{**values, "dice": tuple(values["dice"]), "mixes": mixes})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            "stage.output_damaged",
            what=f"{path} cannot be read: {error}.",
            why="It says which epoch of distillation is kept.",
            fix="Restore the run's folder from a backup, or fork the run from the stage that distils.",
        ) from error
