"""What a server hears of a fault at a site: never a file's or a patient's name."""

from __future__ import annotations

import errno
import json
from threading import Event
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

from engine.errors import UserError
from engine.federation.payload import request_content, to_payload
from engine.federation.tasks import TRAIN_STUDENT, SiteReply, SiteRequest
from engine.site import node
from engine.site.disclosure import for_server
from tests.unit.deployed_world import Waiting

NAME = "anna_doe_1961.png"


class Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def answer(self, request: SiteRequest, **_: Any) -> SiteReply:
        raise self.error

    def idle(self) -> None: ...


@pytest.fixture(autouse=True)
def _a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def heard_of(error: Exception) -> tuple[dict[str, str], list[str]]:
    """Return what the server is told, and what the site's log says."""
    said: list[str] = []
    content = request_content(SiteRequest("north", TRAIN_STUDENT), arrays=to_payload({"w": np.zeros(1, np.float32)}))
    message = Message(content, dst_node_id=1, message_type=TRAIN_STUDENT)
    listener = node._Listener(Waiting(), message=message, stop=Event(), say=said.append)  # type: ignore[arg-type]
    reply = node._answer(message, Failing(error), listener, site="north", attempt=1, say=said.append)
    assert reply is not None and reply.has_error()
    text = reply.error.reason
    return json.loads(text[text.index("{") : text.rindex("}") + 1]), said


@pytest.mark.parametrize("code", ["data.mask_missing", "archive.damaged", "data.patient_spelling", "prepare.no_file"])
def test_a_fault_of_images_keeps_its_kind_and_loses_its_words(code: str) -> None:
    told, said = heard_of(UserError(code, what=f"{NAME} is broken.", why=f"{NAME} it is.", fix=f"Mend {NAME}."))
    assert told["code"] == code and told["site"] == "north" and NAME not in json.dumps(told)
    assert "Site north cannot answer train.student" in told["what"] and "data check FOLDER --site north" in told["fix"]
    assert said == [f"{NAME} is broken."], "whoever runs the site reads all of it"


class Sends(Waiting):
    address, attempt = "a:1", 1

    def send(self, reply: Message) -> None: ...


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            UserError("data.mask_missing", what=f"{NAME} is broken.", why="w", fix="f"),
            "something is wrong with its images",
        ),
        (UserError("federation.refused", what='It is "not allowed".', why="w", fix="f"), 'north: It is "not allowed".'),
        (ValueError(NAME), "Site north failed at train.student with a ValueError."),
    ],
)
def test_whoever_runs_the_site_reads_the_sentence_that_the_server_is_told(error: Exception, words: str) -> None:
    said: list[str] = []
    content = request_content(SiteRequest("north", TRAIN_STUDENT), arrays=to_payload({"w": np.zeros(1, np.float32)}))
    message = Message(content, dst_node_id=1, message_type=TRAIN_STUDENT)
    node._handle(message, Sends(), Failing(error), site="north", stop=Event(), say=said.append)  # type: ignore[arg-type]
    assert said[-1].startswith("The server was told: ") and words in said[-1]
    assert "{" not in said[-1] and "<class" not in said[-1] and NAME not in said[-1]


def test_an_unexpected_fault_is_told_by_its_type() -> None:
    told, said = heard_of(FileNotFoundError(2, "No such file", f"/images/{NAME}"))
    assert told["code"] == "federation.site_failed" and "FileNotFoundError" in told["what"]
    assert NAME not in json.dumps(told)
    assert NAME in said[0] and "Traceback" in said[0]


def test_a_full_disk_is_the_sites_and_has_its_name() -> None:
    told, _ = heard_of(OSError(errno.ENOSPC, "No space left on device", f"/images/{NAME}"))
    assert told["code"] == "federation.site_disk_full" and told["what"].startswith("The disk of site north is full")
    assert NAME not in json.dumps(told)


def test_faults_of_the_run_are_told_in_full() -> None:
    for code in ("federation.refused", "run.data_changed", "generator.diverged", "site.policy_invalid"):
        error = UserError(code, what="w", why="y", fix="f")
        assert for_server(error, site="north", task="query.masks") is error
