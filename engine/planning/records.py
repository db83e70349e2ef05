"""The plan's records. Sizes in bytes or GiB as named, times in minutes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class SitePlan:
    """One site's part in the run; counts are images."""

    site: str
    role: Literal["source", "test"]
    num_train: int
    num_validation: int
    num_test: int


@dataclass(frozen=True)
class StagePlan:
    """What one stage does: optimiser (or sampler) steps, images passed through a model, and what that takes."""

    name: str
    steps: int
    images: int
    minutes: float
    peak_memory_gib: float
    detail: str


@dataclass(frozen=True)
class TrafficPlan:
    """Bytes of one kind that will cross one site's border in one direction, over the whole run."""

    site: str
    direction: Literal["up", "down"]
    kind: str
    payload_bytes: int


@dataclass(frozen=True)
class PrivacyPlan:
    """What a site spends at most of its privacy, or of that of each of its patients, at ``delta``."""

    site: str
    unit: Literal["site", "patient"]
    """Whose privacy: of the site by its updates in rounds, or of a patient by the site's generator."""
    releases: int
    """Noised updates, averages or steps that its images are in."""
    delta: float
    epsilon: float
    """All images of the unit against none."""
    epsilon_replaced: float | None
    """Against any others; None where it is not worked out."""


@dataclass(frozen=True)
class Plan:
    """Everything that a person wants to know before a run; times and memory are estimates."""

    name: str
    method: str
    config_hash: str
    device: str
    machine: str
    sites_work: str
    """Where the sites are, and how many work at a time."""
    dataset: str
    modality: str
    classes: tuple[str, ...]
    sites: tuple[SitePlan, ...]
    num_synthetic: int
    stages: tuple[StagePlan, ...]
    traffic: tuple[TrafficPlan, ...]
    minutes: float
    """All stages and the worker's start."""
    peak_memory_gib: float
    memory_gib: float
    """What this machine (or GPU) has."""
    disk_gib: float
    disk_free_gib: float
    leaves_site: tuple[str, ...]
    """One sentence for each kind of content that leaves a site, with its exposure."""
    warnings: tuple[str, ...]
    estimate: str
    """How the times were arrived at."""
    privacy: tuple[PrivacyPlan, ...] = ()
    """Of each site that trains, where the run's rounds or generators are differentially private."""

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Expected seconds of each stage, as ``RunStore.create_run`` takes them."""
        return {stage.name: 60.0 * stage.minutes for stage in self.stages}

    @property
    def bytes_per_site(self) -> dict[str, dict[str, int]]:
        """Bytes up and down of every source site, all kinds together."""
        table: dict[str, dict[str, int]] = {}
        for row in self.traffic:
            sums = table.setdefault(row.site, {"up": 0, "down": 0})
            sums[row.direction] += row.payload_bytes
        return table

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as the JSON object that ``plan --json`` prints."""
        return asdict(self) | {"bytes_per_site": self.bytes_per_site}
