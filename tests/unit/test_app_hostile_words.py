"""Words of others on the page: names that a folder, a site or a run's zip has given are text there, and no HTML."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from app.access import LOCAL
from app.asked_samples import Asked
from app.settings import Settings
from app.studio import Studio
from app.tabs import compare, run_form, sample_detail, sample_epochs, sample_gallery, samples, train
from app.tabs.sample_export import Lists, written
from engine.experiments import comparison
from tests.ui.seed_store import SITES, fill

HOSTILE = "'><img src=x onerror=alert(1)>"
OF_A_FIGURE = "<img src=x"
"""Plotly draws some tags of its titles, names and labels, links among them."""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A home in which every word that names a site, or a run, is markup."""
    home = tmp_path_factory.mktemp("home")
    fill(home, settings={"name": f"<b>{HOSTILE}"})
    fill(home, status="failed", until="federated_training", settings={"name": HOSTILE})
    with closing(sqlite3.connect(home / "studio.sqlite")) as database, database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for name in [row[1] for row in database.execute(f"PRAGMA table_info({table})")]:
                if not name.endswith("path"):
                    of_text = f"""WHERE typeof("{name}") = 'text'"""
                    replaced = f"""UPDATE {table} SET "{name}" = replace("{name}", ?, ?) {of_text}"""
                    database.execute(replaced, (SITES[0], HOSTILE))
    yield Studio(Settings(home=home))


def words_of(value: Any) -> Iterator[str]:
    """Yield every text in what an event answers, that of figures and of components' settings among it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from words_of(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from words_of(part)
    elif isinstance(value, gr.HTML | gr.Markdown | gr.Plot):
        yield from words_of(value.value)
    elif hasattr(value, "to_plotly_json"):
        drawn = value.to_plotly_json()
        traces = [{key: part for key, part in trace.items() if key != "customdata"} for trace in drawn["data"]]
        yield from words_of([traces, {key: part for key, part in drawn["layout"].items() if key != "template"}])


def check(answer: Any) -> None:
    """Each text has the name where it has it at all, and nowhere as markup."""
    found = list(words_of(answer))
    assert [word for word in found if OF_A_FIGURE in word] == []
    assert any("&lt;img src=x" in word for word in found), "the name is shown"


def test_the_train_tab_shows_names_as_text(studio: Studio) -> None:
    for run in studio.store.list():
        check(train.live_values(studio, run.run_id, None, {}, by=LOCAL))


def test_the_samples_tab_shows_names_as_text(studio: Studio) -> None:
    run_id = studio.store.list(status=["finished"])[0].run_id
    asked = Asked(run_id, 1, "", "all", "score", "", None, None)
    ids = studio.store.samples(run_id, limit=20).items
    hostile = next(one.sample for one in ids if HOSTILE in one.sample.site)
    check(sample_detail.html(studio, run_id, hostile.sample_id, 0))
    check(sample_epochs.compared(studio, run_id, 0, 1))
    with gr.Blocks() as page:
        accordion = gr.Accordion()
        with accordion:
            form = run_form.build(studio, accordion)
        parts = samples.build(studio, gr.Dropdown([]), page, tabs=gr.Tabs(), form=form)
    check(samples._answered(studio, parts, asked, hostile.sample_id))
    shown = sample_gallery.page_of(studio, parts.gallery, asked, 0)
    assert shown[parts.gallery.shown_ids]


def test_the_compare_tab_shows_names_as_text(studio: Studio) -> None:
    found = comparison.compare(studio.store, [run.run_id for run in studio.store.list()])
    check(compare._filled(studio, found, "dice"))


def test_a_list_for_spreadsheets_begins_no_formula(studio: Studio, tmp_path: Path) -> None:
    run_id = studio.store.list(status=["finished"])[0].run_id
    asked = Asked(run_id, 1, "", "all", "score", "", None, None)
    path, rows = written(studio, Lists(tmp_path), asked)
    assert rows and all(line[:1] not in "=+-@\t" for line in path.read_text().splitlines())
