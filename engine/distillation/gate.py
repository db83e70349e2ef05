"""The best student so far, by the sites' validation images: what a gated distillation keeps (ours, not the paper's)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def pooled_dice(figures: Iterable[Mapping[str, float]]) -> float | None:
    """Return the mean of the sites' ``val_dice`` weighted by ``val_images``, as if all images were at one place.

    Sites without validation images say nothing and count nothing; None where there is none that has any.
    """
    scored = [site for site in figures if "val_dice" in site]
    images = sum(site["val_images"] for site in scored)
    return sum(site["val_dice"] * site["val_images"] for site in scored) / images if images else None


def mixed(first: Mapping[str, Tensor], last: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return (1 - ``share``) ``first`` + ``share`` ``last``, entry by entry; counters, which are whole, are the last's.

    Means of the weights before and after fine-tuning do better on images that neither has seen than either end
    (Wortsman et al., "Robust fine-tuning of zero-shot models", arXiv 2109.01903).
    """
    return {
        name: torch.lerp(first[name].to(value), value, share) if value.is_floating_point() else value
        for name, value in last.items()
    }


def farthest(dice: Mapping[float, float], *, first: float, tolerance: float) -> float:
    """Return the largest share whose Dice is at most ``tolerance`` below ``first``; 0 where there is none."""
    return max((share for share, value in dice.items() if value >= first - tolerance), default=0.0)


class BestStudent:
    """The weights of the best epoch, epoch 0 being the student that distillation begins with.

    A later epoch has to be better: of equal ones the earlier is kept. Without ``keeps_weights`` the figures alone are.
    """

    def __init__(self, *, keeps_weights: bool = True) -> None:
        self._keeps_weights = keeps_weights
        self.dice: list[float] = []
        """By epoch, from 0."""
        self.judged = -1
        """The last epoch that was judged."""
        self.kept_epoch = 0
        self._weights: dict[str, Tensor] | None = None

    def judge(self, epoch: int, *, dice: float | None, weights: Mapping[str, Tensor]) -> None:
        """Take note of the next epoch's ``dice`` and keep a copy of ``weights`` where it is the best.

        Where nobody can judge (``dice`` is None), the latest is kept: the loop has it, and no copy is made.
        """
        assert epoch == self.judged + 1, "each epoch is judged once, in order"
        self.judged = epoch
        if dice is None:
            self.kept_epoch = epoch
            return
        if not self.dice or dice > self.dice[self.kept_epoch]:
            self.kept_epoch = epoch
            if self._keeps_weights:
                self._weights = {name: _copy(value) for name, value in weights.items()}
        self.dice.append(dice)

    @property
    def weights(self) -> Mapping[str, Tensor] | None:
        """The weights of the best epoch; None where nobody could judge."""
        return self._weights

    def settle(self, student: nn.Module) -> None:
        """Give ``student`` the kept weights, where there are any."""
        if self._weights is not None:
            student.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, ready for a checkpoint."""
        return {"dice": list(self.dice), "judged": self.judged, "kept_epoch": self.kept_epoch, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state made by :meth:`state_dict`."""
        self.dice, self.judged, self.kept_epoch = list(state["dice"]), state["judged"], state["kept_epoch"]
        self._weights = state["weights"]


def _copy(tensor: Tensor) -> Tensor:
    return torch.clone(tensor.detach().cpu())
