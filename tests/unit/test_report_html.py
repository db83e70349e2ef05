"""The report of a run as one HTML file: what it says, and that other people's words in it are only words."""

from __future__ import annotations

from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from compared_world import MODEL, compared, write

from engine.cli import main
from engine.errors import UserError
from engine.report.document import read_document
from engine.report.html import curve_charts, facts, html_report, in_short, site_rows, span, to_html
from engine.runs.archive_places import without_folders
from engine.runs.events import StoreReporter
from engine.runs.store import RunStore
from engine.types import EvaluationRow, ModelDifference, SiteActivity, SiteFailure, Traffic

UNSEEN, KEPT = ("test", "z"), ("validation", "a")
DICE = {UNSEEN: [0.5, 0.7, 0.6, 0.6], KEPT: [0.8, 0.6]}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 70000*7 }}"
ALLOWED = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "main",
        "footer",
        "section",
        "h1",
        "h2",
        "h3",
        "p",
        "b",
    ),
    *(
        "code",
        "span",
        "div",
        "dl",
        "dt",
        "dd",
        "ul",
        "li",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "pre",
    ),
    *("figure", "figcaption", "svg", "line", "text", "polyline", "circle"),
}


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "home")


class Tags(HTMLParser):
    """Elements and attributes of a page, and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {(name, value or "") for name, value in attrs}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def hostile_run(store: RunStore) -> str:
    """A run in which a name, a site, a class, a kind of message, a failure and a line of the log are HTML."""
    run_id = compared(store, HOSTILE, {("test", HOSTILE): [0.5, 0.7]}, class_name=HOSTILE, settings={
        "data": {"source": "folder", "root": f"/srv/{HOSTILE}", "held_out": HOSTILE},
    })  # fmt: skip
    reporter = StoreReporter(store, run_id, "evaluation", attempt=1)
    reporter.site(SiteActivity(HOSTILE, 3, 2, 1))
    reporter.site_failure(SiteFailure(HOSTILE, 1, 1, 1.8e9, HOSTILE, HOSTILE, "left_out"))
    reporter.traffic(Traffic(HOSTILE, "up", HOSTILE, 10))
    reporter.metric(HOSTILE, 0.5, step=1, site=HOSTILE)
    reporter.differences([ModelDifference(HOSTILE, MODEL, HOSTILE, "test", HOSTILE, 2, 1, 0.1, None, None)])
    reporter.log("warning", HOSTILE)
    reporter.flush()
    write(store, run_id, "run_report.json", {"versions": {HOSTILE: HOSTILE}, "machine": {HOSTILE: HOSTILE, "x": [1]}})
    write(store, run_id, "data/identity.json", {HOSTILE: HOSTILE})
    store.update_run(run_id, parent=HOSTILE, fork_stage=HOSTILE)
    return run_id


def test_other_peoples_words_are_text_and_nothing_else(store: RunStore) -> None:
    page = html_report(store, hostile_run(store))
    found = Tags(page)
    assert found.elements <= ALLOWED, found.elements - ALLOWED
    names = {name for name, _ in found.attributes}
    assert not {name for name in names if name.startswith("on") or name in ("href", "src", "style")}, names
    assert "".join(found.texts).count(HOSTILE) >= 10 and "490000" not in page, "they are shown as they are"
    assert "<script>" in unescape(page) and "<script" not in page


def test_the_file_asks_nobody_for_anything(store: RunStore) -> None:
    page = html_report(store, compared(store, "run", DICE))
    assert page.startswith("<!doctype html>")
    assert "default-src 'none'" in page and "@import" not in page and "url(" not in page
    assert [part for part in page.split("http")[1:] if not part.startswith(("-equiv", "://www.w3.org/2000/svg"))] == []


def test_the_same_run_gives_the_same_file(store: RunStore) -> None:
    run_id = compared(store, "run", DICE)
    assert html_report(store, run_id) == html_report(store, run_id)
    with pytest.raises(UserError) as caught:
        html_report(store, "nothing")
    assert caught.value.code == "run.unknown"


def test_a_site_that_nothing_trained_on_is_unseen_also_before_it_is_measured(store: RunStore) -> None:
    run_id = compared(store, "run", {KEPT: DICE[KEPT]})
    reporter = StoreReporter(store, run_id, "evaluation", attempt=1)
    for site in (SiteActivity("a", 3, 2), SiteActivity("y", num_test=7), SiteActivity("trained on, too", 3, 2, 7)):
        reporter.site(site)
    reporter.flush()
    roles = {row[0]: row[1] for row in site_rows(read_document(store, run_id))}
    assert roles == {"a": "trains", "y": "unseen", "trained on, too": "trains"}


def test_what_lost_is_said_like_what_won(store: RunStore) -> None:
    run_id = compared(store, "run", DICE, settings={"method": "dsfedmed"})
    reporter = StoreReporter(store, run_id, "evaluation", attempt=1)
    last = "distilled_student"
    reporter.evaluation(
        [EvaluationRow(last, "z", "test", "disc", 4, 0.5, 0.4, 0.6, 0.3, 0.4, 0.3, 7.25, 2, 3, 1, 2, 9.5)]
    )
    reporter.differences([ModelDifference(last, MODEL, "z", "test", "disc", 4, 2, -0.1, -0.15, -0.05)])
    reporter.flush()
    said = in_short(read_document(store, run_id))
    assert said[0].endswith("has Dice 0.500 [0.400, 0.600] on 4 (2) unseen images of z (disc).")
    assert said[1] == "It is not the best there: TinySAM, FedAvg only has 0.600 [0.500, 0.700]."
    assert said[2].endswith("minus that of TinySAM, FedAvg only is -0.100 [-0.150, -0.050]: worse.")
    page = html_report(store, run_id)
    for words in ("7.2\u00a0(3)", "1/2", "0.500\u00a0[0.400,\u00a00.600]", "no better than FedAvg", ">best<"):
        assert words in page, words


def test_what_was_tested_on_is_said(store: RunStore) -> None:
    folder = {"source": "folder", "root": "/x"}
    ways = [{}, {"held_out": "z"}, {"protocol": "fixed-test", "test_root": "/y"}]
    told = [
        dict(facts(read_document(store, compared(store, "run", DICE, settings={"data": folder | way}))))["Tested on"]
        for way in ways
    ]
    assert told == ["the last site by name", "z", "a fixed set of the server's"]


def test_a_run_that_has_stopped_says_so_and_has_what_there_is(store: RunStore) -> None:
    run_id = compared(store, "run", {})
    store.set_status(run_id, "failed", error={"code": "c", "what": "It broke.", "why": "w", "fix": "f"})
    page = html_report(store, run_id)
    assert "The run is failed" in page and "It broke." in page and "None of its models has been measured." in page


@pytest.mark.parametrize("content", [None, [1], {"versions": 3, "machine": [1]}, "x"])
def test_versions_that_are_not_on_record_are_not_made_up(store: RunStore, content: object) -> None:
    run_id = compared(store, "run", DICE)
    if content is not None:
        write(store, run_id, "run_report.json", content)
    document = read_document(store, run_id)
    assert document.versions == {} == document.machine
    assert "Not on record: the run has not written its own report." in to_html(document)


def test_damaged_records_of_an_archive_do_not_stop_a_report(store: RunStore) -> None:
    run_id = compared(store, "run", DICE)
    store.update_run(run_id, config_json="{", started_at=1e300, finished_at=-1e300)
    write(store, run_id, "distillation/gate.json", {"a": 1})
    page = html_report(store, run_id)
    assert "cannot be read by this version" in page and "0.600" in page


def test_a_report_names_no_folder_and_no_address_of_the_machine(store: RunStore) -> None:
    config = read_document(store, compared(store, "run", DICE, settings={
        "data": {"source": "folder", "root": "/srv/secret/polyps", "public_root": "/srv/secret/open"},
        "student": {"name": "tinysam", "weights": "/srv/secret/mine.safetensors"}, "backend": "ray", "ray_address": "ray://secret:1",
    })).config  # fmt: skip
    assert config is not None and config.data.root is not None
    assert (config.data.root.name, config.student.weights) == ("polyps", "mine.safetensors")
    assert str(config.data.root) == "polyps" and config.ray_address is None and without_folders(config) == config
    (run,) = store.list()
    assert "secret" not in html_report(store, run.run_id)


def test_a_chart_of_many_sites_says_what_it_leaves_out(store: RunStore) -> None:
    run_id = compared(store, "run", DICE)
    reporter = StoreReporter(store, run_id, "federated_training", attempt=1)
    for number in range(12):
        reporter.metric("val_dice", 0.5, step=1, site=f"site {number:02d}")
    reporter.flush()
    document = read_document(store, run_id)
    ((heading, svg, left_out),) = curve_charts(document)
    assert heading.endswith(": val dice") and left_out == "5 more sites are not drawn."  # 14 with the mean and a
    assert svg.count("<polyline") + svg.count("<circle") == 9
    assert curve_charts(replace(document, curves=())) == []


def test_the_command_writes_what_is_named_and_overwrites_nothing(
    store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = compared(store, "run", DICE)
    where = ["--home", str(store.home)]
    assert main(["report", run_id, *where]) == 2 and "None of --html, --ledger and --egress" in capsys.readouterr().err
    page, ledger = tmp_path / "r.html", tmp_path / "l.csv"
    assert main(["report", "last", "--html", str(page), "--ledger", str(ledger), *where]) == 0
    assert page.read_text(encoding="utf-8") == html_report(store, run_id)
    before = page.read_bytes()
    assert main(["report", "last", "--ledger", str(tmp_path / "m.csv"), "--html", str(page), *where]) == 2
    assert page.read_bytes() == before and not (tmp_path / "m.csv").exists(), "all or nothing"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "l.csv", "r.html"]


@pytest.mark.parametrize(("data", "tested"), [
    ({"held_out": "z"}, "z"),
    ({"held_out": None}, "the last site by name"),
    ({"held_out": None, "protocol": "fixed-test", "test_root": "/data/test"}, "a fixed set of the server's"),
])  # fmt: skip
def test_what_the_run_was_tested_on(store: RunStore, data: dict, tested: str) -> None:
    settings = {"data": {"source": "folder", "root": "/data/all", **data}}
    told = facts(read_document(store, compared(store, "run", DICE, settings=settings)))
    assert ("Tested on", tested) in told and ("Where the sites were", "in one process") in told


def test_no_minute_has_sixty_seconds() -> None:
    assert [span(seconds) for seconds in (0.2, 59.7, 119.6, 125.0)] == [
        "0 min 00 s", "1 min 00 s", "2 min 00 s", "2 min 05 s"
    ]  # fmt: skip
    assert span(None) == span(float("inf")) == "–"
