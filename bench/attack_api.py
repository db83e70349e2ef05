"""Attacks on the page's endpoints for programs; ``bench.attack`` runs them against a server of each kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import bombs
from bench.attack_client import Visitor
from engine.config_keys import place_keys
from engine.runs.store import RunStore

if TYPE_CHECKING:
    from bench.attack import Tally

PRESET = "phantom_cpu_smoke"
MODEL = "shipped/nuclei_cpu"


def attack_endpoints(
    visitor: Visitor, attacks: dict[str, Any], canary: Path, tally: Tally, *, mode: str, other: Visitor
) -> None:
    """Send what is no value, name files and runs, and start what may not be started."""
    named = {event["api_name"]: event["id"] for event in visitor.events if event["api_name"] in ENDPOINTS}
    if set(named) != set(ENDPOINTS):
        tally.faults.append(f"endpoints: the page has {sorted(named)}")
        return
    own = visitor.upload("eye.png", bombs.honest_png()).json()[0]
    honest = ENDPOINTS | {"segment": [_file(own), MODEL, 1, True, "", ""]}
    for name, values in honest.items():
        for kind, payload in attacks.items():
            for place in range(len(values)):
                answer = visitor.join(named[name], [*values[:place], payload, *values[place + 1 :]])
                refused = answer.status_code == 400 and "detail" in answer.json()
                tally.must("payloads to endpoints", refused=refused, told=f"{name} {kind} {answer.text[:200]}")
    if mode not in ("loopback", "sign-in"):  # in the one all tabs are one visitor's, in the other nobody else is there
        foreign = other.upload("eye.png", bombs.honest_png()).json()[0]
        answer = visitor.join(named["segment"], [_file(foreign), MODEL, 1, True, "", ""])
        tally.must("somebody else's upload", refused=answer.status_code == 400, told=answer.text[:200])
    _attack_names(visitor, named, canary, tally)
    if mode != "loopback":
        _attack_configurations(visitor, named, tally, mode=mode)


def _attack_names(visitor: Visitor, named: dict[str, int], canary: Path, tally: Tally) -> None:
    """Name files where a run, a model or a preset is named."""
    for name in (str(canary), f"../{canary.name}", "..", "a\0b", "/etc/passwd", "x" * 3000, "run/../../x"):
        own = visitor.upload("eye.png", bombs.honest_png()).json()[0]
        calls = {"status": [name], "report": [name], "plan": ["", name], "submit": ["", name]}
        for endpoint, values in {**calls, "segment": [_file(own), name, 1, True, "", ""]}.items():
            told = json.dumps(visitor.call(named[endpoint], values))
            refused = '"error": "' in told and "did not foresee" not in told
            tally.must("names of files to endpoints", refused=refused, told=f"{endpoint} {name[:60]} {told[:200]}")


def _attack_configurations(visitor: Visitor, named: dict[str, int], tally: Tally, *, mode: str) -> None:
    """Name the server's folders in a configuration, and start a run as somebody who may only look."""
    for key in place_keys():
        section, _, leaf = key.rpartition(".")
        told = set()
        for place in ("/etc", "/etc/no-such-folder", "/root"):
            values = {leaf: place, **({"source": "folder"} if section == "data" else {})}
            text = json.dumps({section: values} if section else values)
            told |= {json.dumps(visitor.call(named[name], [text, PRESET])["error"]) for name in ("plan", "submit")}
        refused = len(told) == 1 and "null" not in told
        tally.must("server paths to endpoints", refused=refused, told=f"{key} {told!s:.300}")
    if mode == "demo":
        return
    store = RunStore(visitor.server.home)
    before = len(store.list())
    answers = [visitor.call(named[name], ["", PRESET]) for name in ("plan", "submit")]
    refused = len(store.list()) == before and all(answer.get("error") for answer in answers)
    tally.must("acts of a viewer at endpoints", refused=refused, told=str(answers)[:300])
    store.close()


def _file(path: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


ENDPOINTS: dict[str, list[Any]] = {
    "models": [], "segment": [], "plan": ["", PRESET], "submit": ["", PRESET], "status": ["x"], "list": [20],
    "report": ["x"],
}  # fmt: skip
"""What an honest program sends."""
