"""Frozen records that the runs store gives out. Torch-free; times are seconds since 1970 UTC."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from engine.config import RunConfig, parse_stored_config
from engine.errors import UserError
from engine.runs.labels import NO_LABELS, Labels
from engine.types import SampleScore, SyntheticSample

RunStatus = Literal["queued", "running", "finished", "failed", "cancelled", "interrupted"]
StageStatus = Literal["pending", "running", "finished", "failed", "cancelled"]
SampleOrder = Literal["score", "rank", "l_gt", "l_kl", "faithfulness", "index"]
Item = TypeVar("Item")

ACTIVE: tuple[RunStatus, ...] = ("queued", "running")
RESUMABLE: tuple[RunStatus, ...] = ("failed", "cancelled", "interrupted")


@dataclass(frozen=True)
class RunRecord:
    """One run as the list and the page's header show it."""

    run_id: str
    name: str
    status: RunStatus
    method: str
    config_json: str
    config_hash: str
    created_at: float
    queued_at: float | None
    started_at: float | None
    """When the first worker began; a resumed run keeps it."""
    finished_at: float | None
    parent: str | None
    fork_stage: str | None
    error: dict[str, str] | None
    """What stopped the run, in the four fields of a UserError."""
    stage: str | None
    """The stage that runs now or ran last."""
    attempt: int
    """How many workers have begun this run; only the latest may write to it."""
    pid: int | None
    pid_started: float | None
    host: str | None
    heartbeat_at: float | None
    cancel_requested: bool
    started_by: str | None = None
    """Who submitted or forked it, as the page or the command line named that person; ``None`` where nobody said."""
    labels: Labels = NO_LABELS
    """What people call it; its configuration keeps its own ``name``."""

    @property
    def shown_name(self) -> str:
        """What lists and headings call the run."""
        return self.labels.title or self.name

    @property
    def config(self) -> RunConfig:
        """The run's configuration; raises ``UserError`` where it is damaged or the schema has moved on since."""
        return _config(self.run_id, self.config_json)

    @property
    def active(self) -> bool:
        """Whether the run waits in the queue or has a worker."""
        return self.status in ACTIVE

    @property
    def resumable(self) -> bool:
        """Whether ``resume`` accepts the run."""
        return self.status in RESUMABLE


@dataclass(frozen=True)
class StageRecord:
    """One stage of one run."""

    name: str
    position: int
    status: StageStatus
    step: int
    total: int
    message: str
    started_at: float | None
    finished_at: float | None
    wall_s: float
    """Seconds of work, summed over every worker that had a part in it."""
    eta_s: float | None
    """Expected seconds of work left; ``None`` while nothing is known. 0 when finished."""
    planned_s: float | None
    """What the plan expected for the whole stage."""
    beside_s: float = 0.0
    """Seconds that it was at work beside earlier stages, whose ``wall_s`` they are a part of."""
    cpu_s: float = 0.0
    """CPU seconds of the run's workers while they waited for it, which other work on the machine does not lengthen.
    What processes of sites take is not in them."""

    @property
    def fraction(self) -> float:
        """Share of the stage's steps that is done, in [0, 1]."""
        if self.status == "finished":
            return 1.0
        return min(1.0, self.step / self.total) if self.total > 0 else 0.0


@dataclass(frozen=True)
class ExtensionRecord:
    """A longer version of a run on which work is under way or has stopped, while the run's results stay."""

    work_id: str
    config_json: str
    config_hash: str

    @property
    def config(self) -> RunConfig:
        """The longer run's configuration; raises ``UserError`` as ``RunRecord.config`` does."""
        return _config(self.work_id, self.config_json)


@dataclass(frozen=True)
class RunView:
    """A run with the stages of the work under way, in order, and the expected seconds until its end."""

    run: RunRecord
    stages: tuple[StageRecord, ...]
    """The extension's while there is one, else the run's own."""
    eta_s: float | None
    kept: tuple[StageRecord, ...] = ()
    """The stages whose results the store gives out: those of before the extension, where there is one."""
    extension: ExtensionRecord | None = None
    note: str | None = None
    """A sentence about something that holds the run up or that a person should know; ``None`` where all is well."""


@dataclass(frozen=True)
class MetricSeries:
    """One curve: ``steps[i]`` is the round or epoch of ``values[i]``, steps ascend."""

    stage: str
    name: str
    site: str | None
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class TrafficTotal:
    """Bytes of one kind that crossed one site's border in one direction during one stage."""

    site: str
    direction: Literal["up", "down"]
    kind: str
    stage: str
    payload_bytes: int
    num_messages: int


@dataclass(frozen=True)
class ScoredSample:
    """A generated pair and its learnability at one epoch (``None`` where it was not scored)."""

    sample: SyntheticSample
    score: SampleScore | None


@dataclass(frozen=True)
class Page(Generic[Item]):
    """One page of a longer list; ``total`` counts the whole list."""

    items: tuple[Item, ...]
    total: int


@dataclass(frozen=True)
class LogLine:
    """One line for people; ``id`` ascends over all runs of a store."""

    id: int
    at: float
    stage: str | None
    level: Literal["info", "warning", "error"]
    text: str


@dataclass(frozen=True)
class ArtefactRecord:
    """A file or folder that a run made; ``path`` is relative to the run's folder."""

    kind: str
    path: str
    stage: str
    created_at: float


def _config(run_id: str, config_json: str) -> RunConfig:
    try:
        values = json.loads(config_json)
    except ValueError as error:
        raise UserError(
            "run.record_damaged",
            what=f"The stored configuration of the run '{run_id}' cannot be read: {error}.",
            why="Nothing can go on from a configuration that nobody knows.",
            fix="Restore studio.sqlite from a backup; the run's report holds its configuration too.",
        ) from error
    return parse_stored_config(values)
