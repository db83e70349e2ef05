"""The command that fills a table or figure of a paper."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from engine.cli.options import DataOption, SetOption, open_store, parse_settings
from engine.cli.output import HomeOption, JsonFlag, print_json

if TYPE_CHECKING:
    from engine.experiments.cells import Cell
    from engine.experiments.sweep import Outcome
    from engine.runs.store import RunStore

WhichArgument = Annotated[str, typer.Argument(help="2, 3, 4, 5, 6, fig7, fig8, gain, samfed, pfedsam, or a TOML file")]


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
    anew: Annotated[bool, typer.Option("--anew", help="Run what is recorded only, too, and renew its records")] = False,
    settings: SetOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Fill a table or figure: its runs (those there are are skipped), then CSV, Markdown and LaTeX.

    --data is the folder that holds the datasets' folders. A table that was stopped goes on when it is called again.
    Figures that were recorded, with this version or by --record, are taken as they are, and the table says so.
    """
    from engine.experiments import cells as cells_of
    from engine.experiments import planned, tables
    from engine.experiments import recorded as records
    from engine.experiments.spec import experiment_path, load_experiment

    experiment = tables.chosen(load_experiment(which), scale, systems=systems, datasets=datasets)
    experiment = cells_of.resolved(experiment, scale, data=data)
    cells = cells_of.make_cells(experiment, scale, seeds=seeds, data=data, settings=parse_settings(settings))
    store = open_store(home)
    folder = recorded or records.FOLDER
    outcomes = _outcomes(store, cells, None if anew else folder, at_once=0 if dry else runs)
    plans = planned.planned_rows(cells, outcomes, home=store.home) if dry else []
    new = records.write_all(store, outcomes, folder, renew=anew) if record else []
    filled = tables.fill(which, experiment, scale, store, cells, outcomes, plans)
    files = [*filled.write(out or store.home / "tables", f"{experiment_path(which).stem}_{scale}"), *new]
    if as_json:
        print_json(_as_json(filled, files))
    else:
        print(filled.markdown)
        for path in files:
            print(path)
    raise typer.Exit(1 if filled.failed else 0)


def _outcomes(store: RunStore, cells: Sequence[Cell], recorded: Path | None, *, at_once: int) -> Mapping[str, Outcome]:
    """Return how the cells ended: what is recorded as it is, the rest by runs, ``at_once`` at a time; 0 starts none."""
    from engine.experiments import cells as cells_of
    from engine.experiments import recorded as records
    from engine.experiments import sweep, tables

    there = tables.there_already(store, cells)
    before = {} if recorded is None else records.outcomes((c for c in cells if c.key not in there), recorded)
    if not at_once:
        return before | there
    os.environ["DSFEDMED_MAX_RUNNING"] = str(at_once)  # workers that end start the next run, too
    wanted = {key: config for key, config in cells_of.distinct(cells).items() if key not in before}
    return before | sweep.sweep(store, wanted, at_once=at_once, tell=lambda text: typer.echo(text, err=True))


def _as_json(filled: Any, files: list[Path]) -> dict[str, Any]:
    return {
        "files": [str(path) for path in files],
        "entries": [asdict(entry) for entry in filled.entries],
        "cells": [
            {"cell": run.cell.title, "status": run.status, "run_id": run.run_id, "reason": run.reason}
            for run in filled.runs
        ],
    }
