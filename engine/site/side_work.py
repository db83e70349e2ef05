"""Long work of a site that stands alone, in a process beside the program that answers the server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import monotonic

from engine.federation.backends.side_process import SideProcess, Told, clear_replies
from engine.federation.exchange import failure_told
from engine.federation.tasks import AT_WORK, STEP, TOTAL, Listener, SiteReply, SiteRequest

ENTRY = "engine.site.deployed:open_beside"
FORGOTTEN_S = 300.0
"""Work that nobody has asked about for so long is stopped, and gone on with when somebody does (ours)."""


class SideWork:
    """One piece of work at a time, for one run: each request about it is answered at once, by how far it is or by what
    came of it.

    Parameters
    ----------
    site : str
        Its name.
    data, folder, run_folder : Path
        Of its images, of the site, and of what it keeps of the run.
    num_images : int
        n_k, told with each answer.
    threads : int or None
        CPU threads of the process.
    """

    def __init__(
        self, site: str, *, data: Path, folder: Path, run_folder: Path, num_images: int, threads: int | None
    ) -> None:
        self._site, self._num_images, self._threads = site, num_images, threads
        self._arguments = {"site": site, "data": str(data.absolute()), "folder": str(folder.absolute())}
        self._run_folder = run_folder
        self._process: SideProcess | None = None
        self._at, self._points = (0, 1), list[Told]()

    def answer(self, request: SiteRequest, *, run: Mapping[str, str], listener: Listener) -> SiteReply:
        """Begin the work where it has not begun; return its reply when there is one, else how far it is.

        What the work raised is raised here; whoever asks again begins it anew, from what is kept.
        """
        if self._process is None:
            self._begin(request, run)
        assert self._process is not None
        try:
            outcome = self._process.outcome()
            if outcome is None:
                step, total = self._at
                return SiteReply({}, {STEP: step, TOTAL: total}, self._num_images, {AT_WORK: request.task})
            if outcome.failure:
                raise failure_told(outcome.failure, site=self._site)
            reply, points = outcome.reply(), self._points
        except BaseException:
            self.stop()
            raise
        self.stop()
        for point in points:
            listener.metric(point.name, point.value, step=point.step)
        return reply

    def stop(self) -> None:
        """End the process, where there is one; what it has begun is kept on the disk."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def stop_if_forgotten(self, *, asked_at: float) -> None:
        """End the process where the site was last asked anything too long before, by :func:`time.monotonic`."""
        if monotonic() - asked_at > FORGOTTEN_S:
            self.stop()

    def _begin(self, request: SiteRequest, run: Mapping[str, str]) -> None:
        clear_replies(self._run_folder)
        self._at, self._points = (0, 1), []
        self._process = SideProcess(
            entry=ENTRY,
            arguments={**self._arguments, "run": dict(run)},
            threads=self._threads,
            folder=self._run_folder,
            hear=self._hear,
        )
        self._process.ask("work", request, stage="")

    def _hear(self, told: Told) -> None:
        if told.name:
            self._points.append(told)
        else:
            self._at = (told.step, told.total)
