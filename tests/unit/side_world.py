"""What answers in the process of ``test_side_process.py``: it counts, keeps a state, fails and dies when told to."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import UserError
from engine.federation.tasks import SiteReply, SiteRequest
from engine.types import RunCancelled


class Counting:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def answer(self, request: SiteRequest, *, stage: str, listener: Any) -> SiteReply:
        what = request.settings["what"]
        if what == "fail":
            raise UserError("data.missing", what="No image.", why="It is gone.", fix="Put it back.")
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "forever":
            return self._forever(request, listener)
        for step in (1, 2, 3):
            listener.metric("loss", 1 / step, step=step)
            listener.progress(step, 3)
        listener.before_save()
        (self.folder / f"{request.site}.state").write_text("3")
        arrays = {"w": np.array([[1, 2]], np.float16), "one": np.array(5, np.int64), "site": np.zeros(request.round)}
        return SiteReply(arrays, {"wall_s": 0.5}, 7, {"stage": stage, "pid": str(os.getpid())})

    def _forever(self, request: SiteRequest, listener: Any) -> SiteReply:
        done = 0
        while True:
            done += 1
            listener.metric("loss", 0.0, step=done)
            try:
                listener.progress(done, 10**6)
            except RunCancelled:
                listener.before_save()
                (self.folder / f"{request.site}.state").write_text(str(done))
                raise
            time.sleep(0.01)


def open_counting(folder: str) -> Counting:
    return Counting(Path(folder))
