"""A site's program: it answers the server's requests by task name, from its own images and its own state."""

from __future__ import annotations

from collections.abc import Callable

from engine.config import RunConfig
from engine.errors import UserError
from engine.federation.tasks import Listener, SiteReply, SiteRequest
from engine.site.context import Models, SiteContext
from engine.site.data import SiteData
from engine.site.state import SiteState
from engine.site.tasks import TASKS


class SiteProgram:
    """One site in one run.

    Parameters
    ----------
    data : SiteData
        The site's images; nobody else opens them.
    state : callable
        Gives the site's state. Asked for each request: which stage of the run writes decides what a checkpoint holds.
    models : Models
        Sites in one process share theirs, for each request brings its weights.
    """

    def __init__(
        self, data: SiteData, *, config: RunConfig, state: Callable[[], SiteState], models: Models | None = None
    ) -> None:
        self._data, self._config, self._state = data, config, state
        self._models = models or Models.of_run(config, num_classes=len(data.classes))

    def answer(self, request: SiteRequest, *, listener: Listener) -> SiteReply:
        """Do what is asked; raises ``UserError`` ``federation.unknown_task``, and whatever the task raises."""
        task = TASKS.get(request.task)
        if task is None:
            raise UserError(
                "federation.unknown_task",
                what=f"Site {self._data.name} is asked for '{request.task}', which it does not know.",
                why="A site does what its own program can, whatever is asked.",
                fix=f"Run one version of the program at the server and at {self._data.name}.",
            )
        context = SiteContext(
            site=self._data.name,
            config=self._config,
            data=self._data,
            state=self._state(),
            models=self._models,
            listener=listener,
        )
        return task(context, request)
