"""What this machine has, asked without torch: GPU, memory, disk."""

from __future__ import annotations

import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

from engine.errors import UserError
from engine.planning.costs import GIB

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_gib() -> float:
    """Return the memory that a process here may use: the machine's, or the container's limit below it."""
    total = psutil.virtual_memory().total
    for path in _CGROUP_LIMITS:
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total / GIB


def free_disk_gib(folder: Path) -> float:
    """Return the free space of the file system on which ``folder`` is, or will be."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free / GIB


def gpu_memory_gib() -> float | None:
    """Return the memory of the first NVIDIA GPU, or ``None`` where there is none that torch could use."""
    try:
        if "+cpu" in metadata.version("torch"):
            return None
        command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return float(done.stdout.splitlines()[0]) / 1024
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, metadata.PackageNotFoundError):
        return None


def choose_device(wanted: str) -> tuple[str, float]:
    """Return ``cpu`` or ``cuda`` and its memory in GiB; raises ``UserError`` ``device.no_cuda``."""
    gpu = gpu_memory_gib() if wanted != "cpu" else None
    if gpu is not None:
        return "cuda", gpu
    if wanted == "cuda":
        raise UserError(
            "device.no_cuda",
            what="The configuration asks for device 'cuda', and this machine has no NVIDIA GPU that PyTorch can use.",
            why="Nothing can be placed on a device that is not there.",
            fix="Set device to 'auto' or 'cpu', or run on a machine with an NVIDIA GPU and a CUDA build of PyTorch.",
        )
    return "cpu", memory_gib()
