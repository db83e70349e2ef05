"""The command that fills a table or figure of a paper."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from engine.cli.options import DataOption, SetOption, open_store, parse_settings
from engine.cli.output import HomeOption, JsonFlag, print_json

WhichArgument = Annotated[str, typer.Argument(help="2, 3, 4, 5, 6, fig7, fig8, samfed, pfedsam, or a TOML file")]


def table(
    which: WhichArgument,
    scale: Annotated[Literal["mini", "paper"], typer.Option("--scale", help="Sizes: mini (CPU) or the paper's")],
    dry: Annotated[
        bool, typer.Option("--dry", help="Start nothing: fill it with what has been run, and say what the rest takes")
    ] = False,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, max=1000, help="So many seeds")] = None,
    systems: Annotated[str | None, typer.Option("--systems", help="These rows alone: NAME,NAME")] = None,
    datasets: Annotated[str | None, typer.Option("--datasets", help="These images alone: NAME,NAME")] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, max=64, help="Runs at a time, a process each")] = 1,
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the files; HOME/tables when left out")] = None,
    recorded: Annotated[
        Path | None, typer.Option("--recorded", help="Folder of recorded figures; that of this version when left out")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Record the figures of finished runs there, for where the runs are not")
    ] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Run what is recorded only, too")] = False,
    settings: SetOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Fill a table or figure: its runs (those there are are skipped), then CSV, Markdown and LaTeX.

    --data is the folder that holds the datasets' folders. A table that was stopped goes on when it is called again.
    Figures that were recorded, with this version or by --record, are taken as they are, and the table says so.
    """
    import os

    from engine.experiments import cells as cells_of
    from engine.experiments import planned, tables
    from engine.experiments import recorded as records
    from engine.experiments.spec import experiment_path, load_experiment
    from engine.experiments.sweep import sweep

    experiment = tables.chosen(load_experiment(which), scale, systems=systems, datasets=datasets)
    experiment = cells_of.resolved(experiment, scale, data=data)
    cells = cells_of.make_cells(experiment, scale, seeds=seeds, data=data, settings=parse_settings(settings))
    store = open_store(home)
    there = tables.there_already(store, cells)
    missing = [] if anew else [cell for cell in cells if cell.key not in there]
    before = records.outcomes(missing, recorded or records.FOLDER)
    plans: list[planned.PlannedRow] = []
    if dry:
        outcomes = before | there
        plans = planned.planned_rows(cells, outcomes, home=store.home)
    else:
        os.environ["DSFEDMED_MAX_RUNNING"] = str(runs)  # workers that end start the next run, too
        wanted = {key: config for key, config in cells_of.distinct(cells).items() if key not in before}
        outcomes = before | sweep(store, wanted, at_once=runs, tell=lambda text: typer.echo(text, err=True))
    new = records.write_all(store, outcomes, recorded or records.FOLDER) if record else []
    filled = tables.fill(which, experiment, scale, store, cells, outcomes, plans)
    files = [*filled.write(out or store.home / "tables", f"{experiment_path(which).stem}_{scale}"), *new]
    if as_json:
        print_json(_as_json(filled, files))
    else:
        print(filled.markdown)
        for path in files:
            print(path)
    raise typer.Exit(1 if filled.failed else 0)


def _as_json(filled: Any, files: list[Path]) -> dict[str, Any]:
    return {
        "files": [str(path) for path in files],
        "entries": [asdict(entry) for entry in filled.entries],
        "cells": [
            {"cell": run.cell.title, "status": run.status, "run_id": run.run_id, "reason": run.reason}
            for run in filled.runs
        ],
    }
