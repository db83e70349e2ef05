"""The sites of a run side by side, in processes that Ray keeps on this machine or on those of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from engine.config import RunConfig
from engine.data.datasets import load_federation
from engine.data.first_read import read_everything
from engine.federation.backends.beside import BesideGrid
from engine.federation.backends.local import of_run
from engine.federation.backends.ray_cluster import RayCluster, require_ray
from engine.federation.backends.ray_worker import Told
from engine.federation.backends.raygrid import RayGrid
from engine.federation.side_by_side import available_cores, num_workers, threads_of_worker
from engine.federation.sites import Desk, Quiet, Server, SiteListener
from engine.runs.checkpoint import CheckpointStore
from engine.site.data import describe_all, sites_here

ENTRY = "engine.federation.backends.site_programs:open_sites"


class RayBackEnd:
    """Every site is a program of one of ``config.workers`` processes; arguments as for :class:`LocalBackEnd`.

    Their files are those of the run in one process, so that a run may be stopped on one and resumed on the other. The
    processes begin when the first site is asked.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        state_root: Path,
        checkpoints: Callable[[], CheckpointStore],
        server: Callable[[], Server],
    ) -> None:
        require_ray()
        self._federation = load_federation(config.data, seed=config.seed)
        self._listener: SiteListener = Quiet()
        sites = sites_here(config, federation=self._federation)
        self.description = describe_all(config, self._federation, sites)
        workers = num_workers(config, num_sites=len(self.description.sources))
        self._sites, self._workers, self._threads = tuple(sites), workers, config.threads
        self._arguments = of_run(config, state_root=state_root, checkpoints=checkpoints().folder)
        self._beside: BesideGrid | None = None

        def open_cluster() -> RayCluster:
            server().tell(f"starting {workers} processes for the sites")
            gpu = config.device != "cpu"
            return RayCluster(workers=workers, threads=config.threads, address=config.ray_address, gpu=gpu)

        self.grid = RayGrid(
            sites=self._sites,
            open_cluster=open_cluster,
            entry=ENTRY,
            arguments=self._arguments,
            stage=lambda: checkpoints().scope,
            hear=self._hear,
            check_cancelled=lambda: server().check_cancelled(),
        )

    def listen(self, listener: SiteListener) -> None:
        """Hand on what sites tell to ``listener`` from now on."""
        self._listener = listener

    def beside(self, desk: Desk) -> BesideGrid:
        """Return a grid whose messages as many processes of this machine answer as there are workers."""
        self._close_beside()
        self._beside = BesideGrid(
            sites=self._sites,
            arguments=self._arguments,
            threads=threads_of_worker(self._workers, cores=available_cores(), threads=self._threads),
            folder=Path(self._arguments["checkpoints"]),
            desk=desk,
            processes=self._workers,
        )
        return self._beside

    def last_seen(self) -> Mapping[str, float]:
        """Return nothing: sites are no machines of their own here."""
        return {}

    def read_everything(self, *, on_image: Callable[[int, int], None]) -> list[str]:
        """Read every image of every site; here they can be compared across sites as well."""
        return read_everything(self._federation, on_image=on_image)

    def close(self) -> None:
        """End the processes."""
        self._close_beside()
        self.grid.close()

    def _close_beside(self) -> None:
        if self._beside is not None:
            self._beside.close()

    def _hear(self, site: str, round_number: int, told: Told) -> None:
        if told.name:
            self._listener.metric(site, told.name, told.value, told.step)
        else:
            self._listener.progress(site, round_number, told.step, told.total)
