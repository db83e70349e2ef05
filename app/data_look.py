"""One look at the images of a new run: in a thread, told in steps, and over when nobody asks any more. Torch-free.

A folder is looked at for who may start a run on it; its pictures go to nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from app import data_text, dataset_uploads, demo, server_paths
from app.access import Visitor
from app.watched import watched
from engine.config import RunConfig, parse_config
from engine.data.budget import at_most
from engine.data.survey import Kind, Parts, SiteSurvey, Step, Survey, survey
from engine.errors import UserError

if TYPE_CHECKING:
    from app.studio import Studio
    from engine.federation.descriptions import FederationDescription

LOOK_S = 60.0
"""For decoding images; what comes later a run reads (ours)."""
FILE_BYTES = 2 * 2**30
"""Memory that reading one file may take: half of what a run gives it, for the page serves others meanwhile (ours)."""
ASKING = Step(0, 0)


def allowed(studio: Studio, values: dict[str, Any], *, by: Visitor) -> RunConfig:
    """Return the configuration whose images ``by`` may look at, or raise ``UserError``.

    ``values`` are the nested values of the form's data section and of what says where the sites are.
    """
    studio.permissions.check_role(by)
    data = values.get("data", {})
    if data.get("source") == "folder" and not data.get("root") and values.get("backend") != "superlink":
        what, why, fix = data_text.ROOT_WHAT, data_text.ROOT_WHY, data_text.ROOT_FIX
        raise UserError("app.no_folder", what=what, why=why, fix=fix)
    config = parse_config(values)
    if studio.mode != "local":
        server_paths.check(config, roots=dataset_uploads.roots(studio.settings))
    is_drawn = config.data.source == "phantom" and config.data.protocol == "leave-one-site-out"
    if by.role != "operator" and not (is_drawn and config.backend == "local"):
        what, why, fix = data_text.PHANTOMS_ONLY_WHAT, data_text.PHANTOMS_ONLY_WHY, data_text.PHANTOMS_ONLY_FIX
        raise UserError("app.phantoms_only", what=what, why=why, fix=fix)
    if by.role == "demo":
        demo.check_data(config)  # a look at more is as long as others' wait
    return config


def steps(config: RunConfig) -> Iterator[Step | Survey]:
    """Yield how far the look is, then what was found. Left in between, it is over."""
    with closing(watched(partial(_look, config), first=ASKING, name="look-at-data")) as look:
        for step, found in look:
            yield step if found is None else found


def described(told: FederationDescription) -> Survey:
    """Return what sites elsewhere have told of their images as what a look gives."""
    sites = tuple(_told_site(site.name, site.num_train, site.num_validation, 0) for site in told.sources)
    tests = tuple(_told_site(site.name, 0, 0, site.num_test) for site in told.tests)
    shown = (*sites, *tests)
    kind: Kind = "described"
    return Survey(told.name, told.classes, (), shown, None, 0, sum(site.num_images for site in shown), kind)


def _told_site(name: str, *parts: int) -> SiteSurvey:
    cut: Parts = (parts[0], parts[1], parts[2])
    return SiteSurvey(name, "test" if cut[2] else "source", sum(cut), None, cut)


def _look(config: RunConfig, on_step: Callable[[Step], None]) -> Survey:
    if config.backend == "superlink":
        from engine.planning.dataset import told_by_sites

        return described(told_by_sites(config))
    with at_most(FILE_BYTES):
        return survey(config.data, seed=config.seed, on_step=on_step, most_s=LOOK_S)
