"""A round of training without labels at a site: of the model that all sites share, or of a model of the site's own."""

from __future__ import annotations

from time import monotonic

import numpy as np
from torch import nn

from engine.data.imagesets import ImageSet
from engine.data.public_arrays import unpack_public
from engine.federation.tasks import BEST_ROUND, SiteReply, SiteRequest
from engine.models.arrays import model_arrays
from engine.site.coded import read_model, write_model
from engine.site.context import SiteContext
from engine.site.kept_arrays import PUBLIC, TEACHER_LOGITS, kept_arrays
from engine.site.own_parameters import keep_own, own_files, receive
from engine.site.privacy import protected
from engine.site.public_fusion import fuse, predict_public, warm_up
from engine.site.tasks.public import LOGITS
from engine.site.tasks.student import check_optimiser, validation_figures
from engine.site.unlabelled_training import UnlabelledTraining


def train(site: SiteContext, request: SiteRequest) -> SiteReply:
    """Validate what was sent, train it on the site's unlabelled images, and reply with what crosses and n_k.

    Figures, and what stays at the site, as of ``student.train``.
    """
    started = monotonic()
    told = check_optimiser(site, before_round=request.round)
    sent = read_model(site, request)
    model = receive(site, sent, before_round=request.round)
    received = validation_figures(site)
    loss = _train_locally(site, model, public=_public(site), round_number=request.round)
    best_round = request.settings.get(BEST_ROUND)
    keep_own(site, model, round_number=request.round, best_round=None if best_round is None else int(best_round))
    shared = site.models.sharing("student").of(model_arrays(model))
    shared, spent = protected(site, shared, received=sent, round_number=request.round)
    arrays = write_model(site, shared, received=sent, round_number=request.round)
    metrics = {"loss": loss, **received, **spent, "wall_s": monotonic() - started}
    return SiteReply(arrays, metrics, len(site.data.train), told)


def train_fused(site: SiteContext, request: SiteRequest) -> SiteReply:
    """Let the site's own model learn from the server's predictions on the public set, then from the site's images.

    What comes is ``logits`` (N, K, h, w) float16 of the server's model on the plain public images, and what goes back
    are those of the site's, on the same grid; no weight crosses. Before its first round the site's model, random until
    then, learns the public set alone for ``samfed.warmup_epochs``. Figures as of ``student.train``, but validation is
    of the model at the end of the site's last round.
    """
    started = monotonic()
    told = check_optimiser(site, before_round=request.round)
    model, public = receive(site, {}, before_round=request.round), _public(site)
    received = validation_figures(site)
    if not own_files(site).newest(before=request.round):
        warm_up(site, model, public)
    fuse(site, model, public, server=request.arrays[LOGITS], round_number=request.round)
    loss = _train_locally(site, model, public=public, round_number=request.round)
    keep_own(site, model, round_number=request.round, best_round=None)
    arrays = {LOGITS: predict_public(site, model, public, grid_px=request.arrays[LOGITS].shape[-1])}
    metrics = {"loss": loss, **received, "wall_s": monotonic() - started}
    return SiteReply(arrays, metrics, len(site.data.train), told)


def _train_locally(site: SiteContext, model: nn.Module, *, public: ImageSet, round_number: int) -> float:
    teacher: np.ndarray | None = None
    if site.config.samfed.uses_teacher:
        teacher = kept_arrays(site.state.folder, TEACHER_LOGITS, site=site.site)[LOGITS]
    training = UnlabelledTraining(
        images=site.data.train,
        public=public,
        teacher=teacher,
        config=site.config,
        site=site.site,
        round_number=round_number,
        placement=site.models.placement,
        check_cancelled=site.listener.check_cancelled,
        on_step=site.listener.progress,
    )
    return training.run(model, state_dir=site.state.folder)


def _public(site: SiteContext) -> ImageSet:
    arrays = kept_arrays(site.state.folder, PUBLIC, site=site.site)
    return unpack_public(arrays, config=site.config.data, num_classes=len(site.data.classes))
