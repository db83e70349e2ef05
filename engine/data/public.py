"""The public labelled set: images with masks that lie in a folder of the server's own, and which everybody may see.

A type of its own, so that nothing of a site can be taken for it: it is read from ``data.public_root`` alone, and a
folder that the configuration gives to sites or to the test is refused. Sites get it from the server, as arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.config import DataConfig
from engine.data.copies import file_digest
from engine.data.imagesets import CACHE_BYTES, ImageSet, PixelCache
from engine.data.layout import scan_dataset
from engine.data.names import folded
from engine.data.phantoms import TASKS, render_generic
from engine.data.phantoms.base import GENERIC_SITE
from engine.data.problems import raise_problems
from engine.data.sources import FolderItem, Item
from engine.data.validation import check_sites
from engine.errors import UserError
from engine.seeding import derive_seed

PATIENTS, FILES = "patients", "files"
DIGEST_BYTES = 32
SHOWN = 4


@dataclass(frozen=True)
class PublicPhantom:
    """A phantom of no site's look, whose style is drawn anew for every patient; ``seed`` is the run's."""

    task: str
    index: int
    image_px: int
    seed: int
    site: str = GENERIC_SITE
    split: None = None
    has_mask: bool = True

    @property
    def name(self) -> str:
        """Return the image's name."""
        return f"public_{self.index:04d}"

    @property
    def group(self) -> str:
        """Return the phantom's own name: it is its own patient."""
        return self.name

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return image (image_px, image_px, 3) uint8 and mask (K, image_px, image_px) uint8 in {0, 1}."""
        seed = derive_seed(self.seed, "public")
        phantom = render_generic(self.task, index=self.index, image_px=self.image_px, seed=seed)
        return phantom.image, phantom.mask

    def picture(self) -> np.ndarray:
        """Return the image alone."""
        return self.read()[0]


@dataclass(frozen=True)
class PublicSet:
    """The public set: ``images`` with masks of ``classes``, in the planes' order."""

    name: str
    classes: tuple[str, ...]
    images: ImageSet

    def digests(self) -> dict[str, np.ndarray]:
        """Return SHA-256 of the patients' names and of the image files, uint8 (N, 32) each, sorted; phantoms have none.

        A site compares them with its own and tells what it finds: nothing of a site has to be told for that.
        """
        return digests_of(self.images.items)

    def identity(self) -> str:
        """Return a digest of which images these are."""
        digest = hashlib.sha256()
        for item in self.images.items:
            files = [file_digest(path) for path in (item.image, *item.masks)] if isinstance(item, FolderItem) else []
            digest.update(b"\x1f".join([item.name.encode(), item.group.encode(), *files]))
        return digest.hexdigest()


def load_public(config: DataConfig, *, seed: int, cache_bytes: int = CACHE_BYTES) -> PublicSet:
    """Return the public set that a configuration names: a dataset folder, of which all sites are taken, or phantoms.

    Headers, names and one mask with foreground a site are checked here. Raises ``UserError`` ``data.public_missing``,
    ``data.public_is_private``, ``data.class_unknown`` and those of a dataset's faults.
    """
    if config.public_root is None:
        if config.source == "folder":
            raise UserError(
                "data.public_missing",
                what="The method learns from a public labelled set at the server, and data.public_root names none.",
                why="Its sites have no labels: what to segment can be learnt from the public set alone.",
                fix="Set data.public_root to a dataset folder with masks, of the same classes and of other patients.",
            )
        task, px = TASKS[config.task], min(config.image_px, 1024)
        items: list[Item] = [PublicPhantom(task.name, k, px, seed) for k in range(config.public_images)]
        return _public(config, f"public phantoms of {task.name}", task.classes, items, cache_bytes=cache_bytes)
    _refuse_private(config, config.public_root)
    scan = scan_dataset(config.public_root)
    check_sites(scan, thorough=False, classes=config.classes, min_images=1)
    raise_problems(scan.problems, dataset=str(config.public_root))
    about = scan.description
    found = [item for items in scan.items.values() for item in items]
    return _public(config, about.name, about.classes, found, cache_bytes=cache_bytes)


def folders_are_there(config: DataConfig) -> bool:
    """Return whether every folder of images that a configuration names is on this machine."""
    return all(root is None or root.is_dir() for root in (config.root, config.test_root, config.public_root))


def as_phantoms(config: DataConfig) -> DataConfig:
    """Return phantoms of the same task in place of folders, one of their sites held out."""
    places = {"root": None, "test_root": None, "public_root": None, "sites": None, "held_out": None, "classes": None}
    return config.model_copy(update={**places, "source": "phantom", "protocol": "leave-one-site-out"})


def digests_of(items: Iterable[Item]) -> dict[str, np.ndarray]:
    """Return :meth:`PublicSet.digests` of any images."""
    files = [item for item in items if isinstance(item, FolderItem)]
    patients = {hashlib.sha256(folded(item.patient).encode()).digest() for item in files if item.patient is not None}
    return {PATIENTS: _rows(patients), FILES: _rows({file_digest(item.image) for item in files})}


def refuse_shared(items: Sequence[Item], *, site: str, public: Mapping[str, np.ndarray]) -> None:
    """Raise ``UserError`` ``data.public_shared`` where images of ``site`` are in a public set with these digests.

    Named are the site, how many patients and image files it has in common with the public set, and some of their names
    as the site knows them: all of them are public. Pictures that were encoded anew are not found.
    """
    known = {name: {row.tobytes() for row in public[name]} for name in (PATIENTS, FILES)}
    mine = [item for item in items if isinstance(item, FolderItem)]
    patients = sorted({i.patient for i in mine if i.patient is not None and _digest(i.patient) in known[PATIENTS]})
    files = sorted({item.image.name for item in mine if file_digest(item.image) in known[FILES]})
    if not patients and not files:
        return
    told = [
        f"{len(names)} {what} ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})"
        for names, what in ((patients, "patient(s)"), (files, "image file(s)"))
        if names
    ]
    raise UserError(
        "data.public_shared",
        what=f"The public set has {' and '.join(told)} of site '{site}'.",
        why="What a site has would be measured on a model that has learnt its labels, and would not be private.",
        fix=f"Take them out of the public set (data.public_root), or leave '{site}' out (data.sites).",
    )


def _digest(patient: str) -> bytes:
    return hashlib.sha256(folded(patient).encode()).digest()


def _rows(digests: set[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(sorted(digests)), np.uint8).reshape(-1, DIGEST_BYTES)


def _public(
    config: DataConfig, name: str, classes: tuple[str, ...], items: Sequence[Item], *, cache_bytes: int
) -> PublicSet:
    chosen = classes if config.classes is None else tuple(dict.fromkeys(config.classes))
    unknown = sorted(set(chosen) - set(classes))
    if unknown:
        raise UserError(
            "data.class_unknown",
            what=f"The public set {name} has no class called {', '.join(unknown)}.",
            why="The configuration's data.classes names what is segmented.",
            fix=f"Use some of its classes: {', '.join(classes)}.",
        )
    planes = tuple(classes.index(one) for one in chosen)
    cache = PixelCache(budget_bytes=cache_bytes)
    images = ImageSet(tuple(items), config.image_px, planes, config.normalise, config.augment, cache, config.fit)
    return PublicSet(name, chosen, images)


def _refuse_private(config: DataConfig, public: Path) -> None:
    for key in ("root", "test_root"):
        folder: Path | None = getattr(config, key)
        if folder is None:
            continue
        one, two = folder.resolve(), public.resolve()
        if one.is_relative_to(two) or two.is_relative_to(one):
            raise UserError(
                "data.public_is_private",
                what=f"data.public_root ({public}) and data.{key} ({folder}) lie in one another.",
                why="The public set is read by the server and sent to every site; a site's images are neither.",
                fix="Give the public set a folder of its own, with a dataset.toml, outside of the sites' dataset.",
            )
