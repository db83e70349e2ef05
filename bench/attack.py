"""Attacks on the page, as a visitor would make them: ``python -m bench.attack``.

Starts a server in each mode, posts file payloads to every event that its configuration lists, names other hosts and
origins, tries what its role does not allow, fills its quotas and feeds it files that are small on the disk and large
in memory. Prints what was tried and refused; exits with 1 if anything was read, done or took more than 1 GiB.
"""

from __future__ import annotations

import argparse
import http.server
import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import bombs
from bench.attack_api import attack_endpoints
from bench.attack_client import API, Server, Visitor, serving
from bench.attack_people import BEHIND_PROXY, NAMED_IN, PASSWORD, attack_proxy, attack_sign_in, users_file
from engine.config import load_config
from engine.runs.store import RunStore

CANARY = "canary-3f9c2a77-do-not-read"
MOST_BYTES = 2**30
TOLD_WITHIN_S = 1.0
FLOOD = 300
ACTS = ("cancel-yes", "extend-yes", "resume", "drop-yes", "delete-yes")
"""What is done to a run that is there."""


@dataclass
class Tally:
    """What was tried, by kind, and what came of it."""

    tried: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    harmless: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def note(self, kind: str, *, refused: bool) -> None:
        """Count one attempt that was refused, or answered without doing harm."""
        self.tried[kind] += 1
        (self.refused if refused else self.harmless)[kind] += 1

    def must(self, kind: str, *, refused: bool, told: str) -> None:
        """Count one attempt that has to be refused."""
        self.note(kind, refused=refused)
        if not refused:
            self.faults.append(f"{kind}: {told}")

    def show(self, mode: str, peak_bytes: int) -> None:
        """Print the table of one server."""
        print(f"\n{mode}\n{'':2}{'kind':34}{'tried':>7}{'refused':>9}{'without effect':>16}")
        for kind, count in self.tried.items():
            print(f"{'':2}{kind:34}{count:7}{self.refused[kind]:9}{self.harmless[kind]:16}")
        print(f"  peak memory of the server {peak_bytes / 2**20:,.0f} MiB")


@contextmanager
def sink() -> Iterator[tuple[str, list[str]]]:
    """Serve an address that only notes who asks: nobody should."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()


def payloads(canary: Path, home: Path, address: str) -> dict[str, Any]:
    """Return values that name a file of the server, or an address that it should ask, by the kind of attack."""
    meta = {"_type": "gradio.FileData"}
    named = {"path": str(canary), "meta": meta}
    return {
        "file": named,
        "file in a list": [named, [named]],
        "file in a mapping": {"value": {"deep": [named]}, "__type__": "update"},
        "file as a stream": {**named, "is_stream": True},
        "file by a detour": {"path": f"{home}/page/../{canary.name}", "meta": meta},
        "database": {"path": str(home / "studio.sqlite"), "meta": meta},
        "address": {"path": f"{address}/path", "url": f"{address}/url", "meta": meta},
        "drawing": {"path": str(canary.with_suffix(".svg")), "meta": meta},
    }


def attack_events(visitor: Visitor, attacks: dict[str, Any], tally: Tally) -> None:
    """Post every payload in every place of every event, in the event's own data, and by every other route."""
    for event in visitor.events:
        honest = visitor.values(event)
        for kind, payload in attacks.items():
            for place in range(len(honest)):
                data = [*honest[:place], payload, *honest[place + 1 :]]
                _harmless(visitor, visitor.join(event["id"], data), f"{kind} in a field", tally)
            told = {"index": 0, "value": payload, **(payload if isinstance(payload, dict) else {})}
            _harmless(visitor, visitor.join(event["id"], honest, event_data=told), f"{kind} in event data", tally)
        for route in ("run/predict", "api/predict", "call/predict", "call/v2/predict", f"run/{event['api_name']}"):
            data = [attacks["file"]] * len(honest)
            answer = visitor.http.post(f"{API}/{route}", json={"data": data, "fn_index": event["id"]})
            tally.must("other routes of events", refused=answer.status_code >= 400, told=f"{route} {answer.text[:200]}")


def _harmless(visitor: Visitor, answer: Any, kind: str, tally: Tally) -> None:
    """Count an event that was refused, or was taken without its payload; what it gives is looked at in the end."""
    tally.note(kind, refused=answer.status_code >= 400)
    if answer.status_code == 200:
        told = json.dumps(visitor.wait())
        if CANARY in told:
            tally.faults.append(f"{kind}: the answer has the canary")
    elif CANARY in answer.text:
        tally.faults.append(f"{kind}: the refusal has the canary")


def attack_routes(visitor: Visitor, canary: Path, address: str, tally: Tally) -> None:
    """Ask every route of Gradio's that reads, fetches or writes something."""
    http, components = visitor.http, list(visitor.components)
    read = [f"{API}/file={name}" for name in (canary, visitor.server.home / "studio.sqlite", "/etc/passwd", address)]
    read += [f"{API}/file={visitor.server.home}/page/../{canary.name}", f"{API}/file/{canary}", f"/file={canary}"]
    read += [f"{API}/proxy={address}/x", f"{API}/stream/a/b/1/playlist-file", f"{API}/custom_component/a/b/c/d.js"]
    read += ["/monitoring", "/monitoring/summary", f"{API}/token", f"{API}/vibe-code/", f"{API}/openapi.json", "/docs"]
    read += [f"/static/{'a' * 300}", f"/assets/{'b' * 300}", f"{API}/file={visitor.server.home}/{'a' * 300}"]
    read += [f"{API}/runs", "/?deep_link=../../x", "/config?deep_link=../../x", f"{API}/queue/status", "/dev/reload"]
    for route in read:
        answer = http.get(route)
        tally.must("routes that read", refused=answer.status_code >= 400, told=f"{route} {answer.status_code}")
    for number in components:
        body = {"data": str(canary), "component_id": number, "fn_name": "ls", "session_hash": "a"}
        answer = http.post(f"{API}/component_server", json=body)
        tally.must("component functions", refused=answer.status_code >= 400, told=answer.text[:200])
    for route in ("process_recording", "vibe-edit", "vibe-code/", "stream/x", "run-history/connect", "login"):
        answer = http.post(f"{API}/{route}", files={"video": ("a.mp4", b"x")})
        tally.must("routes that write", refused=answer.status_code >= 400, told=f"{route} {answer.status_code}")


def attack_bodies(visitor: Visitor, tally: Tally) -> None:
    """Send bodies that are no event: huge, deep, not JSON, not numbers, of the wrong kind."""
    event = visitor.event("launch", "click")
    honest = visitor.values(event)
    number = next(at for at, value in enumerate(honest) if type(value) is int)
    words = next(at for at, value in enumerate(honest) if isinstance(value, str))
    for place, value in ((words, {"a": 1}), (words, [1]), (words, "x" * 10**5), (words, True), (number, 1e300),
                         (number, {"a": 1}), (number, "9" * 5000), (number, 10**400)):  # fmt: skip
        data = [*honest[:place], value, *honest[place + 1 :]]
        answer = visitor.join(event["id"], data)
        tally.must("values of the wrong kind", refused=answer.status_code >= 400, told=repr(value)[:60])
    start = f'{{"fn_index": {event["id"]}, "session_hash": "abc", "data": '.encode()
    raw = [b"", b"[]", b"{", start + b"[NaN]}", start + b"[Infinity]}", start + b"[1e999]}", b"\xff\xfe", b"null"]
    raw += [bombs.deep_json(30_000), b" " * 10**6, start + bombs.deep_json(10_000) + b"}"]
    for body in raw:
        answer = visitor.http.post(f"{API}/queue/join", content=body, headers={"content-type": "application/json"})
        tally.must("bodies that are no event", refused=400 <= answer.status_code < 500, told=repr(body[:60]))


def attack_names(server: Server, headers: dict[str, str], tally: Tally) -> None:
    """Reach the page under other names, and from the pages of others."""
    visitor = Visitor(server, headers)
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "2130706433"):
        answer = visitor.http.get("/", headers={"host": host})
        tally.must("other hosts", refused=answer.status_code >= 400, told=host)
    answer = visitor.http.get("/", headers={"x-forwarded-host": "evil.example"})
    tally.must("other hosts", refused=answer.status_code >= 400, told="x-forwarded-host")
    for origin in ("https://evil.example", "null", "http://localhost:1", f"{server.address}.evil.example"):
        for method, route in (("POST", f"{API}/queue/join"), ("POST", f"{API}/upload"), ("GET", "/config"),
                              ("OPTIONS", f"{API}/queue/join"), ("POST", "/sign-out")):  # fmt: skip
            answer = visitor.http.request(method, route, headers={"origin": origin})
            tally.must("other origins", refused=answer.status_code >= 400, told=f"{origin} {method} {route}")
            if answer.headers.get("access-control-allow-origin"):
                tally.faults.append(f"other origins: {origin} may read answers")
    answer = visitor.http.post(f"{API}/queue/join", headers={"sec-fetch-site": "cross-site"})
    tally.must("other origins", refused=answer.status_code >= 400, told="sec-fetch-site")


def attack_runs(visitor: Visitor, run_id: str, tally: Tally) -> None:
    """Start, stop, go on with, join and delete as somebody who may not; the store tells whether it was done."""
    store = RunStore(visitor.server.home)
    before = [(run.run_id, run.status, run.config_hash) for run in store.list()]
    for elem_id in ("launch", "plan", *ACTS, "join", "join-plan"):
        event = visitor.event(elem_id, "click")
        values = visitor.values(event, run=run_id, **{"extend-rounds": 3, "join-sites": "tower_hd"})
        told = json.dumps(visitor.call(event["id"], values))
        after = [(run.run_id, run.status, run.config_hash) for run in store.list()]
        refused = after == before and ("error-box" in told or elem_id in ("plan", "join-plan"))
        tally.must("acts of a viewer", refused=refused, told=f"{elem_id} {told[:300]}")
    store.close()


def attack_demo(server: Server, foreign: str, tally: Tally) -> None:
    """As a visitor of a demonstration: other settings, server paths, somebody else's run, a second run."""
    visitor, store = Visitor(server), RunStore(server.home)
    visitor.open()
    launch = visitor.event("launch", "click")
    wrong = {"field-federation-rounds": 10**9, "field-generator-steps": 10**9, "field-data-image_px": 2048,
             "field-data-images_per_site": 10**5, "field-student-weights": "/etc/passwd",
             "field-generator-backbone": "/etc", "field-method": "fedtinysam"}  # fmt: skip
    for key, value in wrong.items():
        told = json.dumps(visitor.call(launch["id"], visitor.values(launch, **{key: value})))
        tally.must("a demo with other settings", refused="error-box" in told, told=f"{key} {told[:200]}")
    look = visitor.event("data-look", "click")
    for key, value in {"field-data-images_per_site": 10**5, "field-data-image_px": 2048}.items():
        told = json.dumps(visitor.call(look["id"], visitor.values(look, **{key: value})))
        tally.must("a demo with other images", refused="error-box" in told, told=f"{key} {told[:200]}")
    root = {"field-data-source": "folder", "field-data-root": "/etc"}
    there = json.dumps(visitor.call(launch["id"], visitor.values(launch, **root))["data"])
    root["field-data-root"] = "/etc/no-such-folder"
    absent = json.dumps(visitor.call(launch["id"], visitor.values(launch, **root))["data"])
    tally.must("server paths", refused=there == absent and "error-box" in there, told=there[:300])
    for elem_id in ACTS:
        event = visitor.event(elem_id, "click")
        told = json.dumps(visitor.call(event["id"], visitor.values(event, run=foreign, **{"extend-rounds": 1})))
        tally.must("somebody else's run", refused="is not yours" in told, told=f"{elem_id} {told[:200]}")
    event, before = visitor.event("join", "click"), len(store.list())
    told = json.dumps(visitor.call(event["id"], visitor.values(event, run=foreign, **{"join-sites": "tower_hd"})))
    refused = "error-box" in told and len(store.list()) == before
    tally.must("somebody else's run", refused=refused, told=f"join {told[:200]}")
    honest = visitor.values(launch)
    before = len(store.list())
    visitor.call(launch["id"], honest)
    if len(store.list()) != before + 1:
        tally.faults.append("demo: an honest launch was refused")
    told = json.dumps(visitor.call(launch["id"], honest))
    tally.must("a second run at a time", refused="error-box" in told, told=told[:200])
    for _ in range(12):
        other = Visitor(server)
        other.open()
        other.call(launch["id"], honest)
    active = [run for run in store.list() if run.active]
    tally.must("a run for every cookie", refused=len(active) <= 4, told=f"{len(active)} wait")
    store.close()


def attack_quotas(server: Server, headers: dict[str, str], tally: Tally) -> None:
    """Upload more, larger and other things than a visitor may."""
    visitor = Visitor(server, headers)
    answer = visitor.upload("large.png", bytes(3 * 2**20))
    tally.must("an upload above the limit", refused=answer.status_code == 413, told=str(answer.status_code))
    for _ in range(9):
        visitor.upload("patient-name.png", bombs.honest_png())
    held = [path for path in server.made() if path.name == "image.png"]
    tally.must("more files than one may have", refused=len(held) <= 4, told=f"{len(held)} are kept")
    answers = [Visitor(server, headers | {"x-forwarded-for": str(at)}).upload("a.png", b"x") for at in range(12)]
    held = [path for path in server.made() if "uploads" in path.parts]
    tally.must("more files than all may have", refused=len(held) <= 8, told=f"{len(held)} {answers[-1].status_code}")
    stolen = Visitor(server, headers).http.get(f"{API}/file={server.home}/page/session_secret")
    tally.must("the cookies' secret", refused=stolen.status_code >= 400, told=stolen.text[:40])
    if "patient-name" in (server.home / "page.log").read_text():
        tally.faults.append("the name of an upload is in the log")


def attack_queue(server: Server, visitor: Visitor, headers: dict[str, str], tally: Tally) -> None:
    """Ask for more than is answered, and read no answer; somebody else is taken all the same."""
    path = visitor.upload("eye.png", bombs.honest_png()).json()[0]
    event, data = visitor.segmenting("shipped/nuclei_cpu", path)
    with ThreadPoolExecutor(16) as pool:
        statuses = Counter(pool.map(lambda _: visitor.join(event, data).status_code, range(FLOOD)))
    for status, count in statuses.items():
        for _ in range(count):
            tally.note("events that nobody waits for", refused=status == 429)
    if set(statuses) != {200, 429}:
        tally.faults.append(f"a flood of events: {dict(statuses)}")
    other = Visitor(server, headers)
    other.open()
    event, data = other.segmenting("shipped/nuclei_cpu", other.upload("eye.png", bombs.honest_png()).json()[0])
    if "ms on" not in (told := json.dumps(other.call(event, data))):
        tally.faults.append(f"a flood of events keeps others out: {told[:300]}")


def attack_memory(server: Server, tally: Tally, *, told_within_s: float) -> None:
    """Feed the page files that are small on the disk; every answer says so at once."""
    visitor = Visitor(server)
    visitor.open()
    model = "shipped/nuclei_cpu"
    honest = visitor.upload("eye.png", bombs.honest_png()).json()[0]
    told, _ = visitor.segment(model, honest)  # also loads the model, which is no part of what is timed
    if "ms on" not in told:
        tally.faults.append(f"an honest upload was not segmented: {told[:300]}")
    with tempfile.TemporaryDirectory() as folder:
        for bomb in bombs.write_all(Path(folder)):
            before = server.peak_bytes()
            path = visitor.upload(bomb.name, bomb.read_bytes()).json()[0]
            told, took_s = visitor.segment(model, path)
            refused, grown = "error-box" in told, (server.peak_bytes() - before) / 2**20
            tally.note(f"bomb {bomb.name}", refused=refused)
            size, end = bomb.stat().st_size / 1024, "refused" if refused else "shown"
            print(f"  {bomb.name}: {size:,.0f} KiB, peak +{grown:,.0f} MiB, {took_s:.2f} s, {end}")
            if refused and took_s > told_within_s:
                tally.faults.append(f"bomb {bomb.name}: told after {took_s:.1f} s")


def against(
    mode: str,
    home: Path,
    *options: str,
    told_within_s: float,
    headers: dict[str, str] | None = None,
    **environment: str,
) -> list[str]:
    """Attack one server and return what it did not withstand."""
    print(f"{mode} ...", flush=True)
    tally, headers = Tally(), headers or {}
    store = RunStore(home)
    foreign = store.create_run(load_config("phantom_cpu_smoke")).run_id
    store.set_status(foreign, "cancelled")
    store.close()
    canary = home / "canary.txt"
    for path in (canary, canary.with_suffix(".svg")):
        path.write_text(CANARY)
    limits = {"DSFEDMED_VISITOR_FILES": "4", "DSFEDMED_ALL_FILES": "8", "DSFEDMED_MAX_UPLOAD_MB": "2"}
    with serving(home, *options, **environment) as server, sink() as (address, asked):
        visitor = Visitor(server, headers)
        if mode == "sign-in":
            if visitor.sign_in("vera", PASSWORD) != 303:
                tally.faults.append("an honest sign-in was refused")
            attack_sign_in(server, tally)
        visitor.open()
        attacks = payloads(canary, home, address)
        other = {NAMED_IN: "anna"} if mode == "proxy" else headers
        attack_events(visitor, attacks, tally)
        attack_endpoints(visitor, attacks, canary, tally, mode=mode, other=Visitor(server, other))
        attack_routes(visitor, canary, address, tally)
        attack_bodies(visitor, tally)
        attack_names(server, headers, tally)
        if mode == "proxy":
            attack_proxy(server, tally)
        if mode in ("read-only", "sign-in", "proxy"):
            attack_runs(visitor, foreign, tally)
        if mode == "demo":
            attack_demo(server, foreign, tally)
        if mode in ("read-only", "demo"):
            attack_queue(server, visitor, headers, tally)
        if mode == "loopback":
            attack_memory(server, tally, told_within_s=told_within_s)
        tally.faults += [f"the server asked {path}" for path in asked]
        tally.faults += [f"a copy of the canary: {path}" for path in server.made() if CANARY in _text(path)]
        peak = server.peak_bytes()
    with serving(home / "small", *options, **environment, **limits) as server:
        if mode != "sign-in":
            attack_quotas(server, headers, tally)
    tally.show(mode, peak)
    if peak > MOST_BYTES:
        tally.faults.append(f"peak memory {peak / 2**20:,.0f} MiB")
    told = (home / "page.log").read_text()
    if "Traceback" in told or "unforeseen" in told:
        tally.faults.append(f"the log has a fault: {told[-600:]}")
    return [f"{mode}: {fault}" for fault in tally.faults]


def _text(path: Path) -> str:
    try:
        return path.read_bytes()[:4096].decode("latin-1")
    except OSError:  # deleted in the meantime
        return ""


def main(arguments: list[str] | None = None) -> int:
    """Attack the modes that were named, all by default."""
    parser = argparse.ArgumentParser(prog="python -m bench.attack", description=__doc__)
    modes = ("loopback", "read-only", "demo", "sign-in", "proxy")
    parser.add_argument("modes", nargs="*", default=modes, help=f"any of {', '.join(modes)}")
    parser.add_argument(
        "--told-within", type=float, default=TOLD_WITHIN_S, metavar="SECONDS", dest="told_within_s",
        help="a refused file is told within this time (default %(default)s, of a quiet machine)",
    )  # fmt: skip
    chosen = parser.parse_args(arguments)
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for mode in chosen.modes:
            options = {"loopback": [], "read-only": ["--read-only"], "demo": ["--access", "demo"]}.get(mode, [])
            if mode == "sign-in":
                options = ["--users", str(users_file(Path(folder) / "users.json"))]
            named = {"headers": {NAMED_IN: "vera"}, **BEHIND_PROXY} if mode == "proxy" else {}
            within = {"told_within_s": chosen.told_within_s}
            faults += against(mode, Path(folder) / mode, *options, **within, **named)
    print("\nnothing was read and nothing done" if not faults else "\nNOT withstood:")
    print("\n".join(f"  {fault}" for fault in faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
