"""Names of the ways in which a model looks at an image. Torch-free."""

from __future__ import annotations

from typing import get_args

from engine.data.tiling import Looks
from engine.errors import UserError


def looks_of(name: str) -> Looks:
    """Return a way of looking by its name; raise ``UserError`` ``looks.unknown`` for another."""
    if name not in get_args(Looks):
        raise UserError(
            "looks.unknown",
            what=f"'{name[:40]}' is no way of looking at an image.",
            why="A model sees an image as a 'whole', in 'parts' at full resolution, or in smaller, 'fine' ones.",
            fix="Name one of the three, or none: the model then does what it is best at.",
        )
    return name  # type: ignore[return-value]  # one of these
