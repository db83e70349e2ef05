"""The keys of each model's state, as a table, so that a plan knows without torch what sites would share.

``state_keys.csv`` was written from the models for two classes; ``tests/unit/test_sharing.py`` holds it equal to them
and writes it anew. Bytes that depend on the image's side (positional embeddings) are those of the native one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from engine.config import RunConfig
from engine.models.sharing import SharedParameters, StateKey
from engine.models.tuned_keys import FLOAT_BYTES, tuned_keys
from engine.planning.costs import ModelCost

TABLE = Path(__file__).with_name("state_keys.csv")
TABLE_CLASSES = 2
HEAD_PREFIX = "seg1."
"""The class head, which a model for one class does not have."""
COLUMNS = ("model", "key", "bytes", "is_buffer", "trains", "normalises", "channels")


def sharing_of(config: RunConfig, *, num_classes: int) -> tuple[SharedParameters, dict[str, int]]:
    """Return which parts of the student the sites share, and each key's bytes; errors as of ``choose``."""
    keys, name = student_keys(config, num_classes=num_classes)
    sharing = SharedParameters.choose(keys, config.federation, model=name)
    return sharing, {key.name: key.num_bytes for key in keys}


def student_keys(config: RunConfig, *, num_classes: int) -> tuple[tuple[StateKey, ...], str]:
    """Return the keys of the student as the run trains it, and what a refusal calls it."""
    chosen = config.student
    name = f"{chosen.name}/{chosen.size}"
    keys = model_keys(name, num_classes=num_classes)
    if config.lora.use:
        keys = tuned_keys(keys, lora=config.lora, experts=config.experts, model=name)
    return keys, name


def tuned_cost(row: ModelCost, config: RunConfig) -> ModelCost:
    """Return the student's row with the updates and experts that the run lays beside its layers."""
    if not config.lora.use:
        return row
    name = f"{config.student.name}/{config.student.size}"
    keys = model_keys(name, num_classes=1)
    tuned = tuned_keys(keys, lora=config.lora, experts=config.experts, model=name)
    added = sum(key.num_bytes for key in tuned) - sum(key.num_bytes for key in keys)
    return replace(row, parameters=row.parameters + added // FLOAT_BYTES, state_bytes=row.state_bytes + added)


def model_keys(model: str, *, num_classes: int) -> tuple[StateKey, ...]:
    """Return the keys of ``NAME/SIZE`` in the order of its state; KeyError for a model that the table lacks."""
    keys = _table()[model]
    if num_classes > 1:
        return keys
    return tuple(key for key in keys if not key.name.startswith(HEAD_PREFIX))


def table_rows(model: str, keys: Iterable[StateKey]) -> list[tuple[str, ...]]:
    """Return the rows of the table that describe a model."""
    return [(model, k.name, str(k.num_bytes), *(str(int(f)) for f in (k.is_buffer, k.trains, k.normalises)),
             str(k.num_channels)) for k in keys]  # fmt: skip


@lru_cache(maxsize=1)
def _table() -> dict[str, tuple[StateKey, ...]]:
    found: dict[str, list[StateKey]] = {}
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            flags = (row["is_buffer"] == "1", row["trains"] == "1", row["normalises"] == "1")
            key = StateKey(row["key"], int(row["bytes"]), *flags, int(row["channels"]))
            found.setdefault(row["model"], []).append(key)
    return {model: tuple(keys) for model, keys in found.items()}
