"""A whole run of DSFedMed at four sites of their own equals the same run in one process, to the last bit."""

from __future__ import annotations

import getpass
import json
import shutil
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import expect

from bench.attack_client import serving
from engine.cli import main
from engine.data.phantoms import write_dataset
from engine.federation.task_titles import HOW_FAR_FROM
from engine.report.ledger import read_ledger
from engine.report.site_records import join_records
from engine.runs.store import RunStore
from engine.site.audit import AuditLog
from engine.site.consent import AUDIT_FILE
from engine.site.policy import Decisions
from tests.browsers import WAIT_MS, chromium
from tests.deployment.deployed import Deployed, can_hide, deployed, proxied
from tests.patience import RUN_S, wait

SITES = ("tower_hd", "scope_octagon", "guided_inset", "portable_yellow")
GATE = ("distillation.gate=best", "distillation.teacher_check=sites")
SET = [word for text in ("device=cpu", "threads=1", "data.source=folder", *GATE) for word in ("--set", text)]
CAREFUL = "tower_hd"
"""Its operator approves each run."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(6 * RUN_S)]


def spread(world: Deployed, root: Path) -> None:
    """Give each site its own images, and nobody else's, with the description that all share."""
    for site in world.sites:
        images = world.folder / "at" / site / "images"
        shutil.copy(root / "dataset.toml", images)
        shutil.copytree(root / site, images / site)
        rules = "automatic" if site != CAREFUL else "each_run"
        (world.folder / "at" / site / "policy.toml").write_text(f'approval = "{rules}"\n', encoding="utf-8")


def result(home: Path) -> tuple[dict[str, bytes], dict]:
    store = RunStore(home)
    (run,) = store.list()
    assert run.status == "finished", run.error
    folder = store.run_dir(run.run_id)
    models = {path.name: path.read_bytes() for path in (folder / "models").glob("*.safetensors")}
    table = {(r.model, r.site, r.split, r.class_name): r.dice for r in store.evaluation(run.run_id)}
    traffic: Counter[tuple[str, str, str]] = Counter()
    for message in read_ledger(store, run.run_id):
        if message.number < HOW_FAR_FROM:  # beside questions of sites elsewhere; how often, time says
            traffic[message.site, message.direction, message.kind] += message.payload_bytes
    store.close()
    return models, {"dice": table, "traffic": dict(traffic)}


def approve(folder: Path, run_id: str) -> None:
    """Approve the run as the site's operator, once it has asked."""
    wait(lambda: any(run["run"] == run_id for run in Decisions(folder).all()), timeout_s=RUN_S)
    assert main(["site", "runs", str(folder)]) == 0
    assert main(["site", "approve", str(folder), run_id]) == 0


def status_of(home: Path, run_id: str) -> str:
    store = RunStore(home)
    try:
        return store.get(run_id).status
    finally:
        store.close()


def follow_on_the_page(home: Path, run_id: str) -> None:
    """See the run at work and to its end on the page, as one of this machine's own."""
    with serving(home) as server, chromium() as browser:
        page, faults = browser.new_page(), []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"{server.address}/?run={run_id}")
        badge, rows = page.locator("#status .badge"), page.locator("#sites tbody tr")
        expect(badge).to_have_text("Running", timeout=WAIT_MS)
        expect(rows).to_have_count(len(SITES), timeout=1000 * RUN_S)
        expect(page.locator("#sites .state.asked, #sites .state.working").first).to_be_visible(timeout=1000 * RUN_S)
        expect(badge).to_have_text("Finished", timeout=4000 * RUN_S)
        page.reload()
        expect(rows).to_have_count(len(SITES), timeout=WAIT_MS)
        assert sorted(page.locator("#sites tbody th").all_inner_texts()) == sorted(SITES)
        assert page.locator("#sites td.failures details").count() == 0
        expect(page.locator("#results")).to_contain_text("TinySAM, mutually distilled", timeout=WAIT_MS)
        page.screenshot(path=home / "page.png", full_page=True)
        assert faults == []


@pytest.mark.parametrize("asynchronous", [False, True], ids=["in order", "generators beside the rounds"])
def test_a_run_across_sites_equals_the_run_in_one_process(asynchronous: bool, tmp_path: Path) -> None:
    root = write_dataset("polyp", tmp_path / "all", images_per_site=12, image_px=64)
    order = ["--set", f"generator.asynchronous={str(asynchronous).lower()}"]
    run = ["run", "--preset", "phantom_cpu_smoke", *SET, *order, "--json"]
    assert main([*run, "--set", f"data.root={root}", "--home", str(tmp_path / "together")]) == 0
    with deployed(tmp_path / "deployed", sites=SITES) as world, ExitStack() as proxy:
        spread(world, root)
        at, hides = world.folder / "at", can_hide()
        world.start_server(hidden=[at, root] if hides else [])
        outside = None  # as hospitals reach it, where this machine has the proxy
        if not asynchronous and shutil.which("nginx"):
            outside = proxy.enter_context(proxied(world, name="nginx"))
        for site in SITES:  # each with a folder that no other process of the federation can open
            others = [root, *(at / other for other in SITES if other != site)] if hides else []
            program = {"DSFEDMED_SITE_PROGRAM": "engine.site.deployed:program"}
            world.start_site(site, server=outside, env=program, hidden=others)
        wait(lambda: world.online() == set(SITES))
        where = ["--server", str(world.federation_folder), "--home", str(tmp_path / "apart")]
        asks = [*run, "--set", "data.root=none", *where, "--detach"]
        submitted = world.start(*asks, name="submitted", hidden=[at, root] if hides else [])
        assert submitted.process.wait(timeout=RUN_S) == 0, submitted.said()
        run_id = json.loads(submitted.said())["run_id"]
        approve(world.folder / "at" / CAREFUL, run_id)
        if asynchronous:
            wait(lambda: status_of(tmp_path / "apart", run_id) in ("finished", "failed"), timeout_s=4 * RUN_S)
        else:
            follow_on_the_page(tmp_path / "apart", run_id)
        records = {site: AuditLog(world.folder / "at" / site / AUDIT_FILE).entries() for site in SITES}
    (together, about), (apart, about_apart) = result(tmp_path / "together"), result(tmp_path / "apart")
    assert set(together) == set(apart) and len(together) >= 4
    assert [name for name in together if together[name] != apart[name]] == []
    if asynchronous:  # a site at work beside the rounds is asked again, and that is counted
        for told in (about, about_apart):
            told["traffic"] = {key: n for key, n in told["traffic"].items() if key[2] != "metrics"}
    assert about == about_apart
    store = RunStore(tmp_path / "apart")
    ledger = read_ledger(store, run_id)
    store.close()
    proofs = join_records(ledger, records, run_id=run_id)
    for site, entries in records.items():
        left: Counter[str] = Counter()
        for entry in entries:
            if entry["event"] == "left" and entry["run"] == run_id and entry["bytes"]:
                left[entry["kind"]] += entry["bytes"]
        counted = {kind: n for (at, way, kind), n in about["traffic"].items() if (at, way) == (site, "up")}
        counted.pop("metrics", None)
        assert left == counted, "the site's own record has what the server has counted"
        asked_by = {entry["approved_by"] for entry in entries if entry["event"] == "left" and entry["bytes"]}
        up = [m for m in ledger if (m.site, m.direction) == (site, "up") and m.kind != "metrics"]
        assert up and all(m in proofs.of for m in up), proofs.said
        assert asked_by == ({getpass.getuser()} if site == CAREFUL else {"the site's rules"})
