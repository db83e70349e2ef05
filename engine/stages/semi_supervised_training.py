"""Stage: sites without labels learn from the public set, from SAM and from each other (SAM-Fed, our specification).

Students of one kind are averaged; with students of several kinds (``federation.site_students``) the sites exchange
predictions on the public set instead (``engine.stages.condensation``).
"""

from __future__ import annotations

from engine.federation.tasks import TRAIN_UNLABELLED
from engine.methods import catalogue
from engine.stages.condensation import CondensationRounds
from engine.stages.context import RunContext
from engine.stages.federated_training import FederatedRounds
from engine.stages.public_set import send_public, send_teacher
from engine.stages.public_training import ADAPTED_TEACHER, PUBLIC_STUDENT

MODELS = ("samfed_student", "samfed_personal_student")
"""Of all sites, and each site's own where sites keep parts of the student, or all of it."""


class SemiSupervisedTraining:
    """Sends the public set and the teacher once, then trains for ``federation.rounds``."""

    name = "semi_supervised_training"

    def run(self, context: RunContext) -> None:
        """Train and save ``samfed_student``, and ``samfed_personal_student`` where sites keep parts of their own."""
        config = context.config
        public = send_public(context)
        if config.samfed.uses_teacher:
            made = {model.name: model for model in catalogue.method(config.method).models}
            send_teacher(context, made[ADAPTED_TEACHER])
        model = context.load_model("student", PUBLIC_STUDENT)
        if config.federation.site_students is not None:
            CondensationRounds(context, stage=self.name, model=model, public=public, names=MODELS).run()
        else:
            FederatedRounds(context, stage=self.name, model=model, names=MODELS, task=TRAIN_UNLABELLED).run()
