"""What a site is asked and what it answers, free of Flower and of PyTorch.

A *task* is an ordinary function from :class:`SiteRequest` to :class:`SiteReply`; :mod:`engine.federation.client_app`
registers it under its message type, so that one function runs in-process, in a simulation and on a SuperNode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

Arrays = Mapping[str, np.ndarray]
"""Named arrays that cross a site's border; dtypes as in ``payload.WIRE_DTYPES``."""

Scalar = bool | int | float | str


@dataclass(frozen=True, eq=False)
class SiteRequest:
    """One message to a site.

    ``task`` is the message type (``train.student``), ``round`` counts from 1 (0 is before any training), ``settings``
    are scalars that the task may read, ``arrays`` is what the server sends down.
    """

    site: str
    task: str
    round: int = 0
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SiteReply:
    """A site's answer: what it sends up, its figures, and n_k, the number of its examples (> 0)."""

    arrays: Arrays
    metrics: Mapping[str, float]
    num_examples: int


SiteTask = Callable[[SiteRequest], SiteReply]


def message_type(task: str) -> str:
    """Return the Flower message type of a task: ``student`` is ``train.student``, ``query.masks`` stays itself."""
    return task if task.startswith(("train.", "query.")) else f"train.{task}"
