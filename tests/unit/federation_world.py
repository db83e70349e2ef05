"""A small federation for the tests: three sites of discs on noise, a small U-Net, real Flower messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from monai.networks.nets import UNet
from torch import nn

from engine.config import FederationConfig, PrivacyConfig, RunConfig
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.client_app import build_client_app
from engine.federation.tasks import (
    MEASURE_STATISTICS,
    TRAIN_STUDENT,
    VALIDATE_STUDENT,
    SiteReply,
    SiteRequest,
    SiteTask,
)
from engine.models.execution import Placement
from engine.runs.checkpoint import CheckpointStore
from engine.seeding import numpy_generator, torch_generator
from engine.site.context import Models
from engine.site.data import SiteData
from engine.site.program import SiteProgram
from engine.site.state import SiteState

SITES = ("north", "south", "west")
SIZES = {"north": 5, "south": 3, "west": 4}
IMAGE_PX = 32
SEED = 7
CONFIG = FederationConfig(rounds=3, local_epochs=2, batch_size=2, learning_rate=1e-2)
NO_PRIVACY = PrivacyConfig()
CPU = Placement(channels_last=True)
"""As the sites' programs compute."""


@dataclass(frozen=True)
class Discs:
    """Images (N, 3, 32, 32) with one bright disc each, and its mask; the noise differs with the site."""

    site: str
    size: int

    def __len__(self) -> int:
        return self.size

    def batch(self, indices: np.ndarray, *, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        pairs = [self._pair(int(index)) for index in indices]
        return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])

    def content(self, indices: np.ndarray) -> np.ndarray:
        return np.ones((len(indices), 1, IMAGE_PX, IMAGE_PX), np.uint8)

    def _pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rng = numpy_generator(SEED, "discs", self.site, index)
        row, column = rng.uniform(10, 22, size=2)
        y, x = np.mgrid[:IMAGE_PX, :IMAGE_PX]
        mask = ((y - row) ** 2 + (x - column) ** 2 < 49).astype(np.uint8)
        image = np.clip(0.2 + 0.5 * mask + rng.normal(0, 0.1, (3, IMAGE_PX, IMAGE_PX)), 0, 1)
        return image.astype(np.float32), mask[None]


def build_unet() -> nn.Module:
    """Return a small U-Net with BatchNorm (float statistics and integer counters) and dropout."""
    model = UNet(2, in_channels=3, out_channels=1, channels=(4, 8), strides=(2,), norm="BATCH", dropout=0.1)
    generator = torch_generator(SEED, "unet")
    for parameter in model.parameters():
        nn.init.normal_(parameter.data, std=0.1, generator=generator)
    return model


@dataclass
class Asked:
    """Which (site, round) were trained, in order."""

    steps: list[tuple[str, int, int]] = field(default_factory=list)

    def on_step(self, site: str, number: int, step: int, total: int) -> None:
        self.steps.append((site, number, step))

    def rounds(self) -> list[tuple[str, int]]:
        return list(dict.fromkeys((site, number) for site, number, _ in self.steps))


@dataclass(frozen=True)
class Listening:
    """Notes the steps that a site tells of."""

    site: str
    number: int
    asked: Asked | None
    check_cancelled: Callable[[], None]

    def progress(self, step: int, total: int, *, message: str = "") -> None:
        if self.asked is not None:
            self.asked.on_step(self.site, self.number, step, total)

    def metric(self, name: str, value: float, *, step: int) -> None:
        pass


def student_tasks(
    state_root: Path,
    *,
    build: Callable[[], nn.Module] = build_unet,
    train: Mapping[str, Discs] | None = None,
    validation: Mapping[str, Discs] | None = None,
    config: FederationConfig = CONFIG,
    privacy: PrivacyConfig = NO_PRIVACY,
    dice_weight: float = 0.0,
    asked: Asked | None = None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> dict[str, SiteTask]:
    """Return what the sites' programs answer: the three sites' where no other images are given."""
    run = RunConfig(
        federation=config, privacy=privacy, seed=SEED, device="cpu", precision="fp32", dice_weight=dice_weight
    )
    train = train or {site: Discs(site, size) for site, size in SIZES.items()}
    validation = validation or {site: Discs(f"{site}-validation", 2) for site in SITES}
    models = Models(run, build=lambda role: build())
    programs = {}
    for site in validation:
        images: Any = (train[site], validation[site], Discs(site, 0))
        store = CheckpointStore(state_root / site / "checkpoints", "world", warn=print)
        state = SiteState(state_root / site, store)
        data = SiteData(site, *images, classes=("disc",), modality="discs")
        programs[site] = SiteProgram(data, config=run, state=partial(_itself, state), models=models)

    def answer(request: SiteRequest) -> SiteReply:
        listener = Listening(request.site, request.round, asked, check_cancelled)
        return programs[request.site].answer(request, listener=listener)

    return dict.fromkeys((TRAIN_STUDENT, VALIDATE_STUDENT, MEASURE_STATISTICS), answer)


def _itself(state: SiteState) -> SiteState:
    return state


def student_grid(state_root: Path, *, asked: Asked | None = None) -> InProcessGrid:
    """Return a new process's in-process Grid of the three sites: new model, new contexts, the sites' disks kept."""
    return InProcessGrid(build_client_app(student_tasks(state_root, asked=asked)), sites=SITES)
