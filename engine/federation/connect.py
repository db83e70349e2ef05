"""From a configuration to its sites: the one place that knows where they are. Free of torch and Flower until asked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import RunConfig
from engine.data.datasets import Federation, load_federation
from engine.data.facts import DataFacts, data_facts
from engine.data.public import load_public, refuse_shared
from engine.federation.backends.participants import participants, with_named
from engine.federation.descriptions import IDENTITY_FILE, FederationDescription, noted_sites
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


def measured(config: RunConfig) -> tuple[FederationDescription, DataFacts] | None:
    """Return what the sites say of their data with figures of some training images, None where they lie elsewhere.

    Raises ``UserError`` for faults of the data.
    """
    if config.backend == "superlink":
        return None
    from engine.site.data import describe_all, sites_here

    federation = load_federation(config.data, seed=config.seed)
    told = describe_all(config, federation, sites_here(config, federation=federation))
    return told, data_facts([site.train for site in federation.sites.values()])


def with_sites(config: RunConfig, *, run_dir: Path | None = None) -> RunConfig:
    """Return ``config`` with its sites named where they are at hospitals: those that are accepted now, or those that
    the run in ``run_dir`` has begun with.

    A run is stored so when it is launched: a site that is revoked while it waits stops it, and does not just drop out,
    and one that is accepted later is none of it. ``UserError`` as of :func:`participants`.
    """
    if config.backend != "superlink":
        return config
    config = _as_begun(config, run_dir)
    names, _ = participants(config, _accepted_sites(config))
    return config if config.data.sites else with_named(config, names)


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
        opened = _deployed(config, run_id=run_dir.name, checkpoints=checkpoints, run_dir=run_dir, **own)
        return Sites(opened, server=server, **fails)
    if config.backend == "ray":
        from engine.federation.backends.ray_sites import RayBackEnd

        ray = RayBackEnd(config, state_root=state_root, checkpoints=checkpoints, server=server)
        return Sites(ray, server=server, **fails)
    back_end = LocalBackEnd(
        config, state_root=state_root, checkpoints=checkpoints, server=server, federation=federation, build=build
    )
    return Sites(back_end, server=server, **fails)


def _as_begun(config: RunConfig, run_dir: Path | None) -> RunConfig:
    """Return ``config`` with the sites that a run has noted: earlier versions launched runs that name none."""
    noted = None if run_dir is None or config.data.sites else noted_sites(run_dir / IDENTITY_FILE)
    if noted is None:
        return config
    sources, tests = noted
    if config.data.protocol == "fixed-test":
        return with_named(config, sources)
    return with_named(config, sorted({*sources, *tests}), held_out=tests[0])


def _deployed(
    config: RunConfig,
    *,
    run_id: str,
    checkpoints: Callable[[], CheckpointStore] | None = None,
    run_dir: Path | None = None,
    **how: Any,
) -> DeployedBackEnd:
    """Return the sites of the federation whose folder at its server the configuration names."""
    from engine.federation.backends.deployed import DeployedBackEnd
    from engine.federation.backends.fixed_test import FixedTest
    from engine.federation.sites import Server

    how.setdefault("server", lambda: Server(lambda: None, lambda _: None))
    # While a run is planned nobody measures, and a test set's programs need no place of theirs.
    state_root = how.get("state_root") or Path("sites")
    how["open_test"] = partial(FixedTest, config, state_root=state_root, checkpoints=checkpoints)
    return DeployedBackEnd(_as_begun(config, run_dir), run_id=run_id, **_reached(config), **how)


def _reached(config: RunConfig) -> dict[str, Any]:
    """Return how the server of the configuration's federation is reached, and the keys of its sites."""
    from engine.deployment import federations
    from engine.deployment.server import link_of

    assert config.server is not None
    federation = federations.load(config.server)
    return {"link": link_of(federation), "keys": federations.accepted_keys(federation)}


def _accepted_sites(config: RunConfig) -> tuple[str, ...]:
    """Return the sites whose keys the configuration's federation accepts."""
    from engine.deployment import federations

    assert config.server is not None
    return tuple(federations.accepted_keys(federations.load(config.server)))
