"""Which models the page offers, in which order and in which words. Pure; torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from app import looks_text, model_text, variant_choice, variants_text
from engine.types import MEAN_CLASS

if TYPE_CHECKING:
    from engine.data.tiling import Looks
    from export.manifest import LooksMeasured, Manifest


@dataclass(frozen=True)
class Score:
    """A model's Dice on images of one kind, mean over them, with its 95 % interval where there is one."""

    dice: float
    low: float | None
    high: float | None
    where: str
    num_images: int
    is_unseen: bool
    """On a site that no training saw; else on the sources' validation images."""


@dataclass(frozen=True)
class Offer:
    """A model that can be chosen; ``key`` says where it is from."""

    key: str
    name: str
    origin: str
    modality: str
    classes: tuple[str, ...]
    created: str
    score: Score | None
    is_tryout: bool
    """Trained on drawn images: to try the program with, and for no patient's image."""
    looks: LooksMeasured | None = None
    best_looks: Looks = "whole"
    variants: str | None = None
    """What is said of its faster variants; None where it has none."""
    is_broken: bool = False
    """Its manifest cannot be read; whoever chooses it is told why."""


def score_of(rows: Sequence[dict[str, Any]]) -> Score | None:
    """Return the score of a bundle's rows of results: on unseen images, else on validation images, else None.

    Of several classes the mean; of several sites the mean over images, without an interval.
    """
    for split in ("test", "validation"):
        own = [row for row in rows if row["split"] == split]
        own = [row for row in own if row["class_name"] == MEAN_CLASS] or own
        images = sum(row["num_images"] for row in own)
        if not images:
            continue
        one = own[0] if len(own) == 1 else None
        return Score(
            dice=sum(row["num_images"] * row["dice"] for row in own) / images,
            low=one["dice_low"] if one else None,
            high=one["dice_high"] if one else None,
            where=one["site"] if one else model_text.SITES.format(count=len({row["site"] for row in own})),
            num_images=images if one else sum({row["site"]: row["num_images"] for row in own}.values()),
            is_unseen=split == "test",
        )
    return None


def offer(key: str, manifest: Manifest, *, origin: str) -> Offer:
    """Return what is offered of a bundle."""
    return Offer(
        key=key,
        name=manifest.name,
        origin=origin,
        modality=manifest.modality,
        classes=manifest.classes,
        created=manifest.created[:10],
        score=score_of(manifest.metrics),
        is_tryout=manifest.config.get("data", {}).get("source") == "phantom",
        looks=manifest.looks,
        best_looks=manifest.best_looks,
        variants=variant_choice.facts(manifest),
    )


def broken(key: str, name: str, *, origin: str) -> Offer:
    """Return what is offered of a bundle whose manifest cannot be read."""
    return Offer(key, name, origin, "", (), "", None, is_tryout=False, is_broken=True)


def best_first(offers: Sequence[Offer]) -> list[Offer]:
    """Return models of real images before try-outs; those measured on unseen images first, best Dice first.

    A model that nobody has measured comes last of its kind; equals stay in their order.
    """

    def place(found: Offer) -> tuple[bool, bool, bool, bool, float]:
        score = found.score
        unseen = score is not None and score.is_unseen
        return found.is_broken, found.is_tryout, score is None, not unseen, -(score.dice if score else 0.0)

    return sorted(offers, key=place)


def comparable(offers: Sequence[Offer], key: str | None) -> list[Offer]:
    """Return what the offered model ``key`` can be compared with: the others that find the same classes."""
    classes = next((set(found.classes) for found in offers if found.key == key and not found.is_broken), None)
    return [found for found in offers if found.key != key and not found.is_broken and set(found.classes) == classes]


def label(found: Offer) -> str:
    """Return an option of the list: what it is for first, then how good it was and where it is from."""
    if found.is_broken:
        return model_text.BROKEN.format(name=found.name, origin=found.origin)
    kind = model_text.TRYOUT.format(name=found.name) if found.is_tryout else found.name
    return " · ".join([kind, ", ".join(found.classes), dice(found.score), found.origin])


def dice(score: Score | None) -> str:
    """Return a score in words of a line."""
    if score is None:
        return model_text.NOT_MEASURED
    kind = model_text.UNSEEN if score.is_unseen else model_text.VALIDATION
    return kind.format(dice=f"{score.dice:.2f}")


def facts(found: Offer) -> str:
    """Return what a person should know of the chosen model: images, classes, Dice with its interval, date."""
    rows = [
        (model_text.FACT_IMAGES, found.modality + (model_text.DRAWN if found.is_tryout else "")),
        (model_text.FACT_CLASSES, ", ".join(found.classes)),
        (model_text.FACT_DICE, _in_full(found.score)),
        (model_text.FACT_FROM, f"{found.origin}, {found.created}"),
    ]
    if found.looks is not None:
        rows.insert(3, (looks_text.FACT, _looks(found.looks, looks_text.BETTER[found.best_looks])))
    if found.variants is not None:
        rows.insert(-1, (variants_text.FACT, found.variants))
    cells = "".join(f"<tr><th scope='row'>{name}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table class='facts'><tbody>{cells}</tbody></table>"


def _looks(measured: LooksMeasured, best: str) -> str:
    return looks_text.MEASURED.format(
        best=best, whole=measured.whole, parts=measured.parts, fine=measured.fine, images=measured.num_images
    )


def _in_full(score: Score | None) -> str:
    if score is None:
        return model_text.NOT_MEASURED
    interval = "" if score.low is None or score.high is None else f" [{score.low:.3f}, {score.high:.3f}]"
    where = model_text.WHERE_UNSEEN if score.is_unseen else model_text.WHERE_VALIDATION
    return f"{score.dice:.3f}{interval}, {where.format(site=score.where, images=score.num_images)}"


def kept(
    keys: Sequence[str], *, chosen: str | None, wanted: str | None, is_first: bool
) -> tuple[str | None, str | None]:
    """Return the key that the list shows from now on, and the one that is gone; None for none.

    ``wanted`` is what the address asks for, ``is_first`` whether nothing was offered before. The best is shown where
    nobody has asked for one; what somebody had chosen is never followed by another that he has not.
    """
    for asked in (wanted, chosen):
        if asked in keys:
            return asked, None
        if asked is not None:
            return None, asked
    return (keys[0] if keys and is_first else None), None


def gone(key: str, *, is_address: bool) -> str:
    """Return what is said of a model that is not there any more."""
    where, _, name = key.partition("/")
    of_run = where == "run"
    model = (model_text.OF_RUN if of_run else model_text.OF_PROGRAM).format(name=name.partition("/")[0] or key)
    if is_address:
        return model_text.NOT_HERE.format(model=model[0].lower() + model[1:])
    return model_text.GONE.format(model=model)
