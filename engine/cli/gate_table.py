"""What the gate of distillation has made of each epoch, for ``show``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.cli.output import print_table
from engine.runs.gates import best_epoch, judged_epochs, read_gate

if TYPE_CHECKING:
    from engine.runs.store import RunStore


def print_gate(store: RunStore, run_id: str) -> None:
    """Print the student's validation Dice before distillation and after each epoch; nothing without a gate."""
    dice, record = judged_epochs(store.metrics(run_id)), read_gate(store.run_dir(run_id))
    if set(dice) - {0}:  # epochs were judged
        kept = best_epoch(dice)
        word = "best so far" if record is None else "best" if record.is_watched else "kept"
        rows = [(_name(epoch), f"{value:.3f}", word if epoch == kept else "") for epoch, value in sorted(dice.items())]
        print("Distillation, judged by the sites on their validation images:\n")
        print_table(("Epoch", "Dice", ""), rows, right=(0, 1))
    for sentence in record.sentences() if record is not None else ():
        print(sentence)
    if set(dice) - {0} or record is not None:
        print()


def _name(epoch: int) -> str:
    return "before" if epoch == 0 else str(epoch)
