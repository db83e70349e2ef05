"""All sites in this process, one after the other: the default back end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from engine.config import RunConfig
from engine.data.datasets import Federation, load_federation
from engine.data.first_read import read_everything
from engine.federation.backends.beside import BesideGrid
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.client_app import build_client_app
from engine.federation.sites import Desk, Quiet, Server, SiteListener
from engine.federation.tasks import SiteReply, SiteRequest
from engine.models.roles import Role, at_site, model_name
from engine.runs.checkpoint import CheckpointStore
from engine.site.context import Models
from engine.site.data import SiteData, describe_all, sites_here
from engine.site.program import SiteProgram
from engine.site.state import SiteState
from engine.site.tasks import TASKS


class LocalBackEnd:
    """Every site is a program of this process; sources and test sites are asked over Flower messages alike.

    Parameters
    ----------
    state_root : Path
        A site keeps its optimiser's state in ``state_root/SITE``.
    checkpoints, server : callable
        Give those of the stage that runs now. Unfinished work of the sites lies among the run's checkpoints.
    federation : Federation, optional
        The images, where they have been read already.
    build : callable, optional
        Makes the models by role, in place of those that the configuration names.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        state_root: Path,
        checkpoints: Callable[[], CheckpointStore],
        server: Callable[[], Server],
        federation: Federation | None = None,
        build: Callable[[Role], nn.Module] | None = None,
    ) -> None:
        self._config, self._state_root, self._checkpoints = config, state_root, checkpoints
        self._is_own = federation is not None or build is not None  # another process could not make the same
        self._beside: BesideGrid | None = None
        self._federation = federation or load_federation(config.data, seed=config.seed)
        self._server = server
        self._listener: SiteListener = Quiet()
        sites = sites_here(config, federation=self._federation)
        self.description = describe_all(config, self._federation, sites)
        self._programs = programs_here(
            config,
            sites,
            state_root=state_root,
            checkpoints=checkpoints,
            num_classes=len(self._federation.classes),
            build=build,
        )
        app = build_client_app(dict.fromkeys(TASKS, self._answer))
        self.grid = InProcessGrid(app, sites=tuple(self._programs))

    def listen(self, listener: SiteListener) -> None:
        """Hand on what sites tell to ``listener`` from now on."""
        self._listener = listener

    def beside(self, desk: Desk) -> BesideGrid | None:
        """Return a grid whose messages a second process of this machine answers; None where it had other images."""
        if self._is_own:
            return None
        self.close()
        self._beside = BesideGrid(
            sites=tuple(self._programs),
            arguments=of_run(self._config, state_root=self._state_root, checkpoints=self._checkpoints().folder),
            threads=self._config.threads,
            folder=self._checkpoints().folder,
            desk=desk,
        )
        return self._beside

    def last_seen(self) -> Mapping[str, float]:
        """Return nothing: sites are no machines of their own here."""
        return {}

    def read_everything(self, *, on_image: Callable[[int, int], None]) -> list[str]:
        """Read every image of every site; here they can be compared across sites as well."""
        return read_everything(self._federation, on_image=on_image)

    def close(self) -> None:
        """End the process beside this one, where there is one."""
        if self._beside is not None:
            self._beside.close()

    def _answer(self, request: SiteRequest) -> SiteReply:
        heard = Heard(request.site, request.round, self._listener, self._server().check_cancelled)
        return self._programs[request.site].answer(request, listener=heard)


def of_run(config: RunConfig, *, state_root: Path, checkpoints: Path) -> dict[str, str]:
    """Return the arguments with which another process opens the programs of a run's sites (``site_programs``)."""
    folders = {"state_root": str(state_root.resolve()), "checkpoints": str(checkpoints.resolve())}
    return {"config_json": config.model_dump_json(), **folders}


def programs_here(
    config: RunConfig,
    sites: Mapping[str, SiteData],
    *,
    state_root: Path,
    checkpoints: Callable[[], CheckpointStore],
    num_classes: int,
    build: Callable[[Role], nn.Module] | None = None,
) -> dict[str, SiteProgram]:
    """Return the program of each of the run's sites, by name; which process runs it changes nothing of its files."""
    kinds: dict[str, Models] = {}

    def models_of(there: RunConfig) -> Models:
        """Return what the sites with one kind of student share."""
        kind = model_name(there, "student")
        if kind not in kinds:
            kinds[kind] = Models(there, build=build) if build else Models.of_run(there, num_classes=num_classes)
        return kinds[kind]

    def program(place: int, data: SiteData) -> SiteProgram:
        def state() -> SiteState:
            return SiteState(state_root / data.name, checkpoints(), suffix=f"_{place}")

        there = at_site(config, data.name)
        return SiteProgram(data, config=there, state=state, models=models_of(there))

    return {data.name: program(place, data) for place, data in enumerate(sites.values())}


@dataclass(frozen=True)
class Heard:
    """What a site tells goes to the server at once."""

    site: str
    round_number: int
    listener: SiteListener
    check_cancelled: Callable[[], None]

    def progress(self, step: int, total: int, *, message: str = "") -> None:
        self.check_cancelled()
        self.listener.progress(self.site, self.round_number, step, total)

    def metric(self, name: str, value: float, *, step: int) -> None:
        self.listener.metric(self.site, name, value, step)
