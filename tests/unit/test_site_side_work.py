"""A site of its own trains its generator beside the rounds, says how far it is, and is asked again until it is done."""

from __future__ import annotations

import os
import signal
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from flwr.app import Message, RecordDict
from safetensors.numpy import load_file

from engine.config import RunConfig, load_config
from engine.data.phantoms import write_dataset
from engine.errors import UserError
from engine.federation.backends import asked_again
from engine.federation.backends.asked_again import FIRST_PAUSE_S, LONGEST_PAUSE_S, AskedAgain
from engine.federation.backends.participants import for_sites
from engine.federation.payload import reply_content, request_content, to_payload
from engine.federation.sites import QUERIES_FROM, Desk, Quiet, Server
from engine.federation.tasks import AT_WORK, BESIDE, STEP, TOTAL, TRAIN_GENERATOR, SiteReply, SiteRequest
from engine.site import side_work
from engine.site.deployed import DeployedSite
from engine.stages.federated_training import FederatedTraining
from engine.stages.generator_training import GeneratorTraining
from engine.types import Traffic
from engine.version import program_version
from tests.patience import WAIT_S
from tests.unit.deployed_world import Nobody, StandingAlone

SITES = ("portable_yellow", "scope_octagon", "tower_hd")
SITE, HELD_OUT = "tower_hd", "scope_octagon"


def config_of(root: Path | None, **more: object) -> RunConfig:
    where = {"data.root": str(root)} if root else {"backend": "superlink", "server": "/nowhere"}
    values: dict[str, object] = {
        "data.source": "folder", "data.image_px": 32, "data.sites": SITES, "data.held_out": HELD_OUT, "device": "cpu",
        "threads": 1, "student.weights": None, "federation.rounds": 2, "federation.patience": None,
        "generator.kind": "pix2pix", "generator.image_px": 32, "generator.steps": 20, "generator.batch_size": 1,
    }  # fmt: skip
    return load_config("phantom_cpu_smoke", overrides={**values, **where, **more})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset("polyp", tmp_path_factory.mktemp("images") / "all", images_per_site=4, image_px=32)


class Hears(Nobody):
    def __init__(self) -> None:
        self.points: list[tuple[str, float, int]] = []

    def metric(self, name: str, value: float, *, step: int) -> None:
        self.points.append((name, value, step))


class Site:
    """One site's program in ``folder``, asked about one run."""

    def __init__(self, root: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "images").symlink_to(root)
        self.program = DeployedSite(SITE, data=folder / "images", folder=folder, say=lambda _: None)
        config = for_sites(config_of(None), names=SITES, held_out=HELD_OUT)
        self.run = {"id": "run-1", "program": program_version(), "config": config}
        self.heard = Hears()

    def ask(self, **settings: Any) -> SiteReply:
        return self.program.answer(SiteRequest(SITE, TRAIN_GENERATOR, 0, settings), run=self.run, listener=self.heard)

    def wait_for(self, *, until_step: int = 10**9) -> SiteReply:
        """Ask again until the work is done, or has come to ``until_step``."""
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            reply = self.ask(**{BESIDE: True})
            if AT_WORK not in reply.texts or reply.metrics[STEP] >= until_step:
                return reply
            time.sleep(0.05)
        pytest.fail("the work was not done in time")


def side_processes() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if "side_worker" in " ".join(p.cmdline())]


@pytest.fixture(scope="module")
def expected(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SiteReply, list[tuple[str, float, int]]]:
    site = Site(root, tmp_path_factory.mktemp("expected") / "site")
    return site.ask(), site.heard.points


@pytest.mark.slow
def test_work_beside_gives_what_work_that_is_waited_for_gives(
    root: Path, tmp_path: Path, expected: tuple[SiteReply, list[tuple[str, float, int]]]
) -> None:
    site = Site(root, tmp_path / "site")
    first = site.ask(**{BESIDE: True})
    assert first.texts == {AT_WORK: TRAIN_GENERATOR} and dict(first.metrics) == {STEP: 0, TOTAL: 1}
    assert not first.arrays and first.num_examples == expected[0].num_examples == 3, "n_k, as its rules ask for it"
    at_work = site.wait_for(until_step=1)
    assert 1 <= at_work.metrics[STEP] <= at_work.metrics[TOTAL] == 20 and site.heard.points == []
    (process,) = side_processes()
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=f"worked for site {SITE} ended with status -9") as died:
        site.wait_for()
    assert died.value.code == "federation.worker_died"
    reply = site.wait_for()
    assert reply.arrays.keys() == expected[0].arrays.keys() and AT_WORK not in reply.texts
    for name, array in reply.arrays.items():
        np.testing.assert_array_equal(array, expected[0].arrays[name])
    assert site.heard.points[-1] == expected[1][-1] and side_processes() == []


def test_work_that_nobody_asks_about_is_stopped_and_gone_on_with(
    root: Path, tmp_path: Path, expected: tuple[SiteReply, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(root, tmp_path / "site")
    site.wait_for(until_step=1)
    site.program.idle()
    assert len(side_processes()) == 1, "it was asked a moment ago"
    monkeypatch.setattr(side_work, "FORGOTTEN_S", -1.0)
    site.program.idle()
    assert side_processes() == []
    reply = site.ask()  # waited for, as after the rounds
    for name, array in reply.arrays.items():
        np.testing.assert_array_equal(array, expected[0].arrays[name])


def test_another_run_ends_the_work_of_the_one_before(root: Path, tmp_path: Path) -> None:
    site = Site(root, tmp_path / "site")
    site.ask(**{BESIDE: True})
    site.run |= {"id": "run-2"}
    site.program.answer(SiteRequest(SITE, "query.describe"), run=site.run, listener=site.heard)
    assert side_processes() == []


@pytest.mark.slow
def test_a_run_across_sites_with_generators_beside_is_the_run_in_one_process(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked_again, "LONGEST_PAUSE_S", 1.0)
    world = StandingAlone(monkeypatch, root, tmp_path / "at", sites=SITES)
    found = {}
    for name, config in (("together", config_of(root)), ("apart", config_of(None, **{"generator.asynchronous": True}))):
        context, told = world.context(config, tmp_path / name)
        if name == "apart":
            GeneratorTraining().begin(context)
        FederatedTraining().run(context)
        GeneratorTraining().run(context)
        context.close()
        files = sorted((tmp_path / name).rglob("*.safetensors"))
        kept = {
            path.relative_to(tmp_path / name).as_posix(): load_file(path)
            for path in files
            if path.relative_to(tmp_path / name).parts[0] in ("models", "generators")
        }
        found[name] = kept, told
    one, other = found["together"][0], found["apart"][0]
    assert one.keys() == other.keys() and len(one) >= 3
    for name in one:
        assert all(np.array_equal(one[name][key], other[name][key]) for key in one[name]), name
    crossed = [[r for r in found[at][1].crossed if r.kind != "metrics"] for at in ("together", "apart")]
    assert {(r.site, r.direction, r.kind, r.round, r.payload_bytes) for r in crossed[0]} == {
        (r.site, r.direction, r.kind, r.round, r.payload_bytes) for r in crossed[1]
    }
    assert not any("asked again" in line for line in found["apart"][1].lines)
    curves = [{p for p in found[at][1].points if p[0] == "loss" and p[3] > 2} for at in ("together", "apart")]
    assert curves[0] == curves[1], "of a generator's steps: there are two rounds"
    sources = [site for site in SITES if site != HELD_OUT]
    assert {(site, step) for _, site, _, step in curves[1]} == set(product(sources, (10, 20)))


class Desks(AskedAgain):
    """Questions to two sites over nothing: what is sent lies in ``sent_messages``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.traffic, self.steps = 100.0, list[Traffic](), list[tuple[str, int, int]]()
        monkeypatch.setattr(asked_again, "monotonic", lambda: self.now)
        listener = Quiet()
        monkeypatch.setattr(
            listener, "progress", lambda site, _round, step, total: self.steps.append((site, step, total))
        )
        super().__init__(Desk("generator_training", Server(lambda: None, self.traffic.append), listener, lambda: None))
        self.outbox: list[Message] = []
        requests = [SiteRequest(site, TRAIN_GENERATOR, settings={BESIDE: True}) for site in ("a", "b")]
        messages = [
            Message(request_content(r, arrays=to_payload({})), node, r.task, group_id="0")
            for node, r in enumerate(requests, start=1)
        ]
        assert self.asks(messages)
        self.keys = self.push(messages, self.send, sites={1: "a", 2: "b"})

    def send(self, messages: Any) -> list[str]:
        ids = []
        for message in messages:
            message.content.pop("arrays")  # as packing takes them away
            self.outbox.append(message)
            ids.append(f"m{len(self.outbox)}")
        return ids

    def reply(self, to: str, content: SiteReply) -> Message | None:
        request = Message(RecordDict(), 1, TRAIN_GENERATOR)
        request.metadata.__dict__["_message_id"] = to
        return self.answered(Message(reply_content(content), reply_to=request))


def at_work(step: float, total: float) -> SiteReply:
    return SiteReply({}, {STEP: step, TOTAL: total}, 3, {AT_WORK: TRAIN_GENERATOR})


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def test_a_site_is_asked_again_after_ever_longer_pauses_and_answers_the_first_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desks(monkeypatch)
    assert desk.keys == ["m1", "m2"] and desk.knows(["m2", "x"]) and not desk.knows(["x"])
    pauses, asked = [], "m1"
    for step in range(7):
        assert desk.reply(asked, at_work(step, 20)) is None
        assert desk.sent(desk.keys) == ["m2"], "b alone is waited for"
        begun = desk.now
        while desk.sent(["m1"]) == []:
            desk.now += 0.5
            desk.push_due(desk.send)
        pauses.append(desk.now - begun)
        (asked,) = desk.sent(["m1"])
    assert pauses == [1, 2, 4, 8, 15, 15, 15] and (FIRST_PAUSE_S, LONGEST_PAUSE_S) == (1, 15)
    assert desk.steps == [("a", step, 20) for step in range(7)]
    again = desk.outbox[-1]
    assert (again.metadata.dst_node_id, again.metadata.message_type) == (1, TRAIN_GENERATOR)
    assert dict(again.content["settings"])[BESIDE] is True
    done = desk.reply(asked, SiteReply({"w": np.ones(2, np.float32)}, {}, 3))
    assert done is not None and done.metadata.reply_to_message_id == "m1"
    assert desk.sent(desk.keys) == ["m2"] and not desk.knows(["m1"])
    up = [r.payload_bytes for r in desk.traffic if r.direction == "up"]
    assert len(up) == 7 and up == [up[0] * n for n in range(1, 8)], "all bytes so far, each time"
    assert {(r.site, r.kind, r.round) for r in desk.traffic} == {("a", "metrics", QUERIES_FROM)}


@pytest.mark.parametrize("figures", [(5, 4), (-1, 4), (0, 0), (1, 1e12), (float("nan"), 4), (1, float("inf"))])
def test_progress_that_cannot_be_is_read_as_a_reply(
    figures: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desks(monkeypatch)
    reply = desk.reply("m2", at_work(*figures))
    assert reply is not None and reply.metadata.reply_to_message_id == "m2" and desk.steps == []
    hostile = SiteReply({"w": np.ones(9, np.float32)}, {STEP: 1, TOTAL: 2}, 3, {AT_WORK: "x"})
    assert desk.reply("m1", hostile) is not None
