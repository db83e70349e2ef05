"""The dataset folders that a configuration names, scanned and checked: the sites', and a test set of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.config import DataConfig
from engine.data.class_checks import class_nowhere
from engine.data.layout import dataset_sites, scan_dataset
from engine.data.problems import Problem, raise_problems
from engine.data.scan import Scan
from engine.data.sources import FolderItem
from engine.data.validation import Examination, check_copies, check_near_copies, check_shared_patients, check_sites
from engine.data.watch import Watch
from engine.errors import UserError


@dataclass(frozen=True)
class Folders:
    """What a configuration's folders hold. ``test`` is None where a site is held out; its images are not read twice.

    ``problems`` are those of both, and of what they have in common.
    """

    root: Path
    training: Scan
    test: Scan | None
    problems: Sequence[Problem]


def read_folders(config: DataConfig, *, thorough: bool, watch: Watch | None = None) -> Folders:
    """Return what the folders of ``config`` hold, and every fault; ``thorough`` decodes all of it, ``watch`` follows.

    Raises ``UserError`` where there is nothing to look at: folders that are missing or no datasets, sites that are not
    there, test classes that are not the training's.
    """
    root = _root(config)
    present = dataset_sites(root)
    refuse_unknown_held_out(config, dataset=str(root), sites=present)
    chosen = participants(config)
    labelled = _labelled(config, present if chosen is None else chosen)
    training = scan_dataset(root, sites=chosen, labelled=labelled, watch=watch)
    seen = check_sites(training, thorough=thorough, classes=config.classes)
    if config.protocol == "leave-one-site-out":
        is_complete = thorough and not training.watch.has_enough
        untrained = _untrained(config, training, seen) if is_complete and config.site_labels == "read" else []
        return Folders(root, training, None, [*training.problems, *untrained])
    test, seen_in_test = _examined_test(
        config, thorough=thorough, classes=training.description.classes, name=training.description.name, watch=watch
    )
    common = _common(training, seen, test, seen_in_test)
    return Folders(root, training, test, [*training.problems, *test.problems, *common])


def read_test_set(config: DataConfig, *, thorough: bool, classes: tuple[str, ...] | None, name: str) -> Scan:
    """Return the test set of ``config`` for a training set called ``name``; raises ``UserError`` for all its faults.

    Its classes have to be ``classes``, where these are given.
    """
    scan, _ = _examined_test(config, thorough=thorough, classes=classes, name=name)
    raise_problems(scan.problems, dataset=str(config.test_root))
    return scan


def _examined_test(
    config: DataConfig, *, thorough: bool, classes: tuple[str, ...] | None, name: str, watch: Watch | None = None
) -> tuple[Scan, Examination]:
    test = scan_dataset(_test_root(config), watch=watch)
    about = test.description
    if classes is not None and about.classes != classes:
        raise UserError(
            "data.classes_differ",
            what=f"The test set {about.name} has the classes {', '.join(about.classes)}, "
            f"the training set {name} has {', '.join(classes)}.",
            why="What is measured must be what was learned, in the same order.",
            fix="Give both dataset.toml files the same classes.",
        )
    return test, check_sites(test, thorough=thorough, classes=config.classes, min_images=1)


def participants(config: DataConfig) -> tuple[str, ...] | None:
    """Return the sites that take part, the held-out one included; None for all."""
    if config.sites is None:
        return None
    held_out = (config.held_out,) if config.protocol == "leave-one-site-out" and config.held_out else ()
    return tuple(dict.fromkeys((*config.sites, *held_out)))


def refuse_unknown_held_out(config: DataConfig, *, dataset: str, sites: list[str]) -> None:
    """Raise ``UserError`` where ``config`` holds out a site that is not there."""
    if config.protocol == "leave-one-site-out" and config.held_out is not None and config.held_out not in sites:
        raise UserError(
            "data.held_out_unknown",
            what=f"The dataset {dataset} has no site called '{config.held_out}' to hold out.",
            why="The configuration's data.held_out names the site on which the models are measured.",
            fix=f"Use one of its sites: {', '.join(sites)}.",
        )


def held_out_site(config: DataConfig, sites: Iterable[str]) -> str:
    """Return the site that nobody trains on: the last one where none is named."""
    return config.held_out or sorted(sites)[-1]


def _labelled(config: DataConfig, sites: Sequence[str]) -> frozenset[str] | None:
    """Return the sites whose images need masks; None for all. A site that is alone is none that is held out."""
    if config.site_labels == "read":
        return None
    if config.protocol == "fixed-test" or (config.held_out is None and len(sites) < 2):
        return frozenset()
    return frozenset({held_out_site(config, sites)})


def _root(config: DataConfig) -> Path:
    if config.root is None:
        raise UserError(
            "data.root_missing",
            what="data.root is not set.",
            why="data.source = 'folder' reads the dataset from there.",
            fix="Set data.root to the dataset's folder.",
        )
    return config.root


def _test_root(config: DataConfig) -> Path:
    if config.test_root is None:
        raise UserError(
            "data.test_root_missing",
            what="data.test_root is not set.",
            why="data.protocol = 'fixed-test' measures on the dataset that lies there.",
            fix="Set data.test_root, or use data.protocol = 'leave-one-site-out'.",
        )
    if config.root is not None and config.test_root.resolve() == config.root.resolve():
        raise UserError(
            "data.test_is_training",
            what=f"data.root and data.test_root are the same folder, {config.test_root}.",
            why="A test set that was trained on measures nothing.",
            fix="Set data.test_root to another dataset, or use data.protocol = 'leave-one-site-out'.",
        )
    return config.test_root


def _untrained(config: DataConfig, scan: Scan, seen: Examination) -> list[Problem]:
    """Return a fault for each class that only the held-out site has; one that no site has is told already."""
    held_out = held_out_site(config, seen.tallies)
    sources = [tally for site, tally in seen.tallies.items() if site != held_out]
    if not sources or any(tally.num_unread for tally in sources):
        return []
    return [
        class_nowhere(name, where=f"the sites that train ('{held_out}' is held out)")
        for k, name in enumerate(scan.description.classes)
        if name in (config.classes or scan.description.classes)
        and seen.tallies[held_out].num_with[k]
        and not any(tally.num_with[k] for tally in sources)
    ]


def _common(training: Scan, seen: Examination, test: Scan, seen_in_test: Examination) -> list[Problem]:
    """Return the patients and pictures that a test set shares with the sites that train."""

    def of_test(site: str) -> str:
        return f"test set {test.description.name}, {site}"

    tested = {of_test(site): [_at(item, of_test(site)) for item in items] for site, items in test.items.items()}
    shown = [replace(file, item=_at(file.item, of_test(file.item.site))) for file in seen_in_test.shown]
    both: Mapping[str, Sequence[FolderItem]] = {**training.items, **tested}
    told = {  # with each of the two
        *(problem for items in (training.items, tested) for problem in _between(items)),
        *(problem for files in (seen.shown, shown) for problem in check_near_copies(files)),
    }
    return [problem for problem in [*_between(both), *check_near_copies([*seen.shown, *shown])] if problem not in told]


def _between(items: Mapping[str, Sequence[FolderItem]]) -> list[Problem]:
    return [*check_shared_patients(items), *check_copies(items)]


def _at(item: FolderItem, site: str) -> FolderItem:
    return replace(item, site=site)
