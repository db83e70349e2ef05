"""The command that writes what a person takes away from a run: its report, its ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import open_store
from engine.cli.output import HomeOption, JsonFlag, print_json, size
from engine.cli.runs import RunArgument, find_run
from engine.errors import UserError


def report(
    run_id: RunArgument,
    html: Annotated[Path | None, typer.Option("--html", help="The report, as one HTML file to read and print")] = None,
    ledger: Annotated[
        Path | None, typer.Option("--ledger", help="Every message that crossed a site's border, as CSV")
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a run's report as one file that needs nothing else, and its privacy ledger. Nothing is overwritten."""
    from engine.report.html import html_report
    from engine.report.ledger import ledger_csv, read_ledger

    wanted = [path for path in (html, ledger) if path is not None]
    if not wanted:
        raise UserError(
            "cli.report",
            what="Neither --html nor --ledger is given.",
            why="A report is written to the file that you name.",
            fix=f"For instance: python -m engine report {run_id} --html report.html",
        )
    store = open_store(home)
    chosen = find_run(store, run_id)
    for path in wanted:
        _check_new(path)
    if html is not None:
        _write(html, html_report(store, chosen))
    if ledger is not None:
        _write(ledger, ledger_csv(chosen, read_ledger(store, chosen)))
    if as_json:
        print_json({"run_id": chosen, "files": [{"path": str(p), "bytes": p.stat().st_size} for p in wanted]})
    else:
        for path in wanted:
            print(f"{chosen}: {size(path.stat().st_size)} in {path}")


def _check_new(path: Path) -> None:
    if path.exists():
        raise UserError(
            "cli.report_exists",
            what=f"{path} is there already.",
            why="Nothing is overwritten.",
            fix="Give another name, or move the file away.",
        )


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
