"""The programs of a run's sites in another process than the run's. Importing this brings in all that they need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol, runtime_checkable

from engine.config import RunConfig, parse_stored_config
from engine.data.datasets import load_federation
from engine.federation.backends.local import programs_here
from engine.federation.backends.ray_worker import Answering
from engine.federation.tasks import Listener, SiteReply, SiteRequest
from engine.methods import catalogue
from engine.runs.checkpoint import CheckpointStore
from engine.runs.identity import checkpoint_hash
from engine.site.data import sites_here


@runtime_checkable
class Keeping(Protocol):
    """A listener that has to know before a site keeps a state."""

    def before_save(self) -> None:
        """Wait until all that was told is written down."""


class _SitesOfRun:
    """The programs of a run's sites. Which stage asks decides what a checkpoint holds."""

    def __init__(self, config: RunConfig, *, state_root: Path, checkpoints: Path) -> None:
        self._config, self._folder, self._stage = config, checkpoints, ""
        self._listener: Listener | None = None
        federation = load_federation(config.data, seed=config.seed)
        self._programs = programs_here(
            config,
            sites_here(config, federation=federation),
            state_root=state_root,
            checkpoints=self._store,
            num_classes=len(federation.classes),
        )

    def answer(self, request: SiteRequest, *, stage: str, listener: Listener) -> SiteReply:
        """Answer as the site that is asked."""
        self._stage, self._listener = stage, listener
        return self._programs[request.site].answer(request, listener=listener)

    def _store(self) -> CheckpointStore:
        config, names = self._config, catalogue.method(self._config.method).stage_names
        return CheckpointStore(
            self._folder,
            lambda scope: checkpoint_hash(config, names, scope),
            warn=print,
            scope=self._stage,
            before_save=self._listener.before_save if isinstance(self._listener, Keeping) else None,
        )


def open_sites(config_json: str, state_root: str, checkpoints: str) -> Answering:
    """Return what answers for every site of a run whose images can be reached from this process.

    ``state_root`` and ``checkpoints`` are the folders that the run in one process has, too.
    """
    config = parse_stored_config(json.loads(config_json))
    return _SitesOfRun(config, state_root=Path(state_root), checkpoints=Path(checkpoints))
