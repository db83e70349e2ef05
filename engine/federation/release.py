"""What a site tells of its generator before it leaves: names of figures, limits, and why one is withheld. Torch-free.

Figures cross the border and no picture does; both sides say the same of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.config_generators import ReleaseConfig
from engine.federation.tasks import Scalar

CHECK, MOST_AUC, MOST_COPIES = "check_generator", "most_membership_auc", "most_copies"
"""Settings of a request: a site's own rules set them on its way to the site's program."""
WITHHELD = "withheld"
MEMBERS, HELD_OUT = "check_members", "check_held_out"
AUC, AUC_LOW, AUC_HIGH = "membership_auc", "membership_auc_low", "membership_auc_high"
COPIES, RATIO = "copies", "distance_ratio"
FRECHET, KERNEL, FLD = "frechet_distance", "kernel_distance", "feature_likelihood_divergence"
INCEPTION_FRECHET, INCEPTION_KERNEL = "inception_frechet_distance", "inception_kernel_distance"
FAITHFULNESS, FAITHFULNESS_REAL = "faithfulness", "faithfulness_real"
LIMIT_AUC, LIMIT_COPIES = "limit_membership_auc", "limit_copies"
FIGURES = (
    WITHHELD, MEMBERS, HELD_OUT, AUC, AUC_LOW, AUC_HIGH, COPIES, RATIO, FRECHET, KERNEL, FLD, INCEPTION_FRECHET,
    INCEPTION_KERNEL, FAITHFULNESS, FAITHFULNESS_REAL, LIMIT_AUC, LIMIT_COPIES,
)  # fmt: skip
"""All that a site may tell of its generator."""


@dataclass(frozen=True)
class Limits:
    """What a generator may be at most to leave its site."""

    membership_auc: float
    copies: int | None = None

    def figures(self) -> dict[str, float]:
        """Return the limits as figures, so that a reader sees beside what they were held to."""
        copies = {} if self.copies is None else {LIMIT_COPIES: float(self.copies)}
        return {LIMIT_AUC: self.membership_auc, **copies}

    def settings(self) -> dict[str, Scalar]:
        """Return the limits as settings of a request."""
        return {CHECK: True, MOST_AUC: self.membership_auc} | (
            {} if self.copies is None else {MOST_COPIES: self.copies}
        )


def limits_of(config: ReleaseConfig, settings: Mapping[str, Scalar]) -> Limits | None:
    """Return the strictest of what the run and the site ask for; None where neither asks for a check."""
    asked: list[Limits] = []
    if config.check:
        asked.append(Limits(config.most_membership_auc, config.most_copies))
    if settings.get(CHECK):
        copies = settings.get(MOST_COPIES)
        asked.append(Limits(float(settings.get(MOST_AUC, 1.0)), None if copies is None else int(copies)))
    if not asked:
        return None
    counts = [limits.copies for limits in asked if limits.copies is not None]
    return Limits(min(limits.membership_auc for limits in asked), min(counts, default=None))


def limits_in(figures: Mapping[str, float]) -> Limits:
    """Return the limits that a site says it has held its generator to."""
    return Limits(figures.get(LIMIT_AUC, 1.0), int(figures[LIMIT_COPIES]) if LIMIT_COPIES in figures else None)


def reason_to_withhold(figures: Mapping[str, float], limits: Limits) -> str | None:
    """Return why a generator with these figures may not leave, None where it may; goes on after a colon."""
    if AUC not in figures:
        return "the site has too few held-out images to tell whether it has learnt its training images by heart"
    if figures[AUC] > limits.membership_auc:
        interval = f"[{figures.get(AUC_LOW, 0):.2f}, {figures.get(AUC_HIGH, 1):.2f}]"
        return (
            f"it tells training from held-out images with an AUC of {figures[AUC]:.2f} {interval}, and the limit is "
            f"{limits.membership_auc:g}"
        )
    if limits.copies is not None and figures.get(COPIES, 0) > limits.copies:
        return f"{figures[COPIES]:.0f} of its images are copies of training images, and the limit is {limits.copies}"
    return None
