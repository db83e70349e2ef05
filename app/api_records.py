"""What the endpoints for programs give: records of models and runs as plain JSON objects. Pure but for the store."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from app.model_offers import Offer
from engine.runs.records import RunRecord
from engine.runs.report import finite, traffic_table
from engine.runs.sites import site_views
from engine.runs.store import RunStore


def plain(value: Any, told: Callable[[str], str]) -> Any:
    """Return ``value`` as JSON has it: tuples are lists, NaN and infinities null, and every text passes ``told``."""

    def said(part: Any) -> Any:
        if isinstance(part, str):
            return told(part)
        if isinstance(part, list):
            return [said(item) for item in part]
        return {key: said(item) for key, item in part.items()} if isinstance(part, dict) else part

    return said(json.loads(json.dumps(finite(value), default=str, allow_nan=False)))


def model(found: Offer) -> dict[str, Any]:
    """Return one offered model; ``dice`` is None where nobody has measured it."""
    return {
        "key": found.key,
        "name": found.name,
        "origin": found.origin,
        "modality": found.modality,
        "classes": list(found.classes),
        "created": found.created,
        "is_tryout": found.is_tryout,
        "is_broken": found.is_broken,
        "dice": asdict(found.score) if found.score else None,
    }


def run(record: RunRecord) -> dict[str, Any]:
    """Return one line of the list of runs; times are seconds since 1970."""
    return {
        "run_id": record.run_id,
        "name": record.name,
        "status": record.status,
        "method": record.method,
        "stage": record.stage,
        "parent": record.parent,
        "created_at": record.created_at,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
    }


def status(store: RunStore, run_id: str) -> dict[str, Any]:
    """Return how far a run is; ``failure`` has the four fields of what stopped it."""
    view = store.view(run_id)
    sites = site_views(store, store.work_id(run_id), active=view.run.active)
    return run(view.run) | {
        "eta_s": view.eta_s,
        "note": view.note,
        "failure": view.run.error,
        "stages": [asdict(stage) for stage in view.stages],
        "sites": [asdict(site) for site in sites],
    }


def report(store: RunStore, run_id: str) -> dict[str, Any]:
    """Return a run's results, those of its stages that are over; files are named from the run's folder."""
    view = store.view(run_id)
    return run(view.run) | {
        "config_hash": view.run.config_hash,
        "wall_s": sum(stage.wall_s for stage in view.stages),
        "evaluation": [asdict(row) for row in store.evaluation(run_id)],
        "differences": [asdict(row) for row in store.differences(run_id)],
        "traffic": traffic_table(store.traffic(run_id)),
        # Not "path": Gradio's client takes every mapping with one for a file, and would fetch it.
        "files": [{"kind": made.kind, "name": made.path} for made in store.artefacts(run_id)],
    }
