"""What a plan says of a run whose sites keep parts of the student: bytes, sentences, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.config import parse_config
from engine.errors import UserError
from engine.planning.model_keys import model_keys
from engine.planning.plan import plan
from engine.planning.records import Plan

KEYS = {key.name: key for key in model_keys("tinysam/mini", num_classes=1)}
NORMS = sum(key.num_bytes for key in KEYS.values() if key.normalises)
ALL = sum(key.num_bytes for key in KEYS.values())
COUNTERS = 19 * 8
"""Of 19 BatchNorm layers."""


def planned(tmp_path: Path, *, method: str = "fedtinysam", **federation: Any) -> Plan:
    data = {"task": "polyp", "images_per_site": 6, "image_px": 64, "sites": ["tower_hd", "guided_inset"]}
    data |= {"held_out": "portable_yellow"}
    values = {"method": method, "device": "cpu", "data": data, "federation": {"rounds": 3, **federation}}
    return plan(parse_config(values), home=tmp_path)


def bytes_of(found: Plan, direction: str, kind: str) -> set[int]:
    return {row.payload_bytes for row in found.traffic if (row.direction, row.kind) == (direction, kind)}


def test_a_plan_counts_what_is_shared(tmp_path: Path) -> None:
    found = planned(tmp_path, method="fedtinysam_fedbn")
    assert bytes_of(found, "up", "student") == {3 * (ALL - NORMS)}
    assert bytes_of(found, "down", "student") == {4 * (ALL - NORMS)}
    assert bytes_of(found, "up", "normalisation") == {NORMS - COUNTERS}
    assert bytes_of(found, "down", "evaluated") == {ALL, ALL + ALL - NORMS}, "the unseen site has no model of its own"
    assert any("322 arrays 179 go both ways; 143 stay at each site" in said for said in found.leaves_site)
    assert any("go up once" in said for said in found.leaves_site)


def test_a_plan_of_before_is_what_it_was(tmp_path: Path) -> None:
    found = planned(tmp_path)
    assert bytes_of(found, "up", "student") == {3 * ALL} and bytes_of(found, "down", "evaluated") == {ALL}
    assert {row.kind for row in found.traffic} == {"student", "evaluated"}
    assert not any(" own" in said or "arrays" in said for said in (*found.leaves_site, *found.warnings))


def test_a_plan_refuses_what_divides_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'decoder\.\*' in federation.local_parameters matches no key of tinysam/mini"):
        planned(tmp_path, local_parameters=["decoder.*"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shared": "trainable"}, "leaves out constants at most"),
        ({"normalisation": "local", "average_buffers": False}, "average_buffers has no effect"),
        ({"method": "dsfedmed", "normalisation": "local"}, "mutual distillation goes on from the one of all sites"),
    ],
)
def test_a_plan_says_what_has_no_effect(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert any(words in said for said in planned(tmp_path, **settings).warnings)
