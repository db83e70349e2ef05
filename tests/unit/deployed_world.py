"""Sites that stand alone, each with a folder of its own, asked over the real back end; no process and no network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from bench.reporting import ConsoleReporter
from engine.config import RunConfig
from engine.federation import connect
from engine.federation.backends import inprocess
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.backends.packing import pack, unpack
from engine.federation.backends.superlink import Link, Node, SuperlinkGrid
from engine.federation.payload import RUN_RECORD
from engine.federation.tasks import HOW_FAR
from engine.runs.checkpoint import CheckpointStore
from engine.site import node
from engine.site.consent import Consent
from engine.site.deployed import program
from engine.stages.context import RunContext
from engine.types import EvaluationRow, Traffic


class Nobody:
    """Listens to nothing."""

    def check_cancelled(self) -> None: ...
    def progress(self, step: int, total: int, *, message: str = "") -> None: ...
    def metric(self, name: str, value: float, *, step: int) -> None: ...


class Waiting:
    """A server that still waits for the answer."""

    def wanted(self, run_id: int) -> bool:
        return True

    def receive_meanwhile(self, message_type: str) -> None: ...


class Told(ConsoleReporter):
    """Keeps what a run records."""

    def __init__(self) -> None:
        super().__init__("test")
        self.rows: list[EvaluationRow] = []
        self.crossed: list[Traffic] = []
        self.lines: list[str] = []
        self.points: list[tuple[str, str | None, float, int]] = []

    def metric(self, name: str, value: float, *, step: int, site: str | None = None) -> None:
        self.points.append((name, site, value, step))

    def evaluation(self, rows: Sequence[EvaluationRow]) -> None:
        self.rows += rows

    def traffic(self, record: Traffic) -> None:
        self.crossed.append(record)

    def log(self, level: Any, text: str) -> None:
        self.lines.append(text)


class EveryMessage(InProcessGrid):
    """Keeps what a node was asked before and has not answered, as a SuperLink does; one process forgets it."""

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            before = dict(self._pending)
            ids += super().push_messages([message])
            self._pending = before | self._pending
        return ids


class StandingAlone:
    """The sites of ``root``, each with its own images alone in ``at/NAME``, and a program that can be started again."""

    def __init__(self, patch: pytest.MonkeyPatch, root: Path, at: Path, *, sites: Sequence[str]) -> None:
        self.root, self.at, self.sites = root, at, tuple(sites)
        self.programs: dict[str, Consent] = {}
        torch.set_num_threads(1)  # as every site does by its configuration: sums in another order have other bits
        for name in ("_run_id", "_node_id", "_task_id"):
            patch.setattr(TaskIdentity, name, 1)
        for site in self.sites:
            images = at / site / "images"
            images.mkdir(parents=True)
            shutil.copy(root / "dataset.toml", images)
            shutil.copytree(root / site, images / site)
            self.start(site)
        with (
            pytest.MonkeyPatch.context() as numbers
        ):  # a SuperLink draws its nodes' from 2^64: they are no other grid's
            numbers.setattr(inprocess, "_FIRST_SITE_NODE_ID", 5001)
            self._answers = EveryMessage(self._answer, sites=self.sites)  # type: ignore[arg-type]
        ids = dict(zip(self.sites, self._answers.get_node_ids(), strict=True))
        patch.setattr(SuperlinkGrid, "__enter__", lambda grid: grid)
        patch.setattr(SuperlinkGrid, "__exit__", lambda grid, *_: None)
        patch.setattr(SuperlinkGrid, "nodes", lambda grid: {s: Node(n, s, b"", True, 0.0) for s, n in ids.items()})
        patch.setattr(HttpGrid, "push_messages", lambda _, messages: self._answers.push_messages(messages))
        patch.setattr(HttpGrid, "pull_messages", lambda _, keys: self._answers.pull_messages(keys))
        patch.setattr("engine.federation.backends.superlink.Control", lambda link: None)
        keys = dict.fromkeys(self.sites, b"")
        link = Link("127.0.0.1:1", b"", b"secret")
        patch.setattr(connect, "_reached", lambda _: {"link": link, "keys": keys})

    def start(self, site: str) -> None:
        """Start a site's program anew: what it knows then is what lies in its folder."""
        folder = self.at / site
        (folder / "policy.toml").write_text('approval = "automatic"\n', encoding="utf-8")
        self.programs[site] = program(site, folder / "images", folder, lambda _: None)

    def context(self, config: RunConfig, run_dir: Path, *, hashed: str | None = None) -> tuple[RunContext, Told]:
        """Return what a stage is given, and what it will have told; ``hashed`` stands for the configuration's hash."""
        told = Told()
        run_dir.mkdir(parents=True, exist_ok=True)
        checkpoints = CheckpointStore(run_dir / "checkpoints", hashed or config.content_hash(), warn=told.lines.append)
        return RunContext(config=config, run_dir=run_dir, reporter=told, checkpoints=checkpoints), told

    def _answer(self, message: Message, context: Context) -> Message:
        site = str(context.node_config["site"])
        assert isinstance(message.content[RUN_RECORD], ConfigRecord)
        unpack(message.content)
        if message.metadata.message_type == HOW_FAR:
            return node._how_far(message, task="", round_number=0, step=0, total=0)
        listener = node._Listener(Waiting(), message=message, stop=Event(), say=lambda _: None)  # type: ignore[arg-type]
        answer = node._answer(message, self.programs[site], listener, site=site, attempt=1, say=lambda _: None)
        assert answer is not None
        if not answer.has_error():
            pack([answer])
        return answer


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    """Return what an evaluation has written."""
    return json.loads((run_dir / "evaluation" / "rows.json").read_text(encoding="utf-8"))
