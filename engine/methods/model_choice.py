"""The families of models by name: what people call them, and which size and first weights a system's own model has.

Torch-free. A configuration may be of any scale: a system that is made of another model takes it at the scale of the
model that it replaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Scale = Literal["mini", "paper"]

FAMILIES = {
    "tinysam": "TinySAM",
    "sam": "SAM",
    "msa": "SAM with adapters",
    "unet": "U-Net",
    "nnunet": "nnU-Net",
    "timm": "U-Net on a timm encoder",
}
"""What tables call a model of ``ModelConfig.name``."""
STARTS_FROM = {"msa": "sam"}
"""Families whose first weights are those of another; what these lack starts at random."""


@dataclass(frozen=True)
class ModelChoice:
    """A model that a system is made of, with its size and first weights (None: random) at each scale."""

    name: str
    mini: tuple[str, str | None]
    paper: tuple[str, str | None]

    def replace(self, part: Mapping[str, Any]) -> dict[str, Any]:
        """Return a model's section of a configuration with this model; one that has it already stays as it is."""
        if part.get("name") == self.name:
            return dict(part)
        size, weights = self.mini if scale_of(part) == "mini" else self.paper
        return {**part, "name": self.name, "size": size, "weights": weights, "batch_norm": "batch"}


SAM = ModelChoice("sam", ("mini", "sam-mini"), ("vit_b", "sam_vit_b_01ec64.pth"))
MSA = ModelChoice("msa", ("mini", "sam-mini"), ("vit_b", "sam_vit_b_01ec64.pth"))
U_NET = ModelChoice("unet", ("mini", None), ("paper", None))
NN_U_NET = ModelChoice("nnunet", ("mini", None), ("paper", None))


def scale_of(part: Mapping[str, Any]) -> Scale:
    """Return the scale of a model's section: that of its size."""
    return "mini" if part.get("size", "mini") == "mini" else "paper"


def chosen_model(values: Mapping[str, Any], section: str, choice: ModelChoice) -> dict[str, Any]:
    """Return nested ``values`` of a configuration with ``choice`` in a section; ``values`` stay as they are."""
    part = values.get(section, {})
    part = part.model_dump() if hasattr(part, "model_dump") else part
    if not isinstance(part, Mapping):  # the schema refuses it
        return dict(values)
    return {**values, section: choice.replace(part)}
