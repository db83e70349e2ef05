"""How evenly a model serves the sites: the worst one's Dice and the spread, beside the mean. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, pstdev

from engine.types import MEAN_CLASS, EvaluationRow, SiteSpread


def site_spread(rows: Sequence[EvaluationRow]) -> list[SiteSpread]:
    """Return a row for each model and split that was measured at two sites or more, in the order they first appear.

    A site's Dice is its mean over images and classes, and every site counts the same. The row of a test set that is
    all of its sites together is left out. Of equally bad sites the first is the worst.
    """
    classes: dict[tuple[str, str, str], list[EvaluationRow]] = {}
    for row in rows:
        classes.setdefault((row.model, row.split, row.site), []).append(row)
    groups: dict[tuple[str, str], list[EvaluationRow]] = {}
    for (model, split, _), of_site in classes.items():
        groups.setdefault((model, split), []).append(_mean_of(of_site))
    found = []
    for (model, split), measured in groups.items():
        of_sites = [row for row in measured if not _is_all_of_them(row, [other for other in measured if other != row])]
        if len(of_sites) < 2:
            continue
        worst = min(of_sites, key=lambda row: row.dice)
        found.append(
            SiteSpread(
                model=model,
                split=split,  # type: ignore[arg-type]
                num_sites=len(of_sites),
                dice=fmean(row.dice for row in of_sites),
                dice_sd=pstdev(row.dice for row in of_sites),
                worst_site=worst.site,
                worst_dice=worst.dice,
            )
        )
    return found


def _mean_of(of_site: Sequence[EvaluationRow]) -> EvaluationRow:
    """Return a site's row of the mean over classes; where there is none, of one class or of an old run, make it."""
    made = replace(of_site[0], class_name=MEAN_CLASS, dice=fmean(row.dice for row in of_site))
    return next((row for row in of_site if row.class_name == MEAN_CLASS), made)


def _is_all_of_them(row: EvaluationRow, others: Sequence[EvaluationRow]) -> bool:
    """Return whether ``row`` has the images of all ``others``, two at least, together."""
    if len(others) < 2 or row.num_images != sum(other.num_images for other in others):
        return False
    together = math.fsum(other.num_images * other.dice for other in others) / row.num_images
    return math.isclose(row.dice, together, abs_tol=1e-9)
