"""A site joins a finished run: a new run that goes on from that one's models, generators and samples. Torch-free.

The finished run stays as it is. The new one has it as its parent, and a folder of its own with all that it needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.config import RunConfig, parse_config
from engine.config_fields import MAX_NAME_LETTERS
from engine.errors import UserError
from engine.federation.descriptions import IDENTITY_FILE
from engine.methods import catalogue
from engine.runs.earlier import Earlier, check_alike, give, read_earlier
from engine.runs.identity import changed_keys, first_stage_of
from engine.runs.lifecycle import (
    advance_queue,
    moved_config,
    reap,
    refuse_active,
    refuse_without_folder,
    refuse_without_models,
    said_by,
    with_absolute_paths,
)
from engine.runs.records import RunRecord
from engine.runs.store import RunStore

MANIFEST_FILE = Path("bundle") / "manifest.json"
JOINS_WITH = ("data.sites", "data.held_out", "join.sites", "method", "name")
"""Keys that differ between the new run and the finished one in any case."""


def joined_config(store: RunStore, run_id: str, sites: Sequence[str], *, name: str | None = None) -> RunConfig:
    """Return the configuration with which ``sites`` join the finished run; whoever takes part in it is written out.

    Raises ``UserError``: ``join.unfinished``, ``join.method``, ``join.pooled``, ``join.member``, ``join.unseen``,
    ``run.active``, ``run.folder_missing``. Whether the sites are there is seen when the run is planned.
    """
    record = _finished(store, run_id)
    method, earlier, config = _joining(record), earlier_of(store, run_id), record.config
    if config.data.pooled:
        raise UserError(
            "join.pooled",
            what=f"The run '{run_id}' has trained on the images of all sites at one place (data.pooled).",
            why="A site joins a federation with a generator of its own; there are none of single sites here.",
            fix="Train a new run without data.pooled, or with all images.",
        )
    wanted = tuple(dict.fromkeys(sites))
    _refuse_members(run_id, wanted, earlier, held_out=_held_out(config, earlier))
    values = config.model_dump(mode="json")
    values["data"] |= {"sites": sorted({*earlier.sources, *wanted}), "held_out": _held_out(config, earlier)}
    longest = MAX_NAME_LETTERS - len(f" + {', '.join(wanted)}")
    named = name or f"{config.name[: max(1, longest)]} + {', '.join(wanted)}"
    return parse_config(values | {"method": method, "join": {"sites": wanted}, "name": named[:MAX_NAME_LETTERS]})


def join(
    store: RunStore,
    run_id: str,
    *,
    config: RunConfig,
    classes: Sequence[str],
    modality: str,
    planned_s: Mapping[str, float] | None = None,
    retraining: Mapping[str, Mapping[str, Any]] | None = None,
    by: str | None = None,
) -> str:
    """Queue the run of ``config``, which :func:`joined_config` has made, and return its id.

    ``classes`` and ``modality`` are what the sites have told when it was planned, ``retraining`` what by method
    training all sites anew was planned to take. Raises ``UserError`` as :func:`check_join`.
    """
    store.settle()
    reap(store)
    config = with_absolute_paths(config)
    parent, earlier = check_join(store, run_id, config=config, classes=classes, modality=modality)
    made = catalogue.method(parent.method)
    student, teacher = made.last_model("student"), made.last_model("teacher")
    assert student is not None and teacher is not None  # a method that can be joined makes both
    last = {"earlier_student": student, "earlier_teacher": teacher}
    joined = ", ".join(config.join.sites)
    said = said_by(f"{joined} joins the run {run_id}", by) or f"{joined} joins the run {run_id}."
    with store.filling() as child:
        facts = Earlier(
            run_id,
            parent.name,
            earlier.method,
            earlier.classes,
            earlier.modality,
            earlier.identity,
            {name: dict(figures) for name, figures in (retraining or {}).items()},
        )
        give(store.run_dir(run_id), store.run_dir(child), facts=facts, models=last)
        stored = store.create_fork(
            config,
            run_id=child,
            parent=parent,
            fork_stage=catalogue.method(config.method).stage_names[0],
            stages=None,
            taken_over=(),
            planned_s=planned_s,
            by=by,
            said=said,
        )
    if not stored:
        raise UserError(
            "run.fork_changed",
            what=f"The results of the run '{run_id}' were replaced by those of its extension just now.",
            why="A site joins the results of one run, not of two.",
            fix="Join it again: it then joins the new ones.",
        )
    advance_queue(store)
    return child


def check_join(
    store: RunStore, run_id: str, *, config: RunConfig, classes: Sequence[str], modality: str
) -> tuple[RunRecord, Earlier]:
    """Return the finished run and what is known of it, where ``config`` can go on from it.

    Raises ``UserError`` as :func:`joined_config`, ``join.sites_differ`` for other data, and ``join.edit`` for an edit
    that would make what is taken over another.
    """
    parent = _finished(store, run_id)
    method, earlier = _joining(parent), earlier_of(store, run_id)
    check_alike(earlier, classes=classes, modality=modality)
    _refuse_members(run_id, config.join.sites, earlier, held_out=_held_out(parent.config, earlier))
    _check_edits(parent, config, method=method)
    return parent, earlier


def earlier_of(store: RunStore, run_id: str) -> Earlier:
    """Return what is known of a finished run; ``UserError`` ``run.folder_missing`` where a file is gone."""
    record, folder = store.get(run_id), store.run_dir(run_id)
    continues = catalogue.method(record.method).continues
    first_of_all = read_earlier(folder).method if continues else record.method
    identity, manifest = _read(folder / IDENTITY_FILE), _read(folder / MANIFEST_FILE)
    classes, modality = tuple(manifest.get("classes", ())), manifest.get("modality", "")
    return Earlier(run_id, record.name, first_of_all, classes, modality, identity)


def _finished(store: RunStore, run_id: str) -> RunRecord:
    record = store.get(run_id)
    refuse_active(record)
    if record.status != "finished":
        raise UserError(
            "join.unfinished",
            what=f"The run '{run_id}' is {record.status}.",
            why="A site joins a run that has all its models and samples.",
            fix=f"Finish it first: `python -m engine resume {run_id}`.",
        )
    refuse_without_folder(store, run_id)
    refuse_without_models(store, run_id, [stage.name for stage in store.stages(run_id)])
    return record


def _joining(record: RunRecord) -> str:
    """Return the method that adds a site to the run."""
    found = catalogue.method(record.method)
    if not found.joined_by:
        able = ", ".join(name for name, other in catalogue.methods().items() if other.joined_by)
        raise UserError(
            "join.method",
            what=f"No site can join the run '{record.run_id}': its method '{record.method}' trains no generator.",
            why="What a new site adds are images that the server draws with the site's generator.",
            fix=f"Join a site to a run of one of: {able}; or train a new run with all sites.",
        )
    return found.joined_by


def _held_out(config: RunConfig, earlier: Earlier) -> str | None:
    """Return the site that stays unseen, by name: the last one is another when sites are added."""
    return earlier.tests[0] if config.data.protocol == "leave-one-site-out" else config.data.held_out


def _refuse_members(run_id: str, wanted: Sequence[str], earlier: Earlier, *, held_out: str | None) -> None:
    members = [site for site in wanted if site in earlier.sources]
    if members or not wanted:
        raise UserError(
            "join.member",
            what=f"{members[0]} is in the run '{run_id}' already." if members else "No site was named.",
            why=f"Sites join that have not trained in it; those that have: {', '.join(earlier.sources)}.",
            fix="Name a site that is new: a folder beside theirs, or an accepted site of the federation.",
        )
    if held_out in wanted:
        raise UserError(
            "join.unseen",
            what=f"{held_out} is the site that no training of the run '{run_id}' has seen.",
            why="All its images are measured on; one that trains would not be unseen any more.",
            fix="Name another site.",
        )


def _check_edits(parent: RunRecord, config: RunConfig, *, method: str) -> None:
    names = catalogue.method(method).stage_names
    moved_config(parent.config, {"backend": config.backend, "server": str(config.server) if config.server else None})
    for key in changed_keys(parent.config, config):
        if key not in JOINS_WITH and first_stage_of(key, names) == names[0]:
            raise UserError(
                "join.edit",
                what=f"The edit of '{key}' would make what is taken over from the run '{parent.run_id}' another.",
                why="Models, generators and samples of its sites are taken over as they are.",
                fix=f"Leave '{key}' as it is, or train a new run with all sites.",
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            "run.folder_missing",
            what=f"{path} of the finished run cannot be read: {error}.",
            why="It says which sites the run had and what it segments.",
            fix="Restore the run's folder from a backup, or train a new run with all sites.",
        ) from error
