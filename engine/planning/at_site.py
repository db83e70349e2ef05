"""What a run would ask of one site, worked out at the site: from the run's settings and the site's own images alone.

Nothing of it is taken from the server's word. Torch-free.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.config import RunConfig, parse_config
from engine.errors import UserError
from engine.federation.descriptions import DatasetAgreement, SiteDescription
from engine.methods import catalogue
from engine.planning.calibration import calibration
from engine.planning.machine import choose_device
from engine.planning.privacy import NOISED_KINDS, privacy_plan
from engine.planning.records import SitePlan
from engine.planning.stage_costs import stage_costs
from engine.planning.workload import Workload

OTHERS = SiteDescription("others", "source", 1, 0, 0)
"""Stands for the sites that train where a run asks a site for its test images: what they send is not this site's."""


@dataclass(frozen=True)
class SiteShare:
    """What one site would do and send in a whole run; what takes a few KB only is left out (figures, appearance)."""

    up_bytes: Mapping[str, int]
    """By kind, what leaves."""
    down_bytes: int
    train_minutes: float
    """Of training at the site, on its own machine, as the plan estimates it."""
    epsilon: Mapping[str, float] = field(default_factory=dict)
    """By kind of what leaves noised: what is spent at most of the site's privacy, by a generator of each patient's."""

    def as_json(self) -> dict[str, Any]:
        """Return it as nested JSON values."""
        told = {"up_bytes": dict(self.up_bytes), "down_bytes": self.down_bytes, "train_minutes": self.train_minutes}
        return {**told, "epsilon": dict(self.epsilon)}


def share_of(settings: str, *, dataset: str, description: str, home: Path) -> SiteShare | None:
    """Return what a run with ``settings`` (JSON, as a server has sent it) asks of a site; None where they say nothing.

    ``dataset`` and ``description`` are the site's own words of its data, as its program has told the server. ``home``
    keeps the measurement of the machine.
    """
    try:
        about = DatasetAgreement.from_site(dataset)
        told = json.loads(description)
        site = SiteDescription.from_site(description, name=told["name"], role=told["role"])
        values = json.loads(settings)
        values["data"]["root"] = str(home)  # there has to be one; nothing is read
        config = parse_config(values)
        device, _ = choose_device(config.device)
    except (UserError, ValueError, KeyError, TypeError):
        return None  # settings that cannot run here are told as such when they are asked for
    return _share(config, about, site, device=device, home=home)


def _share(config: RunConfig, about: DatasetAgreement, site: SiteDescription, *, device: str, home: Path) -> SiteShare:
    sources = (site,) if site.role == "source" else (replace(OTHERS, name=_other_than(site.name)),)
    plans = [SitePlan(source.name, "source", source.num_train, source.num_validation, 0) for source in sources]
    plans.append(SitePlan(site.name if site.role == "test" else _other_than(site.name), "test", 0, 0, site.num_test))
    speed = calibration(home).speed(device, threads=config.threads, precision=config.precision)
    names = catalogue.method(config.method).stage_names
    work = Workload(config, tuple(plans), speed, num_classes=len(about.classes), cache_gib=0.0)
    costs = stage_costs(work, names)
    up: dict[str, int] = {}
    down, seconds = 0, 0.0
    for stage in catalogue.stages(names):
        for (direction, kind), payload in costs[stage.name].site_bytes.get(site.name, {}).items():
            if direction == "up":
                up[kind] = up.get(kind, 0) + payload
            else:
                down += payload
        if site.role == "source" and stage.trains_at_sites:
            seconds += costs[stage.name].seconds
    private = privacy_plan(config, names, sources=plans[:1]) if site.role == "source" else ()
    epsilon = {NOISED_KINDS[one.unit]: one.epsilon for one in private}
    return SiteShare(up, down, round(seconds / 60, 1), epsilon)


def _other_than(name: str) -> str:
    return OTHERS.name if name != OTHERS.name else f"{OTHERS.name}-2"
