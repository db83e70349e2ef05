"""The schema, its presets and its text form."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import PRESETS_DIR, RunConfig, load_config, parse_config, parse_stored_config, preset_names
from engine.config_keys import unread_sections
from engine.config_text import to_toml
from engine.errors import UserError


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_complete_and_reads_back(name, tmp_path):
    config = load_config(name)
    assert config.name == name
    (tmp_path / "copy.toml").write_text(to_toml(config), encoding="utf-8")
    assert load_config(tmp_path / "copy.toml") == config
    text = (PRESETS_DIR / f"{name}.toml").read_text(encoding="utf-8")
    for section, field in RunConfig.model_fields.items():
        if section in unread_sections(config.method, config.generator.kind):
            assert f"[{section}]" not in text
            continue
        keys = getattr(field.annotation, "model_fields", {})
        assert all(f"\n{key} =" in text or f"\n# {key} =" in text for key in keys), section


def test_the_issue_s_presets_exist():
    tasks = ("fundus", "prostate", "nuclei", "isic", "chaos")
    wanted = {"phantom_cpu_smoke", "phantom_cpu_demo", "polyp_cpu", "nuclei_cpu", *(f"{t}_paper" for t in tasks)}
    assert wanted <= set(preset_names())


@given(st.integers(0, 2**31), st.floats(1e-6, 1.0), st.sampled_from(["none", "flips"]))
def test_text_form_keeps_every_value(seed, rate, augment):
    config = parse_config({"seed": seed, "federation": {"learning_rate": rate}, "data": {"augment": augment}})
    values = tomllib.loads(to_toml(config, header="made by a test"))
    assert parse_config(values) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"federation": {"round": 3}}, "federation.round"),
        ({"federation": {"rounds": 0}}, "federation.rounds"),
        ({"data": {"source": "folder"}}, "data.root"),
        ({"distillation": {"mode": "reference"}}, "in_batch_quantile"),
        ({"sed": 1}, "sed"),
        ({"federation": {"learning_rate": float("inf")}}, "federation.learning_rate"),
        ({"evaluation": {"bootstrap_samples": 10**9}}, "evaluation.bootstrap_samples"),
        ({"data": {"images_per_site": 10**9}}, "data.images_per_site"),
    ],
)
def test_a_bad_configuration_names_the_key(values, words):
    with pytest.raises(UserError) as caught:
        parse_config(values)
    assert caught.value.code == "config.invalid"
    assert words in caught.value.what


def test_a_missing_preset_lists_the_others():
    with pytest.raises(UserError, match="phantom_cpu_smoke"):
        load_config("no_such_preset")


def test_overrides_reach_nested_keys():
    config = load_config("phantom_cpu_smoke", overrides={"federation.rounds": 7, "seed": 5})
    assert (config.federation.rounds, config.seed) == (7, 5)


def test_the_hash_ignores_the_name_only():
    config = load_config("phantom_cpu_smoke")
    assert config.model_copy(update={"name": "other"}).content_hash() == config.content_hash()
    assert config.model_copy(update={"seed": 1}).content_hash() != config.content_hash()


def test_a_released_share_needs_a_released_controlnet():
    with pytest.raises(UserError, match=r"generation\.released_share"):
        parse_config({"generation": {"released_share": 0.5}, "generator": {"controlnet": None}})


def leaves(schema, definitions):
    """Every (key, type variant) of a JSON schema of models, references followed."""
    for key, field in schema["properties"].items():
        for variant in field.get("anyOf", [field]):
            if "$ref" in variant:
                inner = leaves(definitions[variant["$ref"].rsplit("/", 1)[1]], definitions)
                yield from ((f"{key}.{name}", leaf) for name, leaf in inner)
            elif variant.get("type") != "null":
                yield key, {**variant, **{k: field[k] for k in ("maxItems", "maxLength") if k in field}}


def test_every_count_rate_and_list_has_an_upper_limit():
    schema = RunConfig.model_json_schema()
    found = dict(leaves(schema, schema["$defs"]))
    assert len(found) > 60
    for key, leaf in found.items():
        if leaf.get("type") in ("integer", "number"):
            assert "maximum" in leaf or "exclusiveMaximum" in leaf, key
        elif leaf.get("type") == "array":
            assert "maxItems" in leaf and {"maxLength", "enum"} & leaf["items"].keys(), key
        elif leaf.get("type") == "string":
            assert "maxLength" in leaf or "enum" in leaf or "const" in leaf or leaf.get("format") == "path", key
        else:
            assert leaf.get("type") == "boolean", key


@pytest.mark.parametrize(
    "key",
    [
        "federation.rounds",
        "federation.local_epochs",
        "federation.patience",
        "federation.batch_size",
        "generator.steps",
        "generator.accumulation",
        "generation.images_per_mask",
        "generation.max_masks_per_site",
        "generation.sampler_steps",
        "foundation.epochs",
        "distillation.epochs",
        "evaluation.bootstrap_samples",
        "data.images_per_site",
        "threads",
    ],
)
def test_a_thousand_million_of_anything_is_refused_with_its_limit(key):
    *section, leaf = key.split(".")
    with pytest.raises(UserError, match="less than or equal to") as caught:
        parse_config({section[0]: {leaf: 10**9}} if section else {leaf: 10**9})
    assert caught.value.code == "config.invalid" and key in caught.value.what


@pytest.mark.parametrize(
    "values",
    [
        {"name": "a\x1b[31mb"},
        {"name": "a\nb"},
        {"name": "\ud800"},
        {"data": {"source": "folder", "root": "/a\x00b"}},
        {"data": {"source": "folder", "root": "/" + "a" * 5000}},
        {"data": {"sites": ["a"] * 2000}},
        {"data": {"classes": ["a" * 300]}},
        {"student": {"name": "tinysam", "weights": "w" * 5000}},
        {"generator": {"prompt": "p" * 2000}},
        {"federation": {"learning_rate": 1e300}},
        {"seed": 2**60},
        {"federation": [{"rounds": 3}]},
        {"federation": {"rounds": {"rounds": 3}}},
        [],
        None,
        "text",
    ],
)
def test_odd_values_are_refused_in_a_few_words(values):
    with pytest.raises(UserError) as caught:
        parse_config(values)
    assert caught.value.code == "config.invalid" and len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[[data]]\ntask = 'fundus'\n[[data]]\ntask = 'skin'", "config.invalid"),
        ("data = 3", "config.invalid"),
        ("federation.rounds.more = 3", "config.invalid"),
        ("name = 2020-01-01", "config.invalid"),
        ("federation = {rounds = [[[1]]]}", "config.invalid"),
        ("\n".join(f"key{i} = 1" for i in range(5000)), "config.invalid"),
        (f"{'k' * 5000} = 1", "config.invalid"),
        ("seed = nan", "config.invalid"),
        ("seed = " + "9" * 6000, "config.not_toml"),
        ("x = " + "[" * 50_000 + "]" * 50_000, "config.not_toml"),
        ("x = " + "{a = " * 20_000, "config.not_toml"),
        ("#" * 1_000_001, "config.not_toml"),
        ("name = 'a", "config.not_toml"),
    ],
)
@pytest.mark.parametrize("overrides", [{}, {"data.task": "skin", "federation.rounds": 2}])
def test_odd_toml_is_refused_in_a_few_words(tmp_path, text, code, overrides):
    (tmp_path / "c.toml").write_text(text)
    if overrides and text.startswith(("data = 3", "federation.rounds", "federation = ")):
        overrides = {"data.task": "skin"}
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "c.toml", overrides=overrides)
    assert caught.value.code == code and len(str(caught.value)) < 5000


@pytest.mark.parametrize("name", ["a" * 5000, "a\x00b", "", ".", "/", "../presets"])
def test_what_is_no_file_is_not_found(name):
    with pytest.raises(UserError) as caught:
        load_config(name)
    assert caught.value.code == "config.not_found"


def test_a_run_stored_before_there_were_limits_stays_readable():
    stored = {"name": "n" * 200, "seed": 2**60, "federation": {"rounds": 10**9, "batch_size": 3}}
    config = parse_stored_config(stored)
    assert (config.name, config.seed) == ("n" * 200, 2**60)
    assert (config.federation.rounds, config.federation.batch_size) == (10**9, 3)
    assert parse_stored_config({"federation": {"rounds": 5}}) == parse_config({"federation": {"rounds": 5}})
    for broken in ({"sed": 1}, {"federation": {"rounds": 10**9, "batch_size": 0}}, []):
        with pytest.raises(UserError):
            parse_stored_config(broken)
