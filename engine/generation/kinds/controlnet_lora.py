"""ControlNet as LoRA (Hu et al., ICLR 2022, by peft): low-rank updates of the copied layers, and the new parts whole.

Trained and sent are the updates, the mask embedding and the closing zero convolutions; the rest is the ControlNet that
server and sites begin with, so both can put the parts together.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel
from peft import LoraConfig, inject_adapter_in_model

from engine.config import RunConfig
from engine.config_fields import is_of_system
from engine.generation.controlnet import blank_controlnet, new_controlnet
from engine.generation.generators import GeneratorSetup, Shapes
from engine.generation.images import ImageSource
from engine.generation.kinds.controlnet import ControlNetGenerator
from engine.generation.stored_arrays import read_arrays, write_arrays
from engine.generation.training import ControlNetTraining
from engine.seeding import derive_seed

TARGETS = r".*\.(to_q|to_k|to_v|to_out\.0|conv1|conv2)"
"""Attention's projections, as Hu et al. choose, and the residual blocks' convolutions, most of a ControlNet (ours)."""
WHOLE = ("controlnet_cond_embedding.", "controlnet_down_blocks.", "controlnet_mid_block.")
"""Parts that are new in a ControlNet: the mask enters by the first, its features leave by the others (Eq. 1's Z)."""


class LoraTraining(ControlNetTraining):
    """A ControlNet of which the updates and the new parts learn."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what learns as float16."""
        return {key: tensor.detach().cpu().half().numpy() for key, tensor in _learning(self.controlnet).items()}


def start(setup: GeneratorSetup, *, images: ImageSource, site: str) -> LoraTraining:
    """Return the training; the updates begin at zero, so the first picture is that of ``generator.controlnet``."""
    config = setup.config
    return LoraTraining(
        setup.backbone(),
        _begun(setup),
        images=images,
        config=config.generator,
        prompt=setup.prompt,
        site=site,
        seed=config.seed,
        precision=config.precision,
        system_noise=is_of_system(config.generator.dp_noise_source, config.backend),
    )


def shapes(setup: GeneratorSetup) -> Shapes:
    """Return the names and shapes of what learns."""
    with torch.device("meta"):
        model = _with_updates(blank_controlnet(setup.outline()), setup.config)
    return {key: tuple(tensor.shape) for key, tensor in _learning(model).items()}


def rebuild(arrays: Mapping[str, np.ndarray], setup: GeneratorSetup) -> ControlNetGenerator:
    """Return the ControlNet that the run begins with, updated as a site's arrays say, for inference."""
    model = _begun(setup)
    learnt = {key: torch.from_numpy(np.array(array)).float() for key, array in arrays.items()}
    model.load_state_dict(learnt, strict=False)
    return ControlNetGenerator(model.eval().requires_grad_(False), setup)


def save(arrays: Mapping[str, np.ndarray], folder: Path, setup: GeneratorSetup) -> None:
    """Write a site's arrays."""
    write_arrays(arrays, folder, kind="controlnet_lora")


def load(folder: str | Path, setup: GeneratorSetup) -> ControlNetGenerator:
    """Return the generator of a folder that :func:`save` wrote, or a released ControlNet by its name, not updated."""
    if str(folder) == setup.config.generator.controlnet:
        return ControlNetGenerator(_begun(setup).eval().requires_grad_(False), setup)
    return rebuild(read_arrays(Path(folder)), setup)


def _begun(setup: GeneratorSetup) -> ControlNetModel:
    config = setup.config
    source = config.generator.controlnet
    controlnet = new_controlnet(setup.backbone(), source=source, seed=config.seed, device=setup.device)
    return _with_updates(controlnet, config)


def _with_updates(controlnet: ControlNetModel, config: RunConfig) -> ControlNetModel:
    """Add the updates to the layers and freeze all but what learns; A is random by the run's seed, B is zero."""
    settings = config.generator_lora
    controlnet.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed(config.seed, "controlnet", "lora"))
        adapter = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=TARGETS)
        inject_adapter_in_model(adapter, controlnet)
    for name, parameter in controlnet.named_parameters():
        parameter.requires_grad_(_learns(name))
    return controlnet


def _learning(controlnet: ControlNetModel) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in controlnet.state_dict().items() if _learns(name)}


def _learns(name: str) -> bool:
    return ".lora_" in name or name.startswith(WHOLE)
