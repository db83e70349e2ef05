"""Settings that a method fixes, laid over those of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def overlaid(values: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested ``values`` with the dotted keys of ``overlay`` set; ``values`` stay as they are."""
    result = dict(values)
    for key, value in overlay.items():
        section, _, leaf = key.rpartition(".")
        if not section:
            result[leaf] = value
            continue
        part = result.get(section, {})
        part = part.model_dump() if hasattr(part, "model_dump") else part
        if isinstance(part, Mapping):  # else the schema refuses it
            result[section] = {**part, leaf: value}
    return result
