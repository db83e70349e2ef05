"""The server's own test set, beside sites at other machines: programs of this process measure on it.

It is the server's own data, so nothing crosses a border when a model is measured on it. Free of torch until asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config import RunConfig
from engine.data.datasets import load_test_set
from engine.data.first_read import read_everything
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.client_app import build_client_app
from engine.federation.descriptions import DatasetAgreement, SiteDescription
from engine.federation.sites import SiteListener
from engine.federation.tasks import EVALUATE, SiteReply, SiteRequest
from engine.site.data import digest_of, sites_of_test

if TYPE_CHECKING:
    from engine.runs.checkpoint import CheckpointStore


class FixedTest:
    """The test set that ``data.test_root`` names, as sites of this process that can be asked to measure.

    Parameters
    ----------
    about : DatasetAgreement
        What the sites have told of the dataset that they train on.
    sources
        Names of the sites that train.
    state_root, checkpoints
        As for :class:`engine.federation.backends.local.LocalBackEnd`; measuring keeps nothing there.
    listener, check_cancelled : callable
        Give who listens, and raise RunCancelled when a stop was asked for.

    Raises ``UserError`` ``data.*`` where the test set cannot be used, or does not show what the sites segment.
    """

    def __init__(
        self,
        config: RunConfig,
        about: DatasetAgreement,
        *,
        sources: Sequence[str],
        state_root: Path,
        checkpoints: Callable[[], CheckpointStore],
        listener: Callable[[], SiteListener],
        check_cancelled: Callable[[], None],
    ) -> None:
        self._config, self._state_root, self._checkpoints = config, state_root, checkpoints
        self._listener, self._check_cancelled = listener, check_cancelled
        # Without data.root there is no folder of images but the test set's own.
        own = config.data.model_copy(update={"root": None})
        self._federation = load_test_set(own, name=about.name, classes=about.classes, sources=sources)
        self._sites = sites_of_test(self._federation, sources=sources)
        self.name = self._federation.test.name
        self.digest = digest_of(self._federation.test.test.items)

    @property
    def descriptions(self) -> tuple[SiteDescription, ...]:
        """What the run may know of each site of the test set."""
        return tuple(site.description() for site in self._sites.values())

    @cached_property
    def grid(self) -> InProcessGrid:
        """Where the test set's sites are asked."""
        from engine.federation.backends.local import Heard, programs_here

        programs = programs_here(
            self._config,
            self._sites,
            state_root=self._state_root,
            checkpoints=self._checkpoints,
            num_classes=len(self._federation.classes),
        )

        def measure(request: SiteRequest) -> SiteReply:
            heard = Heard(request.site, request.round, self._listener(), self._check_cancelled)
            return programs[request.site].answer(request, listener=heard)

        return InProcessGrid(build_client_app({EVALUATE: measure}), sites=tuple(self._sites), alone=False)

    def nodes(self, sites: Sequence[str]) -> Mapping[str, int]:
        """Return the node of each of ``sites`` that is one of the test set's; nodes begin when one is wanted."""
        if not set(sites) & set(self._sites):
            return {}
        known = dict(zip(self._sites, self.grid.get_node_ids(), strict=True))
        return {site: known[site] for site in sites if site in known}

    def read_everything(self, *, on_image: Callable[[int, int], None]) -> list[str]:
        """Read every image once, as of a run in one process; what it shares with the sites' cannot be seen here."""
        return read_everything(self._federation, on_image=on_image)
