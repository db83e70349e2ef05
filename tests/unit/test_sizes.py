"""Sizes that follow from the images: facts by hand, each rule at its edge, and a fit that costs say is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.cli import main
from engine.config import RunConfig, load_config
from engine.data.datasets import load_federation
from engine.data.facts import IMAGES_A_SITE, DataFacts, data_facts
from engine.federation.connect import describe
from engine.planning import sizes
from engine.planning.plan import plan
from engine.planning.sizes import Size, fit_to_data, generated_px, side_px, trained_prompt

SIDE = 60


def write_site(root: Path, site: str, *, count: int, discs: int = 1) -> None:
    """Write images 60 x 100 (H, W) that hold squares of 6 x 6 pixels far from each other, and one speck of 1 pixel."""
    for folder in ("images", "masks"):
        (root / site / folder).mkdir(parents=True)
    rng = np.random.default_rng(ord(site))
    for index in range(count):
        mask = np.zeros((SIDE, 100), np.uint8)
        for number in range(discs):
            mask[5:11, 10 + 20 * number : 16 + 20 * number] = 255
        mask[40, 40] = 255
        picture = rng.integers(0, 200, (SIDE, 100, 1), dtype=np.uint8).repeat(3, axis=2)
        Image.fromarray(picture).save(root / site / "images" / f"{index}.png")
        Image.fromarray(mask).save(root / site / "masks" / f"{index}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sites that train and a held-out one, whose images must not count."""
    root = tmp_path / "cells"
    for site, count, discs in (("a", 5, 1), ("b", 6, 3)):
        write_site(root, site, count=count, discs=discs)
    write_site(root, "z", count=4)
    words = 'name = "cells"\nmodality = "microscopy"\nclasses = ["nucleus"]\n'
    (root / "dataset.toml").write_text(words, encoding="utf-8")
    return root


def config_of(root: Path, **overrides: object) -> RunConfig:
    return load_config("real_cpu", overrides={"data.root": str(root), **overrides})


def test_facts_are_of_training_images_alone_and_leave_specks_out(folder: Path) -> None:
    config = config_of(folder)
    federation = load_federation(config.data, seed=config.seed)
    trained = {name: len(site.train) for name, site in federation.sites.items()}
    facts = data_facts([site.train for site in federation.sites.values()])
    assert facts.images == sum(trained.values()) < 5 + 6
    assert facts.objects == trained["a"] * 1 + trained["b"] * 3
    assert facts.side_px == 60
    # A square of 36 pixels is as large as a disc of this diameter; 77.46 = sqrt(60 x 100).
    assert facts.small_object == pytest.approx(2 * (36 / 3.14159265) ** 0.5 / 77.4596669, rel=1e-6)


def test_large_sites_are_sampled() -> None:
    config = load_config(
        "real_cpu", overrides={"data.source": "phantom", "data.images_per_site": 80, "data.root": None}
    )
    federation = load_federation(config.data, seed=config.seed)
    assert all(len(site.train) > IMAGES_A_SITE for site in federation.sites.values())
    assert data_facts([site.train for site in federation.sites.values()]).images == IMAGES_A_SITE * len(
        federation.sites
    )


def facts_of(*, small: float | None, side: int = 1000) -> DataFacts:
    return DataFacts(images=10, side_px=side, objects=0 if small is None else 20, small_object=small)


@pytest.mark.parametrize(
    ("small", "native", "side"),
    [
        (0.0417, 1000, 192),  # 8.006 pixels at 192
        (0.0416, 1000, 256),  # 7.99 at 192
        (0.001, 1000, 256),  # too small at any side
        (None, 1000, 192),
        (0.5, 128, 128),
        (0.5, 129, 192),
        (0.001, 150, 192),
        (0.001, 90, 128),
    ],
)
def test_the_side_is_usual_unless_objects_are_small_or_images_are(small: float, native: int, side: int) -> None:
    assert side_px(facts_of(small=small, side=native))[0] == side


@pytest.mark.parametrize(
    ("small", "input_px", "side"),
    [
        (0.19, 256, 128),  # 24.3 pixels of 8 a cell
        (0.187, 256, 192),  # 23.9 at 128, 35.9 at 192
        (0.1, 256, 256),  # 19.2 at 192, 25.6 at 256
        (0.1, 192, 192),
        (0.01, 192, 192),
        (None, 256, 128),
    ],
)
def test_synthetic_images_are_as_fine_as_small_objects_ask_for(small: float, input_px: int, side: int) -> None:
    assert generated_px(facts_of(small=small), input_px)[0] == side


@pytest.mark.parametrize(
    ("modality", "words"),
    [
        ("colonoscopy", "colonoscopy video frame"),
        ("microscopy", "microscopy of cell nuclei"),
        ("abdominal CT", "axial abdominal CT or MR slice"),
        ("MRI of the prostate", "T2-weighted prostate MR"),
        ("brain MRI", "axial abdominal CT or MR slice"),
        ("colour fundus photograph", None),
        ("thermography", None),
    ],
)
def test_the_prompt_is_one_that_the_mini_generator_knows(modality: str, words: str | None) -> None:
    assert trained_prompt(modality) == words


def test_as_many_rounds_as_the_time_allows_and_not_the_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(folder)
    fitted, found = fit_to_data(config)
    assert fitted.federation.rounds == 100, "eleven images leave room for the paper's number"
    assert (fitted.federation.patience, fitted.generator.prompt) == (8, "microscopy of cell nuclei")
    monkeypatch.setattr(sizes, "MINUTES", minutes_of(fitted, rounds=50) + 1e-6)
    shorter, _ = fit_to_data(config)
    assert shorter.federation.rounds == 50
    monkeypatch.setattr(sizes, "MINUTES", minutes_of(fitted, rounds=50) - 1e-3)
    assert fit_to_data(config)[0].federation.rounds == 40
    assert {size.key for size in found} == {
        "data.image_px", "generator.image_px", "generator.prompt", "federation.rounds", "federation.patience",
    }  # fmt: skip
    assert all(size.because for size in found)


def minutes_of(fitted: RunConfig, *, rounds: int) -> float:
    """Return what the plan says, divided by this machine's speed, without the start of its process."""
    part = fitted.federation.model_copy(update={"rounds": rounds})
    told = describe(fitted)
    return sizes._minutes(fitted.model_copy(update={"federation": part}), told)


def test_the_time_is_the_plans_own(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder)
    made = plan(config, home=tmp_path / "home")
    told = describe(config)
    factor = float(made.machine.rpartition("(")[2].partition(" x")[0])
    stages = sum(stage.minutes for stage in made.stages)
    assert sizes._minutes(config, told) == pytest.approx(
        stages * factor, abs=0.06 * len(made.stages)
    )  # each is rounded


def test_fewer_masks_before_a_run_that_is_too_long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "MINUTES", 0.0)
    fitted, found = fit_to_data(config_of(folder))
    assert (fitted.federation.rounds, fitted.generation.max_masks_per_site) == (10, 10)
    assert any(size.key == "generation.max_masks_per_site" and "the fewest" in size.because for size in found)


def test_what_is_given_stays(folder: Path) -> None:
    given = {"data.image_px": 96, "federation.rounds": 7, "generator.prompt": "cells"}
    fitted, found = fit_to_data(config_of(folder, **given), given=given)
    kept = (fitted.data.image_px, fitted.federation.rounds, fitted.generator.prompt, fitted.federation.patience)
    assert kept == (96, 7, "cells", None)
    assert not {size.key for size in found} & set(given)


def test_a_method_without_generator_gets_none(folder: Path) -> None:
    _, found = fit_to_data(config_of(folder, method="fedtinysam"))
    assert {size.key for size in found} == {"data.image_px", "federation.rounds", "federation.patience"}


def test_the_command_line_fits_its_preset_alone_and_tells(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def planned(*options: str) -> dict[str, Any]:
        arguments = ["plan", "--data", str(folder), "--home", str(tmp_path / "home"), "--json", *options]
        assert main(arguments) == 0
        return json.loads(capsys.readouterr().out)

    fitted = planned("--preset", "real_cpu", "--set", "federation.rounds=3")
    assert [Size(**one).key for one in fitted["sizes"]] == ["data.image_px", "generator.image_px", "generator.prompt"]
    assert fitted["config"]["data"]["image_px"] == 128, "the images' shorter side is 60 pixels"
    assert fitted["config"]["federation"]["rounds"] == 3
    assert planned("--preset", "real_cpu", "--as-written")["sizes"] == []
    assert planned("--preset", "polyp_cpu", "--set", "data.held_out=none")["sizes"] == []
    assert planned("--preset", "polyp_cpu", "--set", "data.held_out=none", "--fit")["sizes"]
