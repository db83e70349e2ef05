"""Reading every image once before anything is trained on: a fault in the last one must not be found hours later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from engine.data.class_checks import class_absent, class_nowhere
from engine.data.datasets import Federation
from engine.data.fingerprints import Sketchbook
from engine.data.imagesets import ImageSet
from engine.data.problems import Problem, raise_problems, warnings_of
from engine.data.sources import FolderItem, Item
from engine.data.validation import check_copies, check_near_copies
from engine.errors import UserError

Part = tuple[str, ImageSet]


def read_everything(federation: Federation, *, on_image: Callable[[int, int], None]) -> list[str]:
    """Decode every image and mask of ``federation``, into memory as far as that reaches; phantoms have no faults.

    ``on_image(done, total)`` is told before each. Raises one ``UserError`` for all files that cannot be used, pictures
    that lie at two sites, and classes that no site marks. Returns what a person should know all the same: a picture
    that a site both trains and validates on in two encodings, a class that a site never marks.
    """
    sites = federation.sites.values()
    # What is trained on first: memory may not reach for all.
    everything = [(site.name, site.train) for site in sites] + [(site.name, site.validation) for site in sites]
    everything.append((federation.test.name, federation.test.test))
    parts = [(site, images) for site, images in everything if images.items and isinstance(images.items[0], FolderItem)]
    items: dict[str, list[Item]] = {}
    for site, images in parts:
        items.setdefault(site, []).extend(images.items)
    book = Sketchbook(items)
    marked = {site: np.zeros(len(federation.classes), bool) for site in items}
    problems = _unreadable(parts, book=book, marked=marked, on_image=on_image)
    if not problems:  # what cannot be read may hold the class
        problems = _class_problems(federation, marked)
    validated = {item for site in sites for item in site.validation.items}
    problems += [*check_copies(items), *check_near_copies(book.shown(), validated=validated)]
    raise_problems(problems, dataset=federation.name)
    return [f"{problem.what} {problem.fix}" for problem in warnings_of(problems)]


def _unreadable(
    parts: Sequence[Part],
    *,
    book: Sketchbook,
    marked: Mapping[str, np.ndarray],
    on_image: Callable[[int, int], None],
) -> list[Problem]:
    problems: dict[tuple[str, str], Problem] = {}
    done, total = 0, sum(len(images) for _, images in parts)
    for site, images in parts:
        for index, item in enumerate(images.items):
            on_image(done, total)
            try:
                levels, mask = images.read(index)
                if isinstance(item, FolderItem):
                    book.draw(item, levels.transpose(1, 2, 0))
                if images.labelled:
                    marked[site][:] |= mask.any(axis=(1, 2))
            except UserError as error:  # a damaged volume is one fault, not one for each slice
                problems.setdefault((error.code, error.what), Problem(error.code, error.what, error.fix, site=site))
            done += 1
    return list(problems.values())


def _class_problems(federation: Federation, marked: Mapping[str, np.ndarray]) -> list[Problem]:
    """Return the classes that no site that trains marks, and those that one site never marks."""
    if any(not site.train.labelled for site in federation.sites.values()):
        return []  # what the sites show is not known
    sources = [site for site in federation.sites if site in marked]
    problems = []
    for k, name in enumerate(federation.classes):
        if sources and not any(marked[site][k] for site in sources):
            problems.append(class_nowhere(name, where="the sites that train"))
        else:
            problems += [class_absent(name, site=site) for site in marked if not marked[site][k]]
    return problems
