"""Sessions of browser tabs: whose they are, how many, and answers that nobody reads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import gradio as gr
import pytest
from gradio.server_messages import HeartbeatMessage, ProcessCompletedMessage

from app import sessions
from app.access import LOCAL, Visitor
from app.event_checks import Refusal
from app.sessions import Sessions

ANNA, BERT = Visitor("visitor:anna", "a visitor", "demo"), Visitor("visitor:bert", "a visitor", "demo")


class Page:
    """What a page is for its sessions: a queue with answers, and states."""

    def __init__(self) -> None:
        with gr.Blocks() as made:
            gr.HTML()
        made.queue()
        gr.routes.App.create_app(made)
        self.made, self.queue, self.states = made, made._queue, made.state_holder

    def answer(self, session: str, *, at_work: bool = False) -> None:
        self.states[session]
        waiting = self.queue.pending_messages_per_session.setdefault(session, asyncio.Queue())
        waiting.put_nowait(HeartbeatMessage())
        waiting.put_nowait(ProcessCompletedMessage(event_id=f"e-{session}", output={}, success=True))
        self.queue.pending_event_ids_session.setdefault(session, set()).add(f"e-{session}")
        if at_work:
            self.queue.event_ids_to_events[f"e-{session}"] = _Event(session)


class _Event:
    def __init__(self, session: str) -> None:
        self.session_hash = session


@pytest.fixture
def page() -> Iterator[Page]:
    yield Page()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(sessions.time, "monotonic", lambda: now[0])
    return now


def test_a_session_is_ones_own(page: Page, clock: list[float]) -> None:
    known = Sessions(page.made)
    assert known.bind("tab", ANNA) == known.bind("tab", ANNA) == "tab"
    with pytest.raises(Refusal, match="somebody else"):
        known.bind("tab", BERT)
    clock[0] += 3600 * sessions.SESSION_HOURS + 1
    assert known.bind("tab", BERT) == "tab", "it is nobody's any more"


def test_who_opens_ever_new_tabs_loses_the_own_oldest_and_nobody_elses(page: Page) -> None:
    known = Sessions(page.made)
    known.bind("b", BERT)
    page.answer("b")
    for at in range(sessions.MAX_EACH + 3):
        known.bind(f"a{at}", ANNA)
        page.answer(f"a{at}", at_work=at == 1)
    there = [name for name in page.states.session_data]
    assert "b" in there and "a1" in there, "that of another, and one that is at work"
    assert {"a0", "a2", "a3"}.isdisjoint(there) and len(there) == 1 + sessions.MAX_EACH
    assert not known.is_known("a0") and known.is_known("a1")
    for at in range(sessions.MAX_EACH + 3):
        known.bind(f"l{at}", LOCAL)  # where all tabs are one visitor's


def test_who_lets_all_tabs_work_gets_no_more(page: Page) -> None:
    known = Sessions(page.made)
    for at in range(sessions.MAX_EACH):
        known.bind(f"a{at}", ANNA)
        page.answer(f"a{at}", at_work=True)
    with pytest.raises(Refusal, match="tabs"):
        known.bind("more", ANNA)
    assert known.bind("b", BERT)


def test_unread_answers_count_and_go_when_nobody_comes_for_them(page: Page, clock: list[float]) -> None:
    known = Sessions(page.made)
    for name, by in (("a", ANNA), ("b", BERT), ("c", BERT)):
        known.bind(name, by)
        page.answer(name, at_work=name == "c")
    page.answer("a")
    assert known.unread() == {ANNA.key: 2, BERT.key: 2}
    with known.streaming("a", ANNA, reads=True):
        clock[0] += sessions.UNREAD_S + 1
        assert known.unread() == {ANNA.key: 2, BERT.key: 1}, "of b nobody has come; c is at work, a is being read"
    assert not known.is_known("b") and known.is_known("c")
    assert known.unread() == {ANNA.key: 2, BERT.key: 1}, "a was read until now"
    clock[0] += sessions.UNREAD_S + 1
    assert known.unread() == {BERT.key: 1}


def test_open_streams_of_one_leave_room_for_others(page: Page) -> None:
    """A quarter of what is free: 64 of 320 (256 are left then), and 52 of 256."""
    known, taken = Sessions(page.made), []
    with ExitStack() as held:
        for by in (ANNA, BERT):
            tab = known.bind(by.key.removeprefix("visitor:"), by)
            with pytest.raises(Refusal, match="tabs"):
                while True:
                    held.enter_context(known.streaming(tab, by, reads=False))
            taken.append(known._streams[by.key])
        assert taken == [64, 52]
    assert not known._streams


def test_an_event_is_ended_by_its_own_tab(page: Page) -> None:
    known: Any = Sessions(page.made)
    page.answer("a", at_work=True)
    assert known.may_end("e-a", "a") and not known.may_end("e-a", "b") and known.may_end("over", "b")
