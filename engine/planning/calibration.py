"""How fast this machine is, measured once and kept in the home folder: two plans never differ by noise. Torch-free."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engine.federation.side_by_side import available_cores
from engine.planning.costs import (
    BF16_GAIN,
    CORES_EXPONENT,
    REFERENCE_CORE_GFLOPS,
    REFERENCE_CORES,
    Speed,
    has_bf16,
)
from engine.runs.report import processor

FILE = "machine.json"
VERSION = 1
"""Of what is measured and how; another one is measured again."""
REPETITIONS = 40
_SIDE, _COUNT = 64, 500
"""So small that the BLAS library uses one thread for each product."""


@dataclass(frozen=True)
class Calibration:
    """One measurement: GFLOP/s of small float32 products on one core, where, with what and on which day."""

    version: int
    machine: str
    core_gflops: float
    measured_on: str
    """Date, ISO 8601."""

    def speed(self, device: str, *, threads: int | None, precision: str = "auto") -> Speed:
        """Return the rate of a run with these settings."""
        if device == "cuda":
            return Speed("cuda", 1.0)
        cores = min(available_cores(), threads or available_cores())
        slower = 1.0 if precision != "fp32" and has_bf16() else BF16_GAIN
        core = self.core_gflops / REFERENCE_CORE_GFLOPS
        return Speed("cpu", core * (cores / REFERENCE_CORES) ** CORES_EXPONENT / slower)


def calibration(home: Path) -> Calibration:
    """Return what was measured on this machine for this home, measuring now (about 0.5 s) where nothing was.

    A file that is damaged, or of another machine or version, counts as none. Where the home cannot be written, every
    call measures anew.
    """
    path, machine = home / FILE, machine_name()
    known = _read(path)
    if known is not None and (known.version, known.machine) == (VERSION, machine):
        return known
    measured = Calibration(VERSION, machine, round(measure(), 2), time.strftime("%Y-%m-%d"))
    return _keep(path, measured, instead_of=known)


def measure(*, repetitions: int = REPETITIONS) -> float:
    """Return the best of ``repetitions`` in GFLOP/s, in CPU time: other work on the machine hardly matters."""
    matrices = np.ones((_COUNT, _SIDE, _SIDE), dtype=np.float32)
    seconds = []
    for _ in range(repetitions):
        began = time.process_time()
        np.matmul(matrices, matrices)
        seconds.append(max(1e-6, time.process_time() - began))
    return float(2 * _COUNT * _SIDE**3 / min(seconds) / 1e9)


def machine_name() -> str:
    """Return what tells this machine from another that may use the same home."""
    # Not the host's name: a container has another one after each start.
    return f"{processor()}, {os.cpu_count()} cores, numpy {np.__version__}"


def _read(path: Path) -> Calibration | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = Calibration(**values)
        whole = isinstance(found.core_gflops, float) and 0.1 < found.core_gflops < 1e5
        return found if whole and isinstance(found.measured_on, str) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _keep(path: Path, measured: Calibration, *, instead_of: Calibration | None) -> Calibration:
    """Write the measurement unless another process was quicker; return the one that counts from now on."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(asdict(measured), indent=1) + "\n", encoding="utf-8")
        if instead_of is not None or (path.exists() and _read(path) is None):
            temporary.replace(path)
            return measured
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return _read(path) or measured
        finally:
            temporary.unlink(missing_ok=True)
    except OSError:  # a home that cannot be written is refused where a run would be stored
        temporary.unlink(missing_ok=True)
    return measured
