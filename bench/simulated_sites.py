"""A federation of any number of sites without images: each changes the model a little, in no time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from engine.config import RunConfig
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.client_app import build_client_app
from engine.federation.descriptions import FederationDescription, SiteDescription
from engine.federation.sites import Desk, Server, SiteListener, Sites
from engine.federation.tasks import TRAIN_STUDENT, VALIDATE_STUDENT, SiteReply, SiteRequest
from engine.models.roles import Role
from engine.runs.checkpoint import CheckpointStore
from engine.seeding import derive_seed
from engine.stages.context import RunContext
from engine.types import Reporter


def site_names(count: int) -> tuple[str, ...]:
    """Return the names of ``count`` sites, sorted."""
    return tuple(f"site-{index:05d}" for index in range(count))


def num_train(site: str) -> int:
    """Return a site's n_k, 1 to 99."""
    return 1 + derive_seed(0, site) % 99


def train(request: SiteRequest) -> SiteReply:
    """Return every float array a little larger, by a step of the site's own, in place of training."""
    step = np.float32(1e-3 * (1 + derive_seed(0, request.site, "step") % 7))
    arrays = {
        name: array + step.astype(array.dtype) if array.dtype.kind == "f" else array
        for name, array in request.arrays.items()
    }
    metrics = {"loss": 1.0, "wall_s": 0.0, "val_dice": 0.5, "val_loss": 1.0, "val_images": 2.0}
    return SiteReply(arrays, metrics, num_train(request.site))


def validate(request: SiteRequest) -> SiteReply:
    """Return the figures of :func:`train` alone."""
    return SiteReply({}, {"val_dice": 0.5, "val_loss": 1.0, "val_images": 2.0, "wall_s": 0.0}, 2)


class SimulatedBackEnd:
    """Sites in one process that answer as ``train`` does; see ``engine.federation.sites.BackEnd``."""

    def __init__(self, names: tuple[str, ...], *, train: Callable[[SiteRequest], SiteReply] = train) -> None:
        self.grid = InProcessGrid(build_client_app({TRAIN_STUDENT: train, VALIDATE_STUDENT: validate}), sites=names)
        sources = tuple(SiteDescription(name, "source", num_train(name), 2, 0) for name in names)
        test = SiteDescription("test", "test", 0, 0, 1)
        self.description = FederationDescription("simulated", "none", "none", ("disc",), sources, (test,), "test")

    def listen(self, listener: SiteListener) -> None:
        """Pass over it: these sites tell nothing while they work."""

    def beside(self, desk: Desk) -> None:
        """Return None: they do one thing at a time."""

    def read_everything(self, *, on_image: Callable[[int, int], None]) -> list[str]:
        """Return no warnings."""
        return []

    def last_seen(self) -> dict[str, float]:
        """Return nothing: they are in this process."""
        return {}

    def close(self) -> None:
        """Nothing is open."""


class SimulatedContext(RunContext):
    """A run's context with simulated sites and a model that the caller builds."""

    def __init__(
        self,
        *,
        config: RunConfig,
        run_dir: Any,
        reporter: Reporter,
        names: tuple[str, ...],
        build: Callable[[], nn.Module],
        train: Callable[[SiteRequest], SiteReply] = train,
    ) -> None:
        checkpoints = CheckpointStore(run_dir / "checkpoints", config.content_hash(), warn=print)
        super().__init__(config=config, run_dir=run_dir, reporter=reporter, checkpoints=checkpoints)
        self._names, self._build_model, self._train = names, build, train

    def new_model(self, role: Role) -> nn.Module:
        """Return the caller's model."""
        return self._build_model()

    def open_sites(self, **where: Any) -> Sites:
        """Return the simulated sites."""
        server = Server(self.reporter.check_cancelled, self.reporter.traffic)
        return Sites(SimulatedBackEnd(self._names, train=self._train), server=lambda: server)
