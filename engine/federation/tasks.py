"""What a site is asked and what it answers, free of Flower and of PyTorch.

A *task* is found by its name (``engine.site.tasks``); the same one answers in-process, in a simulation and on a
SuperNode. Nothing but what is in these records crosses a site's border.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from engine.types import SiteState

Arrays = Mapping[str, np.ndarray]
"""Named arrays that cross a site's border; dtypes as in ``checks.WIRE_DTYPES``."""

Scalar = bool | int | float | str

TRAIN_STUDENT = "train.student"
VALIDATE_STUDENT = "query.student"
MEASURE_STATISTICS = "query.statistics"
SHARE_NORMALISATION = "query.normalisation"
SHARE_OWN = "query.own"
TRAIN_GENERATOR = "train.generator"
SHARE_MASKS = "query.masks"
EVALUATE = "query.evaluate"
TAKE_PUBLIC = "query.public"
LABEL_BY_TEACHER = "query.teacher_labels"
TRAIN_UNLABELLED = "train.unlabelled"
TRAIN_FUSED = "train.fused"
DESCRIBE = "query.describe"
TELL_APPEARANCE = "query.appearance"
APPROVAL = "query.approval"
BEST_ROUND, OWN_ROUND, STUDENT_KIND = "best_round", "own_round", "student_kind"
"""Settings of requests: the round whose own parameters a site goes on keeping, and the one whose it is to use."""
LOOKS = "looks"
"""Setting of a request to measure a model: whether to find out which way of looking at images is best, too."""
VARIANT_PX = "variant_px"
"""Setting of the same request where a faster variant's ONNX file is what was sent: the side of its input in pixels."""
DECISIONS: dict[str, SiteState] = {"federation.refused": "refused", "federation.not_approved": "undecided"}
"""Codes of a site's decision, which is no failure and not asked about again in a round, and what the site is then."""
ROLE = "role"
"""Setting of a request: whether the model that was sent is the ``student`` or the ``teacher``."""
BEGAN_ANEW = "began_anew"
"""Text of a reply: who at the site has accepted that it began its own state anew."""
BESIDE = "beside"
"""Setting of a request for long work that the site does beside whatever else it is asked; such a request is one of
``LONG``, and brings no arrays."""
LONG = (TRAIN_GENERATOR,)
AT_WORK, STEP, TOTAL, ROUND = "at_work", "step", "total", "round"
"""Text of a reply to such a request whose work goes on, and the figures that say how far it is, and in which round."""
HOW_FAR = "query.progress"
"""Asked of deployed sites beside every longer question; they answer while they work on it."""
READ_EVERYTHING = "query.read"
"""Asked of deployed sites only: reading every image once, before anything is trained on."""


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
    """A site's answer: what it sends up, its figures, and n_k, the number of its examples (> 0).

    ``texts`` are words: a description as JSON, a line for the run's log.
    """

    arrays: Arrays
    metrics: Mapping[str, float]
    num_examples: int
    texts: Mapping[str, str] = field(default_factory=dict)


class Listener(Protocol):
    """Where a task tells how far it is while it works; what it tells is known at the server before its reply is."""

    def check_cancelled(self) -> None:
        """Raise RunCancelled when a stop was asked for; called at least every two seconds of work."""

    def progress(self, step: int, total: int, *, message: str = "") -> None:
        """Tell how far the task is; also raises RunCancelled."""

    def metric(self, name: str, value: float, *, step: int) -> None:
        """Tell one point of a curve."""


SiteTask = Callable[[SiteRequest], SiteReply]


def message_type(task: str) -> str:
    """Return the Flower message type of a task: ``student`` is ``train.student``, ``query.masks`` stays itself."""
    return task if task.startswith(("train.", "query.")) else f"train.{task}"
