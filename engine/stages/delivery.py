"""The distilled student goes down to the sites, which deploy it; its BatchNorm statistics may come from them first."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from torch import nn

from engine.errors import UserError
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
    again after an interruption, the sites give the same answers. A site that fails is gone on without, where
    ``federation.on_failure`` says so.
    """
    lacking: set[str] = set()
    ask = partial(
        context.sites.ask, kind="distilled", reply_kind="statistics", on_lack=partial(_without, context, lacking)
    )
    arrays = model_arrays(student)
    if context.config.distillation.batch_norm_statistics == "sites":
        expected = {name: arrays[name] for name in statistic_names(student)}

        def check(number: int, site: str, reply: SiteReply) -> None:
            counts = context.description.num_train
            check_reply(reply, site=site, round_number=number, sent=expected, num_examples=counts)

        replies = ask(MEASURE_STATISTICS, arrays=arrays, round_number=SENT, on_reply=check)
        if not replies:
            raise UserError(
                "delivery.no_statistics",
                what="No site has told the statistics of its images: every one that was asked has failed.",
                why="The student takes those of all sites together in place of the synthetic images'.",
                fix="Mend the named sites, then resume the run.",
            )
        _tell(context, replies, what="with the statistics of synthetic images")
        arrays |= combine_statistics(replies)
        load_arrays(student, arrays)
        rest = tuple(site for site in context.sites.names if site not in lacking)
        told = ask(VALIDATE_STUDENT, to=rest, arrays=arrays, round_number=SETTLED)
        _tell(context, told, what="with those of the sites")
    else:
        what = "as it was distilled" if context.config.distillation.gate == "off" else "that the gate has kept"
        _tell(context, ask(VALIDATE_STUDENT, arrays=arrays, round_number=SENT), what=what)


def _without(context: RunContext, lacking: set[str], site: str, error: UserError) -> None:
    lacking.add(site)
    context.reporter.log("warning", f"{site} is without the distilled student: the run goes on. {error.what}")


def _tell(context: RunContext, replies: Mapping[str, SiteReply], *, what: str) -> None:
    scored = [reply.metrics for reply in replies.values() if "val_dice" in reply.metrics]
    if scored:
        dice = np.average([m["val_dice"] for m in scored], weights=[m["val_images"] for m in scored])
        context.reporter.log("info", f"The student {what} has Dice {dice:.3f} on the sites' validation images.")
