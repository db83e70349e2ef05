"""What a task is given at a site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from engine.config import RunConfig
from engine.federation.tasks import Listener
from engine.generation.backbone import Backbone, load_backbone
from engine.models.execution import Placement, resolve_device
from engine.models.objective import Objective
from engine.models.roles import Role, build_role
from engine.site.data import SiteData
from engine.site.state import SiteState


class Models:
    """The models of a run that one process holds: each is built once and given each request's weights in turn."""

    def __init__(self, config: RunConfig, *, build: Callable[[Role], nn.Module]) -> None:
        self._config, self._build = config, build
        self._built: dict[Role, nn.Module] = {}

    @classmethod
    def of_run(cls, config: RunConfig, *, num_classes: int) -> Models:
        """Return the models that the configuration names."""
        return cls(config, build=lambda role: build_role(config, role, num_classes=num_classes))

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

    @cached_property
    def backbone(self) -> Backbone:
        """The frozen latent diffusion model that site generators steer."""
        return load_backbone(self._config.generator.backbone, device=self.device)


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
    def objective(self) -> Objective:
        """The weights of L_sup."""
        return Objective(pos_weight=self.config.pos_weight, dice_weight=self.config.dice_weight)
