"""What a configuration cannot do here (refused) and what in it has no effect (warned about). Torch-free."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator
from importlib.util import find_spec
from pathlib import Path

from engine.config import RunConfig
from engine.config_federation import FederationConfig
from engine.config_generators import GENERATORS, unread_of_kind
from engine.config_keys import section_keys
from engine.errors import UserError
from engine.federation.side_by_side import available_cores
from engine.methods import catalogue
from engine.models.assets import asset_paths, find_asset, find_weights_folder, pinned_checksum
from engine.planning.codec_bytes import codec_warnings
from engine.planning.model_keys import student_keys
from engine.planning.privacy import generator_privacy_warnings, privacy_warnings
from engine.planning.records import StagePlan
from engine.planning.workload import Workload


def check_weights(config: RunConfig, stages: tuple[str, ...]) -> None:
    """Refuse names of weights that are unknown or not on this machine (checksums are compared when they are loaded)."""
    for fault in weight_faults(config, stages):
        raise fault


def weight_faults(config: RunConfig, stages: tuple[str, ...]) -> Iterator[UserError]:
    """Yield why each of the weights that ``stages`` read cannot be had here."""
    sections = catalogue.sections_of(stages)
    checks: list[tuple[Callable[[str, str], None], str, str | None]] = [
        (_check_model_weights, f"{role}.weights", getattr(config, role).weights)
        for role in ("student", "teacher")
        if role in sections
    ]
    if "generator" in sections and GENERATORS[config.generator.kind].has_backbone:
        checks.append((_check_folder, "generator.backbone", config.generator.backbone))
        checks.append((_check_folder, "generator.controlnet", config.generator.controlnet))
    for check, key, name in checks:
        try:
            if name is not None:
                check(key, name)
        except UserError as fault:
            yield fault if key in fault.what else _naming(key, fault)


def _naming(key: str, fault: UserError) -> UserError:
    """Return what the registry says of a name, with the key that gives it."""
    return UserError(fault.code, what=f"{fault.what.removesuffix('.')} ({key}).", why=fault.why, fix=fault.fix)


def check_generator(config: RunConfig, stages: tuple[str, ...], *, device: str) -> None:
    """Refuse an 8-bit optimiser where it cannot work."""
    part = config.generator
    reads = "optimiser_8bit" not in GENERATORS[part.kind].unread and "generator" in catalogue.sections_of(stages)
    asked = part.optimiser_8bit and reads
    if asked and (device != "cuda" or find_spec("bitsandbytes") is None):
        raise UserError(
            "plan.optimiser_8bit",
            what="The configuration asks for the 8-bit optimiser (generator.optimiser_8bit), which is not available.",
            why="It needs the package bitsandbytes and a CUDA GPU.",
            fix="Set generator.optimiser_8bit = false, or install bitsandbytes on a machine with a GPU.",
        )


def check_aggregation(part: FederationConfig, *, num_sources: int) -> None:
    """Refuse Krum where a model has no neighbours to be judged by."""
    num_asked = part.num_asked(num_sources)
    if part.aggregation in ("krum", "multi_krum") and num_asked < part.hostile_sites + 3:
        raise UserError(
            "plan.too_few_for_krum",
            what=f"federation.aggregation '{part.aggregation}' with {part.hostile_sites} hostile site(s) needs "
            f"{part.hostile_sites + 3} sites at least; a round of this run asks {num_asked}.",
            why="Krum judges a model by its n - f - 2 closest of n models, f of them hostile: here there are none.",
            fix="Take more sites, raise federation.participation, lower federation.hostile_sites, or set "
            "federation.aggregation to 'median'.",
        )


def check_memory(stages: tuple[StagePlan, ...], *, memory_gib: float, device: str) -> None:
    """Refuse a run whose largest stage needs more memory than there is."""
    worst = max(stages, key=lambda stage: stage.peak_memory_gib)
    if worst.peak_memory_gib > memory_gib:
        raise UserError(
            "plan.memory",
            what=f"The stage '{worst.name}' needs about {worst.peak_memory_gib:.1f} GiB; "
            f"{'the GPU' if device == 'cuda' else 'this machine'} has {memory_gib:.1f} GiB.",
            why="The run would be stopped by the operating system in that stage.",
            fix="Lower that stage's batch size or data.image_px, turn on generator.gradient_checkpointing, or use a "
            "machine with more memory.",
        )


def check_disk(needed_gib: float, *, free_gib: float, home: Path) -> None:
    """Refuse a run whose files do not fit."""
    if needed_gib > free_gib:
        raise UserError(
            "plan.disk",
            what=f"The run needs about {needed_gib:.1f} GiB below {home}, where {free_gib:.1f} GiB are free.",
            why="It would stop half-way with a full disk.",
            fix="Free some space, or choose another home with --home or DSFEDMED_HOME.",
        )


def find_warnings(work: Workload, stages: tuple[str, ...], *, available_gib: float, peak_gib: float) -> tuple[str, ...]:
    """Return one sentence for each setting without effect and each thing that may surprise."""
    config = work.config
    default = RunConfig(name="default")
    sections = catalogue.sections_of(stages)
    found = []
    for key, value in catalogue.method(config.method).fixed.items():
        found.append(f"{key} is {json.dumps(value)}: the method '{config.method}' is that by definition.")
    for section in sorted(section_keys().keys() - {"", *sections}):
        if getattr(config, section) != getattr(default, section):
            found.append(f"[{section}] has no effect: the method '{config.method}' has no stage that reads it.")
    found += _data_warnings(config)
    found += _public_warnings(config, sections)
    if "generator" in sections:
        found += _generator_warnings(config)
    if "distillation" in sections:
        found += _distillation_warnings(config)
        found += _grid_warnings(config, work)
    if config.threads is not None and work.speed.device == "cuda":
        found.append("threads has little effect: the models run on the GPU.")
    if config.federation.patience is not None and config.federation.patience >= config.federation.rounds:
        found.append("federation.patience has no effect: it is not below federation.rounds.")
    if config.federation.patience is not None and not any(site.num_validation for site in work.sources):
        found.append("federation.patience has no effect: no site has validation images.")
    found += _sharing_warnings(config, work)
    num_asked = config.federation.num_asked(len(work.sources))
    if config.federation.participation < 1 and num_asked == len(work.sources):
        found.append(f"federation.participation has no effect: a round asks all {num_asked} site(s) all the same.")
    found += codec_warnings(config.federation, is_partial=num_asked < len(work.sources))
    found += _aggregation_warnings(config, num_asked=num_asked)
    found += _privacy_warnings(config, work, num_asked=num_asked) if "privacy" in sections else []
    found += _site_warnings(config, num_sources=len(work.sources), num_asked=num_asked)
    for role in (role for role in ("student", "teacher") if role in sections):
        if getattr(config, role).batch_norm == "kept" and getattr(config, role).name != "tinysam":
            found.append(f"{role}.batch_norm has no effect: only TinySAM has such layers to keep.")
    if config.export.student == "better_on_validation" and not any(site.num_validation for site in work.sources):
        found.append("export.student has no effect: no site has validation images, the distilled model is exported.")
    if config.distillation.gate != "off" and not any(site.num_validation for site in work.sources):
        found.append("distillation.gate has no effect: no site has validation images, the last epoch is kept.")
    if "generation" in sections and config.generator.image_px != config.data.image_px:
        found.append(
            f"Synthetic images are made at {config.generator.image_px} pixels and resized to {config.data.image_px}."
        )
    load = os.getloadavg()[0]
    if work.speed.device == "cpu" and load > available_cores():
        found.append(
            f"The machine is busy ({load:.1f} processes want {available_cores()} cores): expect it to take longer."
        )
    if peak_gib > available_gib:
        found.append(f"About {peak_gib:.1f} GiB are needed at the peak; {available_gib:.1f} GiB are free just now.")
    return tuple(found)


def _sharing_warnings(config: RunConfig, work: Workload) -> list[str]:
    part, sharing = config.federation, work.sharing
    found = []
    if config.export.site_models and (sharing is None or not sharing.is_personal):
        found.append("export.site_models has no effect: sites share all of the student.")
    if sharing is None:
        return found
    if not sharing.is_personal and not sharing.fixed:
        found.append(f"federation.shared '{part.shared}' leaves out constants at most: all of the student learns.")
    if not part.average_buffers and not any(key.endswith("running_var") for key in sharing.shared):
        found.append("federation.average_buffers has no effect: the statistics are each site's own.")
    if sharing.is_personal and len(work.sources) == 1:
        found.append("One site trains: what it keeps as its own is what all share.")
    later = [stage.title for stage in catalogue.method(config.method).stages if stage.trains and not stage.grows]
    if sharing.is_personal and later:
        said = f"{later[-1].lower()} goes on from the one of all sites"
        found.append(f"Each site's own model is that of federated training; {said}.")
    return found


def _privacy_warnings(config: RunConfig, work: Workload, *, num_asked: int) -> list[str]:
    keys = student_keys(config, num_classes=work.num_classes)[0] if config.privacy.is_on else ()
    has_statistics = any(key.name.endswith("running_var") for key in keys)
    return privacy_warnings(config, num_asked=num_asked, has_statistics=has_statistics)


def _generator_warnings(config: RunConfig) -> list[str]:
    default, kind = RunConfig(), config.generator.kind
    found = [
        f"generator.{key} has no effect: generator.kind is '{kind}'."
        for key in GENERATORS[kind].unread
        if getattr(config.generator, key) != getattr(default.generator, key)
    ]
    if config.generator.asynchronous:
        found.append(
            "Generators are trained beside the rounds, in further processes: both take memory and cores at a time."
        )
    if config.generator.asynchronous and config.release.check:
        found.append("Generators are measured without the student: none has been trained yet (generator.asynchronous).")
    if not config.release.check:
        keys = ("images", "most_membership_auc", "most_copies", "inception")
        changed = [key for key in keys if getattr(config.release, key) != getattr(default.release, key)]
        found += [f"release.{key} has no effect: release.check is off." for key in changed]
    found += generator_privacy_warnings(config)
    for section in sorted(unread_of_kind(kind)):
        if getattr(config, section) != getattr(default, section):
            found.append(f"[{section}] has no effect: generator.kind is '{kind}'.")
    return found


def _site_warnings(config: RunConfig, *, num_sources: int, num_asked: int) -> list[str]:
    part, default = config.federation, RunConfig().federation
    found = []
    for key, needed in (("retries", "retry"), ("quorum", "skip")):
        if part.on_failure != needed and getattr(part, key) != getattr(default, key):
            found.append(f"federation.{key} has no effect: federation.on_failure is not '{needed}'.")
    if part.on_failure == "skip" and part.quorum is not None and part.quorum > num_asked:
        found.append(f"federation.quorum is {part.quorum}: a round asks {num_asked} sites, and every one is needed.")
    if part.deadline_s is not None and config.backend == "local":
        found.append("federation.deadline_s has no effect on sites in this process: they work one after the other.")
    if config.backend != "ray":
        found += [f"{k} has no effect: backend is not 'ray'." for k in ("workers", "ray_address") if getattr(config, k)]
    elif config.workers is not None and config.workers > num_sources:
        found.append(f"workers is {config.workers}: no more than the {num_sources} sites work at a time.")
    return found


def _data_warnings(config: RunConfig) -> list[str]:
    data, default = config.data, RunConfig().data
    found = []
    if data.source == "phantom" and data.root is not None:
        found.append("data.root has no effect: data.source is 'phantom'.")
    if data.source == "folder":
        for key in ("task", "images_per_site"):
            if getattr(data, key) != getattr(default, key):
                found.append(f"data.{key} has no effect: data.source is 'folder'.")
    if data.protocol == "fixed-test" and data.held_out is not None:
        found.append("data.held_out has no effect: data.protocol is 'fixed-test'.")
    if data.protocol == "leave-one-site-out" and data.test_root is not None:
        found.append("data.test_root has no effect: data.protocol is 'leave-one-site-out'.")
    return found


UNREAD_WITHOUT_AVERAGE = (
    "participation", "patience", "average_decay", "aggregation", "large_updates", "proximal_mu", "normalisation",
)  # fmt: skip
"""Settings of the federation that need weights which all sites share."""


def _public_warnings(config: RunConfig, sections: Collection[str]) -> list[str]:
    """Return what has no effect on learning from a public set and from sites without labels."""
    data, part, default = config.data, config.federation, RunConfig()
    keys = ("public_root", "public_images")
    changed = [key for key in keys if getattr(data, key) != getattr(default.data, key)]
    if "public" not in sections:
        return [f"data.{key} has no effect: the method '{config.method}' reads no public set." for key in changed]
    found = []
    if data.public_root is not None and "public_images" in changed:
        found.append("data.public_images has no effect: data.public_root is given.")
    if "samfed" not in sections:
        return found
    if part.site_students is not None:
        why = "students of several kinds are not averaged"
        unread = [key for key in UNREAD_WITHOUT_AVERAGE if getattr(part, key) != getattr(default.federation, key)]
        found += [f"federation.{key} has no effect: {why}." for key in unread]
    elif part.proximal_mu != 0:
        found.append("federation.proximal_mu has no effect on training without labels; samfed.global_weight has.")
    if config.samfed.uses_teacher and config.samfed.threshold <= 0.5:
        found.append("samfed.threshold is not above 0.5: every pixel teaches, for no confidence is below that.")
    return found


_READ_BY = {
    "server_momentum": ("fedavgm",),
    "server_learning_rate": ("fedavgm",),
    "trimmed_share": ("trimmed_mean",),
    "hostile_sites": ("krum", "multi_krum"),
    "aggregation_weights": ("fedavg", "fedavgm", "multi_krum"),
}
"""Settings of the federation that only some ways of aggregation read."""


def _aggregation_warnings(config: RunConfig, *, num_asked: int) -> list[str]:
    part, default = config.federation, RunConfig().federation
    chosen = part.aggregation
    found = [
        f"federation.{key} has no effect: federation.aggregation is '{chosen}'."
        for key, readers in _READ_BY.items()
        if chosen not in readers and getattr(part, key) != getattr(default, key)
    ]
    if chosen == "fedavgm" and part.server_momentum == 0 and part.server_learning_rate == 1:
        found.append("federation.aggregation 'fedavgm' is FedAvg: there is no momentum, and the step is 1.")
    if chosen == "median" and num_asked < 3:
        found.append(f"federation.aggregation 'median' withstands nothing: it is the mean of {num_asked} site(s).")
    if chosen == "trimmed_mean" and int(part.trimmed_share * num_asked) == 0:
        found.append(f"federation.trimmed_share cuts no site: {part.trimmed_share:g} of {num_asked} is below one.")
    if chosen in ("krum", "multi_krum") and num_asked < 2 * part.hostile_sites + 3:
        needed = 2 * part.hostile_sites + 3
        found.append(f"Krum's guarantee needs 2 f + 3 sites, here {needed}; a round asks {num_asked}.")
    if part.large_updates == "accept":
        if part.update_norm_limit != default.update_norm_limit:
            found.append("federation.update_norm_limit has no effect: federation.large_updates is 'accept'.")
    elif num_asked < 3:
        found.append(f"federation.large_updates: of {num_asked} site(s) nobody can say whose update is too large.")
    return found


def _distillation_warnings(config: RunConfig) -> list[str]:
    part, default = config.distillation, RunConfig().distillation
    found = []
    if part.selector == "in_batch_quantile":
        for key in ("learnability_lambda", "score_scaling", "scoring", "refresh_fraction", "scoring_interval"):
            if getattr(part, key) != getattr(default, key):
                found.append(f"distillation.{key} changes no training: the selector is 'in_batch_quantile'.")
    else:
        if part.reliable_quantile != default.reliable_quantile:
            found.append("distillation.reliable_quantile has no effect: the selector is not 'in_batch_quantile'.")
        if part.scoring == "exact" and part.refresh_fraction != default.refresh_fraction:
            found.append("distillation.refresh_fraction has no effect: scoring is 'exact'.")
        if part.selection_rate == 1.0:
            found.append("distillation.selection_rate is 1: every sample is trained on, and scores choose nothing.")
    if not part.mutual and part.teacher_learning_rate != default.teacher_learning_rate:
        found.append("distillation.teacher_learning_rate has no effect: distillation.mutual is off.")
    if part.supervision_weight == 1.0:
        found.append("distillation.supervision_weight is 1: the models do not learn from each other.")
    return found


def _grid_warnings(config: RunConfig, work: Workload) -> list[str]:
    strides = [work.student.mask_stride, work.teacher.mask_stride]
    if strides[0] == strides[1] or config.evaluation.mask_px is not None:
        return []
    sides = [config.data.image_px // stride for stride in strides]
    return [
        f"The student's masks have {sides[0]} pixels a side, the teacher's {sides[1]}: they learn from each other on "
        "the coarser grid, and are scored each on its own unless evaluation.mask_px is set."
    ]


def _check_model_weights(key: str, name: str) -> None:
    if Path(name).is_file():
        return
    asset = find_asset(name)
    if not any(path.is_file() for path in asset_paths(asset)):
        make = f"Make them: {asset.made_by}" if asset.made_by else f"Run: python -m engine weights fetch {asset.name}"
        raise UserError(
            "weights.absent",
            what=f"The weights '{name}' ({key}) are not on this machine.",
            why=f"The file {Path(asset.file).name} lies in none of the folders that are searched.",
            fix=f"{make}, or leave {key} out to start from random weights.",
        )
    if asset.sha256 is None and pinned_checksum(name) is None:
        raise UserError(
            "weights.unverified",
            what=f"The weights '{name}' ({key}) cannot be checked: no SHA-256 of {Path(asset.file).name} is published.",
            why="A file that nobody vouches for is not loaded by name.",
            fix=f"Compare its `sha256sum` with a source that you trust, then set {key} = '{asset.name}@sha256:HEX'.",
        )


def _check_folder(key: str, name: str) -> None:
    if find_weights_folder(name) is not None:
        return
    jobs = "vae` and then `python -m engine pretrain unet" if key == "generator.backbone" else "controlnet"
    raise UserError(
        "weights.absent",
        what=f"The folder '{name}' ({key}) is not on this machine.",
        why="Site generators are ControlNets on a frozen latent diffusion model in the diffusers layout.",
        fix=f"Make the mini one with `python -m engine pretrain {jobs}`, or set {key} to a folder that has it.",
    )
