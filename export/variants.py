"""Writes a bundle's faster variants: the model at half its side, with linear layers in 8 bits, and both at once.

Quantisation is ONNX Runtime's static one: weights in 8 bits with a scale for each output channel, activations in 8
bits in a range that is seen on calibration images, as QDQ nodes. Only products with weights are quantised; convolutions
and attention stay in float32: their inputs would be written in 8 bits and back, which took longer than was won (ours).
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import psutil
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn
from torch.nn import functional

from engine.errors import UserError
from export.manifest import FULL, INPUT_NAME, MODEL_FILE, OUTPUT_NAME, Parity, Timing, Variant, VariantDice
from export.onnx_export import export_model
from export.parity import check_parity, sample_images
from export.runtime import session_options

Name = Literal["half", "int8", "half_int8"]
LARGEST_INT8_SHARE = 0.25
"""Of the largest logit, a difference to PyTorch above which 8 bits have broken the model (ours)."""
MOST_CALIBRATION = 16
"""Calibration images (ours): a range is what the widest of them needs."""
TIMED_REPEATS, TIMED_S = 15, 5.0
"""Repeats of each variant, fewer where all of them would take longer than so many seconds (ours)."""
MOST_LOSS = 0.05
"""Dice that a variant may cost and still be written (ours): one that nobody would choose only makes bundles larger."""
Measure = Callable[[str, Path, int], VariantDice | None]
"""Takes a variant's name, its file and its side; returns its Dice, None where nobody has measured it."""


@dataclass(frozen=True)
class VariantPlan:
    """Which variants a bundle gets, and what is needed for them.

    ``calibration_N3HW`` are images as the model sees them, float32 in [0, 1]: synthetic ones, never a site's.
    ``half_px`` is half the side in whole cells, None where the model has no smaller side.
    """

    names: Sequence[Name] = ()
    half_px: int | None = None
    calibration_N3HW: np.ndarray | None = None
    measure: Measure = lambda name, path, image_px: None
    tell: Callable[[str], None] = lambda text: None
    """Is told why a variant is left out."""
    threads: int | None = None
    check_cancelled: Callable[[], None] = field(default=lambda: None)


NO_VARIANTS = VariantPlan()


def write_variants(
    folder: Path,
    model: nn.Module,
    *,
    plan: VariantPlan,
    own_parity: Parity,
    image_px: int,
    opset: int,
    tolerance: float,
    seed: int,
) -> tuple[Variant, ...]:
    """Write the plan's variants beside ``MODEL_FILE``, which is there; return all, that first; none where it is alone.

    A variant that cannot be made, is further from PyTorch than its tolerance, or costs more than ``MOST_LOSS``, is left
    out, and ``plan.tell`` told.
    """
    own = Variant(name=FULL, file=MODEL_FILE, image_px=image_px, precision="float32", parity=own_parity)
    found = [own]
    for name in plan.names:
        plan.check_cancelled()
        side = plan.half_px if name.startswith("half") else image_px
        if side is None:
            plan.tell(f"The variant {name} is left out: the model takes no smaller side than {image_px} pixels.")
            continue
        path = folder / f"model_{name}.onnx"
        try:
            parity = _write(path, model, name=name, plan=plan, side=side, opset=opset, tolerance=tolerance, seed=seed)
        except UserError as error:
            path.unlink(missing_ok=True)
            plan.tell(f"The variant {name} is left out. {error.what}")
            continue
        measured = plan.measure(name, path, side)
        if measured is not None and measured.loss > MOST_LOSS:
            path.unlink()
            plan.tell(f"The variant {name} is left out: it costs {100 * measured.loss:.1f} points of Dice.")
            continue
        found.append(
            Variant(
                name=name,
                file=path.name,
                image_px=side,
                precision="int8" if name.endswith("int8") else "float32",
                parity=parity,
                measured=measured,
            )
        )
    if len(found) == 1:
        return ()
    threads = plan.threads or psutil.cpu_count(logical=False) or 1
    timings = time_files({v.name: (folder / v.file, v.image_px) for v in found}, threads=threads, seed=seed)
    return tuple(variant.model_copy(update={"timing": timings[variant.name]}) for variant in found)


def _write(
    path: Path, model: nn.Module, *, name: str, plan: VariantPlan, side: int, opset: int, tolerance: float, seed: int
) -> Parity:
    if not name.endswith("int8"):
        export_model(model, path, image_px=side, opset=opset)
        return check_parity(model, path, image_px=side, tolerance=tolerance, seed=seed)
    if plan.calibration_N3HW is None:
        raise UserError(
            "variant.no_calibration",
            what="There are no synthetic images to find the ranges of 8 bits on.",
            why="They may not be found on the sites' images, which the server does not have.",
            fix="Leave int8 out of export.variants for a method that draws no synthetic images.",
        )
    with tempfile.TemporaryDirectory() as scratch:
        source = path.with_name("model_half.onnx") if name.startswith("half") else path.with_name(MODEL_FILE)
        if not source.is_file():  # half the side in float32 is not wanted, or was left out
            source = Path(scratch) / "float32.onnx"
            export_model(model, source, image_px=side, opset=opset)
        quantise(source, path, images_N3HW=resized(plan.calibration_N3HW, side))
    return check_parity(model, path, image_px=side, tolerance=LARGEST_INT8_SHARE, seed=seed)


def quantise(source: Path, path: Path, *, images_N3HW: np.ndarray) -> None:
    """Write the ONNX model ``source`` to ``path`` with its linear layers in 8 bits, ranges as on the images.

    ``images_N3HW`` are float32 in [0, 1] at the model's side.
    """
    with tempfile.TemporaryDirectory() as scratch, _silent(logging.getLogger()):
        prepared = Path(scratch) / "prepared.onnx"
        # Shapes alone: what ONNX Runtime fuses when it loads a file, it no longer finds in one that was optimised.
        quant_pre_process(str(source), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(path),
            _Images(images_N3HW[:MOST_CALIBRATION]),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=_without_weights(prepared),
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )


def resized(images_N3HW: np.ndarray, side: int) -> np.ndarray:
    """Return images at another side, antialiased, float32 in [0, 1]."""
    if images_N3HW.shape[-1] == side:
        return images_N3HW
    images = torch.from_numpy(images_N3HW)
    return functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True).clamp(0, 1).numpy()


def time_files(
    files: Mapping[str, tuple[Path, int]],
    *,
    threads: int,
    seed: int,
    repeats: int = TIMED_REPEATS,
    longest_s: float = TIMED_S,
) -> dict[str, Timing]:
    """Return how long each file takes for one input of its side, the median; in turn, so that all see the same machine.

    The first round is for warming up and counts for nothing.
    """
    options = session_options(threads)
    sessions = {
        name: (
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]),
            sample_images(1, image_px=side, seed=seed),
        )
        for name, (path, side) in files.items()
    }
    walls: dict[str, list[float]] = {name: [] for name in files}
    began = time.perf_counter()
    for number in range(repeats + 1):
        if number > 1 and time.perf_counter() - began > longest_s:
            break
        for name, (session, image) in sessions.items():
            started = time.perf_counter()
            session.run([OUTPUT_NAME], {INPUT_NAME: image})
            if number:
                walls[name].append(time.perf_counter() - started)
    return {
        name: Timing(seconds=round(statistics.median(found), 7), threads=threads, repeats=len(found))
        for name, found in walls.items()
    }


class _Images(CalibrationDataReader):
    """Calibration images, one at a time."""

    def __init__(self, images_N3HW: np.ndarray) -> None:
        self._left: Iterator[np.ndarray] = iter(images_N3HW)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next input, None after the last."""
        image = next(self._left, None)
        return None if image is None else {INPUT_NAME: image[None]}


def _without_weights(path: Path) -> list[str]:
    """Return the names of products of two activations, as in attention."""
    graph = onnx.load(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    weights |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    return [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] not in weights]


class _silent:
    """Keeps the quantiser from advising on the root logger; what counts is checked."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger, self._level = logger, logger.level

    def __enter__(self) -> None:
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
