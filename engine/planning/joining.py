"""The plan of a run in which a site joins, beside those of training all sites anew. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.errors import UserError
from engine.federation.connect import describe
from engine.federation.descriptions import FederationDescription
from engine.planning.plan import plan
from engine.planning.records import Plan


def plan_join(
    config: RunConfig, *, retrained: Mapping[str, RunConfig], home: Path | str | None = None
) -> tuple[Plan, dict[str, dict[str, Any]]]:
    """Return the plan of ``config``, and by name what each of ``retrained`` is expected to take.

    Of these ``minutes`` and ``payload_bytes``, or ``why`` there is no plan: a model may be too large for this machine.
    The sites are asked once. Raises ``UserError`` where the join itself cannot run.
    """
    federation = describe(config)
    made = plan(config, home=home, federation=federation)
    return made, {name: _expected(other, federation, home=home) for name, other in retrained.items()}


def _expected(config: RunConfig, federation: FederationDescription, *, home: Path | str | None) -> dict[str, Any]:
    try:
        made = plan(config, home=home, federation=federation)
    except UserError as error:  # the join does not depend on it; the reason stands in the place of the figures
        return {"why": error.what}
    return {"minutes": made.minutes, "payload_bytes": sum(row.payload_bytes for row in made.traffic)}
