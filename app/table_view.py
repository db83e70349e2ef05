"""A table of the papers as HTML: how its runs stand, its figures beside the published ones, its notes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from app import markup, table_text
from engine.experiments.formats import Grid
from engine.experiments.results import NOT_HERE, NOT_RUN, CellRun
from engine.experiments.tables import Table

UNDER_WAY = ("queued", "running")


def cell_rows(runs: Sequence[CellRun]) -> list[list[str]]:
    """Return a line for each system and its images, in the order of ``table_text.CELL_COLUMNS``."""
    groups: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        groups.setdefault((run.cell.system.title, run.cell.dataset.title), []).append(run.status)
    return [[system, images, *_counts(statuses)] for (system, images), statuses in groups.items()]


def _counts(statuses: Sequence[str]) -> list[str]:
    if all(status == NOT_HERE for status in statuses):
        return [table_text.NOT_IN_VERSION, "", "", ""]
    finished = statuses.count("finished")
    under_way = sum(status in UNDER_WAY for status in statuses)
    left = statuses.count(NOT_RUN)
    failed = len(statuses) - finished - under_way - left - statuses.count(NOT_HERE)
    return [f"{finished} of {len(statuses)}", *(str(count) if count else "" for count in (under_way, failed, left))]


def failures(runs: Sequence[CellRun]) -> list[str]:
    """Return a sentence for each cell that has failed: which, how it ended, why and the mend."""
    fine = ("finished", NOT_HERE, NOT_RUN, *UNDER_WAY)
    return [f"{run.cell.title}: {run.status}. {run.reason}".rstrip() for run in runs if run.status not in fine]


def command(which: str, scale: str) -> str:
    """Return the command that runs what is missing."""
    base = f"python -m engine table {which} --scale mini --data DATA"
    return base.replace("mini", scale)


def standing(which: str, scale: str, runs: Sequence[CellRun]) -> str:
    """Return how the runs of the table stand: a line for each system and images, and what has failed."""
    known = [run for run in runs if run.status != NOT_HERE]
    finished = sum(run.status == "finished" for run in known)
    recorded = sum(run.recorded is not None for run in known)
    said = table_text.CELLS_DONE.format(finished=finished, total=len(known))
    said += f" {table_text.CELLS_RECORDED.format(count=recorded)}" if recorded else ""
    lines = markup.table(table_text.CELL_COLUMNS, cell_rows(runs), label=table_text.CELLS_HEADING)
    failed = "".join(f"<li>{escape(sentence)}</li>" for sentence in failures(runs))
    mend = f"<h4>{table_text.FAILURES_HEADING}</h4><ul>{failed}</ul>" if failed else ""
    how = f"<p class='quiet'>{table_text.COMMAND}: <code>{escape(command(which, scale))}</code></p>"
    return f"<h3>{table_text.CELLS_HEADING}</h3>{markup.quiet(said)}{lines}{mend}{how}"


def filled(found: Table) -> str:
    """Return the table's figures, a table for each measure, and its notes."""
    grids = "".join(_grid(grid) for grid in found.grids)
    published = any(entry.published is not None for entry in found.entries)
    unknown = "" if published else markup.quiet(table_text.PUBLISHED_UNKNOWN)
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
    said = f"<details><summary>{table_text.NOTES_HEADING}</summary><ul>{notes}</ul></details>" if notes else ""
    return f"<h3>{escape(found.title)}</h3>{unknown}{grids}{said}"


def _grid(grid: Grid) -> str:
    return f"<h4>{escape(grid.heading)}</h4>{markup.table(grid.header, grid.rows, label=grid.heading)}"
