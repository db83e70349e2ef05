"""What the gate of distillation takes and sends: every student that is judged goes down. Torch-free."""

from __future__ import annotations

from engine.config_distillation import MIXES, DistillationConfig
from engine.planning.workload import SiteBytes, Workload

GATE_LEAVES = {
    "best": "The student's Dice on each site's validation images goes up before distillation and after every epoch.",
    "watch": "The student's Dice on each site's validation images goes up before distillation and after every epoch.",
    "mix": f"The Dice of {len(MIXES) + 1} students on each site's validation images goes up: that of before "
    "distillation, and means of it and the distilled one.",
}


def num_judged(part: DistillationConfig) -> int:
    """Return how many students the sites validate."""
    return {"off": 0, "best": part.epochs + 1, "watch": part.epochs + 1, "mix": len(MIXES) + 1}[part.gate]


def gate_seconds(work: Workload) -> float:
    """Return the seconds of the sites' validation; 0 without a gate."""
    part, images = work.config.distillation, [site.num_validation for site in work.sources]
    if part.gate == "off":
        return 0.0
    passes = num_judged(part) * work.pass_s(work.student)
    passes += work.pass_s(work.teacher) if part.teacher_check == "sites" else 0.0
    return work.by_the_sites(sum(images) * passes, images) if sum(images) else 0.0


def gate_bytes(work: Workload) -> SiteBytes:
    """Return what goes down to each site that has validation images; nothing without a gate."""
    part = work.config.distillation
    if part.gate == "off":
        return {}
    sent: SiteBytes = {("down", "candidate"): num_judged(part) * work.student.state_bytes}
    checked: SiteBytes = {("down", "checked_teacher"): work.teacher.state_bytes}
    return {**sent, **checked} if part.teacher_check == "sites" else sent


def gate_disk(work: Workload) -> int:
    """Return the bytes of the best student in two checkpoints."""
    return 0 if work.config.distillation.gate in ("off", "watch") else 2 * work.student.state_bytes
