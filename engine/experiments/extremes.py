"""The best and the worst images of a run's final model by Dice, under the sites' own numbers. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from engine.experiments.compared_measures import DICE, HD95, IOU
from engine.experiments.comparison import ComparedRun, Place
from engine.experiments.statistics import ImageFigure

MOST = 10
MOST_DIGITS = 12


@dataclass(frozen=True)
class ImageLine:
    """One image: its site and number there, its patient's number (None where it has none), and its figures."""

    site: str
    number: int
    patient: int | None
    dice: float
    iou: float | None
    hd95_px: float | None
    """None where a mask has no foreground, or the run has not kept it."""


@dataclass(frozen=True)
class Extremes:
    """The best images first, the worst first, of ``num_images``; no image is in both."""

    place: Place
    num_images: int
    best: tuple[ImageLine, ...]
    worst: tuple[ImageLine, ...]


def extremes(run: ComparedRun, place: Place, *, most: int = MOST) -> Extremes | None:
    """Return the ``most`` best and worst images of a place, half of all at most; None without figures of images.

    Of equal Dice the smaller number comes first in both. Numbers are the site's own; what is no number (in runs of
    early versions it could be a file's name) is replaced by the image's place in the order of evaluation, from 0.
    """
    images = run.figures[DICE].get(place)
    if images is None:
        return None
    others = {key: {image.name: image.value for image in run.figures[key].get(place, ())} for key in (IOU, HD95)}
    lines = [_line(image, position, others) for position, image in enumerate(images)]
    count = min(most, len(lines) // 2)
    falling = sorted(lines, key=lambda line: (-line.dice, line.site, line.number))
    best = falling[:count]
    left = [line for line in lines if line not in best]
    rising = sorted(left, key=lambda line: (line.dice, line.site, line.number))
    return Extremes(place, len(lines), tuple(best), tuple(rising[:count]))


def shown_places(run: ComparedRun) -> list[Place]:
    """Return the places whose extremes are shown: those of unseen images, of runs without any all others."""
    there = list(run.figures[DICE])
    return [place for place in there if place[0] == "test"] or there


def _line(image: ImageFigure, position: int, others: dict[str, dict[str, float]]) -> ImageLine:
    site, _, name = image.name.partition("/")
    number = _number(name)
    return ImageLine(
        site,
        position if number is None else number,
        _number(image.group.partition("/")[2]),
        image.value,
        others[IOU].get(image.name),
        others[HD95].get(image.name),
    )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS else None
