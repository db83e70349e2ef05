"""Commands that plan, start, stop, continue and show runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.options import (
    BackendOption,
    ConfigOption,
    DataOption,
    FitOption,
    HeldOutOption,
    NameOption,
    PresetOption,
    RayAddressOption,
    ServerOption,
    SetOption,
    WorkersOption,
    edit_config,
    fitted_config,
    open_store,
    read_config,
    where_sites_are,
)
from engine.cli.output import HomeOption, JsonFlag, duration, print_json, print_table
from engine.cli.plans import print_plan, print_sizes
from engine.errors import UserError

if TYPE_CHECKING:
    from engine.runs.store import RunStore

RunArgument = Annotated[str, typer.Argument(help="A run's id, or 'last' for the newest run")]
DetachFlag = Annotated[bool, typer.Option("--detach", help="Return at once; the run goes on by itself")]


def plan(
    preset: PresetOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
    held_out: HeldOutOption = None,
    settings: SetOption = None,
    backend: BackendOption = None,
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
    server: ServerOption = None,
    fit: FitOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what a run will take and send, and refuse what cannot run. Nothing is started."""
    from engine.config_keys import unread_sections
    from engine.planning import plan as make_plan
    from engine.planning import with_sites

    where = where_sites_are(backend=backend, workers=workers, ray_address=ray_address, server=server)
    chosen = read_config(preset=preset, config=config, data=data, held_out=held_out, settings=settings, where=where)
    chosen, sizes = fitted_config(with_sites(chosen), fit=fit, preset=preset, settings=settings)
    _set_home(home)
    made = make_plan(chosen, home=home)
    if as_json:
        read = chosen.model_dump(mode="json", exclude={*unread_sections(chosen.method, chosen.generator.kind)})
        print_json({"plan": made.as_dict(), "config": read, "sizes": [asdict(size) for size in sizes]})
    else:
        print_sizes(sizes)
        print_plan(made)


def run(
    preset: PresetOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
    held_out: HeldOutOption = None,
    settings: SetOption = None,
    backend: BackendOption = None,
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
    server: ServerOption = None,
    fit: FitOption = None,
    name: NameOption = None,
    home: HomeOption = None,
    detach: DetachFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Plan and run a configuration in a process of its own, and follow it to the results table."""
    from engine.planning import plan as make_plan
    from engine.planning import with_sites
    from engine.runs import lifecycle

    where = where_sites_are(backend=backend, workers=workers, ray_address=ray_address, server=server)
    about = {"name": name, "where": where}
    chosen = read_config(preset=preset, config=config, data=data, held_out=held_out, settings=settings, **about)
    chosen, sizes = fitted_config(with_sites(chosen), fit=fit, preset=preset, settings=settings)
    store = open_store(home)
    made = make_plan(chosen, home=home)
    if not as_json:
        print_sizes(sizes)
    run_id = lifecycle.submit(store, chosen, planned_s=made.stage_seconds)
    follow_run(store, run_id, detach=detach, as_json=as_json, warnings=made.warnings)


def resume(
    run_id: RunArgument,
    backend: BackendOption = None,
    workers: WorkersOption = None,
    home: HomeOption = None,
    detach: DetachFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Go on with a cancelled, failed or interrupted run from its last checkpoint."""
    from engine.runs import lifecycle

    store = open_store(home)
    chosen = find_run(store, run_id)
    lifecycle.resume(store, chosen, where=where_sites_are(backend=backend, workers=workers))
    follow_run(store, chosen, detach=detach, as_json=as_json)


def extend(
    run_id: RunArgument,
    rounds: Annotated[int | None, typer.Option(min=1, help="Federated rounds in total")] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Give up an extension that has stopped")] = False,
    backend: BackendOption = None,
    workers: WorkersOption = None,
    home: HomeOption = None,
    detach: DetachFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Add federated rounds to a run; its results stay until the longer run has its own.

    Training goes on from its checkpoint, later stages run again.
    """
    from engine.planning import plan, with_sites
    from engine.runs import lifecycle

    store = open_store(home)
    chosen = find_run(store, run_id)
    if drop == (rounds is not None):
        raise UserError(
            "cli.extend",
            what="Give either --rounds or --drop.",
            why="A run is extended to a number of rounds, or an extension that has stopped is given up.",
            fix=f"For instance: python -m engine extend {chosen} --rounds 150",
        )
    if rounds is None:
        lifecycle.drop_extension(store, chosen)
        if as_json:
            print_json({"run_id": chosen, "status": store.get(chosen).status})
        else:
            print(f"{chosen}: {store.get(chosen).status}. Its extension was given up; its results are as they were.")
        return
    where = where_sites_are(backend=backend, workers=workers)
    longer = lifecycle.longer_config(store.get(chosen), rounds=rounds, where=where)
    plan(with_sites(longer, run_dir=store.run_dir(chosen)), home=store.home)
    lifecycle.extend(store, chosen, rounds=rounds, where=where)
    follow_run(store, chosen, detach=detach, as_json=as_json)


def fork(
    run_id: RunArgument,
    stage: Annotated[str, typer.Option("--from", help="First stage that runs again")],
    settings: SetOption = None,
    name: NameOption = None,
    backend: BackendOption = None,
    workers: WorkersOption = None,
    home: HomeOption = None,
    detach: DetachFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Start a new run that takes everything before a stage from another run, with settings of your choice after it."""
    from engine.planning import plan, with_sites
    from engine.runs import lifecycle

    store = open_store(home)
    parent = store.get(find_run(store, run_id))
    edited = edit_config(parent.config, settings, where=where_sites_are(backend=backend, workers=workers))
    edited = edited.model_copy(update={"name": name}) if name is not None else edited
    chosen = with_sites(edited, run_dir=store.run_dir(parent.run_id))
    planned = plan(chosen, home=store.home, first_stage=stage)
    child = lifecycle.fork(store, parent.run_id, stage=stage, config=edited, planned_s=planned.stage_seconds)
    follow_run(store, child, detach=detach, as_json=as_json)


def cancel(
    run_id: RunArgument,
    force: Annotated[bool, typer.Option("--force", help="Kill the worker instead of asking it")] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Stop a run at its next step boundary, within 5 s; what exists is kept."""
    import time

    from engine.runs import lifecycle

    store = open_store(home)
    chosen = find_run(store, run_id)
    lifecycle.cancel(store, chosen, force=force)
    deadline = time.monotonic() + 10
    while store.get(chosen).active and time.monotonic() < deadline:
        lifecycle.advance_queue(store)
        time.sleep(0.1)
    record = store.get(chosen)
    if record.active:
        raise UserError(
            "run.not_stopped",
            what=f"The run '{chosen}' has not stopped yet: it is {record.status}.",
            why="Its worker stops at its next step, which takes longer than 10 s on a machine that is busy or asleep.",
            fix=f"Look again with `python -m engine show {chosen}`, or kill its worker with `cancel --force {chosen}`.",
        )
    if as_json:
        print_json({"run_id": chosen, "status": record.status})
    else:
        print(f"{chosen}: {record.status}. Go on with: python -m engine resume {chosen}")


def list_runs(
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="So many of the newest runs")] = 20,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List the runs of this home, newest first."""
    from engine.runs import lifecycle

    store = open_store(home)
    lifecycle.advance_queue(store)
    records = store.list(limit=limit)
    if as_json:
        rows = [
            {"run_id": r.run_id, "name": r.name, "status": r.status, "method": r.method, "stage": r.stage}
            | {"created_at": r.created_at, "started_at": r.started_at, "finished_at": r.finished_at, "parent": r.parent}
            for r in records
        ]
        print_json({"home": str(store.home), "runs": rows})
    elif records:
        rows = [(r.run_id, r.name, r.status, r.stage or "-", duration(_lasted(r))) for r in records]
        print_table(("Run", "Name", "Status", "Stage", "Time"), rows, right=(4,))
    else:
        print(f"No runs in {store.home}. Start one: python -m engine run --preset phantom_cpu_smoke")


def show(run_id: RunArgument, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Show one run: its stages, results, traffic, files and last log lines."""
    from engine.cli.follow import print_results
    from engine.runs import lifecycle
    from engine.runs.command import run_command
    from engine.runs.waiting import waiting

    store = open_store(home)
    chosen = find_run(store, run_id)
    lifecycle.advance_queue(store)
    view = store.view(chosen)
    if as_json:
        print_json(summary(store, chosen))
        return
    record = view.run
    print(f"{record.run_id}  {record.name}  {record.status}  ({record.method}, folder {store.run_dir(chosen)})")
    rows = [
        (s.name, s.status, f"{100 * s.fraction:.0f} %", duration(s.wall_s), duration(s.beside_s or None),
         duration(s.eta_s), s.message)
        for s in view.stages
    ]  # fmt: skip
    print_table(("Stage", "Status", "Done", "Took", "Beside", "Left", ""), rows, right=(2, 3, 4, 5))
    if record.error:
        print(f"\nError ({record.error['code']}): {record.error['what']}\n  Fix: {record.error['fix']}")
    if view.note:
        print(f"\nNote: {view.note}")
    if (place := waiting(store, chosen)) is not None:
        start = "not known" if place.starts_in_s is None else f"in about {duration(place.starts_in_s)}"
        print(f"Place {place.position} of {place.count} in the queue; start: {start}")
    print(f"The same run: {run_command(record.config)}")
    print_results(store, chosen)
    for line in store.events(chosen, limit=10):
        print(f"{line.level:7}  {line.text}")


def status(run_id: RunArgument, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Show what each site of a run does, its score, bytes and failures; those in need first."""
    from engine.cli.follow import print_sites
    from engine.runs import lifecycle
    from engine.runs.alerts import alerts_of
    from engine.runs.sites import site_views

    store = open_store(home)
    chosen = find_run(store, run_id)
    lifecycle.advance_queue(store)
    record = store.get(chosen)
    if as_json:
        sites = [asdict(view) for view in site_views(store, store.work_id(chosen), active=record.active)]
        found = [asdict(alert) for alert in alerts_of(store, chosen)]
        print_json({"run_id": chosen, "status": record.status, "stage": record.stage, "sites": sites, "alerts": found})
        return
    print(f"{record.run_id}  {record.name}  {record.status}  {record.stage or ''}".rstrip())
    print_sites(store, chosen)


def summary(store: RunStore, run_id: str) -> dict[str, Any]:
    """Return everything about a run as the JSON object of ``show --json`` and of a followed run."""
    from engine.runs.command import run_command
    from engine.runs.gates import read_gate
    from engine.runs.outputs import REPORT_NAME
    from engine.runs.report import traffic_table

    view = store.view(run_id)
    record = view.run
    report, gate = store.run_dir(run_id) / REPORT_NAME, read_gate(store.run_dir(run_id))
    return {
        "run_id": run_id,
        "name": record.name,
        "status": record.status,
        "method": record.method,
        "parent": record.parent,
        "fork_stage": record.fork_stage,
        "failure": record.error,
        "note": view.note,
        "extends_to_rounds": view.extension.config.federation.rounds if view.extension else None,
        "started_by": record.started_by,
        "folder": str(store.run_dir(run_id)),
        "config": record.config.model_dump(mode="json"),
        "config_hash": record.config_hash,
        "command": run_command(record.config),
        "stages": [asdict(stage) for stage in view.stages],
        "wall_s": sum(stage.wall_s for stage in view.stages),
        "eta_s": view.eta_s,
        "evaluation": [asdict(row) for row in store.evaluation(run_id)],
        "differences": [asdict(row) for row in store.differences(run_id)],
        "gate": None if gate is None else asdict(gate),
        "traffic": traffic_table(store.traffic(run_id)),
        "artefacts": [asdict(artefact) for artefact in store.artefacts(run_id)],
        "report": str(report) if report.is_file() else None,
    }


def follow_run(store: RunStore, run_id: str, *, detach: bool, as_json: bool, warnings: tuple[str, ...] = ()) -> None:
    """Follow a run to its results and leave with its exit status, or return at once with ``detach``."""
    from engine.cli.follow import follow, print_results

    if detach:
        if as_json:
            print_json({"run_id": run_id, "status": store.get(run_id).status, "folder": str(store.run_dir(run_id))})
        else:
            print(f"{run_id} runs by itself. See it with: python -m engine show {run_id}")
        return
    for warning in warnings:
        typer.echo(f"Note: {warning}", err=True)
    follow(store, run_id)
    record = store.get(run_id)
    if as_json:
        print_json(summary(store, run_id))
    else:
        print_results(store, run_id)
    raise typer.Exit({"finished": 0, "failed": 1, "interrupted": 1}.get(record.status, 130))


def find_run(store: RunStore, run_id: str) -> str:
    """Return the id of the run, or of the newest one for ``last``."""
    newest = store.list(limit=1) if run_id == "last" else ()
    return newest[0].run_id if newest else store.get(run_id).run_id


def _lasted(record: Any) -> float | None:
    import time

    if record.started_at is None:
        return None
    return (record.finished_at or time.time()) - record.started_at


def _set_home(home: Path | None) -> None:
    import os

    from engine.runs.store import home_folder

    os.environ["DSFEDMED_HOME"] = str(home_folder(home))
