"""Commands that write a finished run to one zip, and take it in at another home."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import open_store
from engine.cli.output import HomeOption, JsonFlag, print_json, size
from engine.cli.runs import RunArgument, find_run


def export_run(
    run_id: RunArgument,
    to: Annotated[Path, typer.Option("--to", help="The zip that is written; nothing is overwritten")],
    without_models: Annotated[
        bool, typer.Option("--without-models", help="Records, results and pictures alone: nobody can go on from it")
    ] = False,
    without_places: Annotated[
        bool,
        typer.Option("--without-places", help="For others: folders by their last name, no address, nobody's name"),
    ] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a finished run to one zip: records, results, models, samples.

    What sites keep for themselves and work that is not finished stay here; a site's images are in no archive.
    """
    from engine.runs.archive_export import export_run as export

    store = open_store(home)
    chosen = find_run(store, run_id)
    num_bytes = export(store, chosen, to, with_models=not without_models, with_places=not without_places)
    if as_json:
        print_json({"run_id": chosen, "archive": str(to), "bytes": num_bytes})
    else:
        take_in = f"python -m engine import-run {shlex.quote(to.name)}"
        print(f"{chosen}: {size(num_bytes)} in {to}. Take it in elsewhere: {take_in}")


def import_run(
    archive: Annotated[Path, typer.Argument(help="A zip that export-run has written")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take in a run from a zip, under its own id, once every file and record in it has been checked."""
    from engine.runs.archive_import import import_run as take_in

    store = open_store(home)
    run_id = take_in(store, archive)
    if as_json:
        print_json({"run_id": run_id, "folder": str(store.run_dir(run_id))})
    else:
        print(f"{run_id} is in {store.home}. See it with: python -m engine show {run_id}")
