"""Starting, stopping and going on with runs: what the page and the command line call. Torch-free.

A run waits in the store's queue until :func:`advance_queue` gives it a worker process; whoever reads the store may
call that, and a worker that ends does. Nothing here computes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.config import RunConfig, parse_config
from engine.config_keys import place_keys
from engine.errors import UserError
from engine.methods import catalogue
from engine.runs import outputs
from engine.runs.extensions import WORKER_LOG
from engine.runs.identity import changed_keys, first_stage_of, growing_stage
from engine.runs.processes import advance_queue, reap, register_worker, worker_alive
from engine.runs.records import RunRecord
from engine.runs.store import RunStore

DELETED_FILE = "deleted_runs.jsonl"
"""In the home: a line for each run that somebody has deleted."""

__all__ = [
    "WORKER_LOG",
    "advance_queue",
    "cancel",
    "check_fork",
    "delete",
    "drop_extension",
    "extend",
    "fork",
    "longer_config",
    "moved_config",
    "reap",
    "refuse_active",
    "refuse_without_folder",
    "refuse_without_models",
    "register_worker",
    "resume",
    "said_by",
    "submit",
    "with_absolute_paths",
]


def submit(
    store: RunStore, config: RunConfig, *, planned_s: Mapping[str, float] | None = None, by: str | None = None
) -> str:
    """Store a run of ``config`` in the queue, start it if nothing else runs, and return its id.

    ``by`` is who asked for it, here and below: it is kept with the run and said in its log. Raises ``UserError``
    ``run.continues`` for a method whose runs continue finished ones.
    """
    if catalogue.method(config.method).continues:
        raise UserError(
            "run.continues",
            what=f"No run of the method '{config.method}' can be started by itself.",
            why="It goes on from the models and samples of a finished run.",
            fix="Add a site to a finished run: `python -m engine join RUN SITE`.",
        )
    record = store.create_run(with_absolute_paths(config), planned_s=planned_s, by=by, queued=True)
    advance_queue(store)
    return record.run_id


def cancel(store: RunStore, run_id: str, *, force: bool = False, by: str | None = None) -> None:
    """Ask for the run to stop: a waiting one at once, a running one at its next step boundary, within 5 s.

    What exists is kept and the run can be resumed. ``force`` kills the worker instead of asking it. Raises
    ``UserError`` ``run.not_active`` for a run that neither waits nor runs.
    """
    if store.withdraw(run_id, said=said_by("Cancelled", by)):
        return
    reap(store)
    record = store.get(run_id)
    if record.status != "running":
        raise UserError(
            "run.not_active",
            what=f"The run '{run_id}' is {record.status}.",
            why="Only a queued or running run can be cancelled.",
            fix="Nothing needs to be done.",
        )
    store.request_cancel(run_id, said=said_by("Cancelled", by))
    if force and record.pid is not None and record.host == socket.gethostname() and worker_alive(record):
        os.kill(record.pid, signal.SIGKILL)


def delete(store: RunStore, run_id: str, *, by: str | None = None) -> None:
    """Delete a run that has ended, with its files, and note which it was, when and ``by`` whom in ``DELETED_FILE``.

    Raises ``UserError`` ``run.active`` for one that has not ended.
    """
    record = store.get(run_id)
    store.delete(run_id)
    noted = {"at": time.time(), "run_id": run_id, "name": record.name, "by": by, "started_by": record.started_by}
    with (store.home / DELETED_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(noted) + "\n")


def resume(store: RunStore, run_id: str, *, by: str | None = None, where: Mapping[str, Any] | None = None) -> None:
    """Put a cancelled, failed or interrupted run back in the queue; it goes on from its last checkpoint.

    Where an extension of it has stopped, that goes on. ``where`` are keys of ``WHERE_KEYS`` that change.

    Raises ``UserError`` ``run.active``, ``run.finished``, ``run.folder_missing`` or ``run.other_sites``, and
    ``config.invalid`` for settings that are not accepted any more.
    """
    store.settle()
    reap(store)
    record, extension = store.get(run_id), store.extension(run_id)
    refuse_active(record)
    if record.status == "finished":
        raise UserError(
            "run.finished",
            what=f"The run '{run_id}' is finished.",
            why="There is nothing left to do in it.",
            fix=f"Add rounds with `python -m engine extend {run_id} --rounds N`, or fork it from a stage.",
        )
    refuse_without_folder(store, store.work_id(run_id))
    parse_config((extension or record).config.model_dump(mode="json"))
    if where:
        moved = moved_config((extension or record).config, where)
        store.update_run(store.work_id(run_id), config_json=moved.model_dump_json())
    # Earlier versions extended a run in place: one that was killed meanwhile would find files of the shorter run.
    unbegun = [s.name for s in store.stages(run_id) if s.status == "pending" and s.started_at is None and not s.wall_s]
    outputs.discard(outputs.files_of(store, run_id, unbegun))
    if not store.enqueue(run_id, said=said_by("Resumed", by)):
        refuse_active(store.get(run_id))
    advance_queue(store)


def moved_config(config: RunConfig, where: Mapping[str, Any] | None) -> RunConfig:
    """Return ``config`` with other values of ``WHERE_KEYS``; ``UserError`` ``run.other_sites`` to or from hospitals.

    What a site keeps of a run lies at the site: in the run's folder, or at the hospital.
    """
    if not where:
        return config
    moved = with_absolute_paths(parse_config(config.model_dump(mode="json") | dict(where)))
    if moved.backend != config.backend and "superlink" in (moved.backend, config.backend):
        raise UserError(
            "run.other_sites",
            what=f"The run's sites are those of backend '{config.backend}', not of '{moved.backend}'.",
            why="What a site keeps of a run, such as its optimiser, lies where the site is.",
            fix="Go on with the back end that the run was begun with, or start a new run.",
        )
    return moved


def longer_config(record: RunRecord, *, rounds: int, where: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the configuration of a run with ``rounds`` federated rounds in total; UserError ``run.extend_rounds``."""
    config = moved_config(record.config, where)
    if rounds <= config.federation.rounds:
        raise UserError(
            "run.extend_rounds",
            what=f"The run '{record.run_id}' already has {config.federation.rounds} rounds; {rounds} were asked for.",
            why="Rounds that were trained cannot be taken back.",
            fix=f"Ask for more than {config.federation.rounds} rounds in total, or fork the run.",
        )
    values = config.model_dump(mode="json")
    values["federation"]["rounds"] = rounds
    return parse_config(values)


def extend(
    store: RunStore, run_id: str, *, rounds: int, by: str | None = None, where: Mapping[str, Any] | None = None
) -> None:
    """Give a run ``rounds`` federated rounds in total: training goes on from its checkpoint, later stages run again.

    The run's results stay as they are, and are given out, until every stage of the longer run has its own; where that
    stops on the way, ``resume`` goes on with it and ``drop_extension`` gives it up. Extending a run whose extension
    has stopped goes on from the rounds that it has trained, unless fewer are wanted now. Raises ``UserError``
    ``run.active``, ``run.extend_method``, or ``run.extend_rounds`` unless ``rounds`` is above the number that the
    results have.
    """
    store.settle()
    reap(store)
    record, earlier = store.get(run_id), store.extension(run_id)
    refuse_active(record)
    longer = longer_config(record, rounds=rounds, where=where)
    refuse_without_folder(store, run_id)
    goes_on = earlier and earlier.config.federation.rounds <= rounds and store.run_dir(earlier.work_id).is_dir()
    source = earlier.work_id if earlier and goes_on else run_id
    trained = record.config.federation.rounds
    said = said_by(f"Extended from {trained} to {rounds} rounds", by) or f"Extended from {trained} to {rounds} rounds."
    first = growing_stage([stage.name for stage in store.stages(run_id)])
    if first is None:
        raise UserError(
            "run.extend_method",
            what=f"The method '{record.method}' of the run '{run_id}' has no stage that could train further rounds.",
            why="Only federated training goes on from where it ended.",
            fix="Fork the run with other settings instead.",
        )
    with store.filling(extends=run_id) as work_id:
        outputs.take_over(store, source=source, target=work_id, stages=[first])
        factor = rounds / trained  # later stages' estimates follow from how the plan has done
        begun = store.begin_extension(
            run_id, work_id, longer, source=source, go_on=first, said=said, planned_factor=factor
        )
    if not begun:
        refuse_active(store.get(run_id))
    advance_queue(store)


def drop_extension(store: RunStore, run_id: str, *, by: str | None = None) -> None:
    """Give up the extension of a run that is not active; its results are the run's again. ``run.not_extended``."""
    reap(store)
    refuse_active(store.get(run_id))
    if not store.drop_extension(run_id, said=said_by("Extension dropped", by) or "Extension dropped."):
        raise UserError(
            "run.not_extended",
            what=f"The run '{run_id}' has no extension that has stopped.",
            why="Only what was begun and is not finished can be given up.",
            fix="Nothing needs to be done.",
        )


def fork(
    store: RunStore,
    run_id: str,
    *,
    stage: str,
    config: RunConfig,
    planned_s: Mapping[str, float] | None = None,
    by: str | None = None,
) -> str:
    """Start a new run that takes everything before ``stage`` from ``run_id`` and runs the rest as ``config`` says.

    Returns the new run's id. Raises ``UserError`` ``run.fork_stage`` for a stage that the run does not have or whose
    predecessors are not finished, ``run.fork_edit`` for an edit that would change a stage taken over.
    """
    store.settle()
    parent = store.get(run_id)
    names = [known.name for known in store.stages(run_id)]
    config = with_absolute_paths(config)
    refuse_without_folder(store, run_id)
    check_fork(store, run_id, config, stage=stage)
    earlier = names[: names.index(stage)]
    refuse_without_models(store, run_id, earlier)
    own_stages = names if config.method == parent.config.method else None  # another method: nothing is taken over
    with store.filling() as child:
        outputs.take_over(store, source=run_id, target=child, stages=earlier)
        stored = store.create_fork(
            config,
            run_id=child,
            parent=parent,
            fork_stage=stage,
            stages=own_stages,
            taken_over=earlier,
            planned_s=planned_s,
            by=by,
            said=said_by(f"Forked from {run_id} at {stage}", by) or f"Forked from {run_id} at {stage}.",
        )
    if not stored:
        raise UserError(
            "run.fork_changed",
            what=f"The results of the run '{run_id}' were replaced by those of its extension just now.",
            why="A fork takes over the results of one run, not of two.",
            fix="Fork it again: it then takes over the new ones.",
        )
    advance_queue(store)
    return child


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return ``config`` with its files and folders made absolute: a worker does not run where the person stood.

    A name of the registry stays, and so does an address.
    """
    changed: dict[str, dict[str, Any]] = {}
    for key, place in place_keys().items():
        section, _, leaf = key.rpartition(".")
        value = getattr(getattr(config, section) if section else config, leaf)
        if value is None or place.kind == "address":
            continue
        path = Path(value).expanduser()
        if place.kind != "source" or path.exists():
            changed.setdefault(section, {})[leaf] = type(value)(path.resolve())
    top = changed.pop("", {})
    sections = {name: getattr(config, name).model_copy(update=update) for name, update in changed.items()}
    return config.model_copy(update={**sections, **top})


def check_fork(store: RunStore, run_id: str, config: RunConfig, *, stage: str) -> None:
    """Raise ``UserError`` ``run.fork_stage`` or ``run.fork_edit`` where ``run_id`` cannot be forked so at ``stage``."""
    parent, stages, config = store.get(run_id), store.stages(run_id), with_absolute_paths(config)
    names, finished = [s.name for s in stages], [s.name for s in stages if s.status == "finished"]
    if stage not in names:
        raise UserError(
            "run.fork_stage",
            what=f"The run '{parent.run_id}' has no stage '{stage}'.",
            why="A fork begins at a stage of its parent.",
            fix=f"Choose one of: {', '.join(names)}.",
        )
    if any(spec.takes_over for spec in catalogue.stages([stage])):
        raise UserError(
            "run.fork_stage",
            what=f"No fork begins at the stage '{stage}' of the run '{parent.run_id}'.",
            why="What it takes over was given to the run when that was made.",
            fix=f"Choose one of: {', '.join(names[1:])}.",
        )
    missing = [name for name in names[: names.index(stage)] if name not in finished]
    if missing:
        raise UserError(
            "run.fork_stage",
            what=f"The stage '{missing[0]}' of the run '{parent.run_id}' is not finished.",
            why=f"A fork at '{stage}' takes over everything before it.",
            fix=f"Fork at '{missing[0]}' or earlier, or finish the run first.",
        )
    for key in changed_keys(parent.config, config):
        concerned = first_stage_of(key, names)
        if concerned is not None and names.index(concerned) < names.index(stage):
            raise UserError(
                "run.fork_edit",
                what=f"The edit of '{key}' changes the stage '{concerned}', which the fork at '{stage}' takes over.",
                why="The stages taken over would not be what the configuration says.",
                fix=f"Fork at '{concerned}' or earlier, or leave '{key}' as it is.",
            )


def refuse_active(record: RunRecord) -> None:
    """Raise ``UserError`` ``run.active`` for a run that waits or runs."""
    if record.active:
        raise UserError(
            "run.active",
            what=f"The run '{record.run_id}' is {record.status}.",
            why="A run has one worker at a time.",
            fix=f"Wait for it, or cancel it first: `python -m engine cancel {record.run_id}`.",
        )


def refuse_without_folder(store: RunStore, run_id: str) -> None:
    """Raise ``UserError`` ``run.folder_missing`` where the run's folder is gone."""
    if not store.run_dir(run_id).is_dir():
        raise UserError(
            "run.folder_missing",
            what=f"The folder {store.run_dir(run_id)} of the run '{run_id}' is not there any more.",
            why="Its models, samples and checkpoints lay there; the store keeps only its figures.",
            fix="Restore the folder from a backup, or start a new run."
            if store.run_dir(run_id).name == run_id
            else "Extend the run again, or give its extension up: its results are still there.",
        )


def refuse_without_models(store: RunStore, run_id: str, stages: Sequence[str]) -> None:
    """Raise ``UserError`` ``run.models_missing`` where ``stages`` made models and the run has none of them."""
    makes = any(model for stage in catalogue.stages(stages) for model in stage.makes)
    if makes and not any(store.run_dir(run_id).rglob("*.safetensors")):
        raise UserError(
            "run.models_missing",
            what=f"The run '{run_id}' is here without its models.",
            why="It was taken in from an archive that left them out (export-run --without-models).",
            fix="Start a new run with its settings, or take in an archive that was made without that option.",
        )


def said_by(what: str, by: str | None) -> str | None:
    """Return the line of the log that says who asked for something; ``None`` where nobody said who."""
    return None if by is None else f"{what} by {by}."
