"""The schema, its presets and its text form."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import PRESETS_DIR, RunConfig, load_config, parse_config, preset_names
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
