"""Who of a federation is there, as the form of a new run shows it before anybody is asked."""

from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from app import federation_sites
from app.access import LOCAL, Visitor
from app.settings import Settings
from app.studio import Studio
from engine.cli import main
from engine.deployment.certificates import Validity
from engine.deployment.server import SiteView, Status
from engine.errors import UserError

NOW = 1_700_000_000.0
VALID = Validity(datetime(2020, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC))


class Cells(HTMLParser):
    """The rows of a table, by their cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        if self.rows:
            self.rows[-1].append(data)


def view(*sites: SiteView, running: bool = True, warnings: tuple[str, ...] = ()) -> Status:
    return Status(running, sites, VALID, VALID, ("localhost",), warnings, Path("log"))


def site(name: str, state: str, connection: str, seen: float | None = None) -> SiteView:
    return SiteView(name, state, connection, seen, None)


def test_each_site_is_shown_with_its_state_and_who_is_missing_is_named() -> None:
    html = federation_sites.shown(
        view(
            site("north", "accepted", "online", NOW - 3),
            site("<south>", "accepted", "offline", NOW - 90_000),
            site("west", "accepted", "never seen"),
            site("new", "invited", "never seen"),
            site("gone", "revoked", "offline", NOW - 10),
            warnings=("A certificate <soon> ends.",),
        ),
        now=NOW,
    )
    rows = Cells(html).rows
    assert rows[1] == ["north", "accepted", "online", "3 s ago"]
    assert rows[2][:3] == ["<south>", "accepted", "offline"] and rows[2][3].startswith("2023-11-1")
    assert [row[1:3] for row in rows[3:5]] == [["accepted", "never seen"], ["signing request awaited", "-"]]
    assert rows[5][1:3] == ["revoked", "-"]
    assert "Not connected: &lt;south&gt;, west." in html and "<south>" not in html and "&lt;soon&gt;" in html


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            view(site("north", "accepted", "online", NOW), site("new", "invited", "never seen")),
            "All sites are connected",
        ),
        (view(site("north", "accepted", "unknown"), running=False), "server is not up"),
        (view(), "no sites yet"),
    ],
)
def test_what_is_said_of_all(status: Status, words: str) -> None:
    assert words in federation_sites.shown(status, now=NOW)


def test_a_federation_that_is_not_up_is_looked_at_without_a_connection(tmp_path: Path) -> None:
    assert main(["federation", "init", str(tmp_path / "fed"), "--address", "localhost:9443", "--port", "9"]) == 0
    assert main(["federation", "add-site", str(tmp_path / "fed"), "north"]) == 0
    found = Studio(Settings(home=tmp_path / "home")).federation(f" {tmp_path / 'fed'} ", by=LOCAL)
    assert not found.running and [(one.name, one.state) for one in found.sites] == [("north", "invited")]


def test_where_others_can_reach_the_page_only_allowed_folders_are_looked_at(tmp_path: Path) -> None:
    assert main(["federation", "init", str(tmp_path / "in" / "fed"), "--address", "localhost:9443", "--port", "9"]) == 0
    settings = Settings(home=tmp_path / "home", allowed_roots=(tmp_path / "in",), access="demo")
    studio = Studio(settings)
    operator = Visitor("anna", "anna", "operator")
    assert studio.federation(str(tmp_path / "in" / "fed"), by=operator).sites == ()
    for folder in (tmp_path / "no such folder", tmp_path):
        with pytest.raises(UserError) as raised:
            studio.federation(str(folder), by=operator)
        assert raised.value.code == "app.path_refused"
    with pytest.raises(UserError) as raised:
        studio.federation(str(tmp_path / "in" / "fed"), by=Visitor("v", "v", "viewer"))
    assert raised.value.code in ("app.viewer", "app.read_only")
