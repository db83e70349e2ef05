"""Sites for the tests of the Ray back end: toys that a worker process opens by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import torch

from engine.errors import UserError
from engine.federation.backends.ray_cluster import RayCluster
from engine.federation.backends.raygrid import Hear, RayGrid
from engine.federation.tasks import Listener, SiteReply, SiteRequest

ENTRY = f"{__name__}:open_toys"
SITES = ("north", "south", "west")


class Toys:
    """Sites that count their visits in files of ``folder``, and do what a request's settings say."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def answer(self, request: SiteRequest, *, stage: str, listener: Listener) -> SiteReply:
        """Add 1 to what was sent, after whatever else was asked for."""
        what = str(request.settings.get("what", ""))
        visits = self._folder / f"{request.site}.txt"
        number = int(visits.read_text()) + 1 if visits.is_file() else 1
        visits.write_text(str(number))
        if what == f"refuse {request.site}":
            raise UserError("data.mask_missing", what="x.png has no mask.", why="It is needed.", fix="Add it.")
        if what == f"die {request.site}" and number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "meet":  # each waits until another works, too: one after the other would wait for ever
            (self._folder / f"at-{request.site}").touch()
            while len(list(self._folder.glob("at-*"))) < 2:
                listener.check_cancelled()
                time.sleep(0.01)
            listener.progress(1, 2)
        if what == f"hang {request.site}" and number == 1:
            for step in range(10**6):
                listener.progress(step, 10**6)
                time.sleep(0.02)
        listener.metric("loss", 0.5, step=request.round)
        about = {"stage": stage, "pid": str(os.getpid()), "threads": str(torch.get_num_threads())}
        return SiteReply({"w": request.arrays["w"] + 1}, {"visits": number}, len(request.site), about)


def open_toys(folder: str) -> Toys:
    """Return what answers in a worker process."""
    return Toys(folder)


def toy_grid(folder: Path, *, workers: int = 2, hear: Hear = lambda _site, _round, _told: None) -> RayGrid:
    """Return a grid of the toys; close it."""

    def open_cluster() -> RayCluster:
        return RayCluster(workers=workers, threads=1, address=None, gpu=False)

    return RayGrid(
        sites=SITES,
        open_cluster=open_cluster,
        entry=ENTRY,
        arguments={"folder": str(folder)},
        stage=lambda: "toys",
        hear=hear,
    )


def ones() -> dict[str, np.ndarray]:
    """Return a small model."""
    return {"w": np.ones(3, np.float32)}
