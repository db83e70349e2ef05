"""Steps, images, seconds and peak memory of each stage, from the configuration and the number of images. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from engine.config_generators import GENERATORS
from engine.data.tiling import MOST_LOOKS
from engine.methods import catalogue
from engine.models.sharing import SharedParameters
from engine.planning.codec_bytes import codec_sentences
from engine.planning.costs import (
    GIB,
    model_cost,
    scale,
)
from engine.planning.gate_costs import GATE_LEAVES, gate_bytes, gate_disk, gate_seconds
from engine.planning.generator_costs import state_bytes
from engine.planning.records import StagePlan
from engine.planning.what_leaves import CHECKED, LOOK_LEAVES, MASKS_LEAVE, POOLED_LEAVE, STATISTICS_LEAVE
from engine.planning.workload import SiteBytes, StageCost, Workload, checkpoint_bytes

START_S = 15.0
"""The worker's start: importing torch, diffusers, MONAI and Flower, about that many seconds of CPU time."""
STAGE_S = 1.0
"""Loading and saving in each stage."""
EVALUATION_S_PER_IMAGE = 0.01
HALF_PASSES = 1.25
"""A model at its own side and at half of it, to say what the half costs."""
INT8_S = 5.0
"""Calibration, quantisation and timing of a variant in 8 bits, beside its passes."""
LOOKS_OF_AN_IMAGE = 10
"""As a whole, in parts and in smaller ones, of an image half as large again as the model's input (ours)."""
"""Measures, bootstrap and reading, beside the model's own pass."""
EXPORT_S = 2.0
PROMPT_BATCH = 8
"""As in ``engine.distillation.prompt_decoder``."""
DECODER_SHARE = 0.12
"""What of SAM's forward pass is its decoder's: measured at mini size, less at the others."""
CHECKPOINTING_MEMORY, CHECKPOINTING_TIME = 0.35, 1.33
PRIVATE_TIME = 1.5
"""Gradients of single images against that of a batch of four: measured at mini size."""


def stage_costs(work: Workload, names: Sequence[str]) -> dict[str, StageCost]:
    """Return the costs of the stages of these names, in order."""
    return {stage.name: catalogue.load_entry(stage.cost)(work) for stage in catalogue.stages(names)}


def plan_stages(costs: Mapping[str, StageCost]) -> tuple[StagePlan, ...]:
    """Return the plan of every stage, in order."""
    return tuple(
        StagePlan(name, cost.steps, cost.images, round((cost.seconds + STAGE_S) / 60, 2), round(cost.memory_gib, 2),
                  cost.detail)
        for name, cost in costs.items()
    )  # fmt: skip


def federated_training(work: Workload) -> StageCost:
    """Rounds of training at the sites, and validation of what each round has made."""
    config, sites = work.config.federation, len(work.sources)
    asked = config.num_asked(sites)
    share = asked / sites  # of the rounds, that a site is expected in
    epochs = config.rounds * config.local_epochs
    steps = round(share * epochs * sum(math.ceil(site.num_train / config.batch_size) for site in work.sources))
    trained = round(share * epochs * sum(site.num_train for site in work.sources))
    passes = 2 * config.rounds if work.validates_mean else config.rounds + 1
    validated = share * passes * sum(site.num_validation for site in work.sources)
    seconds = trained * work.train_s(work.student) + validated * work.pass_s(work.student)
    seconds = work.by_the_sites(seconds, [site.num_train for site in work.sources])
    # The server's average, the next one, the best one, and one reply as it comes and as it is written.
    # With updates down also the model that the sites have, and the next one.
    messages = work.round_messages
    held = (7 if messages.is_update_down else 5) * work.student.state_bytes / GIB
    at_site = work.train_gib(work.student, batch_size=config.batch_size)
    memory = work.base_gib() + held + (work.workers.gib(work.base_gib() + at_site) or at_site)
    where = f"{sites} sites" if asked == sites else f"{asked} of {sites} sites"
    detail = f"{config.rounds} rounds at {where}, {trained // config.rounds} images a round"
    validated_down = config.rounds if work.validates_mean else 1
    sent: SiteBytes = {
        ("down", "student"): round(messages.down(config.rounds, share) + share * validated_down * work.shared_bytes),
        ("up", "student"): round(messages.up(config.rounds, share)),
    }
    if work.sharing is not None and work.sharing.averaged_once:
        sent = {**sent, ("up", "normalisation"): work.key_bytes(work.sharing.averaged_once)}
    # The server's state twice and a round's replies; Adam's moments of three rounds at each site.
    disk = (2 * 3 + asked) * work.student.state_bytes + 3 * sites * 8 * work.student.trained_parameters
    if config.aggregation == "fedavgm":
        disk += 2 * 8 * work.student.parameters
    leaves: tuple[str, ...] = (POOLED_LEAVE,) if work.config.data.pooled else ()
    leaves += (
        "Student weights go both ways in every round, no images. Weights can still reveal something of the images they "
        "were trained on.",
    )
    if work.sharing is not None:
        disk += 4 * sites * work.key_bytes(work.sharing.own)
        leaves += (sharing_sentence(work.sharing),)
    leaves += codec_sentences(config)
    disk += work.round_messages.site_files * 3 * sites * work.student.state_bytes
    return StageCost(steps, trained, seconds, memory, detail, work.at_each_site(sent), leaves, disk)


def sharing_sentence(sharing: SharedParameters) -> str:
    """Return what sites share of the student and what they keep, for people."""
    whole = len(sharing.shared) + len(sharing.own) + len(sharing.fixed)
    said = f"Of the student's {whole} arrays {len(sharing.shared)} go both ways"
    said += f"; {len(sharing.own)} stay at each site as its own" if sharing.own else ""
    said += f"; {len(sharing.fixed)} are frozen and never sent" if sharing.fixed else ""
    once = "The normalisation layers among them go up once, when training is over: an unseen site takes their mean."
    return f"{said}. {once}" if sharing.averaged_once else f"{said}."


def generator_training(work: Workload) -> StageCost:
    """A generator at each site."""
    config, cost = work.config.generator, work.generator
    sites = len(work.sources)
    accumulation = 1 if "accumulation" in GENERATORS[config.kind].unread else config.accumulation
    images = sites * config.steps * config.batch_size * accumulation
    area = scale(config.image_px, cost.image_px)
    encoded = min(images, sum(site.num_train for site in work.sources)) * cost.encode_gflop * area
    checkpointing = config.gradient_checkpointing and GENERATORS[config.kind].has_backbone
    gflop = images * area * cost.train_gflop * (CHECKPOINTING_TIME if checkpointing else 1)
    gflop *= PRIVATE_TIME if config.is_private else 1
    seconds = work.speed.seconds(
        gflop + encoded, cpu_gflops=cost.cpu_gflops, cuda_gflops=cost.cuda_gflops, image_px=config.image_px
    )
    activations = cost.activation_mb * 1e6 * config.batch_size * area * (CHECKPOINTING_MEMORY if checkpointing else 1)
    single = 4 * cost.trained_parameters * config.batch_size if config.is_private else 0  # a gradient of each image
    at_site = (state_bytes(work.config, cost) + activations + single) / GIB
    memory = work.base_gib() + (work.workers.gib(work.base_gib() + at_site) or at_site)
    detail = f"{config.steps} steps at each of {sites} sites, batches of {config.batch_size}"
    sent: SiteBytes = {("up", "generator"): 2 * cost.sent_parameters}
    disk = sites * 2 * cost.sent_parameters + 2 * 12 * cost.trained_parameters
    spec = GENERATORS[config.kind]
    leaves: tuple[str, ...] = (
        f"Each site's image generator ({spec.title}) goes up once: {spec.sent}. It was trained on the site's images "
        "and may reproduce traits of them.",
    )
    if work.config.release.check:
        seconds += _check_s(work)
        sent = {**sent, ("down", "student"): work.student.state_bytes}
        leaves = (*leaves, CHECKED)
    seconds = work.by_the_sites(seconds, [1.0] * sites)
    return StageCost(sites * config.steps, images, seconds, memory, detail, work.at_each_site(sent), leaves, disk)


def _check_s(work: Workload) -> float:
    """Seconds of the sites' checks: an image for each mask, and the passes of the models that judge them."""
    most, cost = work.config.release.images, work.generator
    drawn = sum(min(most, site.num_train) + min(most, site.num_validation) for site in work.sources)
    px = work.config.generator.image_px
    gflop = drawn * scale(px, cost.image_px) * (cost.passes * cost.pass_gflop + cost.decode_gflop)
    judge = model_cost("sam", "mini")
    looked_at = 2 * drawn  # what is drawn, and the real image of the same mask
    drawing = work.speed.seconds(gflop, cpu_gflops=cost.cpu_gflops, cuda_gflops=cost.cuda_sampling_gflops, image_px=px)
    judging = work.speed.seconds(
        looked_at * judge.gflop,
        cpu_gflops=judge.cpu_gflops,
        cuda_gflops=judge.cuda_gflops,
        image_px=judge.image_px,
    )
    return drawing + judging + looked_at * work.pass_s(work.student)


def generation(work: Workload) -> StageCost:
    """An image for every shared mask, and the student's opinion of it."""
    config, cost = work.config.generation, work.generator
    generator_px = work.config.generator.image_px
    area = scale(generator_px, cost.image_px)
    gflop = area * (cost.passes * cost.pass_gflop + cost.decode_gflop)
    images = work.num_synthetic
    seconds = work.speed.seconds(
        images * gflop, cpu_gflops=cost.cpu_gflops, cuda_gflops=cost.cuda_sampling_gflops, image_px=generator_px
    ) + images * work.pass_s(work.student)
    memory = work.base_gib() + (4 * cost.parameters + 0.3e6 * cost.activation_mb * config.batch_size * area) / GIB
    steps = config.sampler_steps if cost.passes > 1 else 1
    detail = f"{images} images in {steps} steps, masks {config.mask_sharing}"
    image_px = work.config.data.image_px
    bits = work.num_classes * image_px**2
    sent: dict[str, SiteBytes] = {
        site.site: {("up", "masks"): math.ceil(work.masks_of(site) * bits / 8)} for site in work.sources
    }
    return StageCost(
        images * steps, images, seconds, memory, detail, sent, (MASKS_LEAVE[config.mask_sharing],),
        disk_bytes=images * (2 * generator_px**2 + 2 * image_px**2), synthetic=images,
    )  # fmt: skip


def foundation_finetuning(work: Workload) -> StageCost:
    """SAM on the synthetic set."""
    config = work.config.foundation
    images = config.epochs * work.num_synthetic
    steps = config.epochs * math.ceil(work.num_synthetic / config.batch_size)
    seconds = images * work.train_s(work.teacher, frozen=config.freeze_encoder)
    memory = work.base_gib() + work.train_gib(work.teacher, batch_size=config.batch_size)
    detail = f"{config.epochs} epochs on {work.num_synthetic} synthetic images"
    disk = checkpoint_bytes(work.teacher)
    return StageCost(steps, images, seconds, memory, detail, disk_bytes=disk)


def mutual_distillation(work: Workload) -> StageCost:
    """Scores of the pool, training on what they choose, predictions of all of it at the end."""
    config, drawn = work.config.distillation, work.num_synthetic
    pool = max(1, drawn - len(config.excluded_samples))
    whole_pool = config.selector == "in_batch_quantile"
    selected = pool if whole_pool else max(1, round(config.selection_rate * pool))
    both_train = work.train_s(work.teacher, frozen=config.freeze_teacher_encoder) + work.train_s(work.student)
    both_pass = work.pass_s(work.teacher) + work.pass_s(work.student)
    renewed = 1.0 if config.scoring == "exact" else 0.0 if config.freeze_teacher_encoder else config.refresh_fraction
    scoring = work.pass_s(work.student) + work.pass_s(work.teacher) * (renewed + (1 - renewed) * DECODER_SHARE)
    passes = 0 if whole_pool else 1 if selected == pool else math.ceil(config.epochs / config.scoring_interval)
    seconds = config.epochs * selected * both_train + pool * passes * scoring + drawn * both_pass
    memory = work.base_gib() + sum(
        work.train_gib(model, batch_size=config.batch_size) for model in (work.teacher, work.student)
    )
    detail = f"{config.epochs} epochs on {selected} of {pool} samples ({config.selector}, scoring {config.scoring})"
    detail += f", {drawn - pool} left out" if pool < drawn else ""
    steps = config.epochs * math.ceil(selected / config.batch_size)
    measured = config.batch_norm_statistics == "sites"
    sent: SiteBytes = {("down", "distilled"): (2 if measured else 1) * work.student.state_bytes}
    judge: SiteBytes = {**sent, **gate_bytes(work)}
    leaves: tuple[str, ...] = (STATISTICS_LEAVE,) if measured else ()
    leaves += (GATE_LEAVES[config.gate],) if config.gate in GATE_LEAVES else ()
    disk = checkpoint_bytes(work.teacher) + checkpoint_bytes(work.student) + gate_disk(work)
    each = ", each judged by the sites"
    detail += {"off": "", "mix": ", means with the first judged by the sites"}.get(config.gate, each)
    return StageCost(
        steps,
        config.epochs * selected,
        seconds + gate_seconds(work),
        memory,
        detail,
        {site.site: judge if site.num_validation else sent for site in work.sources},
        leaves,
        disk,
    )


def evaluation(work: Workload) -> StageCost:
    """Every model of the method on all validation and test images."""
    models = [work.model(architecture) for architecture in work.architectures]
    images = sum(site.num_test + site.num_validation for site in work.sites)
    seconds = images * sum(work.pass_s(model) + EVALUATION_S_PER_IMAGE for model in models)
    looks: float = sum(min(MOST_LOOKS, LOOKS_OF_AN_IMAGE * site.num_validation) for site in work.sources)
    looks = looks + HALF_PASSES * sum(min(MOST_LOOKS, site.num_validation) for site in work.sources)
    seconds += work.architectures.count("student") * looks * work.pass_s(work.student)
    largest = max(models, key=lambda model: model.parameters)
    passing = 0.3e6 * largest.activation_mb * scale(work.config.data.image_px, largest.image_px)
    memory = work.base_gib() + (4 * largest.parameters + work.config.evaluation.batch_size * passing) / GIB
    detail = f"{len(models)} models on {images} images"
    sent: SiteBytes = {("down", "evaluated"): sum(model.state_bytes for model in models)}
    asked = work.sites if work.config.data.protocol == "leave-one-site-out" else work.sources
    leaves = (
        "Every model is sent to each site to be measured there; Dice, distances and areas of each image go up, under "
        "numbers in place of names, and the students' mean Dice at full resolution, seen as a whole and in "
        "parts.",
    )
    to_sites = {site.site: sent for site in asked if site.num_validation or site.num_test}
    own = work.num_personal
    if own:
        validated = own * sum(site.num_validation for site in work.sources)
        seconds += validated * (work.pass_s(work.student) + EVALUATION_S_PER_IMAGE)
        detail += ", and each site's own on its validation images"
        more: SiteBytes = {("down", "evaluated"): sent["down", "evaluated"] + own * work.shared_bytes}
        to_sites |= {site.site: more for site in work.sources if site.num_validation}
    return StageCost(len(models) + own, len(models) * images, seconds, memory, detail, to_sites, leaves)


def export(work: Workload) -> StageCost:
    """One ONNX model, compared with PyTorch."""
    models = [work.model(architecture) for architecture in sorted(set(work.architectures))]
    seconds = EXPORT_S + 10 * sum(work.pass_s(model) for model in models)
    variants = work.config.export.variants
    eight_bits = sum(name.endswith("int8") for name in variants)
    validated = sum(site.num_validation for site in work.sources)
    more_s = len(variants) * EXPORT_S + eight_bits * INT8_S
    more_s += (20 * len(variants) + eight_bits * validated) * work.pass_s(work.student)
    # A step of the decoder alone, forwards and back, took about as long as the whole model without a gradient.
    more_s += PROMPT_BATCH * work.config.export.prompt_steps * work.pass_s(work.student)
    # A file in 8 bits is smaller than the weights that went down to be measured: at the most.
    measured: SiteBytes = {("down", "evaluated"): eight_bits * work.student.state_bytes} if eight_bits else {}
    to_sites = {site.site: measured for site in work.sources if measured and site.num_validation}
    largest = max(models, key=lambda model: model.parameters)
    memory = work.base_gib() + (16 * largest.parameters) / GIB
    detail = "ONNX with its parity checked"
    if not (work.num_personal and work.config.export.site_models and work.sharing is not None):
        return StageCost(len(models), 0, seconds + more_s, memory, detail, to_sites, leaves=(LOOK_LEAVES,))
    own = len(work.sources) * work.num_personal
    sent: SiteBytes = {("up", "own"): work.num_personal * work.key_bytes(work.sharing.own)}
    leaves = (
        "What each site keeps of the student as its own goes up once, so that its own model can be exported.",
        LOOK_LEAVES,
    )
    return StageCost(
        len(models) + own,
        0,
        (1 + own) * seconds + more_s,
        memory,
        f"{detail}, each site's own, too",
        {site: {**to_sites.get(site, {}), **bytes_} for site, bytes_ in work.at_each_site(sent).items()},
        leaves,
        disk_bytes=own * 4 * work.student.parameters,
    )
