"""What a site can be asked, by name. Importing this brings in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from engine.federation import tasks
from engine.federation.tasks import SiteReply, SiteRequest
from engine.site.context import SiteContext
from engine.site.tasks import appearance, describe, evaluate, generator, masks, own, public, student, unlabelled

Task = Callable[[SiteContext, SiteRequest], SiteReply]

TASKS: Mapping[str, Task] = {
    tasks.DESCRIBE: describe.describe,
    tasks.TRAIN_STUDENT: student.train,
    tasks.VALIDATE_STUDENT: student.validate,
    tasks.MEASURE_STATISTICS: student.statistics,
    tasks.SHARE_NORMALISATION: own.normalisation,
    tasks.SHARE_OWN: own.everything,
    tasks.TAKE_PUBLIC: public.take,
    tasks.LABEL_BY_TEACHER: public.label,
    tasks.TRAIN_UNLABELLED: unlabelled.train,
    tasks.TRAIN_FUSED: unlabelled.train_fused,
    tasks.TRAIN_GENERATOR: generator.train,
    tasks.SHARE_MASKS: masks.share,
    tasks.EVALUATE: evaluate.evaluate,
    tasks.TELL_APPEARANCE: appearance.appearance,
}
