"""A whole run goes on without what sites keep back, and without a site whose program has gone for good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli import main
from engine.data.phantoms import write_dataset
from engine.runs.generator_checks import read_checks
from engine.runs.store import RunStore
from engine.site.audit import AuditLog
from engine.site.consent import AUDIT_FILE
from engine.site.policy import Decisions
from tests.deployment.deployed import deployed
from tests.deployment.test_whole_run import SITES, spread, status_of
from tests.patience import RUN_S, wait

CAREFUL, RULED, LEAVES, UNSEEN = "tower_hd", "scope_octagon", "portable_yellow", "guided_inset"
RULES = 'approval = "automatic"\nkinds = ["student", "masks", "figures", "appearance"]\n'
SETTINGS = (
    "device=cpu", "threads=1", "data.source=folder", f"data.held_out={UNSEEN}", "release.on_withheld=skip",
    "federation.on_failure=skip", "generation.released_share=0.5",
)  # fmt: skip
pytestmark = [pytest.mark.slow, pytest.mark.timeout(6 * RUN_S)]


def is_drawn(home: Path, run_id: str) -> bool:
    store = RunStore(home)
    try:
        return {stage.name: stage.status for stage in store.stages(run_id)}["generation"] == "finished"
    finally:
        store.close()


def test_one_keeps_its_generator_by_approval_one_by_rule_and_a_third_leaves(tmp_path: Path) -> None:
    """The third answers the rounds, is asked for its generator, and goes: nothing is left to draw with but it was."""
    root = write_dataset("polyp", tmp_path / "all", images_per_site=8, image_px=64)
    home = tmp_path / "home"
    words = [word for text in SETTINGS for word in ("--set", text)]
    with deployed(tmp_path / "deployed", sites=SITES) as world:
        spread(world, root)
        at = world.folder / "at"
        (at / RULED / "policy.toml").write_text(RULES, encoding="utf-8")
        world.start_server()
        program = {"DSFEDMED_SITE_PROGRAM": "engine.site.deployed:program"}
        started = {site: world.start_site(site, env=program) for site in SITES}
        wait(lambda: world.online() == set(SITES))
        where = ["--server", str(world.federation_folder), "--home", str(home)]
        asks = ["run", "--preset", "phantom_cpu_smoke", *words, *where, "--json", "--detach"]
        submitted = world.start(*asks, name="submitted")
        assert submitted.process.wait(timeout=RUN_S) == 0, submitted.said()
        run_id = json.loads(submitted.said())["run_id"]
        wait(lambda: any(run["run"] == run_id for run in Decisions(at / CAREFUL).all()), timeout_s=RUN_S)
        partly = ["--without", "generator", "--without", "masks"]
        assert main(["site", "approve", str(at / CAREFUL), run_id, *partly]) == 0
        wait(lambda: is_drawn(home, run_id), timeout_s=2 * RUN_S)
        assert started[LEAVES].terminate() == 0
        wait(lambda: status_of(home, run_id) in ("finished", "failed"), timeout_s=4 * RUN_S)
        records = {site: AuditLog(at / site / AUDIT_FILE).entries() for site in SITES}
    left = {site: {e["kind"] for e in lines if e["event"] == "left" and e["bytes"]} for site, lines in records.items()}
    store = RunStore(home)
    run = store.get(run_id)
    told = [event.text for event in store.events(run_id, limit=500)]
    measured = {(row.split, row.site) for row in store.evaluation(run_id)}
    folder = store.run_dir(run_id)
    store.close()
    assert run.status == "finished", run.error
    for site in (CAREFUL, RULED):
        assert not {"generator", "masks"} & left[site] and "student" in left[site]
        assert read_checks(folder)[site]["state"] == "withheld"
        assert any(f"{site} withholds its generator" in line for line in told)
    assert {"student", "generator", "masks"} <= left[LEAVES]
    assert {path.name for path in (folder / "generators").iterdir()} == {LEAVES}
    assert measured == {("test", UNSEEN), ("validation", CAREFUL), ("validation", RULED)}
    assert any(line.startswith(f"{LEAVES} is without the distilled student: the run goes on.") for line in told)
    assert any(line.startswith(f"{LEAVES} measures nothing: the run goes on without it.") for line in told)
