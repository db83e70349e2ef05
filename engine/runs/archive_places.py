"""A run's records and report for others: folders by their last name, no address, nobody's name. Torch-free.

Whoever takes in such an archive learns what the run was, and nothing of where its machine keeps what.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from engine.config import RunConfig
from engine.config_keys import place_keys
from engine.errors import UserError
from engine.runs.identity import stage_hash

Rows = Mapping[str, Sequence[Mapping[str, Any]]]


def without_folders(config: RunConfig) -> RunConfig:
    """Return the configuration without addresses, and with the last part alone of what may name a place on it."""
    changed: dict[str, Any] = {}
    for key, place in place_keys().items():
        section, _, leaf = key.rpartition(".")
        value = _value(config, key)
        if value is None:
            continue
        is_address = place.kind == "address" or key == "server"
        changed.setdefault(section, {})[leaf] = None if is_address else type(value)(_last(value))
    top = changed.pop("", {})
    sections = {name: getattr(config, name).model_copy(update=update) for name, update in changed.items()}
    return config.model_copy(update={**top, **sections})


class Places:
    """What a run names of its machine, and what stands for it in an archive for others."""

    def __init__(self, config: RunConfig, *, folders: Sequence[str]) -> None:
        """``folders`` are further ones that its words may name: the run's own, its home."""
        self._config, self.config = config, without_folders(config)
        named = [str(value) for key in place_keys() if (value := _value(config, key)) is not None]
        self._names = sorted(
            {name for name in (*named, *folders) if "/" in name or "\\" in name}, key=len, reverse=True
        )

    def records(self, rows: Rows) -> dict[str, list[dict[str, Any]]]:
        """Return a run's rows with the configuration, its hash and every text as others may see them."""
        told = {name: [self._told(dict(row)) for row in table] for name, table in rows.items()}
        about = {"config_json": self.config.model_dump_json(), "config_hash": self.config.content_hash()}
        return told | {"runs": [row | about for row in told["runs"]]}

    def report(self, told: dict[str, Any]) -> dict[str, Any]:
        """Return what a run_report.json says, in the same way."""
        found = self._told(told)
        stages = list(found.get("stage_hashes", {}))
        hashes = {name: stage_hash(self.config, stages, name) for name in stages}
        own = {"config": self.config.model_dump(mode="json"), "config_hash": self.config.content_hash()}
        return found | own | {"stage_hashes": hashes}

    def _told(self, value: Any) -> Any:
        if isinstance(value, str):
            for name in self._names:
                value = value.replace(name, _last(name))
            return value
        if isinstance(value, dict):
            return {key: self._told(item) for key, item in value.items()}
        return [self._told(item) for item in value] if isinstance(value, list) else value


def report_for_others(file: Path, places: Places | None) -> bytes:
    """Return a run_report.json without who started the run, and with ``places`` as others may see them.

    One that is no JSON is returned as it is, but for others: ``UserError`` ``stage.output_damaged``.
    """
    text = file.read_bytes()
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        if places is None:
            return text
        raise UserError(
            "stage.output_damaged",
            what=f"{file} cannot be read: {error}.",
            why="What it says of this machine's folders could not be taken out of it.",
            fix="Restore the run's folder from a backup, or export it with places.",
        ) from error
    if not isinstance(told, dict):
        told = {}
    if places is None and told.get("started_by") is None:
        return text
    found = (told if places is None else places.report(told)) | {"started_by": None}
    return (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode()


def _value(config: RunConfig, key: str) -> Any:
    section, _, leaf = key.rpartition(".")
    return getattr(getattr(config, section) if section else config, leaf)


def _last(place: Any) -> str:
    return PurePosixPath(str(place).replace("\\", "/")).name
