"""The epochs of one model's supervised training at the server, saved on the way and gone on with."""

from __future__ import annotations

from engine.distillation.supervised import SupervisedTraining
from engine.runs.pace import Pace
from engine.stages.context import RunContext


def run_epochs(context: RunContext, training: SupervisedTraining) -> None:
    """Train for the epochs that are missing after the stage's checkpoint; their mean losses are a curve."""
    state = context.checkpoints.load(training.stage)
    if state is not None:
        training.load_state_dict(state)
    steps_per_epoch = len(training.batches())
    pace = Pace(
        context.reporter,
        checkpoints=context.checkpoints,
        name=training.stage,
        total=steps_per_epoch * training.epochs,
        state=training.state_dict,
    )
    while training.epoch < training.epochs:
        for indices in training.batches()[training.step :]:
            training.train_step(indices)
            done = training.epoch * steps_per_epoch + training.step
            pace.step(done, message=f"epoch {training.epoch + 1} of {training.epochs}")
        mean_loss = training.end_epoch()
        context.reporter.metric("loss", mean_loss, step=training.epoch)
    pace.save()
