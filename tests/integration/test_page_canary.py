"""No file of the server reaches a visitor: payloads to every event that a running page's configuration lists."""

from __future__ import annotations

from pathlib import Path

from bench import bombs
from bench.attack import CANARY, Tally, attack_events, attack_routes, payloads, sink
from bench.attack_api import attack_endpoints
from bench.attack_client import Visitor, serving


def test_no_event_and_no_route_reads_a_file_for_a_visitor(tmp_path: Path) -> None:
    canary, tally = tmp_path / "canary.txt", Tally()
    for path in (canary, canary.with_suffix(".svg")):
        path.write_text(CANARY)
    with serving(tmp_path / "home", "--read-only") as server, sink() as (address, asked):
        visitor = Visitor(server)
        visitor.open()
        everything = payloads(canary, server.home, address)
        attacks = {kind: everything[kind] for kind in ("file", "address")}
        attack_events(visitor, attacks, tally)
        attack_endpoints(visitor, attacks, canary, tally, mode="read-only", other=Visitor(server))
        attack_routes(visitor, canary, address, tally)
        assert len(visitor.events) > 30 and tally.tried["file in a field"] > 100
        copies = [path for path in server.made() if CANARY in path.read_bytes().decode("latin-1")]
        assert (tally.faults, asked, copies) == ([], [], [])
        told, _ = visitor.segment("shipped/nuclei_cpu", visitor.upload("Jane Doe.png", bombs.honest_png()).json()[0])
        assert "ms on" in told and "Jane Doe.png" in told, "an honest upload is segmented as before"
        assert sum(path.suffix == ".png" for path in server.made()) > 1, "the upload and its mask"
        readable = [path for path in (server.home, *server.home.rglob("*")) if path.stat().st_mode & 0o077]
        assert readable == [], "others on this machine can read them"
    log = (server.home / "page.log").read_text()
    assert "Jane" not in log and "Traceback" not in log, log
