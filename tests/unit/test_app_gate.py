"""The gate before the page: names, origins, visitors, routes and sessions, on the real page in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from httpx import Response
from starlette.testclient import TestClient

from app import gate, pending, server, users
from app.main import build_app
from app.settings import Settings
from app.studio import Studio

API = "/gradio_api"
PASSWORD = "correct horse battery"


@contextmanager
def visiting(home: Path, **given: Any) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSFEDMED_MAX_RUNNING", "0")
        settings = Settings.model_validate({"home": home, "models_dir": home / "none", **given})
        studio = Studio(settings)
        patch.setenv("GRADIO_TEMP_DIR", str(studio.scratch.path))
        page = server.web_app(build_app(studio), studio)
        yield TestClient(page, base_url="http://localhost:7860", client=("10.0.0.9", 5000), follow_redirects=False)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with visiting(tmp_path_factory.mktemp("home")) as client:
        yield client


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:7860", "10.0.0.1:7860", ""])
def test_another_name_is_refused_on_loopback_too(local: TestClient, host: str) -> None:
    assert local.get("/", headers={"host": host}).status_code == 421
    assert local.get("/health", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(("headers", "status"), [
    ({"origin": "https://evil.example"}, 403), ({"origin": "null"}, 403), ({"origin": "http://localhost:3000"}, 403),
    ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}, 403), ({"origin": "http://localhost:7860"}, 200),
    ({}, 200),
])  # fmt: skip
def test_the_pages_of_others_neither_read_nor_act(local: TestClient, headers: dict[str, str], status: int) -> None:
    answer = local.get("/config", headers=headers)
    assert answer.status_code == status
    sent = local.post(f"{API}/queue/join", headers=headers, content=b"{}")
    assert sent.status_code == (403 if status == 403 else 400)
    if status == 403:
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("route", ["/", "/config", f"{API}/info"])
def test_the_page_goes_packed_to_whoever_takes_it_so(local: TestClient, route: str) -> None:
    plain, packed = (local.get(route, headers={"accept-encoding": coding}) for coding in ("identity", "gzip"))
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip" and packed.headers["x-content-type-options"] == "nosniff"
    assert 4 * int(packed.headers["content-length"]) < int(plain.headers["content-length"])
    assert len(packed.content) == len(plain.content)  # each visitor's page names its own session


@pytest.mark.parametrize(("method", "route"), [
    ("GET", f"{API}/proxy=http://localhost/"), ("GET", "/monitoring"), ("GET", "/docs"),
    ("GET", f"{API}/file/etc/passwd"),
    ("POST", f"{API}/run/predict"), ("POST", f"{API}/call/x"), ("POST", f"{API}/component_server"), ("PUT", "/config"),
    ("POST", f"{API}/process_recording"), ("POST", f"{API}/stream/x"), ("DELETE", "/"), ("GET", "/?deep_link=x"),
    ("POST", "/"), ("GET", "/sign-in"),
])  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(local: TestClient, method: str, route: str) -> None:
    assert local.request(method, route).status_code == 404


@pytest.mark.parametrize("name", [
    "/etc/passwd", "{home}/studio.sqlite", "{home}/page/session_secret", "http://localhost/", "relative.png", "{home}",
    "{home}/page/../studio.sqlite", "/no/such/file",
])  # fmt: skip
def test_only_what_the_page_has_made_is_served(local: TestClient, name: str) -> None:
    home = local.app.app._scratch.parent.parent  # type: ignore[attr-defined]
    assert (home / "studio.sqlite").is_file()
    answer = local.get(f"{API}/file={name.format(home=home)}")
    assert answer.status_code == 403 and answer.json() == {"detail": "This page has no such file for you."}


@pytest.mark.parametrize("below", ["assets/", "static/"])
@pytest.mark.parametrize("name", ["a" * 300, "é" * 200, "é/" * 500, "a/" * 400 + "b" * 256], ids=len)
def test_a_name_that_no_disk_can_hold_is_no_fault(local: TestClient, below: str, name: str) -> None:
    """A fault is a page of the log: whoever asks for such names would fill the disk that it lies on."""
    assert local.get(f"/{below}{name}").status_code == 404


@pytest.mark.parametrize("host", ["[", "[::1", "localhost:7860/x?", "localhost:1@evil.example", "localhost:</script>"])
def test_a_host_that_is_none_is_a_refusal_and_no_fault(local: TestClient, host: str) -> None:
    assert local.get("/config", headers={"host": host}).status_code == 421
    assert local.get("/config", headers={"x-forwarded-host": host}).status_code == 421


@pytest.mark.parametrize("header", ["x-gradio-server", "x-forwarded-server", "forwarded"])
@pytest.mark.parametrize("value", ["http://evil.example", "http://["])
def test_headers_that_only_gradio_knows_change_nothing(local: TestClient, header: str, value: str) -> None:
    answer = local.get("/config", headers={header: value})
    assert answer.status_code == 200 and "evil.example" not in answer.text
    assert answer.json()["root"] == local.get("/config").json()["root"] == "http://localhost:7860"


@pytest.mark.parametrize("wanted", ["bytes=0-3", "bytes=1-2-3", "bytes=9-1", "bytes=99999-999999", "bytes=\xb2-\xb3"])
def test_a_part_of_a_file_is_not_asked_for(tmp_path: Path, wanted: str) -> None:
    with visiting(tmp_path, read_only=True) as anna:
        anna.get("/")
        path = anna.post(f"{API}/upload", files={"files": ("a.svg", b"<svg/>")}).json()[0]
        sent = {b"range": wanted.encode("latin-1"), b"x-secret": b"told to nobody"}
        answer = anna.get(f"{API}/file={path}", headers=list(sent.items()))  # type: ignore[arg-type]
        assert answer.status_code == 200 and answer.content == b"<svg/>"
        assert "x-secret" not in answer.headers and "cookie" not in answer.headers


@pytest.mark.parametrize("query", ["page=x", "page=../x", "page=%00", "run=a&page=b", "__theme=dark", "deep_link"])
def test_what_an_address_says_is_not_gradios_business(local: TestClient, query: str) -> None:
    for route in ("/", "/config"):
        assert local.get(f"{route}?{query}").status_code == (404 if query == "deep_link" else 200)


def test_ones_upload_is_ones_own(tmp_path: Path) -> None:
    with visiting(tmp_path, read_only=True) as anna:
        bert = TestClient(anna.app, base_url="http://localhost:7860")
        for visitor in (anna, bert):
            assert "httponly" in visitor.get("/").headers["set-cookie"].lower()
        path = anna.post(f"{API}/upload", files={"files": ("drawing.svg", b"<svg/>")}).json()[0]
        answer = anna.get(f"{API}/file={path}")
        assert answer.content == b"<svg/>"
        assert "sandbox" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert bert.get(f"{API}/file={path}").status_code == 403
        joined = {"session_hash": "tab", "fn_index": 10_000, "data": []}
        assert anna.post(f"{API}/queue/join", json=joined).status_code == 404
        for route in (f"{API}/queue/data?session_hash=tab", f"{API}/heartbeat/tab"):
            assert bert.get(route).status_code == 403
        assert bert.post(f"{API}/queue/join", json=joined).status_code == 403


def test_people_sign_in_and_out(tmp_path: Path) -> None:
    users.add(tmp_path / "users.json", "anna", password=PASSWORD, role="viewer")
    with visiting(tmp_path / "home", users_file=tmp_path / "users.json") as client:
        assert client.get("/").headers["location"] == "/sign-in"
        assert client.get("/config").status_code == client.post(f"{API}/upload").status_code == 401
        assert "<form method='post'" in client.get("/sign-in").text
        wrong = client.post("/sign-in", data={"name": "<b>", "password": "x"})
        assert wrong.status_code == 401 and "<b>" not in wrong.text and "set-cookie" not in wrong.headers
        taken = client.post("/sign-in", data={"name": "anna", "password": PASSWORD})
        cookie = taken.headers["set-cookie"].lower()
        assert taken.status_code == 303 and "httponly" in cookie and "samesite=lax" in cookie
        assert client.get("/config").status_code == 200
        name, value = next(iter(client.cookies.items()))
        forged = TestClient(client.app, base_url="http://localhost:7860", cookies={name: value[:-3] + "AAA"})
        assert forged.get("/config").status_code == 401
        assert client.post("/sign-out", headers={"origin": "https://evil.example"}).status_code == 403
        copied = TestClient(client.app, base_url="http://localhost:7860", cookies={name: value})
        assert copied.get("/config").status_code == 200
        assert client.post("/sign-out").status_code == 303
        assert client.get("/config").status_code == 401
        assert copied.get("/config").status_code == 401, "signing out ends the session, not one cookie of it"
        assert client.post("/sign-in", data={"name": "anna", "password": PASSWORD}).status_code == 303
        assert client.get("/config").headers["cache-control"] == "private, no-store"


def test_a_proxys_word_counts_from_its_own_address_alone(tmp_path: Path) -> None:
    rules = {"access": "proxy", "proxy_user_header": "X-User", "proxy_addresses": "10.0.0.0/24", "proxy_operators": "o"}
    with visiting(tmp_path, **rules) as proxy:
        assert proxy.get("/config").status_code == 401
        assert proxy.get("/config", headers={"x-user": "anna"}).status_code == 200
        assert proxy.get("/config", headers=[("x-user", "anna"), ("x-user", "o")]).status_code == 401
        stranger = TestClient(proxy.app, base_url="http://localhost:7860", client=("192.0.2.1", 1))
        assert stranger.get("/config", headers={"x-user": "o"}).status_code == 403
        assert stranger.get("/health").text == "ok"


def test_guesses_are_counted_by_the_address_that_the_proxy_tells(tmp_path: Path) -> None:
    """Also where the proxy adds a header beside the one that was sent, and where one has a whole network of IPv6."""
    users.add(tmp_path / "users.json", "anna", password=PASSWORD, role="viewer")
    rules = {"users_file": tmp_path / "users.json", "proxy_addresses": "10.0.0.0/24"}
    with visiting(tmp_path / "home", **rules) as client:

        def guess(number: int, *forwarded: str) -> int:
            headers = [("x-forwarded-for", value) for value in forwarded]
            return client.post("/sign-in", data={"name": "anna", "password": f"{number}"}, headers=headers).status_code

        for told in (("1.1.1.{}", "6.6.6.6"), ("1.1.1.{}, 7.7.7.7:8{}",), ("2001:db8::{}",)):
            statuses = [guess(at, *(value.format(at, at) for value in told)) for at in range(1, 7)]
            assert statuses == [401] * 5 + [429], told


@pytest.mark.parametrize("form", [
    "&".join(f"a{at}=1" for at in range(9)), "name=%ff&password=%00", "name", "=&=&=", "%", "name=a&name=b&password=c",
])  # fmt: skip
def test_a_sign_in_that_is_none_is_wrong_and_no_fault(tmp_path: Path, form: str) -> None:
    users.add(tmp_path / "users.json", "anna", password=PASSWORD, role="viewer")
    with visiting(tmp_path / "home", users_file=tmp_path / "users.json") as client:
        kind = {"content-type": "application/x-www-form-urlencoded"}
        assert client.post("/sign-in", content=form, headers=kind).status_code == 401


@pytest.mark.parametrize("route", ["/", "/config", "/theme.css", "/no-such-thing"])
def test_a_page_asks_no_other_machine_whatever_words_stand_in_it(local: TestClient, route: str) -> None:
    policy = local.get(route).headers["content-security-policy"]
    said = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    kinds = ("img-src", "media-src", "font-src", "connect-src", "frame-src", "form-action", "base-uri")
    assert all("'self'" in said[kind] and set(said[kind]) <= {"'self'", "data:", "blob:"} for kind in kinds)


def test_in_a_space_the_cookie_lives_in_a_frame(tmp_path: Path) -> None:
    with visiting(tmp_path, space="me/it", host="0.0.0.0") as client:
        answer = client.get("/", headers={"host": "me-it.hf.space"})
        cookie = answer.headers["set-cookie"].lower()
        assert "samesite=none" in cookie and "secure" in cookie and "httponly" in cookie
        assert "https://huggingface.co" in answer.headers["content-security-policy"]


def asking(page: TestClient) -> Callable[[TestClient, str], Response]:
    """Return what sends one event; the page's queue has not been started, so that all that is taken waits."""
    blocks = page.app.app._page  # type: ignore[attr-defined]
    event = next(key for key, one in blocks.fns.items() if one.fn and not one.inputs and one.queue)

    def ask(visitor: TestClient, tab: str) -> Response:
        return visitor.post(f"{API}/queue/join", json={"session_hash": tab, "fn_index": event, "data": []})

    return ask


def visitors(page: TestClient, count: int) -> list[TestClient]:
    found = [TestClient(page.app, base_url="http://localhost:7860") for _ in range(count)]
    for visitor in (page, *found):
        visitor.get("/")
    return found


def test_nobody_fills_the_queue_of_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MAX_EACH", 3)
    monkeypatch.setattr(pending, "MAX_ALL", 5)
    monkeypatch.setattr(pending, "FREE_TO_OWN", 0)
    with visiting(tmp_path, read_only=True) as anna:
        others, ask = visitors(anna, 3), asking(anna)
        assert [ask(anna, f"a{at}").status_code for at in range(3)] == [200] * 3
        refused = ask(anna, "a3")
        assert refused.status_code == 429 and "3 requests" in refused.json()["detail"]
        assert refused.headers["retry-after"] == "5"
        assert [ask(other, f"o{at}").status_code for at, other in enumerate(others)] == [200, 200, 429], (
            "all together have a bound too"
        )
        assert "The page is busy: 5 requests" in ask(others[2], "o2").json()["detail"]


def test_many_names_of_one_visitor_leave_places_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 30 places each name has at most half of the free ones: 10, 7, 5, ...; here four take what they get."""
    monkeypatch.setattr(pending, "MAX_EACH", 10)
    monkeypatch.setattr(pending, "MAX_ALL", 30)
    monkeypatch.setattr(pending, "FREE_TO_OWN", 2)
    with visiting(tmp_path, read_only=True) as anna:
        [*names, bert], ask = visitors(anna, 4), asking(anna)
        taken = []
        for name in (anna, *names):
            taken.append(next(at for at in range(30) if ask(name, f"{len(taken)}-{at}").status_code == 429))
        assert taken == [10, 7, 5, 3]
        assert [ask(bert, f"b{at}").status_code for at in range(3)] == [200, 200, 429]


def test_gradio_itself_asks_whether_a_file_was_uploaded(local: TestClient) -> None:
    """Behind the gate, should it ever miss one; ``mount_gradio_app`` leaves both of these as before ``launch``."""
    page = local.app.app._page  # type: ignore[attr-defined]
    assert page.has_launched and page.is_running


def test_a_tab_that_was_never_there_has_nothing_to_read(local: TestClient) -> None:
    """Gradio breaks its answer off with a fault, which is told to the log each time."""
    answer = local.get(f"{API}/queue/data?session_hash=nobody")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
    told = json.loads(answer.text.removeprefix("data: "))
    assert told["msg"] == "unexpected_error" and told["session_not_found"] is True and not told["success"]


def test_a_fault_of_the_page_quotes_nobody_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with visiting(tmp_path, read_only=True) as anna:
        words = "\nERROR forged"

        async def failing(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] != "/":
                await send({"type": "http.response.start", "status": 206, "headers": []})
            raise ValueError(words)

        inner: Any = anna.app.app  # type: ignore[attr-defined]
        monkeypatch.setattr(inner, "_served", failing)
        monkeypatch.setattr(inner, "_packing", failing)
        answers = [anna.get(route) for route in ("/", "/theme.css")]
        assert [answer.status_code for answer in answers] == [500, 206]
        assert caplog.text.count("unforeseen ValueError") == 2 and "forged" not in caplog.text + answers[0].text
        assert anna.get("/assets/" + "a" * 5000).status_code == 404


def test_an_event_is_cancelled_by_its_own_tab(tmp_path: Path) -> None:
    with visiting(tmp_path, read_only=True) as anna:
        (bert,), ask = visitors(anna, 1), asking(anna)
        event = ask(anna, "a").json()["event_id"]
        waiting = anna.app.app._page._queue.event_ids_to_events  # type: ignore[attr-defined]
        for visitor, tab, status in ((bert, "b", 403), (anna, "other", 403), (anna, "a", 200)):
            told = visitor.post(f"{API}/cancel", json={"session_hash": tab, "event_id": event, "fn_index": 1})
            assert told.status_code == status and (event in waiting) == (status == 403)


def test_a_body_that_comes_too_slowly_is_given_up(local: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "PATIENCE_S", -1.0)
    assert local.post(f"{API}/queue/join", content=b"{}").status_code == 408
    refused = local.post(f"{API}/upload", files={"files": ("a.png", b"x")})
    assert refused.status_code == 408 and refused.headers["connection"] == "close"


@pytest.mark.parametrize(("route", "kept"), [
    ("/", False), ("/config", False), (f"{API}/info", False), ("/no-such", False), ("/theme.css", True),
    ("/static/img/logo.svg", True),
])  # fmt: skip
def test_what_is_of_a_visitor_is_kept_nowhere(local: TestClient, route: str, kept: bool) -> None:
    assert (local.get(route).headers.get("cache-control") != "private, no-store") == kept


def test_a_large_body_is_refused_before_it_is_read(local: TestClient) -> None:
    answer = local.post(f"{API}/upload", headers={"content-length": str(10**9)}, content=b"x")
    assert answer.status_code == 413
    assert local.post(f"{API}/queue/join", content=b"x" * 70_000).status_code == 413
