"""What the endpoints for programs read and give: configurations as text, records as plain JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from app import api_config, api_records
from engine.config import load_config, parse_config, preset_names
from engine.errors import UserError
from engine.runs.events import StoreReporter
from engine.runs.store import RunStore

PRESET = "phantom_cpu_smoke"


@pytest.mark.parametrize("text", [
    '{"federation": {"rounds": 3}, "seed": 7}', "seed = 7\n[federation]\nrounds = 3", "federation.rounds = 3\nseed = 7",
    ' \n{"seed": 7, "federation": {"rounds": 3}}',
])  # fmt: skip
def test_toml_and_json_say_the_same(text: str) -> None:
    assert api_config.nested(text, "") == {"federation": {"rounds": 3}, "seed": 7}
    laid = parse_config(api_config.nested(text, PRESET))
    assert laid == load_config(PRESET, overrides={"federation.rounds": 3, "seed": 7})
    assert laid.student == load_config(PRESET).student and laid.seed != load_config(PRESET).seed


def test_a_preset_alone_is_that_preset() -> None:
    for preset in preset_names():
        assert parse_config(api_config.nested("", preset)) == load_config(preset)


@pytest.mark.parametrize(("text", "preset", "code"), [
    ("", "", "api.no_configuration"), (" \n", "", "api.no_configuration"), ("{", "", "api.syntax"),
    ("a", "", "api.syntax"), ('{"seed": NaN}', "", "api.syntax"), ("{" * 30_000, "", "api.syntax"),
    ("a" + ".a" * 15_000 + " = 1", PRESET, "api.syntax"), ("a = " + "[" * 30_000, "", "api.syntax"),
    ('{"seed": ' + "9" * 5_000 + "}", "", "api.syntax"), ("", "../presets/" + PRESET, "api.preset"),
    ("", f"{PRESET}.toml", "api.preset"), ("rounds = 3", PRESET, "config.invalid"),
])  # fmt: skip
def test_what_is_no_configuration_is_refused(text: str, preset: str, code: str) -> None:
    with pytest.raises(UserError) as caught:
        api_config.nested(text, preset)
    assert caught.value.code == code


def test_a_preset_is_no_path(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text("seed = 1")
    with pytest.raises(UserError) as caught:
        api_config.nested("", str(own))
    assert caught.value.code == "api.preset"


def test_records_become_plain_json_and_every_text_is_told() -> None:
    found = {"a": (1, math.nan, "at /home/x"), "b": {"c": math.inf, "d": Path("/home/x"), "e": None, "f": True}}
    told = api_records.plain(found, lambda words: words.replace("/home/x", "home"))
    assert told == {"a": [1, None, "at home"], "b": {"c": None, "d": "home", "e": None, "f": True}}


def test_a_report_names_files_and_has_no_mapping_that_a_client_would_fetch(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    run_id = store.create_run(load_config(PRESET)).run_id
    store.update_run(run_id, status="running", attempt=1)
    reporter = StoreReporter(store, run_id, "export", attempt=1)
    reporter.artefact("bundle", store.run_dir(run_id) / "bundle")
    reporter.flush()
    found = api_records.report(store, run_id)
    assert found["files"] == [{"kind": "bundle", "name": "bundle"}]
    assert all('"path"' not in json.dumps(api_records.plain(given, str)) for given in (
        found, api_records.status(store, run_id), api_records.run(store.get(run_id)),
    ))  # fmt: skip
    store.close()
