"""Which part of a configuration each stage of a run depends on. Torch-free.

A stage's checkpoint and outputs depend on the sections that it and the stages before it read. Their hash is the
stage's identity: an edit of a later section leaves it unchanged, which is what makes *extend* and *fork* safe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from engine.config import WHERE_KEYS, RunConfig
from engine.methods import catalogue

WHOLE_RUN_KEYS = ("seed", "method", "precision", "pos_weight", "dice_weight")
"""Keys outside the sections that change every stage's numbers."""

FREE_KEYS = ("name", "device", "threads", *WHERE_KEYS)
"""Keys that say what a run is called and where it runs; a run may be resumed with others."""


def stage_hash(config: RunConfig, stages: Sequence[str], stage: str, *, ignore_rounds: bool = False) -> str:
    """Return 16 hex digits that identify everything on which ``stage``'s result depends.

    ``stages`` are the method's stages in order. With ``ignore_rounds`` the number of rounds is left out: the state
    after round r is the same whatever the total, so federated training goes on from it when a run is extended. Keys at
    their defaults are left out, so one that a later version adds keeps older runs resumable; hence a default that
    changes numbers is never changed, a new key is added instead.
    """
    values = config.model_dump(mode="json", exclude_defaults=True)
    wanted: dict[str, Any] = {key: values[key] for key in WHOLE_RUN_KEYS if key in values}
    names = stages[: stages.index(stage) + 1]
    options = catalogue.options_of(names)
    for section in catalogue.sections_of(names):
        if section in values or section not in options:
            wanted[section] = values.get(section, {})
    if ignore_rounds:
        wanted["federation"] = {k: v for k, v in wanted["federation"].items() if k != "rounds"}
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]


def checkpoint_hash(config: RunConfig, stages: Sequence[str], stage: str) -> str:
    """Return the identity that the checkpoints which ``stage`` writes carry; the whole configuration's if unknown."""
    if stage not in stages:
        return config.content_hash()
    return stage_hash(config, stages, stage, ignore_rounds=stage == growing_stage(stages))


def changed_keys(before: RunConfig, after: RunConfig) -> tuple[str, ...]:
    """Return the dotted keys whose values differ, in the schema's order."""
    return tuple(_differences(before.model_dump(mode="json"), after.model_dump(mode="json"), prefix=""))


def first_stage_of(key: str, stages: Sequence[str]) -> str | None:
    """Return the first stage whose result the dotted ``key`` changes; ``None`` where it changes none."""
    top = key.split(".")[0]
    if top in FREE_KEYS:
        return None
    if top in WHOLE_RUN_KEYS:
        return stages[0]
    return next((stage.name for stage in catalogue.stages(stages) if top in (*stage.reads, *stage.options)), None)


def growing_stage(stages: Sequence[str]) -> str | None:
    """Return the stage that more rounds let go on from its checkpoint; ``None`` where there is none."""
    return next((stage.name for stage in catalogue.stages(stages) if stage.grows), None)


def _differences(before: dict[str, Any], after: dict[str, Any], *, prefix: str) -> list[str]:
    keys: list[str] = []
    for key, value in before.items():
        other = after.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            keys += _differences(value, other, prefix=f"{prefix}{key}.")
        elif value != other:
            keys.append(prefix + key)
    return keys
