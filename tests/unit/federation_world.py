"""A small federation for the tests: three sites of discs on noise, a small U-Net, real Flower messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from monai.networks.nets import UNet
from torch import nn

from engine.config import FederationConfig
from engine.federation.client_app import build_client_app
from engine.federation.grid import InProcessGrid
from engine.federation.local_training import Objective, Placement
from engine.federation.student_task import make_student_tasks
from engine.federation.tasks import SiteTask
from engine.seeding import numpy_generator, torch_generator

SITES = ("north", "south", "west")
SIZES = {"north": 5, "south": 3, "west": 4}
IMAGE_PX = 32
SEED = 7
CONFIG = FederationConfig(rounds=3, local_epochs=2, batch_size=2, learning_rate=1e-2)
CPU = Placement()


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


def student_tasks(
    state_root: Path, *, asked: Asked | None = None, check_cancelled: Callable[[], None] = lambda: None
) -> dict[str, SiteTask]:
    """Return the student's tasks over the three sites."""
    return make_student_tasks(
        build_unet,
        train={site: Discs(site, size) for site, size in SIZES.items()},
        validation={site: Discs(f"{site}-validation", 2) for site in SITES},
        config=CONFIG,
        objective=Objective(),
        seed=SEED,
        state_root=state_root,
        placement=CPU,
        check_cancelled=check_cancelled,
        on_step=None if asked is None else asked.on_step,
    )


def student_grid(state_root: Path, *, asked: Asked | None = None) -> InProcessGrid:
    """Return a new process's in-process Grid of the three sites: new model, new contexts, the sites' disks kept."""
    return InProcessGrid(build_client_app(student_tasks(state_root, asked=asked)), sites=SITES)
