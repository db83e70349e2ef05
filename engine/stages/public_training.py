"""Stages: what the server learns from its public labelled set, a student to begin with and SAM as a teacher."""

from __future__ import annotations

from torch import nn

from engine.distillation.supervised import SupervisedTraining
from engine.stages.context import RunContext
from engine.stages.public_set import public_set
from engine.stages.supervised_epochs import run_epochs

PUBLIC_STUDENT, ADAPTED_TEACHER = "public_student", "adapted_teacher"


class PublicTraining:
    """The student by L_sup on the public set alone (SAM-Fed's M_G before the first round; our specification)."""

    name = "public_training"

    def run(self, context: RunContext) -> None:
        """Train for ``public.epochs`` and save ``public_student``."""
        model = context.new_model("student")
        _train(context, model, stage=self.name, epochs=context.config.public.epochs)
        context.save_model(model, PUBLIC_STUDENT)


class TeacherAdaptation:
    """SAM by L_sup on the public set, its LoRA and its decoder alone where ``teacher.lora_rank`` is set (M_T)."""

    name = "teacher_adaptation"

    def run(self, context: RunContext) -> None:
        """Train for ``public.teacher_epochs`` and save ``adapted_teacher``."""
        model = context.new_model("teacher")
        _train(context, model, stage=self.name, epochs=context.config.public.teacher_epochs)
        context.save_model(model, ADAPTED_TEACHER)


def _train(context: RunContext, model: nn.Module, *, stage: str, epochs: int) -> None:
    config = context.config.public
    training = SupervisedTraining(
        model,
        pool=public_set(context).images,
        config=context.config,
        stage=stage,
        epochs=epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        grid_px=context.config.data.image_px // model.mask_stride,
        device=context.device,
    )
    run_epochs(context, training)
