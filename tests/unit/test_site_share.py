"""What a run would take of one site: the plan of the whole says the same, and its people see it before they decide."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engine.accounting import epsilon_words, gaussian_epsilon
from engine.cli import main
from engine.config import RunConfig, load_config
from engine.data.phantoms import write_dataset
from engine.federation.backends.participants import for_sites
from engine.federation.connect import describe
from engine.federation.tasks import APPROVAL, DESCRIBE, SiteRequest
from engine.methods import catalogue
from engine.planning.at_site import share_of
from engine.planning.plan import plan
from engine.site.deployed import program
from engine.version import program_version
from tests.unit.deployed_world import Nobody

NAMES = ("guided_inset", "portable_yellow", "scope_octagon", "tower_hd")
HELD_OUT = NAMES[0]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset("polyp", tmp_path_factory.mktemp("all") / "set", images_per_site=8, image_px=32)


def config_of(root: Path, **more: object) -> RunConfig:
    values: dict[str, object] = {
        "data.source": "folder", "data.root": str(root), "data.image_px": 32, "data.held_out": HELD_OUT,
        "data.sites": list(NAMES), "device": "cpu", "threads": 1,
    }  # fmt: skip
    return load_config("phantom_cpu_smoke", overrides={**values, **more})


def settings_of(config: RunConfig) -> str:
    return for_sites(config, names=NAMES, held_out=HELD_OUT)


@pytest.mark.parametrize(
    "more", [{}, {"method": "fedsam"}, {"federation.codec": ["fp16"], "generation.max_masks_per_site": 3}]
)
def test_a_site_works_out_what_the_plan_of_all_says_of_it(more: dict[str, object], root: Path, tmp_path: Path) -> None:
    config = config_of(root, **more)
    federation = describe(config)
    whole = plan(config, home=tmp_path, federation=federation, only_costs=True).traffic
    dataset = json.dumps({
        key: getattr(federation, key)
        for key in ("name", "task", "modality", "classes", "value_range", "slice_axis", "window")
    })  # fmt: skip
    for site in (*federation.sources, *federation.tests):
        found = share_of(settings_of(config), dataset=dataset, description=site.as_json(), home=tmp_path)
        assert found is not None
        up = {row.kind: row.payload_bytes for row in whole if (row.site, row.direction) == (site.name, "up")}
        down = sum(row.payload_bytes for row in whole if (row.site, row.direction) == (site.name, "down"))
        assert (dict(found.up_bytes), found.down_bytes) == (up, down), site.name
        assert bool(up) == (site.role == "source") and down > 0
    assert share_of("{}", dataset=dataset, description=site.as_json(), home=tmp_path) is None
    assert share_of(settings_of(config), dataset="{}", description="[]", home=tmp_path) is None


def test_minutes_are_those_of_the_sites_training(root: Path, tmp_path: Path) -> None:
    def minutes(site: str, **more: object) -> float:
        federation = describe(config_of(root))
        about = next(s for s in (*federation.sources, *federation.tests) if s.name == site)
        dataset = json.dumps({"name": "n", "task": "t", "modality": "m", "classes": ["polyp"], "value_range": None,
                              "slice_axis": 2, "window": "auto"})  # fmt: skip
        settings = settings_of(config_of(root, **more))
        found = share_of(settings, dataset=dataset, description=about.as_json(), home=tmp_path)
        assert found is not None
        return found.train_minutes

    rounds = minutes(NAMES[1], **{"federation.rounds": 2000, "generator.steps": 1})
    assert rounds > 1
    assert minutes(NAMES[1], **{"federation.rounds": 4000, "generator.steps": 1}) == pytest.approx(2 * rounds, rel=0.1)
    assert minutes(NAMES[1], **{"generator.steps": 4000}) > minutes(NAMES[1], **{"generator.steps": 1000}) > 0
    assert minutes(NAMES[1], **{"distillation.epochs": 3}) == minutes(NAMES[1], **{"distillation.epochs": 300})
    assert minutes(HELD_OUT, **{"federation.rounds": 2000}) == 0


def test_its_people_see_it_before_they_decide(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = NAMES[1]
    folder, images = tmp_path / "site", tmp_path / "images"
    images.mkdir()
    shutil.copy(root / "dataset.toml", images)
    shutil.copytree(root / site, images / site)
    folder.mkdir()
    (folder / "site.toml").write_text(f'site = "{site}"\nserver = "127.0.0.1:9443"\n')
    private = {"privacy.mechanism": "client", "generator.dp_noise_multiplier": 1.0, "privacy.noise_multiplier": 3.0}
    config = config_of(root, **private)
    run = {"id": "run-1", "program": program_version(), "config": settings_of(config)}
    answering = program(site, images, folder, lambda _: None)
    answering.answer(SiteRequest(site, DESCRIBE), run=run, listener=Nobody())
    answering.answer(SiteRequest(site, APPROVAL), run=run, listener=Nobody())
    assert main(["site", "runs", str(folder)]) == 0
    told = capsys.readouterr().out
    spent = gaussian_epsilon(noise_multiplier=3.0, releases=config.federation.rounds, delta=1e-5)
    assert f"student 11.1 MB (epsilon {epsilon_words(spent)} at most)" in told and "generator 7.57 MB (epsilon" in told
    assert "Training here" in told
    assert "figures" in told and "statistics" not in told, "what this run does not send"
    assert main(["site", "runs", str(folder), "--json"]) == 0
    (asked,) = json.loads(capsys.readouterr().out)["runs"]
    assert asked["expected"]["up_bytes"].keys() >= {"student", "generator", "masks"}
    assert asked["expected"]["down_bytes"] > 0
    assert asked["expected"]["epsilon"]["student"] == spent and asked["expected"]["epsilon"].keys() > {"student"}
    (folder / "runs" / "run-1" / "told.json").write_text("{")
    assert main(["site", "runs", str(folder)]) == 0
    assert "generator, masks, student" in capsys.readouterr().out, "without it the kinds are told all the same"


def test_every_stage_at_sites_counts_as_training_there() -> None:
    """A system whose sites train, and which says so of no stage, would be shown as taking no time."""
    stages = {stage.name: stage.trains_at_sites for method in catalogue.methods().values() for stage in method.stages}
    assert {name for name, trains in stages.items() if trains} == {
        "federated_training", "generator_training", "joined_generator_training", "lora_training", "personal_training",
        "semi_supervised_training",
    }  # fmt: skip
    averaging = [stage for method in catalogue.methods().values() for stage in method.stages if stage.averages]
    assert averaging and all(stage.trains_at_sites for stage in averaging)
