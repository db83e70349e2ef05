"""What a task is given at a site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from engine.config import FederationConfig, RunConfig
from engine.federation.tasks import Listener
from engine.generation.generators import GeneratorSetup, loaded_backbone
from engine.models.arrays import model_arrays
from engine.models.execution import Placement, resolve_device
from engine.models.objective import Objective
from engine.models.roles import Role, build_role, first_model, model_name, with_student
from engine.models.sharing import SharedParameters
from engine.models.state_keys import shared_parameters
from engine.site.data import SiteData
from engine.site.state import SiteState

if TYPE_CHECKING:
    from engine.generation.backbone import Backbone


class Models:
    """The models of a run that one process holds: each is built once and given each request's weights in turn."""

    def __init__(
        self,
        config: RunConfig,
        *,
        build: Callable[[Role], nn.Module],
        first: Callable[[Role], nn.Module] | None = None,
        of_kind: Callable[[str], nn.Module] | None = None,
    ) -> None:
        """``build`` makes a model of a role, ``first`` one with its first weights; the same where it is left out.

        ``of_kind`` makes a student of another kind than this site's (``tinysam/mini``).
        """
        self._config, self._build, self._first, self._of_kind = config, build, first or build, of_kind
        self._built: dict[Role, nn.Module] = {}
        self._sharing: dict[Role, SharedParameters] = {}
        self._first_arrays: dict[Role, dict[str, np.ndarray]] = {}

    @classmethod
    def of_run(cls, config: RunConfig, *, num_classes: int) -> Models:
        """Return the models that the configuration names."""
        return cls(
            config,
            build=lambda role: build_role(config, role, num_classes=num_classes),
            first=lambda role: first_model(config, role, num_classes=num_classes)[0],
            of_kind=lambda kind: build_role(with_student(config, kind), "student", num_classes=num_classes),
        )

    @cached_property
    def device(self) -> torch.device:
        """The device that the configuration asks for."""
        return resolve_device(self._config.device)

    @cached_property
    def placement(self) -> Placement:
        """Device, precision and memory layout of every model of the run."""
        return Placement(device=self.device.type, precision=self._config.precision, channels_last=True)

    def of(self, role: Role) -> nn.Module:
        """Return the student or the teacher, for whoever loads the weights that it was sent."""
        if role not in self._built:
            self._built[role] = self.placement.place(self._build(role))
        return self._built[role]

    def student_of_kind(self, kind: str) -> nn.Module:
        """Return a student as the server's is, where this site's own may be of another kind."""
        if kind == model_name(self._config, "student") or self._of_kind is None:
            return self.of("student")
        return self.placement.place(self._of_kind(kind))

    def sharing(self, role: Role) -> SharedParameters:
        """Return what of the model crosses; the teacher is no federated model, and all of it does."""
        if role not in self._sharing:
            model = self.of(role)
            federation = self._config.federation if role == "student" else FederationConfig()
            self._sharing[role] = shared_parameters(model, federation, name=model_name(self._config, role))
        return self._sharing[role]

    def first_model_arrays(self, role: Role) -> dict[str, np.ndarray]:
        """Return the first weights of the whole model, loaded anew."""
        return model_arrays(self._first(role))

    def first_arrays(self, role: Role) -> dict[str, np.ndarray]:
        """Return the first weights of what does not cross; nothing has to be at hand where everything does."""
        if role not in self._first_arrays:
            sharing = self.sharing(role)
            stays = {*sharing.own, *sharing.fixed}
            whole = model_arrays(self._first(role)) if stays else {}
            self._first_arrays[role] = {name: whole[name] for name in stays}
        return self._first_arrays[role]

    @cached_property
    def backbone(self) -> Backbone:
        """The frozen latent diffusion model that site generators steer."""
        return loaded_backbone(self._config.generator.backbone, device=self.device)


@dataclass(frozen=True, kw_only=True)
class SiteContext:
    """One site in one run, and whoever listens to what its task tells."""

    site: str
    config: RunConfig
    data: SiteData
    state: SiteState
    models: Models
    listener: Listener

    @property
    def generators(self) -> GeneratorSetup:
        """What the run's generators are made of; the backbone is loaded when one asks for it."""
        return GeneratorSetup.of_run(self.config, modality=self.data.modality, backbone=lambda: self.models.backbone)

    @property
    def objective(self) -> Objective:
        """The weights of L_sup."""
        return Objective(pos_weight=self.config.pos_weight, dice_weight=self.config.dice_weight)
