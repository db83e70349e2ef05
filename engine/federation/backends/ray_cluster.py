"""Processes that Ray keeps for a run: a cluster of one's own on loopback, or one that runs already.

A cluster of our own listens on 127.0.0.1 only, wants a token that nobody else has, tells nobody that it is used, and
ends with this process, also where that is killed.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any

import psutil

from engine.errors import UserError
from engine.federation.backends.ray_worker import SiteWorker
from engine.federation.side_by_side import available_cores, threads_of_worker

START_ATTEMPTS, TOO_SLOW = 4, "timed out during startup"
"""Ray gives itself 30 s to begin, which a busy machine may need more of; it is tried so often (ours)."""
READY_S = 600.0
"""How long processes may take to begin: importing PyTorch on a busy machine, or a cluster that is in use (ours)."""
PREFIX = "dsfedmed-ray-"
"""Of the folder of a cluster's sockets and logs below the system's temporary folder: a socket's path has 107 letters at
most, and a run's folder may be deep."""
_OWN = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # What makes Ray bind to loopback alone; its name tells where that is the default.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    # Ray's helpers look for a server that was killed for so long before they end, too; 60 s where nothing is said.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
    "RAY_COLOR_PREFIX": "0",
    # 15 where nothing is said: beside anything else that computes, a site would get a thirtieth of a core, while the
    # same site in this process gets its share.
    "RAY_worker_niceness": "0",
}


def require_ray() -> None:
    """Raise ``UserError`` ``federation.ray_missing`` where Ray is not installed."""
    if find_spec("ray") is None:
        raise UserError(
            "federation.ray_missing",
            what="Ray is not installed.",
            why="With backend = 'ray' it runs the sites side by side.",
            fix="Install it with `pip install -r requirements-ray.txt`, or use backend = 'local'.",
        )


class RayCluster:
    """An open connection to Ray; workers are processes of it.

    Parameters
    ----------
    workers : int
        How many processes work side by side; on a cluster no more than it has cores.
    threads : int, optional
        CPU threads of each; the cores shared out when left out.
    address : str, optional
        HOST:PORT of a cluster that runs already and of which this machine is a part; else one is started here.
    gpu : bool
        Whether GPUs are shared out, too.
    """

    def __init__(self, *, workers: int, threads: int | None, address: str | None, gpu: bool) -> None:
        require_ray()
        self._folder: Path | None = None
        if address is None:
            self._start_own(workers, threads)
        else:
            os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
            self._join(address)
        import ray

        found = ray.cluster_resources()
        cores = int(found.get("CPU", 1))
        self.workers = workers if address is None else max(1, min(workers, cores))
        widest = max((int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"]), default=1)
        self.threads = min(threads_of_worker(self.workers, cores=cores, threads=threads), widest)
        # Ray counts GPUs in ten-thousandths: rounded up, the last worker would find too little.
        self._gpus = math.floor(1e4 * min(1.0, found.get("GPU", 0.0) / self.workers)) / 1e4 if gpu else 0.0

    def hire(self, entry: str, arguments: Mapping[str, Any]) -> Any:
        """Start one worker; it answers as soon as it is there."""
        import ray

        kind = ray.remote(num_cpus=self.threads, num_gpus=self._gpus, concurrency_groups={"control": 2})
        actor = kind(_as_actor(SiteWorker))
        kept = {name: os.environ[name] for name in ("DSFEDMED_HOME", "OMP_WAIT_POLICY") if name in os.environ}
        return actor.remote(entry, dict(arguments), threads=self.threads, environment=kept)

    def close(self) -> None:
        """End the connection, and the cluster where it is our own."""
        import ray

        ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start_own(self, workers: int, threads: int | None) -> None:
        clear_leftovers()
        stops = signal.getsignal(signal.SIGTERM)
        if "ray" not in sys.modules:  # which reads them once, so a second cluster of a process has them, too
            os.environ.update(_OWN, RAY_AUTH_TOKEN=secrets.token_hex(32))
        num_cpus = workers * threads_of_worker(workers, cores=available_cores(), threads=threads)
        try:
            for attempt in range(1, START_ATTEMPTS + 1):
                try:
                    return self._init(num_cpus)
                except Exception as error:
                    self.close()
                    if attempt == START_ATTEMPTS or TOO_SLOW not in str(error):
                        raise _not_started(error) from error
        finally:
            _keep_signal(stops)

    def _init(self, num_cpus: int) -> None:
        import ray

        self._folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        (self._folder / "r").mkdir()  # which Ray opens to everybody; what it lies in stays closed
        with _same_modules():
            ray.init(
                num_cpus=num_cpus,
                include_dashboard=False,
                configure_logging=False,
                log_to_driver=True,
                _temp_dir=str(self._folder / "r"),
                _system_config={"enable_metrics_collection": False},
            )

    def _join(self, address: str) -> None:
        stops = signal.getsignal(signal.SIGTERM)
        import ray

        try:
            ray.init(address=address, configure_logging=False, log_to_driver=True)
        except Exception as error:
            raise UserError(
                "federation.ray_unreachable",
                what=f"The Ray cluster at {address} cannot be joined: {type(error).__name__}: {str(error)[:300]}",
                why="The run's sites were to work there.",
                fix="Start Ray on this machine as a part of that cluster (`ray start --address=...`), with the same "
                "versions of Python and Ray, or leave ray_address out.",
            ) from error
        finally:
            _keep_signal(stops)


def wait_ready(handles: list[Any], *, check_cancelled: Callable[[], None], timeout_s: float = READY_S) -> None:
    """Wait until every worker can answer; ``UserError`` ``federation.ray_workers`` says why one cannot."""
    import ray

    waiting, until = [handle.ready.remote() for handle in handles], monotonic() + timeout_s
    while waiting:
        check_cancelled()
        done, waiting = ray.wait(waiting, timeout=0.5)
        try:
            faults = [fault for fault in ray.get(done) if fault]
        except ray.exceptions.RayError as error:
            raise _no_workers(f"One ended before it could work: {reason_of(error)}") from error
        if faults:
            raise _no_workers(f"One cannot work: {faults[0]}")
        if waiting and monotonic() > until:
            raise _no_workers(f"{len(waiting)} of {len(handles)} have not begun after {timeout_s:.0f} s.")


def reason_of(error: Exception) -> str:
    """Return what Ray says of a worker in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("ray.exceptions", "engine.", "ModuleNotFound", "OSError"))]
    return " ".join([*lines[:1], *telling[-1:]])[:400]


def _as_actor(worker: type[SiteWorker]) -> type:
    """Return the class with those methods marked that must be heard while it works."""
    import ray

    marked = {name: ray.method(concurrency_group="control")(getattr(worker, name)) for name in ("heard", "stop")}
    return type(worker.__name__, (worker,), marked)


def _keep_signal(handler: Any) -> None:
    """Put back what SIGTERM means to this process: Ray makes it the end at once, and a run stops at its next step."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _same_modules() -> Iterator[None]:
    """Let processes that are started meanwhile find the modules that this one finds."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(str(Path(place).resolve()) for place in sys.path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of defaults that Ray is going to have
            yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def clear_leftovers() -> None:
    """Remove the folders of clusters whose process was killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        with suppress(OSError):
            if folder.stat().st_uid == os.getuid() and pid.isdecimal() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)


def _not_started(error: Exception) -> UserError:
    return UserError(
        "federation.ray_not_started",
        what=f"Ray could not be started: {type(error).__name__}: {str(error)[:300]}",
        why="With backend = 'ray' it runs the sites side by side.",
        fix=f"Look whether {tempfile.gettempdir()} and /dev/shm have space and memory is free "
        f"(Python {sys.version_info.major}.{sys.version_info.minor}), or use backend = 'local'.",
    )


def _no_workers(said: str) -> UserError:
    return UserError(
        "federation.ray_workers",
        what=f"The processes for the sites are not there. {said}",
        why="They do the sites' work.",
        fix="Ask for fewer workers, wait until the cluster is free, and look that its machines have this program and "
        "see the run's folder and the images under the same paths; worker.log in the run's folder has their words.",
    )
