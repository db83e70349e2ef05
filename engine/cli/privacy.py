"""What the command line says of the privacy that a run's rounds spend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.accounting import epsilon_words
from engine.cli.output import print_table

if TYPE_CHECKING:
    from engine.planning import Plan

COLUMNS = ("Site", "Whose", "Noised", "Delta", "Epsilon at most", "Against others")


def print_privacy(made: Plan) -> None:
    """Print epsilon of each site; nothing where the rounds are not differentially private."""
    if not made.privacy:
        return
    rows = [
        (one.site, one.unit, one.releases, f"{one.delta:g}", epsilon_words(one.epsilon), _other(one.epsilon_replaced))
        for one in made.privacy
    ]
    print_table(COLUMNS, rows, right=(2, 3, 4, 5))
    print()


def _other(epsilon: float | None) -> str:
    return "-" if epsilon is None else epsilon_words(epsilon)
