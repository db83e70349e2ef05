"""The models of a run by their role, as its configuration names them."""

from __future__ import annotations

from typing import Literal

from torch import nn

from engine.config import ModelConfig, RunConfig
from engine.models.registry import build_model
from engine.models.segmenter import Segmenter

Role = Literal["student", "teacher"]


def model_config(config: RunConfig, role: Role) -> ModelConfig:
    """Return the section that describes the model."""
    return config.student if role == "student" else config.teacher


def build_role(config: RunConfig, role: Role, *, num_classes: int) -> nn.Module:
    """Return the student or the teacher with random weights by the run's seed, on the CPU."""
    chosen = model_config(config, role)
    model = build_model(
        chosen.name, size=chosen.size, num_classes=num_classes, image_px=config.data.image_px, seed=config.seed
    )
    if isinstance(model, Segmenter):
        model.keeps_statistics = chosen.batch_norm == "kept"
    return model
