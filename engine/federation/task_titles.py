"""What the tasks of a site are called for people. Torch-free."""

from __future__ import annotations

from engine.federation import tasks

TITLES = {
    tasks.TRAIN_STUDENT: "training the student",
    tasks.VALIDATE_STUDENT: "validating a model",
    tasks.MEASURE_STATISTICS: "measuring statistics",
    tasks.SHARE_NORMALISATION: "sharing its normalisation",
    tasks.SHARE_OWN: "sharing its own part of the model",
    tasks.TRAIN_GENERATOR: "training its generator",
    tasks.SHARE_MASKS: "sharing masks",
    tasks.TAKE_PUBLIC: "taking the public set",
    tasks.LABEL_BY_TEACHER: "labelling its images with SAM",
    tasks.TRAIN_UNLABELLED: "training without labels",
    tasks.TRAIN_FUSED: "training without labels, its own model",
    tasks.EVALUATE: "measuring models",
    tasks.TELL_APPEARANCE: "measuring what its images look like",
    tasks.DESCRIBE: "describing its images",
    tasks.APPROVAL: "deciding whether it takes part",
    tasks.HOW_FAR: "saying how far it is",
    tasks.READ_EVERYTHING: "reading its images",
}

IN_ROUNDS = {tasks.TRAIN_STUDENT, tasks.VALIDATE_STUDENT, tasks.TRAIN_UNLABELLED, tasks.TRAIN_FUSED}
"""What is asked again in every round; other questions have numbers, which say nothing to people."""
QUERIES_FROM, HOW_FAR_FROM = 1_000_000, 2_000_000
"""Numbers from here on are questions beside the rounds (``engine.federation.sites``), and how far sites are."""


def round_told(task: str, number: int) -> int | None:
    """Return the round in which a site was asked, None where the number is none of a round."""
    return number if task in IN_ROUNDS and 0 < number < QUERIES_FROM else None


def task_title(task: str) -> str:
    """Return what a site does in words; a task of another version is called by its name."""
    return TITLES.get(task, task)
