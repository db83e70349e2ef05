"""``plan(config)``: read the data's headers, do the sums, refuse what cannot run. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from engine.config import RunConfig
from engine.data.imagesets import CACHE_BYTES
from engine.federation.connect import describe
from engine.federation.descriptions import FederationDescription
from engine.federation.side_by_side import available_cores
from engine.methods import catalogue
from engine.planning import checks, compatibility
from engine.planning.calibration import FILE, Calibration, calibration
from engine.planning.costs import GIB, Speed
from engine.planning.generator_costs import is_mini
from engine.planning.machine import choose_device, free_disk_gib
from engine.planning.model_keys import sharing_of
from engine.planning.privacy import privacy_plan, privacy_sentences
from engine.planning.records import Plan, SitePlan, StagePlan, TrafficPlan
from engine.planning.stage_costs import START_S, plan_stages, stage_costs
from engine.planning.workload import StageCost, Workload
from engine.runs.store import home_folder

_METRICS_LEAVE = "Losses, Dice and image counts go up with each message."

_ESTIMATE = (
    "Times are rough estimates, as if nothing else ran on this machine: each model's operations divided by a rate. "
)
_ASSUMED = (
    "The rates of models and devices other than the mini SAM, TinySAM and generator on a CPU are assumed, not measured."
)


def plan(
    config: RunConfig,
    *,
    home: Path | str | None = None,
    first_stage: str | None = None,
    federation: FederationDescription | None = None,
    only_costs: bool = False,
) -> Plan:
    """Return what the run will take and send; from ``first_stage`` on for a fork that takes over what is before.

    ``federation`` is what the sites have told, where they have been asked already. Dataset headers are read (not every
    pixel). The machine is measured once, for about 0.5 s, and the result kept in the home folder: the same
    configuration has the same plan whenever one looks. Raises ``UserError`` where the run could not succeed: faults of
    the dataset and, unless ``only_costs``, weights that are missing, no CUDA, too little memory or disk.
    """
    folder = home_folder(home)
    names = catalogue.method(config.method).stage_names
    to_run = names[names.index(first_stage) :] if first_stage in names else names
    device, memory_gib = choose_device(config.device)
    _check_models(config, names, device=device, only_costs=only_costs)
    federation = describe(config) if federation is None else federation
    _check_sites(config, names, federation)
    sites = site_plans(federation)
    measured = calibration(folder)
    speed = measured.speed(device, threads=config.threads, precision=config.precision)
    work = work_of(config, sites, speed, num_classes=len(federation.classes))
    everything = stage_costs(work, names)
    costs = {name: everything[name] for name in to_run}
    stages = plan_stages(costs)
    private = privacy_plan(config, to_run, sources=work.sources)
    peak_gib = max(stage.peak_memory_gib for stage in stages)
    disk_gib = _disk_gib(work, costs)
    free_gib = free_disk_gib(folder)
    if not only_costs:
        checks.check_memory(stages, memory_gib=memory_gib, device=device)
        checks.check_disk(disk_gib, free_gib=free_gib, home=folder)
    return Plan(
        name=config.name,
        method=config.method,
        config_hash=config.content_hash(),
        device=device,
        machine=_machine(device, speed.factor),
        sites_work=work.workers.words(config),
        dataset=federation.name,
        modality=federation.modality,
        classes=federation.classes,
        sites=sites,
        num_synthetic=sum(cost.synthetic for cost in everything.values()),
        stages=stages,
        traffic=_traffic(work, costs),
        minutes=_minutes(work, stages, factor=speed.factor),
        peak_memory_gib=peak_gib,
        memory_gib=round(memory_gib, 1),
        disk_gib=round(disk_gib, 2),
        disk_free_gib=round(free_gib, 1),
        leaves_site=_leaves(costs, privacy_sentences(config, private)),
        warnings=checks.find_warnings(work, names, available_gib=_available_gib(device, memory_gib), peak_gib=peak_gib),
        estimate=_estimate(config, device, names, measured=measured),
        privacy=private,
    )


def _leaves(costs: Mapping[str, StageCost], private: tuple[str, ...]) -> tuple[str, ...]:
    return (*(said for cost in costs.values() for said in cost.leaves), *private, _METRICS_LEAVE)


def _available_gib(device: str, memory_gib: float) -> float:
    return psutil.virtual_memory().available / GIB if device == "cpu" else memory_gib


def _minutes(work: Workload, stages: Sequence[StagePlan], *, factor: float) -> float:
    """Return how long the stages take one after the other, with the start of each process that works on them."""
    return round((1 + work.workers.beside) * START_S / 60 / factor + sum(stage.minutes for stage in stages), 2)


def _check_models(config: RunConfig, names: tuple[str, ...], *, device: str, only_costs: bool) -> None:
    compatibility.check_models(config, names)
    if not only_costs:
        checks.check_weights(config, names)
        checks.check_generator(config, names, device=device)
    compatibility.check_generated_side(config, names)


def _check_sites(config: RunConfig, names: tuple[str, ...], federation: FederationDescription) -> None:
    compatibility.check_joining(config, names, sources=federation.source_names)
    compatibility.check_classes(federation.classes, names)
    checks.check_aggregation(config.federation, num_sources=len(federation.sources))
    compatibility.check_site_students(config, names, sources=federation.source_names)
    if config.federation.keeps_parts:
        sharing_of(config, num_classes=len(federation.classes))  # refuses patterns that divide nothing


def work_of(config: RunConfig, sites: tuple[SitePlan, ...], speed: Speed, *, num_classes: int) -> Workload:
    """Return what a run on ``sites`` has to do on a machine of ``speed``."""
    return Workload(config, sites, speed, num_classes=num_classes, cache_gib=_cache_gib(config, sites))


def site_plans(federation: FederationDescription) -> tuple[SitePlan, ...]:
    """Return each site's part: the sources, then the test set."""
    sources = [SitePlan(site.name, "source", site.num_train, site.num_validation, 0) for site in federation.sources]
    tested = sum(site.num_test for site in federation.tests)
    return (*sources, SitePlan(federation.test_name, "test", 0, 0, tested))


def _cache_gib(config: RunConfig, sites: tuple[SitePlan, ...]) -> float:
    images = sum(site.num_train + site.num_validation + site.num_test for site in sites)
    return min(CACHE_BYTES, images * 4 * config.data.image_px**2) / GIB


def _disk_gib(work: Workload, costs: Mapping[str, StageCost]) -> float:
    """Return checkpoints (two of each), models, generators, samples and the bundle of the stages to run, in GiB.

    What a fork takes over is linked, not copied.
    """
    return (4 * work.student.parameters * 2 + sum(cost.disk_bytes for cost in costs.values())) / GIB


def _traffic(work: Workload, costs: Mapping[str, StageCost]) -> tuple[TrafficPlan, ...]:
    return tuple(
        TrafficPlan(site.site, direction, kind, payload)
        for site in work.sites
        for cost in costs.values()
        for (direction, kind), payload in cost.site_bytes.get(site.site, {}).items()
    )


def _any_assumed(config: RunConfig, device: str, names: tuple[str, ...]) -> bool:
    sections = catalogue.sections_of(names)
    models = [config.student] + ([config.teacher] if "teacher" in sections else [])
    generator = "generator" in sections and not is_mini(config)
    return device == "cuda" or generator or any(m.size != "mini" or m.name not in ("sam", "tinysam") for m in models)


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
