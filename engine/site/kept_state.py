"""What a site must still have of a run: its state after the rounds that the server has had its answers of.

A site that has lost its folder would begin its optimiser and its own parameters anew without a word, and the run's
figures would be those of no run that anybody has planned. It says so instead, unless somebody there has accepted it.
That can be accepted only of a loss that has been told, which is noted beside the state: a leave in advance would cover
whatever is lost next.
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


MISSED = "state_missed.json"
"""There, too: which rounds had been answered when the state of one of them was missed."""


def accept_new_beginning(folder: Path, *, by: str) -> None:
    """Note in a site's ``folder`` of a run that ``by`` lets it begin its own state anew, which it has missed there.

    Raises ``UserError`` ``site.nothing_lost`` where it has missed none.
    """
    through = _read(folder / MISSED)
    if through is None:
        raise UserError(
            "site.nothing_lost",
            what=f"This site misses no state of the run {folder.name}.",
            why="A leave to begin anew that is given in advance would cover whatever is lost next.",
            fix="Let the coordinator resume the run: a state that is missed is told (federation.site_state_lost).",
        )
    _write(folder / ACCEPTED, {"by": by, "through": through["through"]})
    (folder / MISSED).unlink()


def check_kept(state: SiteState, newest: int, *, site: str, before_round: int) -> dict[str, str]:
    """Compare ``newest``, the round of the state that is there, with what the server has had answers of.

    Returns texts for the reply: none, or that the site has begun anew with somebody's leave. Such a leave holds for the
    rounds that were answered when the loss was told; what is lost after that is another loss. Raises ``UserError``
    ``federation.site_state_lost``, and notes the loss for whoever accepts it.
    """
    expected = max((number for number in state.answered if number < before_round), default=0)
    if newest >= expected:
        if expected:
            (state.folder / MISSED).unlink(missing_ok=True)  # brought back
        return {}
    accepted = _read(state.folder / ACCEPTED)
    if accepted is None or expected > accepted["through"]:
        _write(state.folder / MISSED, {"through": max(state.answered)})
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


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        # leaves of before could wait for a loss to come: these have no round, and cover none
        return {"by": str(found.get("by", "")), "through": int(found["through"] or 0)}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            "federation.site_state_damaged",
            what=f"{path} cannot be read: {error}.",
            why="It says whether a state was missed here, and whether a new beginning has been accepted.",
            fix="Remove the file, resume the run, and accept it again with `site begin-anew` once the loss is told.",
        ) from error


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(values), encoding="utf-8")
    part.replace(path)
