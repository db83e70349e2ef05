"""Steps, images, seconds and bytes of the stages in which a site joins a finished run. Torch-free."""

from __future__ import annotations

from dataclasses import replace

from engine.planning import stage_costs
from engine.planning.workload import StageCost, Workload

READING_S = 0.005
"""Decoding one image, which happens once (ours; as in the other stages, phantoms take less)."""


def joining(work: Workload) -> StageCost:
    """Reading every image once, and taking over what the finished run has made."""
    images = sum(site.num_train + site.num_validation + site.num_test for site in work.sites)
    detail = f"{len(work.config.join.sites)} of {len(work.sources)} sites new"
    return StageCost(0, images, images * READING_S, work.base_gib(), detail)


def joined_generator_training(work: Workload) -> StageCost:
    """A generator at each new site."""
    return stage_costs.generator_training(_of_new_sites(work))


def joined_generation(work: Workload) -> StageCost:
    """An image for every mask that a new site shares."""
    return stage_costs.generation(_of_new_sites(work))


def _of_new_sites(work: Workload) -> Workload:
    new = [site for site in work.sites if site.role != "source" or site.site in work.config.join.sites]
    return replace(work, sites=tuple(new))
