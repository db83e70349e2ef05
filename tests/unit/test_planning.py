"""The plan: its tables equal the real models, its sums add up, and what cannot run is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import RunConfig, load_config, parse_config
from engine.data.phantoms import write_dataset
from engine.errors import UserError
from engine.methods import catalogue
from engine.planning import Plan, calibration, plan
from engine.planning.costs import GENERATORS, MODELS, Speed, generator_size, model_cost
from engine.planning.records import SitePlan
from engine.planning.stage_costs import plan_stages, stage_costs
from engine.planning.workload import Workload

STAGES, FEDTINYSAM = (catalogue.method(name).stage_names for name in ("dsfedmed", "fedtinysam"))

WHOLE = {"method": "dsfedmed"}
NO_WEIGHTS = {"student": {"name": "tinysam", "weights": None}, "teacher": {"name": "sam", "weights": None}}


def config(**values: Any) -> RunConfig:
    return parse_config(
        {"data": {"images_per_site": 6, "image_px": 64}, "method": "fedtinysam", **NO_WEIGHTS, **values}
    )


def workload(values: dict[str, Any] | None = None, *, images: int = 10, device: str = "cpu") -> Workload:
    sites = (
        SitePlan("a", "source", images, 2, 0),
        SitePlan("b", "source", 2 * images, 4, 0),
        SitePlan("z", "test", 0, 0, 9),
    )
    chosen = parse_config({"method": "dsfedmed", **(values or {})})
    return Workload(chosen, sites, Speed(device, 1.0), num_classes=2, cache_gib=0.1)


def stages_of(work: Workload) -> dict[str, Any]:
    names = catalogue.method(work.config.method).stage_names
    return {stage.name: stage for stage in plan_stages(stage_costs(work, names))}


def bytes_of(work: Workload, site: int, names: tuple[str, ...] = STAGES) -> dict[tuple[str, str], int]:
    """Bytes of one of the sites, the unseen one last, by direction and kind."""
    costs = stage_costs(work, names).values()
    return {way: sent for cost in costs for way, sent in cost.site_bytes.get(work.sites[site].site, {}).items()}


def test_the_table_of_models_equals_the_models() -> None:
    import torch

    from engine.models.registry import build_model, model_sizes

    rows = {(row.name, row.size): row for row in model_sizes()}
    for name in ("parameters", "image_px", "feature_stride", "mask_stride"):
        assert {key: getattr(row, name) for key, row in rows.items()} == {
            key: getattr(cost, name) for key, cost in MODELS.items()
        }
    for (name, size), cost in MODELS.items():
        with torch.device("meta"):
            model = build_model(name, size=size, image_px=cost.image_px, seed=0)
        assert sum(t.numel() * t.element_size() for t in model.state_dict().values()) == cost.state_bytes
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == cost.trained_parameters


def test_the_table_of_generators_equals_the_models() -> None:
    import torch

    from engine.generation.backbone import build_backbone
    from engine.generation.controlnet import new_controlnet

    assert set(GENERATORS) == {"mini", "sd15"}
    with torch.device("meta"):
        for size, cost in GENERATORS.items():
            backbone = build_backbone(size, seed=0)
            models = (backbone.unet, backbone.vae, backbone.text_encoder)
            count = sum(p.numel() for model in models for p in model.parameters())
            # Stable Diffusion's own text encoder knows more words than the byte tokenizer's.
            assert count == pytest.approx(cost.backbone_parameters, rel=0.0 if size == "mini" else 0.05)
            controlnet = new_controlnet(backbone, source=None, seed=0, device="meta")
            assert sum(p.numel() for p in controlnet.parameters()) == cost.controlnet_parameters


def test_the_bytes_of_a_student_are_those_of_its_messages() -> None:
    from engine.federation.payload import payload_bytes
    from engine.models.arrays import model_arrays
    from engine.models.registry import build_model

    cost = MODELS["tinysam", "mini"]
    arrays = model_arrays(build_model("tinysam", size="mini", image_px=cost.image_px, seed=0))
    assert payload_bytes(arrays) == pytest.approx(cost.state_bytes, rel=0.03)  # names and headers are left out


@pytest.mark.parametrize(
    ("name", "size"), [("mini", "mini"), ("ldm-mini", "mini"), ("sd15", "sd15"), ("/models/stable", "sd15")]
)
def test_a_backbone_has_a_size(name: str, size: str) -> None:
    assert generator_size(name) == size


def test_an_unknown_size_counts_as_the_largest_of_its_family() -> None:
    assert model_cost("sam", "vit_x") == MODELS["sam", "vit_l"]


def test_steps_and_images_follow_the_configuration() -> None:
    found = stages_of(
        workload(
            {
                "federation": {"rounds": 3, "local_epochs": 2, "batch_size": 4},
                "generator": {"steps": 7, "batch_size": 2},
                "generation": {"max_masks_per_site": 12, "images_per_mask": 2},
                "foundation": {"epochs": 5, "batch_size": 8},
                "distillation": {"epochs": 4, "batch_size": 5, "selection_rate": 0.5},
            }
        )
    )
    assert (found["federated_training"].steps, found["federated_training"].images) == (3 * 2 * (3 + 5), 3 * 2 * 30)
    assert (found["generator_training"].steps, found["generator_training"].images) == (14, 28)
    assert found["generation"].images == 2 * (10 + 12)
    assert (found["foundation_finetuning"].steps, found["foundation_finetuning"].images) == (5 * 6, 5 * 44)
    assert (found["mutual_distillation"].steps, found["mutual_distillation"].images) == (4 * 5, 4 * 22)
    assert found["evaluation"].images == 4 * (9 + 6)


def test_bytes_of_a_site_are_those_of_its_messages() -> None:
    work = workload({"federation": {"rounds": 3}, "generation": {"max_masks_per_site": 12}, "data": {"image_px": 100}})
    table = bytes_of(work, 1)
    state = MODELS["tinysam", "mini"].state_bytes
    assert table == {
        ("down", "student"): 4 * state,
        ("up", "student"): 3 * state,
        ("up", "generator"): 2 * GENERATORS["mini"].controlnet_parameters,
        ("up", "masks"): 12 * 2 * 1250,
        ("down", "distilled"): state,
        ("down", "evaluated"): 2 * state + 2 * MODELS["sam", "mini"].state_bytes,
    }
    assert set(bytes_of(work, 0, FEDTINYSAM)) == {
        ("down", "student"),
        ("up", "student"),
        ("down", "evaluated"),
    }
    assert set(bytes_of(work, -1)) == {("down", "evaluated")}, "the unseen site is measured on, and no more"
    without = replace(work, sites=(replace(work.sources[0], num_validation=0), *work.sites[1:]))
    assert ("down", "evaluated") not in bytes_of(without, 0), "there is nothing to measure on"


@pytest.mark.parametrize(
    ("values", "kind", "models"),
    [
        ({"federation": {"rounds": 5, "patience": 2}}, "student", 6),  # each round's model, and the last average
        ({"federation": {"rounds": 5, "average_decay": 0.5}}, "student", 6),
        ({"federation": {"rounds": 5, "patience": 2, "average_decay": 0.5}}, "student", 10),  # and each round's mean
        ({"distillation": {"batch_norm_statistics": "sites"}}, "distilled", 2),  # before and after it was measured
    ],
)
def test_models_that_go_down_are_planned(values: dict[str, Any], kind: str, models: int) -> None:
    work = workload(values)
    table = bytes_of(work, 0)
    assert table["down", kind] == models * MODELS["tinysam", "mini"].state_bytes


@settings(max_examples=50, deadline=None)
@given(
    rounds=st.integers(1, 200),
    batch=st.integers(1, 32),
    px=st.sampled_from([64, 128, 256, 512, 1024]),
    images=st.integers(1, 500),
    rate=st.floats(0.1, 1.0),
)
def test_more_work_never_takes_less(rounds: int, batch: int, px: int, images: int, rate: float) -> None:
    def sums(factor: int) -> tuple[float, float]:
        values = {
            "federation": {"rounds": rounds * factor, "batch_size": batch},
            "data": {"image_px": px},
            "distillation": {"selection_rate": rate},
            "generation": {"images_per_mask": factor},
        }
        stages = plan_stages(stage_costs(workload(values, images=images), STAGES))
        assert all(stage.minutes >= 0 and stage.peak_memory_gib > 0 and stage.steps > 0 for stage in stages)
        return sum(stage.minutes for stage in stages), max(stage.peak_memory_gib for stage in stages)

    once, twice = sums(1), sums(2)
    assert twice[0] >= once[0] and twice[1] >= once[1]


@pytest.mark.parametrize(
    ("settings", "at_most"),
    [({"scoring": "exact"}, 0.9), ({"scoring": "reuse"}, 0.75), ({"scoring": "reuse", "scoring_interval": 2}, 0.66)],
)
def test_selection_saves_time(settings: dict[str, Any], at_most: float) -> None:
    """Half of the training, and the scores that choose it; rounded to hundredths of a minute."""
    half, whole = (
        stages_of(workload({"distillation": {"epochs": 200, "selection_rate": rate, **settings}})) for rate in (0.5, 1)
    )
    name = "mutual_distillation"
    assert at_most - 0.1 < half[name].minutes / whole[name].minutes < at_most


def test_a_plan_of_phantoms_is_complete(tmp_path: Path) -> None:
    found = plan(config(), home=tmp_path)
    assert isinstance(found, Plan) and found.classes == ("disc", "cup")
    assert [stage.name for stage in found.stages] == list(FEDTINYSAM)
    assert found.sites[-1].role == "test" and found.sites[-1].num_test == 6
    assert set(found.bytes_per_site) == {site.site for site in found.sites}, "the unseen one is measured on"
    assert found.minutes > 0 and 0 < found.peak_memory_gib < found.memory_gib
    assert set(found.stage_seconds) == set(FEDTINYSAM)
    assert found.as_dict()["bytes_per_site"] == found.bytes_per_site
    assert not any("masks" in sentence for sentence in found.leaves_site if "up (mask_sharing" in sentence)


def test_the_plan_says_which_masks_leave_a_site(tmp_path: Path) -> None:
    for mode, words in (
        ("real", "outlines of patients' anatomy leave the site"),
        ("deformed", "no patient's own outline"),
    ):
        said = plan(parse_config({"generation": {"mask_sharing": mode}}), home=tmp_path).leaves_site
        assert any(words in sentence for sentence in said) and len(said) == 6


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"student": {"name": "sam", "size": "vit_l", "weights": None}, "data": {"image_px": 2048},
          "federation": {"batch_size": 64}}, "plan.memory"),
        ({"device": "cuda"}, "device.no_cuda"),
        ({"student": {"name": "tinysam", "weights": "nothing-like-it"}}, "weights.unknown"),
        ({"data": {"source": "folder", "root": "/nowhere/at/all"}}, None),
        ({"data": {"held_out": "nowhere"}}, None),
        ({"method": "dsfedmed", "generator": {"backbone": "absent"}}, "weights.absent"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused(values: dict[str, Any], code: str | None, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # a GPU of this machine's must not change the answer
    with pytest.raises(UserError) as caught:
        plan(config(**values), home=tmp_path)
    assert code is None or caught.value.code == code


def test_weights_that_were_not_fetched_are_named_with_the_command(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("DSFEDMED_HOME", str(tmp_path))
    with pytest.raises(UserError, match="weights fetch sam-vit-b"):
        plan(config(student={"name": "sam", "size": "vit_b", "weights": "sam-vit-b"}), home=tmp_path)


def test_a_fault_of_the_dataset_is_found_by_the_plan(tmp_path: Path) -> None:
    root = write_dataset("polyp", tmp_path / "data", images_per_site=3, image_px=64)
    mask = sorted(root.rglob("masks/*.png"))[0]
    mask.unlink()
    with pytest.raises(UserError, match=mask.stem):
        plan(config(data={"source": "folder", "root": str(root), "image_px": 64}), home=tmp_path)


def test_a_plan_counts_the_rounds_that_a_site_is_expected_in(tmp_path: Path) -> None:
    """One of three sites in each of six rounds: each is expected in two, and validates in (6 + 1) / 3 of all passes."""
    whole, third = (
        plan(config(federation={"rounds": 6, "participation": share}), home=tmp_path) for share in (1.0, 1 / 3)
    )
    assert (third.stages[0].steps, third.stages[0].images) == tuple(
        n // 3 for n in (whole.stages[0].steps, whole.stages[0].images)
    )
    assert "1 of 3 sites" in third.stages[0].detail and "at 3 sites" in whole.stages[0].detail
    sent, of_third = ({(t.site, t.direction): t.payload_bytes for t in made.traffic if t.kind == "student"} for made in
                      (whole, third))  # fmt: skip
    assert of_third == {key: round(count / 3) for key, count in sent.items()} and len(sent) == 6
    assert third.config_hash != whole.config_hash
    nearly = plan(config(federation={"participation": 0.9}), home=tmp_path)
    assert any("participation has no effect: a round asks all 3" in said for said in nearly.warnings)
    with pytest.raises(UserError, match="needs 3 sites at least; a round of this run asks 2"):
        plan(config(federation={"aggregation": "krum", "hostile_sites": 0, "participation": 0.7}), home=tmp_path)


AGGREGATION_WARNINGS: list[tuple[dict[str, Any], str]] = [  # phantom fundus trains on 3 sites
    ({"server_momentum": 0.5}, "server_momentum has no effect: federation.aggregation is 'fedavg'"),
    ({"aggregation": "median", "server_learning_rate": 0.5}, "server_learning_rate has no effect"),
    ({"aggregation": "krum", "hostile_sites": 0, "trimmed_share": 0.1}, "trimmed_share has no effect"),
    ({"hostile_sites": 2}, "hostile_sites has no effect"),
    (
        {"aggregation": "krum", "hostile_sites": 0, "aggregation_weights": "rounded"},
        "aggregation_weights has no effect",
    ),
    ({"aggregation": "fedavgm", "server_momentum": 0.0}, "'fedavgm' is FedAvg"),
    ({"aggregation": "trimmed_mean"}, "trimmed_share cuts no site: 0.25 of 3 is below one"),
    ({"update_norm_limit": 3.0}, "update_norm_limit has no effect"),
]


@pytest.mark.parametrize("federation", [{"aggregation": "median"}, {"large_updates": "clip"}])
def test_of_two_sites_nobody_can_be_outvoted(federation: dict[str, Any], tmp_path: Path) -> None:
    three, two = (
        plan(config(federation=federation, data={"images_per_site": 6, "image_px": 64, "sites": sites}), home=tmp_path)
        for sites in (None, [site.site for site in plan(config(), home=tmp_path).sites[1:]])
    )
    assert (len(three.sites), len(two.sites)) == (4, 3)
    assert len(two.warnings) == len(three.warnings) + 1
    assert any("2 site(s)" in warning for warning in two.warnings)


@pytest.mark.parametrize(("aggregation", "hostile"), [("krum", 1), ("multi_krum", 1), ("krum", 2)])
def test_krum_without_neighbours_is_refused(aggregation: str, hostile: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"needs {hostile + 3} sites at least; a round of this run asks 3") as caught:
        plan(config(federation={"aggregation": aggregation, "hostile_sites": hostile}), home=tmp_path)
    assert caught.value.code == "plan.too_few_for_krum"
    made = plan(config(federation={"aggregation": aggregation, "hostile_sites": 0}), home=tmp_path)
    assert not any("guarantee" in warning for warning in made.warnings)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"distillation": {"epochs": 3}}, r"\[distillation\] has no effect"),
        ({"federation": {"rounds": 5, "patience": 5}}, "patience has no effect"),
        (
            {**WHOLE, "distillation": {"selector": "in_batch_quantile", "scoring": "exact"}},
            "scoring changes no training",
        ),
        (
            {**WHOLE, "distillation": {"mutual": False, "teacher_learning_rate": 0.5}},
            "teacher_learning_rate has no effect",
        ),
        (
            {**WHOLE, "teacher": {"name": "sam", "weights": "sam-mini", "batch_norm": "kept"}},
            "teacher.batch_norm has no",
        ),
        (
            {**WHOLE, "data": {"validation_fraction": 0}, "export": {"student": "better_on_validation"}},
            "export.student has no effect",
        ),
        ({"data": {"images_per_site": 6, "image_px": 64, "test_root": "/x"}}, "test_root has no effect"),
        *(({"federation": values}, words) for values, words in AGGREGATION_WARNINGS),
    ],
)
def test_settings_without_effect_are_said(values: dict[str, Any], words: str, tmp_path: Path) -> None:
    import re

    assert any(re.search(words, warning) for warning in plan(config(**values), home=tmp_path).warnings)


@pytest.mark.parametrize(("name", "assumed"), [("tinysam", False), ("unet", True)])
def test_the_plan_says_where_its_rates_are_assumed(name: str, assumed: bool, tmp_path: Path) -> None:
    made = plan(config(device="cpu", student={"name": name, "weights": None}), home=tmp_path)
    assert ("not measured" in made.estimate) == assumed


def test_the_plan_is_made_without_torch() -> None:
    code = "import sys, engine.planning; assert not {'torch', 'flwr', 'gradio', 'diffusers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_machine_is_measured_once_for_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter([100.0, 50.0, 25.0])
    monkeypatch.setattr(calibration, "measure", lambda: next(rates))
    first, second = plan(config(), home=tmp_path), plan(config(), home=tmp_path)
    assert (first.stages, first.minutes, first.machine) == (second.stages, second.minutes, second.machine)
    assert time.strftime("%Y-%m-%d") in first.estimate and calibration.FILE in first.estimate
    path = tmp_path / calibration.FILE
    assert json.loads(path.read_text())["core_gflops"] == 100.0 and path.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(calibration, "machine_name", lambda: "another machine")
    assert plan(config(), home=tmp_path).minutes > 1.5 * first.minutes  # half as fast, but for some fixed seconds


@pytest.mark.parametrize("damage", ["", "{", "[" * 100_000, '{"core_gflops": 1}', "[1]", "nan"])
def test_a_damaged_measurement_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.setattr(calibration, "measure", lambda: 80.0)
    (tmp_path / calibration.FILE).write_text(damage)
    assert calibration.calibration(tmp_path).core_gflops == 80.0
    monkeypatch.setattr(calibration, "measure", lambda: 70.0)
    assert calibration.calibration(tmp_path).core_gflops == 80.0


def test_a_run_is_as_fast_as_its_cores_and_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "available_cores", lambda: 8)
    monkeypatch.setattr(calibration, "has_bf16", lambda: True)
    made = calibration.Calibration(1, "m", 2 * 97.0, "2025-01-01")
    assert made.speed("cpu", threads=2).factor == pytest.approx(2.0)
    assert made.speed("cpu", threads=None).factor == pytest.approx(2 * 4**0.7)
    assert made.speed("cpu", threads=2, precision="fp32").factor == pytest.approx(2 / 1.6)
    assert made.speed("cuda", threads=2) == Speed("cuda", 1.0)
    assert 0.1 < calibration.measure(repetitions=2) < 1e5


def test_a_fork_is_planned_from_its_own_stages_on(tmp_path: Path) -> None:
    whole = plan(load_config("phantom_cpu_smoke"), home=tmp_path)
    fork = plan(load_config("phantom_cpu_smoke"), home=tmp_path, first_stage="mutual_distillation")
    assert [stage.name for stage in fork.stages] == ["mutual_distillation", "evaluation", "export"]
    assert fork.minutes < whole.minutes and len(fork.leaves_site) == 3
    assert {(row.direction, row.kind) for row in fork.traffic} == {("down", "distilled"), ("down", "evaluated")}
    assert fork.disk_gib < whole.disk_gib
    generating = plan(load_config("phantom_cpu_smoke"), home=tmp_path, first_stage="generation")
    assert {row.kind for row in generating.traffic} == {"masks", "distilled", "evaluated"}
