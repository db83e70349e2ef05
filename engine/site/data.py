"""A site's images, cut into those to train and validate on, and what it says of them. Torch-free."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from engine.config import RunConfig
from engine.data.datasets import Federation, load_federation
from engine.data.imagesets import ImageSet, pool_sets
from engine.data.sources import FolderItem, Item
from engine.federation.descriptions import FederationDescription, SiteDescription

POOLED = "all_sites"
"""The one site that trains where images are pooled."""


@dataclass(frozen=True)
class SiteData:
    """One site's images; a source has an empty ``test``, a site of the test nothing but ``test``."""

    name: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    modality: str

    def description(self) -> SiteDescription:
        """Return names, counts and digests: no pixels."""
        parts = {"test": self.test} if len(self.test) else {"train": self.train, "validation": self.validation}
        return SiteDescription(
            self.name,
            "test" if len(self.test) else "source",
            len(self.train),
            len(self.validation),
            len(self.test),
            {part: digest_of(images.items) for part, images in parts.items()},
        )


def sites_here(config: RunConfig, *, federation: Federation | None = None) -> Mapping[str, SiteData]:
    """Return all sites of a run whose images lie on this machine: the sources, then those of the test.

    With ``data.pooled`` the sources are one site, ``POOLED``: their union, each cut as it would be alone. This breaks
    what a federation promises, and is why it can be only where all sites' images lie on one machine.
    """
    federation = federation or load_federation(config.data, seed=config.seed)
    about = {"classes": federation.classes, "modality": federation.modality}
    found = {
        name: SiteData(name, site.train, site.validation, site.test, **about) for name, site in federation.sites.items()
    }
    if config.data.pooled:
        found = _pooled(found)
    return found | sites_of_test(federation, sources=federation.sites)


def sites_of_test(federation: Federation, *, sources: Collection[str]) -> dict[str, SiteData]:
    """Return the sites of the test of ``federation``; ``sources`` are the names of those that train, wherever they are.

    A fixed test set may hold images of several sites, one entry each; one whose name is a source's is ``NAME_test``.
    """
    about = {"classes": federation.classes, "modality": federation.modality}
    images, none = federation.test.test, federation.test.train
    by_site: dict[str, list[int]] = {}
    for index, item in enumerate(images.items):
        by_site.setdefault(item.site, []).append(index)
    if len(by_site) < 2:
        return {federation.test.name: SiteData(federation.test.name, none, none, images, **about)}
    names = {site: f"{site}_test" if site in sources else site for site in by_site}
    return {
        names[site]: SiteData(names[site], none, none, images.subset(chosen), **about)
        for site, chosen in by_site.items()
    }


def _pooled(sources: Mapping[str, SiteData]) -> dict[str, SiteData]:
    parts = list(sources.values())
    train, validation = (pool_sets([getattr(part, name) for part in parts]) for name in ("train", "validation"))
    return {POOLED: replace(parts[0], name=POOLED, train=train, validation=validation)}


def describe_all(config: RunConfig, federation: Federation, sites: Mapping[str, SiteData]) -> FederationDescription:
    """Return what the server may know of sites that all lie here."""
    described = [site.description() for site in sites.values()]
    return FederationDescription(
        federation.name,
        federation.task,
        federation.modality,
        federation.classes,
        tuple(site for site in described if site.role == "source"),
        tuple(site for site in described if site.role == "test"),
        federation.test.name,
        digest_of(federation.test.test.items),
        config.data.protocol == "fixed-test",
        federation.value_range,
        federation.slice_axis,
        federation.window,
    )


def digest_of(items: tuple[Item, ...]) -> str:
    """Return a digest of which images these are: names, patients and the sizes of their files, bytes."""
    digest = hashlib.sha256()
    for item in items:
        sizes = [path.stat().st_size for path in (item.image, *item.masks)] if isinstance(item, FolderItem) else []
        digest.update(json.dumps([item.site, item.name, item.group, sizes]).encode())
    return digest.hexdigest()
