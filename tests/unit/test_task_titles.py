"""What a site is asked to do, in words: each task has a title, and each that is asked in every round tells it."""

from __future__ import annotations

import pytest

from engine.federation import tasks
from engine.federation.task_titles import QUERIES_FROM, TITLES, round_told
from engine.site.tasks import TASKS


def test_every_task_of_a_site_has_a_title() -> None:
    assert TASKS.keys() <= TITLES.keys()


@pytest.mark.parametrize("task", [tasks.TRAIN_STUDENT, tasks.TRAIN_UNLABELLED, tasks.TRAIN_FUSED])
def test_training_tells_its_round(task: str) -> None:
    assert [round_told(task, number) for number in (0, 1, 7, QUERIES_FROM)] == [None, 1, 7, None]
    assert round_told(tasks.DESCRIBE, 1) is None
