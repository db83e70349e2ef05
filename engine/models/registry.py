"""The models by name and size: one table of presets a family, one builder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import torch

from engine.errors import UserError
from engine.models.adapters import build_msa
from engine.models.plain_unet import PLAIN_UNET_PRESETS, PlainUNet, PlainUNetPreset
from engine.models.sam import SAM_PRESETS, SamPreset, build_sam
from engine.models.segmenter import Segmenter
from engine.models.timm_unet import TIMM_PRESETS, TimmPreset, TimmUNet
from engine.models.tinysam import TINYSAM_PRESETS, TinySamPreset, build_tinysam
from engine.models.unet import UNET_PRESETS, UNet, UNetPreset
from engine.seeding import derive_seed

Model = Segmenter | UNet | PlainUNet | TimmUNet
_PRESETS: dict[str, Mapping[str, SamPreset | TinySamPreset | UNetPreset | PlainUNetPreset | TimmPreset]] = {
    "sam": SAM_PRESETS,
    "msa": SAM_PRESETS,
    "tinysam": TINYSAM_PRESETS,
    "unet": UNET_PRESETS,
    "nnunet": PLAIN_UNET_PRESETS,
    "timm": TIMM_PRESETS,
}
_BUILDERS: dict[str, Callable[..., Model]] = {
    "sam": build_sam,
    "msa": build_msa,
    "tinysam": build_tinysam,
    "unet": UNet,
    "nnunet": PlainUNet,
    "timm": TimmUNet,
}


@dataclass(frozen=True)
class ModelSize:
    """One row of the model table: parameters for one class at the native side."""

    name: str
    size: str
    image_px: int
    feature_stride: int
    mask_stride: int
    parameters: int


def build_model(name: str, *, size: str, num_classes: int = 1, image_px: int | None = None, seed: int) -> Model:
    """Return a randomly initialised model, equal for equal ``seed``; the process-wide random state is untouched.

    Parameters
    ----------
    name, size : str
        A row of :func:`model_sizes`, for instance ``"tinysam"`` and ``"mini"``.
    num_classes : int
        K, the channels of the logits.
    image_px : int or None
        Native side in pixels (positional embeddings are made for it); the preset's own when None.
    seed : int
        Names the stream of the initial weights.

    Raises
    ------
    UserError
        ``model.unknown``, ``model.num_classes`` or ``model.image_size``.
    """
    make = _recipe(name, size=size, num_classes=num_classes, image_px=image_px)
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed GPUs too, which fork_rng(devices=[]) does not restore.
        torch.random.default_generator.manual_seed(derive_seed(seed, "model", name, size, num_classes))
        return make()


@lru_cache(maxsize=1)
def model_sizes() -> tuple[ModelSize, ...]:
    """Return every model and size with its parameter count (built without memory, on the meta device)."""
    rows = []
    for name, presets in _PRESETS.items():
        for size in presets:
            with torch.device("meta"):
                model = _recipe(name, size=size, num_classes=1, image_px=None)()
            parameters = sum(parameter.numel() for parameter in model.parameters())
            rows.append(ModelSize(name, size, model.image_px, model.feature_stride, model.mask_stride, parameters))
    return tuple(rows)


def _recipe(name: str, *, size: str, num_classes: int, image_px: int | None) -> Callable[[], Model]:
    if name not in _PRESETS or size not in _PRESETS[name]:
        known = ", ".join(f"{family}/{row}" for family, presets in _PRESETS.items() for row in presets)
        raise UserError(
            "model.unknown",
            what=f"There is no model {name!r} of size {size!r}.",
            why=f"The known models are {known}.",
            fix="Choose a name and a size from that list.",
        )
    if num_classes < 1:
        raise UserError(
            "model.num_classes",
            what=f"A model was asked for with {num_classes} classes.",
            why="Every class has one channel of logits, and the background has none.",
            fix="Declare at least one class in the data set.",
        )
    preset = _PRESETS[name][size]
    side_px = preset.image_px if image_px is None else image_px
    multiple = preset.feature_stride
    if side_px < multiple or side_px % multiple:
        raise UserError(
            "model.image_size",
            what=f"The model {name}/{size} cannot take images of {side_px} pixels.",
            why=f"Its strides need a side that is a multiple of {multiple}.",
            fix=f"Set image_px to a multiple of {multiple}.",
        )
    return partial(_BUILDERS[name], preset, num_classes=num_classes, image_px=side_px)
