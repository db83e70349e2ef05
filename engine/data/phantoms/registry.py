"""The six tasks by name, and the calls that draw one phantom or one mask."""

from __future__ import annotations

import numpy as np

from engine.data.phantoms import fundus, liver, nuclei, polyp, prostate, skin
from engine.data.phantoms.base import GENERIC_SITE, Phantom, PhantomTask, Recipe, Streams
from engine.errors import UserError

RECIPES: dict[str, Recipe] = {
    module.RECIPE.task.name: module.RECIPE for module in (fundus, prostate, nuclei, skin, liver, polyp)
}
TASKS: dict[str, PhantomTask] = {name: recipe.task for name, recipe in RECIPES.items()}

MIN_PX, MAX_PX = 32, 1024


def recipe_for(task: str, *, image_px: int, index: int) -> Recipe:
    """Return the recipe of ``task`` after checking the arguments that every drawing call shares.

    Raises
    ------
    UserError
        ``phantom.unknown_task``, ``phantom.bad_size`` or ``phantom.bad_index``.
    """
    if task not in RECIPES:
        raise UserError(
            "phantom.unknown_task",
            what=f"There is no phantom task {task!r}.",
            why="Images are drawn by one of the built-in recipes.",
            fix=f"Use one of: {', '.join(RECIPES)}.",
        )
    if not MIN_PX <= image_px <= MAX_PX:
        raise UserError(
            "phantom.bad_size",
            what=f"image_px is {image_px}.",
            why=f"Phantoms are drawn from {MIN_PX} to {MAX_PX} pixels a side.",
            fix="Choose 64, 96, 128 or 256.",
        )
    if index < 0:
        raise UserError(
            "phantom.bad_index",
            what=f"index is {index}.",
            why="Phantoms are numbered from 0.",
            fix="Use an index of 0 or more.",
        )
    return RECIPES[task]


def draw(recipe: Recipe, *, site: str, index: int, image_px: int, seed: int) -> Phantom:
    """Draw phantom ``index`` of ``site``; consecutive slices of a patient share style and anatomy streams."""
    task, count = recipe.task.name, recipe.slices_per_patient
    patient, within = divmod(index, count)
    position = 0.0 if count == 1 else (within + 0.5) / count * 2.0 - 1.0
    person = Streams(seed, (task, site, "patient", patient))
    style = recipe.style(site, person)
    geometry = recipe.anatomy(style, person, position)
    mask = recipe.masks(geometry, image_px)
    image = recipe.paint(geometry, mask, style, Streams(seed, (task, site, "image", index)), image_px)
    return Phantom(image=image, mask=mask, site=site, group=f"{site}-p{patient:04d}", style=style)


def render(task: str, *, site: str, index: int, image_px: int = 256, seed: int = 1337) -> Phantom:
    """Draw image ``index`` of a named ``site``.

    Returns
    -------
    Phantom
        ``image`` (image_px, image_px, 3) uint8 RGB and the exact ``mask`` (K, image_px, image_px) uint8 in {0, 1}.
        Equal arguments give equal bytes; no index depends on another.

    Raises
    ------
    UserError
        ``phantom.unknown_task``, ``phantom.unknown_site``, ``phantom.bad_size`` or ``phantom.bad_index``.
    """
    recipe = recipe_for(task, image_px=image_px, index=index)
    if site not in recipe.looks:
        raise UserError(
            "phantom.unknown_site",
            what=f"The phantom task {task!r} has no site {site!r}.",
            why="A site names a camera or scanner whose look is defined in the task's file.",
            fix=f"Use one of: {', '.join(recipe.looks)}.",
        )
    return draw(recipe, site=site, index=index, image_px=image_px, seed=seed)


def render_generic(task: str, *, index: int, image_px: int = 128, seed: int = 2025) -> Phantom:
    """Draw image ``index`` of the generic site, whose style is drawn anew for every patient from broad ranges.

    For pre-training only: no named site's images come from these streams. Shapes and errors as in :func:`render`.
    """
    recipe = recipe_for(task, image_px=image_px, index=index)
    return draw(recipe, site=GENERIC_SITE, index=index, image_px=image_px, seed=seed)


def random_mask(task: str, *, index: int, image_px: int, seed: int) -> np.ndarray:
    """Return only a mask, (K, image_px, image_px) uint8 in {0, 1}, of a random patient at a random slice position.

    Its streams are neither the named sites' nor the generic site's, so it repeats no training mask. Errors as in
    :func:`render`.
    """
    recipe = recipe_for(task, image_px=image_px, index=index)
    person = Streams(seed, (task, "mask", index))
    position = 0.0 if recipe.slices_per_patient == 1 else float(person.rng("position").uniform(-0.8, 0.8))
    return recipe.masks(recipe.anatomy(recipe.style(GENERIC_SITE, person), person, position), image_px)
