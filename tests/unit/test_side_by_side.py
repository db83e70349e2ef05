"""Where sites are and how many work at a time: what the plan says of it, and runs that change it on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.cli.options import edit_config, where_sites_are
from engine.config import RunConfig, parse_config
from engine.errors import UserError
from engine.planning import checks
from engine.planning.costs import Speed
from engine.planning.records import SitePlan
from engine.planning.stage_costs import stage_costs
from engine.planning.workers import HELPERS_GIB, Workers
from engine.planning.workload import Workload
from engine.runs import lifecycle
from engine.runs.processes import advance_queue
from engine.runs.store import RunStore


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("federation.side_by_side", "planning.workers"):
        monkeypatch.setattr(f"engine.{module}.available_cores", lambda: 4)


@pytest.mark.parametrize(
    ("workers", "threads", "shares", "seconds"),
    [
        (2, 2, [1, 1, 1, 1], 100 * 2**0.7 / 2),  # each with half of the cores
        (4, 1, [1, 1, 1, 1], 100 * 4**0.7 / 4),
        (2, 2, [1, 1, 1], 100 * 2**0.7 * 2 / 3),  # the third waits for a free one
        (2, 2, [1, 1, 4], 100 * 2**0.7 * 5 / 6),
        (1, 4, [3, 1], 100),
        (8, 1, [1] * 8, 100 * 4**0.7 / 4),  # more processes than cores: half a core each
    ],
)
def test_sites_side_by_side_take_as_long_as_the_busiest_worker(
    workers: int, threads: int, shares: list[float], seconds: float
) -> None:
    assert Workers(workers, threads, 4, beside=True).seconds(100.0, shares) == pytest.approx(seconds)


def work(**values: Any) -> Workload:
    sites = tuple(SitePlan(name, "source", 30, 5, 0) for name in "abcd")
    test = SitePlan("z", "test", 0, 0, 9)
    return Workload(parse_config(values), (*sites, test), Speed("cpu", 1.0), num_classes=2, cache_gib=0.1)


def test_the_plan_takes_workers_into_account() -> None:
    names = ("federated_training", "generator_training", "mutual_distillation")
    alone, beside = (stage_costs(work(**how), names) for how in ({}, {"backend": "ray", "workers": 2}))
    for name in names[:2]:
        assert beside[name].seconds == pytest.approx(alone[name].seconds * 2**0.7 / 2)
        at_site = alone[name].memory_gib - work().base_gib()
        assert beside[name].memory_gib > alone[name].memory_gib + HELPERS_GIB + 1.0 and at_site > 0
    assert beside["mutual_distillation"] == alone["mutual_distillation"]
    assert beside["generator_training"].site_bytes == alone["generator_training"].site_bytes


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "in this process, one after the other"),
        ({"backend": "ray"}, "on this machine, 4 at a time with 1 CPU thread each"),
        ({"backend": "ray", "workers": 2}, "on this machine, 2 at a time with 2 CPU threads each"),
        ({"backend": "ray", "ray_address": "a:1", "threads": 3}, "on the Ray cluster a:1, 4 at a time with 3 CPU "
         "threads each"),
        ({"backend": "superlink", "server": "/f"}, "at hospitals, side by side"),
    ],
)  # fmt: skip
def test_the_plan_says_where_sites_are(values: dict[str, Any], words: str) -> None:
    loaded = work(**values)
    assert loaded.workers.words(loaded.config) == words


def test_settings_of_another_back_end_warn() -> None:
    said = checks.find_warnings(work(workers=2), (), available_gib=99.0, peak_gib=1.0)
    assert "workers has no effect: backend is not 'ray'." in said
    said = checks.find_warnings(work(backend="ray", workers=9), (), available_gib=99.0, peak_gib=1.0)
    assert "workers is 9: no more than the 4 sites work at a time." in said


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({}, {}),
        ({"workers": 2}, {"backend": "ray", "workers": 2}),
        ({"ray_address": "a:1"}, {"backend": "ray", "ray_address": "a:1"}),
        ({"server": Path("/f")}, {"backend": "superlink", "server": "/f"}),
        ({"backend": "local", "workers": 2}, {"backend": "local", "workers": 2}),
    ],
)
def test_an_option_of_one_back_end_chooses_it(options: dict[str, Any], where: dict[str, Any]) -> None:
    assert where_sites_are(**{"backend": None, "workers": None, **options}) == where


def test_where_sites_are_is_in_no_hash() -> None:
    moved = edit_config(RunConfig(), [], where={"backend": "ray", "workers": 3, "ray_address": "a:1"})
    assert (moved.backend, moved.workers) == ("ray", 3)
    assert moved.content_hash() == RunConfig().content_hash()


def test_a_run_is_resumed_and_extended_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "0")
    store = RunStore(tmp_path)
    run_id = store.create_run(RunConfig(method="fedtinysam"), queued=True).run_id
    lifecycle.cancel(store, run_id)
    before = store.get(run_id).config_hash
    lifecycle.resume(store, run_id, where={"backend": "ray", "workers": 2})
    assert advance_queue(store) == ()
    record = store.get(run_id)
    assert (record.config.backend, record.config.workers, record.config_hash) == ("ray", 2, before)
    longer = lifecycle.longer_config(record, rounds=150, where={"backend": "local"})
    assert (longer.federation.rounds, longer.backend) == (150, "local")


def test_a_run_does_not_move_between_hospitals_and_this_machine(tmp_path: Path) -> None:
    config = RunConfig(backend="superlink", server=tmp_path)
    with pytest.raises(UserError, match="are those of backend 'superlink'") as caught:
        lifecycle.moved_config(config, {"backend": "ray"})
    assert caught.value.code == "run.other_sites"
    assert lifecycle.moved_config(config, {}) is config
