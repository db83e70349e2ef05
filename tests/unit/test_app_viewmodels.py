"""Records become the words, fractions and choices that a person sees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app import markup, sample_view, text, viewmodels
from engine.config import RunConfig, parse_config
from engine.errors import UserError
from engine.methods import catalogue
from engine.planning import plan
from engine.runs.records import LogLine, MetricSeries, RunRecord, RunView, ScoredSample, StageRecord, TrafficTotal
from engine.types import EvaluationRow, ModelDifference, SampleScore, SyntheticSample

STAGES = catalogue.method("dsfedmed").stage_names


def a_run(status: str = "running", **values: object) -> RunRecord:
    config = RunConfig()
    base = {
        "run_id": "r1", "name": "<b>fundus</b>", "status": status, "method": config.method,
        "config_json": json.dumps({}), "config_hash": "", "created_at": 0.0, "queued_at": None, "started_at": 0.0,
        "finished_at": None, "parent": None, "fork_stage": None, "error": None, "stage": "federated_training",
        "attempt": 1, "pid": 1, "pid_started": 0.0, "host": "h", "heartbeat_at": 0.0, "cancel_requested": False,
    }  # fmt: skip
    return RunRecord(**base | values)


def a_stage(name: str, status: str = "pending", *, step: int = 0, wall_s: float = 0.0, eta_s: float | None = None):
    return StageRecord(name, 0, status, step, 100, "", None, None, wall_s, eta_s, None)


def a_sample(*, selected: bool = True, scored: bool = True, fresh: bool = True) -> ScoredSample:
    sample = SyntheticSample("s/1", "s", 1, 5, "s/train/0", "real", "i.png", "m.png", 0.81)
    score = SampleScore("s/1", 2, 0.25, 0.5, 0.125, 3, selected, fresh) if scored else None
    return ScoredSample(sample, score)


@pytest.mark.parametrize(
    ("status", "asked", "read_only", "cancel", "resume", "go_on"),
    [
        ("queued", False, False, True, False, False),
        ("running", False, False, True, False, False),
        ("running", True, False, False, False, False),
        ("cancelled", False, False, False, True, True),
        ("failed", False, False, False, True, True),
        ("interrupted", False, False, False, True, True),
        ("finished", False, False, False, False, True),
        ("running", False, True, False, False, False),
        ("cancelled", False, True, False, False, False),
        ("finished", False, True, False, False, False),
    ],
)
def test_buttons_follow_the_run(
    status: str, asked: bool, read_only: bool, cancel: bool, resume: bool, go_on: bool
) -> None:
    run = a_run(status, cancel_requested=asked)
    assert viewmodels.actions(run, allowed=not read_only) == viewmodels.Actions(cancel, resume, go_on, drop=False)
    extended = viewmodels.actions(run, allowed=not read_only, extended=True)
    assert extended == viewmodels.Actions(cancel, resume, go_on, drop=go_on), "what has stopped can be given up"


@pytest.mark.parametrize(("status", "error", "next_too"), [
    ("running", None, False), ("cancelled", None, False), ("failed", {"what": "w", "why": "y", "fix": "f"}, True),
])  # fmt: skip
def test_a_runs_note_is_said_and_says_what_comes_next(status: str, error: dict | None, next_too: bool) -> None:
    view = RunView(a_run(status, error=error), (a_stage("federated_training"),), None, note="The disk is <full>.")
    shown = markup.status(view)
    assert "The disk is &lt;full&gt;." in shown
    assert (text.STATUS_NEXT[status] in shown) == next_too
    assert text.STATUS_NEXT[status] in markup.status(replace(view, note=None))


@pytest.mark.parametrize(
    ("finished", "offered", "default"),
    [
        (len(STAGES), STAGES, "mutual_distillation"),
        (2, STAGES[:3], "generation"),
        (0, STAGES[:1], "federated_training"),
        (STAGES.index("export"), STAGES, "mutual_distillation"),
    ],
)
def test_a_fork_begins_where_everything_before_is_done(finished: int, offered: tuple, default: str) -> None:
    stages = [a_stage(name, "finished" if at < finished else "cancelled") for at, name in enumerate(STAGES)]
    choices = viewmodels.fork_choices(stages)
    assert tuple(name for _, name in choices) == offered
    assert viewmodels.fork_default(choices) == default


def test_a_fork_hides_the_settings_of_what_it_takes_over() -> None:
    stages = [a_stage(name, "finished") for name in STAGES]
    assert viewmodels.fixed_sections(viewmodels.stages_before("federated_training", stages)) == frozenset()
    fixed = viewmodels.fixed_sections(viewmodels.stages_before("mutual_distillation", stages))
    of_kinds = {"generator_lora", "pix2pix", "ddpm", "release"}
    trained = {"data", "student", "federation", "privacy", "generator", "generation", "teacher", "foundation"}
    assert fixed == trained | of_kinds


@pytest.mark.parametrize(
    ("stages", "fraction"),
    [
        ((), 0.0),
        ((a_stage("a", "finished", wall_s=30, eta_s=0), a_stage("b", eta_s=90)), 0.25),
        ((a_stage("a", "finished", wall_s=30, eta_s=0), a_stage("b", "running", step=50)), 0.75),
        ((a_stage("a"), a_stage("b")), 0.0),
    ],
)
def test_overall_progress_is_of_time_where_time_is_known(stages: tuple[StageRecord, ...], fraction: float) -> None:
    assert viewmodels.overall_fraction(stages) == pytest.approx(fraction)


def test_a_page_without_an_address_shows_the_running_run() -> None:
    runs = [a_run("finished", run_id="new"), a_run("queued", run_id="waits"), a_run("running", run_id="runs")]
    assert viewmodels.first_run(runs) == "runs"
    assert viewmodels.first_run(runs[:2]) == "waits"
    assert viewmodels.first_run(runs[:1]) == "new"
    assert viewmodels.first_run([]) == viewmodels.NO_RUN
    assert viewmodels.run_choices([])[0][1] == viewmodels.NO_RUN


def test_curves_follow_the_run_until_a_stage_is_chosen() -> None:
    series = [MetricSeries(stage, "loss", None, (1,), (1.0,)) for stage in ("federated_training", "generation")]
    series.append(MetricSeries("federated_training", "val_dice", "s", (1,), (0.5,)))
    series.append(MetricSeries("federated_training", "wall_s", "s", (1,), (9.0,)))
    view = RunView(a_run(stage="evaluation"), tuple(a_stage(name) for name in STAGES), None)
    assert viewmodels.curve_stage(viewmodels.FOLLOW, series, view) == "generation"
    assert viewmodels.curve_stage("federated_training", series, view) == "federated_training"
    assert viewmodels.curve_stage(viewmodels.FOLLOW, [], view) is None
    assert [c.name for c in viewmodels.loss_curves(series, "federated_training", view)] == ["loss"]
    assert [c.stage for c in viewmodels.loss_curves(series, viewmodels.FOLLOW, view)] == ["generation"]
    dice = viewmodels.dice_curves(series, viewmodels.FOLLOW, view)
    assert [c.name for c in dice] == ["val_dice"]
    assert viewmodels.curves_title("Dice", dice) == "Dice · Federated training"
    assert viewmodels.dice_curves(series, "generation", view) == []
    assert [key for _, key in viewmodels.curve_choices(series, view.stages)] == [
        "follow",
        "federated_training",
        "generation",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (120, "2 min"), (89 * 60, "89 min"), (3 * 3600 + 5 * 60, "3 h 05 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert viewmodels.duration(seconds) == words


@pytest.mark.parametrize(("count", "words"), [(12, "12 B"), (1500, "1.5 kB"), (4.2e6, "4.2 MB"), (3e9, "3.0 GB")])
def test_bytes(count: float, words: str) -> None:
    assert viewmodels.megabytes(count) == words


def test_the_results_table_has_its_interval_and_a_dash_for_what_was_not_measured() -> None:
    row = EvaluationRow("distilled_student", "d", "test", "disc", 9, 0.8, 0.75, 0.85, 0.7, 0.79, 0.69, None)
    line = dict(zip(text.RESULT_COLUMNS, viewmodels.result_rows([row], "test")[0], strict=True))
    assert line["Model"] == "TinySAM, mutually distilled"
    assert line["Dice (95 % interval)"] == "0.800 (0.750 to 0.850)"
    assert line["HD95 (px, of n)"] == line["Missed / false"] == line["HD95 with misses"] == text.NOT_MEASURED
    assert viewmodels.result_rows([row], "validation") == []


def test_what_is_the_same_in_every_line_is_said_once() -> None:
    columns, rows = ("Model", "Site", "Images"), [["a", "north", "4"], ["b", "north", "5"]]
    shown = viewmodels.said_once(columns, rows, ("Site", "Images"))
    assert shown == (["Model", "Images"], [["a", "4"], ["b", "5"]], "Site: north")
    assert viewmodels.said_once(columns, rows, ()) == (list(columns), rows, "")
    html = markup.results_table([_row(), replace(_row(), model="distilled_teacher")])
    assert html.count(f"Site: {_row().site}") == 1 and "<th scope='col'>Site" not in html


def test_the_results_table_counts_patients_and_misses() -> None:
    counted = {"num_groups": 1, "num_hd95": 6, "num_missed": 2, "num_spurious": 1, "hd95_penalised_px": 20.25}
    row = EvaluationRow("m", "d", "test", "disc", 9, 0.8, None, None, 0.7, 0.79, 0.69, 3.5, **counted)
    line = dict(zip(text.RESULT_COLUMNS, viewmodels.result_rows([row], "test")[0], strict=True))
    assert line["Dice (95 % interval)"] == f"0.800 ({text.ONE_PATIENT})" and line["Images"] == "9 (1)"
    assert (line["HD95 (px, of n)"], line["Missed / false"], line["HD95 with misses"]) == ("3.5 (6)", "2 / 1", "20.2")


def test_differences_carry_their_sign_and_only_those_on_test_images_are_shown() -> None:
    models, numbers = ("distilled_student", "fedavg_student"), (9, 4, 0.0312, -0.01, 0.07)
    rows = [ModelDifference(*models, "d", split, "disc", *numbers) for split in ("test", "validation")]
    assert viewmodels.difference_rows(rows) == [
        ["TinySAM, mutually distilled", "TinySAM, FedAvg only", "disc", "+0.031 (-0.010 to +0.070)", "d", "9 (4)"]
    ]
    assert text.DIFFERENCES_HEADING in markup.results_table([_row()], rows)
    assert text.DIFFERENCES_HEADING not in markup.results_table([_row()])


def test_the_worst_site_and_the_spread_stand_beside_the_mean() -> None:
    """Sites 0.8 and 0.6: mean 0.7, standard deviation 0.1; one site has no spread."""
    rows = [replace(_row(), site=site, split="validation", dice=dice) for site, dice in (("a", 0.8), ("b", 0.6))]
    assert viewmodels.spread_rows(rows) == [
        ["TinySAM, mutually distilled", "b", "0.600", "0.700", "0.100", "validation", "2"]
    ]
    assert text.SPREAD_HEADING in markup.results_table(rows)
    assert viewmodels.spread_rows([_row()]) == [] and text.SPREAD_HEADING not in markup.results_table([_row()])


def _row() -> EvaluationRow:
    return EvaluationRow("distilled_student", "d", "test", "disc", 9, 0.8, 0.75, 0.85, 0.7, 0.79, 0.69, None)


def test_the_plan_shows_what_leaves_each_site(tmp_path: Path) -> None:
    from_random = {"name": "tinysam", "weights": None}
    config = parse_config({"method": "fedtinysam", "student": from_random, "federation": {"rounds": 3}})
    planned = plan(config, home=tmp_path)
    rows = [dict(zip(text.PLAN_SITE_COLUMNS, row, strict=True)) for row in viewmodels.plan_sites(planned)]
    assert [row["Role"] for row in rows] == ["trains"] * (len(rows) - 1) + ["test only"]
    assert rows[0]["Sends"].endswith("MB") and rows[-1]["Sends"] == "0 B"
    assert len(viewmodels.plan_stages(planned)) == 3
    html = markup.plan(planned)
    assert text.PLAN_LEAVES in html and planned.leaves_site[0][:20] in html and rows[0]["Site"] in html


@pytest.mark.parametrize(
    ("chosen", "sites", "kept"),
    [
        ("b", ("a", "b"), "b"),
        ("c", ("a", "b"), ""),
        ("c", (), "c"),
        (None, ("a",), ""),
        ("", ("a",), ""),
    ],
)
def test_a_held_out_site_stays_unless_the_data_set_has_none_of_its_name(chosen, sites, kept) -> None:
    assert viewmodels.kept_site(chosen, sites) == kept
    assert [value for _, value in viewmodels.held_out_choices(sites)] == ["", *sites]


def test_a_samples_facts() -> None:
    facts = dict(sample_view.facts(a_sample(selected=False, fresh=False)))
    assert facts["Rank"] == "3" and facts["L_GT"] == "0.2500" and facts["Faithfulness (Dice)"] == "0.810"
    assert facts["In this epoch"] == "not selected, score from an earlier epoch"
    assert "Rank" not in dict(sample_view.facts(a_sample(scored=False)))


def test_traffic_is_summed_by_direction() -> None:
    totals = [TrafficTotal("a", "up", "student", "f", 4_000_000, 1), TrafficTotal("b", "down", "student", "f", 1000, 1)]
    assert viewmodels.traffic_summary(totals) == "4.0 MB to the server · 1.0 kB from the server"
    assert viewmodels.traffic_summary([]) == ""
    totals.append(TrafficTotal("b", "down", "evaluated", "e", 3_000_000, 1))
    told = viewmodels.traffic_summary(totals)
    assert told == "4.0 MB to the server · 3.0 MB from the server · 3.0 MB of it only to measure models"


def test_markup_escapes_what_comes_from_outside() -> None:
    view = RunView(a_run("failed", error={"what": "<i>", "why": "w", "fix": "f"}), (a_stage("generation"),), None)
    html = markup.status(view) + markup.log([LogLine(1, 0.0, None, "error", "<script>")])
    assert "<b>fundus" not in html and "<script>" not in html and "<i>" not in html
    assert "&lt;i&gt;" in html and 'role="alert"' in html.replace("'", '"')


def test_an_error_box_says_what_why_and_fix() -> None:
    box = markup.user_error(UserError("a.b", what="What.", why="Why.", fix="Fix."))
    assert all(part in box for part in ("What.", "Why.", "Fix.", text.ERROR_WHY, text.ERROR_FIX))


def test_a_run_that_is_gone_is_told_without_a_terminal() -> None:
    error = UserError("run.unknown", what="There is no run 'a1' in /home/x.", why="w", fix="`python -m engine list`")
    box = markup.user_error(error)
    assert "There is no run &#x27;a1&#x27;." in box and "deleted" in box and "/home" not in box and "python" not in box


def test_an_unforeseen_error_shows_no_trace() -> None:
    box = markup.unexpected(RuntimeError("/secret/path"))
    assert "RuntimeError" in box and "secret" not in box


def test_the_stepper_tells_the_state_of_each_stage() -> None:
    html = markup.stepper([a_stage("generation", "running", step=34, eta_s=120.0), a_stage("export")])
    assert html.count("<li") == 2
    assert (
        "running · 34 % · about 2 min left of this stage" in html and "aria-current='step'" in html and "to do" in html
    )
