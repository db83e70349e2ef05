"""From measures of single images to the results table: means with their intervals, and differences between models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from engine.config import EvaluationConfig
from engine.errors import UserError
from engine.evaluation.bootstrap import count_groups, mean_interval
from engine.seeding import numpy_generator
from engine.types import EvaluationRow, ModelDifference

Split = Literal["validation", "test"]
Records = Sequence[dict[str, Any]]
"""What ``segmentation.evaluate_model`` says of each image and class."""


def summarise(images: Records, *, split: Split, config: EvaluationConfig, seed: int) -> list[EvaluationRow]:
    """Return one row for each model, site and class among the per-image records, in the order they first appear."""
    return [
        _row(part, model=model, site=site, class_name=class_name, split=split, config=config, seed=seed)
        for (model, site, class_name), part in _parts(images).items()
    ]


def compare_models(
    images: Records, *, pairs: Sequence[tuple[str, str]], split: Split, config: EvaluationConfig, seed: int
) -> list[ModelDifference]:
    """Return the mean Dice difference, model minus baseline, of each of ``pairs`` at every site and class.

    The bootstrap is paired: an image's own difference is resampled, by patient and with the same draws as the rows'
    intervals. Two models that both find some patients hard may differ clearly though their intervals overlap. Pairs of
    which a model was not measured are left out.

    Raises ``UserError`` ``evaluation.unpaired`` when two models were measured on different images.
    """
    parts = _parts(images)
    places = dict.fromkeys((site, class_name) for _, site, class_name in parts)
    differences = []
    for model, baseline in pairs:
        for site, class_name in places:
            ours, theirs = parts.get((model, site, class_name)), parts.get((baseline, site, class_name))
            if ours is None or theirs is None:
                continue
            if [image["name"] for image in ours] != [image["name"] for image in theirs]:
                raise UserError(
                    "evaluation.unpaired",
                    what=f"The models '{model}' and '{baseline}' were measured on different images of '{site}'.",
                    why="A difference between models is the mean of its differences on each image.",
                    fix="Evaluate both models in one run.",
                )
            values = [a["dice"] - b["dice"] for a, b in zip(ours, theirs, strict=True)]
            low, high = _interval(values, ours, site=site, split=split, class_name=class_name, config=config, seed=seed)
            differences.append(
                ModelDifference(
                    model=model,
                    baseline=baseline,
                    site=site,
                    split=split,
                    class_name=class_name,
                    num_images=len(values),
                    num_groups=count_groups([image["group"] for image in ours]),
                    dice=_mean(values),
                    dice_low=low,
                    dice_high=high,
                )
            )
    return differences


def _parts(images: Records) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    parts: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for image in images:
        parts.setdefault((image["model"], image["site"], image["class_name"]), []).append(image)
    return parts


def _row(
    part: Records, *, model: str, site: str, class_name: str, split: Split, config: EvaluationConfig, seed: int
) -> EvaluationRow:
    dice = [image["dice"] for image in part]
    low, high = _interval(dice, part, site=site, split=split, class_name=class_name, config=config, seed=seed)
    distances = [image["hd95_px"] for image in part if image["hd95_px"] is not None]
    return EvaluationRow(
        model=model,
        site=site,
        split=split,
        class_name=class_name,
        num_images=len(part),
        dice=_mean(dice),
        dice_low=low,
        dice_high=high,
        iou=_mean([image["iou"] for image in part]),
        dice_five_thresholds=_mean([image["dice_five_thresholds"] for image in part]),
        iou_five_thresholds=_mean([image["iou_five_thresholds"] for image in part]),
        hd95_px=_mean(distances) if distances else None,
        num_groups=count_groups([image["group"] for image in part]),
        num_hd95=len(distances),
        num_missed=sum(image["missed"] for image in part),
        num_spurious=sum(image["spurious"] for image in part),
        hd95_penalised_px=_mean([image["hd95_penalised_px"] for image in part]),
    )


def _interval(
    values: Sequence[float],
    part: Records,
    *,
    site: str,
    split: Split,
    class_name: str,
    config: EvaluationConfig,
    seed: int,
) -> tuple[float | None, float | None]:
    # The stream does not depend on the model: models are compared on the same resamples.
    rng = numpy_generator(seed, "bootstrap", site, split, class_name)
    groups = [image["group"] for image in part]
    found = mean_interval(values, groups=groups, num_samples=config.bootstrap_samples, rng=rng)
    return (None, None) if found is None else found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
