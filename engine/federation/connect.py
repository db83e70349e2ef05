"""From a configuration to its sites: the one place that knows where they are. Free of torch and Flower until asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config import RunConfig
from engine.data.datasets import Federation, load_federation
from engine.federation.descriptions import FederationDescription

if TYPE_CHECKING:
    from torch import nn

    from engine.federation.sites import Server, Sites
    from engine.models.roles import Role
    from engine.runs.checkpoint import CheckpointStore


def describe(config: RunConfig) -> FederationDescription:
    """Return what the sites say of their data: names, counts, digests. ``UserError`` for faults of the data."""
    from engine.site.data import describe_all, sites_here

    federation = load_federation(config.data, seed=config.seed)
    return describe_all(config, federation, sites_here(config, federation=federation))


def connect(
    config: RunConfig,
    *,
    state_root: Path,
    checkpoints: Callable[[], CheckpointStore],
    server: Callable[[], Server],
    federation: Federation | None = None,
    build: Callable[[Role], nn.Module] | None = None,
) -> Sites:
    """Return the sites of a run; arguments as for :class:`engine.federation.backends.local.LocalBackEnd`."""
    from engine.federation.backends.local import LocalBackEnd
    from engine.federation.sites import Sites

    back_end = LocalBackEnd(
        config, state_root=state_root, checkpoints=checkpoints, server=server, federation=federation, build=build
    )
    return Sites(back_end, server=server)
