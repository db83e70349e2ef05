"""``plan(config)``: read the data's headers, do the sums, refuse what cannot run. Torch-free."""

from __future__ import annotations

from pathlib import Path

import psutil

from engine.config import RunConfig
from engine.data.imagesets import CACHE_BYTES
from engine.federation.connect import describe
from engine.federation.descriptions import FederationDescription
from engine.planning import checks, compatibility
from engine.planning.calibration import FILE, Calibration, calibration
from engine.planning.costs import GIB, available_cores, generator_size
from engine.planning.machine import choose_device, free_disk_gib
from engine.planning.records import Plan, SitePlan, TrafficPlan
from engine.planning.stage_costs import START_S, Workload, plan_stages, traffic_of_site
from engine.runs.identity import METHOD_STAGES
from engine.runs.store import home_folder

_LEAVES = {
    "student": "Student weights go both ways in every round, no images. Weights can still reveal "
    "something of the images they were trained on.",
    "generator": "Each site's image generator goes up once. It was trained on the site's images and may reproduce "
    "traits of them.",
    "real": "The sites' real masks go up (mask_sharing = real, as in the paper): outlines of patients' anatomy leave "
    "the site, without images, names or identifiers.",
    "deformed": "Randomly deformed masks go up (mask_sharing = deformed): no patient's own outline leaves the site.",
    "statistics": "Means and variances of the student's layers over each site's training images go up once.",
    "figures": "Every model is sent to each site to be measured there; Dice, distances and areas of each image go up, "
    "under numbers in place of names.",
    "metrics": "Losses, Dice and image counts go up with each message.",
}

_ESTIMATE = (
    "Times are rough estimates, as if nothing else ran on this machine: each model's operations divided by a rate. "
)
_ASSUMED = (
    "The rates of models and devices other than the mini SAM, TinySAM and generator on a CPU are assumed, not measured."
)


def plan(config: RunConfig, *, home: Path | str | None = None, first_stage: str | None = None) -> Plan:
    """Return what the run will take and send; from ``first_stage`` on for a fork that takes over what is before.

    Dataset headers are read (not every pixel). The machine is measured once, for about 0.5 s, and the result kept in
    the home folder: the same configuration has the same plan whenever one looks. Raises ``UserError`` where the
    run could not succeed: faults of the dataset, weights that are missing, no CUDA, too little memory or disk.
    """
    folder = home_folder(home)
    names = METHOD_STAGES[config.method]
    to_run = names[names.index(first_stage) :] if first_stage in names else names
    device, memory_gib = choose_device(config.device)
    compatibility.check_models(config, names)
    checks.check_weights(config, names)
    checks.check_generator(config, device)
    compatibility.check_generated_side(config, names)
    federation = describe(config)
    compatibility.check_classes(federation.classes, names)
    checks.check_aggregation(config, num_sources=len(federation.sites))
    sites = _sites(federation)
    measured = calibration(folder)
    speed = measured.speed(device, threads=config.threads, precision=config.precision)
    work = Workload(config, sites, speed, num_classes=len(federation.classes), cache_gib=_cache_gib(config, sites))
    stages = plan_stages(work, to_run)
    peak_gib = max(stage.peak_memory_gib for stage in stages)
    disk_gib = _disk_gib(work, to_run)
    free_gib = free_disk_gib(folder)
    checks.check_memory(stages, memory_gib=memory_gib, device=device)
    checks.check_disk(disk_gib, free_gib=free_gib, home=folder)
    free_now = psutil.virtual_memory().available / GIB if device == "cpu" else memory_gib
    return Plan(
        name=config.name,
        method=config.method,
        config_hash=config.content_hash(),
        device=device,
        machine=_machine(device, speed.factor),
        dataset=federation.name,
        modality=federation.modality,
        classes=federation.classes,
        sites=sites,
        num_synthetic=work.num_synthetic if "generation" in names else 0,
        stages=stages,
        traffic=_traffic(work, to_run),
        minutes=round(START_S / 60 / speed.factor + sum(stage.minutes for stage in stages), 2),
        peak_memory_gib=peak_gib,
        memory_gib=round(memory_gib, 1),
        disk_gib=round(disk_gib, 2),
        disk_free_gib=round(free_gib, 1),
        leaves_site=_leaves_site(config, to_run),
        warnings=checks.find_warnings(work, names, available_gib=free_now, peak_gib=peak_gib),
        estimate=_estimate(config, device, names, measured=measured),
    )


def _sites(federation: FederationDescription) -> tuple[SitePlan, ...]:
    sources = [SitePlan(site.name, "source", site.num_train, site.num_validation, 0) for site in federation.sources]
    tested = sum(site.num_test for site in federation.tests)
    return (*sources, SitePlan(federation.test_name, "test", 0, 0, tested))


def _cache_gib(config: RunConfig, sites: tuple[SitePlan, ...]) -> float:
    images = sum(site.num_train + site.num_validation + site.num_test for site in sites)
    return min(CACHE_BYTES, images * 4 * config.data.image_px**2) / GIB


def _disk_gib(work: Workload, names: tuple[str, ...]) -> float:
    """Return checkpoints (two of each), models, generators, samples and the bundle of the stages to run, in GiB.

    What a fork takes over is linked, not copied.
    """
    student, teacher = work.student.parameters, work.teacher.parameters
    sites = len(work.sources)
    total = float(4 * student * 2)
    if "federated_training" in names:
        # The server's state twice and a round's replies; Adam's moments of three rounds at each site.
        total += (2 * 3 + sites) * work.student.state_bytes + 3 * sites * 8 * student
        if work.config.federation.aggregation == "fedavgm":
            total += 2 * 8 * student
    if "generator_training" in names:
        total += sites * 2 * work.generator.controlnet_parameters + 2 * 12 * work.generator.controlnet_parameters
    if "generation" in names:
        px = work.config.generator.image_px
        total += work.num_synthetic * (2 * px**2 + 2 * work.config.data.image_px**2)
    if "mutual_distillation" in names:
        total += 2 * 12 * teacher + 2 * 12 * (teacher + student) + 4 * (2 * teacher + student)
    return total / GIB


def _traffic(work: Workload, names: tuple[str, ...]) -> tuple[TrafficPlan, ...]:
    return tuple(
        TrafficPlan(site.site, direction, kind, payload)  # type: ignore[arg-type]
        for site in work.sites
        if site.role == "source" or work.config.data.protocol == "leave-one-site-out"
        for (direction, kind), payload in traffic_of_site(work, site, names).items()
    )


def _leaves_site(config: RunConfig, names: tuple[str, ...]) -> tuple[str, ...]:
    kinds = ["student"] if "federated_training" in names else []
    if "generator_training" in names:
        kinds.append("generator")
    if "generation" in names:
        kinds.append(config.generation.mask_sharing)
    if "mutual_distillation" in names and config.distillation.batch_norm_statistics == "sites":
        kinds.append("statistics")
    if "evaluation" in names:
        kinds.append("figures")
    return tuple(_LEAVES[kind] for kind in [*kinds, "metrics"])


def _any_assumed(config: RunConfig, device: str, names: tuple[str, ...]) -> bool:
    models = [config.student] + ([config.teacher] if "foundation_finetuning" in names else [])
    generator = "generator_training" in names and generator_size(config.generator.backbone) != "mini"
    return device == "cuda" or generator or any(m.size != "mini" or m.name == "unet" for m in models)


def _estimate(config: RunConfig, device: str, names: tuple[str, ...], *, measured: Calibration) -> str:
    said = _ESTIMATE
    if device == "cpu":
        said += (
            f"This machine's own was measured on {measured.measured_on} (to measure anew, delete {FILE} in the home). "
        )
    return (said + (_ASSUMED if _any_assumed(config, device, names) else "")).strip()


def _machine(device: str, factor: float) -> str:
    if device == "cuda":
        return "one CUDA GPU"
    return f"CPU, {available_cores()} cores ({factor:.2f} x the reference machine)"
