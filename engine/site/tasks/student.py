"""The student at a site: a round of training, validation alone, and BatchNorm statistics of the training images."""

from __future__ import annotations

from time import monotonic

from engine.federation.tasks import BEST_ROUND, SiteReply, SiteRequest
from engine.models.arrays import model_arrays
from engine.site.context import SiteContext
from engine.site.local_training import evaluate_site, train_site
from engine.site.own_parameters import keep_own, receive
from engine.site.statistics import measure_statistics


def train(site: SiteContext, request: SiteRequest) -> SiteReply:
    """Validate what was sent with the site's own part of the model, train on it, and reply with what crosses and n_k.

    The site's own part is kept before the reply goes; the setting ``best_round`` names one whose part stays, too.
    Its metrics are ``loss`` (mean L_sup while training), ``val_dice`` and ``val_loss`` (the received average on the
    site's ``val_images`` validation images, before it trains; absent without any) and ``wall_s``.
    """
    started = monotonic()
    model = receive(site, request.arrays, before_round=request.round)
    received = validation_figures(site)
    loss = train_site(
        model,
        site.data.train,
        config=site.config.federation,
        objective=site.objective,
        seed=site.config.seed,
        site=site.site,
        round_number=request.round,
        state_dir=site.state.folder,
        placement=site.models.placement,
        check_cancelled=site.listener.check_cancelled,
        on_step=site.listener.progress,
    )
    best_round = request.settings.get(BEST_ROUND)
    keep_own(site, model, round_number=request.round, best_round=None if best_round is None else int(best_round))
    metrics = {"loss": loss, **received, "wall_s": monotonic() - started}
    return SiteReply(site.models.sharing("student").of(model_arrays(model)), metrics, len(site.data.train))


def validate(site: SiteContext, request: SiteRequest) -> SiteReply:
    """Validate what was sent, what it lacks being the site's own part after that round; only figures go back.

    Its examples are the validation images (1 without any).
    """
    started = monotonic()
    receive(site, request.arrays, before_round=request.round + 1)
    metrics = {**validation_figures(site), "wall_s": monotonic() - started}
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


def validation_figures(site: SiteContext) -> dict[str, float]:
    """Return Dice and L_sup of the student as it is now on the site's validation images; nothing without any."""
    score = evaluate_site(
        site.models.of("student"),
        site.data.validation,
        batch_size=site.config.federation.batch_size,
        objective=site.objective,
        placement=site.models.placement,
        check_cancelled=site.listener.check_cancelled,
    )
    if score is None:
        return {}
    return {"val_dice": score.dice, "val_loss": score.loss, "val_images": float(len(site.data.validation))}
