"""What a configuration would take and send on whatever machine it is asked: weights and images need not be there."""

from __future__ import annotations

from pathlib import Path

from engine.config import RunConfig
from engine.data.public import as_phantoms, folders_are_there
from engine.federation.connect import describe
from engine.planning.plan import plan
from engine.planning.records import Plan


def plan_costs(config: RunConfig, *, home: Path | str | None = None) -> tuple[Plan, bool]:
    """Return the plan of a run, and whether it is that of phantoms because its folders of images are not here.

    What a round sends does not depend on images; times, and what is sent once for each of them, do. Raises
    ``UserError`` where images that are here have a fault, or systems and settings do not go together.
    """
    if config.data.source == "phantom" or folders_are_there(config.data):
        return plan(config, home=home, only_costs=True), False
    data, federation = as_phantoms(config.data), config.federation
    if federation.site_students is not None:  # they are told by the names of sites
        names = describe(config.model_copy(update={"data": data})).source_names
        kinds = [student.partition("=")[2] for student in federation.site_students]
        renamed = tuple(f"{name}={kind}" for name, kind in zip(names, kinds, strict=False))
        federation = federation.model_copy(update={"site_students": renamed})
    return plan(config.model_copy(update={"data": data, "federation": federation}), home=home, only_costs=True), True
