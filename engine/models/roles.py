"""The models of a run by their role, as its configuration names them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from engine.config import ModelConfig, RunConfig
from engine.config_tuning import LoraConfig
from engine.models.lora import add_lora
from engine.models.registry import build_model
from engine.models.segmenter import Segmenter
from engine.models.tuned_keys import LEARNING
from engine.models.weights import HEAD_PREFIX, load_weights
from engine.seeding import derive_seed

Role = Literal["student", "teacher"]


def model_config(config: RunConfig, role: Role) -> ModelConfig:
    """Return the section that describes the model."""
    return config.student if role == "student" else config.teacher


def at_site(config: RunConfig, site: str) -> RunConfig:
    """Return the configuration as it is at ``site``, whose student may be of another kind (federation.site_students).

    Such a student begins with random weights.
    """
    if site not in config.federation.students:
        return config
    name, size = config.federation.students[site]
    kind = {"name": name, "size": size, "weights": None, "batch_norm": "batch"}
    return config.model_copy(update={"student": config.student.model_copy(update=kind)})


def model_name(config: RunConfig, role: Role) -> str:
    """Return what people call the model: ``tinysam/mini``."""
    chosen = model_config(config, role)
    return f"{chosen.name}/{chosen.size}"


def build_role(config: RunConfig, role: Role, *, num_classes: int) -> nn.Module:
    """Return the student or the teacher with random weights by the run's seed, on the CPU."""
    return _with_lora(_without_lora(config, role, num_classes=num_classes), config, role)


def _without_lora(config: RunConfig, role: Role, *, num_classes: int) -> nn.Module:
    chosen = model_config(config, role)
    model = build_model(
        chosen.name, size=chosen.size, num_classes=num_classes, image_px=config.data.image_px, seed=config.seed
    )
    if isinstance(model, Segmenter):
        model.keeps_statistics = chosen.batch_norm == "kept"
    return model


def _with_lora(model: nn.Module, config: RunConfig, role: Role) -> nn.Module:
    """Lay updates beside q and v of every block where the section asks for them; all else but the decoder is frozen."""
    chosen = model_config(config, role)
    if chosen.lora_rank is None:
        return model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(LEARNING))
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed(config.seed, "model", "lora", role))
        lora = LoraConfig(rank=chosen.lora_rank, alpha=chosen.lora_alpha, layers=("q", "v"))
        add_lora(model, lora, name=model_name(config, role))
    return model


def first_model(config: RunConfig, role: Role, *, num_classes: int) -> tuple[nn.Module, str | None]:
    """Return the student or the teacher with its first weights (released, pre-trained or random), on the CPU.

    With it comes half a sentence on the class head, where the first weights have none for these classes. The same
    configuration has the same first weights at the server and at every site.
    """
    model, chosen = _without_lora(config, role, num_classes=num_classes), model_config(config, role)
    said = _load_first(model, chosen)
    return _with_lora(model, config, role), said


def _load_first(model: nn.Module, chosen: ModelConfig) -> str | None:
    if chosen.weights is None:
        return None
    if not any(key.startswith(HEAD_PREFIX) for key in load_weights(model, chosen.weights).missing):
        return None
    if chosen.class_head == "copied" and isinstance(model, Segmenter):
        model.copy_mask_to_classes()
        return "each class starts as a copy of its mask"
    return "the class head starts at random"
