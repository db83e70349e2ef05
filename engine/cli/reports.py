"""The command that writes what a person takes away from a run: its report, its ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.options import open_store
from engine.cli.output import HomeOption, JsonFlag, print_json, size
from engine.cli.runs import RunArgument, find_run
from engine.errors import UserError

if TYPE_CHECKING:
    from engine.report.site_records import Proofs
    from engine.runs.store import RunStore

MOST_RECORD_BYTES = 256 * 2**20
"""Of a record that a site has handed over: a million messages (ours)."""


def report(
    run_id: RunArgument,
    html: Annotated[Path | None, typer.Option("--html", help="The report, as one HTML file to read and print")] = None,
    ledger: Annotated[
        Path | None, typer.Option("--ledger", help="Every message that crossed a site's border, as CSV")
    ] = None,
    egress: Annotated[
        Path | None,
        typer.Option("--egress", help="What left each site, and what is asked before a release: .html or .json"),
    ] = None,
    site_records: Annotated[
        list[str] | None,
        typer.Option(
            "--site-record",
            help="SITE=FILE: an audit.jsonl that a site has handed over; its digests and approvals are added",
        ),
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a run's report, its privacy ledger or what left each site, as files that need nothing else.

    Nothing is overwritten.
    """
    from engine.report.html import html_report
    from engine.report.ledger import read_ledger
    from engine.report.ledger_csv import ledger_csv
    from engine.report.site_records import join_records

    wanted = [path for path in (html, ledger, egress) if path is not None]
    if not wanted:
        raise UserError(
            "cli.report",
            what="None of --html, --ledger and --egress is given.",
            why="A report is written to the file that you name.",
            fix=f"For instance: python -m engine report {run_id} --html report.html",
        )
    store = open_store(home)
    chosen = find_run(store, run_id)
    for path in wanted:
        _check_new(path)
    messages = read_ledger(store, chosen)
    proofs = join_records(messages, _records(site_records or [], {one.site for one in messages}), run_id=chosen)
    if html is not None:
        _write(html, html_report(store, chosen, proofs))
    if ledger is not None:
        _write(ledger, ledger_csv(chosen, messages, proofs))
    if egress is not None:
        _write(egress, _egress(store, chosen, proofs, as_data=egress.suffix == ".json"))
    if as_json:
        files = [{"path": str(path), "bytes": path.stat().st_size} for path in wanted]
        print_json({"run_id": chosen, "files": files, "site_records": proofs.said})
    else:
        for sentence in proofs.said:
            print(sentence)
        for path in wanted:
            print(f"{chosen}: {size(path.stat().st_size)} in {path}")


def _egress(store: RunStore, run_id: str, proofs: Proofs, *, as_data: bool) -> str:
    from engine.report.egress_html import egress_html, read_egress

    if not as_data:
        return egress_html(store, run_id, proofs)
    document, sites = read_egress(store, run_id, proofs)
    about = {"run_id": run_id, "method": document.record.method, "config_hash": document.record.config_hash}
    return json.dumps({**about, "sites": [site.as_dict() for site in sites]}, indent=1) + "\n"


def _records(given: list[str], sites: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of each site's record, its chain checked; ``UserError`` for a site that the run has not."""
    from engine.site.audit import AuditLog

    found = {}
    for text in given:
        site, _, name = text.partition("=")
        path = Path(name)
        if site not in sites or site in found or not name:
            raise UserError(
                "cli.site_record",
                what=f"'{text}' names no site of this run, or one twice.",
                why="A record is compared with what the server has counted of its site.",
                fix=f"Give SITE=FILE, once for each of: {', '.join(sorted(sites)) or 'no site'}.",
            )
        if path.stat().st_size > MOST_RECORD_BYTES:
            raise UserError(
                "cli.site_record_large",
                what=f"{path} has more than {size(MOST_RECORD_BYTES)}.",
                why="A site writes some hundred bytes for each message.",
                fix="Ask the site for its audit.jsonl alone.",
            )
        found[site] = AuditLog(path).entries()
    return found


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
