"""Validation Dice over the sites, so that one round or epoch can be compared with another where sites are away."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from engine.distillation.gate import pooled_dice


class PooledValidation:
    """What each site said last; its state is a part of a stage's checkpoint.

    A site that was asked and does not answer counts with what it said last (ours): without it, the mean would rise or
    fall by who is away. One that has said nothing yet counts nothing.
    """

    def __init__(self, said: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self._said = {site: dict(figures) for site, figures in (said or {}).items()}

    @property
    def sites(self) -> tuple[str, ...]:
        """Those that have said anything."""
        return tuple(self._said)

    def pool(self, figures: Mapping[str, Mapping[str, float]], *, asked: Collection[str]) -> float | None:
        """Return the mean Dice over the validation images of ``asked``, in [0, 1]; None where nobody has any.

        ``figures`` are the ``val_dice`` and ``val_images`` of those that answered, by site.
        """
        for site, values in figures.items():
            if "val_dice" in values:
                self._said[site] = {name: values[name] for name in ("val_dice", "val_images")}
        return pooled_dice(self._said[site] for site in sorted(asked) if site in self._said)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, ready for a checkpoint."""
        return {site: dict(figures) for site, figures in self._said.items()}
