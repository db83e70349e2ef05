"""Sizes of a run that follow from its images: side, length, prompt. Torch-free.

Only what stands in the training images and in the configuration counts, never how fast or busy this machine is: the
same folder has the same sizes everywhere. Every rule and constant here is ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from engine.config import RunConfig, parse_config
from engine.data.facts import SMALL_PERCENTILE, DataFacts
from engine.data.modalities import modality_of
from engine.data.phantoms import TASKS
from engine.federation.connect import measured
from engine.federation.descriptions import FederationDescription
from engine.methods import catalogue
from engine.planning.costs import Speed
from engine.planning.generator_costs import is_mini
from engine.planning.plan import site_plans, work_of
from engine.planning.stage_costs import stage_costs

FITTED_PRESETS = frozenset({"real_cpu"})
"""Presets whose sizes are a beginning: the command line and the form fit them to the images."""
SIDES_PX = (128, 192, 256)
USUAL_SIDE_PX = 192
OBJECT_PX = 8
"""What a small object should measure in the model's input."""
LATENT_PX, OBJECT_LATENTS = 8, 3
"""Pixels of a latent cell of the mini generator, and how many of these a small object should measure."""
MINUTES = 20.0
"""For all of a run, on the reference machine's two cores."""
ROUNDS = (100, 80, 60, 50, 40, 30, 25, 20, 15, 10)
ENOUGH_ROUNDS, ENOUGH_MASKS = 20, 30
"""Finer synthetic images may not cost rounds and shared masks below these."""
PATIENCE = 8
MASKS = (60, 50, 40, 30, 20, 10)
MASKS_KEY = "generation.max_masks_per_site"
PROMPTS = {
    "fundus": "fundus", "skin": "skin", "endoscopy": "polyp", "microscopy": "nuclei", "ct": "liver", "mr": "liver",
}  # fmt: skip
"""For each kind of images the phantom task whose words the mini text encoder has been trained on."""


@dataclass(frozen=True)
class Size:
    """One setting that follows from the images, and why."""

    key: str
    value: int | str
    because: str


def fit_to_data(config: RunConfig, *, given: Collection[str] = ()) -> tuple[RunConfig, tuple[Size, ...]]:
    """Return ``config`` with sizes that follow from its images, and those; the keys ``given`` stay as they are.

    Reads up to 40 training images of each site. Sites at hospitals are not asked for theirs: nothing is fitted there.
    Raises ``UserError`` for faults of the data.
    """
    found = measured(config)
    if found is None:
        return config, ()
    sizes = _Sizes(config, *found, given=frozenset(given))
    return sizes.config, tuple(sizes.chosen)


class _Sizes:
    """Chooses one size after the other, each on the configuration with those before."""

    def __init__(
        self, config: RunConfig, told: FederationDescription, facts: DataFacts, *, given: frozenset[str]
    ) -> None:
        self.config, self.chosen = config, list[Size]()
        self._facts, self._given = facts, given
        self._told = told
        self._take("data.image_px", *side_px(facts))
        if is_mini(config) and "generator" in catalogue.sections_of(catalogue.method(config.method).stage_names):
            self._take("generator.image_px", *self._generated_px())
            words = trained_prompt(told.modality)
            if words is not None:
                self._take("generator.prompt", words, "words that the mini generator has learnt for such images")
        self._length()

    def _take(self, key: str, value: int | str, because: str) -> None:
        if key not in self._given:
            self.config = _changed(self.config, {key: value})
            self.chosen.append(Size(key, value, because))

    def _generated_px(self) -> tuple[int, str]:
        side, because = generated_px(self._facts, self.config.data.image_px)
        least = {"federation.rounds": ENOUGH_ROUNDS, MASKS_KEY: min(ENOUGH_MASKS, self._usual_masks)}
        for px in sorted((px for px in SIDES_PX if px <= max(side, SIDES_PX[0])), reverse=True):
            if px == SIDES_PX[0] or self._minutes({"generator.image_px": px, **least}) <= MINUTES:
                break
        return px, because if px >= side else f"a finer one leaves fewer than {ENOUGH_ROUNDS} rounds"

    @property
    def _usual_masks(self) -> int:
        return self.config.generation.max_masks_per_site or MASKS[0]

    def _minutes(self, changes: Mapping[str, Any]) -> float:
        return _minutes(_changed(self.config, changes), self._told)

    def _length(self) -> None:
        """Take as many rounds as fit into ``MINUTES``; fewer masks are shared where that leaves too few."""
        key, usual = "federation.rounds", self._usual_masks
        if key not in self._given:
            self._take("federation.patience", PATIENCE, "so many rounds without a better validation Dice are enough")
        fewer = () if MASKS_KEY in self._given else tuple(count for count in MASKS if count < usual)
        ladder = (self.config.federation.rounds,) if key in self._given else ROUNDS
        enough = tuple(rounds for rounds in ladder if rounds >= ENOUGH_ROUNDS) or ladder
        tries = (*itertools.product((usual, *fewer), enough), ((usual, *fewer)[-1], ladder[-1]))
        for masks, rounds in tries:
            minutes = self._minutes({key: rounds, MASKS_KEY: masks})
            if minutes <= MINUTES:
                break
        limit = f"with these the whole run takes {minutes:.0f} minutes on the reference machine, of {MINUTES:.0f}"
        within = limit if minutes <= MINUTES else f"the fewest; with these it takes {minutes:.0f} minutes"
        if masks != usual:
            self._take(MASKS_KEY, masks, within)
        self._take(key, rounds, f"{within}; training ends earlier where validation stops rising")


def side_px(facts: DataFacts) -> tuple[int, str]:
    """Return the side of the model's input, pixels, and why.

    It is 192 where nothing speaks against it, smaller where the images are, larger where small objects would be less
    than ``OBJECT_PX`` pixels.
    """
    small = facts.small_object
    enough = [side for side in SIDES_PX if side >= USUAL_SIDE_PX and small is not None and small * side >= OBJECT_PX]
    wanted = USUAL_SIDE_PX if small is None else enough[0] if enough else SIDES_PX[-1]
    held = next((side for side in SIDES_PX if side >= facts.side_px), SIDES_PX[-1])
    if held < wanted:
        return held, f"the images' shorter side is {facts.side_px} pixels, as median"
    if small is None:
        return wanted, "the masks hold no object to go by"
    return wanted, f"small objects measure {small * wanted:.0f} pixels then ({_small(facts)})"


def generated_px(facts: DataFacts, side: int) -> tuple[int, str]:
    """Return the side of synthetic images, pixels, at most ``side``, and why."""
    least = OBJECT_LATENTS * LATENT_PX
    small = facts.small_object
    if small is None:
        return SIDES_PX[0], "the masks hold no object to go by"
    enough = [px for px in SIDES_PX if px <= side and small * px >= least]
    if enough:
        return enough[0], f"small objects measure {OBJECT_LATENTS} cells of the generator and more then"
    return side, f"small objects are under {OBJECT_LATENTS} cells of the generator at any side: the input's own"


def _small(facts: DataFacts) -> str:
    share = 100 * (facts.small_object or 0.0)
    return f"{100 - SMALL_PERCENTILE} % of {facts.objects} objects are larger than {share:.1f} % of the side"


def trained_prompt(modality: str) -> str | None:
    """Return the words that the mini text encoder knows for a dataset's ``modality``; None where it has none, or these.

    A prompt that it never saw is noise to it.
    """
    kind = modality_of(modality)
    task = "prostate" if kind == "mr" and "prostat" in modality.lower() else PROMPTS.get(kind or "")
    words = None if task is None else TASKS[task].modality
    return None if modality in {known.modality for known in TASKS.values()} else words


def _minutes(config: RunConfig, told: FederationDescription) -> float:
    names = catalogue.method(config.method).stage_names
    work = work_of(config, site_plans(told), Speed("cpu", 1.0), num_classes=len(told.classes))
    return sum(cost.seconds for cost in stage_costs(work, names).values()) / 60


def _changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    values = config.model_dump(mode="json")
    for key, value in changes.items():
        section, _, leaf = key.rpartition(".")
        values[section][leaf] = value
    return parse_config(values)
