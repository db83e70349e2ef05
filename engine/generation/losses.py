"""What a generator's loss must not be."""

from __future__ import annotations

import math

from engine.errors import UserError


def refuse_divergence(loss: float, *, site: str, step: int) -> None:
    """Raise ``UserError`` ``generator.diverged``, naming the site and the step, for a loss that is not a number."""
    if not math.isfinite(loss):
        raise UserError(
            "generator.diverged",
            what=f"The generator's loss at site '{site}' is {loss} at step {step}.",
            why="A generator trained on such a loss only makes noise.",
            fix="Fork the run from generator_training with a lower generator.learning_rate, or start one in fp32.",
        )
