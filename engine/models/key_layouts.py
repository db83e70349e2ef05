"""Foreign checkpoints: their key layouts turned into ours, and positional embeddings turned to another image size.

Layouts known: segment_anything (``sam_vit_b_01ec64.pth``: the keys are ours already), TinySAM and MobileSAM
(``tinysam_42.3.pth``, ``mobile_sam.pt``: TinyViT's original names, ours are timm's), and the DSFedMed code (``seg1``
inside the mask decoder).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from engine.models.sam import resize_positions

_DATA_PARALLEL = (re.compile(r"^module\."), "")
_DSFEDMED_HEAD = (re.compile(r"^mask_decoder\.seg1\."), "seg1.")
_TINYVIT_MARK = "image_encoder.patch_embed.seq.0.c.weight"
_TINYVIT_UNUSED = re.compile(r"^image_encoder\.(norm_head|head)\.")
_TINYVIT_RENAMES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^image_encoder\.patch_embed\.seq\.0\."), "image_encoder.trunk.patch_embed.conv1."),
    (re.compile(r"^image_encoder\.patch_embed\.seq\.2\."), "image_encoder.trunk.patch_embed.conv2."),
    (re.compile(r"^image_encoder\.layers\.(\d+)\.blocks\."), r"image_encoder.trunk.stages.\1.blocks."),
    (re.compile(r"^(image_encoder\.trunk\..*)\.c\.weight$"), r"\1.conv.weight"),
)
# The original stage ends with the patch merging; timm's next stage begins with it.
_TINYVIT_MERGE = re.compile(r"^image_encoder\.layers\.(\d+)\.downsample\.")


def to_own_keys(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
    """Return ``state`` under our keys, the foreign keys that were renamed, and the keys that TinySAM never uses."""
    tinyvit = any(_rename(key, _DATA_PARALLEL) == _TINYVIT_MARK for key in state)
    own: dict[str, Tensor] = {}
    renamed, dropped = [], []
    for foreign, tensor in state.items():
        key = _rename(_rename(foreign, _DATA_PARALLEL), _DSFEDMED_HEAD)
        if tinyvit and _TINYVIT_UNUSED.match(key):
            dropped.append(foreign)
            continue
        if tinyvit:
            key = _tinyvit_key(key)
        if key != foreign:
            renamed.append(foreign)
        own[key] = tensor
    return own, tuple(renamed), tuple(dropped)


def resize_position_tensor(key: str, tensor: Tensor, *, shape: tuple[int, ...]) -> Tensor | None:
    """Return SAM's positional tensor ``key`` resized to ``shape``, or None where ``key`` is no such tensor.

    Absolute embeddings (1, h, w, D) are resized bicubically, relative ones (2n - 1, D) linearly along their length,
    as segment_anything does it at run time.
    """
    if key.endswith(".pos_embed") and tensor.ndim == len(shape) == 4 and tensor.shape[3] == shape[3]:
        return resize_positions(tensor, grid_hw=(shape[1], shape[2]))
    if key.endswith((".rel_pos_h", ".rel_pos_w")) and tensor.ndim == len(shape) == 2 and tensor.shape[1] == shape[1]:
        return functional.interpolate(tensor.float().T[None], size=shape[0], mode="linear")[0].T.contiguous()
    return None


def _rename(key: str, rule: tuple[re.Pattern[str], str]) -> str:
    return rule[0].sub(rule[1], key)


def _tinyvit_key(key: str) -> str:
    key = _TINYVIT_MERGE.sub(lambda match: f"image_encoder.trunk.stages.{int(match[1]) + 1}.downsample.", key)
    for rule in _TINYVIT_RENAMES:
        key = _rename(key, rule)
    return key
