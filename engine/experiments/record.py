"""What a table keeps of a finished run where the run itself is not kept. Torch-free."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from engine.runs.records import TrafficTotal


class RecordedRun(BaseModel):
    """What a table shows of a finished run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    """Identity of its numbers, wherever its images lay: :func:`engine.experiments.standing.anywhere`."""
    name: str
    run_id: str
    version: str
    machine: str
    """Processor and cores: times are of it."""
    images: tuple[dict[str, Any], ...]
    """Every model's figures of each image and class, as the run's ``evaluation/images.json`` has them."""
    training_sites: tuple[str, ...]
    """Sites that train and keep images from training."""
    figures: dict[str, float | None]
    """Measures of the whole run by their names."""
    traffic: tuple[dict[str, Any], ...]
    """Bytes by stage, site, direction and kind, those of measuring left out."""

    @property
    def totals(self) -> tuple[TrafficTotal, ...]:
        """Return the bytes as the store tells them."""
        return tuple(TrafficTotal(**row) for row in self.traffic)
