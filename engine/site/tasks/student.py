"""The student at a site: a round of training, validation alone, and BatchNorm statistics of the training images."""

from __future__ import annotations

import math
from time import monotonic
from typing import Any

from engine.federation.tasks import BEST_ROUND, ROLE, SiteReply, SiteRequest
from engine.models.arrays import model_arrays
from engine.models.experts import bypassed_experts
from engine.models.roles import Role
from engine.site.coded import read_model, write_model
from engine.site.context import SiteContext
from engine.site.expert_training import train_experts
from engine.site.kept_state import check_kept
from engine.site.local_training import OnStep, evaluate_site, train_site
from engine.site.optimiser_files import newest_state
from engine.site.own_parameters import keep_own, receive
from engine.site.privacy import protected
from engine.site.statistics import measure_statistics


def train(site: SiteContext, request: SiteRequest) -> SiteReply:
    """Validate what was sent with the site's own part of the model, train on it, and reply with what crosses and n_k.

    The site's own part is kept before the reply goes; the setting ``best_round`` names one whose part stays, too. Where
    the run has experts, they are bypassed while what is shared learns, and learn after it, by themselves (pFedSAM).

    Its metrics are ``loss`` (mean L_sup while training), ``val_dice`` and ``val_loss`` (the received average on the
    site's ``val_images`` validation images, before it trains; absent without any), ``wall_s`` and, with experts that
    learn, ``personal_loss`` (the mean of what they minimise).
    """
    started = monotonic()
    told = check_optimiser(site, before_round=request.round)
    sent = read_model(site, request)
    model = receive(site, sent, before_round=request.round)
    received = validation_figures(site)
    how: dict[str, Any] = {
        "objective": site.objective, "seed": site.config.seed, "site": site.site, "round_number": request.round,
        "state_dir": site.state.folder, "placement": site.models.placement,
        "check_cancelled": site.listener.check_cancelled,
    }  # fmt: skip
    shared_epochs, own_epochs = site.config.federation.local_epochs, _own_epochs(site)
    with bypassed_experts(model):
        on_step = _progress(site, before=0, of=shared_epochs + own_epochs)
        loss = train_site(model, site.data.train, config=site.config.federation, on_step=on_step, **how)
    own = {}
    if own_epochs:
        on_step = _progress(site, before=shared_epochs, of=shared_epochs + own_epochs)
        own["personal_loss"] = train_experts(model, site.data.train, config=site.config, on_step=on_step, **how)
    best_round = request.settings.get(BEST_ROUND)
    keep_own(site, model, round_number=request.round, best_round=None if best_round is None else int(best_round))
    shared = site.models.sharing("student").of(model_arrays(model))
    shared, spent = protected(site, shared, received=sent, round_number=request.round)
    arrays = write_model(site, shared, received=sent, round_number=request.round)
    metrics = {"loss": loss, **own, **received, **spent, "wall_s": monotonic() - started}
    return SiteReply(arrays, metrics, len(site.data.train), told)


def check_optimiser(site: SiteContext, *, before_round: int) -> dict[str, str]:
    """Return texts for the reply of a round; ``federation.site_state_lost`` where the optimiser's state is gone."""
    newest = newest_state(site.state.folder, before=before_round)
    return check_kept(site.state, newest, site=site.site, before_round=before_round)


def validate(site: SiteContext, request: SiteRequest) -> SiteReply:
    """Validate what was sent, what it lacks being the site's own part after that round; only figures go back.

    It is a student unless the setting ``role`` says ``teacher``. The reply's examples are the validation images (1
    without any).
    """
    started = monotonic()
    role: Role = "teacher" if request.settings.get(ROLE) == "teacher" else "student"
    receive(site, request.arrays, before_round=request.round + 1, role=role)
    metrics = {**validation_figures(site, role=role), "wall_s": monotonic() - started}
    return SiteReply({}, metrics, max(1, len(site.data.validation)))


def statistics(site: SiteContext, request: SiteRequest) -> SiteReply:
    """Measure what was sent on the site's training images; the statistics go back with n_k, and its validation."""
    started = monotonic()
    model = receive(site, request.arrays, before_round=request.round + 1)
    received = validation_figures(site)
    arrays = measure_statistics(
        model,
        site.data.train,
        batch_size=site.config.federation.batch_size,
        seed=site.config.seed,
        site=site.site,
        placement=site.models.placement,
        check_cancelled=site.listener.check_cancelled,
    )
    return SiteReply(arrays, {**received, "wall_s": monotonic() - started}, len(site.data.train))


def _own_epochs(site: SiteContext) -> int:
    return site.config.experts.epochs if site.config.experts.use else 0


def _progress(site: SiteContext, *, before: int, of: int) -> OnStep:
    """Return what tells the steps of a part of the round, which comes after ``before`` of all ``of`` epochs."""
    in_epoch = math.ceil(len(site.data.train) / site.config.federation.batch_size)
    return lambda step, _total: site.listener.progress(before * in_epoch + step, of * in_epoch)


def validation_figures(site: SiteContext, *, role: Role = "student") -> dict[str, float]:
    """Return Dice and L_sup of the model as it is now on the site's validation images; nothing without any."""
    score = evaluate_site(
        site.models.of(role),
        site.data.validation,
        batch_size=site.config.federation.batch_size,
        objective=site.objective,
        placement=site.models.placement,
        check_cancelled=site.listener.check_cancelled,
    )
    if score is None:
        return {}
    return {"val_dice": score.dice, "val_loss": score.loss, "val_images": float(len(site.data.validation))}
