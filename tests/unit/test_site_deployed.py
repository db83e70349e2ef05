"""A site that stands alone: its images are cut as where all are together, and a server cannot name its files."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from engine.config import RunConfig, load_config
from engine.data.datasets import load_federation, load_site
from engine.data.phantoms import write_dataset
from engine.errors import UserError
from engine.federation.backends.deployed import _check_alike
from engine.federation.backends.participants import for_sites, participants
from engine.federation.descriptions import DatasetAgreement
from engine.federation.tasks import DESCRIBE, READ_EVERYTHING, TRAIN_STUDENT, SiteReply, SiteRequest
from engine.models.arrays import model_arrays
from engine.models.roles import build_role
from engine.models.state_keys import shared_parameters
from engine.site.data import describe_all, sites_here
from engine.site.deployed import PROGRAM, DeployedSite
from engine.version import VERSION, check_same, program_version

NAMES = ("guided_inset", "portable_yellow", "scope_octagon", "tower_hd")
HELD_OUT = "guided_inset"


class Nobody:
    """Listens to nothing."""

    def check_cancelled(self) -> None: ...
    def progress(self, step: int, total: int, *, message: str = "") -> None: ...
    def metric(self, name: str, value: float, *, step: int) -> None: ...


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset("polyp", tmp_path_factory.mktemp("all") / "set", images_per_site=6, image_px=32)


LIKE_CONFIG_OF = {"data.source": "folder", "data.image_px": 32, "backend": "superlink", "server": "/nowhere"}


def config_of(root: Path | None, **data: object) -> RunConfig:
    overrides: dict[str, object] = {**LIKE_CONFIG_OF}
    overrides |= {f"data.{key}": value for key, value in data.items()}
    overrides |= {"data.root": None if root is None else str(root)}
    return load_config("phantom_cpu_smoke", overrides=overrides)


def alone(root: Path, folder: Path, site: str) -> Path:
    """Return a folder that holds one site's images and the common description."""
    here = folder / f"only_{site}"
    here.mkdir()
    shutil.copy(root / "dataset.toml", here)
    shutil.copytree(root / site, here / site)
    return here


def ask(
    site: str,
    data: Path,
    folder: Path,
    task: str,
    *,
    config: RunConfig,
    run_id: str = "run-1",
    edit: dict | None = None,
) -> SiteReply:
    values = json.loads(for_sites(config, names=NAMES, held_out=HELD_OUT))
    for key, value in (edit or {}).items():
        section, _, leaf = key.partition(".")
        (values[section] if leaf else values)[leaf or key] = value
    program = DeployedSite(site, data=data, folder=folder, say=lambda _: None)
    return program.answer(
        SiteRequest(site, task),
        run={"id": run_id, "program": program_version(), "config": json.dumps(values)},
        listener=Nobody(),
    )


@pytest.mark.parametrize("source", ["folder", "phantom"])
def test_a_site_alone_has_the_images_that_it_has_among_the_others(source: str, root: Path, tmp_path: Path) -> None:
    config = config_of(root, source=source, images_per_site=6)
    together = load_federation(config.data, seed=config.seed)
    for site in NAMES:
        here = alone(root, tmp_path, site)
        held_out = site == HELD_OUT
        found = load_site(config.data, site, root=here, held_out=held_out, seed=config.seed)
        mine, theirs = (found.test, together.test) if held_out else (found.sites[site], together.sites[site])
        for part in ("train", "validation", "test"):
            assert getattr(mine, part).names == getattr(theirs, part).names, (site, part)
        assert (found.classes, found.modality, found.name) == (together.classes, together.modality, together.name)
    assert together.test.name == HELD_OUT


def test_what_sites_say_of_themselves_is_what_is_said_where_all_are_together(root: Path, tmp_path: Path) -> None:
    config = config_of(root)
    federation = load_federation(config.data, seed=config.seed)
    about = describe_all(config, federation, sites_here(config, federation=federation))
    expected = {site.name: json.loads(site.as_json()) for site in (*about.sources, *about.tests)}
    for site in NAMES:
        reply = ask(site, alone(root, tmp_path, site), tmp_path, DESCRIBE, config=config)
        assert json.loads(reply.texts["description"]) == expected[site]
        told = json.loads(reply.texts["dataset"])
        assert (told["name"], tuple(told["classes"])) == (about.name, about.classes)


def test_a_damaged_file_is_found_before_anything_is_trained_on(root: Path, tmp_path: Path) -> None:
    here = alone(root, tmp_path, "tower_hd")
    assert ask("tower_hd", here, tmp_path, READ_EVERYTHING, config=config_of(root)).num_examples == 6
    image = sorted((here / "tower_hd" / "images").iterdir())[0]
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(UserError) as raised:
        ask("tower_hd", here, tmp_path, READ_EVERYTHING, config=config_of(root))
    assert image.name in raised.value.what


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        ({"student.weights": "/etc/passwd"}, "federation.weights_elsewhere"),
        ({"generator.backbone": "../other"}, "federation.weights_elsewhere"),
        ({"a_new_key": 1}, "federation.other_version"),
        ({"data": None}, "federation.other_version"),
    ],
)
def test_settings_that_a_site_does_not_take(edit: dict, code: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        ask("tower_hd", alone(root, tmp_path, "tower_hd"), tmp_path, DESCRIBE, config=config_of(root), edit=edit)
    assert raised.value.code == code


@pytest.mark.parametrize("run_id", ["", "../x", "a/b", ".", "a" * 81])
def test_a_run_s_id_is_no_path(run_id: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a run's id"):
        ask("tower_hd", alone(root, tmp_path, "tower_hd"), tmp_path, DESCRIBE, config=config_of(root), run_id=run_id)


def test_a_server_s_data_root_never_reaches_a_site(root: Path, tmp_path: Path) -> None:
    here = alone(root, tmp_path, "tower_hd")
    assert str(root) not in for_sites(config_of(root), names=NAMES, held_out=HELD_OUT)
    reply = ask("tower_hd", here, tmp_path, DESCRIBE, config=config_of(root), edit={"data.root": "/etc"})
    assert json.loads(reply.texts["description"])["num_train"] == 5


def test_who_takes_part() -> None:
    keys = dict.fromkeys(("a", "b", "c"), b"")
    assert participants(config_of(None, held_out=None), keys) == (("a", "b", "c"), "c")
    assert participants(config_of(None, held_out="a", sites=("b",)), keys) == (("a", "b"), "a")
    for bad, known in (("d", keys), ("a", {"a": b""}), ("a", {})):
        with pytest.raises(UserError) as raised:
            participants(config_of(None, held_out=bad), known)
        assert raised.value.code == "federation.site_not_accepted"


def test_sites_that_differ_are_named() -> None:
    one = DatasetAgreement("set", "t", "m", ("a",), None, 2, "auto")
    _check_alike({"x": one, "y": replace(one, name="another hospital's")})
    with pytest.raises(UserError, match="Sites x and y differ in classes"):
        _check_alike({"x": one, "y": replace(one, classes=("b",))})


def test_a_site_that_stands_alone_keeps_its_own_part_of_the_model(root: Path, tmp_path: Path) -> None:
    """It lies in the folder of the site's program, is there after a restart, and is no part of what leaves."""
    change = {"federation.normalisation": "local", "student.weights": None}
    config = load_config("phantom_cpu_smoke", overrides={**LIKE_CONFIG_OF, **change})
    model = build_role(config, "student", num_classes=1)
    sharing = shared_parameters(model, config.federation, name="student")
    sent, here = sharing.of(model_arrays(model)), alone(root, tmp_path, "tower_hd")
    values = for_sites(config, names=NAMES, held_out=HELD_OUT)
    replies = []
    for number in (1, 2, 2):
        program = DeployedSite("tower_hd", data=here, folder=tmp_path / "site", say=lambda _: None)
        request = SiteRequest("tower_hd", TRAIN_STUDENT, number, {}, sent)
        run = {"id": "run-1", "program": program_version(), "config": values}
        replies.append(program.answer(request, run=run, listener=Nobody()))
    assert all(reply.arrays.keys() == set(sharing.shared) for reply in replies)
    assert all(np.array_equal(replies[1].arrays[name], replies[2].arrays[name]) for name in sharing.shared)
    kept = sorted(path.name for path in (tmp_path / "site" / "runs" / "run-1").glob("own_*"))
    assert kept == ["own_round_000001.safetensors", "own_round_000002.safetensors"]
    with safe_open(tmp_path / "site" / "runs" / "run-1" / kept[-1], "np") as file:
        assert set(file.keys()) == set(sharing.own)


def test_a_site_of_another_version_is_told_at_joining(root: Path, tmp_path: Path) -> None:
    config = config_of(root)
    here = alone(root, tmp_path, NAMES[0])
    program = DeployedSite(NAMES[0], data=here, folder=tmp_path, say=lambda _: None)
    for told, words in (
        ("9.9", f"runs version {re.escape(program_version())} of this program, the server 9.9"),
        ("", "an earlier one"),
    ):
        run = {"id": "run-1", "program": told, "config": for_sites(config, names=NAMES, held_out=HELD_OUT)}
        with pytest.raises(UserError, match=words) as caught:
            program.answer(SiteRequest(NAMES[0], DESCRIBE), run=run, listener=Nobody())
        assert caught.value.code == "federation.other_version"
    assert ask(NAMES[0], here, tmp_path, DESCRIBE, config=config).texts[PROGRAM] == program_version()


def test_the_server_names_both_versions_and_ours_is_the_packages() -> None:
    check_same(program_version(), site="north", at_site=False)
    with pytest.raises(
        UserError,
        match=f"Site north runs version an earlier one of this program, the server {re.escape(program_version())}",
    ):
        check_same("", site="north", at_site=False)
    written = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert written["project"]["version"] == VERSION


def test_two_programs_that_differ_in_one_line_are_two_versions(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name / "federation").mkdir(parents=True)
        (tmp_path / name / "federation" / "tasks.py").write_bytes(b"A = 1\nB = 2\n")
    (tmp_path / "two" / "federation" / "tasks.py").write_bytes(b"A = 1\r\nB = 2\r\n")
    (tmp_path / "three" / "federation" / "tasks.py").write_bytes(b"A = 1\nB = 3\n")
    one, two, three = (program_version(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two != three and program_version().startswith(f"{VERSION}+")
