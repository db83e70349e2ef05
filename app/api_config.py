"""The configuration that a program sends: TOML or JSON text, laid over a preset where one is named. Pure."""

from __future__ import annotations

import json
import tomllib
from typing import Any

from app import api_text as words
from app.demo import flat
from engine.config import load_config, preset_names
from engine.errors import UserError

MAX_LETTERS = 32_000
"""Five times the longest preset (ours)."""


def nested(configuration: str, preset: str) -> dict[str, Any]:
    """Return the nested values of a run, to be checked by ``parse_config``.

    Raises ``UserError`` ``api.no_configuration``, ``api.preset`` or ``api.syntax``; with a preset also what
    ``load_config`` raises. No file but a preset is read, whatever the names say.
    """
    if not (configuration.strip() or preset):
        raise UserError(
            "api.no_configuration",
            what=words.NO_CONFIGURATION_WHAT,
            why=words.NO_CONFIGURATION_WHY,
            fix=words.NO_CONFIGURATION_FIX.format(presets=", ".join(preset_names())),
        )
    values = _parsed(configuration)
    if not preset:
        return values
    if preset not in preset_names():
        raise UserError(
            "api.preset",
            what=words.PRESET_WHAT.format(name=preset[:100]),
            why=words.PRESET_WHY,
            fix=words.PRESET_FIX.format(presets=", ".join(preset_names())),
        )
    try:
        overrides = flat(values)
    except RecursionError:
        raise _refused("it is nested too deeply") from None
    return load_config(preset, overrides=overrides).model_dump(mode="json")


def _parsed(text: str) -> dict[str, Any]:
    def no_number(word: str) -> float:
        raise ValueError(f"{word} is no number")

    try:
        if not text.lstrip().startswith("{"):
            return tomllib.loads(text)
        values: dict[str, Any] = json.loads(text, parse_constant=no_number)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        raise _refused("it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:300]) from error
    return values


def _refused(said: str) -> UserError:
    return UserError("api.syntax", what=words.SYNTAX_WHAT.format(said=said), why=words.SYNTAX_WHY, fix=words.SYNTAX_FIX)
