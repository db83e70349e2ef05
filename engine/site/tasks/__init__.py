"""What a site can be asked, by name. Importing this brings in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from engine.federation import tasks
from engine.federation.tasks import SiteReply, SiteRequest
from engine.site.context import SiteContext
from engine.site.tasks import describe, evaluate, generator, masks, own, student

Task = Callable[[SiteContext, SiteRequest], SiteReply]

TASKS: Mapping[str, Task] = {
    tasks.DESCRIBE: describe.describe,
    tasks.TRAIN_STUDENT: student.train,
    tasks.VALIDATE_STUDENT: student.validate,
    tasks.MEASURE_STATISTICS: student.statistics,
    tasks.SHARE_NORMALISATION: own.normalisation,
    tasks.SHARE_OWN: own.everything,
    tasks.TRAIN_GENERATOR: generator.train,
    tasks.SHARE_MASKS: masks.share,
    tasks.EVALUATE: evaluate.evaluate,
}
