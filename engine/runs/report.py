"""``run_report.json``: one file that says what a run was, what it took and what came of it. Torch-free."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from engine.errors import UserError
from engine.runs.gates import read_gate
from engine.runs.generator_checks import read_checks
from engine.runs.identity import stage_hash
from engine.runs.outputs import REPORT_NAME
from engine.runs.records import TrafficTotal
from engine.runs.store import RunStore
from engine.version import program_version

FORMAT = "dsfedmed-run-report-1"
PACKAGES = ("torch", "diffusers", "flwr", "monai", "timm", "segment-anything", "transformers", "peft",
            "torch-fidelity", "onnx", "onnxruntime",
            "onnxruntime-gpu", "numpy", "pydantic", "sqlalchemy")  # fmt: skip


def write_report(
    store: RunStore,
    run_id: str,
    *,
    status: str | None = None,
    device: str | None = None,
    error: UserError | None = None,
    work_id: str | None = None,
) -> Path:
    """Write the run's report and return its path.

    ``status`` is the state that the run is about to take (its present one when left out) and ``error`` why,
    ``device`` what the models ran on, ``work_id`` the extension that it is about, in whose folder it then lies.
    """
    path = store.run_dir(work_id or run_id) / REPORT_NAME
    temporary = path.with_suffix(".tmp")
    report = build_report(store, run_id, status=status, device=device, error=error, work_id=work_id)
    text = json.dumps(finite(report), indent=2, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def build_report(
    store: RunStore,
    run_id: str,
    *,
    status: str | None = None,
    device: str | None = None,
    error: UserError | None = None,
    work_id: str | None = None,
) -> dict[str, Any]:
    """Return the report: configuration, hashes, versions, machine, durations, traffic, results, files."""
    work_id = work_id or run_id
    record, stages, extension = store.get(run_id), store.stages(work_id), store.extension(run_id)
    described = extension if extension is not None and work_id != run_id else record
    config = described.config
    names, gate = [stage.name for stage in stages], read_gate(store.run_dir(work_id))
    return {
        "format": FORMAT,
        "run_id": run_id,
        "name": record.name,
        "status": status or record.status,
        "method": record.method,
        "parent": record.parent,
        "started_by": record.started_by,
        "fork_stage": record.fork_stage,
        "error": error.as_dict() if error else record.error,
        "seed": config.seed,
        "config": config.model_dump(mode="json"),
        "config_hash": described.config_hash,
        "stage_hashes": {name: stage_hash(config, names, name) for name in names},
        "program": program_version(),
        "versions": versions(),
        "machine": machine() | {"device": device},
        "created_at": record.created_at,
        "started_at": record.started_at,
        "reported_at": time.time(),
        "workers": record.attempt,
        "stages": [
            {
                "name": s.name,
                "status": s.status,
                "wall_s": s.wall_s,
                "beside_s": s.beside_s,
                "cpu_s": s.cpu_s,
                "planned_s": s.planned_s,
                "steps": s.step,
            }
            for s in stages
        ],
        "wall_s": sum(stage.wall_s for stage in stages),
        "peak_memory_bytes": peak_memory_bytes(),
        "traffic": traffic_table(store.traffic(work_id)),
        "evaluation": [asdict(row) for row in store.evaluation(work_id)],
        "differences": [asdict(row) for row in store.differences(work_id)],
        "generator_checks": read_checks(store.run_dir(work_id)),
        "gate": None if gate is None else asdict(gate),
        "artefacts": _artefacts(store, work_id),
    }


def traffic_table(totals: Sequence[TrafficTotal]) -> dict[str, Any]:
    """Return bytes by site and direction, by kind, and in all."""
    by_site: dict[str, dict[str, int]] = defaultdict(lambda: {"up": 0, "down": 0})
    by_kind: dict[str, dict[str, int]] = defaultdict(lambda: {"up": 0, "down": 0})
    for total in totals:
        by_site[total.site][total.direction] += total.payload_bytes
        by_kind[total.kind][total.direction] += total.payload_bytes
    whole = sum(total.payload_bytes for total in totals)
    return {"by_site": dict(by_site), "by_kind": dict(by_kind), "total_bytes": whole}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return what this machine is: system, processor, cores, memory in bytes."""
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def peak_memory_bytes() -> int:
    """Return the largest resident memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def processor() -> str:
    """Return the name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _artefacts(store: RunStore, run_id: str) -> list[dict[str, Any]]:
    folder = store.run_dir(run_id)
    rows = []
    for artefact in store.artefacts(run_id):
        path = folder / artefact.path
        files = [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
        sizes = [file.stat().st_size for file in files if file.is_file()]
        row = {"kind": artefact.kind, "path": artefact.path, "stage": artefact.stage, "bytes": sum(sizes)}
        rows.append(row | ({"sha256": _sha256(path)} if path.is_file() and artefact.kind != "report" else {}))
    return rows


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finite(value: Any) -> Any:
    """Return ``value`` with NaN and infinities as ``None``: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
