"""Which rounds of training each site has answered, as the server has it on its disk: what a site must still know of."""

from __future__ import annotations

import json
from pathlib import Path

from engine.errors import UserError
from engine.federation.backends.superlink import SiteTwice
from engine.federation.tasks import TRAIN_FUSED, TRAIN_STUDENT, TRAIN_UNLABELLED

KEEPING = (TRAIN_STUDENT, TRAIN_UNLABELLED, TRAIN_FUSED)
"""Tasks after which a site keeps a state that its next round begins with."""


class AnsweredRounds:
    """The record in the file ``path``; without one nothing is kept, as while a run is planned.

    It lies among what a stage keeps, so that a fork or an extension that takes the rounds over takes it, too.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rounds: dict[str, list[int]] = {}
        if path is not None and path.is_file():
            self._rounds = _read(path)

    def note(self, site: str, task: str, round_number: int) -> None:
        """Write down that a site has answered, where it keeps a state of the round."""
        if self._path is None or task not in KEEPING:
            return
        known = self._rounds.setdefault(site, [])
        # A site that is asked an earlier round again forgets those after it, and so does the record.
        self._rounds[site] = [number for number in known if number < round_number] + [round_number]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self._rounds), encoding="utf-8")
        part.replace(self._path)

    def of(self, site: str) -> tuple[int, ...]:
        """Return the rounds of which the site's answer has come, in order."""
        return tuple(self._rounds.get(site, ()))


class AnsweringPrograms:
    """Which program has answered for each site: one that is started again is another, and does not come back."""

    def __init__(self) -> None:
        self._seen: dict[str, list[str]] = {}

    def note(self, site: str, program: str) -> None:
        """Raise ``SiteTwice`` where two programs answer for the site by turns."""
        seen = self._seen.setdefault(site, [])
        if seen and program != seen[-1] and program in seen:
            raise SiteTwice(site)
        if program not in seen:
            seen.append(program)


def _read(path: Path) -> dict[str, list[int]]:
    try:
        return {str(site): [int(n) for n in rounds] for site, rounds in json.loads(path.read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            "stage.output_damaged",
            what=f"{path}, which says what rounds each site has answered, cannot be read: {error}.",
            why="A site that has lost what it keeps of them could not be told.",
            fix="Restore the run's folder from a backup; where no site has lost its own folder, delete the file.",
        ) from error
