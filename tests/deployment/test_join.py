"""A site joins a finished run of sites of their own, and is asked like any other; one process gives the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli import main
from engine.data.phantoms import write_dataset
from engine.federation import connect
from engine.runs.store import RunStore
from engine.site.audit import AuditLog
from engine.site.consent import AUDIT_FILE
from tests.deployment.deployed import deployed
from tests.deployment.test_whole_run import CAREFUL, SET, SITES, approve, spread, status_of
from tests.patience import RUN_S, wait

NEW, UNSEEN = CAREFUL, "guided_inset"
OLD = tuple(sorted({*SITES} - {NEW, UNSEEN}))
PROGRAM = {"DSFEDMED_SITE_PROGRAM": "engine.site.deployed:program"}
SMALL = [
    word
    for text in (
        f"data.sites={json.dumps(OLD)}", f"data.held_out={UNSEEN}", "data.validation_fraction=0.3",
        "federation.rounds=1", "generator.steps=2", "generation.max_masks_per_site=2", "generation.sampler_steps=1",
        "foundation.epochs=1", "distillation.epochs=1", "evaluation.bootstrap_samples=20",
    )
    for word in ("--set", text)
]  # fmt: skip
pytestmark = [pytest.mark.slow, pytest.mark.timeout(6 * RUN_S)]


def models(home: Path, run_id: str) -> dict[str, bytes]:
    store = RunStore(home)
    folder = store.run_dir(run_id)
    store.close()
    kept = [*(folder / "models").glob("*.safetensors"), *(folder / "generators").rglob("*.safetensors")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


def test_a_site_that_joins_is_asked_like_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_dataset("polyp", tmp_path / "all", images_per_site=8, image_px=64)
    run, home = ["run", "--preset", "phantom_cpu_smoke", *SET, *SMALL, "--json"], tmp_path / "together"
    assert main([*run, "--set", f"data.root={root}", "--home", str(home)]) == 0
    capsys.readouterr()
    assert main(["join", "last", NEW, "--home", str(home), "--json"]) == 0
    together = models(home, json.loads(capsys.readouterr().out)["run_id"])
    with deployed(tmp_path / "deployed", sites=SITES) as world:
        spread(world, root)
        world.start_server()
        for site in (*OLD, UNSEEN):
            world.start_site(site, env=PROGRAM)
        wait(lambda: world.online() == {*OLD, UNSEEN})
        home = tmp_path / "apart"
        where = ["--server", str(world.federation_folder), "--home", str(home)]
        assert main([*run, "--set", "data.root=none", *where]) == 0, "without the site that is not there yet"
        capsys.readouterr()
        monkeypatch.setattr(connect, "ASKED_S", 3.0)
        join = ["join", "last", NEW, "--home", str(home), "--json"]
        assert main([*join, "--detach"]) == 2
        told = json.loads(capsys.readouterr().out)["error"]
        assert NEW in told["what"] and told["fix"], told
        world.start_site(NEW, env=PROGRAM)
        wait(lambda: world.online() == set(SITES))
        monkeypatch.setattr(connect, "ASKED_S", 60.0)
        assert main([*join, "--detach"]) == 0
        child = json.loads(capsys.readouterr().out)["run_id"]
        approve(world.folder / "at" / NEW, child)
        wait(lambda: status_of(home, child) in ("finished", "failed"), timeout_s=4 * RUN_S)
        left = {
            site: {entry["kind"] for entry in AuditLog(world.folder / "at" / site / AUDIT_FILE).entries()
                   if entry["event"] == "left" and entry["run"] == child and entry["bytes"]}
            for site in SITES
        }  # fmt: skip
    assert status_of(home, child) == "finished"
    apart = models(home, child)
    assert together.keys() == apart.keys() and [name for name in apart if apart[name] != together[name]] == []
    assert left == {site: {"figures", "appearance"} for site in OLD} | {
        UNSEEN: {"figures"},
        NEW: {"figures", "generator", "masks", "appearance"},
    }
