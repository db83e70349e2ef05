"""Named random generators: the only source of randomness in the project.

Every consumer asks for a generator by a path of names (``"federation", site, round``). Equal paths give equal
streams, different paths give independent ones, and nobody touches the process-global state of numpy or torch.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for the stream ``names`` under the run's ``seed`` (SHA-256, stable across machines)."""
    text = "\x1f".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return an independent ``numpy.random.Generator`` for the stream ``names``."""
    return np.random.default_rng(derive_seed(seed, *names))


def torch_generator(seed: int, *names: str | int, device: str = "cpu") -> torch.Generator:
    """Return an independent ``torch.Generator`` on ``device`` for the stream ``names`` (imports torch on call)."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))
