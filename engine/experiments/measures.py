"""What a table can show of a cell: figures of images, and figures of the whole run. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from engine.federation.release import AUC, FLD, FRECHET, INCEPTION_FRECHET
from engine.methods import catalogue
from engine.runs.generator_checks import read_checks
from engine.runs.records import TrafficTotal
from engine.runs.store import RunStore

MIB = 2**20
MEASURING = ("evaluated", "figures", "appearance")
"""Kinds that are sent for the results table alone; the papers count what training sends."""
OF_ROUNDS = ("student", "public_predictions")
"""Kinds of what goes to and from a site in every round."""


@dataclass(frozen=True)
class Measure:
    """One figure. ``image_key`` names it in the records of images; ``of_run`` works it out from a run, or ``None``.

    ``at`` says of which images: those of the sites held out, or those that the sites that train keep from training,
    each measured with the site's own model where it has one, else with the model of all.
    """

    name: str
    title: str
    decimals: int
    higher_is_better: bool
    image_key: str | None = None
    of_run: Callable[[RunStore, str], float | None] | None = None
    at: Literal["held_out", "training_sites"] = "held_out"


def crossed(store: RunStore, run_id: str) -> tuple[TrafficTotal, ...]:
    """Return the bytes that crossed each site's border, without those of measuring."""
    return tuple(total for total in store.traffic(run_id) if total.kind not in MEASURING)


def _client_mib(store: RunStore, run_id: str) -> float | None:
    """MiB, both ways, of a site: the mean over those that take part, not the unseen one's few numbers."""
    totals = crossed(store, run_id)
    taking_part = {total.site for total in totals if total.kind != catalogue.METRICS.name}
    totals = tuple(total for total in totals if total.site in taking_part)
    return sum(total.payload_bytes for total in totals) / len(taking_part) / MIB if taking_part else None


def _all_mib(store: RunStore, run_id: str) -> float | None:
    """MiB, both ways, of all sites."""
    return sum(total.payload_bytes for total in crossed(store, run_id)) / MIB


def _round_mib(store: RunStore, run_id: str) -> float | None:
    """MiB, both ways, of one site in one round: the mean message up and the mean message down."""
    found = [total for total in crossed(store, run_id) if total.kind in OF_ROUNDS and total.num_messages]
    sizes = 0.0
    for direction in ("up", "down"):
        totals = [total for total in found if total.direction == direction]
        num_messages = sum(total.num_messages for total in totals)
        sizes += sum(total.payload_bytes for total in totals) / num_messages if num_messages else 0.0
    return sizes / MIB if crossed(store, run_id) else None


def _minutes(*, synchronous: bool) -> Callable[[RunStore, str], float | None]:
    """Minutes that stages of a kind were at work; what goes on beside rounds counts with its own kind, too."""

    def of_run(store: RunStore, run_id: str) -> float | None:
        wanted = [s for s in store.stages(run_id) if _is_training(s.name) and _is_synchronous(s.name) == synchronous]
        return sum(stage.wall_s + stage.beside_s for stage in wanted) / 60 if wanted else None

    return of_run


def _is_training(stage: str) -> bool:
    found = catalogue.stage(stage)
    return found is not None and found.trains


def _is_synchronous(stage: str) -> bool:
    """Whether sites wait for each other in it: it averages their models."""
    found = catalogue.stage(stage)
    return found is not None and found.averages


def _stage_s(name: str, *, cpu: bool = False) -> Callable[[RunStore, str], float | None]:
    """Seconds of a finished stage: of the clock, or of the processor. A time of 0 is one that was never taken."""

    def of_run(store: RunStore, run_id: str) -> float | None:
        finished = (s for s in store.stages(run_id) if s.name == name and s.status == "finished")
        return next((s.cpu_s if cpu else s.wall_s for s in finished), None) or None

    return of_run


def _of_generators(figure: str) -> Callable[[RunStore, str], float | None]:
    """The mean over the sites that have measured their generator and could work the figure out."""

    def of_run(store: RunStore, run_id: str) -> float | None:
        told: Iterable[dict[str, Any]] = read_checks(store.run_dir(run_id)).values()
        found = [value for of_site in told if (value := of_site.get("figures", {}).get(figure)) is not None]
        return fmean(found) if found else None

    return of_run


def _inference(*, quantile: float) -> Callable[[RunStore, str], float | None]:
    def of_run(store: RunStore, run_id: str) -> float | None:
        from engine.experiments.inference import bundle_seconds

        seconds = bundle_seconds(store, run_id)
        return None if seconds is None else quantile_of(seconds, quantile)

    return of_run


def _torch_inference(store: RunStore, run_id: str) -> float | None:
    from engine.experiments.inference import torch_seconds

    seconds = torch_seconds(store, run_id)
    return None if seconds is None else quantile_of(seconds, 0.5)


def quantile_of(values: Sequence[float], quantile: float) -> float:
    """Return a quantile of ``values``, linear between neighbours."""
    import numpy as np

    return float(np.quantile(values, quantile))


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("dice", "Dice", 3, True, image_key="dice"),
        Measure("iou", "IoU", 3, True, image_key="iou"),
        Measure("site_dice", "Dice at the sites that train", 3, True, image_key="dice", at="training_sites"),
        Measure("round_mib", "Traffic of a site in a round, MiB", 3, False, of_run=_round_mib),
        Measure("traffic_client_mib", "Traffic of a site, MiB", 2, False, of_run=_client_mib),
        Measure("traffic_all_mib", "Traffic of all sites, MiB", 2, False, of_run=_all_mib),
        Measure("inference_s", "Inference, s (median)", 4, False, of_run=_inference(quantile=0.5)),
        Measure("inference_p95_s", "Inference, s (95 %)", 4, False, of_run=_inference(quantile=0.95)),
        Measure("torch_inference_s", "Inference in PyTorch, s (median)", 4, False, of_run=_torch_inference),
        Measure("sync_min", "Synchronous training, min", 2, False, of_run=_minutes(synchronous=True)),
        Measure("async_min", "Asynchronous training, min", 2, False, of_run=_minutes(synchronous=False)),
        Measure("distillation_s", "Mutual distillation, s", 1, False, of_run=_stage_s("mutual_distillation")),
        Measure(
            "distillation_cpu_s",
            "Mutual distillation, CPU s",
            1,
            False,
            of_run=_stage_s("mutual_distillation", cpu=True),
        ),
        Measure("fid", "FID (Inception)", 2, False, of_run=_of_generators(INCEPTION_FRECHET)),
        Measure("frechet_sam", "Fréchet distance (SAM features)", 3, False, of_run=_of_generators(FRECHET)),
        Measure("fld", "FLD (SAM features)", 2, False, of_run=_of_generators(FLD)),
        Measure("membership_auc", "Membership AUC", 3, False, of_run=_of_generators(AUC)),
    )
}
"""By name. Times are wall seconds of the engine's stages, sites one after the other where they share a process."""
