"""How the cells of an experiment stand in a store, wherever their images lie. Torch-free.

The command asks for runs on the folders that it is given (``tables.there_already``); whoever only looks does not know
them, and finds the newest run of a cell by everything else that its numbers depend on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from engine.config import RunConfig, parse_stored_config
from engine.errors import UserError
from engine.experiments.cells import Cell
from engine.experiments.sweep import Outcome, finished_runs
from engine.runs.records import RunRecord
from engine.runs.store import RunStore

FOLDERS = ("root", "test_root", "public_root")


def standing(store: RunStore, cells: Sequence[Cell]) -> dict[str, Outcome]:
    """Return how each cell's newest run stands, by the cell's key; nothing of a cell that nobody has run.

    A finished run with all its files wins over newer ones that are not; else the newest says ``queued``, ``running``,
    ``failed``, ``cancelled`` or ``interrupted``, and why.
    """
    complete = set(finished_runs(store).values())
    found: dict[str, Outcome] = {}
    for record in store.list():  # newest first
        key = _read(record.config_json)
        if key is None or (key in found and (found[key].status == "finished" or record.run_id not in complete)):
            continue
        found[key] = _outcome(record, is_complete=record.run_id in complete)
    mine = {cell.key: anywhere(cell.config) for cell in cells if cell.config is not None}
    return {key: found[place] for key, place in mine.items() if place in found}


def _outcome(record: RunRecord, *, is_complete: bool) -> Outcome:
    if is_complete:
        return Outcome("finished", record.run_id)
    reason = "" if record.error is None else f"{record.error['what']} {record.error['fix']}"
    # One whose folder is gone has no figures any more.
    status = "interrupted" if record.status == "finished" else record.status
    return Outcome(status, record.run_id, reason)


@lru_cache(maxsize=4096)
def _read(config_json: str) -> str | None:
    """Return the identity of a stored run's numbers; ``None`` of a configuration that this version cannot read."""
    try:
        return anywhere(parse_stored_config(json.loads(config_json)))
    except (UserError, ValueError):
        return None


def anywhere(config: RunConfig) -> str:
    """Return ``content_hash`` as if folders of images were known by their own names alone.

    Device and threads are left out: they can change last bits, and no figure of a table.
    """
    named = {name: Path(root.name) for name in FOLDERS if (root := getattr(config.data, name)) is not None}
    data = config.data.model_copy(update=named)
    return config.model_copy(update={"data": data, "device": "auto", "threads": None}).content_hash()
