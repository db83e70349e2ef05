"""Every stage of DSFedMed on real phantoms at toy size, with a diffusion model of random weights."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bench.reporting import ConsoleReporter
from engine.config import RunConfig, load_config, parse_config
from engine.data.phantoms import write_dataset
from engine.errors import UserError
from engine.generation.backbone import build_backbone, save_backbone
from engine.methods import catalogue
from engine.runs.checkpoint import CheckpointStore
from engine.stages.context import RunContext
from engine.stages.evaluation import LOOKS_FILE, ROWS_FILE, VARIANTS_FILE, Evaluation
from engine.stages.export import Export
from engine.stages.federated_training import FederatedTraining
from engine.stages.files import read_json, write_json
from engine.stages.generation import Generation
from engine.stages.mutual_distillation import MutualDistillationStage
from engine.stages.synthetic_set import read_samples
from engine.types import RELEASED, RunCancelled, Traffic
from export.manifest import read_manifest


class StoppingReporter(ConsoleReporter):
    """Keeps the traffic, and asks for a stop after ``steps`` progress reports."""

    def __init__(self, *, steps: int | None = None) -> None:
        super().__init__("test")
        self.steps, self.records = steps, []

    def progress(self, step: int, total: int, *, message: str = "") -> None:
        if self.steps is not None:
            self.steps -= 1
            if self.steps < 0:
                raise RunCancelled

    def traffic(self, record: Traffic) -> None:
        self.records.append(record)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> RunConfig:
    folder = tmp_path_factory.mktemp("ldm") / "random"
    save_backbone(build_backbone("mini", seed=1), folder)
    values = load_config("phantom_cpu_smoke").model_dump(mode="json")
    values["student"]["weights"] = values["teacher"]["weights"] = None
    values["data"] |= {"task": "fundus", "held_out": "handheld_camera", "images_per_site": 6, "augment": "flips_colour"}
    values["generator"] |= {"backbone": str(folder), "controlnet": "controlnet-mini", "steps": 2}
    values["generation"] |= {"max_masks_per_site": 3, "sampler_steps": 2, "mask_sharing": "deformed"}
    values["generation"]["released_share"] = 0.34
    values["federation"]["average_decay"] = values["distillation"]["average_decay"] = 0.5
    values["precision"] = "fp32"
    return parse_config(values)


def _run(config: RunConfig, run_dir: Path, *, stop_every: int | None = None) -> list[Traffic]:
    records: list[Traffic] = []
    run_dir.mkdir(exist_ok=True)
    for stage in catalogue.make_stages(catalogue.method(config.method)):
        while True:
            reporter = StoppingReporter(steps=stop_every)
            checkpoints = CheckpointStore(run_dir / "checkpoints", config.content_hash(), warn=print)
            context = RunContext(config=config, run_dir=run_dir, reporter=reporter, checkpoints=checkpoints)
            try:
                stage.run(context)
                break
            except RunCancelled:
                continue
            finally:
                records += reporter.records
    return records


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> tuple[Path, list[Traffic]]:
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    return run_dir, _run(config, run_dir)


def test_the_table_has_all_four_models_on_the_unseen_site(whole):
    rows = read_json(whole[0] / ROWS_FILE)
    tested = {row["model"] for row in rows if row["split"] == "test" and row["site"] == "handheld_camera"}
    assert tested == {"fedavg_student", "finetuned_teacher", "distilled_student", "distilled_teacher"}
    assert all(row["site"] != "handheld_camera" for row in rows if row["split"] == "validation")


def test_a_pair_for_every_shared_mask_with_its_provenance(whole):
    samples = read_samples(whole[0])
    assert len(samples) == 9
    assert sum(sample.generator == RELEASED for sample in samples) == 3  # one of each site's three
    for sample in samples:
        assert sample.mask_sharing == "deformed"
        assert sample.faithfulness_dice is not None
        assert sample.generator in (RELEASED, sample.site)
        for path in (sample.image_path, sample.mask_path, sample.teacher_path, sample.student_path):
            assert (whole[0] / path).is_file()


def test_only_declared_kinds_leave_a_site_and_the_generator_once(whole):
    up = [record for record in whole[1] if record.direction == "up"]
    assert {record.kind for record in up} == {"student", "generator", "masks", "figures", "appearance", "metrics"}
    generators = [record for record in up if record.kind == "generator"]
    assert len(generators) == len({record.site for record in generators}) == 3
    masks = [record.payload_bytes for record in up if record.kind == "masks"]
    assert all(size < 3 * 2 * 64 * 64 for size in masks), "masks travel as bits"
    looks = [record.payload_bytes for record in up if record.kind == "appearance"]
    assert len(looks) == 3 and max(looks) < 8 * (20 + 20 * 20) + 1000, "one look a site"


def test_the_bundle_is_the_distilled_student(whole):
    manifest = read_manifest(whole[0] / "bundle")
    assert manifest.model.role == "distilled_student"
    assert manifest.classes == ("disc", "cup")
    assert manifest.parity.max_abs_difference <= 1e-4
    assert manifest.appearance is not None and len(manifest.appearance.sites) == 3
    assert manifest.appearance.colour_share == 1 and manifest.appearance.num_validation > 0
    assert manifest.looks is not None and manifest.looks.num_images == manifest.appearance.num_validation
    assert read_json(whole[0] / LOOKS_FILE).keys() == {"fedavg_student", "distilled_student"}, "students of all sites"


def test_faster_variants_are_measured_at_the_sites_and_their_files_counted(config, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("export.variants.MOST_LOSS", 1.0)  # of a hardly trained model anything may be lost
    run_dir = tmp_path / "run"
    shutil.copytree(whole[0], run_dir)
    values = config.model_dump(mode="json")
    values["export"] |= {"variants": ["half", "int8"], "prompt_steps": 2}
    reporter = StoppingReporter()
    checkpoints = CheckpointStore(run_dir / "checkpoints", config.content_hash(), warn=print)
    Export().run(RunContext(config=parse_config(values), run_dir=run_dir, reporter=reporter, checkpoints=checkpoints))
    manifest = read_manifest(run_dir / "bundle")
    _, half, int8 = manifest.variants
    assert manifest.prompts is not None and manifest.prompts.steps == 2 and manifest.prompts.file in manifest.files
    assert (run_dir / "bundle" / manifest.prompts.file).is_file(), "a decoder was taught prompts on the run's own pairs"
    told = read_json(run_dir / VARIANTS_FILE)["distilled_student"]
    images = manifest.appearance.num_validation
    assert len(told) == 3 and sum(site["variant_images"] for site in told.values()) == images
    full, halved = (sum(s[k] * s["variant_images"] for s in told.values()) / images for k in ("full", "half"))
    assert (half.measured.dice, half.measured.full) == pytest.approx((halved, full), abs=1e-6)
    # The file in 8 bits is another model; what it costs is told by the same images.
    assert int8.measured.full == half.measured.full and int8.measured.num_images == images
    assert int8.measured.dice == pytest.approx(full, abs=0.1) and half.image_px == 32
    down = [record for record in reporter.records if record.kind == "evaluated"]
    size = manifest.files[int8.file].size_bytes
    assert len(down) == 3 and all(size <= record.payload_bytes < size + 1000 for record in down), "half sends nothing"
    up = [record for record in reporter.records if record.kind == "figures"]
    assert all(record.payload_bytes < 1000 for record in up)


@pytest.mark.parametrize("favoured", ["fedavg_student", "distilled_student"])
def test_the_student_that_the_sites_own_images_favour_is_exported(config, whole, tmp_path, favoured):
    run_dir = tmp_path / "run"
    shutil.copytree(whole[0], run_dir)
    rows = read_json(run_dir / ROWS_FILE)
    for row in rows:  # the held-out site says the opposite, and has no voice
        row["dice"] = 0.9 if (row["model"] == favoured) == (row["split"] == "validation") else 0.1
    write_json(run_dir / ROWS_FILE, rows)
    values = config.model_dump(mode="json") | {"export": {"student": "better_on_validation"}}
    checkpoints = CheckpointStore(run_dir / "checkpoints", config.content_hash(), warn=print)
    context = RunContext(
        config=parse_config(values), run_dir=run_dir, reporter=ConsoleReporter("test"), checkpoints=checkpoints
    )
    Export().run(context)
    assert read_manifest(run_dir / "bundle").model.role == favoured


def test_stopped_again_and_again_it_ends_bit_equal(config, whole, tmp_path):
    """Augmented images included; after four reports each, SAM and the distillation stop in the middle of an epoch."""
    _run(config, tmp_path / "stopped", stop_every=4)
    for name in ("fedavg_student", "finetuned_teacher", "distilled_teacher", "distilled_student"):
        first = load_file(whole[0] / "models" / f"{name}.safetensors")
        second = load_file(tmp_path / "stopped" / "models" / f"{name}.safetensors")
        assert all(torch.equal(first[key], second[key]) for key in first), name


def test_samples_left_out_are_neither_scored_nor_forgotten(config, whole, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(whole[0], run_dir)
    samples = read_samples(run_dir)
    left_out = {samples[0].sample_id, samples[4].sample_id}
    for sample in samples:
        (run_dir / sample.student_path).unlink()
    values = config.model_dump(mode="json")
    values["distillation"]["excluded_samples"] = sorted(left_out)
    changed = parse_config(values)
    scored = []
    reporter = ConsoleReporter("test")
    reporter.scores = scored.extend
    checkpoints = CheckpointStore(tmp_path / "checkpoints", changed.content_hash(), warn=print)
    MutualDistillationStage().run(
        RunContext(config=changed, run_dir=run_dir, reporter=reporter, checkpoints=checkpoints)
    )
    assert {score.sample_id for score in scored} == {sample.sample_id for sample in samples} - left_out
    assert all((run_dir / sample.student_path).is_file() for sample in read_samples(run_dir)), "they can be looked at"


def test_a_batch_of_images_that_was_interrupted_is_drawn_as_it_was(config, whole, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(whole[0], run_dir)
    lost = run_dir / read_samples(run_dir)[1].image_path
    pixels = lost.read_bytes()
    lost.unlink()
    checkpoints = CheckpointStore(run_dir / "checkpoints", config.content_hash(), warn=print)
    context = RunContext(config=config, run_dir=run_dir, reporter=ConsoleReporter("test"), checkpoints=checkpoints)
    Generation().run(context)
    assert lost.read_bytes() == pixels


@pytest.fixture(scope="module")
def label_maps(tmp_path_factory) -> Path:
    """Give a dataset of label maps from hospitals whose names hold spaces, accents and a word that means something."""
    root = write_dataset("fundus", tmp_path_factory.mktemp("data") / "set", images_per_site=4, image_px=64)
    (root / "dataset.toml").write_text(
        'name = "label maps"\nmodality = "fundus photograph"\nclasses = ["disc", "cup"]\n'
        "[mask_values]\ndisc = [1, 2]\ncup = [2]\n"
    )
    names = ("Site 1", "Hôpital Nº 2", "released")
    for folder, name in zip(sorted(path for path in root.iterdir() if path.is_dir()), names, strict=False):
        for disc in sorted((folder / "masks" / "disc").iterdir()):
            cup = np.asarray(Image.open(folder / "masks" / "cup" / disc.name)) > 0
            labels = (np.asarray(Image.open(disc)) > 0).astype(np.uint8) + cup
            Image.fromarray(labels).save(folder / "masks" / disc.name)
        shutil.rmtree(folder / "masks" / "disc")
        shutil.rmtree(folder / "masks" / "cup")
        folder.rename(root / name)
    for folder in root.iterdir():
        if folder.is_dir() and folder.name not in names:
            shutil.rmtree(folder)
    return root


def _on_folder(config: RunConfig, root: Path) -> RunConfig:
    values = config.model_dump(mode="json")
    values["data"] |= {"source": "folder", "root": str(root), "held_out": "Hôpital Nº 2"}
    return parse_config(values)


@pytest.mark.slow
def test_label_maps_of_sites_with_any_names_run_through(config, label_maps, tmp_path):
    _run(_on_folder(config, label_maps), tmp_path / "run")
    samples = read_samples(tmp_path / "run")
    assert {sample.site for sample in samples} == {"Site 1", "released"}
    assert {sample.generator for sample in samples} == {"Site 1", "released", RELEASED}
    assert read_manifest(tmp_path / "run" / "bundle").classes == ("disc", "cup")


def test_a_fault_at_the_unseen_site_is_found_before_anything_is_trained(config, label_maps, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(label_maps, root)
    bad = sorted((root / "Hôpital Nº 2" / "masks").iterdir())[-1]
    Image.fromarray(np.full((64, 64), 7, np.uint8)).save(bad)
    with pytest.raises(UserError, match=bad.name) as caught:
        _run(_on_folder(config, root), tmp_path / "run")
    assert caught.value.code == "data.mask_values"
    assert not (tmp_path / "run" / "models").exists() and not (tmp_path / "run" / "checkpoints").exists()


def test_a_fixed_test_set_of_several_sites_is_measured_site_by_site_and_as_a_whole(config, whole, label_maps, tmp_path):
    test_root = write_dataset("fundus", tmp_path / "test set", images_per_site=2, image_px=64, seed=5)
    kept, renamed, *others = sorted(path for path in test_root.iterdir() if path.is_dir())
    renamed.rename(test_root / "Site 1")  # a hospital that also trains
    for folder in others:
        shutil.rmtree(folder)
    for table in test_root.rglob("meta.csv"):  # other patients, whatever the generator called them
        table.unlink()
    values = _on_folder(config, label_maps).model_dump(mode="json")
    values["data"] |= {"protocol": "fixed-test", "test_root": str(test_root), "held_out": None}
    run_dir = tmp_path / "run"
    shutil.copytree(whole[0] / "models", run_dir / "models")
    chosen = parse_config(values)
    checkpoints = CheckpointStore(run_dir / "checkpoints", chosen.content_hash(), warn=print)
    Evaluation().run(
        RunContext(config=chosen, run_dir=run_dir, reporter=ConsoleReporter("test"), checkpoints=checkpoints)
    )
    rows = [r for r in read_json(run_dir / ROWS_FILE) if (r["class_name"], r["split"]) == ("mean", "test")]
    of_student = {row["site"]: row for row in rows if row["model"] == "distilled_student"}
    pooled, *sites = of_student.values()
    assert [row["num_images"] for row in of_student.values()] == [4, 2, 2]
    assert list(of_student)[1:] == ["Site 1_test", kept.name]
    assert pooled["dice"] == pytest.approx((sites[0]["dice"] + sites[1]["dice"]) / 2)


@pytest.mark.slow
def test_patience_without_validation_images_changes_nothing(config, tmp_path):
    values = config.model_dump(mode="json")
    values["data"]["validation_fraction"] = 0.0
    values["federation"] |= {"rounds": 3, "average_decay": 0.0}
    models = []
    for patience in (None, 1):
        values["federation"]["patience"] = patience
        chosen, run_dir = parse_config(values), tmp_path / str(patience)
        checkpoints = CheckpointStore(run_dir / "checkpoints", chosen.content_hash(), warn=print)
        context = RunContext(config=chosen, run_dir=run_dir, reporter=ConsoleReporter("test"), checkpoints=checkpoints)
        FederatedTraining().run(context)
        assert checkpoints.load("federated_training")["round"] == 3
        models.append(load_file(run_dir / "models" / "fedavg_student.safetensors"))
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


def test_more_rounds_begin_patience_anew(config, tmp_path):
    values = config.model_dump(mode="json")
    values["federation"] |= {"rounds": 12, "patience": 1, "learning_rate": 1e-9}  # nothing rises: it stops early

    def train(rounds: int) -> dict:
        values["federation"]["rounds"] = rounds
        checkpoints = CheckpointStore(tmp_path / "checkpoints", config.content_hash(), warn=print)
        context = RunContext(
            config=parse_config(values), run_dir=tmp_path, reporter=ConsoleReporter("test"), checkpoints=checkpoints
        )
        FederatedTraining().run(context)
        return checkpoints.load("federated_training")

    first = train(12)
    assert first["stopped"] and first["round"] < 12
    assert train(12)["round"] == first["round"]
    assert train(20)["round"] > first["round"], "the rounds that were asked for are not refused by the old patience"


def test_a_stop_after_patience_has_ended_training_loses_no_average(config, tmp_path):
    """The last average is validated after the rounds have ended: an interruption there must not skip it."""
    values = config.model_dump(mode="json")
    values["federation"] |= {"rounds": 12, "patience": 1, "learning_rate": 1e-9, "average_decay": 0.0}
    chosen = parse_config(values)

    class StopsAtTheEnd(ConsoleReporter):
        def __init__(self, checkpoints: CheckpointStore) -> None:
            super().__init__("test")
            self.checkpoints, self.points = checkpoints, set()
            self.stops = True

        def metric(self, name: str, value: float, *, step: int, site: str | None = None) -> None:
            if name == "val_dice":
                self.points.add((step, site, value))

        def check_cancelled(self) -> None:
            state = self.checkpoints.load("federated_training") if self.stops else None
            if state is not None and state["stopped"]:
                self.stops = False
                raise RunCancelled

    def train(folder: Path, *, stops: bool) -> set:
        checkpoints = CheckpointStore(folder / "checkpoints", chosen.content_hash(), warn=print)
        reporter = StopsAtTheEnd(checkpoints)
        reporter.stops = stops
        context = RunContext(config=chosen, run_dir=folder, reporter=reporter, checkpoints=checkpoints)
        with pytest.raises(RunCancelled) if stops else nullcontext():
            FederatedTraining().run(context)
        if stops:
            FederatedTraining().run(context)
        return reporter.points

    assert train(tmp_path / "stopped", stops=True) == train(tmp_path / "whole", stops=False)
    files = [tmp_path / name / "models" / "fedavg_student.safetensors" for name in ("stopped", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
