"""A test set of the server's own beside sites at other machines: measured as in one process, and nothing crosses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from engine.config import RunConfig, load_config
from engine.data.phantoms import write_dataset
from engine.errors import UserError
from engine.federation.backends.participants import for_sites, participants
from engine.federation.connect import describe
from engine.federation.task_titles import HOW_FAR_FROM
from engine.stages.evaluation import Evaluation
from engine.stages.federated_training import FederatedTraining
from tests.unit.deployed_world import StandingAlone, rows_of

SITES = ("portable_yellow", "tower_hd")


def config_of(root: Path | None, test_root: Path, **more: object) -> RunConfig:
    values: dict[str, object] = {
        "method": "fedtinysam", "data.source": "folder", "data.image_px": 32, "data.sites": SITES,
        "data.protocol": "fixed-test", "data.held_out": None, "data.test_root": str(test_root), "device": "cpu",
        "threads": 1, "student.weights": None, "federation.rounds": 1, "evaluation.bootstrap_samples": 50,
        "federation.patience": None,
    }  # fmt: skip
    where = {"data.root": str(root)} if root else {"backend": "superlink", "server": "/nowhere"}
    return load_config("phantom_cpu_smoke", overrides={**values, **where, **more})


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the sites' images, and a test set of other patients at three sites, one of which also trains."""
    folder = tmp_path_factory.mktemp("images")
    training = write_dataset("polyp", folder / "all", images_per_site=4, image_px=32)
    test = write_dataset("polyp", folder / "test", images_per_site=2, image_px=32, seed=9)
    for table in test.rglob("meta.csv"):
        table.unlink()
    return training, test


def test_a_run_with_a_test_set_at_the_server_is_the_run_in_one_process(
    roots: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, test = roots
    world = StandingAlone(monkeypatch, root, tmp_path / "at", sites=SITES)
    found = {}
    for name, config in (("together", config_of(root, test)), ("apart", config_of(None, test))):
        context, told = world.context(config, tmp_path / name)
        FederatedTraining().run(context)
        Evaluation().run(context)
        context.close()
        model = load_file(tmp_path / name / "models" / "fedavg_student.safetensors")
        found[name] = (model, rows_of(tmp_path / name), told.crossed, context.description)
    one, other = found["together"], found["apart"]
    assert one[0].keys() == other[0].keys() and all(np.array_equal(one[0][key], other[0][key]) for key in one[0])
    assert one[1] == other[1]
    tested = {row["site"] for row in other[1] if row["split"] == "test"}
    assert tested >= {"tower_hd_test", "portable_yellow_test", "guided_inset"} and not tested & set(SITES)
    asked_how_far = [record for record in other[2] if record.round == HOW_FAR_FROM]
    assert {(record.site, record.kind) for record in asked_how_far} == {(site, "metrics") for site in SITES}
    assert Counter(one[2]) == Counter(other[2]) - Counter(asked_how_far), "nothing crosses for the test set"
    assert {record.site for record in other[2]} == set(SITES)
    for part in ("tests", "test_name", "test_digest"):
        assert getattr(one[3], part) == getattr(other[3], part)
    assert other[3].test_at_server and other[3].source_names == SITES


def test_it_is_planned_from_what_sites_tell_and_the_servers_own_folder(
    roots: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, test = roots
    StandingAlone(monkeypatch, root, tmp_path / "at", sites=SITES)
    assert describe(config_of(None, test)) == describe(config_of(root, test))


def test_a_damaged_file_of_the_test_set_is_found_before_anything_is_trained_on(
    roots: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = roots
    test = write_dataset("polyp", tmp_path / "test", images_per_site=2, image_px=32, seed=9)
    image = sorted((test / "tower_hd" / "images").iterdir())[0]
    image.write_bytes(image.read_bytes()[:300])
    world = StandingAlone(monkeypatch, root, tmp_path / "at", sites=SITES)
    with pytest.raises(UserError, match=image.name):
        FederatedTraining().run(world.context(config_of(None, test), tmp_path / "run")[0])
    assert not (tmp_path / "run" / "models").exists()


def test_a_test_set_of_other_classes_is_refused(
    roots: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_dataset("fundus", tmp_path / "test", images_per_site=2, image_px=32)
    StandingAlone(monkeypatch, roots[0], tmp_path / "at", sites=SITES)
    with pytest.raises(UserError, match=r"The test set .* has the classes") as raised:
        describe(config_of(None, other))
    assert raised.value.code == "data.classes_differ"


def test_nobody_is_held_out_and_no_folder_of_the_server_is_named_to_sites(tmp_path: Path) -> None:
    config = config_of(None, tmp_path / "secret", **{"data.sites": None})
    keys = dict.fromkeys(("a", "b"), b"")
    assert participants(config, keys) == (("a", "b"), "")
    assert participants(config, {"a": b""}) == (("a",), "")
    told = for_sites(config, names=("a", "b"), held_out="")
    assert "secret" not in told and '"held_out": null' in told
    for known, chosen in (({}, None), (keys, ("a", "c"))):
        with pytest.raises(UserError) as raised:
            participants(config_of(None, tmp_path, **{"data.sites": chosen}), known)
        assert raised.value.code == "federation.site_not_accepted"
