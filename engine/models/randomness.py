"""Randomness inside of models, dropout and stochastic depth, from named streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.seeding import derive_seed


@contextmanager
def named_randomness(seed: int, *names: str | int, device: str) -> Iterator[None]:
    """Give torch's global generators the stream ``names`` for a while."""
    # Dropout and stochastic depth draw from torch's global generators: lend them a named seed and put them back.
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.random.default_generator.manual_seed(derive_seed(seed, *names))
        if cuda:
            torch.cuda.manual_seed(derive_seed(seed, *names))
        yield
