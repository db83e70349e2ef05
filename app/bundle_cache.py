"""Bundles that were read lately; ``written`` is when their file changed last, so that a new one is read anew."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.data.tiling import Looks
    from export.manifest import Manifest
    from export.prompting import KeptArrays, Prompter
    from export.runtime import BundleSession


@lru_cache(maxsize=256)
def manifest(folder: Path, written: float) -> Manifest:
    """Return a bundle's manifest; errors are those of ``read_manifest``."""
    from export.manifest import read_manifest

    return read_manifest(folder)


@lru_cache(maxsize=4)
def session(folder: Path, written: float, variant: str = "full") -> BundleSession:
    """Return the session of a bundle's variant; errors are those of ``load_bundle``."""
    from export.runtime import load_bundle

    return load_bundle(folder, variant=variant)


@lru_cache(maxsize=1)
def kept_arrays() -> KeptArrays:
    """Return where the features of all models and visitors are kept."""
    from export.prompting import KeptArrays

    return KeptArrays()


@lru_cache(maxsize=4)
def prompter(folder: Path, written: float) -> Prompter | None:
    """Return what answers a bundle's prompts, None where nothing does; errors are those of ``load_bundle``."""
    from export.prompting import load_prompter

    return load_prompter(folder, session(folder, written), kept=kept_arrays())


def opened(folder: Path, *, looks: Looks | None, variant: str) -> BundleSession:
    """Return the session of a variant (``auto``: by the rule) that looks so, or as was measured to be better."""
    from export.runtime import variant_for

    written = (folder / "manifest.json").stat().st_mtime
    found = manifest(folder, written)
    how = looks or found.best_looks
    return session(folder, written, variant_for(found, variant, looks=how).name).looking(how)
