"""The models of a run by their role, as its configuration names them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from engine.config import ModelConfig, RunConfig
from engine.config_tuning import LoraConfig
from engine.models.experts import add_experts
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
    return with_student(config, "/".join(config.federation.students[site]))


def with_student(config: RunConfig, kind: str) -> RunConfig:
    """Return the configuration with a student of another kind (``unet/mini``) and random weights."""
    name, _, size = kind.partition("/")
    chosen = {"name": name, "size": size, "weights": None, "batch_norm": "batch"}
    return config.model_copy(update={"student": config.student.model_copy(update=chosen)})


def model_name(config: RunConfig, role: Role) -> str:
    """Return what people call the model: ``tinysam/mini``."""
    chosen = model_config(config, role)
    return f"{chosen.name}/{chosen.size}"


def build_role(config: RunConfig, role: Role, *, num_classes: int) -> nn.Module:
    """Return the student or the teacher with random weights by the run's seed, on the CPU.

    ``UserError`` ``lora.layers`` where it is to be tuned and its encoder has no such layers.
    """
    return _tuned(_untuned(config, role, num_classes=num_classes), config, role)


def _untuned(config: RunConfig, role: Role, *, num_classes: int) -> nn.Module:
    chosen = model_config(config, role)
    model = build_model(
        chosen.name, size=chosen.size, num_classes=num_classes, image_px=config.data.image_px, seed=config.seed
    )
    if isinstance(model, Segmenter):
        model.keeps_statistics = chosen.batch_norm == "kept"
    return model


def _tuned(model: nn.Module, config: RunConfig, role: Role) -> nn.Module:
    """Lay updates, and a student's experts, beside layers where the run has them; all but the decoder is frozen.

    What is added has random streams of its own: the updates are the same whether there are experts or not.
    """
    name, lora = model_name(config, role), _lora(config, role)
    if lora is None:
        return model
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter_name.startswith(LEARNING))
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed(config.seed, "model", "lora"))
        add_lora(model, lora, name=name)
        if role == "student" and config.experts.use:
            torch.random.default_generator.manual_seed(derive_seed(config.seed, "model", "experts"))
            add_experts(model, config.experts, name=name)
    return model


def _lora(config: RunConfig, role: Role) -> LoraConfig | None:
    """Return the updates of a model: a student's by [lora], a teacher's of q and v by the rank in its own section."""
    if role == "student":
        return config.lora if config.lora.use else None
    chosen = config.teacher
    if chosen.lora_rank is None:
        return None
    return LoraConfig(rank=chosen.lora_rank, alpha=chosen.lora_alpha, layers=("q", "v"))


def first_model(config: RunConfig, role: Role, *, num_classes: int) -> tuple[nn.Module, str | None]:
    """Return the student or the teacher with its first weights (released, pre-trained or random), on the CPU.

    With it comes half a sentence on the class head, where the first weights have none for these classes. The same
    configuration has the same first weights at the server and at every site.
    """
    model, chosen = _untuned(config, role, num_classes=num_classes), model_config(config, role)
    head, missing = None, () if chosen.weights is None else load_weights(model, chosen.weights).missing
    if any(key.startswith(HEAD_PREFIX) for key in missing):
        head = "the class head starts at random"
        if chosen.class_head == "copied" and isinstance(model, Segmenter):
            model.copy_mask_to_classes()
            head = "each class starts as a copy of its mask"
    return _tuned(model, config, role), head
