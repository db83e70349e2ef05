"""Which stage a key of the configuration changes: of every key of the schema, and the hashes that follow from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from engine.config import FederationConfig, RunConfig, load_config
from engine.methods import catalogue
from engine.runs.identity import (
    FREE_KEYS,
    changed_keys,
    checkpoint_hash,
    first_stage_of,
    stage_hash,
)

STAGES = catalogue.method("dsfedmed").stage_names

SYSTEMS = [catalogue.method(name).stage_names for name in ("dsfedmed", "pfedsam", "samfed", "dsfedmed_joined")]
"""Between them they read every section."""


def sections_of(stages: tuple[str, ...]) -> list[str]:
    return [section for stage in catalogue.stages(stages) for section in (*stage.reads, *stage.options)]


PRESET_HASHES = json.loads((Path(__file__).parents[1] / "golden" / "preset_hashes.json").read_text())
"""Of each preset and method: content hash, stage hashes in order, checkpoint hash of the first stage; as they were
before the catalogue. Stored runs carry them: they never change."""


def every_key() -> list[str]:
    keys = []
    for name, field in RunConfig.model_fields.items():
        nested = getattr(field.annotation, "model_fields", None)
        keys += [name] if nested is None else [f"{name}.{leaf}" for leaf in nested]
    return keys


def edited(key: str) -> RunConfig:
    """The default configuration with another value of ``key``, not validated: only its identity is looked at."""
    config = RunConfig()
    section, _, leaf = key.rpartition(".")
    part = getattr(config, section) if section else config
    value = getattr(part, leaf)
    other: Any = f"other {value}" if isinstance(value, str) else not value if isinstance(value, bool) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        other = value + 1
    if value is None:
        kinds = [kind for kind in get_args(type(part).model_fields[leaf].annotation) if kind is not type(None)]
        other = 7 if int in kinds else ("other",) if "tuple" in str(kinds[0]) else "/other"
    part = part.model_copy(update={leaf: other})
    return config.model_copy(update={section: part}) if section else part


def test_every_section_belongs_to_one_stage() -> None:
    sections = [name for name, f in RunConfig.model_fields.items() if hasattr(f.annotation, "model_fields")]
    read = [sections_of(stages) for stages in SYSTEMS]
    assert {section for one in read for section in one} == set(sections)
    assert all(len(set(one)) == len(one) for one in read)


@pytest.mark.parametrize("named", PRESET_HASHES)
def test_hashes_of_stored_runs_stay_what_they_were(named: str) -> None:
    preset, method = named.split()
    config, stages = load_config(preset, overrides={"method": method}), catalogue.method(method).stage_names
    of_stages = [stage_hash(config, stages, stage) for stage in stages]
    assert [config.content_hash(), *of_stages, checkpoint_hash(config, stages, stages[0])] == PRESET_HASHES[named]


@pytest.mark.parametrize("key", every_key())
def test_a_key_changes_the_stage_that_reads_it_first_and_all_after_it(key: str) -> None:
    before, after = RunConfig(), edited(key)
    assert changed_keys(before, after) == (key,)
    stages = next((s for s in SYSTEMS if key.partition(".")[0] in sections_of(s)), STAGES)
    first = first_stage_of(key, stages)
    same = [stage_hash(before, stages, stage) == stage_hash(after, stages, stage) for stage in stages]
    if key in FREE_KEYS:
        assert first is None and all(same)
    else:
        assert first is not None
        assert same == [index < stages.index(first) for index in range(len(stages))]


def test_more_rounds_leave_the_checkpoint_of_training_valid_and_no_later_one() -> None:
    before, after = RunConfig(), edited("federation.rounds")
    same = [checkpoint_hash(before, STAGES, stage) == checkpoint_hash(after, STAGES, stage) for stage in STAGES]
    assert same == [True] + [False] * 6
    other = edited("federation.learning_rate")
    assert checkpoint_hash(before, STAGES, STAGES[0]) != checkpoint_hash(other, STAGES, STAGES[0])


def test_a_section_that_the_method_does_not_read_changes_nothing() -> None:
    stages = catalogue.method("fedtinysam").stage_names
    assert first_stage_of("distillation.epochs", stages) is None
    assert stage_hash(RunConfig(), stages, "export") == stage_hash(edited("distillation.epochs"), stages, "export")


def test_a_key_that_a_later_version_adds_leaves_older_runs_as_they_are() -> None:
    class LaterFederation(FederationConfig):
        a_new_key: float = 0.0

    class LaterConfig(RunConfig):
        federation: LaterFederation = LaterFederation()

    before, after = RunConfig(), LaterConfig()
    assert before.content_hash() == after.content_hash()
    assert [stage_hash(before, STAGES, stage) for stage in STAGES] == [
        stage_hash(after, STAGES, stage) for stage in STAGES
    ]
    assert stage_hash(after, STAGES, "export") != stage_hash(
        LaterConfig(federation=LaterFederation(a_new_key=1.0)), STAGES, "export"
    )
