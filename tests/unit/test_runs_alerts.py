"""What somebody who watches a run is told to look into, and that a run in order says nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from app import markup
from engine.runs.alerts import LOW_BYTES, alerts
from engine.runs.records import MetricSeries, RunRecord, RunView, StageRecord
from engine.runs.sites import SiteView
from engine.types import SiteActivity

STAGE = "federated_training"
NOW = 10_000.0


def view(**changes: Any) -> RunView:
    record = RunRecord(
        "r",
        "a run",
        "running",
        "dsfedmed",
        "{}",
        "hash",
        0,
        0,
        0,
        None,
        None,
        None,
        None,
        STAGE,
        1,
        1,
        0.0,
        "h",
        0,
        False,
    )
    stage = StageRecord(STAGE, 0, "running", 4, 10, "", 0, None, wall_s=80.0, eta_s=None, planned_s=None)
    later = replace(stage, name="generator_training", position=1, status="pending", step=0)
    return replace(RunView(record, (stage, later), None), **changes)


def curve(name: str, *values: float, site: str | None = None, stage: str = STAGE) -> MetricSeries:
    return MetricSeries(stage, name, site, tuple(range(1, len(values) + 1)), values)


def site(name: str, state: Any, *, seen_at: float | None) -> SiteView:
    return SiteView(STAGE, SiteActivity(name, state=state, round=5, seen_at=seen_at), None, 0, 0)


def told(*series: MetricSeries, sites: tuple[SiteView, ...] = (), free: int = LOW_BYTES, **changes: Any) -> list[tuple]:
    found = alerts(view(**changes), series, sites, free_bytes=free, now=NOW)
    assert all(one.what.endswith(".") and one.fix.endswith(".") for one in found)
    return [(one.kind, one.site) for one in found]


def test_a_run_in_order_says_nothing() -> None:
    falls = [0.9, 0.7, 0.8, 0.6, 0.65, 0.5, 0.55]
    assert told(curve("loss", *falls, site="north"), curve("val_dice", *reversed(falls))) == []
    assert told(curve("loss", 0.1, 0.9, 0.9, 0.9, 0.9)) == [], "the first points of a curve jump"


@pytest.mark.parametrize(("values", "expected"), [
    # Lowest mean of three: 0.2 (points 3 to 5). 1.5 times that is 0.3, which all of the last three have to pass.
    ((0.9, 0.5, 0.2, 0.2, 0.2, 0.31, 0.31, 0.31), [("loss_rises", "north")]),
    ((0.9, 0.5, 0.2, 0.2, 0.2, 0.31, 0.29, 0.31), []),
    ((0.9, 0.5, 0.2, 0.2, 0.2, 0.31, 0.31, math.nan), [("not_finite", "north")]),
    ((math.inf,), [("not_finite", "north")]),
])  # fmt: skip
def test_a_loss_that_diverges(values: tuple[float, ...], expected: list[tuple]) -> None:
    assert told(curve("loss", *values, site="north")) == expected
    assert told(curve("loss", *values, site="north", stage="generator_training")) == [], "of a stage that does not run"


def test_dice_that_falls_from_its_best() -> None:
    assert told(curve("val_dice", 0.5, 0.8, 0.8, 0.69, 0.69, 0.69)) == [("dice_falls", None)]
    assert told(curve("val_dice", 0.5, 0.8, 0.8, 0.69, 0.71, 0.69)) == []
    assert told(curve("personal_loss", 0.5, 0.8, 0.8, 0.1, 0.1, 0.1)) == []


def test_who_is_waited_for_when_nobody_was_heard_of() -> None:
    # The slowest site's longest round took 30 s: three of them are less than the two minutes that count.
    rounds = (curve("wall_s", 30.0, 9.0, site="north"), curve("wall_s", 8.0, 8.0, site="south"))
    answered = site("north", "answered", seen_at=NOW - 121)
    asked = site("south", "asked", seen_at=NOW - 500)
    assert told(*rounds, sites=(answered, asked)) == [("site_silent", "south")]
    assert told(*rounds, sites=(replace(answered, now=replace(answered.now, seen_at=NOW - 119)), asked)) == []
    slow = replace(asked, now=replace(asked.now, state="working", seen_at=NOW - 5))
    assert told(*rounds, sites=(answered, slow)) == [], "it tells its steps"
    assert told(*rounds, sites=(answered,)) == [], "nobody is waited for"
    assert told(*rounds, sites=(answered, asked), run=replace(view().run, pid_started=NOW - 60)) == [], "just resumed"
    longer = curve("wall_s", 41.0, site="south")
    assert told(longer, sites=(answered, asked)) == [], "three rounds of 41 s are not over"
    elsewhere = curve("wall_s", 41.0, site="south", stage="generator_training")
    assert told(elsewhere, *rounds, sites=(answered, asked)) == [("site_silent", "south")]


def test_before_the_first_round_is_over_the_plan_says_how_long_silence_may_be() -> None:
    sites = (site("north", "answered", seen_at=NOW - 121), site("south", "asked", seen_at=None))
    for planned_s, expected in ((None, [("site_silent", "south")]), (120.0, [("site_silent", "south")]), (122.0, [])):
        planned = tuple(replace(stage, planned_s=planned_s) for stage in view().stages)
        assert told(sites=sites, stages=planned) == expected, planned_s


def test_a_disk_that_is_nearly_full_and_a_run_that_is_not_at_work() -> None:
    assert told(free=LOW_BYTES - 1) == [("disk_low", None)]
    assert told(free=LOW_BYTES) == []
    over = replace(view().run, status="interrupted")
    assert told(curve("loss", math.nan), free=0, run=over) == []


def test_the_page_says_the_first_few_of_many_escaped() -> None:
    series = [curve("loss", math.nan, site=f"<b>site {number}") for number in range(7)]
    html = markup.status(view(), alerts(view(), series, (), free_bytes=LOW_BYTES, now=NOW))
    assert html.count("is not a number at step 1.") == 5 and "and 2 more" in html and "<b>site" not in html
    assert "alerts" not in markup.status(view())
