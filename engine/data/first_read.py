"""Reading every image once before anything is trained on: a fault in the last one must not be found hours later."""

from __future__ import annotations

from collections.abc import Callable

from engine.data.datasets import Federation
from engine.data.imagesets import ImageSet
from engine.data.problems import Problem, raise_problems
from engine.data.sources import FolderItem, Item
from engine.data.validation import check_copies
from engine.errors import UserError


def read_everything(federation: Federation, *, on_image: Callable[[int, int], None]) -> None:
    """Decode every image and mask of ``federation``, into memory as far as that reaches; phantoms have no faults.

    ``on_image(done, total)`` is told before each. Raises one ``UserError`` for all files that cannot be used, and for
    pictures that lie at two sites, byte for byte.
    """
    sites = federation.sites.values()
    # What is trained on first: memory may not reach for all.
    everything = [(site.name, site.train) for site in sites] + [(site.name, site.validation) for site in sites]
    everything.append((federation.test.name, federation.test.test))
    sets = [(site, images) for site, images in everything if images.items and isinstance(images.items[0], FolderItem)]
    problems = _unreadable(sets, on_image=on_image)
    items: dict[str, list[Item]] = {}
    for site, images in sets:
        items.setdefault(site, []).extend(images.items)
    raise_problems([*problems, *check_copies(items)], dataset=federation.name)


def _unreadable(sets: list[tuple[str, ImageSet]], *, on_image: Callable[[int, int], None]) -> list[Problem]:
    problems: dict[tuple[str, str], Problem] = {}
    done, total = 0, sum(len(images) for _, images in sets)
    for site, images in sets:
        for index in range(len(images)):
            on_image(done, total)
            try:
                images.read_levels(index)
            except UserError as error:  # a damaged volume is one fault, not one for each slice
                problems.setdefault((error.code, error.what), Problem(error.code, error.what, error.fix, site=site))
            done += 1
    return list(problems.values())
