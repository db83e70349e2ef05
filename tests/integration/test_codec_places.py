"""Coded rounds of the real student wherever its sites are: the same bits, the same bytes, and those of the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from engine.config import RunConfig, load_config
from engine.data.phantoms import write_dataset
from engine.federation.sites import QUERIES_FROM
from engine.planning.model_keys import model_keys
from engine.planning.plan import plan
from engine.site.audit import AuditLog
from engine.site.consent import AUDIT_FILE
from engine.stages.federated_training import FederatedTraining
from engine.types import Traffic
from tests.patience import RUN_S
from tests.unit.deployed_world import StandingAlone

pytestmark = pytest.mark.timeout(RUN_S)
SITES = ("portable_yellow", "tower_hd")
ROUNDS = 3
WHOLE = sum(key.num_bytes for key in model_keys("tinysam/mini", num_classes=1))


def config_of(root: Path | None, steps: list[str], **more: Any) -> RunConfig:
    values: dict[str, Any] = {
        "method": "fedtinysam", "data.source": "folder", "data.image_px": 32, "data.held_out": "guided_inset",
        "data.sites": (*SITES, "guided_inset"), "device": "cpu", "threads": 1, "student.weights": None,
        "federation.rounds": ROUNDS, "federation.codec": steps, "federation.codec_down": steps,
    }  # fmt: skip
    where = {"data.root": str(root)} if root else {"backend": "superlink", "server": "/nowhere"}
    return load_config("phantom_cpu_smoke", overrides={**values, **where, **more})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sites = (*SITES, "guided_inset")
    return write_dataset("polyp", tmp_path_factory.mktemp("images"), images_per_site=4, image_px=32, sites=sites)


def of_rounds(records: list[Traffic], site: str, direction: str) -> int:
    rows = [r for r in records if (r.site, r.direction, r.kind) == (site, direction, "student")]
    return sum(row.payload_bytes for row in rows if row.round < QUERIES_FROM)


def trained(world: StandingAlone, config: RunConfig, folder: Path) -> tuple[dict[str, Any], list[Traffic]]:
    context, told = world.context(config, folder)
    FederatedTraining().run(context)
    context.close()
    return load_file(folder / "models" / "fedavg_student.safetensors"), told.crossed


@pytest.mark.parametrize(
    ("steps", "places"),
    [
        pytest.param(["topk", "int8"], ("apart",), id="topk+int8"),
        pytest.param(["topk", "int8"], ("beside",), id="topk+int8 on Ray", marks=pytest.mark.slow),
        pytest.param(["fp16", "zstd"], ("apart",), id="fp16+zstd", marks=pytest.mark.slow),
    ],
)
def test_coded_rounds_are_the_same_wherever_the_sites_are(
    steps: list[str], places: tuple[str, ...], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = StandingAlone(monkeypatch, root, tmp_path / "at", sites=(*SITES, "guided_inset"))
    model, crossed = trained(world, config_of(root, steps), tmp_path / "together")
    configs = {"apart": config_of(None, steps), "beside": config_of(root, steps, backend="ray", workers=2)}
    for name in places:
        other, other_crossed = trained(world, configs[name], tmp_path / name)
        assert model.keys() == other.keys() and all((model[key] == other[key]).all() for key in model), name
        order = [sorted(records, key=repr) for records in (crossed, other_crossed)]
        assert [r for r in order[0] if r.kind == "student"] == [r for r in order[1] if r.kind == "student"], name
    planned = {
        (row.site, row.direction): row.payload_bytes
        for row in plan(config_of(root, steps), home=tmp_path, only_costs=True).traffic
        if row.kind == "student"
    }
    for site in SITES:
        up, down = of_rounds(crossed, site, "up"), of_rounds(crossed, site, "down")
        most_up, most_down = planned[site, "up"], planned[site, "down"] - WHOLE  # which is validated at the end
        if "zstd" in steps:
            assert up < most_up and down < most_down
        else:
            assert (up, down) == (most_up, most_down)
        assert up < 0.6 * ROUNDS * WHOLE
        if "apart" not in places:
            continue
        left = [e["bytes"] for e in AuditLog(tmp_path / "at" / site / AUDIT_FILE).entries() if e["event"] == "left"]
        assert sum(left) == up, "a site's own record has what the server has counted"
