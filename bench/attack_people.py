"""Attacks on how the page knows people: guessed and forged sign-ins, and names that no proxy has given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from bench.attack_client import API, Server, Visitor

if TYPE_CHECKING:
    from bench.attack import Tally

PASSWORD = "a password of the bench"
USERS = "app.users"
NAMED_IN = "x-remote-user"
"""The header in which a trusted proxy names who asks."""
BEHIND_PROXY = {
    "DSFEDMED_ACCESS": "proxy",
    "DSFEDMED_PROXY_USER_HEADER": NAMED_IN,
    "DSFEDMED_PROXY_ADDRESSES": "127.0.0.1",
    "DSFEDMED_PROXY_OPERATORS": "opa",
}


def attack_sign_in(server: Server, tally: Tally) -> None:
    """Without an account, and with guessed passwords."""
    nobody = Visitor(server)
    for method, route in (("GET", "/config"), ("POST", f"{API}/queue/join"), ("POST", f"{API}/upload")):
        answer = nobody.http.request(method, route)
        tally.must("without an account", refused=answer.status_code == 401, told=f"{route} {answer.status_code}")
    nobody.http.cookies.set("dsfedmed_1", "eyJ1c2VyIjogIm9wYSJ9.forged.signature")
    tally.must("a forged cookie", refused=nobody.http.get("/config").status_code == 401, told="taken")
    statuses = [nobody.sign_in("opa", f"guess {number}") for number in range(7)]
    tally.must("guessed passwords", refused=statuses[-1] == 429 and 303 not in statuses, told=str(statuses))


def attack_proxy(server: Server, tally: Tally) -> None:
    """As the proxy itself with names that are none, and past the proxy, from another address of this machine."""
    wrong: list[dict[str, str]] = [{}, {NAMED_IN: ""}, {"x-forwarded-user": "opa"}]
    for headers in wrong:
        answer = Visitor(server, headers).http.get("/config")
        tally.must("without a name", refused=answer.status_code == 401, told=f"{headers} {answer.status_code}")
    twice = [(NAMED_IN, "vera"), (NAMED_IN, "opa")]
    answer = httpx.get(f"{server.address}/config", headers=twice)
    tally.must("with two names", refused=answer.status_code == 401, told=str(answer.status_code))
    forged = {NAMED_IN: "opa", "x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1"}
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2"), base_url=server.address) as stranger:
        for route in ("/", "/config", f"{API}/file=/etc/passwd"):
            answer = stranger.get(route, headers=forged)
            tally.must("past the proxy", refused=answer.status_code == 403, told=f"{route} {answer.status_code}")
        answer = stranger.post(f"{API}/queue/join", headers=forged, json={})
        tally.must("past the proxy", refused=answer.status_code == 403, told=str(answer.status_code))


def users_file(path: Path) -> Path:
    """Write a viewer and an operator with the page's own command."""
    for name, role in (("vera", "viewer"), ("opa", "operator")):
        command = [sys.executable, "-m", USERS, str(path), "add", name, "--role", role, "--password-stdin"]
        subprocess.run(command, input=PASSWORD, text=True, check=True)
    return path
