"""What a site that joined has brought and taken: Dice before and after, minutes and bytes. Torch-free.

Dice is that of the deployed kind of model, the student: before and after on the same images, none of which trained
anything. Of a site that trains these are its validation images, of the unseen one all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.config import RunConfig, parse_config
from engine.errors import UserError
from engine.federation.descriptions import IDENTITY_FILE
from engine.methods import catalogue
from engine.runs.earlier import Earlier, read_earlier
from engine.runs.records import RunRecord
from engine.runs.store import RunStore
from engine.types import MEAN_CLASS, EvaluationRow

FEDSAM = "fedsam"
"""What a join is compared with, beside the run's own method: federated training of SAM, whole (Figure 6)."""
WHOSE_TIME_IS_ALIKE = 500
"""So many of the newest runs are looked through for one that has trained all sites (ours)."""


@dataclass(frozen=True)
class SiteDice:
    """The student's Dice on one site's images, in [0, 1], before and after the join."""

    site: str
    split: str
    """``validation`` or ``test``."""
    joined: bool
    num_images: int
    before: float
    after: float


@dataclass(frozen=True)
class Retraining:
    """What training all sites anew takes by a method; measured in the run ``run_id``, else planned."""

    method: str
    minutes: float | None
    payload_bytes: int | None
    run_id: str | None = None
    why: str = ""
    """Why there are no figures."""

    @classmethod
    def planned(cls, method: str, figures: Mapping[str, Any]) -> Retraining:
        """Return what was expected, see ``Earlier.retraining``."""
        why = figures.get("why", "" if "minutes" in figures else "it was not planned")
        return cls(method, figures.get("minutes"), figures.get("payload_bytes"), why=why)


@dataclass(frozen=True)
class JoinResults:
    """What a join has brought, as far as it is done, and what it has taken by now."""

    continued: str
    """The finished run."""
    sites: tuple[str, ...]
    dice: tuple[SiteDice, ...]
    minutes: float
    payload_bytes: int
    retraining: tuple[Retraining, ...]


def retrained_configs(config: RunConfig, *, method: str) -> dict[str, RunConfig]:
    """Return by method what it would be to train all sites of a join anew: by the run's own ``method``, and FedSAM."""
    values = {key: value for key, value in config.model_dump(mode="json").items() if key != "join"}
    return {name: parse_config(values | {"method": name}) for name in dict.fromkeys((method, FEDSAM))}


def join_results(store: RunStore, run_id: str) -> JoinResults | None:
    """Return what the join ``run_id`` has brought; None for a run that continues none."""
    record = store.get(run_id)
    method = catalogue.methods().get(record.method)
    if method is None or not method.continues:
        return None
    earlier, config = read_earlier(store.run_dir(run_id)), record.config
    return JoinResults(
        earlier.run_id,
        config.join.sites,
        _dice(store.evaluation(run_id), config.join.sites),
        *_taken(store, run_id),
        tuple(
            _retraining(store, name, wanted, earlier, joined=config.join.sites)
            for name, wanted in retrained_configs(config, method=earlier.method).items()
        ),
    )


def _dice(rows: tuple[EvaluationRow, ...], joined: tuple[str, ...]) -> tuple[SiteDice, ...]:
    found: dict[tuple[str, str], dict[str, EvaluationRow]] = {}
    for row in rows:
        if row.model in ("earlier_student", "joined_student"):
            known = found.setdefault((row.site, row.split), {}).get(row.model)
            if known is None or row.class_name == MEAN_CLASS:  # one class has no row of the mean
                found[row.site, row.split][row.model] = row
    pairs = {place: models for place, models in found.items() if len(models) == 2}
    places = sorted(pairs, key=lambda place: (place[0] not in joined, place[1] != "test", place[0]))
    return tuple(
        SiteDice(
            site,
            split,
            site in joined,
            pairs[site, split]["joined_student"].num_images,
            pairs[site, split]["earlier_student"].dice,
            pairs[site, split]["joined_student"].dice,
        )
        for site, split in places
    )


def _retraining(
    store: RunStore, method: str, wanted: RunConfig, earlier: Earlier, *, joined: tuple[str, ...]
) -> Retraining:
    sites = (tuple(sorted({*earlier.sources, *joined})), earlier.tests)
    for record in store.list(limit=WHOSE_TIME_IS_ALIKE):
        if record.method == method and record.status == "finished" and _is_of(store, record, wanted, sites):
            return Retraining(method, *_taken(store, record.run_id), record.run_id)
    return Retraining.planned(method, earlier.retraining.get(method, {}))


def _taken(store: RunStore, run_id: str) -> tuple[float, int]:
    """Return the minutes of work and the bytes over the sites' borders of a run."""
    minutes = sum(stage.wall_s for stage in store.stages(run_id)) / 60
    return minutes, sum(total.payload_bytes for total in store.traffic(run_id))


def _is_of(
    store: RunStore, record: RunRecord, wanted: RunConfig, sites: tuple[tuple[str, ...], tuple[str, ...]]
) -> bool:
    """Return whether a run has trained the same sites, and nobody else, with the same settings; any seed will do."""
    try:
        identity: Mapping[str, str] = json.loads((store.run_dir(record.run_id) / IDENTITY_FILE).read_text("utf-8"))
        config = record.config
    except (OSError, ValueError, UserError):  # a run that nobody can read any more: another may be found
        return False
    told = Earlier(record.run_id, record.name, record.method, (), "", identity)
    return (told.sources, told.tests) == sites and _settings(config) == _settings(wanted)


def _settings(config: RunConfig) -> dict[str, Any]:
    """Return what a run's time depends on: no seed, no name, and who takes part as the sites have told it."""
    values = config.model_dump(mode="json")
    read = {"precision", "device", "threads", *catalogue.method(config.method).sections}
    kept = {key: value for key, value in values.items() if key in read}
    kept["data"] = {key: value for key, value in kept["data"].items() if key not in ("sites", "held_out")}
    return kept
