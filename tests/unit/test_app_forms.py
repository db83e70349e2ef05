"""The form is the schema: every field has a control, values survive the way through it, and empty means left out."""

from __future__ import annotations

import pytest

from app import forms
from engine.config import RunConfig, load_config, parse_config, preset_names
from engine.errors import UserError

FIELDS = forms.form_fields()


def leaves(values: dict, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in values.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found


def spec(key: str) -> forms.FieldSpec:
    return next(field for field in FIELDS if field.key == key)


def test_every_key_of_the_schema_has_a_field() -> None:
    assert {field.key for field in FIELDS} == leaves(RunConfig().model_dump(mode="json"))


def test_every_field_has_a_label_and_words() -> None:
    assert [f.key for f in FIELDS if not f.label or (not f.label[0].isupper() and not f.label[0].isdigit())] == []
    assert not any("[P" in field.info or "[C" in field.info or "(ours)" in field.info for field in FIELDS)


@pytest.mark.parametrize(
    ("key", "kind", "optional", "minimum", "maximum"),
    [
        ("seed", "integer", False, 0, 2**53 - 1),
        ("device", "choice", False, None, None),
        ("threads", "integer", True, 1, 1024),
        ("data.root", "text", True, None, None),
        ("data.sites", "names", True, None, None),
        ("data.image_px", "integer", False, 32, 2048),
        ("data.validation_fraction", "number", False, 0, 1),
        ("federation.average_buffers", "switch", False, None, None),
        ("federation.learning_rate", "number", False, 0, 10),
    ],
)
def test_kinds_and_bounds_come_from_the_schema(
    key: str, kind: str, optional: bool, minimum: float | None, maximum: float | None
) -> None:
    field = spec(key)
    assert (field.kind, field.optional, field.minimum, field.maximum) == (kind, optional, minimum, maximum)


def test_information_names_its_source_and_bounds() -> None:
    assert spec("federation.rounds").info == "Communication rounds (paper: 100). 1 to 10000."
    assert "32 to 2048" in spec("data.image_px").info
    assert "Above 0, at most 10" in spec("federation.learning_rate").info
    assert spec("seed").info.endswith("At least 0."), "2**53 is no choice of anybody's"
    assert spec("federation.proximal_mu").info.endswith("At least 0.")
    assert not any("e+" in field.info for field in FIELDS)


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("phantom")])
def test_a_preset_survives_the_form(name: str) -> None:
    config = load_config(name)
    assert parse_config(forms.from_values(forms.preset_values(name, FIELDS), FIELDS)) == config


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_fills_the_form_and_has_a_note(name: str) -> None:
    assert len(forms.preset_values(name, FIELDS)) == len(FIELDS)
    assert len(forms.preset_note(name)) > 20


def test_a_preset_is_offered_with_what_it_is_for() -> None:
    (choice,) = forms.preset_choices(["phantom_cpu_smoke"])
    said = "Every stage of DSFedMed on phantoms, as small as it can be: at most 60 s on 2 CPU cores"
    assert choice == (f"phantom_cpu_smoke · {said}", "phantom_cpu_smoke")
    labels = [label for label, _ in forms.preset_choices(preset_names())]
    assert len(set(labels)) == len(labels) and all(len(label) < 200 for label in labels)


@pytest.mark.parametrize(
    ("key", "typed", "stored"),
    [
        ("threads", "", None),
        ("threads", " 2 ", 2),
        ("federation.patience", "3.0", 3),
        ("data.sites", "a, b ,", ["a", "b"]),
        ("data.sites", "", None),
        ("data.root", " /somewhere ", "/somewhere"),
        ("federation.rounds", 7.0, 7),
        ("federation.learning_rate", 0.001, 0.001),
        ("federation.average_buffers", False, False),
    ],
)
def test_what_is_typed_is_what_is_stored(key: str, typed: object, stored: object) -> None:
    field = spec(key)
    nested = forms.from_values([typed], (field,))
    for part in key.split("."):
        nested = nested[part]
    assert nested == stored and type(nested) is type(stored)


def test_a_form_changes_what_was_edited_and_nothing_else() -> None:
    config = parse_config({"data": {"sites": ["b", "a, c"]}, "federation": {"learning_rate": 0.1 + 0.2}, "threads": 2})
    values = dict(zip((field.key for field in FIELDS), forms.to_values(config, FIELDS), strict=True))
    assert parse_config(forms.edited(config, list(values.values()), FIELDS)) == config
    values |= {"distillation.selection_rate": 0.25, "threads": ""}
    changed = parse_config(forms.edited(config, list(values.values()), FIELDS))
    assert (changed.distillation.selection_rate, changed.threads) == (0.25, None)
    assert changed.federation == config.federation and changed.data == config.data


def test_a_cleared_number_is_refused_and_a_cleared_name_takes_the_default() -> None:
    assert forms.from_values([""], (spec("name"),)) == {}
    rounds = (spec("federation.rounds"),)
    with pytest.raises(UserError, match=r"Rounds.*Federated training") as caught:
        forms.from_values([None], rounds)
    assert caught.value.code == "config.invalid"
    with pytest.raises(UserError, match="Rounds"):
        forms.edited(parse_config({}), [None], rounds)


def test_words_of_the_schema_survive_markdown() -> None:
    assert not any(field.info.count("*") > 1 for field in FIELDS), "two would be taken for emphasis"
    assert "w·BCE + (1-w)·KL" in spec("distillation.supervision_weight").info
    assert ", * for any letters" in spec("federation.shared_parameters").info, "which people type"


@pytest.mark.parametrize(("key", "typed"), [("threads", "many"), ("federation.rounds", 0), ("federation.rounds", 1.5)])
def test_impossible_values_are_refused_by_name(key: str, typed: object) -> None:
    with pytest.raises(UserError, match=key):
        parse_config(forms.from_values([typed], (spec(key),)))
