"""What the cells of an experiment would take and send, before anything is started. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config import RunConfig
from engine.errors import UserError
from engine.experiments.cells import Cell
from engine.experiments.formats import NOTHING, Grid
from engine.experiments.measures import MEASURING, MIB, OF_ROUNDS
from engine.planning.only_costs import plan_costs
from engine.planning.records import Plan

PLAN_COLUMNS = (
    "system",
    "title",
    "dataset",
    "cells",
    "finished",
    "minutes",
    "round_mib",
    "site_mib",
    "all_mib",
    "note",
)
AS_PHANTOMS = "traffic as of phantoms: the images are not here"


@dataclass(frozen=True)
class PlannedRow:
    """A system on a dataset: how many cells, and what one of them takes and sends, as the first seed's plan says."""

    system: str
    title: str
    dataset: str
    cells: int
    finished: int
    minutes: float | None
    """Of one cell that takes over nothing; ``None`` where its images are not here, or it cannot be planned."""
    round_mib: float | None
    """Both ways, of a site in a round; the mean over the sites that train."""
    site_mib: float | None
    """Both ways, of a site in all of training."""
    all_mib: float | None
    """Both ways, of all sites in all of training."""
    note: str


def planned_rows(cells: Sequence[Cell], finished: Mapping[str, object], *, home: Path) -> list[PlannedRow]:
    """Return a row for each system and dataset, in the cells' order; ``finished`` has the keys of cells that are."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.system.name, cell.dataset.name), []).append(cell)
    return [_row(group, finished, home=home) for group in groups.values()]


def _row(cells: Sequence[Cell], finished: Mapping[str, object], *, home: Path) -> PlannedRow:
    first = cells[0]
    done = sum(1 for cell in cells if cell.config is not None and cell.key in finished)
    about = (first.system.name, first.system.title, first.dataset.title, len(cells), done)
    if first.config is None:
        return PlannedRow(*about, None, None, None, None, first.missing or str(first.fault))
    try:
        found, of_phantoms = plan_costs(first.config, home=home)
    except UserError as error:
        return PlannedRow(*about, None, None, None, None, error.what)
    note = AS_PHANTOMS if of_phantoms else ""
    per_round, of_sites, in_all = _traffic(found, first.config)
    return PlannedRow(*about, None if note else found.minutes, per_round, of_sites, in_all, note)


def _traffic(found: Plan, config: RunConfig) -> tuple[float, float, float]:
    """Return MiB of a site in a round, of a site, and of all sites; a site is the mean of those that train."""
    training = [row for row in found.traffic if row.kind not in MEASURING]
    sites = {site.site for site in found.sites if site.role == "source"}
    of_sites = [row for row in training if row.site in sites]
    rounds = config.federation.rounds
    # The last average goes down once more, to be measured.
    messages = {"up": rounds, "down": rounds + (config.federation.site_students is None)}
    per_round = sum(row.payload_bytes / messages[row.direction] for row in of_sites if row.kind in OF_ROUNDS)
    means = (total / MIB / len(sites) for total in (per_round, sum(row.payload_bytes for row in of_sites)))
    return (*means, sum(row.payload_bytes for row in training) / MIB)


def planned_grid(rows: Sequence[PlannedRow]) -> Grid:
    """Return the rows as a table for people; minutes of all cells that are left, as if none took over anything."""
    header = ("System", "Images", "Cells (finished)", "Minutes each", "Minutes left", "MiB of a site in a round",
              "MiB of a site", "MiB of all sites", "Note")  # fmt: skip
    lines = [
        (
            row.title,
            row.dataset,
            f"{row.cells} ({row.finished})",
            _number(row.minutes, 1),
            _number(None if row.minutes is None else row.minutes * (row.cells - row.finished), 0),
            _number(row.round_mib, 3),
            _number(row.site_mib, 1),
            _number(row.all_mib, 1),
            row.note,
        )
        for row in rows
    ]
    return Grid("What it takes and sends, as planned", header, tuple(lines))


def _number(value: float | None, decimals: int) -> str:
    return NOTHING if value is None else f"{value:,.{decimals}f}"
