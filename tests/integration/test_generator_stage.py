"""The stage of generator training with every kind, in this process: what crosses, and what a site keeps to itself."""

from __future__ import annotations

import json
from pathlib import Path
from time import monotonic
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from bench.reporting import ConsoleReporter
from engine.config import RunConfig, load_config, parse_config
from engine.config_generators import GeneratorKindName
from engine.data.imagesets import ImageSet
from engine.errors import UserError
from engine.federation import release as names
from engine.federation.payload import payload_bytes
from engine.federation.tasks import SiteRequest
from engine.generation.backbone import build_backbone, save_backbone
from engine.generation.generators import kind_of
from engine.models.arrays import model_arrays
from engine.runs.checkpoint import CheckpointStore
from engine.runs.generator_checks import CHECKS_FILE, read_checks
from engine.site import release
from engine.site.context import Models, SiteContext
from engine.site.data import sites_here
from engine.site.state import SiteState
from engine.site.tasks import generator as task
from engine.stages.context import RunContext
from engine.stages.generation import Generation
from engine.stages.generator_training import GeneratorTraining
from engine.stages.synthetic_set import read_samples
from engine.types import RunCancelled, Traffic
from tests.unit.federation_world import Listening

SITES = ("portable_yellow", "tower_hd")
OVERTRAINED = {
    "generator.kind": "pix2pix",
    "generator.steps": 90,
    "pix2pix.learning_rate": 1e-3,
    "generator.batch_size": 8,
    "data.images_per_site": 16,
    "data.validation_fraction": 0.5,
    "data.sites": ("portable_yellow",),
    "release.check": True,
}


class Recording(ConsoleReporter):
    """Keeps traffic and warnings."""

    def __init__(self) -> None:
        super().__init__("test")
        self.records: list[Traffic] = []
        self.warnings: list[str] = []

    def traffic(self, record: Traffic) -> None:
        self.records.append(record)

    def log(self, level: Any, text: str) -> None:
        self.warnings += [text] if level == "warning" else []


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ldm") / "random"
    save_backbone(build_backbone("mini", seed=1), folder)
    return folder


def config_of(backbone: Path, **keys: Any) -> RunConfig:
    small = {
        "data.image_px": 32, "data.images_per_site": 6, "data.sites": SITES, "data.held_out": "guided_inset",
        "student.weights": None, "teacher.weights": None, "precision": "fp32", "generator.backbone": str(backbone),
        "generator.controlnet": None, "generator.image_px": 32, "generator.steps": 2, "generation.sampler_steps": 2,
    }  # fmt: skip
    return load_config("phantom_cpu_smoke", overrides=small | keys)


def context_of(config: RunConfig, folder: Path) -> RunContext:
    folder.mkdir(exist_ok=True)
    checkpoints = CheckpointStore(folder / "checkpoints", config.content_hash(), warn=print)
    return RunContext(config=config, run_dir=folder, reporter=Recording(), checkpoints=checkpoints)


@pytest.mark.parametrize("kind", get_args(GeneratorKindName))
def test_exactly_the_kinds_arrays_cross_once_from_each_site(kind: str, backbone: Path, tmp_path: Path) -> None:
    context = context_of(config_of(backbone, **{"generator.kind": kind}), tmp_path)
    GeneratorTraining().run(context)
    shapes = kind_of(context.config).shapes(context.generators)
    expected = payload_bytes({name: np.empty(shape, np.float16) for name, shape in shapes.items()})
    arrays = [(r.site, r.direction, r.kind, r.payload_bytes) for r in context.reporter.records if r.kind != "metrics"]
    assert arrays == [(site, "up", "generator", expected) for site in SITES]
    kind_of(context.config).load(context.generator_dir(SITES[0]), context.generators)
    assert not (tmp_path / CHECKS_FILE).exists(), "nobody has asked for figures"
    context.reporter.records.clear()
    GeneratorTraining().run(context)
    assert context.reporter.records == [], "a resumed stage asks no site again"


@pytest.fixture(scope="module")
def caught(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunContext, UserError]:
    context = context_of(config_of(backbone, **OVERTRAINED), tmp_path_factory.mktemp("runs") / "run")
    context.save_model(context.new_model("student"), "fedavg_student")
    with pytest.raises(UserError) as error:
        GeneratorTraining().run(context)
    return context, error.value


def test_a_generator_over_trained_on_eight_images_is_caught_and_not_sent(caught: tuple[RunContext, UserError]) -> None:
    context, error = caught
    check = read_checks(context.run_dir)["portable_yellow"]
    figures = check["figures"]
    assert figures[names.MEMBERS] == figures[names.HELD_OUT] == 8
    assert figures[names.AUC] >= 0.9 and figures[names.AUC_LOW] <= figures[names.AUC] <= figures[names.AUC_HIGH]
    assert check["state"] == "withheld" and check["reason"].startswith("it tells training from held-out images with")
    assert error.code == "generator.withheld" and check["reason"] in error.what and "portable_yellow" in error.what
    assert not context.generator_dir("portable_yellow").exists()
    sent = payload_bytes(model_arrays(context.load_model("student", "fedavg_student")))
    arrays = [(r.direction, r.kind, r.payload_bytes) for r in context.reporter.records if r.kind != "metrics"]
    assert arrays == [("down", "student", sent)], "the student that judges it goes down, and nothing comes up"


def test_figures_are_told_and_pairs_stay_with_the_site(caught: tuple[RunContext, UserError]) -> None:
    context, _ = caught
    own = context.run_dir / "sites" / "portable_yellow" / "generator_check"
    figures = read_checks(context.run_dir)["portable_yellow"]["figures"]
    assert json.loads((own / "report.json").read_text())["figures"] == figures
    assert set(figures) <= set(names.FIGURES) and all(isinstance(value, float) for value in figures.values())
    wanted = {names.FRECHET, names.KERNEL, names.FLD, names.RATIO, names.FAITHFULNESS, names.FAITHFULNESS_REAL}
    assert wanted <= set(figures)
    assert len(list(own.glob("copy_*.png"))) == figures[names.COPIES] > 0


class GivesBack:
    """A generator that knows its site's training images and gives back the one whose mask is nearest."""

    def __init__(self, images: ImageSet) -> None:
        self.image, self.mask = images.batch(np.arange(len(images)))

    def rebuild(self, arrays: Any, setup: Any) -> GivesBack:
        return self

    def sample(self, masks: np.ndarray, *, seeds: Any, check_cancelled: Any = None) -> np.ndarray:
        apart = [(self.mask != mask).reshape(len(self.mask), -1).sum(axis=1).argmin() for mask in masks]
        return (self.image[apart].transpose(0, 2, 3, 1) * 255).round().astype(np.uint8)


def test_each_copy_lies_beside_its_original_on_the_sites_own_disk(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"data.validation_fraction": 0.4, "release.check": True, "release.most_copies": 3}
    config = config_of(backbone, **keys, **{"release.most_membership_auc": 1.0, "release.images": 3})
    data = sites_here(config)["tower_hd"]
    monkeypatch.setattr(release, "kind_of", lambda _config: GivesBack(data.train))
    state = SiteState(tmp_path, CheckpointStore(tmp_path / "checkpoints", "h", warn=print))
    listener = Listening("tower_hd", 1, None, lambda: None)
    site = SiteContext(
        site="tower_hd", config=config, data=data, state=state, models=Models.of_run(config, num_classes=1),
        listener=listener,
    )  # fmt: skip
    figures = release.check_generator(site, {}, student={}, limits=names.limits_of(config.release, {}))
    members, held_out = min(3, len(data.train)), min(3, len(data.validation))
    assert (figures[names.MEMBERS], figures[names.HELD_OUT]) == (members, held_out)
    assert figures[names.AUC] == 1.0 and figures[names.COPIES] >= members > 2
    assert figures[names.WITHHELD] == float(figures[names.COPIES] > 3) and names.FAITHFULNESS not in figures
    pairs = sorted((tmp_path / "generator_check").glob("copy_*.png"))
    assert len(pairs) == figures[names.COPIES]
    with Image.open(pairs[0]) as pair:
        levels = np.asarray(pair)
    assert levels.shape == (32, 64, 3) and np.array_equal(levels[:, :32], levels[:, 32:])
    folders = [path.stat().st_mode & 0o077 for path in (tmp_path / "generator_check",)]
    assert folders == [0], "nobody else on the site's machine sees them"


def test_a_training_that_was_stopped_goes_on_where_it_was(backbone: Path, tmp_path: Path) -> None:
    """From the beginning it would end with the same weights: what was done is what must not be done again."""
    config = config_of(backbone, **{"generator.steps": 5, "generator.kind": "pix2pix"})
    told: list[int] = []

    class StoppedOnce(Listening):
        def progress(self, step: int, total: int, *, message: str = "") -> None:
            told.append(step)
            if told == [1, 2, 3]:
                raise RunCancelled("stop")

    site = SiteContext(
        site="tower_hd", config=config, data=sites_here(config)["tower_hd"],
        state=SiteState(tmp_path, CheckpointStore(tmp_path / "checkpoints", "h", warn=print)),
        models=Models.of_run(config, num_classes=1), listener=StoppedOnce("tower_hd", 1, None, lambda: None),
    )  # fmt: skip
    request = SiteRequest("tower_hd", "train.generator")
    with pytest.raises(RunCancelled):
        task.train(site, request)
    began = monotonic()
    reply = task.train(site, request)
    assert told == [1, 2, 3, 4, 5] and reply.num_examples == len(site.data.train)
    assert 0 <= reply.metrics["wall_s"] <= monotonic() - began


def test_it_may_leave_where_the_limit_is_higher(caught: tuple[RunContext, UserError], tmp_path: Path) -> None:
    before = read_checks(caught[0].run_dir)["portable_yellow"]["figures"]
    values = caught[0].config.model_dump(mode="json")
    values["release"] |= {"most_membership_auc": 1.0}
    values["generator"] |= {"steps": 2}
    context = context_of(parse_config(values), tmp_path)
    GeneratorTraining().run(context)
    check = read_checks(tmp_path)["portable_yellow"]
    assert check["state"] == "sent" and check["reason"] == "" and context.generator_dir("portable_yellow").is_dir()
    assert check["figures"][names.AUC] < before[names.AUC]


def figures_by_site(monkeypatch: pytest.MonkeyPatch, withheld: tuple[str, ...]) -> list[str]:
    asked: list[str] = []

    def measured(site: Any, arrays: Any, **_: Any) -> dict[str, float]:
        asked.append(site.site)
        auc = 0.97 if site.site in withheld else 0.55
        return {names.AUC: auc, names.LIMIT_AUC: 0.9, names.WITHHELD: float(site.site in withheld)}

    monkeypatch.setattr(task, "check_generator", measured)
    return asked


def test_the_run_goes_on_without_a_site_where_it_is_to(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = figures_by_site(monkeypatch, ("portable_yellow",))
    keys = {"generator.kind": "pix2pix", "release.check": True, "release.on_withheld": "skip"}
    context = context_of(config_of(backbone, **keys), tmp_path)
    context.save_model(context.new_model("student"), "fedavg_student")
    GeneratorTraining().run(context)
    (warning,) = context.reporter.warnings
    assert warning.startswith("portable_yellow withholds its generator: it tells") and "goes on without" in warning
    assert {site: check["state"] for site, check in read_checks(tmp_path).items()} == {
        "portable_yellow": "withheld", "tower_hd": "sent"
    }  # fmt: skip
    GeneratorTraining().run(context)
    assert asked == list(SITES), "a resumed stage asks nobody again"
    Generation().run(context)
    assert {(s.site, s.generator) for s in read_samples(tmp_path)} == {("tower_hd", "tower_hd")}
    masks = [record.site for record in context.reporter.records if record.kind == "masks"]
    assert masks == ["tower_hd"], "masks of a site that nothing is drawn for stay"


def test_nothing_can_be_drawn_where_every_site_withholds(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures_by_site(monkeypatch, SITES)
    keys = {"generator.kind": "pix2pix", "release.check": True, "release.on_withheld": "skip"}
    with pytest.raises(UserError, match="No site has sent a generator: each withholds it or has failed") as error:
        GeneratorTraining().run(context_of(config_of(backbone, **keys), tmp_path))
    assert error.value.code == "generator.none"


def test_a_site_without_held_out_images_withholds(backbone: Path, tmp_path: Path) -> None:
    keys = {"generator.kind": "pix2pix", "release.check": True, "data.validation_fraction": 0.0}
    with pytest.raises(UserError, match="too few held-out images to tell") as error:
        GeneratorTraining().run(context_of(config_of(backbone, **keys), tmp_path))
    assert error.value.code == "generator.withheld"
