"""The distilled student goes down to the sites, which deploy it; its BatchNorm statistics may come from them first."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from torch import nn

from engine.federation.checks import check_reply
from engine.federation.statistics import combine_statistics
from engine.federation.tasks import MEASURE_STATISTICS, VALIDATE_STUDENT, SiteReply
from engine.models.arrays import load_arrays, model_arrays
from engine.models.batch_norm import statistic_names
from engine.stages.context import RunContext

SENT, SETTLED = 1, 2
"""Rounds of the messages: the student as it was distilled, and with the statistics that all sites gave together."""


def deliver_student(context: RunContext, student: nn.Module) -> None:
    """Send ``student`` to every source site, and give it the sites' BatchNorm statistics where that is asked for.

    Then it is sent again, whole: a site keeps nothing from one message to the next. Each site says what Dice the
    student has on its validation images. The bytes are counted as ``distilled``, what comes up as ``statistics``. Asked
    again after an interruption, the sites give the same answers.
    """
    ask = partial(context.sites.ask, kind="distilled", reply_kind="statistics")
    arrays = model_arrays(student)
    if context.config.distillation.batch_norm_statistics == "sites":
        replies = ask(MEASURE_STATISTICS, arrays=arrays, round_number=SENT)
        for site, reply in replies.items():
            check_reply(
                reply,
                site=site,
                round_number=SENT,
                sent={name: arrays[name] for name in statistic_names(student)},
                num_examples=context.description.num_train,
            )
        _tell(context, replies, what="with the statistics of synthetic images")
        arrays |= combine_statistics(replies)
        load_arrays(student, arrays)
        _tell(context, ask(VALIDATE_STUDENT, arrays=arrays, round_number=SETTLED), what="with those of the sites")
    else:
        what = "as it was distilled" if context.config.distillation.gate == "off" else "that the gate has kept"
        _tell(context, ask(VALIDATE_STUDENT, arrays=arrays, round_number=SENT), what=what)


def _tell(context: RunContext, replies: Mapping[str, SiteReply], *, what: str) -> None:
    scored = [reply.metrics for reply in replies.values() if "val_dice" in reply.metrics]
    if scored:
        dice = np.average([m["val_dice"] for m in scored], weights=[m["val_images"] for m in scored])
        context.reporter.log("info", f"The student {what} has Dice {dice:.3f} on the sites' validation images.")
