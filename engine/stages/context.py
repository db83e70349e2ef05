"""What every stage is given: the configuration, the run's folder, the sites, the models and a way to tell.

Models and generators are passed between stages as files below the run's folder, never in memory, so that each stage can
be resumed, forked from or run on another machine.
"""

from __future__ import annotations

from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from engine.config import RunConfig
from engine.errors import UserError
from engine.federation.connect import connect
from engine.federation.descriptions import IDENTITY_FILE, FederationDescription, check_unchanged
from engine.federation.sites import Server, Sites
from engine.federation.watch import Told
from engine.generation.generators import GeneratorSetup
from engine.methods import catalogue
from engine.methods.catalogue import ModelSpec
from engine.models.execution import place_model, resolve_device
from engine.models.roles import Role, build_role, first_model, model_config
from engine.models.weights import load_weights, save_weights
from engine.runs.checkpoint import CheckpointStore
from engine.types import Reporter


class Stage(Protocol):
    """One step of a method; it never asks which method called it."""

    name: str

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
    def sites(self) -> Sites:
        """The sites, split once by the run's seed; ``run.data_changed`` where their images are others than before."""
        sites = self.open_sites()
        check_unchanged(sites.description, self.run_dir / IDENTITY_FILE)
        return sites

    def open_sites(self, **where: Any) -> Sites:
        """Return the sites anew; ``where`` are further arguments of :func:`engine.federation.connect.connect`."""
        return connect(
            self.config,
            state_root=self.run_dir / "sites",
            checkpoints=lambda: self.checkpoints,
            server=self.server,
            **where,
        )

    def server(self) -> Server:
        """Return what the stage that runs now does with what is heard of the sites."""
        return Server(
            self.reporter.check_cancelled,
            self.reporter.traffic,
            tell=lambda text: self.reporter.progress(0, 1, message=text),
            watched=Told(self.reporter.site, self.reporter.site_failure),
        )

    def beside(self, *, reporter: Reporter, checkpoints: CheckpointStore) -> RunContext:
        """Return the context of a stage whose work goes on beside this one's, at the same sites."""
        sites = self.sites  # opened before it is copied: both have the same
        other = copy(self)
        assert other.sites is sites
        other.reporter, other.checkpoints = reporter, checkpoints
        return other

    def close(self) -> None:
        """Let go of the sites, where they have been asked for."""
        if "sites" in self.__dict__:
            self.sites.close()

    @property
    def description(self) -> FederationDescription:
        """What the sites have told of their data."""
        return self.sites.description

    @cached_property
    def device(self) -> torch.device:
        """The device that the configuration asks for."""
        return resolve_device(self.config.device)

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """The models of the run's method that have been made by now, in the order of making."""
        made = catalogue.method(self.config.method).models
        return tuple(model for model in made if self.model_path(model.name).is_file())

    @property
    def grid_px(self) -> int:
        """Side of the grid on which both models' logits lie, pixels."""
        return self.config.data.image_px // self._build("student").mask_stride

    def new_model(self, role: Role) -> torch.nn.Module:
        """Return the student or the teacher with its first weights (released, pre-trained or random), on the device."""
        model, head = first_model(self.config, role, num_classes=len(self.description.classes))
        if head is not None:
            source = model_config(self.config, role).weights
            self.reporter.log("info", f"{source} has no head for these classes: {head}.")
        return place_model(model, self.device)

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

    @cached_property
    def generators(self) -> GeneratorSetup:
        """What the sites' generators are made of; a backbone is loaded when it is first drawn with."""
        return GeneratorSetup.of_run(self.config, modality=self.description.modality)

    def generator_dir(self, site: str) -> Path:
        """Return the folder of the generator that ``site`` uploaded."""
        return self.run_dir / "generators" / site

    def _build(self, role: Role) -> torch.nn.Module:
        return build_role(self.config, role, num_classes=len(self.description.classes))
