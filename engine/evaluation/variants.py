"""What faster ways of running a model cost in Dice, measured where the images are, at their own resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.external_data_helper import uses_external_data
from torch import nn

from engine.config import DataConfig
from engine.data.sources import Item
from engine.data.tiling import MOST_LOOKS, Eye, Run, resize_logits
from engine.errors import UserError
from engine.evaluation.mask_dice import mean_dice
from engine.evaluation.segmentation import eval_mode
from engine.models.execution import place_images, place_model

FULL_DICE, HALF_DICE, VARIANT_DICE, VARIANT_IMAGES = "full", "half", "variant", "variant_images"
"""Figures of a reply: mean Dice of the model itself, at half the side, of the file that was sent; images measured."""
NAMES = (FULL_DICE, HALF_DICE, VARIANT_DICE, VARIANT_IMAGES)
MODEL_BYTES = "onnx"
"""The array of a request that has a variant's file, uint8."""
Figures = dict[str, float]


def half_px(image_px: int, *, stride: int) -> int | None:
    """Return half the side, in whole cells of a model's features of ``stride`` pixels; None where there is none less.

    A U-Net normalises over its cells: of a single one there is nothing to normalise.

    Position terms need no more than that: TinySAM works its own out for the grid that it has.
    """
    side = image_px // 2 // stride * stride
    return side if 2 * stride <= side < image_px else None


def chosen(items: Sequence[Item]) -> list[Item]:
    """Return the images that variants are measured on: as many as ``MOST_LOOKS``, evenly, the same at each asking."""
    count = min(len(items), MOST_LOOKS)
    return [items[place * len(items) // count] for place in range(count)]


def measure_half(
    model: nn.Module,
    items: Sequence[Item],
    *,
    eye: Eye,
    stride: int,
    device: torch.device,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Figures:
    """Return the Dice of a model at its own side and at half of it, where it has one; nothing without images.

    ``stride`` are the pixels of its feature cells.
    """

    def run(image_13gg: np.ndarray) -> np.ndarray:
        check_cancelled()
        return model(place_images(image_13gg, device)).float()[0].cpu().numpy()

    if not items:
        return {}
    place_model(model, device)
    half = half_px(eye.image_px, stride=stride)
    eyes = {FULL_DICE: eye} | ({} if half is None else {HALF_DICE: replace(eye, image_px=half)})
    with eval_mode(model), torch.inference_mode():
        return _mean({name: (one, run) for name, one in eyes.items()}, items)


def measure_file(
    content: bytes,
    items: Sequence[Item],
    *,
    image_px: int,
    data: DataConfig,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Figures:
    """Return the Dice of a variant's ONNX file, run as it is served on the CPU; nothing without images.

    ``data`` says how images are prepared. Raises ``UserError`` ``variant.unreadable`` for a file that cannot be run on
    images of ``image_px``, or names other files, which are the site's and none of a model's.
    """
    if not items:
        return {}
    if any(uses_external_data(tensor) for tensor in _tensors(content)):
        raise _unreadable("it has its weights in another file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        (given,), (answer, *_) = session.get_inputs(), session.get_outputs()  # features may come second
    except Exception as error:  # onnxruntime's exceptions share no base class but this
        raise _unreadable(f"ONNX Runtime {onnxruntime.__version__} cannot load it: {error}"[:300]) from error
    sides, grid = [3, image_px, image_px], answer.shape[-1]
    if list(given.shape)[1:] != sides or not isinstance(grid, int) or not grid or image_px % grid:
        raise _unreadable(f"it maps {given.shape!s:.100} to {answer.shape!s:.100}, and its images are {sides}")
    eye = Eye(image_px, image_px // grid, data.normalise, data.fit)

    def run(image_13gg: np.ndarray) -> np.ndarray:
        check_cancelled()
        return session.run([answer.name], {given.name: image_13gg})[0][0]

    return _mean({VARIANT_DICE: (eye, run)}, items)


def fault_of(told: Mapping[str, Any], *, most_images: int, wanted: Iterable[str]) -> str | None:
    """Return what is wrong with a site's figures of variants, None where nothing is; ``wanted`` may be left out."""
    dice = told.keys() - {VARIANT_IMAGES}
    if not told:
        return None
    if not dice <= set(wanted) or VARIANT_IMAGES not in told:
        return f"its figures of variants are {sorted(told)[:5]}"
    count = told[VARIANT_IMAGES]
    if not all(isinstance(value, int | float) for value in told.values()) or not all(
        0 <= told[name] <= 1 for name in dice
    ):
        return "a Dice of a variant is outside [0, 1]"
    if not (1 <= count <= most_images and count == int(count)):
        return "its images are not as many as it has said"
    return None


def together(of_sites: Mapping[str, Mapping[str, float]], *, name: str) -> tuple[float, float, int] | None:
    """Return mean Dice of a variant and of the model itself, and their images, over the sites that measured both."""
    both = [site for site in of_sites.values() if name in site and FULL_DICE in site]
    count = sum(int(site[VARIANT_IMAGES]) for site in both)
    if not count:
        return None
    dice, full = (round(sum(s[key] * s[VARIANT_IMAGES] for s in both) / count, 6) for key in (name, FULL_DICE))
    return dice, full, count


def _mean(ways: Mapping[str, tuple[Eye, Run]], items: Sequence[Item]) -> Figures:
    found: dict[str, list[float]] = {name: [] for name in ways}
    images = chosen(items)
    for item in images:
        image_HW3, true_KHW = item.read()
        size_hw = (image_HW3.shape[0], image_HW3.shape[1])
        for name, (eye, run) in ways.items():
            logits_Khw = eye.look(run, image_HW3, "whole")
            logits_KHW = resize_logits(logits_Khw, size_hw=size_hw, part=eye.part_of(size_hw, "whole"))
            found[name].append(mean_dice(logits_KHW > 0, true_KHW))
    means = {name: round(float(np.mean(values)), 6) for name, values in found.items()}
    return means | {VARIANT_IMAGES: len(images)}


def _tensors(content: bytes) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of an ONNX file, those of inner graphs, too."""
    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # protobuf's, which is no package of ours
        raise _unreadable("it is no ONNX file") from error
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            yield from (attribute.t, *attribute.tensors)
            graphs += [attribute.g, *attribute.graphs]
    for node in (node for function in model.functions for node in function.node):
        yield from (attribute.t for attribute in node.attribute)


def _unreadable(what: str) -> UserError:
    return UserError(
        "variant.unreadable",
        what=f"The server sent a variant of the model that cannot be measured: {what}.",
        why="A faster variant is measured by the file that will answer, not by another.",
        fix="Leave it out (export.variants), or update onnxruntime at the site.",
    )
