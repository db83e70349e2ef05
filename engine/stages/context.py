"""What every stage is given: the configuration, the run's folder, the data, the models and a way to tell.

Models and generators are passed between stages as files below the run's folder, never in memory, so that each stage can
be resumed, forked from or run on another machine.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import torch

from engine.config import ModelConfig, RunConfig
from engine.data.datasets import Federation, load_federation
from engine.data.identity import FILE as IDENTITY_FILE
from engine.data.identity import check_unchanged
from engine.errors import UserError
from engine.federation.local_training import Objective, Placement
from engine.models.execution import place_model, resolve_device
from engine.models.registry import build_model
from engine.models.segmenter import Segmenter
from engine.models.weights import load_weights, save_weights
from engine.runs.checkpoint import CheckpointStore
from engine.types import Reporter

Role = Literal["student", "teacher"]


class Stage(Protocol):
    """One step of a method; it never asks which method called it."""

    name: str
    describe: str

    def run(self, context: RunContext) -> None:
        """Do the stage, going on from its checkpoint where there is one. RunCancelled passes through."""


class RunContext:
    """See the module docstring. ``run_dir`` exists; ``reporter`` belongs to the stage that runs now."""

    def __init__(self, *, config: RunConfig, run_dir: Path, reporter: Reporter, checkpoints: CheckpointStore) -> None:
        self.config = config
        self.run_dir = run_dir
        self.reporter = reporter
        self.checkpoints = checkpoints

    @cached_property
    def federation(self) -> Federation:
        """The sites' images, split once by the run's seed; ``run.data_changed`` where they are others than before."""
        federation = load_federation(self.config.data, seed=self.config.seed)
        check_unchanged(federation, self.run_dir / IDENTITY_FILE)
        return federation

    @cached_property
    def device(self) -> torch.device:
        """The device that the configuration asks for."""
        return resolve_device(self.config.device)

    @cached_property
    def placement(self) -> Placement:
        """Device, precision and memory layout of every model of the run."""
        return Placement(device=self.device.type, precision=self.config.precision, channels_last=True)

    @property
    def objective(self) -> Objective:
        """The weights of L_sup."""
        return Objective(pos_weight=self.config.pos_weight, dice_weight=self.config.dice_weight)

    @property
    def grid_px(self) -> int:
        """Side of the grid on which both models' logits lie, pixels."""
        return self.config.data.image_px // self._build("student").mask_stride

    def new_model(self, role: Role) -> torch.nn.Module:
        """Return the student or the teacher with its first weights (released, pre-trained or random), on the device."""
        model = self._build(role)
        source = self._model_config(role).weights
        if source is not None:
            report = load_weights(model, source)
            if report.missing:
                self._start_class_head(model, role=role, source=source)
        return place_model(model, self.device)

    def architecture(self, role: Role) -> torch.nn.Module:
        """Return the student or the teacher without its first weights, on the device, for whoever is sent some."""
        return place_model(self._build(role), self.device)

    def _start_class_head(self, model: torch.nn.Module, *, role: Role, source: str) -> None:
        how = "the class head starts at random"
        if self._model_config(role).class_head == "copied" and isinstance(model, Segmenter):
            model.copy_mask_to_classes()
            how = "each class starts as a copy of its mask"
        self.reporter.log("info", f"{source} has no head for these classes: {how}.")

    def load_model(self, role: Role, name: str) -> torch.nn.Module:
        """Return the model that an earlier stage saved under ``name``, on the device."""
        path = self.model_path(name)
        if not path.is_file():
            raise UserError(
                "stage.model_missing",
                what=f"The model '{name}' of this run is not at {path}.",
                why="A later stage starts from the weights that an earlier one saved.",
                fix="Fork the run from the stage that makes this model, or restore the run's folder.",
            )
        model = self._build(role)
        load_weights(model, path, strict=True)
        return place_model(model, self.device)

    def save_model(self, model: torch.nn.Module, name: str) -> None:
        """Save ``model`` as ``models/NAME.safetensors`` and record it as an artefact."""
        path = self.model_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(model, path)
        self.reporter.artefact("model", path.relative_to(self.run_dir))

    def model_path(self, name: str) -> Path:
        """Return where the model called ``name`` lies."""
        return self.run_dir / "models" / f"{name}.safetensors"

    def generator_dir(self, site: str) -> Path:
        """Return the folder of the generator that ``site`` uploaded."""
        return self.run_dir / "generators" / site

    def _model_config(self, role: Role) -> ModelConfig:
        return self.config.student if role == "student" else self.config.teacher

    def _build(self, role: Role) -> torch.nn.Module:
        chosen = self._model_config(role)
        model = build_model(
            chosen.name,
            size=chosen.size,
            num_classes=len(self.federation.classes),
            image_px=self.config.data.image_px,
            seed=self.config.seed,
        )
        if isinstance(model, Segmenter):
            model.keeps_statistics = chosen.batch_norm == "kept"
        return model
