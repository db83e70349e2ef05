"""What a site must still have of a run: its state after the rounds that the server has had its answers of.

A site that has lost its folder would begin its optimiser and its own parameters anew without a word, and the run's
figures would be those of no run that anybody has planned. It says so instead, unless somebody there has accepted it.
Torch-free but for the files' reader.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.federation.tasks import BEGAN_ANEW
from engine.site.state import SiteState

ACCEPTED = "begins_anew.json"
"""In a site's folder of a run: somebody has accepted that it begins its own state anew."""


def accept_new_beginning(folder: Path, *, by: str) -> None:
    """Note in a site's ``folder`` of a run that ``by`` lets it begin its own state anew, where it has lost it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(folder, {"by": by, "through": None})


def check_kept(state: SiteState, newest: int, *, site: str, before_round: int) -> dict[str, str]:
    """Compare ``newest``, the round of the state that is there, with what the server has had answers of.

    Returns texts for the reply: none, or that the site has begun anew with somebody's leave. Such a leave holds for the
    rounds that were answered when it was first needed; what is lost after that is another loss. Raises ``UserError``
    ``federation.site_state_lost``.
    """
    expected = max((number for number in state.answered if number < before_round), default=0)
    if newest >= expected:
        return {}
    accepted = _read(state.folder)
    if accepted is not None and accepted["through"] is None:
        accepted["through"] = max(state.answered)
        _write(state.folder, accepted)
    if accepted is None or expected > accepted["through"]:
        there = f"its newest is of round {newest}" if newest else "there is none"
        raise UserError(
            "federation.site_state_lost",
            what=f"Site {site} has no state of the run {state.run_id} after round {expected}, which it had answered: "
            f"{there}.",
            why="The optimiser and what the site keeps as its own would begin anew, and the run would go another way "
            "without a word.",
            fix=f"At {site}, bring back the folder runs/{state.run_id} from a copy (for a fork: of the run that it "
            f"began with), or accept a new beginning: `python -m engine site begin-anew FOLDER {state.run_id}`; then "
            "resume the run.",
        )
    return {BEGAN_ANEW: str(accepted["by"])}


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / ACCEPTED).read_text(encoding="utf-8"))
        through = found["through"]
        return {"by": str(found["by"]), "through": None if through is None else int(through)}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "federation.site_state_damaged",
            what=f"{folder / ACCEPTED} cannot be read: {error}.",
            why="It says whether a new beginning has been accepted.",
            fix="Remove the file; accept it again with `site begin-anew`.",
        ) from error


def _write(folder: Path, values: dict[str, Any]) -> None:
    part = folder / f"{ACCEPTED}.part"
    part.write_text(json.dumps(values), encoding="utf-8")
    part.replace(folder / ACCEPTED)
