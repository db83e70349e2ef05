"""A site's image generator as a protocol: what learns, what is sent, how the server draws with it.

Stages and tasks know this file alone; ``engine.generation.kinds`` has a file for each kind, found by its name.

Shape legend: N masks, K classes, H W pixels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np
import torch

from engine.config import RunConfig
from engine.errors import UserError
from engine.generation.images import ImageSource
from engine.models.execution import resolve_device

if TYPE_CHECKING:
    from engine.generation.backbone import Backbone, Outline

Shapes = Mapping[str, tuple[int, ...]]
"""Of arrays, by name."""


@dataclass(frozen=True, kw_only=True)
class GeneratorSetup:
    """What site and server both know of a run's generators: enough to rebuild one from what was sent.

    Kinds with a frozen backbone ask for it, or for its shapes alone; others never do.
    """

    config: RunConfig
    prompt: str
    device: torch.device
    backbone: Callable[[], Backbone]
    outline: Callable[[], Outline]

    @classmethod
    def of_run(
        cls, config: RunConfig, *, modality: str, backbone: Callable[[], Backbone] | None = None
    ) -> GeneratorSetup:
        """Return the setup of a run on images of ``modality``; ``backbone`` gives one that is loaded already."""
        device, name = resolve_device(config.device), config.generator.backbone
        return cls(
            config=config,
            prompt=config.generator.prompt or modality,
            device=device,
            backbone=backbone or lru_cache(maxsize=1)(lambda: loaded_backbone(name, device=device)),
            outline=lru_cache(maxsize=1)(lambda: _outlined_backbone(name)),
        )


def loaded_backbone(name: str, *, device: torch.device) -> Backbone:
    """Return :func:`engine.generation.backbone.load_backbone` of these.

    The module is imported now, not with this one: diffusers and transformers take seconds, and no round of a student
    needs them.
    """
    from engine.generation.backbone import load_backbone

    return load_backbone(name, device=device)


def _outlined_backbone(name: str) -> Outline:
    from engine.generation.backbone import outline_backbone  # as above

    return outline_backbone(name)


@runtime_checkable
class SpendsPrivacy(Protocol):
    """A training that can be DP-SGD."""

    def privacy_spent(self) -> dict[str, float]:
        """Return ``patient_epsilon`` of all its steps; nothing where it is not private."""


class Generator(Protocol):
    """Draws images from masks. An image depends on its own mask and seed, not on the others of its batch."""

    def sample(
        self,
        masks_NKHW: np.ndarray,
        *,
        seeds: Sequence[int],
        check_cancelled: Callable[[], None] | None = None,
    ) -> np.ndarray:
        """Return images (N, H, W, 3) uint8 RGB for uint8 masks in {0, 1} at ``generator.image_px``, one seed each.

        In batches of ``generation.batch_size``; ``check_cancelled`` is called between steps and may raise to stop.
        """


class GeneratorTraining(Protocol):
    """One site's training, a step at a time; batches and noise of a step depend on seed, site and its number alone."""

    done: int

    @property
    def total(self) -> int:
        """Return how many steps there are."""

    def step(self) -> float:
        """Do the next optimiser step and return its loss; ``UserError`` ``generator.diverged`` for one that is none."""

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed training needs, as a checkpoint can hold it."""

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state` was taken, bit for bit on CPU."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what leaves the site: float16, the names and shapes of :meth:`GeneratorKind.shapes`."""


class GeneratorKind(Protocol):
    """A kind of generator; the module of ``engine.generation.kinds`` that has its name."""

    def start(self, setup: GeneratorSetup, *, images: ImageSource, site: str) -> GeneratorTraining:
        """Return the training of ``site`` on its images, before the first step."""

    def shapes(self, setup: GeneratorSetup) -> Shapes:
        """Return the names and shapes of the arrays that a site sends; allocates no weights."""

    def rebuild(self, arrays: Mapping[str, np.ndarray], setup: GeneratorSetup) -> Generator:
        """Return the generator of arrays that fit :meth:`shapes`, on ``setup.device``."""

    def save(self, arrays: Mapping[str, np.ndarray], folder: Path, setup: GeneratorSetup) -> None:
        """Write arrays that fit as ``folder``, which appears whole or not at all."""

    def load(self, folder: str | Path, setup: GeneratorSetup) -> Generator:
        """Return the generator in a folder that :meth:`save` wrote."""


def kind_of(config: RunConfig) -> GeneratorKind:
    """Return the kind that the configuration names."""
    return cast(GeneratorKind, importlib.import_module(f"engine.generation.kinds.{config.generator.kind}"))


def keep_upload(arrays: Mapping[str, np.ndarray], folder: Path, setup: GeneratorSetup, *, site: str) -> None:
    """Write what ``site`` has uploaded as its generator's folder.

    Raises
    ------
    UserError
        ``generator.upload_misfit`` when names, shapes or types are not those that the configuration's kind sends.
    """
    kind = kind_of(setup.config)
    check_upload(arrays, shapes=kind.shapes(setup), site=site)
    kind.save(arrays, folder, setup)


def check_upload(arrays: Mapping[str, np.ndarray], *, shapes: Shapes, site: str) -> None:
    """Refuse arrays of ``site`` that are not float16, finite and of these names and shapes; see :func:`keep_upload`."""
    wrong = sorted(name for name in shapes.keys() | arrays.keys() if not _fits(arrays.get(name), shapes.get(name)))
    if wrong:
        raise UserError(
            "generator.upload_misfit",
            what=f"{len(wrong)} arrays of the generator from {site} do not fit, first '{wrong[0]}'.",
            why="The server can only draw with a generator that it can rebuild from the run's configuration.",
            fix=f"Give {site} and the server one version of the program and the same generator.backbone.",
        )


def upload_bytes(shapes: Shapes) -> int:
    """Return the most bytes that arrays of these shapes have on the wire: data, names and numpy's longest headers."""
    return sum(2 * int(np.prod(shape)) + len(name.encode()) + MAX_HEADER_BYTES for name, shape in shapes.items())


MAX_HEADER_BYTES = 10_000
"""Of an array that another program wrote (numpy's own limit)."""


def _fits(array: np.ndarray | None, shape: tuple[int, ...] | None) -> bool:
    return array is not None and array.shape == shape and array.dtype == np.float16 and bool(np.isfinite(array).all())
