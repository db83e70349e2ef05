"""What a report says of a run, read from its folder and the store: nothing is worked out anew. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.config import RunConfig
from engine.errors import UserError
from engine.evaluation.spread import site_spread
from engine.evaluation.tables import named
from engine.experiments.comparison import ComparedRun, read_run
from engine.report.badges import Badges, badges, exported_model
from engine.report.ledger import Message, read_ledger
from engine.runs.archive_places import without_folders
from engine.runs.gates import read_gate
from engine.runs.outputs import REPORT_NAME
from engine.runs.records import LogLine, MetricSeries, RunRecord, StageRecord
from engine.runs.sites import SiteView, site_views
from engine.runs.store import RunStore
from engine.types import EvaluationRow, ModelDifference, SiteSpread

LOG_LINES = 100_000
"""So many of the newest lines are looked through for warnings and errors (ours)."""
MOST_WORDS, MOST_LETTERS = 60, 300
"""Limits of what is taken from a run_report.json, which may have come with an archive (ours)."""


@dataclass(frozen=True)
class RunDocument:
    """A run as its report shows it. Rows and differences are under the run's own names of models."""

    compared: ComparedRun
    config: RunConfig | None
    """Without the folders of a machine; None where this version cannot read what is stored."""
    stages: tuple[StageRecord, ...]
    rows: tuple[EvaluationRow, ...]
    differences: tuple[ModelDifference, ...]
    spread: tuple[SiteSpread, ...]
    badges: Badges
    exported: str | None
    """Catalogue's name of the model in the bundle."""
    gate: tuple[str, ...]
    """Sentences on which epoch of distillation is kept."""
    sites: tuple[SiteView, ...]
    """In the order of their names; runs of before this was recorded have none."""
    curves: tuple[MetricSeries, ...]
    ledger: tuple[Message, ...]
    versions: Mapping[str, str]
    machine: Mapping[str, str]
    warnings: tuple[LogLine, ...]
    """Warnings and errors of the log, oldest first."""

    @property
    def record(self) -> RunRecord:
        """The run."""
        return self.compared.record


def read_document(store: RunStore, run_id: str) -> RunDocument:
    """Return what the report of a run says; of a run that has not ended, as far as it has come.

    While the run is extended these are the results of before. Raises ``UserError`` ``run.unknown``.
    """
    compared = read_run(store, run_id)
    stages, rows, differences = store.stages(run_id), store.evaluation(run_id), store.differences(run_id)
    exported, config, folder = exported_model(store, run_id), compared.config, store.run_dir(run_id)
    beside: Badges = {}
    if config is not None:
        names = [stage.name for stage in stages]
        beside = badges(rows, differences, config=config, stages=names, exported=exported)
        rows, differences = tuple(named(rows, config)), tuple(named(differences, config))
    try:
        gate = read_gate(folder)
    except UserError:  # a damaged file: what the gate has kept is in the results all the same
        gate = None
    told = _read_report(folder / REPORT_NAME)
    lines = store.events(run_id, limit=LOG_LINES)
    return RunDocument(
        compared=compared,
        config=None if config is None else without_folders(config),
        stages=stages,
        rows=rows,
        differences=differences,
        spread=tuple(site_spread(rows)),
        badges=beside,
        exported=exported,
        gate=() if gate is None else gate.sentences(),
        sites=tuple(sorted(site_views(store, run_id, active=False), key=lambda view: view.now.site)),
        curves=store.metrics(run_id),
        ledger=read_ledger(store, run_id),
        versions=_words(told.get("versions")),
        machine=_words(told.get("machine")),
        warnings=tuple(line for line in lines if line.level != "info"),
    )


def series_of(curves: Sequence[MetricSeries], *, stage: str, name: str) -> list[MetricSeries]:
    """Return the curves of one measure of a stage: the sites' mean first, then the sites by name."""
    found = [curve for curve in curves if (curve.stage, curve.name) == (stage, name)]
    return sorted(found, key=lambda curve: (curve.site is not None, curve.site or ""))


def _read_report(path: Any) -> dict[str, Any]:
    """Return what the run's own report says; nothing where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _words(value: Any) -> dict[str, str]:
    """Return a mapping of short texts and numbers as texts; what is anything else is left out."""
    if not isinstance(value, dict):
        return {}
    plain = {
        key: item for key, item in value.items() if isinstance(item, str | int | float) and not isinstance(item, bool)
    }
    return {str(key)[:MOST_LETTERS]: str(item)[:MOST_LETTERS] for key, item in list(plain.items())[:MOST_WORDS]}
