"""Finished runs that a site can join, made without torch and without a worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.config import RunConfig, parse_config
from engine.methods import catalogue
from engine.runs import joins
from engine.runs.events import StoreReporter
from engine.runs.store import RunStore
from engine.types import Traffic

SITES = ("north", "south")
UNSEEN = "west"
IDENTITY = {f"{part} {site}": f"{part}-{site}" for site in SITES for part in ("train", "validation")}
IDENTITY |= {f"test {UNSEEN}": "all"}
DATA = {"classes": ("polyp",), "modality": "endoscopy"}


def config(method: str = "dsfedmed", **data: Any) -> RunConfig:
    return parse_config(
        {
            "name": "both", "method": method, "seed": 3, "data": {"held_out": UNSEEN, "sites": SITES, **data},
            "foundation": {"epochs": 3}, "federation": {"rounds": 4}, "distillation": {"epochs": 2},
        }
    )  # fmt: skip


def finish(store: RunStore, run_id: str, *, minutes: float = 0.0, payload_bytes: int = 0) -> str:
    """Leave the run as a worker would: all stages done, with its models, generators, samples and what it has noted."""
    record, folder = store.get(run_id), store.run_dir(run_id)
    store.claim(max_running=9, run_id=run_id)
    names = [stage.name for stage in store.stages(run_id)]
    for name in names:
        store.set_stage_status(run_id, name, "finished", wall_s=minutes * 60 / len(names))
    reporter = StoreReporter(store, run_id, names[0], attempt=1)
    reporter.traffic(Traffic("north", "up", "student", payload_bytes, round=1))
    reporter.flush()
    for model in (*catalogue.method(record.method).models, catalogue.method("dsfedmed").models[0]):
        write(folder / "models" / f"{model.name}.safetensors", f"{model.name} of {run_id}")
    for site in SITES:
        write(folder / "generators" / site / "weights.safetensors", site)
        write(folder / "samples" / site / "00000.png", site)
    write(folder / "samples" / "samples.json", "[]")
    write(folder / "data" / "identity.json", json.dumps(IDENTITY))
    write(folder / "bundle" / "manifest.json", json.dumps(DATA))
    assert store.end_run(run_id, "finished", owner=1)
    return run_id


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def joined(store: RunStore, run_id: str, *sites: str, **how: Any) -> str:
    return joins.join(store, run_id, config=joins.joined_config(store, run_id, sites), **DATA | how)
