"""The runs store: what is written comes back, repeated steps replace rows, and bad homes are refused."""

from __future__ import annotations

import math
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.errors import UserError
from engine.methods import catalogue
from engine.runs.events import StoreReporter, WorkerSuperseded
from engine.runs.schema import DATABASE_NAME, SCHEMA_VERSION
from engine.runs.store import RunStore
from engine.types import EvaluationRow, ModelDifference, RunCancelled, SampleScore, SyntheticSample, Traffic

STAGES = catalogue.method("dsfedmed").stage_names


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "home")


def started(store: RunStore, *, method: str = "dsfedmed") -> str:
    run_id = store.create_run(RunConfig(name="a run", method=method)).run_id
    store.update_run(run_id, status="running", attempt=1)
    return run_id


def reporter(store: RunStore, run_id: str, stage: str = "federated_training", *, attempt: int = 1) -> StoreReporter:
    return StoreReporter(store, run_id, stage, attempt=attempt)


def test_whether_anything_was_written_is_known_without_reading_a_row(store: RunStore) -> None:
    before = store.changes()
    assert store.changes() == before
    run_id = started(store)
    after = store.changes()
    assert after != before, "what this very store has written counts"
    store.view(run_id), store.list(), store.metrics(run_id)
    assert store.changes() == after
    with closing(RunStore(store.home)) as other:
        now = store.changes()
        other.write_log(run_id, "info", "said by another process")
        assert store.changes() != now
    store.close()
    assert store.events(run_id)[-1].text == "said by another process" and isinstance(store.changes(), int)


def sample(index: int, *, site: str = "a") -> SyntheticSample:
    return SyntheticSample(
        f"{site}-{index}", site, index, 2**62 + index, "m.png", "real", Path(f"s/{index}.png"), Path("m")
    )


def test_a_run_comes_back_with_its_configuration_and_stages(store: RunStore) -> None:
    config = RunConfig(name="ü", seed=3)
    record = store.create_run(config, planned_s={"export": 5.0})
    assert store.get(record.run_id).config == config
    assert [stage.name for stage in store.stages(record.run_id)] == list(STAGES)
    assert store.stages(record.run_id)[-1].eta_s == 5.0
    assert store.run_dir(record.run_id).is_dir()


def test_run_ids_are_short_safe_in_a_url_and_unique(store: RunStore) -> None:
    ids = [store.create_run(RunConfig()).run_id for _ in range(20)]
    assert len(set(ids)) == 20 and all(len(i) <= 20 and i.replace("-", "").isalnum() for i in ids)
    assert {record.run_id for record in store.list()} == set(ids)
    assert len(store.list(limit=3, offset=1)) == 3
    assert store.list(status=["finished"]) == ()


def test_an_unknown_run_is_a_user_error(store: RunStore) -> None:
    with pytest.raises(UserError) as caught:
        store.get("nothing")
    assert caught.value.code == "run.unknown"


def test_repeating_a_step_replaces_its_rows(store: RunStore) -> None:
    run_id = started(store)
    for value in (1.0, 2.0):
        report = reporter(store, run_id)
        report.metric("loss", value, step=0)
        report.metric("loss", math.nan, step=1)
        report.metric("loss", math.inf, step=2, site="a")
        report.traffic(Traffic("a", "up", "student", 100, round=1))
        report.traffic(Traffic("a", "up", "student", 50, round=2))
        report.samples([sample(0)])
        report.scores([SampleScore("a-0", 0, value, 0.5, -0.25, 0, True)])
        report.evaluation([EvaluationRow("m", "z", "test", "disc", 4, value, 0.1, 0.9, 0.4, 0.5, 0.3, None)])
        report.artefact("model", store.run_dir(run_id) / "models" / "m.safetensors")
        report.flush()
    curves = store.metrics(run_id)
    assert [(c.site, c.steps) for c in curves] == [(None, (0, 1)), ("a", (2,))]
    assert curves[0].values[0] == 2.0 and math.isnan(curves[0].values[1]) and curves[1].values == (math.inf,)
    (total,) = store.traffic(run_id)
    assert (total.payload_bytes, total.num_messages, total.stage) == (150, 2, "federated_training")
    assert store.samples(run_id).total == 1
    assert [score.l_gt for score in store.scores(run_id)] == [2.0]
    assert [row.dice for row in store.evaluation(run_id)] == [2.0]
    assert [artefact.path for artefact in store.artefacts(run_id)] == ["models/m.safetensors"]


def test_samples_are_filtered_sorted_and_paged(store: RunStore) -> None:
    run_id = started(store)
    report = reporter(store, run_id, "mutual_distillation")
    report.samples([sample(i, site=site) for site in ("a", "b") for i in range(6)])
    for epoch in (0, 1):
        report.scores(
            [
                SampleScore(f"{site}-{i}", epoch, i * 0.1, 0.2, i * (1.0 - 2 * epoch), i, i < 2)
                for site in "ab"
                for i in range(5)
            ]
        )
    report.flush()
    assert store.epochs(run_id) == (0, 1)

    def ids(**wanted: object) -> list[str]:
        return [item.sample.sample_id for item in store.samples(run_id, **wanted).items]

    assert ids(site="a", order="score", epoch=0, descending=True) == ["a-4", "a-3", "a-2", "a-1", "a-0", "a-5"]
    assert ids(site="a", order="score", descending=True) == [f"a-{i}" for i in range(6)]  # the latest epoch
    assert ids(selected=True) == ["a-0", "a-1", "b-0", "b-1"]
    assert ids(selected=False, site="b") == ["b-2", "b-3", "b-4"]
    pages = [ids(order="score", epoch=0, offset=offset, limit=5) for offset in (0, 5, 10)]
    assert sorted(i for page in pages for i in page) == sorted(ids()) and [len(page) for page in pages] == [5, 5, 2]
    unscored = store.samples(run_id, order="score").items[-1]
    assert unscored.score is None and unscored.sample == sample(5, site="b")
    assert [score.epoch for score in store.scores(run_id, sample_id="a-3")] == [0, 1]
    assert store.sample(run_id, "a-3") == sample(3) and store.sample(run_id, "x") is None


def test_the_log_is_read_as_a_tail(store: RunStore) -> None:
    run_id = started(store)
    for i in range(5):
        store.write_log(run_id, "info", f"line {i}")
    lines = store.events(run_id, limit=3)
    assert [line.text for line in lines] == ["line 2", "line 3", "line 4"]
    store.write_log(run_id, "error", "last", stage="export")
    (new,) = store.events(run_id, after_id=lines[-1].id)
    assert (new.text, new.level, new.stage) == ("last", "error", "export")


def test_each_entry_of_the_log_is_one_line(store: RunStore) -> None:
    """Also one that came in a run's zip: it writes no line of others, and a terminal obeys nothing in it."""
    run_id = started(store)
    store.write_log(run_id, "warning", "left out\n2026-01-01 12:00:00 info    - all is well\x1b]0;x\x07\u2028 \u202eb")
    (line,) = store.events(run_id, limit=1)
    assert line.text == "left out 2026-01-01 12:00:00 info - all is well\ufffd]0;x\ufffd \ufffdb"


def test_progress_gives_estimates_for_this_stage_and_the_following_ones(store: RunStore) -> None:
    config = RunConfig(method="fedtinysam")
    run_id = store.create_run(config, planned_s={"federated_training": 10, "evaluation": 20, "export": 30}).run_id
    store.update_run(run_id, status="running")
    assert store.view(run_id).eta_s == pytest.approx(60)
    store.set_stage_status(run_id, "federated_training", "finished", wall_s=30.0)
    assert [stage.eta_s for stage in store.stages(run_id)] == [0.0, 60.0, 90.0]  # three times slower than planned
    store.set_stage_status(run_id, "evaluation", "running")
    store.update_stage(run_id, "evaluation", step=1, total=4, wall_s=5.0, eta_s=15.0)
    view = store.view(run_id)
    assert view.stages[1].fraction == 0.25
    assert view.eta_s == pytest.approx(15 + 30 * 50 / 30)


def test_estimates_ignore_steps_that_an_earlier_worker_did(store: RunStore) -> None:
    run_id = started(store)
    report = reporter(store, run_id)
    report.progress(90, 100)
    assert store.stages(run_id)[0].eta_s is None
    report.progress(100, 100)
    assert store.stages(run_id)[0].eta_s == 0.0


def test_a_request_to_stop_reaches_the_stage_with_everything_written(store: RunStore) -> None:
    run_id = started(store)
    report = reporter(store, run_id)
    report.progress(0, 10)
    store.request_cancel(run_id)
    fresh = reporter(store, run_id)
    fresh.metric("loss", 1.0, step=1)
    with pytest.raises(RunCancelled):
        fresh.check_cancelled()
    assert store.metrics(run_id)[0].values == (1.0,)


def test_a_signal_stops_without_the_store(store: RunStore) -> None:
    run_id = started(store)
    stop = threading.Event()
    report = StoreReporter(store, run_id, "export", attempt=1, stop=stop)
    report.check_cancelled()
    stop.set()
    with pytest.raises(RunCancelled):
        report.progress(1, 2)


def test_a_superseded_worker_is_stopped(store: RunStore) -> None:
    run_id = started(store)
    report = reporter(store, run_id)
    store.update_run(run_id, attempt=2)
    with pytest.raises(WorkerSuperseded):
        report.check_cancelled()
    assert not store.set_status(run_id, "failed", owner=1)
    assert store.get(run_id).status == "running"


def test_artefacts_must_lie_below_the_run(store: RunStore, tmp_path: Path) -> None:
    report = reporter(store, started(store))
    with pytest.raises(ValueError, match="below the run"):
        report.artefact("model", tmp_path / "elsewhere")


def test_a_run_that_ended_or_runs_is_not_taken_for_what_it_was(store: RunStore) -> None:
    run_id = started(store)
    assert not store.enqueue(run_id), "another resume was quicker: its worker has the run"
    attempt = store.get(run_id).attempt
    store.set_status(run_id, "finished", owner=attempt)
    assert not store.set_status(run_id, "interrupted", owner=attempt, status_was="running")
    assert store.get(run_id).status == "finished"


def test_copied_results_belong_to_the_new_run(store: RunStore) -> None:
    run_id = started(store)
    report = reporter(store, run_id, "generation")
    report.samples([sample(i) for i in range(3)])
    report.metric("m", 1.0, step=0)
    report.flush()
    other = store.create_run(RunConfig(), parent=run_id, fork_stage="foundation_finetuning").run_id
    store.copy_results(run_id, other, ["generation"])
    assert store.samples(other).total == 3 and len(store.metrics(other)) == 1
    assert [stage.name for stage in store.stages(other)] == list(STAGES)
    store.update_run(run_id, status="finished")
    store.delete(run_id)
    assert store.samples(other).total == 3 and not store.run_dir(run_id).exists()
    assert [record.run_id for record in store.list()] == [other]


def test_an_active_run_is_not_deleted(store: RunStore) -> None:
    with pytest.raises(UserError) as caught:
        store.delete(started(store))
    assert caught.value.code == "run.active"


def test_many_writers_at_once_lose_nothing(store: RunStore) -> None:
    run_id = started(store)

    def write(site: str) -> None:
        own = RunStore(store.home)
        report = reporter(own, run_id)
        for step in range(50):
            report.metric("loss", 1.0, step=step, site=site)
            report.flush()
        own.close()

    threads = [threading.Thread(target=write, args=(f"site{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(curve.steps) for curve in store.metrics(run_id)] == [50] * 4


def test_an_older_schema_is_upgraded_and_keeps_its_samples(tmp_path: Path) -> None:
    RunStore(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection, connection:
        for column in ("num_groups", "num_hd95", "num_missed", "num_spurious", "hd95_penalised_px"):
            connection.execute(f"ALTER TABLE evaluation DROP COLUMN {column}")
        connection.execute("DROP TABLE differences")
        dropped = ("samples.generator", "runs.started_by", "runs.extends", "stages.beside_s", "stages.cpu_s")
        dropped += ("runs.title", "runs.tags", "runs.notes")
        for table, column in (name.split(".") for name in dropped):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.execute("UPDATE schema_info SET version = 1")
    store = RunStore(tmp_path)
    run_id = store.create_run(RunConfig()).run_id
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection, connection:
        columns = "run_id, sample_id, site, [index], seed, source_mask, mask_sharing, image_path, mask_path"
        row = (run_id, "a/0", "a", 0, 1, "a mask 0", "real", "a.png", "m.png")
        connection.execute(f"INSERT INTO samples ({columns}) VALUES ({', '.join('?' * len(row))})", row)
        assert connection.execute("SELECT version FROM schema_info").fetchall() == [(SCHEMA_VERSION,)]
    assert [item.sample.generator for item in store.samples(run_id, limit=-1).items] == [""]
    # A line of the results table of before says nothing of what was not counted then.
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection, connection:
        columns = "run_id, position, model, site, split, class_name, num_images, dice, dice_low, dice_high, iou"
        row = (run_id, 0, "m", "z", "test", "c", 4, 0.5, 0.1, 0.9, 0.4)
        connection.execute(f"INSERT INTO evaluation ({columns}) VALUES ({', '.join('?' * len(row))})", row)
    (line,) = store.evaluation(run_id)
    assert (line.dice_low, line.dice_high, line.num_missed, line.hd95_penalised_px) == (0.1, 0.9, None, None)
    assert store.differences(run_id) == ()
    assert {stage.beside_s for stage in store.stages(run_id)} == {0.0}
    store.close()


def test_differences_are_read_back_as_they_were_told_and_told_again_they_are_replaced(store: RunStore) -> None:
    run_id = store.create_run(RunConfig()).run_id
    report = reporter(store, run_id, stage="evaluation")
    known = ModelDifference("a", "b", "z", "test", "c", 4, 2, 0.25, -0.5, 0.75)
    unknown = ModelDifference("c", "b", "z", "test", "c", 4, 1, 0.25, None, None)
    report.differences([known, unknown])
    report.differences([known])
    assert set(store.differences(run_id)) == {known, unknown}


def test_a_newer_schema_is_refused(store: RunStore) -> None:
    with sqlite3.connect(store.home / DATABASE_NAME) as connection:
        connection.execute(f"INSERT INTO schema_info VALUES ({SCHEMA_VERSION + 1})")
    with pytest.raises(UserError) as caught:
        RunStore(store.home)
    assert caught.value.code == "run.store_newer"


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(b"not a database " * 100)
    with pytest.raises(UserError) as caught:
        RunStore(tmp_path)
    assert caught.value.code == "run.store_damaged"


def test_a_home_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        RunStore(tmp_path / "file" / "home")
    assert caught.value.code == "run.not_writable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_home_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError) as caught:
        RunStore(tmp_path / "home")
    assert caught.value.code == "run.not_writable"


def test_a_full_disk_is_a_user_error(store: RunStore) -> None:
    """SQLite's own page limit gives the error of a full disk."""
    run_id = started(store)
    with store._database.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1")  # the pool hands the same connection out again
    with pytest.raises(UserError) as caught:
        store.write_log(run_id, "info", "x" * 1_000_000)
    assert caught.value.code == "run.disk_full"


def test_the_store_is_imported_without_torch() -> None:
    code = "import sys, engine.runs.events; assert not {'torch', 'flwr', 'gradio'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
