"""The in-process Grid and the ClientApp: node identity, private contexts and records, errors on every back end."""

from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from engine.errors import UserError, is_plain
from engine.federation.backends.inprocess import InProcessGrid, LocalError
from engine.federation.client_app import SiteError, build_client_app, site_of
from engine.federation.exchange import failure_of, failure_told, find_sites
from engine.federation.payload import to_payload
from engine.federation.rounds import run_rounds
from engine.federation.server_app import build_server_app
from engine.federation.tasks import SiteReply, SiteRequest
from engine.types import RunCancelled

SITES = ("north", "south")


def context(config: dict[str, str | int]) -> Context:
    return Context(run_id=1, node_id=5, node_config=config, state=RecordDict(), run_config={})


def greedy_app() -> ClientApp:
    """Return an app that empties the message it gets and counts its visits in the node's own state."""
    app = ClientApp()

    @app.train("eat")
    def eat(message: Message, context: Context) -> Message:
        visits = int(context.state["visits"]["n"]) + 1 if "visits" in context.state else 1
        context.state["visits"] = ConfigRecord({"n": visits})
        record = message.content.pop("arrays")
        names = sorted(record)
        record.clear()
        return Message(RecordDict({"seen": ConfigRecord({"names": names, "visits": visits})}), reply_to=message)

    return app


def messages_to(grid: InProcessGrid, *, content: RecordDict, message_type: str) -> list[Message]:
    return [Message(content, dst_node_id=node_id, message_type=message_type) for node_id in grid.get_node_ids()]


def test_every_site_has_its_own_records_and_its_own_lasting_context() -> None:
    grid = InProcessGrid(greedy_app(), sites=SITES)
    content = RecordDict({"arrays": to_payload({"w": np.zeros(2, np.float32)})})
    for visit in (1, 2):
        replies = grid.send_and_receive(messages_to(grid, content=content, message_type="train.eat"))
        assert [reply.content["seen"]["names"] for reply in replies] == [["w"], ["w"]]
        assert [reply.content["seen"]["visits"] for reply in replies] == [visit, visit]
    assert list(content["arrays"]) == ["w"]


def test_a_pull_answers_one_message_at_a_time() -> None:
    grid = InProcessGrid(build_client_app({}), sites=SITES)
    ids = grid.push_messages(messages_to(grid, content=RecordDict(), message_type="query.who"))
    replies = [grid.pull_messages(ids) for _ in range(3)]
    assert [[r.content["who"]["name"] for r in pulled] for pulled in replies] == [["north"], ["south"], []]
    assert [pulled[0].metadata.reply_to_message_id for pulled in replies[:2]] == ids


def test_a_newer_message_replaces_one_that_nobody_pulled() -> None:
    grid = InProcessGrid(build_client_app({}), sites=SITES)
    old = grid.push_messages(messages_to(grid, content=RecordDict(), message_type="query.who"))
    new = grid.push_messages(messages_to(grid, content=RecordDict(), message_type="query.who"))
    assert grid.pull_messages(old) == []
    assert len(grid.pull_messages(new)) == 1


def test_a_message_to_nobody_is_refused() -> None:
    grid = InProcessGrid(build_client_app({}), sites=SITES)
    with pytest.raises(ValueError, match="no node 3"):
        grid.push_messages([Message(RecordDict(), dst_node_id=3, message_type="query.who")])


def test_an_unknown_task_is_an_error_reply() -> None:
    grid = InProcessGrid(build_client_app({}), sites=SITES)
    with pytest.raises(UserError, match=r"Site north failed: .*'nothing'"):
        run_rounds(grid, arrays={}, sites=SITES, rounds=1, task="nothing")


@pytest.mark.parametrize(
    ("config", "site"),
    [
        ({"site": "east"}, "east"),
        ({"site": "east", "partition-id": 0}, "east"),
        ({"partition-id": 1, "num-partitions": 2}, "south"),
    ],
)
def test_a_site_is_its_node_config(config: dict[str, str | int], site: str) -> None:
    assert site_of(context(config), sites=SITES) == site


@pytest.mark.parametrize("config", [{}, {"partition-id": 2}])
def test_a_node_without_a_name_is_refused(config: dict[str, str | int]) -> None:
    with pytest.raises(UserError) as caught:
        site_of(context(config), sites=SITES)
    assert caught.value.code == "federation.unnamed_node"


def test_two_nodes_of_one_name_are_refused() -> None:
    grid = InProcessGrid(build_client_app({}), sites=("north", "north"))
    with pytest.raises(UserError, match="both say that they are north"):
        find_sites(grid, sites=["north"])


def as_a_supernode_reports(error: Exception) -> Error:
    """Return the reply that a SuperNode makes of an exception (flwr.supernode.runtime.run_clientapp, 1.41)."""
    return Error(2, str(type(error)) + ":<'" + str(error) + "'>")


def test_a_user_error_comes_back_over_a_network_with_its_four_fields() -> None:
    raised = UserError("data.mask_missing", what="x.png has no mask.", why='It is "needed".', fix="Add {it}.")
    failure = failure_of(as_a_supernode_reports(SiteError(site="south", error=raised)), site="south")
    assert failure.as_dict() == {**raised.as_dict(), "what": "Site south: x.png has no mask."}


def test_another_error_comes_back_over_a_network_with_site_and_reason() -> None:
    error = SiteError(site="south", error=OSError("disk full"))
    assert json.loads(str(error))["site"] == "south"
    failure = failure_of(as_a_supernode_reports(error), site="south")
    assert failure.code == "federation.site_failed"
    assert failure.what == "Site south failed: OSError: disk full."


@pytest.mark.parametrize(("error", "text"), [(Error(5, "Node unavailable"), "Node unavailable"), (Error(8), "code 8")])
def test_a_lost_node_is_named(error: Error, text: str) -> None:
    failure = failure_of(error, site="south")
    assert failure.code == "federation.site_failed"
    assert "Site south failed" in failure.what and text in failure.what


def test_a_cancel_comes_back_over_a_network() -> None:
    with pytest.raises(RunCancelled):
        failure_of(as_a_supernode_reports(RunCancelled()), site="south")


def test_a_local_error_keeps_its_cause_and_has_a_readable_reason() -> None:
    cause = ZeroDivisionError("one over none")
    assert (LocalError(cause).cause, LocalError(cause).reason) == (cause, "ZeroDivisionError: one over none")


def test_the_server_app_runs_the_loop_on_the_grid_it_is_given() -> None:
    def double(request: SiteRequest) -> SiteReply:
        return SiteReply({"w": request.arrays["w"] * 2}, {}, 1)

    found: dict[str, np.ndarray] = {}

    def serve(grid: InProcessGrid) -> None:
        found.update(run_rounds(grid, arrays={"w": np.ones(2, np.float32)}, sites=SITES, rounds=3))

    grid = InProcessGrid(build_client_app({"student": double}), sites=SITES)
    build_server_app(serve)(grid, context({}))
    assert found["w"].tolist() == [8.0, 8.0]


def test_arrays_are_encoded_once_for_all_sites() -> None:
    seen: list[bytes] = []
    app = ClientApp()

    @app.query("who")
    def who(message: Message, context: Context) -> Message:
        return Message(RecordDict({"who": ConfigRecord({"name": context.node_config["site"]})}), reply_to=message)

    @app.train("student")
    def train(message: Message, context: Context) -> Message:
        record = message.content["arrays"]
        assert isinstance(record, ArrayRecord)
        seen.append(record["w"].data)
        raise RunCancelled if len(seen) == len(SITES) else ValueError("next")

    with pytest.raises(RunCancelled):
        run_rounds(
            InProcessGrid(app, sites=SITES), arrays={"w": np.ones(9, np.float32)}, sites=SITES, rounds=1, quorum=1
        )
    assert seen[0] is seen[1]


@pytest.mark.parametrize(
    "record",
    [
        {"code": "x"},
        {"code": ["x"], "what": 1, "why": None, "fix": {}},
        {"what": 5},
        {"code": "x", "what": "broken \ud800", "why": "", "fix": ""},
    ],
)
def test_a_failure_that_no_site_of_ours_writes_is_still_the_site_s(record: dict[str, object]) -> None:
    failure = failure_told(json.dumps(record), site="north")
    assert "north" in failure.what
    "".join(failure.as_dict().values()).encode("utf-8")


@pytest.mark.parametrize("reason", ['{"a":' * 100_000 + "}", '{"code": ' + "9" * 10_000 + "}"], ids=["deep", "digits"])
def test_a_failure_that_no_reader_takes_is_still_the_site_s(reason: str) -> None:
    failure = failure_told(reason, site="north")
    assert failure.code == "federation.site_failed" and len(failure.what) < 1000


HOSTILE = "broken\n2026-01-01 12:00:00 info    - all is well\x1b[2J\u202egnp.exe\u2028\x9b2J"
"""Lines of others, and what a terminal obeys."""


@pytest.mark.parametrize("told", [
    HOSTILE, json.dumps({"what": HOSTILE}), json.dumps(dict.fromkeys(("code", "what", "why", "fix"), HOSTILE)),
])  # fmt: skip
def test_a_failure_s_words_are_one_line_that_no_terminal_obeys(told: str) -> None:
    failure = failure_told(told, site="north")
    assert "broken 2026-01-01" in failure.what
    assert all(is_plain(words) for words in failure.as_dict().values())


def test_a_failure_s_texts_have_an_end() -> None:
    record = {"code": "data.many", "what": "north: " + "x" * 50_000, "why": "y", "fix": "z" * 50_000}
    failure = failure_told(json.dumps(record), site="north")
    assert failure.code == "data.many" and failure.why == "y"
    assert all(len(text) < 10_100 and text.endswith("in the log of north)") for text in (failure.what, failure.fix))
