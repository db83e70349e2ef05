"""What a run has to do, in numbers that the costs of its stages are worked out from. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from engine.config import ModelConfig, RunConfig
from engine.methods import catalogue
from engine.models.sharing import SharedParameters
from engine.planning.codec_bytes import RoundMessages, round_messages
from engine.planning.costs import (
    GIB,
    TRAIN_BYTES_PER_PARAMETER,
    TRAIN_PASSES,
    ModelCost,
    Speed,
    model_cost,
    scale,
)
from engine.planning.generator_costs import GeneratorWork, generator_work
from engine.planning.model_keys import sharing_of, tuned_cost
from engine.planning.records import SitePlan
from engine.planning.workers import Workers
from engine.types import Direction

SiteBytes = Mapping[tuple[Direction, str], int]
"""Bytes of one site by direction and kind."""
PROCESS_GIB = {"cpu": 1.0, "cuda": 1.2}
"""A worker with torch, diffusers and Flower imported and no model loaded."""
FROZEN_ENCODER_SHARE = 0.25
"""What of a training pass is left when the encoder's features come from the cache."""


@dataclass(frozen=True)
class Workload:
    """What the formulas need: the configuration, the sites' images, this machine."""

    config: RunConfig
    sites: tuple[SitePlan, ...]
    speed: Speed
    num_classes: int
    cache_gib: float

    @property
    def sources(self) -> tuple[SitePlan, ...]:
        """The sites that train."""
        return tuple(site for site in self.sites if site.role == "source")

    @cached_property
    def workers(self) -> Workers:
        """Who does the sites' work."""
        return Workers.of(self.config, num_sites=len(self.sources))

    def by_the_sites(self, alone_s: float, shares: Sequence[float]) -> float:
        """Return the seconds of what takes ``alone_s`` one site after the other; on a GPU sites share that."""
        return alone_s if self.speed.device == "cuda" else self.workers.seconds(alone_s, shares)

    @property
    def student(self) -> ModelCost:
        """The student's row, with what the run lays beside its layers."""
        return tuned_cost(self.model("student"), self.config)

    @property
    def teacher(self) -> ModelCost:
        """The teacher's row."""
        return self.model("teacher")

    @property
    def architectures(self) -> tuple[str, ...]:
        """For every model that the method makes for all sites, the section of the configuration that describes it."""
        made = catalogue.method(self.config.method).models
        return tuple(model.architecture for model in made if model.scope == "run")

    @property
    def num_personal(self) -> int:
        """Models that the method makes for each site, where the configuration lets sites keep parts of their own."""
        made = [model for model in catalogue.method(self.config.method).models if model.scope == "site"]
        return len(made) if self.sharing is not None and self.sharing.is_personal else 0

    @property
    def sharing(self) -> SharedParameters | None:
        """What sites share of the student; None where that is everything by default."""
        return self._keys[0] if self.config.federation.keeps_parts else None

    @property
    def shared_bytes(self) -> int:
        """Bytes of the student that cross in a message of a round."""
        return self.student.state_bytes if self.sharing is None else self.key_bytes(self.sharing.shared)

    @cached_property
    def round_messages(self) -> RoundMessages:
        """Bytes of the student's messages in a round, coded where ``federation.codec`` says so."""
        return round_messages(self.config, num_classes=self.num_classes, plain_bytes=self.shared_bytes)

    def key_bytes(self, keys: Iterable[str]) -> int:
        """Return the bytes of these arrays of the student."""
        return sum(self._keys[1][key] for key in keys)

    @cached_property
    def _keys(self) -> tuple[SharedParameters, Mapping[str, int]]:
        return sharing_of(self.config, num_classes=self.num_classes)

    def model(self, architecture: str) -> ModelCost:
        """Return the row of the model that a section of the configuration describes."""
        chosen: ModelConfig = getattr(self.config, architecture)
        return model_cost(chosen.name, chosen.size)

    @property
    def generator(self) -> GeneratorWork:
        """The generator's row."""
        return generator_work(self.config)

    @property
    def validates_mean(self) -> bool:
        """Whether the moving mean of the averages is sent down after every round, for patience to judge."""
        return self.config.federation.patience is not None and self.config.federation.average_decay > 0

    def at_each_site(self, sent: SiteBytes) -> dict[str, SiteBytes]:
        """Return ``StageCost.site_bytes`` where every source site sends and receives the same."""
        return {site.site: sent for site in self.sources}

    def masks_of(self, site: SitePlan) -> int:
        """Masks that a site shares."""
        return min(site.num_train, self.config.generation.max_masks_per_site or site.num_train)

    @property
    def num_synthetic(self) -> int:
        """Pairs in the synthetic set."""
        return sum(self.masks_of(site) for site in self.sources) * self.config.generation.images_per_mask

    def pass_s(self, model: ModelCost) -> float:
        """Seconds of one image's forward pass."""
        gflop = model.gflop * scale(self.config.data.image_px, model.image_px)
        return self.speed.seconds(
            gflop, cpu_gflops=model.cpu_gflops, cuda_gflops=model.cuda_gflops, image_px=self.config.data.image_px
        )

    def train_s(self, model: ModelCost, *, frozen: bool = False) -> float:
        """Seconds of one image's forward and backward pass."""
        return TRAIN_PASSES * self.pass_s(model) * (FROZEN_ENCODER_SHARE if frozen else 1.0)

    def train_gib(self, model: ModelCost, *, batch_size: int) -> float:
        """Memory of training a model: state, and activations of a batch."""
        activations = model.activation_mb * 1e6 * batch_size * scale(self.config.data.image_px, model.image_px)
        frozen = 4 * (model.parameters - model.trained_parameters)
        return (model.trained_parameters * TRAIN_BYTES_PER_PARAMETER + frozen + activations) / GIB

    def base_gib(self) -> float:
        """Memory before any model is loaded."""
        return PROCESS_GIB[self.speed.device] + (self.cache_gib if self.speed.device == "cpu" else 0.0)


@dataclass(frozen=True)
class StageCost:
    """What one stage takes and sends, over the whole run."""

    steps: int
    images: int
    seconds: float
    memory_gib: float
    """At its peak."""
    detail: str
    """Half a sentence on what it does."""
    site_bytes: Mapping[str, SiteBytes] = field(default_factory=dict)
    """For each site the bytes by direction and kind; what takes some KB only is left out (metrics, figures...).

    The student travels as it is, the ControlNet in half precision, masks at one bit a pixel and class.
    """
    leaves: tuple[str, ...] = ()
    """A sentence for each kind of content that leaves a site, with its exposure."""
    disk_bytes: float = 0.0
    synthetic: int = 0
    """Synthetic images that it makes."""


def checkpoint_bytes(model: ModelCost) -> int:
    """Return the bytes of a model's file and of two checkpoints with Adam's moments of what learns."""
    return (2 + 1) * 4 * model.parameters + 2 * 8 * model.trained_parameters
