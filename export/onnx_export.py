"""A segmentation model as one ONNX graph: image encoder and prompt-free decoder, fixed side, any batch size."""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from engine.errors import UserError
from export.manifest import INPUT_NAME, OUTPUT_NAME

LAST_TRACED_OPSET = 20
"""The tracing exporter's newest opset. It is preferred up to here: eight times faster on these models than the
torch.export one (1.5 s against 12 s for the mini TinySAM), with a smaller graph that runs as fast or faster."""
EXAMPLE_BATCH = 2
"""torch.export specialises on a batch of one; two keeps the dimension free."""


def export_model(model: nn.Module, path: Path, *, image_px: int, opset: int) -> None:
    """Write ``model`` as ONNX: input ``image`` (batch, 3, image_px, image_px) float32 in [0, 1], output ``logits``.

    The logits are (batch, K, image_px / mask_stride, image_px / mask_stride), float32, before the sigmoid. A copy of
    the model is exported on the CPU in float32 and eval mode; the model itself is left as it is. The written graph
    has passed ``onnx.checker``.

    Raises
    ------
    UserError
        ``export.failed`` when the model has an operation that ONNX cannot express, or the file cannot be checked.
    """
    frozen = on_cpu(model)
    example_B3HW = torch.zeros(EXAMPLE_BATCH, 3, image_px, image_px)
    try:
        with warnings.catch_warnings():
            # Both exporters tell at length what they decided about constants; parity is what counts, and is checked.
            warnings.simplefilter("ignore")
            if opset <= LAST_TRACED_OPSET:
                proto = _trace(frozen, example_B3HW, opset=opset)
            else:
                proto = _export_program(frozen, example_B3HW, opset=opset)
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


def _trace(model: nn.Module, example_B3HW: Tensor, *, opset: int) -> onnx.ModelProto:
    buffer = io.BytesIO()
    torch.onnx.export(
        model,
        (example_B3HW,),
        buffer,
        dynamo=False,
        opset_version=opset,
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_axes={INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}},
    )
    return onnx.load_from_string(buffer.getvalue())


def _export_program(model: nn.Module, example_B3HW: Tensor, *, opset: int) -> onnx.ModelProto:
    program = torch.onnx.export(
        model,
        (example_B3HW,),
        dynamo=True,
        verbose=False,
        opset_version=opset,
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    assert program is not None
    return program.model_proto
