"""Point and box prompts, and their embedding by SAM's prompt encoder.

Shape legend: B images, N points, C decoder channels, h and w the feature grid. Coordinates are (x, y) pixels of the
image that was encoded, with the origin at the top-left pixel's corner and +0.5 added inside, as in segment_anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import PromptEncoder
from torch import Tensor

from engine.errors import UserError

PADDING_LABEL = -1
BOX_CORNER_LABELS = (2, 3)


@dataclass(frozen=True, eq=False)
class Prompts:
    """What a person marked on each image of a batch.

    Parameters
    ----------
    points_BN2 : Tensor or None
        Float, (x, y) in pixels of the input image, one row of N points an image.
    labels_BN : Tensor or None
        Integer: 1 foreground, 0 background, -1 padding (the point is ignored), 2 and 3 the upper left and the lower
        right corner of a box among the points. Given exactly when points are.
    boxes_B4 : Tensor or None
        Float, (x0, y0, x1, y1) in pixels of the input image.
    mask_B1HW : Tensor or None
        Float, logits of a mask that is there already, on the decoder's grid of four times the features'.

    Raises
    ------
    UserError
        ``prompt.shape`` when nothing is given, or shapes do not fit each other.
    """

    points_BN2: Tensor | None = None
    labels_BN: Tensor | None = None
    boxes_B4: Tensor | None = None
    mask_B1HW: Tensor | None = None

    def __post_init__(self) -> None:
        points, labels, boxes = self.points_BN2, self.labels_BN, self.boxes_B4
        problem = None
        if points is None and boxes is None:
            problem = "neither points nor boxes are given"
        elif (points is None) != (labels is None):
            problem = "points and labels come together"
        elif points is not None and labels is not None and tuple(points.shape) != (*labels.shape, 2):
            problem = f"points {tuple(points.shape)} do not fit labels {tuple(labels.shape)}"
        elif boxes is not None and (boxes.ndim != 2 or boxes.shape[1] != 4):
            problem = f"boxes have shape {tuple(boxes.shape)} instead of (B, 4)"
        elif points is not None and boxes is not None and len(points) != len(boxes):
            problem = f"{len(points)} rows of points but {len(boxes)} boxes"
        if problem is not None:
            raise UserError(
                "prompt.shape",
                what=f"The prompts cannot be used: {problem}.",
                why="The decoder takes one row of points (B, N, 2) with labels (B, N), one box (B, 4), or both.",
                fix="Pad rows of points to one length with label -1, or leave the prompts out.",
            )

    @property
    def batch_size(self) -> int:
        """Return the number of prompted masks, B."""
        rows = self.points_BN2 if self.points_BN2 is not None else self.boxes_B4
        assert rows is not None
        return len(rows)

    def to(self, device: torch.device) -> Prompts:
        """Return the same on a device."""
        parts = (self.points_BN2, self.labels_BN, self.boxes_B4, self.mask_B1HW)
        return Prompts(*(None if part is None else part.to(device) for part in parts))


def embed_prompts(encoder: PromptEncoder, prompts: Prompts, *, image_hw: tuple[int, int]) -> Tensor:
    """Return the sparse embedding (B, N', C) of ``prompts`` on an image of ``image_hw`` pixels.

    The same numbers as ``PromptEncoder.forward``, for any image size and without boolean indexing (which would
    synchronise a GPU and cannot be exported): a box is two points with labels 2 and 3, and one padding point is
    appended when there is no box. Computed in float32 even under autocast, because the positional frequencies need it.
    """
    points, labels = _as_points(prompts)
    table_5C = torch.cat([encoder.not_a_point_embed.weight, *(point.weight for point in encoder.point_embeddings)])
    with torch.autocast(device_type=points.device.type, enabled=False):
        position_BNC = encoder.pe_layer.forward_with_coords(points.float() + 0.5, image_hw)
    is_point = (labels != PADDING_LABEL).unsqueeze(-1)
    return table_5C[labels + 1] + position_BNC * is_point


def embed_mask(encoder: PromptEncoder, prompts: Prompts) -> Tensor:
    """Return the dense embedding of the mask prompt, (B, C, h, w), or (1, C, 1, 1) that stands for none."""
    if prompts.mask_B1HW is None:
        return no_mask_embedding(encoder)
    return encoder.mask_downscaling(prompts.mask_B1HW)


def no_mask_embedding(encoder: PromptEncoder) -> Tensor:
    """Return the dense embedding (1, C, 1, 1) that stands for "no mask prompt"; it broadcasts over the grid."""
    return encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)


def _as_points(prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Return points (B, N', 2) and integer labels (B, N') with boxes turned into corner points."""
    points, labels, boxes = prompts.points_BN2, prompts.labels_BN, prompts.boxes_B4
    point_rows, label_rows = [], []
    if points is not None and labels is not None:
        point_rows.append(points)
        label_rows.append(labels.long())
    if boxes is not None:
        point_rows.append(boxes.reshape(-1, 2, 2))
        label_rows.append(torch.tensor(BOX_CORNER_LABELS, device=boxes.device).expand(len(boxes), 2))
    else:
        assert points is not None
        point_rows.append(points.new_zeros(len(points), 1, 2))
        label_rows.append(torch.full((len(points), 1), PADDING_LABEL, device=points.device))
    return torch.cat(point_rows, dim=1), torch.cat(label_rows, dim=1)


class DensePositions:
    """The prompt encoder's positional encoding of the feature grid, computed once per grid size.

    The Gaussian matrix behind it is a buffer that training never changes, so the encoding is kept until that buffer
    is replaced (another device) or rewritten (weights loaded, buffers averaged), which its version counter shows.
    """

    def __init__(self) -> None:
        self._source: tuple[Tensor, int] | None = None
        self._grids: dict[tuple[int, int], Tensor] = {}

    def __call__(self, encoder: PromptEncoder, *, grid_hw: tuple[int, int]) -> Tensor:
        """Return the encoding (1, C, h, w), float32, without gradient history."""
        matrix = encoder.pe_layer.positional_encoding_gaussian_matrix
        # A graph under construction must hold the computation itself; an inference tensor could not be used in
        # training later, and does not count its versions.
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_inference_mode_enabled():
            return _grid_positions(encoder, grid_hw=grid_hw)
        if self._source is None or self._source[0] is not matrix or self._source[1] != matrix._version:
            self._source = (matrix, matrix._version)
            self._grids = {}
        if grid_hw not in self._grids:
            self._grids[grid_hw] = _grid_positions(encoder, grid_hw=grid_hw)
        return self._grids[grid_hw]


def _grid_positions(encoder: PromptEncoder, *, grid_hw: tuple[int, int]) -> Tensor:
    matrix = encoder.pe_layer.positional_encoding_gaussian_matrix
    with torch.autocast(device_type=matrix.device.type, enabled=False):
        return encoder.pe_layer(grid_hw).unsqueeze(0)
