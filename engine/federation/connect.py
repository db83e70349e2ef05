"""From a configuration to its sites: the one place that knows where they are. Free of torch and Flower until asked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import RunConfig
from engine.data.datasets import Federation, load_federation
from engine.data.public import load_public, refuse_shared
from engine.federation.descriptions import FederationDescription
from engine.methods import catalogue

if TYPE_CHECKING:
    from torch import nn

    from engine.federation.backends.deployed import DeployedBackEnd
    from engine.federation.sites import Server, Sites
    from engine.models.roles import Role
    from engine.runs.checkpoint import CheckpointStore


ASKED_S = 60.0
"""How long planning waits for sites that are not connected (ours)."""


def describe(config: RunConfig) -> FederationDescription:
    """Return what the sites say of their data: names, counts, digests. ``UserError`` for faults of the data."""
    if config.backend == "superlink":
        back_end = _deployed(config, run_id="description", presence_s=ASKED_S)
        back_end.close()
        return back_end.description
    from engine.site.data import describe_all, sites_here

    federation = load_federation(config.data, seed=config.seed)
    if "public" in catalogue.method(config.method).sections:
        digests = load_public(config.data, seed=config.seed).digests()
        for site in (*federation.sites.values(), federation.test):
            items = [*site.train.items, *site.validation.items, *site.test.items]
            refuse_shared(items, site=site.name, public=digests)
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

    fails: dict[str, Any] = {"skips": config.federation.on_failure == "skip"}
    if config.federation.on_failure == "retry":
        fails["retries"] = config.federation.retries
    if config.backend == "superlink":
        from engine.federation.backends.deployed import NOTE

        run_dir = state_root.parent
        own = {"note": run_dir / NOTE, "state_root": state_root, "server": server}
        opened = _deployed(config, run_id=run_dir.name, checkpoints=checkpoints, **own)
        return Sites(opened, server=server, **fails)
    if config.backend == "ray":
        from engine.federation.backends.ray_sites import RayBackEnd

        ray = RayBackEnd(config, state_root=state_root, checkpoints=checkpoints, server=server)
        return Sites(ray, server=server, **fails)
    back_end = LocalBackEnd(
        config, state_root=state_root, checkpoints=checkpoints, server=server, federation=federation, build=build
    )
    return Sites(back_end, server=server, **fails)


def _deployed(
    config: RunConfig, *, run_id: str, checkpoints: Callable[[], CheckpointStore] | None = None, **how: Any
) -> DeployedBackEnd:
    """Return the sites of the federation whose folder at its server the configuration names."""
    from engine.federation.backends.deployed import DeployedBackEnd
    from engine.federation.backends.fixed_test import FixedTest
    from engine.federation.sites import Server

    how.setdefault("server", lambda: Server(lambda: None, lambda _: None))
    # While a run is planned nobody measures, and a test set's programs need no place of theirs.
    state_root = how.get("state_root") or Path("sites")
    how["open_test"] = partial(FixedTest, config, state_root=state_root, checkpoints=checkpoints)
    return DeployedBackEnd(config, run_id=run_id, **_reached(config), **how)


def _reached(config: RunConfig) -> dict[str, Any]:
    """Return how the server of the configuration's federation is reached, and the keys of its sites."""
    from engine.deployment import federations
    from engine.deployment.server import link_of

    assert config.server is not None
    federation = federations.load(config.server)
    return {"link": link_of(federation), "keys": federations.accepted_keys(federation)}
