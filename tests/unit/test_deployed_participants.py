"""Who takes part in a run across hospitals: those of its launch, whoever is accepted or revoked afterwards."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.access import LOCAL
from app.settings import Settings
from app.studio import Studio
from engine.cli import main
from engine.config import RunConfig, load_config
from engine.data.phantoms import write_dataset
from engine.deployment import certificates, federations
from engine.errors import UserError
from engine.federation import connect
from engine.federation.backends import deployed
from engine.federation.descriptions import IDENTITY_FILE, noted_sites
from engine.runs import lifecycle
from engine.runs.store import RunStore

NAMES = ("guided_inset", "portable_yellow", "scope_octagon")
GONE, NEW = NAMES[1], "tower_hd"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset("polyp", tmp_path_factory.mktemp("all") / "set", images_per_site=12, image_px=64)


class World:
    """A federation whose sites tell of the images in one folder; nothing is started."""

    def __init__(self, folder: Path, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.federation = federations.create(folder / "fed", name="f", public_address="localhost:9443")
        self.folder, self.home, self.asked = folder, folder / "home", []
        for name in NAMES:
            self.accept(name)

        def told(config: RunConfig) -> object:
            self.asked.append(config.data.sites)
            data = config.data.model_copy(update={"root": root})
            return connect.describe(config.model_copy(update={"backend": "local", "data": data}))

        patch.setattr(importlib.import_module("engine.planning.plan"), "describe", told)
        patch.setattr(lifecycle, "advance_queue", lambda *_: None)

    def accept(self, name: str) -> None:
        keys = self.folder / "keys" / name
        keys.mkdir(parents=True, exist_ok=True)
        certificates.make_site_keys(keys, site=name)
        federations.accept(self.federation, name, keys / "site.csr")

    def launched(self) -> RunConfig:
        store = RunStore(self.home)
        (record,) = store.list()
        store.close()
        return record.config


@pytest.fixture
def world(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, root, monkeypatch)


def config_of(world: World, **more: object) -> RunConfig:
    values = {"data.source": "folder", "data.held_out": None, "backend": "superlink", "device": "cpu", **more}
    return load_config("phantom_cpu_smoke", overrides={**values, "server": str(world.federation.folder)})


def begin(config: RunConfig, run_dir: Path) -> UserError:
    """Begin a run that cannot; return why."""
    with pytest.raises(UserError) as raised:
        connect.connect(config, state_root=run_dir / "sites", checkpoints=lambda: None, server=lambda: None)  # type: ignore[arg-type,return-value]
    return raised.value


@pytest.mark.parametrize("by", ["the command line", "the page"])
def test_a_run_keeps_the_sites_of_its_launch(by: str, world: World) -> None:
    if by == "the page":
        Studio(Settings(home=world.home)).launch(config_of(world).model_dump(mode="json"), by=LOCAL)
    else:
        words = ["--set", "data.source=folder", "--set", "data.held_out=none", "--set", "device=cpu"]
        where = ["--server", str(world.federation.folder), "--home", str(world.home)]
        assert main(["run", "--preset", "phantom_cpu_smoke", *words, *where, "--detach"]) == 0
    assert world.launched().data.sites == NAMES == world.asked[-1]
    world.accept(NEW)
    assert connect.with_sites(world.launched()).data.sites == NAMES, "one that came later is not in it"
    federations.revoke(world.federation, GONE)
    error = begin(world.launched(), world.home / "runs" / "r")
    assert error.code == "federation.site_not_accepted"
    assert GONE in error.what and NEW not in error.what and f"{GONE} --request" in error.fix
    with pytest.raises(UserError, match=GONE):
        connect.with_sites(world.launched())


def test_sites_that_are_named_stay_as_they_are_and_have_to_be_accepted(world: World) -> None:
    chosen = config_of(world, **{"data.sites": NAMES[:1], "data.held_out": NAMES[2]})
    assert connect.with_sites(chosen) == chosen
    for key, value in (("data.sites", (NEW,)), ("data.held_out", NEW)):
        with pytest.raises(UserError, match=NEW):
            connect.with_sites(config_of(world, **{key: value}))
    local = load_config("phantom_cpu_smoke")
    assert connect.with_sites(local) is local


@pytest.mark.parametrize("by", ["the command line", "the page", "a plan"])
def test_phantoms_at_hospitals_are_refused_before_anybody_is_asked(
    by: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """The preset's own source and held-out site: a newcomer gives nothing but --server."""
    world.accept("north")
    federations.revoke(world.federation, NAMES[0])
    words = ["--preset", "phantom_cpu_smoke", "--server", str(world.federation.folder), "--home", str(world.home)]
    if by == "the page":
        values = load_config("phantom_cpu_smoke", overrides={"backend": "superlink", "server": words[3]})
        with pytest.raises(UserError) as raised:
            Studio(Settings(home=world.home)).launch(values.model_dump(mode="json"), by=LOCAL)
        said = raised.value.what + raised.value.fix
    else:
        assert main([*({"a plan": ["plan"]}.get(by, ["run", "--detach"])), *words]) == 2
        said = capsys.readouterr().err
    assert "north" in said and "--set data.source=folder" in said and "--held-out SITE" in said and world.asked == []


def test_phantoms_at_their_own_sites_can_be_run(world: World) -> None:
    config = config_of(world, **{"data.source": "phantom", "data.task": "polyp"})
    assert connect.with_sites(config).data.sites == NAMES
    with pytest.raises(UserError) as raised:
        connect.with_sites(config_of(world, **{"data.source": "phantom", "data.task": "fundus"}))
    assert raised.value.code == "federation.no_phantoms"


@pytest.mark.parametrize("protocol", ["leave-one-site-out", "fixed-test"])
def test_a_run_of_before_goes_on_with_the_sites_that_it_has_noted(
    protocol: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions launched runs that name no sites."""
    run_dir = world.home / "runs" / "old"
    noted = {f"{part} {site}": "0" for part in ("train", "validation") for site in NAMES[:2]}
    noted |= {f"test {NAMES[2] if protocol == 'leave-one-site-out' else 'a set of its own'}": "0"}
    (run_dir / IDENTITY_FILE).parent.mkdir(parents=True)
    (run_dir / IDENTITY_FILE).write_text(json.dumps(noted))
    world.accept(NEW)  # "the last one" is held out where none is named
    config = config_of(world, **{"data.protocol": protocol, "data.test_root": "/nowhere"})
    found: list[RunConfig] = []
    monkeypatch.setattr(deployed, "DeployedBackEnd", lambda config, **_: found.append(config) or SimpleNamespace())
    monkeypatch.setattr("engine.federation.sites.Sites", lambda *_, **__: None)
    connect.connect(config, state_root=run_dir / "sites", checkpoints=lambda: None, server=lambda: None)  # type: ignore[arg-type,return-value]
    expected = (NAMES, NAMES[2]) if protocol == "leave-one-site-out" else (NAMES[:2], None)
    for known in (found[0], connect.with_sites(config, run_dir=run_dir)):
        assert (known.data.sites, known.data.held_out) == expected
    federations.revoke(world.federation, GONE)
    monkeypatch.undo()
    assert GONE in begin(config, run_dir).what


@pytest.mark.parametrize("content", [None, "{", "[1]", "{}"])
def test_what_has_noted_nothing_says_nothing(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    if content is not None:
        path.write_text(content)
    assert noted_sites(path) is None
