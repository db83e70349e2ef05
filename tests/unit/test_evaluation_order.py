"""Sites that measure side by side: whichever answers first, results are in one order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.reporting import ConsoleReporter
from engine.config import RunConfig
from engine.errors import UserError
from engine.evaluation.figures import MEASURES, pack_figures
from engine.federation.descriptions import FederationDescription, SiteDescription
from engine.federation.tasks import SiteReply
from engine.methods.catalogue import ModelSpec
from engine.runs.checkpoint import CheckpointStore
from engine.stages import evaluation
from engine.stages.evaluation import Evaluation
from engine.stages.files import read_json
from engine.types import EvaluationRow

MODELS = tuple(ModelSpec(name, name, role="student", architecture="student") for name in ("first", "second"))
SOURCES = ("east", "north", "west")
DICE = {"east": 0.25, "north": 0.5, "west": 0.75, "unseen": 1.0}


class Reporter(ConsoleReporter):
    def __init__(self) -> None:
        super().__init__("test")
        self.rows: list[EvaluationRow] = []

    def evaluation(self, rows: Sequence[EvaluationRow]) -> None:
        self.rows += rows


class World:
    """Sites that answer in an order of their own; after ``answers`` of them the run is ended."""

    def __init__(self, folder: Path, *, backwards: bool, answers: int = 99) -> None:
        self.reporter, self.backwards, self.answers = Reporter(), backwards, answers
        self.asked: list[tuple[str, str, tuple[str, ...]]] = []
        self.figures: dict[str, dict[str, float]] = {}
        sources = tuple(SiteDescription(name, "source", 4, 2, 0) for name in SOURCES)
        unseen = SiteDescription("unseen", "test", 0, 0, 2)
        self.context: Any = SimpleNamespace(
            config=RunConfig(),
            run_dir=folder,
            models=MODELS,
            description=FederationDescription("x", "none", "none", ("disc",), sources, (unseen,), "unseen"),
            checkpoints=CheckpointStore(folder / "checkpoints", "hash", warn=print),
            reporter=self.reporter,
            sites=SimpleNamespace(ask=self.ask),
        )

    def ask(self, task: str, *, to: Sequence[str], settings: dict[str, Any], on_reply: Any, **_: Any) -> None:
        self.asked.append((settings["model"], settings["split"], tuple(to)))
        for site in sorted(to, reverse=self.backwards):
            if not self.answers:
                raise KeyboardInterrupt
            self.answers -= 1
            records = [self.record(settings["model"], site, index) for index in (0, 1)]
            assert (
                on_reply(
                    settings["model"], site, SiteReply(pack_figures(records), self.figures.get(site, {}), 2)
                ).arrays
                == {}
            )

    def record(self, model: str, site: str, index: int) -> dict[str, Any]:
        about = {"model": model, "site": site, "name": str(index), "group": "", "class_name": "disc"}
        counts = {"missed": 0, "spurious": 0, "predicted_px": 3, "true_px": 4}
        return {**about, **dict.fromkeys(MEASURES, 0.5), **counts, "dice": DICE[site] - 0.125 * index}


@pytest.fixture(autouse=True)
def _sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "what_is_sent", lambda context, model: ({"w": np.zeros(1, np.float32)}, {}))


def test_sites_of_a_split_are_asked_at_once_and_results_are_in_one_order(tmp_path: Path) -> None:
    worlds = [World(tmp_path / str(backwards), backwards=backwards) for backwards in (False, True)]
    for world in worlds:
        Evaluation().run(world.context)
    assert worlds[0].asked == worlds[1].asked
    assert worlds[0].asked[:2] == [("first", "test", ("unseen",)), ("first", "validation", SOURCES)]
    assert len(worlds[0].asked) == 4
    assert worlds[0].reporter.rows == worlds[1].reporter.rows
    means = [(row.model, row.site, row.dice) for row in worlds[0].reporter.rows]
    expected = [(model.name, site, DICE[site] - 0.0625) for model in MODELS for site in ("unseen", *SOURCES)]
    assert means == expected
    files = [read_json(world.context.run_dir / evaluation.IMAGES_FILE) for world in worlds]
    assert files[0] == files[1]


def test_whoever_has_answered_before_a_stop_is_not_asked_again(tmp_path: Path) -> None:
    stopped = World(tmp_path, backwards=True, answers=2)
    with pytest.raises(KeyboardInterrupt):
        Evaluation().run(stopped.context)
    again = World(tmp_path, backwards=False)
    Evaluation().run(again.context)
    assert again.asked[0] == ("first", "validation", ("east", "north")), "unseen and west have answered"


LOOKED = {"whole": 0.5, "parts": 0.75, "fine": 1.0, "num_images": 2}


def test_looks_are_those_of_validation_images_and_of_no_unseen_site(tmp_path: Path) -> None:
    world = World(tmp_path / "told", backwards=False)
    world.figures = {"east": LOOKED, "north": LOOKED | {"whole": 1.0, "num_images": 1}}
    Evaluation().run(world.context)
    found = read_json(world.context.run_dir / evaluation.LOOKS_FILE)
    assert found["first"] == LOOKED | {"whole": round((2 * 0.5 + 1.0) / 3, 6), "num_images": 3}
    world = World(tmp_path / "unseen", backwards=False)
    world.figures = {"unseen": LOOKED}
    with pytest.raises(UserError, match="unseen") as raised:
        Evaluation().run(world.context)
    assert raised.value.code == "federation.bad_reply"
