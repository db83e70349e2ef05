"""Whether every class has something to learn from and to be measured on. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from engine.data.description import DatasetDescription
from engine.data.problems import Problem
from engine.data.scan import Scan


class Tally:
    """What the masks of one site showed.

    Attributes
    ----------
    num_masks : images whose masks could be read.
    num_with : images with foreground of each class, in the description's order.
    num_full : images of which every pixel is foreground.
    values : those values of a label map that occurred.
    """

    def __init__(self, description: DatasetDescription) -> None:
        self.classes = description.classes
        self.declared = description.mask_values if isinstance(description.mask_values, dict) else {}
        self.num_masks = 0
        self.num_unread = 0
        self.num_with = [0] * len(description.classes)
        self.num_full = 0
        self.values: set[int] = set()

    def add(self, labels: list[np.ndarray], planes: np.ndarray | None) -> None:
        """Count one image: its stored numbers and its planes (K, h, w) in {0, 1}; None where they cannot be read."""
        if planes is None:
            self.num_unread += 1
            return
        self.num_masks += 1
        present = planes.any(axis=(1, 2))
        self.num_with = [count + int(here) for count, here in zip(self.num_with, present, strict=True)]
        self.num_full += int(planes.any(axis=0).all())
        unseen = {value for values in self.declared.values() for value in values} - self.values
        self.values |= {value for value in unseen if (labels[0] == value).any()}

    @property
    def has_foreground(self) -> bool:
        """Return whether any mask marks something; a mask that cannot be read is a fault of its own, so it may."""
        return any(self.num_with) or self.num_unread > 0


def tell_classes(scan: Scan, tallies: Mapping[str, Tally], *, wanted: Sequence[str], complete: bool) -> None:
    """Note sites without any foreground and, where all masks have been read, classes and values that do not occur."""
    for site, tally in tallies.items():
        if tally.num_masks and not tally.has_foreground:
            scan.fault(
                "data.site_no_foreground",
                site=site,
                what=f"No mask of site '{site}' has a single foreground pixel.",
                fix="Check how the masks were exported, or leave the site out (data.sites).",
            )
    if not complete or any(tally.num_unread for tally in tallies.values()):  # what cannot be read may hold it
        return
    marked = {site: tally for site, tally in tallies.items() if tally.has_foreground}
    for k, name in enumerate(scan.description.classes):
        if name not in wanted:
            continue
        without = [site for site, tally in marked.items() if not tally.num_with[k]]
        if without and len(without) == len(marked):
            scan.problems.append(class_nowhere(name, where="any site"))
        else:
            for site in without:
                scan.problems.append(class_absent(name, site=site))
    for site, tally in marked.items():
        if tally.num_full == tally.num_masks:
            scan.warn(
                "data.mask_full",
                site=site,
                what=f"At site '{site}' every pixel of every mask is foreground.",
                fix="Check how the masks were exported: outlines may be lost, or the values exchanged.",
            )
    _tell_unused_values(scan, marked)


def class_nowhere(name: str, *, where: str) -> Problem:
    """Return the fault of a class that no mask of ``where`` marks."""
    return Problem(
        "data.class_nowhere",
        f"The class '{name}' has no foreground: it occurs in no mask of {where}.",
        "Check how its masks were exported and its value in mask_values, or take it out (classes in dataset.toml, or "
        "data.classes).",
    )


def class_absent(name: str, *, site: str) -> Problem:
    """Return the warning of a class that one site never marks."""
    return Problem(
        "data.class_absent",
        f"The class '{name}' occurs in no mask of site '{site}'. Where that site trains, it teaches that there is "
        "none; where it is measured, an image counts as Dice 1 as soon as nothing is predicted, which says little.",
        "If it was not drawn there, leave the site out (data.sites) or the class (data.classes); if there truly is "
        "none, keep it in mind when reading the scores.",
        site=site,
        weight="warning",
    )


def _tell_unused_values(scan: Scan, tallies: Mapping[str, Tally]) -> None:
    if not isinstance(scan.description.mask_values, dict) or not tallies:
        return
    seen = set().union(*(tally.values for tally in tallies.values()))
    for name, values in scan.description.mask_values.items():
        unused = sorted(set(values) - seen)
        if unused and set(values) & seen:  # a class of which no value occurs has been told
            scan.warn(
                "data.mask_value_unused",
                what=f"mask_values gives the class '{name}' the value(s) {', '.join(map(str, unused))}, which occur in "
                "no mask.",
                fix="Correct the number in dataset.toml, or take it out.",
            )
