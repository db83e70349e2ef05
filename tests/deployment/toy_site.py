"""A site's program for tests of deployment: one task of plain arithmetic on the numbers in its folder of "images"."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from engine.errors import UserError
from engine.federation.tasks import Listener, SiteReply, SiteRequest, SiteTask


def tasks(site: str, data: Path) -> dict[str, SiteTask]:
    """Return the tasks of a site whose folder holds ``numbers.txt``."""

    def train(request: SiteRequest) -> SiteReply:
        numbers = np.array((data / "numbers.txt").read_text().split(), np.float32)
        if request.settings.get("fail") == site:
            raise UserError("data.mask_missing", what="x.png has no mask.", why="It is needed.", fix="Add it.")
        deaths = data / "deaths.txt"
        if request.settings.get("die") == site and len(deaths.read_text()) < int(request.settings["times"]):
            with deaths.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(request.settings.get("work_s", 0.0)))
        weights = {
            name: value + np.sin(value + numbers.mean() * request.round) for name, value in request.arrays.items()
        }
        return SiteReply(weights, {"loss": float(numbers.mean())}, len(numbers))

    return {"student": train}


class ToySite:
    """Answers with its tasks, whatever the run."""

    def __init__(self, site: str, data: Path) -> None:
        self._tasks = {"train.student": tasks(site, data)["student"]}

    def answer(self, request: SiteRequest, *, run: Mapping[str, str], listener: Listener) -> SiteReply:
        """Do the task of the request."""
        return self._tasks[request.task](request)

    def told_progress(self, task: str, round_number: int, steps: Sequence[tuple[int, int]], *, run_id: str) -> None:
        """Do nothing."""

    def idle(self) -> None:
        """Do nothing."""


def program(site: str, data: Path, folder: Path, say: Callable[[str], None]) -> ToySite:
    """Return what ``site up`` serves with DSFEDMED_SITE_PROGRAM=tests.deployment.toy_site:program."""
    return ToySite(site, data)
