"""What a visitor of a demonstration may start: the two demo presets, and of their settings only less. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from app import text
from engine.config import RunConfig, load_config
from engine.errors import UserError

PRESETS = ("phantom_cpu_smoke", "phantom_cpu_demo")
LOWERED = (
    "data.images_per_site",
    "federation.rounds",
    "generator.steps",
    "generation.sampler_steps",
    "foundation.epochs",
    "distillation.epochs",
)
"""Counts that decide how long a run takes: any from 1 to the preset's."""
FREE = ("name", "seed", "data.held_out", "distillation.learnability_lambda", "distillation.selection_rate")
"""Settings that cost nothing; the schema bounds them, and a name is replaced by :func:`named`."""
OFFERED = frozenset({*LOWERED, *FREE} - {"name"})
"""What the form offers: all else is refused, or without effect."""


def check(config: RunConfig) -> None:
    """Raise ``UserError`` ``app.demo_settings`` unless the configuration is one of ``PRESETS`` or less of it."""
    _check(config.model_dump(mode="json"))


def check_data(config: RunConfig) -> None:
    """Raise ``UserError`` ``app.demo_settings`` unless a run of ``PRESETS``, or of less, could have these images."""
    _check({"data": config.model_dump(mode="json")["data"]})


def _check(values: Mapping[str, Any]) -> None:
    wrong = min((_wrong_keys(values, preset) for preset in PRESETS), key=len)
    if wrong:
        raise UserError(
            "app.demo_settings",
            what=text.DEMO_WHAT.format(keys=", ".join(wrong[:5])),
            why=text.DEMO_WHY,
            fix=text.DEMO_FIX.format(presets=" or ".join(PRESETS), keys=", ".join(LOWERED)),
        )


def allows(values: Mapping[str, Any]) -> bool:
    """Return whether a visitor may start what these nested values say."""
    return any(not _wrong_keys(values, preset) for preset in PRESETS)


def named(config: RunConfig) -> RunConfig:
    """Return the configuration under its preset's name: what a stranger writes is not shown to all others."""
    values = config.model_dump(mode="json")
    return config.model_copy(update={"name": min(PRESETS, key=lambda preset: len(_wrong_keys(values, preset)))})


def _wrong_keys(values: Mapping[str, Any], preset: str) -> list[str]:
    """Return the keys of nested ``values`` that a demo of ``preset`` does not leave free."""
    given, allowed = flat(values), _preset(preset)
    return [key for key, value in given.items() if key not in FREE and not _may(key, value, allowed[key])]


def _may(key: str, value: Any, preset: Any) -> bool:
    return value == preset or (key in LOWERED and 1 <= value <= preset)


@lru_cache(maxsize=len(PRESETS))
def _preset(name: str) -> dict[str, Any]:
    return flat(load_config(name).model_dump(mode="json"))


def flat(values: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Return nested values by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, prefix=f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
