"""Evaluation of a segmentation model on a set of images: measures per image, and the results table's rows.

Shape legend: B images, 3 colour channels, K classes, H and W image side, h and w side of the scored grid in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.config import EvaluationConfig
from engine.data.transforms import mask_to_grid
from engine.errors import UserError
from engine.evaluation import measures
from engine.evaluation.summary import summarise
from engine.models.execution import Precision, autocast, place_images, place_model
from engine.types import MEAN_CLASS, EvaluationRow


class Images(Protocol):
    """The part of ``engine.data.datasets.ImageSet`` that evaluation reads."""

    names: tuple[str, ...]
    groups: tuple[str, ...]

    def __len__(self) -> int:
        """Return N."""

    def batch(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return float32 images (B, 3, H, W) in [0, 1] and uint8 masks (B, K, H, W) in {0, 1}."""

    def content(self, indices: Sequence[int]) -> np.ndarray:
        """Return where the images are picture and not padding, uint8 (B, 1, H, W) in {0, 1}."""


def evaluate_model(
    model: nn.Module,
    image_set: Images,
    *,
    classes: Sequence[str],
    model_name: str,
    site: str,
    split: Literal["validation", "test"],
    config: EvaluationConfig,
    seed: int,
    device: torch.device,
    precision: Precision = "auto",
    check_cancelled: Callable[[], None] = lambda: None,
) -> tuple[list[EvaluationRow], list[dict[str, Any]]]:
    """Return one row a class (and their mean, if there are several), and what :func:`measure_images` gives.

    ``seed`` is that of the intervals, which resample ``image_set.groups`` (patients). Other arguments and errors as
    there.
    """
    images = measure_images(
        model,
        image_set,
        classes=classes,
        model_name=model_name,
        site=site,
        split=split,
        config=config,
        device=device,
        precision=precision,
        check_cancelled=check_cancelled,
    )
    return summarise(images, split=split, config=config, seed=seed), images


def measure_images(
    model: nn.Module,
    image_set: Images,
    *,
    classes: Sequence[str],
    model_name: str,
    site: str,
    split: Literal["validation", "test"],
    config: EvaluationConfig,
    device: torch.device,
    precision: Precision = "auto",
    check_cancelled: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Return one record an image and class (and one of their mean, if there are several).

    The model is moved to ``device``, evaluated without gradients in eval mode, and left in the modes it had. Logits
    are float32 (the forward pass runs under bf16 autocast when ``precision`` says so, and with ``auto`` on CUDA),
    bilinearly resized to ``config.mask_px`` when that is set, else scored on the decoder's own grid; masks are
    nearest-resized to the same grid. Padding (``data.fit = "letterbox"``) is no part of any measure. ``dice`` and
    ``iou`` cut at probability 0.5; the five-threshold measures follow the authors' code (methods 1.7).

    Returns
    -------
    list of dict
        Keys ``name``, ``group``, ``site``, ``model``, ``class_name``, ``dice``, ``iou``, ``dice_five_thresholds``,
        ``iou_five_thresholds``, ``hd95_px`` (None where undefined), ``hd95_penalised_px``, ``missed`` and ``spurious``
        (masks that are empty on one side only), ``predicted_px`` and ``true_px`` (areas in pixels of the grid).
        JSON-ready.

    Raises
    ------
    UserError
        ``evaluation.empty`` without images, ``evaluation.classes`` when the model and the data disagree on K,
        ``evaluation.not_finite`` when the model answers NaN or infinity.
    """
    _check_images(image_set, split=split, site=site)
    images: list[dict[str, Any]] = []
    place_model(model, device)
    with eval_mode(model), torch.inference_mode():
        for start in range(0, len(image_set), config.batch_size):
            check_cancelled()
            indices = range(start, min(start + config.batch_size, len(image_set)))
            image_B3HW, mask_BKHW = image_set.batch(list(indices))
            with autocast(device, precision):
                logits_BKhw = model(place_images(image_B3HW, device)).float()
            _check_logits(logits_BKhw, num_classes=len(classes), model_name=model_name, site=site)
            if config.mask_px is not None:
                logits_BKhw = resize_logits(logits_BKhw, side_px=config.mask_px)
            mask_BKhw, content_B1hw = (
                torch.from_numpy(mask_to_grid(plane, logits_BKhw.shape[-1])).to(device).bool()
                for plane in (mask_BKHW, image_set.content(list(indices)))
            )
            scores = _score_batch(logits_BKhw, mask_BKhw, content_B1hw=content_B1hw, classes=classes)
            for index, per_class in zip(indices, scores, strict=True):
                whose = {"name": image_set.names[index], "group": image_set.groups[index], "site": site}
                images += [{**whose, "model": model_name, **score} for score in per_class]
    return images


def resize_logits(logits_BKhw: Tensor, *, side_px: int) -> Tensor:
    """Return logits bilinearly resized to (B, K, side, side), pixel centres aligned (``align_corners=False``)."""
    if logits_BKhw.shape[-2:] == (side_px, side_px):
        return logits_BKhw
    return functional.interpolate(logits_BKhw, size=(side_px, side_px), mode="bilinear", align_corners=False)


def _check_images(image_set: Images, *, split: str, site: str) -> None:
    if not len(image_set):
        raise UserError(
            "evaluation.empty",
            what=f"There is no image in the {split} set of '{site}'.",
            why="A measure needs at least one image.",
            fix="Give the site images, or leave it out of the evaluation.",
        )


def _check_logits(logits_BKhw: Tensor, *, num_classes: int, model_name: str, site: str) -> None:
    if logits_BKhw.shape[1] != num_classes:
        raise UserError(
            "evaluation.classes",
            what=f"The model '{model_name}' predicts {logits_BKhw.shape[1]} class(es), the data has {num_classes}.",
            why="Every predicted class is compared with the mask of the same class.",
            fix="Evaluate the model on the classes that it was trained for (data.classes).",
        )
    if not torch.isfinite(logits_BKhw).all():
        raise UserError(
            "evaluation.not_finite",
            what=f"The model '{model_name}' answered NaN or infinity for an image of '{site}'.",
            why="Such an answer has no mask, so no measure of it would mean anything.",
            fix="Look for a diverged training (lower the learning rate) or a corrupted weight file.",
        )


def _score_batch(
    logits_BKhw: Tensor, true_BKhw: Tensor, *, content_B1hw: Tensor, classes: Sequence[str]
) -> list[list[dict[str, Any]]]:
    """Return, for each image, one record a class and one of their mean when there are several classes."""
    logits_BKhw = logits_BKhw.masked_fill(~content_B1hw, -math.inf)  # a mask has nothing in the padding as it is
    predicted_BKhw = logits_BKhw > 0  # probability 0.5
    overlap = measures.measure_overlap(predicted_BKhw, true_BKhw)
    five_dice_BK, five_iou_BK = measures.five_thresholds(logits_BKhw, true_BKhw)
    table: dict[str, list[list[Any]]] = {
        "dice": overlap.dice().tolist(),
        "iou": overlap.iou().tolist(),
        "dice_five_thresholds": five_dice_BK.tolist(),
        "iou_five_thresholds": five_iou_BK.tolist(),
        "hd95_px": measures.hd95_px(predicted_BKhw, true_BKhw),
        "predicted_px": overlap.predicted_BK.long().tolist(),
        "true_px": overlap.true_BK.long().tolist(),
    }
    scores = []
    for b in range(len(logits_BKhw)):
        diagonal_px = _diagonal_px(content_B1hw[b, 0])
        per_class = [
            _with_misses({"class_name": name, **{key: values[b][k] for key, values in table.items()}}, diagonal_px)
            for k, name in enumerate(classes)
        ]
        scores.append(per_class if len(classes) == 1 else [*per_class, _mean_record(per_class)])
    return scores


def _with_misses(record: dict[str, Any], diagonal_px: float) -> dict[str, Any]:
    predicted_px, true_px = record["predicted_px"], record["true_px"]
    penalised_px = measures.penalised_px(
        record["hd95_px"], predicted_px=predicted_px, true_px=true_px, diagonal_px=diagonal_px
    )
    return {
        **record,
        "hd95_penalised_px": penalised_px,
        "missed": int(true_px > 0 and predicted_px == 0),
        "spurious": int(predicted_px > 0 and true_px == 0),
    }


def _diagonal_px(content_hw: Tensor) -> float:
    """Return the diagonal of the picture inside its padding, in pixels of the grid."""
    return math.hypot(int(content_hw.any(dim=1).sum()), int(content_hw.any(dim=0).sum()))


def _mean_record(per_class: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean over classes of every measure (distances over the classes that have one); misses are summed."""
    record: dict[str, Any] = {"class_name": MEAN_CLASS}
    for key in sorted(per_class[0].keys() - {"class_name"}):
        values = [score[key] for score in per_class if score[key] is not None]
        if key in ("missed", "spurious"):
            record[key] = sum(values)
        else:
            record[key] = _mean(values) if values else None
    return record


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode and give each its own former mode back (parts may be frozen in eval)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
