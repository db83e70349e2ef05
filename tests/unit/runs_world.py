"""A home with runs as workers leave them, made without torch and without a worker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from engine.config import RunConfig, parse_config
from engine.runs.events import StoreReporter
from engine.runs.results import ResultStore
from engine.runs.store import RunStore
from engine.types import EvaluationRow, Traffic

STAGES = ("federated_training", "evaluation", "export")
ROUNDS = 4


def config(*, rounds: int = ROUNDS, samples: int = 500) -> RunConfig:
    """A configuration of three stages."""
    return parse_config(
        {
            "method": "fedtinysam",
            "federation": {"rounds": rounds},
            "evaluation": {"bootstrap_samples": samples},
        }
    )


def work(store: RunStore, run_id: str, *, rounds: int, stages: tuple[str, ...] = STAGES) -> None:
    """Do what a worker's stages would: records under the run (or its extension) and files in its folder."""
    work_id = store.work_id(run_id)
    folder = store.run_dir(work_id)
    for stage in stages:
        reporter = StoreReporter(store, run_id, stage, attempt=store.get(run_id).attempt, work_id=work_id)
        store.set_stage_status(work_id, stage, "running")
        for path in {
            "federated_training": ("checkpoints/federated_training.safetensors", "models/student.safetensors"),
            "evaluation": ("checkpoints/evaluation.safetensors", "evaluation/rows.json"),
            "export": ("bundle/model.onnx", "bundle/manifest.json"),
        }[stage]:
            write(folder / path, f"{rounds} rounds", scope=stage)
        if stage == "federated_training":
            for step in range(1, rounds + 1):
                reporter.metric("dice", step / 100, step=step)
                reporter.traffic(Traffic("a", "up", "student", 10, round=step))
            reporter.artefact("model", Path("models/student.safetensors"))
        if stage == "evaluation":
            reporter.evaluation([EvaluationRow("m", "z", "test", "c", 3, rounds / 100, 0.1, 0.9, 0.4, 0.5, 0.3, None)])
        if stage == "export":
            reporter.artefact("bundle", Path("bundle"))
        reporter.flush()
        store.set_stage_status(work_id, stage, "finished", wall_s=1.0)


def write(path: Path, text: str, *, scope: str) -> None:
    """Write a checkpoint of ``scope`` or a text, by renaming, as every stage does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.1.tmp")
    if path.parent.name == "checkpoints":
        save_file({"x": np.frombuffer(text.encode(), dtype=np.uint8)}, temporary, metadata={"scope": scope})
    else:
        temporary.write_text(text)
    temporary.replace(path)


def finished_run(store: RunStore) -> str:
    """A run of ROUNDS rounds that has all its results."""
    run_id = store.create_run(config(), queued=True).run_id
    assert store.claim(max_running=9, run_id=run_id) is not None
    work(store, run_id, rounds=ROUNDS)
    write(store.run_dir(run_id) / "worker.log", "a log", scope="")
    assert store.end_run(run_id, "finished", owner=1)
    return run_id


def results(store: RunStore, run_id: str) -> dict[str, object]:
    """Everything that a reader can see of a run's results."""
    folder = store.run_dir(run_id)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {
        "files": {name: content for name, content in files.items() if name not in ("worker.log", "run_report.json")},
        "rounds": store.get(run_id).config.federation.rounds,
        "hash": store.get(run_id).config_hash,
        "curves": ResultStore.metrics(store, run_id),  # not those of an extension that is being worked on
        "traffic": store.traffic(run_id),
        "evaluation": store.evaluation(run_id),
        "artefacts": [(a.kind, a.path, a.stage) for a in store.artefacts(run_id) if a.kind != "report"],
        "finished": [stage.name for stage in store.stages(run_id) if stage.status == "finished"],
    }
