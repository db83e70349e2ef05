"""On a page that others can reach nothing says where a run's images and weights lie; a fork's form is its owner's."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import api, server_paths
from app.access import Visitor
from app.main import build_app
from app.settings import Settings
from app.studio import Studio
from app.tabs import train
from engine.config import RunConfig, load_config

SECRET = "/srv/clinic_of_dr_who"
VIEWER = Visitor("anybody", "anybody", "viewer")


def a_run(studio: Studio) -> str:
    config = load_config(
        "phantom_cpu_smoke",
        overrides={
            "data.source": "folder", "data.root": f"{SECRET}/polyps", "data.held_out": "south",
            "data.test_root": None, "student.weights": f"{SECRET}/weights/student.safetensors",
        },
    )  # fmt: skip
    run_id = studio.store.create_run(config).run_id
    studio.store.write_log(run_id, "warning", f"{SECRET}/polyps/north/x.png cannot be read.")
    return run_id


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    found = Studio(Settings(home=tmp_path / "home", read_only=True))
    yield found
    found.store.close()


def test_places_are_those_that_a_configuration_names() -> None:
    config = RunConfig()
    data = config.data.model_copy(update={"root": Path("/a/b"), "public_root": Path("relative")})
    found = server_paths.places(config.model_copy(update={"data": data}))
    assert found == {Path("/a/b"): "b"}


def test_the_train_tab_and_the_endpoints_name_no_place(studio: Studio) -> None:
    run_id = a_run(studio)
    page = shown(studio, run_id)
    assert "clinic_of_dr_who" not in page and "north/x.png cannot be read" in page and 'data.root="polyps"' in page
    config = studio.store.get(run_id).config
    answer = api._answered(studio, lambda: {"said": f"{SECRET}/polyps/x"}, run_id=run_id)
    assert answer == {"said": "x"} and studio.told(f"{SECRET}/polyps", of=config) == "polyps"
    local = Studio(Settings(home=studio.settings.home))
    assert "clinic_of_dr_who" in shown(local, run_id), "its own people read all of it"
    local.store.close()


def shown(studio: Studio, run_id: str) -> str:
    """Return all words of the Train tab's values."""
    values = train.live_values(studio, run_id, None, {}, by=VIEWER)
    return html.unescape(" ".join(str(getattr(value, "value", value)) for value in values))


def test_a_forks_form_is_filled_for_who_may_change_the_run(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = a_run(studio)
    handlers = {getattr(fn.fn, "__qualname__", ""): fn.fn for fn in build_app(studio).fns.values() if fn.fn}
    (fill,) = [handler for name, handler in handlers.items() if "wire_fork" in name]
    for visitor, may in ((VIEWER, False), (Visitor("o", "o", "operator"), True)):
        monkeypatch.setattr("app.tabs.go_on.visitor_of", lambda _request, visitor=visitor: visitor)
        box, *values = fill(run_id, "export", None)
        assert bool(box) is not may and (SECRET in str(values)) is may, visitor
