"""Which files a fork takes over and a repeated stage loses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.config import RunConfig
from engine.methods import catalogue
from engine.runs import outputs
from engine.runs.checkpoint import CheckpointStore
from engine.runs.events import StoreReporter
from engine.runs.store import RunStore
from engine.types import SyntheticSample

STAGES = catalogue.method("dsfedmed").stage_names


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "home")


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def whole_run(store: RunStore) -> str:
    """A run as all seven stages leave it."""
    run_id = store.create_run(RunConfig()).run_id
    store.update_run(run_id, status="running", attempt=1)
    folder = store.run_dir(run_id)
    for stage in STAGES:
        CheckpointStore(folder / "checkpoints", "h", warn=print, scope=stage).save(f"{stage}/state", torch.zeros(2))
    CheckpointStore(folder / "checkpoints", "h", warn=print, scope="generation").save("student_logits", torch.zeros(2))
    write(folder / "sites" / "a" / "adam.safetensors")
    write(folder / "generators" / "a" / "model.safetensors")
    names = ("00000.png", "00000_mask.png", "00000_sam.png", "00000_tinysam.png")
    image, mask, teacher, student = (Path("samples") / "a" / name for name in names)
    for path in (image, mask, teacher, student):
        write(folder / path)
    write(folder / "samples" / "samples.json")
    write(folder / "evaluation" / "rows.json")
    write(folder / "worker.log")
    for stage, path in (
        ("federated_training", "models/fedavg_student.safetensors"),
        ("mutual_distillation", "models/distilled_student.safetensors"),
        ("export", "bundle/model.onnx"),
    ):
        write(folder / path)
        StoreReporter(store, run_id, stage, attempt=1).artefact("model", folder / path)
    report = StoreReporter(store, run_id, "generation", attempt=1)
    report.samples([SyntheticSample("a/0", "a", 0, 1, "m", "real", image, mask, 0.5, teacher, student)])
    report.flush()
    return run_id


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_file_belongs_to_one_stage(store: RunStore) -> None:
    run_id = whole_run(store)
    folder = store.run_dir(run_id)
    owned = [path for stage in STAGES for path in outputs.files_of(store, run_id, [stage])]
    assert len(owned) == len(set(owned))
    assert {p.relative_to(folder).as_posix() for p in owned} == files(folder) - {"worker.log"}


def test_a_fork_gets_the_files_of_earlier_stages_and_shares_their_bytes(store: RunStore) -> None:
    parent = whole_run(store)
    child = store.create_run(RunConfig(), parent=parent).run_id
    earlier = STAGES[:3]
    store.copy_results(parent, child, earlier)
    outputs.take_over(store, source=parent, target=child, stages=earlier)
    taken = files(store.run_dir(child))
    assert taken == {
        "checkpoints/federated_training/state.safetensors",
        "checkpoints/generator_training/state.safetensors",
        "checkpoints/generation/state.safetensors",
        "checkpoints/student_logits.safetensors",
        "sites/a/adam.safetensors",
        "generators/a/model.safetensors",
        "samples/a/00000.png",
        "samples/a/00000_mask.png",
        "samples/samples.json",
        "models/fedavg_student.safetensors",
    }
    image = Path("samples") / "a" / "00000.png"
    assert (store.run_dir(child) / image).samefile(store.run_dir(parent) / image)
    listed = Path("samples") / "samples.json"
    assert not (store.run_dir(child) / listed).samefile(store.run_dir(parent) / listed)
    sample = store.sample(child, "a/0")
    assert sample is not None and sample.teacher_path is None and sample.student_path is None


def test_a_fork_after_distillation_keeps_its_maps(store: RunStore) -> None:
    parent = whole_run(store)
    child = store.create_run(RunConfig(), parent=parent).run_id
    store.copy_results(parent, child, STAGES[:5])
    outputs.take_over(store, source=parent, target=child, stages=STAGES[:5])
    assert "samples/a/00000_sam.png" in files(store.run_dir(child))
    sample = store.sample(child, "a/0")
    assert sample is not None and sample.teacher_path is not None


def test_discarding_leaves_neither_files_nor_empty_folders(store: RunStore) -> None:
    run_id = whole_run(store)
    outputs.discard(outputs.files_of(store, run_id, STAGES[1:]))
    folder = store.run_dir(run_id)
    assert files(folder) == {
        "checkpoints/federated_training/state.safetensors",
        "sites/a/adam.safetensors",
        "models/fedavg_student.safetensors",
        "worker.log",
    }
    assert not (folder / "generators").exists() and not (folder / "samples").exists()


def test_a_file_that_is_no_checkpoint_belongs_to_nobody(tmp_path: Path) -> None:
    assert outputs.checkpoint_scope(write(tmp_path / "a.safetensors")) is None
