"""What a plan says of privacy: epsilon of each site and patient, what is not covered, what weakens it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app import markup
from engine.accounting import epsilon_words, gaussian_epsilon, sampled_epsilon
from engine.cli import main
from engine.config import RunConfig, load_config
from engine.planning.only_costs import plan_costs
from engine.planning.records import Plan

PRIVATE = {"privacy.mechanism": "central", "privacy.noise_multiplier": 3.0, "federation.rounds": 20}


def planned(tmp_path: Path, **keys: Any) -> tuple[Plan, RunConfig]:
    config = load_config("phantom_cpu_smoke", overrides=keys)
    return plan_costs(config, home=tmp_path)[0], config


def test_each_site_has_the_epsilon_of_all_rounds(tmp_path: Path) -> None:
    made, _ = planned(tmp_path, **PRIVATE)
    once, other = (gaussian_epsilon(noise_multiplier=z, releases=20, delta=1e-5) for z in (3.0, 1.5))
    assert [(one.site, one.unit, one.releases) for one in made.privacy] == [
        (site.site, "site", 20) for site in made.sites if site.role == "source"
    ]
    assert {(one.epsilon, one.epsilon_replaced) for one in made.privacy} == {(once, other)}
    (said,) = (sentence for sentence in made.leaves_site if "epsilon is at most" in sentence)
    assert f"at most {epsilon_words(once)} for each site" in said and "the server itself sees it" in said
    assert "The unit is a site, not a patient" in said
    (uncovered,) = (sentence for sentence in made.leaves_site if "does not cover" in sentence)
    assert "validation Dice" in uncovered and "generator weights, masks, look of the images" in uncovered
    page = markup.plan(made)
    assert f"<td>{epsilon_words(once)}</td><td>{epsilon_words(other)}</td>" in page and "the site&#x27;s" in page


def test_nothing_is_said_where_there_is_no_noise(tmp_path: Path) -> None:
    made, _ = planned(tmp_path)
    assert made.privacy == () and not any("psilon" in text for text in (*made.leaves_site, *made.warnings))
    assert "psilon" not in markup.plan(made)


def test_a_generator_s_epsilon_is_of_patients(tmp_path: Path) -> None:
    made, config = planned(tmp_path, **{"generator.dp_noise_multiplier": 1.2, "generator.steps": 30})
    count = next(site.num_train for site in made.sites if site.site == made.privacy[0].site)
    rate = config.generator.batch_size / count
    spent = sampled_epsilon(noise_multiplier=1.2, sampling_rate=rate, steps=30, delta=1e-5)
    assert [(one.unit, one.releases) for one in made.privacy] == [("patient", 30)] * 3
    assert made.privacy[0].epsilon == spent and made.privacy[0].epsilon_replaced is None
    assert any("by DP-SGD" in sentence and "masks that go up" in sentence for sentence in made.leaves_site)
    plain, _ = planned(tmp_path, **{"generator.steps": 30})
    costs = [{stage.name: stage for stage in one.stages}["generator_training"] for one in (made, plain)]
    assert costs[0].minutes >= costs[1].minutes and costs[0].peak_memory_gib > costs[1].peak_memory_gib


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"privacy.noise_multiplier": 2.0}, "privacy.noise_multiplier has no effect: privacy.mechanism is off."),
        ({"generator.dp_clip_norm": 2.0}, "generator.dp_clip_norm has no effect: dp_noise_multiplier is left out."),
        (PRIVATE, "The noise follows from the run's seed"),
        (PRIVATE, "Statistics of BatchNorm stay those of the first weights"),
        (PRIVATE | {"federation.patience": 3}, "follows from the sites' own figures, which have no noise"),
        (PRIVATE | {"federation.codec_down": ["int8"]}, "clipped from what the sites have received"),
        (PRIVATE, "Of 3 sites a round averages, the noise on each weight has the standard deviation 1:"),
        (PRIVATE | {"privacy.mechanism": "client"}, "the standard deviation 1.73:"),
        ({"generator.dp_noise_multiplier": 1.0}, "The generators' noise follows from the run's seed"),
        (PRIVATE | {"method": "fedtinysam", "generator.dp_noise_multiplier": 1.0}, "[generator] has no effect"),
    ],
)
def test_what_weakens_or_has_no_effect_is_said(keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    made, _ = planned(tmp_path, **keys)
    assert any(words in warning for warning in made.warnings), made.warnings


@pytest.mark.parametrize("key", ["privacy.noise_source", "student.batch_norm"])
def test_what_helps_is_not_warned_about(key: str, tmp_path: Path) -> None:
    value, words = {"privacy.noise_source": ("system", "seed"), "student.batch_norm": ("kept", "BatchNorm")}[key]
    made, _ = planned(tmp_path, **PRIVATE, **{key: value})
    assert not any(words in warning for warning in made.warnings)


def test_the_command_prints_a_line_for_each_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [text for key, value in PRIVATE.items() for text in ("--set", f"{key}={value}")]
    code = main(["plan", "--preset", "phantom_cpu_smoke", "--home", str(tmp_path), *sets])
    epsilon = epsilon_words(gaussian_epsilon(noise_multiplier=3.0, releases=20, delta=1e-5))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert code == 0 and sum(line[1:4] == ["site", "20", "1e-05"] and line[4] == epsilon for line in lines if line) == 3
