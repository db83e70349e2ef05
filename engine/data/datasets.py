"""The federation's data: which images each site trains and validates on, and which nobody trains on. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from engine.config import DataConfig
from engine.data.folders import (
    Folders,
    held_out_site,
    participants,
    read_folders,
    read_test_set,
    refuse_unknown_held_out,
)
from engine.data.imagesets import CACHE_BYTES, ImageSet, PixelCache, pool_sets
from engine.data.partition import partition_preview, split_by_group
from engine.data.phantoms import TASKS
from engine.data.phantoms.registry import MAX_PX, recipe_for
from engine.data.pixels import Window
from engine.data.problems import raise_problems
from engine.data.scan import Scan
from engine.data.sources import Item, PhantomItem
from engine.data.transforms import mask_to_grid, normalise_image
from engine.errors import UserError
from engine.seeding import numpy_generator


@dataclass(frozen=True)
class Site:
    """One hospital: a source site has an empty ``test``, the held-out one nothing but ``test``."""

    name: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet


@dataclass(frozen=True)
class Federation:
    """Everything a run learns from and is measured on. ``sites`` are the sources, sorted by name."""

    name: str
    task: str
    modality: str
    classes: tuple[str, ...]
    sites: Mapping[str, Site]
    test: Site
    value_range: tuple[float, float] | None = None
    """Stored values that became 0 and 1, where the dataset says so: a deployed model must read its images alike."""
    slice_axis: Literal[0, 1, 2] = 2
    window: Window = "auto"


@dataclass(frozen=True)
class Source:
    """A dataset before it is cut: its description and its images by site (sorted)."""

    name: str
    task: str
    modality: str
    classes: tuple[str, ...]
    items: Mapping[str, tuple[Item, ...]]
    value_range: tuple[float, float] | None = None
    slice_axis: Literal[0, 1, 2] = 2
    window: Window = "auto"


def load_federation(
    config: DataConfig, *, seed: int, thorough: bool = False, cache_bytes: int = CACHE_BYTES
) -> Federation:
    """Return the sites' images, cut by patient with the stream ("split", site) of ``seed``.

    Headers, names, patients and one mask with foreground a site are checked here, pixels when they are read, or all of
    them now with ``thorough``. Faults are collected and raised together as one ``UserError``. Decoded images are kept
    in memory up to ``cache_bytes``.
    """
    folders = None if config.source == "phantom" else read_folders(config, thorough=thorough)
    return cut_federation(config, folders, seed=seed, thorough=thorough, cache_bytes=cache_bytes)


def cut_federation(
    config: DataConfig,
    folders: Folders | None,
    *,
    seed: int,
    thorough: bool = False,
    cache_bytes: int = CACHE_BYTES,
) -> Federation:
    """Return what :func:`load_federation` does, of ``folders`` that were read for ``config``; None for phantoms."""
    if folders is not None:
        raise_problems(folders.problems, dataset=str(folders.root))
    source = _phantom_source(config, seed) if folders is None else _source(folders.training)
    image_set, classes = _cutter(config, source, cache_bytes=cache_bytes)
    if config.protocol == "leave-one-site-out":
        held_out = _held_out(config, source)
        test_name, test_items = held_out, source.items[held_out]
        training = {name: items for name, items in source.items.items() if name != held_out}
    else:
        test_name, test_items = _fixed_test(
            config, source, None if folders is None else folders.test, thorough=thorough
        )
        training = dict(source.items)
    test = Site(test_name, image_set(()), image_set(()), image_set(test_items))
    sites = {}
    for name, items in sorted(training.items()):
        sites[name] = _source_site(config, name, items, image_set=image_set, seed=seed)
    return _federation(source, classes, sites=sites, test=test)


def load_site(
    config: DataConfig, site: str, *, root: Path, held_out: bool, seed: int, cache_bytes: int = CACHE_BYTES
) -> Federation:
    """Return a federation of which nothing but ``site`` is on this machine, in ``root``: as its source, or its test.

    The site's images are cut as :func:`load_federation` cuts them where all sites are together.
    """
    alone = {"sites": (site,), "held_out": site if held_out else None, "protocol": "leave-one-site-out"}
    own = config.model_copy(update={**alone, "root": root, "test_root": None})
    if config.source == "folder":
        folders = read_folders(own, thorough=False)
        raise_problems(folders.problems, dataset=str(folders.root))
        source = _source(folders.training)
    else:
        source = _phantom_source(own, seed)
    image_set, classes = _cutter(own, source, cache_bytes=cache_bytes)
    items, none = source.items[site], image_set(())
    if held_out:
        return _federation(source, classes, sites={}, test=Site(site, none, none, image_set(items)))
    cut = _source_site(own, site, items, image_set=image_set, seed=seed)
    return _federation(source, classes, sites={site: cut}, test=Site("", none, none, none))


def load_test_set(
    config: DataConfig, *, name: str, classes: tuple[str, ...], sources: Collection[str], cache_bytes: int = CACHE_BYTES
) -> Federation:
    """Return a federation of which nothing but the fixed test set is here, as :func:`load_federation` has it.

    ``name`` and ``classes`` (those in use) are what the sites that train, ``sources``, have told of their dataset.
    Patients and pictures that they share with the test set cannot be looked for from here.
    """
    # Where some classes are in use, sites have told these alone; the test set is asked for them below.
    told = classes if config.classes is None else None
    scan = read_test_set(config, thorough=False, classes=told, name=name)
    source = _source(scan)
    image_set, chosen = _cutter(config, source, cache_bytes=cache_bytes)
    test_name, items = _named_test(scan, sources)
    none = image_set(())
    return _federation(source, chosen, sites={}, test=Site(test_name, none, none, image_set(items)))


def _cutter(
    config: DataConfig, source: Source, *, cache_bytes: int
) -> tuple[Callable[[tuple[Item, ...]], ImageSet], tuple[str, ...]]:
    """Return what makes image sets with one cache, and the classes in use."""
    planes, classes = _chosen_classes(config, source)
    cache = PixelCache(budget_bytes=cache_bytes)

    def image_set(items: tuple[Item, ...]) -> ImageSet:
        return ImageSet(items, config.image_px, planes, config.normalise, config.augment, cache, config.fit)

    return image_set, classes


def _source_site(
    config: DataConfig,
    name: str,
    items: tuple[Item, ...],
    *,
    image_set: Callable[[tuple[Item, ...]], ImageSet],
    seed: int,
) -> Site:
    train, validation = _split(name, items, fraction=config.validation_fraction, seed=seed)
    if config.site_labels == "ignored":
        validation = tuple(item for item in validation if item.has_mask)
    if not train:
        raise UserError(
            "data.site_no_training",
            what=f"The site '{name}' has no training images ({len(validation)} for validation).",
            why="Every site that takes part trains on its own images.",
            fix="Put some of them into data_npy, or leave the site out (data.sites).",
        )
    learnt = replace(image_set(train), labelled=config.site_labels == "read")
    return Site(name, learnt, image_set(validation), image_set(()))


def _federation(source: Source, classes: tuple[str, ...], *, sites: Mapping[str, Site], test: Site) -> Federation:
    return Federation(
        source.name,
        source.task,
        source.modality,
        classes,
        sites,
        test,
        source.value_range,
        source.slice_axis,
        source.window,
    )


def _split(
    site: str, items: tuple[Item, ...], *, fraction: float, seed: int
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    if any(item.split is not None for item in items):  # the authors' layout comes cut
        return (
            tuple(item for item in items if item.split == "train"),
            tuple(item for item in items if item.split == "validation"),
        )
    groups = [item.group for item in items]
    if fraction > 0 and len(set(groups)) < 2:
        raise UserError(
            "data.site_one_group",
            what=f"All {len(items)} images of site '{site}' show one patient or one picture ('{groups[0]}').",
            why="Training and validation are cut between patients, and copies of a picture stay together.",
            fix="Add images of another patient, leave the site out (data.sites), or set data.validation_fraction = 0.",
        )
    train, validation = split_by_group(groups, validation_fraction=fraction, rng=numpy_generator(seed, "split", site))
    return tuple(items[k] for k in train), tuple(items[k] for k in validation)


def _held_out(config: DataConfig, source: Source) -> str:
    if len(source.items) < 2:
        raise UserError(
            "data.too_few_sites",
            what=f"The dataset {source.name} takes part with {len(source.items)} site ({', '.join(source.items)}).",
            why="Leave-one-site-out needs one site to train on and one to hold out.",
            fix="Add a site, or use data.protocol = 'fixed-test' with a data.test_root. A hospital's own folder, "
            "with its images alone, is checked by `data check FOLDER --site NAME`.",
        )
    return held_out_site(config, source.items)


def _chosen_classes(config: DataConfig, source: Source) -> tuple[tuple[int, ...], tuple[str, ...]]:
    names = source.classes if config.classes is None else tuple(dict.fromkeys(config.classes))
    unknown = [name for name in names if name not in source.classes]
    if unknown or not names:
        raise UserError(
            "data.class_unknown",
            what=f"The dataset {source.name} has no class called {', '.join(unknown) or '(none given)'}.",
            why="The configuration's data.classes names what is segmented.",
            fix=f"Use some of its classes: {', '.join(source.classes)}.",
        )
    return tuple(source.classes.index(name) for name in names), names


def _phantom_source(config: DataConfig, seed: int) -> Source:
    image_px = min(config.image_px, MAX_PX)
    count = recipe_for(config.task, image_px=image_px, index=0).slices_per_patient
    task = TASKS[config.task]
    refuse_unknown_held_out(config, dataset=f"phantom {task.name}", sites=sorted(task.sites))
    wanted = participants(config) or task.sites
    unknown = sorted(set(wanted) - set(task.sites))
    if unknown:
        raise UserError(
            "data.site_unknown",
            what=f"The phantom task {task.name} has no site called {', '.join(unknown)}.",
            why="The configuration's data.sites names it.",
            fix=f"Use sites that exist: {', '.join(sorted(task.sites))}.",
        )
    if config.images_per_site < 2:
        raise UserError(
            "data.site_one_image",
            what=f"data.images_per_site is {config.images_per_site}.",
            why="A site trains on some of its images and validates on others.",
            fix="Ask for at least 2, better 20 or more.",
        )
    items: dict[str, tuple[Item, ...]] = {
        site: tuple(
            PhantomItem(task.name, site, index, f"{site}-p{index // count:04d}", image_px, seed)
            for index in range(config.images_per_site)
        )
        for site in sorted(wanted)
    }
    return Source(f"phantom_{task.name}", task.name, task.modality, task.classes, items)


def _source(scan: Scan) -> Source:
    about = scan.description
    items: dict[str, tuple[Item, ...]] = {site: tuple(found) for site, found in scan.items.items()}
    return Source(
        about.name,
        about.task or about.name,
        about.modality,
        about.classes,
        items,
        about.value_range,
        about.slice_axis,
        about.window,
    )


def _fixed_test(
    config: DataConfig, source: Source, scan: Scan | None, *, thorough: bool
) -> tuple[str, tuple[Item, ...]]:
    if scan is None:  # phantoms are tested on a folder: what they share with it is nothing
        scan = read_test_set(config, thorough=thorough, classes=source.classes, name=source.name)
    return _named_test(scan, source.items)


def _named_test(scan: Scan, sources: Collection[str]) -> tuple[str, tuple[Item, ...]]:
    name = next(iter(scan.items)) if len(scan.items) == 1 else scan.description.name
    while name in sources:
        name = f"{name}_test"
    return name, tuple(item for items in scan.items.values() for item in items)


__all__ = [
    "Federation",
    "ImageSet",
    "Site",
    "load_federation",
    "load_site",
    "load_test_set",
    "mask_to_grid",
    "normalise_image",
    "partition_preview",
    "pool_sets",
]
