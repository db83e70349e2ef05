"""A run's name, tags and notes: what is kept of what is typed, its limits, its way through a zip, and who may."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from runs_world import finished_run

from app import labels_view, markup, viewmodels
from app.access import Visitor
from app.settings import Settings
from app.studio import Studio
from engine.errors import UserError
from engine.runs.archive_export import export_run
from engine.runs.archive_import import import_run
from engine.runs.labels import Labels, readable
from engine.runs.store import RunStore

TYPED = {
    "title": "  <b>Eyes</b>  of May ",
    "tags": "fundus, to  keep,,fundus ",
    "notes": "One.\r\n\r\nTwo <img src=x>\n",
}
KEPT = Labels("<b>Eyes</b> of May", ("fundus", "to keep"), "One.\n\nTwo <img src=x>")
OPERATOR = Visitor("user:a", "ann", "operator")


def test_what_is_typed_is_put_in_order() -> None:
    assert Labels.written(**TYPED) == KEPT
    assert Labels.written(" ", " , ", "\n") == Labels() == readable({"title": None, "tags": "no JSON", "notes": None})
    assert Labels().columns() == {"title": None, "tags": None, "notes": None}
    assert readable(KEPT.columns()) == KEPT


@pytest.mark.parametrize(
    ("title", "tags", "notes"),
    [
        ("x" * 81, "", ""),
        ("a\x1b[31m", "", ""),
        ("a\u2028b\ud800", "", ""),
        ("", "x" * 25, ""),
        ("", ",".join("abcdefghi"), ""),
        ("", "", "x" * 4001),
        ("", "", "bell\x07"),
    ],
)
def test_what_is_too_long_or_no_text_is_refused(title: str, tags: str, notes: str) -> None:
    with pytest.raises(UserError, match="characters"):
        Labels.written(title, tags, notes)


def test_they_survive_an_archive_and_a_forged_one_is_refused(tmp_path: Path) -> None:
    store, other = RunStore(tmp_path / "home"), RunStore(tmp_path / "other")
    run_id = finished_run(store)
    assert store.get(run_id).labels == Labels() and store.get(run_id).shown_name == store.get(run_id).name
    store.update_run(run_id, **KEPT.columns())
    export_run(store, run_id, tmp_path / "run.zip")
    import_run(other, tmp_path / "run.zip")
    assert other.get(run_id).labels == KEPT and other.get(run_id).shown_name == "<b>Eyes</b> of May"
    assert other.get(run_id).name == store.get(run_id).name == store.get(run_id).config.name
    store.update_run(run_id, title="x" * 81)
    assert store.get(run_id).labels == Labels(), "the list of runs is there all the same"
    export_run(store, run_id, tmp_path / "forged.zip")
    with zipfile.ZipFile(tmp_path / "forged.zip") as zipped:
        assert len(json.loads(zipped.read("records.json"))["runs"][0]["title"]) == 81
    with pytest.raises(UserError, match="81 characters"):
        import_run(RunStore(tmp_path / "third"), tmp_path / "forged.zip")


def test_who_may_changes_them_and_everybody_reads_plain_text(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home", access="sign-in", users_file=tmp_path / "users.toml"))
    run_id = finished_run(studio.store)
    for visitor in (Visitor("user:b", "bob", "viewer"), Visitor("visitor:x", "a visitor", "demo")):
        with pytest.raises(UserError):
            labels_view.change(studio, run_id, **TYPED, by=visitor)
    with pytest.raises(UserError, match="26 characters"):
        labels_view.change(studio, run_id, title="a", tags="x" * 26, notes="", by=OPERATOR)
    assert studio.store.get(run_id).labels == Labels()
    assert labels_view.change(studio, run_id, **TYPED, by=OPERATOR) == KEPT == studio.store.get(run_id).labels
    assert studio.store.events(run_id)[-1].text == "Name, tags or notes changed by ann."
    ((label, _),) = viewmodels.run_choices(studio.runs())
    assert label.startswith("<b>Eyes</b> of May · Finished · ") and label.endswith(" #fundus #to keep")
    shown = markup.status(studio.store.view(run_id)) + labels_view.shown(KEPT)
    assert "<b>" not in shown and "<img" not in shown and "<li>to keep</li>" in shown
    assert "&lt;b&gt;Eyes&lt;/b&gt; of May" in shown and "Two &lt;img src=x&gt;" in shown
    assert labels_view.shown(Labels()) == ""
