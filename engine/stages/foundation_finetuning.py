"""Stage: SAM learns the task from the synthetic set at the server (Eq. 5)."""

from __future__ import annotations

from collections.abc import Callable

from engine.distillation.mutual import Pool
from engine.distillation.supervised import SupervisedTraining
from engine.stages.context import RunContext
from engine.stages.supervised_epochs import run_epochs
from engine.stages.synthetic_set import keep_features, load_pool


class FoundationFinetuning:
    """Eq. 5: minimise L_sup(f_SAM(x~), m) over the synthetic set."""

    name = "foundation_finetuning"

    def __init__(self, *, pool: Callable[[RunContext], Pool] = load_pool) -> None:
        self._load_pool = pool

    def run(self, context: RunContext) -> None:
        """Train for ``foundation.epochs`` and save the model as ``finetuned_teacher``."""
        config = context.config.foundation
        teacher = context.new_model("teacher")
        if config.freeze_encoder:
            teacher.image_encoder.requires_grad_(False)
        pool = self._load_pool(context)
        training = SupervisedTraining(
            teacher,
            pool=pool,
            config=context.config,
            stage=self.name,
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            grid_px=context.grid_px,
            device=context.device,
            features=keep_features(context, teacher, pool=pool, batch_size=config.batch_size),
        )
        run_epochs(context, training)
        context.save_model(teacher, "finetuned_teacher")
