"""The ways in which the page lets a model run: looks, and faster variants for the whole image. Pure; torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from app import looks_text, variants_text

if TYPE_CHECKING:
    from engine.data.tiling import Looks
    from export.manifest import Manifest, Variant

FULL = "full"
"""As in ``export.manifest``, which the first paint does not need."""
BETWEEN = "/"
"""In a choice's value: ``whole/half`` is the whole image, seen by the variant ``half``."""


def choices(manifest: Manifest) -> list[tuple[str, str]]:
    """Return the options of how a model looks, (words, value); its faster variants come after the whole."""
    whole, *parts = looks_text.CHOICES
    others = manifest.every_variant[1:]
    faster = [(f"{whole[0]}, {_words(manifest, v)}", f"{whole[1]}{BETWEEN}{v.name}") for v in others]
    return [whole, *faster, *parts]


def by_itself(manifest: Manifest) -> str:
    """Return the option that is chosen where nobody has: how the model looks best, by the variant of its rule."""
    from export.runtime import variant_for

    looks = manifest.best_looks
    picked = variant_for(manifest, looks=looks)
    return looks if picked.name == FULL else f"{looks}{BETWEEN}{picked.name}"


def read(manifest: Manifest, choice: str) -> tuple[Looks, str]:
    """Return how a model looks and the name of the variant, of an option that may be another model's."""
    from export.runtime import AUTO

    looks, _, name = choice.partition(BETWEEN)
    known = {variant.name for variant in manifest.every_variant}
    return cast("Looks", looks), FULL if not name else name if name in known else AUTO


def facts(manifest: Manifest) -> str | None:
    """Return what is said of the variants, the model itself first; None where there is no other."""
    if not manifest.variants:
        return None
    threads = max(v.timing.threads for v in manifest.variants if v.timing is not None) if _timed(manifest) else 0
    said = "; ".join(
        variants_text.VARIANT.format(name=v.name, side=v.image_px, time=_time(v), cost=_cost(v))
        for v in manifest.variants
    )
    return said + variants_text.THREADS.format(threads=threads) if threads else said


def named(manifest: Manifest, variant: Variant) -> str:
    """Return the model's name as an answer tells it: with the variant where that is not the model itself."""
    if variant.name == FULL:
        return manifest.name
    return variants_text.ANSWERED.format(model=manifest.name, variant=variant.name, side=variant.image_px)


def _words(manifest: Manifest, variant: Variant) -> str:
    own = manifest.every_variant[0].timing
    faster = own.seconds / variant.timing.seconds if own is not None and variant.timing is not None else None
    times = variants_text.NOT_TIMED if faster is None else variants_text.TIMES.format(times=faster)
    return variants_text.CHOICE.format(name=variant.name, times=times, cost=_cost(variant))


def _timed(manifest: Manifest) -> bool:
    return any(variant.timing is not None for variant in manifest.variants)


def _time(variant: Variant) -> str:
    timing = variant.timing
    return variants_text.NOT_TIMED if timing is None else variants_text.TIME.format(ms=1000 * timing.seconds)


def _cost(variant: Variant) -> str:
    if variant.name == FULL:
        return variants_text.REFERENCE
    if variant.measured is None:
        return variants_text.NOT_MEASURED
    return variants_text.COST.format(points=variant.measured.points)
