"""The student's tasks at a site: ``train.student`` (a round), ``query.student`` (validation only), and
``query.statistics`` (BatchNorm statistics on the site's training images)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from torch import nn

from engine.config import FederationConfig
from engine.federation.local_training import (
    ImageSource,
    Objective,
    Placement,
    evaluate_site,
    train_site,
)
from engine.federation.statistics import measure_statistics
from engine.federation.tasks import Arrays, SiteReply, SiteRequest, SiteTask

TRAIN_TASK = "train.student"
EVALUATE_TASK = "query.student"
STATISTICS_TASK = "query.statistics"

OnSiteStep = Callable[[str, int, int, int], None]


def model_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """Return a copy of the whole state dict as numpy arrays: parameters, float buffers and integer counters."""
    return {name: np.array(tensor.detach().cpu().numpy()) for name, tensor in model.state_dict().items()}


def load_arrays(model: nn.Module, arrays: Arrays) -> None:
    """Give ``model`` the weights and buffers in ``arrays``, keeping its device and memory layout."""
    model.load_state_dict({name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()})


def buffer_names(model: nn.Module) -> frozenset[str]:
    """Return the names of the state dict's buffers, for ``aggregation.federated_average``."""
    return frozenset(model.state_dict()) - {name for name, _ in model.named_parameters()}


def make_student_tasks(
    build: Callable[[], nn.Module],
    *,
    train: Mapping[str, ImageSource],
    validation: Mapping[str, ImageSource],
    config: FederationConfig,
    objective: Objective,
    seed: int,
    state_root: Path,
    placement: Placement,
    check_cancelled: Callable[[], None],
    on_step: OnSiteStep | None = None,
) -> dict[str, SiteTask]:
    """Return the tasks for ``client_app.build_client_app``.

    Parameters
    ----------
    build : callable
        Makes the student with its architecture; called once a process, and not before the first message.
    train, validation : mapping
        Images by site; a SuperNode's process has its own site alone.
    state_root : Path
        Adam's states are kept under ``state_root/<site>``.
    on_step : callable
        (site, round, step, steps in the round) after every optimiser step.

    The reply of ``train.student`` has the whole state dict, n_k, and the metrics ``loss`` (mean L_sup while training),
    ``val_dice`` and ``val_loss`` (the received average on the site's ``val_images`` validation images, before it
    trains; absent without any) and ``wall_s``. ``query.student`` has no arrays; its metrics are those of validation
    and ``wall_s``, its examples the validation images (1 without any). ``query.statistics`` has the arrays of
    ``statistics.measure_statistics`` and n_k; like ``query.student`` it gives the Dice of what was sent.
    """
    student = _Student(
        model_once=cache(lambda: placement.place(build())),
        train=train,
        validation=validation,
        config=config,
        objective=objective,
        seed=seed,
        state_root=state_root,
        placement=placement,
        check_cancelled=check_cancelled,
        on_step=on_step,
    )
    return {TRAIN_TASK: student.train_round, EVALUATE_TASK: student.evaluate, STATISTICS_TASK: student.statistics}


@dataclass(frozen=True, kw_only=True)
class _Student:
    """The student at whichever sites this process serves: one model, given each request's weights in turn."""

    model_once: Callable[[], nn.Module]
    train: Mapping[str, ImageSource]
    validation: Mapping[str, ImageSource]
    config: FederationConfig
    objective: Objective
    seed: int
    state_root: Path
    placement: Placement
    check_cancelled: Callable[[], None]
    on_step: OnSiteStep | None

    def train_round(self, request: SiteRequest) -> SiteReply:
        """Validate what was sent, train on it, and reply with the whole state dict."""
        started = monotonic()
        site, model = request.site, self.model_once()
        load_arrays(model, request.arrays)
        received = self._validate(site)
        loss = train_site(
            model,
            self.train[site],
            config=self.config,
            objective=self.objective,
            seed=self.seed,
            site=site,
            round_number=request.round,
            state_dir=self.state_root / site,
            placement=self.placement,
            check_cancelled=self.check_cancelled,
            on_step=None if self.on_step is None else partial(self.on_step, site, request.round),
        )
        metrics = {"loss": loss, **received, "wall_s": monotonic() - started}
        return SiteReply(model_arrays(model), metrics, len(self.train[site]))

    def evaluate(self, request: SiteRequest) -> SiteReply:
        """Validate what was sent; nothing but figures goes back."""
        started = monotonic()
        load_arrays(self.model_once(), request.arrays)
        metrics = {**self._validate(request.site), "wall_s": monotonic() - started}
        return SiteReply({}, metrics, max(1, len(self.validation[request.site])))

    def statistics(self, request: SiteRequest) -> SiteReply:
        """Measure what was sent on the site's training images; the statistics go back, and its validation."""
        started = monotonic()
        site, model = request.site, self.model_once()
        load_arrays(model, request.arrays)
        received = self._validate(site)
        arrays = measure_statistics(
            model,
            self.train[site],
            batch_size=self.config.batch_size,
            seed=self.seed,
            site=site,
            placement=self.placement,
            check_cancelled=self.check_cancelled,
        )
        return SiteReply(arrays, {**received, "wall_s": monotonic() - started}, len(self.train[site]))

    def _validate(self, site: str) -> dict[str, float]:
        score = evaluate_site(
            self.model_once(),
            self.validation[site],
            batch_size=self.config.batch_size,
            objective=self.objective,
            placement=self.placement,
            check_cancelled=self.check_cancelled,
        )
        if score is None:
            return {}
        return {"val_dice": score.dice, "val_loss": score.loss, "val_images": float(len(self.validation[site]))}
