"""Which files belong to which stage: a fork takes them over, a repeated stage must not find them. Torch-free."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from engine.methods import catalogue
from engine.runs import folders
from engine.runs.store import RunStore

CHECKPOINTS = "checkpoints"
REPORT_NAME = "run_report.json"

MODELS = ("model", "generator", "bundle")
"""Kinds of artefacts that are trained models; what is shown of a run needs none of them."""

_LINKED = (".safetensors", ".png", ".npy", ".onnx")
"""Written once, or replaced by renaming: two runs may share the bytes. Everything else is copied."""


def take_over(store: RunStore, *, source: str, target: str, stages: Sequence[str]) -> None:
    """Give the run ``target`` the files that ``stages`` made in the run ``source`` (hard links where that is safe)."""
    origin, destination = store.run_dir(source), store.run_dir(target)
    left_out = _later_maps(store, source, stages=stages)
    for path in files_of(store, source, stages):
        if path in left_out:
            continue
        copy = destination / path.relative_to(origin)
        folders.make(copy.parent)
        link_or_copy(path, copy)


def link_or_copy(path: Path, copy: Path) -> None:
    """Give the run's file ``path`` to another run as ``copy``: a hard link where that is safe."""
    if path.suffix in _LINKED:
        try:
            copy.hardlink_to(path)
            return
        except OSError:  # another file system, or one without hard links
            pass
    shutil.copy2(path, copy)


def discard(files: Iterable[Path]) -> None:
    """Remove ``files`` of stages that will run again, and folders left empty: an upload counts by its folder."""
    for path in files:
        path.unlink(missing_ok=True)
        for folder in path.parents:
            try:
                folder.rmdir()
            except OSError:  # it still holds something
                break


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed worker was just writing below the run's ``folder``: files and folders without their name.

    Nobody else may be writing there.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".tmp", ".partial", ".part") and path.exists():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def checkpoint_scope(path: Path) -> str | None:
    """Return the stage that wrote a checkpoint file; ``None`` for a file whose header cannot be read."""
    try:
        with safe_open(path, framework="np") as file:
            return (file.metadata() or {}).get("scope")
    except (SafetensorError, OSError):
        return None


def files_of(store: RunStore, run_id: str, stages: Sequence[str]) -> tuple[Path, ...]:
    """Return every file below the run's folder that belongs to one of ``stages``, each once."""
    folder = store.run_dir(run_id)
    roots = [folder / name for stage in catalogue.stages(stages) for name in stage.keeps]
    roots += [folder / artefact.path for artefact in store.artefacts(run_id) if artefact.stage in stages]
    found = {path for root in roots for path in (root.rglob("*") if root.is_dir() else [root]) if path.is_file()}
    found |= {p for p in (folder / CHECKPOINTS).rglob("*.safetensors") if checkpoint_scope(p) in stages}
    return tuple(sorted(found))


def _later_maps(store: RunStore, run_id: str, *, stages: Sequence[str]) -> set[Path]:
    """Return the probability maps that distillation added to the samples, where distillation is not taken over."""
    if catalogue.records_of(stages, catalogue.PREDICTIONS):
        return set()
    folder = store.run_dir(run_id)
    pairs = (item.sample for item in store.samples(run_id, limit=-1).items)
    return {folder / path for pair in pairs for path in (pair.teacher_path, pair.student_path) if path is not None}
