"""The command that adds a site to a finished run, and the tables that say what it brought and took."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.options import (
    BackendOption,
    NameOption,
    SetOption,
    WorkersOption,
    edit_config,
    open_store,
    where_sites_are,
)
from engine.cli.output import HomeOption, JsonFlag, print_json
from engine.cli.plans import print_plan
from engine.cli.runs import DetachFlag, RunArgument, find_run, follow_run


def join(
    run_id: RunArgument,
    sites: Annotated[list[str], typer.Argument(help="Sites that join: folders beside the run's, or accepted sites")],
    dry: Annotated[bool, typer.Option("--dry", help="Plan it and say what it would take; nothing is started")] = False,
    settings: SetOption = None,
    name: NameOption = None,
    backend: BackendOption = None,
    workers: WorkersOption = None,
    home: HomeOption = None,
    detach: DetachFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Add a site to a finished run, in a new run: its generator, its samples, distillation goes on. No round is rerun.

    The finished run stays as it is. The results compare the models before and after, and the time with retraining.
    """
    from engine.cli.join_tables import print_retraining
    from engine.planning.joining import plan_join
    from engine.runs import joins
    from engine.runs.join_results import Retraining, retrained_configs

    store = open_store(home)
    parent = find_run(store, run_id)
    config = joins.joined_config(store, parent, sites, name=name)
    config = edit_config(config, settings, where=where_sites_are(backend=backend, workers=workers))
    retrained = retrained_configs(config, method=joins.earlier_of(store, parent).method)
    planned, retraining = plan_join(config, retrained=retrained, home=store.home)
    data = {"classes": planned.classes, "modality": planned.modality}
    if dry:
        joins.check_join(store, parent, config=config, **data)
        if as_json:
            print_json({"plan": planned.as_dict(), "retraining": retraining})
            return
        print_plan(planned)
        print_retraining([Retraining.planned(method, figures) for method, figures in retraining.items()])
        return
    child = joins.join(store, parent, config=config, planned_s=planned.stage_seconds, retraining=retraining, **data)
    follow_run(store, child, detach=detach, as_json=as_json, warnings=planned.warnings)
