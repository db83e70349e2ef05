"""What the run form refuses: each setting by its label, at its field, several at once, without keys and commands."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from app import forms, refusals
from engine.config import RunConfig, load_config, parse_config, preset_names
from engine.config_faults import InvalidConfig
from engine.errors import UserError
from engine.planning import plan
from engine.planning.checks import check_weights

FIELDS = forms.form_fields()


def refused(values: dict[str, Any]) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as caught:
        parse_config(values)
    return caught.value


def told(error: UserError) -> list[dict[str, str]]:
    """Return what the browser is told of the fields."""
    found = re.search(r"data-faults='([^']*)'", refusals.box(error))
    assert found is not None
    return json.loads(unescape(found[1]))


def words(error: UserError) -> str:
    return unescape(re.sub(r"<[^>]*>", " ", refusals.box(error)))


@pytest.mark.parametrize(
    ("values", "field", "section", "said"),
    [
        ({"federation": {"rounds": -3}}, "field-federation-rounds", "section-federation",
         "Must be 1 to 10000; it is -3."),
        ({"threads": "many"}, "field-threads", "section-run", "Must be a whole number; it is many."),
        ({"federation": {"rounds": 2.5}}, "field-federation-rounds", "section-federation",
         "Must be a whole number; it is 2.5."),
        ({"federation": {"learning_rate": 0}}, "field-federation-learning_rate", "section-federation",
         "Must be above 0, at most 10; it is 0."),
        ({"federation": {"learning_rate": 11}}, "field-federation-learning_rate", "section-federation",
         "Must be above 0, at most 10; it is 11."),
        ({"device": "abacus"}, "field-device", "section-run",
         "Must be one of 'auto', 'cpu' or 'cuda'; it is abacus."),
        ({"data": {"source": "folder"}}, "field-data-root", "",
         "'Dataset folder on this server' is needed when 'Images' under 'Choose the images' is 'A folder on this "
         "server'."),
        ({"federation": {"codec": ["fp16", "topk"]}}, "field-federation-codec", "section-federation",
         "'topk' cannot come after 'fp16': the order is topk, then fp16 or int8, then zstd."),
        ({"backend": "superlink"}, "field-server", "section-run",
         "'Folder of the federation' under 'Run and device' is needed when 'Where the sites are' under 'Run and "
         "device' is 'superlink'."),
    ],
)  # fmt: skip
def test_a_fault_is_told_at_its_field_in_the_forms_words(
    values: dict[str, Any], field: str, section: str, said: str
) -> None:
    assert told(refused(values)) == [{"field": field, "section": section, "said": said}]


def test_several_faults_come_at_once_in_the_order_of_the_form() -> None:
    error = refused({"federation": {"rounds": 0, "patience": 0}, "seed": -1, "generation": {"batch_size": 0}})
    fields = [one["field"] for one in told(error)]
    assert fields == [
        "field-seed",
        "field-federation-rounds",
        "field-federation-patience",
        "field-generation-batch_size",
    ]
    assert "4 settings are not possible." in words(error)
    assert "'Rounds' under 'Federated training' must be 1 to 10000; it is 0." in " ".join(words(error).split())


def test_keys_that_do_not_fit_each_other_are_told_all_at_once() -> None:
    error = refused(
        {"data": {"source": "folder", "protocol": "fixed-test"}, "student": {"name": "tinysam", "lora_rank": 4}}
    )
    assert [one["field"] for one in told(error)] == [
        "field-data-root",
        "field-data-test_root",
        "field-student-lora_rank",
    ]
    assert error.what.startswith("The configuration has 3 fault(s): ")


def test_an_empty_number_and_a_wrong_one_are_told_together() -> None:
    values = dict(zip((field.key for field in FIELDS), forms.to_values(RunConfig(), FIELDS), strict=True))
    values |= {"federation.rounds": None, "seed": -1}
    with pytest.raises(InvalidConfig) as caught:
        forms.from_values(list(values.values()), FIELDS)
    assert [one["field"] for one in told(caught.value)] == ["field-seed", "field-federation-rounds"]
    default = RunConfig().federation.rounds
    said = f"Is empty, and a run needs a number there: the program's own is {default}."
    assert told(caught.value)[1]["said"] == said


@pytest.mark.parametrize(
    ("name", "advice"), [("tinysam", "leave the field empty"), ("tinysam-5m", "Choose one of these names")]
)
def test_weights_that_are_not_here_are_refused_at_their_field_without_a_command(
    name: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSFEDMED_HOME", str(tmp_path))
    config = parse_config({"student": {"name": "tinysam", "size": "5m", "weights": name}})
    with pytest.raises(UserError) as caught:
        check_weights(config, ("federated_training",))
    (one,) = told(caught.value)
    assert one["field"] == "field-student-weights" and "'Weights' under 'Student model" in one["said"]
    assert "python" not in words(caught.value) and "student.weights" not in words(caught.value)
    assert advice in words(caught.value)


@pytest.mark.parametrize(
    ("sentence", "in_words"),
    [
        ("data.task has no effect: data.source is 'folder'.",
         "'Phantom task' has no effect: 'Images' under 'Choose the images' is 'A folder on this server'."),
        ("distillation.mutual is false: the method 'x' is that by definition.",
         "'Mutual' under 'Mutual distillation' is off: the method 'x' is that by definition."),
        ("[pix2pix] has no effect: generator.kind is 'ddpm'.",
         "'Pix2Pix' has no effect: 'Kind of generator' under 'Generator at each site' is 'ddpm'."),
        ("Set generator.optimiser_8bit = false, or install it.",
         "Set '8-bit optimiser' under 'Generator at each site' to off, or install it."),
        ("threads has little effect: the models run on the GPU.",
         "'CPU threads' under 'Run and device' has little effect: the models run on the GPU."),
        ("the server is one machine, whose name is 'x' in example.data.task.more.",
         "the server is one machine, whose name is 'x' in example.data.task.more."),
    ],
)  # fmt: skip
def test_an_engines_sentence_is_said_in_the_forms_words(sentence: str, in_words: str) -> None:
    assert refusals.in_words(sentence) == in_words


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("phantom")])
def test_notes_of_a_plan_name_no_key(name: str) -> None:
    config = load_config(name, overrides={
        "data.root": "/nowhere", "threads": 4, "workers": 2, "federation.patience": 9_999, "federation.deadline_s": 9.0,
        "generator.kind": "ddpm", "generation.released_share": 0.0, "export.site_models": True, "federation.quorum": 1,
    })  # fmt: skip
    told = refusals.planned(plan(config, only_costs=True))
    notes = (*told.warnings, *told.leaves_site)
    assert len(told.warnings) >= 5 and any("'Mask sharing' under 'Synthetic images'" in said for said in notes)
    keys = {key for field in FIELDS for key in (field.key, field.key.rpartition(".")[2]) if "." in key or "_" in key}
    assert [(note, key) for note in notes for key in keys if re.search(rf"(?<!\w){re.escape(key)}(?!\w)", note)] == []


def test_a_refusal_shows_what_was_typed_as_text_only() -> None:
    box = refusals.box(refused({"threads": "<img src=x onerror=alert(1)>'"}))
    assert "<img" not in box and "onerror=alert(1)&gt;&#x27;" in box
