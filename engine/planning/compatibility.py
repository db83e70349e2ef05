"""Whether the parts of a configuration fit each other: models, their weights, the generator, the classes. Torch-free.

Each of these would fail with the first batch of some stage, for the last ones after hours: a plan refuses them at once.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from engine.config import ModelConfig, RunConfig
from engine.config_generators import GENERATORS
from engine.errors import UserError
from engine.methods import catalogue
from engine.methods.model_choice import STARTS_FROM
from engine.models.assets import find_asset, find_weights_folder
from engine.models.sharing import check_averageable
from engine.planning.costs import MODELS
from engine.planning.generator_costs import generator_work
from engine.types import MAX_MASK_CLASSES

SMALLEST_CELLS = {"nnunet": 2, "timm": 2}
"""Cells along a side that a model's deepest level needs: instance normalisation has no deviation of a single one, nor
has batch normalisation of one image."""


def check_models(config: RunConfig, stages: tuple[str, ...]) -> None:
    """Refuse unknown models, sides that their strides do not divide, and a pair that cannot be compared.

    Raises ``UserError``: ``model.unknown``, ``model.image_size``, ``plan.models_misfit``, ``weights.misfit``.
    """
    sections = catalogue.sections_of(stages)
    roles = {role: getattr(config, role) for role in ("student", "teacher") if role in sections}
    for role, model in roles.items():
        _check_known(role, model)
        _check_weights_fit(role, model)
    for role, model in roles.items():
        _check_side(role, model, image_px=config.data.image_px)
    if "distillation" in sections:
        _check_pair(config)


def check_site_students(config: RunConfig, stages: tuple[str, ...], *, sources: Collection[str]) -> None:
    """Refuse other kinds of student at single sites where the sites' models are averaged, and what there is not.

    Raises ``UserError``: ``sharing.architectures``, ``plan.unknown_site``, ``model.unknown``, ``model.image_size``.
    """
    if any(stage.averages for stage in catalogue.stages(stages)):
        check_averageable(config.federation)
    for site, (name, size) in config.federation.students.items():
        if site not in sources:
            raise UserError(
                "plan.unknown_site",
                what=f"federation.site_students names '{site}', which does not train in this run.",
                why=f"The sites that train are {', '.join(sources)}.",
                fix="Correct the name, or take the site out.",
            )
        role = f"student of {site}"
        if (name, size) not in MODELS:
            known = ", ".join("/".join(key) for key in MODELS)
            raise UserError(
                "model.unknown",
                what=f"There is no model {name}/{size} (federation.site_students, {site}).",
                why=f"The models are {known}.",
                fix="Choose one of them.",
            )
        _check_side(role, ModelConfig.model_validate({"name": name, "size": size}), image_px=config.data.image_px)


def check_joining(config: RunConfig, stages: tuple[str, ...], *, sources: Collection[str]) -> None:
    """Refuse a join of nobody, of a site that does not train, and sites that join where nothing is continued.

    Raises ``UserError`` ``join.sites``.
    """
    joins, continues = config.join.sites, any(stage.takes_over for stage in catalogue.stages(stages))
    wrong = [site for site in joins if site not in sources or not continues]
    if continues and joins and not wrong:
        return
    if continues or joins:
        named = f"names '{wrong[0]}'" if wrong else "is empty"
        raise UserError(
            "join.sites",
            what=f"join.sites {named}, and the method is '{config.method}'; {', '.join(sources)} train.",
            why="Sites join a finished run, by a method that goes on from its models.",
            fix="Use `python -m engine join RUN SITE`, which makes the whole configuration, or leave join.sites out.",
        )


def check_classes(classes: tuple[str, ...], stages: tuple[str, ...]) -> None:
    """Refuse more classes than the generator's condition image has planes; UserError ``data.too_many_classes``."""
    if "generation" in catalogue.sections_of(stages) and len(classes) > MAX_MASK_CLASSES:
        raise UserError(
            "data.too_many_classes",
            what=f"The dataset has {len(classes)} classes: {', '.join(classes)}.",
            why=f"A generator's condition image has {MAX_MASK_CLASSES} planes, one a class.",
            fix=f"Choose at most {MAX_MASK_CLASSES} of them with data.classes.",
        )


def check_generated_side(config: RunConfig, stages: tuple[str, ...]) -> None:
    """Refuse a side that the generator's levels do not divide; UserError ``generator.image_size``."""
    multiple = generator_work(config).multiple_px or backbone_multiple_px(config.generator.backbone)
    levels = config.generator.backbone if GENERATORS[config.generator.kind].has_backbone else config.generator.kind
    if "generator" in catalogue.sections_of(stages) and multiple and config.generator.image_px % multiple:
        raise UserError(
            "generator.image_size",
            what=f"The generator cannot make images of {config.generator.image_px} pixels (generator.image_px).",
            why=f"The levels of {levels} need a side that is a multiple of {multiple}.",
            fix=f"Set generator.image_px to a multiple of {multiple}; the pictures are resized to data.image_px.",
        )


def backbone_multiple_px(backbone: str) -> int | None:
    """Return what an image's side must be a multiple of, so that every level of the U-Net is whole; None if unknown."""
    folder = find_weights_folder(backbone)
    if folder is None:
        return None
    paths = [folder / part / "config.json" for part in ("vae", "unet")]
    if not all(path.is_file() for path in paths):
        return None
    levels = [len(json.loads(path.read_text(encoding="utf-8"))["block_out_channels"]) for path in paths]
    return int(2 ** (levels[0] - 1) * 2 ** (levels[1] - 1))


def _check_known(role: str, model: ModelConfig) -> None:
    if (model.name, model.size) not in MODELS:
        sizes = ", ".join(size for name, size in MODELS if name == model.name)
        raise UserError(
            "model.unknown",
            what=f"There is no {model.name} of size '{model.size}' ({role}.size).",
            why=f"The sizes of {model.name} are {sizes}.",
            fix=f"Set {role}.size to one of them.",
        )


def _check_weights_fit(role: str, model: ModelConfig) -> None:
    if model.weights is None or Path(model.weights).is_file():
        return
    asset = find_asset(model.weights)
    if asset.model is None or (asset.model, asset.size) != (STARTS_FROM.get(model.name, model.name), model.size):
        what = f"{asset.model}/{asset.size}" if asset.model else "no segmentation model"
        raise UserError(
            "weights.misfit",
            what=f"The weights '{model.weights}' ({role}.weights) are those of {what}.",
            why=f"The {role} is {model.name}/{model.size}, whose layers have other names or shapes.",
            fix=f"Set {role}.name and {role}.size to the weights' model, choose other weights, or leave {role}.weights "
            "out to start from random ones.",
        )


def _check_side(role: str, model: ModelConfig, *, image_px: int) -> None:
    stride = MODELS[model.name, model.size].feature_stride
    smallest = SMALLEST_CELLS.get(model.name, 1)
    nearest = max(smallest, round(image_px / stride)) * stride
    if image_px % stride or image_px < smallest * stride:
        raise UserError(
            "model.image_size",
            what=f"The {role} ({model.name}/{model.size}) cannot take images of {image_px} pixels (data.image_px).",
            why=f"Its strides need a side that is a multiple of {stride}"
            + (f", at least {smallest * stride}." if smallest > 1 else "."),
            fix=f"Set data.image_px to a multiple of {stride}, for instance {nearest}.",
        )


def _check_pair(config: RunConfig) -> None:
    """Refuse what distillation is asked for that its two models do not have: any two can learn from each other."""
    student, teacher, part = config.student, config.teacher, config.distillation
    rows = [MODELS[model.name, model.size] for model in (student, teacher)]
    parted = part.freeze_teacher_encoder or part.mode == "reference" or config.foundation.freeze_encoder
    if parted and rows[1].feature_channels is None:
        raise UserError(
            "plan.models_misfit",
            what=f"The teacher {teacher.name}/{teacher.size} has no image encoder of its own to be frozen.",
            why="foundation.freeze_encoder, distillation.freeze_teacher_encoder and mode 'reference' freeze SAM's.",
            fix="Turn them off, or set teacher.name to sam or msa.",
        )
    widths = [(row.feature_channels, row.feature_stride) for row in rows]
    if part.feature_weight > 0 and (widths[0] != widths[1] or widths[0][0] is None):
        raise UserError(
            "plan.models_misfit",
            what=f"distillation.feature_weight compares the encoders' features, and those of the student "
            f"{student.name}/{student.size} and of the teacher {teacher.name}/{teacher.size} differ in shape.",
            why="The feature loss is a mean of squared differences, feature by feature; a U-Net has no such features.",
            fix="Set distillation.feature_weight = 0, or take two models of one size with an encoder each.",
        )
