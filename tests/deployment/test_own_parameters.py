"""Sites that keep layers of their own (FedBN) and a test set of the server's: across processes as in one, kills too."""

from __future__ import annotations

import json
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from engine.cli import main
from engine.data.phantoms import write_dataset
from engine.runs.store import RunStore
from tests.deployment.deployed import Deployed, deployed
from tests.deployment.test_whole_run import result, spread, status_of
from tests.patience import RUN_S, wait

SITES = ("portable_yellow", "tower_hd")
KILLED, KILLS = "tower_hd", 2
ROUNDS = 5
SETTINGS = {
    "method": "fedtinysam_fedbn", "device": "cpu", "threads": 1, "student.weights": "none", "data.source": "folder",
    "data.image_px": 32, "data.protocol": "fixed-test", "data.held_out": "none", "federation.rounds": ROUNDS,
    "federation.local_epochs": 4, "federation.on_failure": "retry", "evaluation.bootstrap_samples": 50,
}  # fmt: skip
pytestmark = [pytest.mark.slow, pytest.mark.timeout(6 * RUN_S)]


def kill_at_work(world: Deployed, *, round_number: int) -> None:
    """Send SIGKILL to the site's program once it has been asked for a round, and wait until it is there again."""
    log = world.folder / "at" / KILLED / "logs" / "site.log"
    before = log.read_text().count("was killed by SIGKILL")
    wait(lambda: f"Asked for train.student (round {round_number})." in log.read_text(), timeout_s=RUN_S)
    (process,) = (p.process for p in world.processes if p.output.name == f"{KILLED}.txt")
    with suppress(psutil.Error, ProcessLookupError):
        for child in psutil.Process(process.pid).children(recursive=True):
            os.kill(child.pid, signal.SIGKILL)
    wait(lambda: log.read_text().count("was killed by SIGKILL") > before, timeout_s=RUN_S)


def own_parts(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return the newest three of the site's own parts, by file."""
    return {path.name: load_file(path) for path in sorted(folder.glob("own_round_*.safetensors"))}


def test_own_parts_stay_and_a_killed_site_goes_on_with_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_dataset("polyp", tmp_path / "all", images_per_site=8, image_px=32)
    test = write_dataset("polyp", tmp_path / "test", images_per_site=3, image_px=32, seed=9)
    for table in test.rglob("meta.csv"):  # other patients, whatever the generator called them
        table.unlink()
    for folder in root.iterdir():
        if folder.is_dir() and folder.name not in SITES:
            shutil.rmtree(folder)
    values = {**SETTINGS, "data.test_root": str(test)}
    run = ["run", "--preset", "phantom_cpu_smoke", "--json"]
    run += [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    together, apart = tmp_path / "together", tmp_path / "apart"
    assert main([*run, "--set", f"data.root={root}", "--home", str(together)]) == 0
    with deployed(tmp_path / "deployed", sites=SITES) as world:
        spread(world, root)
        for site in SITES:
            (world.folder / "at" / site / "policy.toml").write_text('approval = "automatic"\n', encoding="utf-8")
        world.start_server()
        for site in SITES:
            world.start_site(site, env={"DSFEDMED_SITE_PROGRAM": "engine.site.deployed:program"})
        wait(lambda: world.online() == set(SITES), timeout_s=RUN_S)
        capsys.readouterr()
        where = ["--server", str(world.federation_folder), "--home", str(apart), "--detach"]
        assert main([*run, "--set", "data.root=none", *where]) == 0
        run_id = json.loads(capsys.readouterr().out)["run_id"]
        for round_number in (2, 4):
            kill_at_work(world, round_number=round_number)
        wait(lambda: status_of(apart, run_id) in ("finished", "failed"), timeout_s=4 * RUN_S)
        log = (world.folder / "at" / KILLED / "logs" / "site.log").read_text()
    (one, about), (other, about_apart) = result(together), result(apart)
    assert log.count("was killed by SIGKILL") == KILLS
    assert {"fedavg_student.safetensors", "personal_student.safetensors"} <= set(one) == set(other)
    assert [name for name in one if one[name] != other[name]] == []
    assert about == about_apart, "the test set's sites have their rows, and no byte of traffic"
    assert {site for site, _, _ in about["traffic"]} == set(SITES) < {site for _, site, _, _ in about["dice"]}
    store = RunStore(together)
    here = store.run_dir(store.list()[0].run_id) / "sites"
    store.close()
    for site in SITES:
        ours, theirs = own_parts(here / site), own_parts(world.folder / "at" / site / "runs" / run_id)
        assert f"own_round_{ROUNDS:06d}.safetensors" in ours and ours.keys() == theirs.keys()
        for name, arrays in ours.items():
            assert arrays and all(np.array_equal(arrays[key], theirs[name][key]) for key in arrays), (site, name)
    left = apart.rglob("own_round_*")
    assert list(left) == [], "no own part is at the server"
