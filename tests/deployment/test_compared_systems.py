"""SAM-Fed and pFedSAM at sites of their own equal the same runs in one process, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli import main
from engine.data.phantoms import write_dataset
from engine.runs.store import RunStore
from tests.deployment.deployed import Deployed, deployed
from tests.deployment.test_whole_run import result, spread
from tests.patience import RUN_S, wait

SITES = ("guided_inset", "scope_octagon", "tower_hd")
"""The last one is held out."""
COMMON = {
    "device": "cpu", "threads": "1", "precision": "fp32", "data.source": "folder", "data.held_out": SITES[-1],
    "data.image_px": "64", "federation.rounds": "2", "evaluation.bootstrap_samples": "50",
}  # fmt: skip
SYSTEMS = {
    "pfedsam": {"student.weights": "sam-mini"},
    "samfed": {"public.epochs": "1", "public.teacher_epochs": "1", "samfed.ramp_rounds": "0"},
}
KINDS = {
    "pfedsam": {"student", "appearance"},
    "samfed": {"student", "public", "teacher", "appearance"},
}
"""What has to have crossed besides figures and what is measured."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(6 * RUN_S)]


def words(method: str, **more: str) -> list[str]:
    settings = {**COMMON, **SYSTEMS[method], "method": method, **more}
    return [
        "run", "--preset", "phantom_cpu_smoke", "--json",
        *(word for key, value in settings.items() for word in ("--set", f"{key}={value}")),
    ]  # fmt: skip


def public_set(folder: Path) -> Path:
    """Four images of a hospital that takes no part."""
    return write_dataset("polyp", folder, images_per_site=4, image_px=64, sites=("portable_yellow",))


def own_parts(folder: Path, *, name: str = "own_round_000002.safetensors") -> dict[str, bytes]:
    """What each site has kept of the model as its own, by its site."""
    found = {}
    for path in folder.rglob(name):
        (site,) = {part for part in path.parts if part in SITES}
        found[site] = path.read_bytes()
    return found


@pytest.mark.parametrize("method", sorted(SYSTEMS))
def test_a_system_across_sites_is_the_one_in_one_process(method: str, tmp_path: Path) -> None:
    root = write_dataset("polyp", tmp_path / "all", images_per_site=6, image_px=64, sites=SITES)
    public = {"data.public_root": str(public_set(tmp_path / "public"))} if method == "samfed" else {}
    together = ["--set", f"data.root={root}", "--home", str(tmp_path / "together")]
    assert main([*words(method, **public), *together]) == 0
    with deployed(tmp_path / "deployed", sites=SITES) as world:
        up(world, root)
        where = ["--server", str(world.federation_folder), "--home", str(tmp_path / "apart")]
        assert main([*words(method, **public), "--set", "data.root=none", *where]) == 0
        kept = own_parts(tmp_path / "deployed")
    (models, about), (models_apart, about_apart) = result(tmp_path / "together"), result(tmp_path / "apart")
    assert models.keys() == models_apart.keys() and models
    assert [name for name in models if models[name] != models_apart[name]] == []
    assert about == about_apart
    crossed = {kind for (_, _, kind), count in about["traffic"].items() if count}
    assert crossed - {"metrics", "evaluated", "figures"} == KINDS[method]
    if method == "pfedsam":
        (run,) = RunStore(tmp_path / "together").list()
        alike = own_parts(RunStore(tmp_path / "together").run_dir(run.run_id))
        assert kept == alike and set(kept) == set(SITES[:-1]), "each site's experts, at the site"
        assert len(set(kept.values())) == len(kept), "and they differ"


def up(world: Deployed, root: Path) -> None:
    """Start server and sites, each with its own images; every site takes part by its rules."""
    spread(world, root)
    for site in world.sites:
        (world.folder / "at" / site / "policy.toml").write_text('approval = "automatic"\n', encoding="utf-8")
    world.start_server()
    for site in world.sites:
        world.start_site(site, env={"DSFEDMED_SITE_PROGRAM": "engine.site.deployed:program"})
    wait(lambda: world.online() == set(world.sites))
