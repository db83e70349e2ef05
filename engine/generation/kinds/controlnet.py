"""ControlNet (Eq. 1): all of it learns, all of it is sent; kept as a folder in the diffusers layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel

from engine.config_fields import is_of_system
from engine.generation.controlnet import (
    blank_controlnet,
    controlnet_arrays,
    load_controlnet,
    new_controlnet,
    save_controlnet,
)
from engine.generation.generators import GeneratorSetup, Shapes
from engine.generation.images import ImageSource
from engine.generation.sampling import generate
from engine.generation.training import ControlNetTraining


class FullTraining(ControlNetTraining):
    """A ControlNet of which every weight is sent."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Return every weight as float16."""
        return controlnet_arrays(self.controlnet)


@dataclass(frozen=True)
class ControlNetGenerator:
    """Draws with diffusers' ControlNet pipeline; ``generation`` has its steps and guidance."""

    controlnet: ControlNetModel
    setup: GeneratorSetup

    def sample(
        self, masks_NKHW: np.ndarray, *, seeds: Sequence[int], check_cancelled: Callable[[], None] | None = None
    ) -> np.ndarray:
        """Return images (N, H, W, 3); see :class:`engine.generation.generators.Generator`."""
        config = self.setup.config
        return generate(
            self.setup.backbone(),
            self.controlnet,
            masks_NKHW,
            seeds=seeds,
            prompt=self.setup.prompt,
            steps=config.generation.sampler_steps,
            guidance=config.generation.guidance_scale,
            batch_size=config.generation.batch_size,
            precision=config.precision,
            check_cancelled=check_cancelled,
        )


def start(setup: GeneratorSetup, *, images: ImageSource, site: str) -> FullTraining:
    """Return the training of a ControlNet that begins with ``generator.controlnet``."""
    config, backbone = setup.config, setup.backbone()
    controlnet = new_controlnet(backbone, source=config.generator.controlnet, seed=config.seed, device=setup.device)
    return FullTraining(
        backbone,
        controlnet,
        images=images,
        config=config.generator,
        prompt=setup.prompt,
        site=site,
        seed=config.seed,
        precision=config.precision,
        system_noise=is_of_system(config.generator.dp_noise_source, config.backend),
    )


def shapes(setup: GeneratorSetup) -> Shapes:
    """Return the names and shapes of every weight of a ControlNet of the run's backbone."""
    with torch.device("meta"):
        blank = blank_controlnet(setup.outline())
    return {key: tuple(tensor.shape) for key, tensor in blank.state_dict().items()}


def rebuild(arrays: Mapping[str, np.ndarray], setup: GeneratorSetup) -> ControlNetGenerator:
    """Return the ControlNet of a site's arrays, float32, for inference."""
    return ControlNetGenerator(_model(arrays, setup).to(setup.device).eval().requires_grad_(False), setup)


def save(arrays: Mapping[str, np.ndarray], folder: Path, setup: GeneratorSetup) -> None:
    """Write a site's arrays as a diffusers folder."""
    save_controlnet(_model(arrays, setup), folder)


def load(folder: str | Path, setup: GeneratorSetup) -> ControlNetGenerator:
    """Return the ControlNet in a folder, or a released one by its name."""
    return ControlNetGenerator(load_controlnet(folder, device=setup.device), setup)


def _model(arrays: Mapping[str, np.ndarray], setup: GeneratorSetup) -> ControlNetModel:
    model = blank_controlnet(setup.outline())
    model.load_state_dict({key: torch.from_numpy(np.array(array)).float() for key, array in arrays.items()})
    return model
