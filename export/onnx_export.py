"""A segmentation model as ONNX: image encoder and prompt-free decoder in one graph, fixed side, any batch size.

Of a model that was trained with prompts the graph gives the encoder's features, too: ONNX Runtime works out what is
asked for, so it is the encoder where nobody asks for logits, and its weights lie in a bundle once. The decoder that
takes prompts is a graph of its own.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from engine.errors import UserError
from engine.models.prompts import Prompts
from engine.models.segmenter import Segmenter
from export.manifest import EMBEDDING_NAME, INPUT_NAME, LABELS_NAME, MASK_NAME, OUTPUT_NAME, POINTS_NAME

LAST_TRACED_OPSET = 20
"""The tracing exporter's newest opset. It is preferred up to here: eight times faster on these models than the
torch.export one (1.5 s against 12 s for the mini TinySAM), with a smaller graph that runs as fast or faster."""
EXAMPLE_BATCH = 2
"""torch.export specialises on a batch of one; two keeps the dimension free."""


EXAMPLE_POINTS = 3


class _WithEmbedding(nn.Module):
    """A segmenter that gives its features beside the logits."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Return (logits_BKHW, features_BChw)."""
        features_BChw = self.model.encode(image_B3HW)
        return self.model.decode(features_BChw), features_BChw


class _PromptDecoder(nn.Module):
    """The half of a segmenter that a click costs."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, features_1Chw: Tensor, points_1N2: Tensor, labels_1N: Tensor, mask_11HW: Tensor) -> Tensor:
        """Return logits (1, K, 4h, 4w)."""
        prompts = Prompts(points_BN2=points_1N2, labels_BN=labels_1N, mask_B1HW=mask_11HW)
        return self.model.decode(features_1Chw, prompts=prompts)


def export_model(model: nn.Module, path: Path, *, image_px: int, opset: int, embedding: bool = False) -> None:
    """Write ``model`` as ONNX: input ``image`` (batch, 3, image_px, image_px) float32 in [0, 1], output ``logits``.

    The logits are (batch, K, image_px / mask_stride, image_px / mask_stride), float32, before the sigmoid. With
    ``embedding`` a second output has the features (batch, C, h, w) of a ``Segmenter``. A copy of the model is exported
    on the CPU in float32 and eval mode; the model itself is left as it is. The written graph has passed
    ``onnx.checker``.

    Raises
    ------
    UserError
        ``export.failed`` when the model has an operation that ONNX cannot express, or the file cannot be checked.
    """
    frozen = on_cpu(model)
    batch = {INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}}
    if embedding:
        assert isinstance(frozen, Segmenter), "only a segmenter has features that prompts go with"
        frozen, batch[EMBEDDING_NAME] = _WithEmbedding(frozen).eval(), {0: "batch"}
    example_B3HW = torch.zeros(EXAMPLE_BATCH, 3, image_px, image_px)
    _write(frozen, (example_B3HW,), path, inputs=[INPUT_NAME], axes=batch, opset=opset)


def export_prompt_decoder(model: Segmenter, path: Path, *, image_px: int, opset: int) -> None:
    """Write the decoder that takes prompts as ONNX, for one image at a time.

    Inputs are ``embedding`` (1, C, h, w), the features of an image of ``image_px``; ``points`` (1, N, 2) float32, (x,
    y) in pixels of the model's input from the middle of its first one; ``labels`` (1, N) int64: 1 for a thing, 0 for
    none, 2 and 3 for upper left and lower right corner of a box, -1 for no point; ``mask`` (1, 1, 4h, 4w) float32, of
    ``engine.data.prompt_maps``. The output is ``logits`` (1, K, 4h, 4w).
    Raises as :func:`export_model` does.
    """
    frozen = on_cpu(model)
    assert isinstance(frozen, Segmenter)
    with torch.inference_mode():
        features_1Chw = frozen.encode(torch.zeros(1, 3, image_px, image_px)).clone()
    points, labels = torch.zeros(1, EXAMPLE_POINTS, 2), torch.ones(1, EXAMPLE_POINTS, dtype=torch.int64)
    grid_px = image_px // frozen.mask_stride
    mask = torch.zeros(1, 1, grid_px, grid_px)
    _write(
        _PromptDecoder(frozen).eval(),
        (features_1Chw, points, labels, mask),
        path,
        inputs=[EMBEDDING_NAME, POINTS_NAME, LABELS_NAME, MASK_NAME],
        axes={POINTS_NAME: {1: "prompts"}, LABELS_NAME: {1: "prompts"}},
        opset=opset,
    )


def _write(
    model: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    *,
    inputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
    opset: int,
) -> None:
    outputs = [OUTPUT_NAME, *([EMBEDDING_NAME] if EMBEDDING_NAME in axes else [])]
    how: dict[str, Any] = {"input_names": list(inputs), "output_names": outputs, "opset_version": opset}
    try:
        with warnings.catch_warnings():
            # Both exporters tell at length what they decided about constants; parity is what counts, and is checked.
            warnings.simplefilter("ignore")
            export = _trace if opset <= LAST_TRACED_OPSET else _export_program
            proto = export(model, example, axes, how)
        onnx.checker.check_model(proto, full_check=True)
    except (torch.onnx.errors.OnnxExporterError, onnx.checker.ValidationError, RuntimeError) as error:
        raise UserError(
            "export.failed",
            what=f"The model could not be written as ONNX with opset {opset}: {error}",
            why="Sites run the model with ONNX Runtime, without PyTorch.",
            fix="Try another export.opset; report the model and the message above if none works.",
        ) from error
    onnx.save_model(proto, path)


def on_cpu(model: nn.Module) -> nn.Module:
    """Return a float32 copy of ``model`` on the CPU in eval mode, without gradients."""
    return copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval().requires_grad_(False)


def _trace(
    model: nn.Module, example: tuple[Tensor, ...], axes: Mapping[str, Mapping[int, str]], how: dict[str, Any]
) -> onnx.ModelProto:
    buffer = io.BytesIO()
    torch.onnx.export(model, example, buffer, dynamo=False, dynamic_axes=dict(axes), **how)
    return onnx.load_from_string(buffer.getvalue())


def _export_program(
    model: nn.Module, example: tuple[Tensor, ...], axes: Mapping[str, Mapping[int, str]], how: dict[str, Any]
) -> onnx.ModelProto:
    dims = {name: torch.export.Dim(name) for sizes in axes.values() for name in sizes.values()}
    shapes = tuple({axis: dims[name] for axis, name in axes.get(end, {}).items()} for end in how["input_names"])
    program = torch.onnx.export(model, example, dynamo=True, verbose=False, dynamic_shapes=shapes, **how)
    assert program is not None
    return program.model_proto
