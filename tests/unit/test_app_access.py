"""Who may do what: the page's mode, users and passwords, roles, demonstrations, and paths of the server."""

from __future__ import annotations

import io
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html import escape
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from app import demo, settings, text, users
from app.access import LOCAL, PROGRAM, Visitor, decide
from app.event_checks import Refusal
from app.main import build_app
from app.settings import Settings, load_settings
from app.sign_in import FREE_TRIES, SignIn
from app.studio import Studio
from app.tabs import train
from engine.config import RunConfig, load_config, parse_config
from engine.config_fields import Section
from engine.config_keys import place_keys
from engine.data.phantoms import TASKS, write_dataset
from engine.errors import UserError
from tests.patience import WAIT_S, wait

OPEN = {"host": "0.0.0.0"}
PASSWORD = "correct horse battery"
VIEWER, OPERATOR = Visitor("user:v", "v", "viewer"), Visitor("user:o", "o", "operator")
ANNA, BERT = Visitor("visitor:anna", "a visitor", "demo"), Visitor("visitor:bert", "a visitor", "demo")


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "0")


@pytest.mark.parametrize(("given", "mode"), [
    ({}, "local"), ({"host": "::1"}, "local"), ({"read_only": True}, "read-only"),
    ({**OPEN, "read_only": True}, "read-only"), ({**OPEN, "access": "demo"}, "demo"),
    ({**OPEN, "space": "me/it"}, "demo"), ({**OPEN, "users_file": "u"}, "sign-in"),
    ({**OPEN, "proxy_user_header": "X-User", "proxy_addresses": "10.0.0.1"}, "proxy"),
    ({**OPEN, "space": "me/it", "users_file": "u"}, "sign-in"),
])  # fmt: skip
def test_the_mode_follows_the_settings(given: dict[str, Any], mode: str) -> None:
    assert decide(Settings.model_validate(given)) == mode


@pytest.mark.parametrize(("given", "code"), [
    (OPEN, "app.open_address"), ({"host": "192.168.1.4"}, "app.open_address"), ({"host": "::"}, "app.open_address"),
    ({"host": "studio.example.org"}, "app.open_address"), ({**OPEN, "access": "local"}, "app.open_address"),
    ({"access": "sign-in"}, "app.access_incomplete"), ({"access": "proxy"}, "app.access_incomplete"),
    ({"proxy_user_header": "X-User"}, "app.access_incomplete"),
])  # fmt: skip
def test_an_open_address_needs_a_rule(given: dict[str, Any], code: str) -> None:
    with pytest.raises(UserError) as caught:
        decide(Settings.model_validate(given))
    assert caught.value.code == code


def test_lists_come_from_the_environment_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSFEDMED_ALLOWED_HOSTS", "a.example, *.b.example")
    monkeypatch.setenv("DSFEDMED_ALLOWED_ROOTS", "/data,/more")
    found = load_settings()
    assert found.allowed_hosts == ("a.example", "*.b.example")
    assert found.allowed_roots == (Path("/data"), Path("/more"))


def test_the_users_file_holds_hashes_and_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "users.json"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    assert users.main([str(path), "add", "anna", "--role", "operator", "--password-stdin"]) == 0
    users.add(path, "vera", password=PASSWORD, role="viewer")
    rows = json.loads(path.read_text())
    assert PASSWORD not in path.read_text() and rows["anna"]["password"].startswith("$argon2id$")
    assert rows["anna"]["password"] != rows["vera"]["password"] and stat.S_IMODE(path.stat().st_mode) == 0o600
    known = users.Users(path)
    found = known.verify("anna", PASSWORD)
    assert found is not None and found.role == "operator"
    assert known.verify("anna", PASSWORD + "!") is None and known.verify("nobody", PASSWORD) is None
    assert users.main([str(path), "remove", "anna"]) == 0
    os.utime(path, (1, 1))
    assert known.verify("anna", PASSWORD) is None, "somebody who was removed is still let in"
    with pytest.raises(UserError):
        users.add(path, "bert", password="short", role="viewer")


def signed(name: str, password: str) -> bytes:
    return f"name={name}&password={password.replace(' ', '+')}".encode()


def test_wrong_passwords_become_slow_and_a_new_one_ends_sessions(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    users.add(path, "anna", password=PASSWORD, role="viewer")
    signing = SignIn(users.Users(path))
    session, _ = signing.check(signed("anna", PASSWORD), address="1.1.1.1")
    found = signing.visitor(session)
    assert found is not None and (found.name, found.role) == ("anna", "viewer")
    assert signing.visitor({"user": "anna", "of": "forged"}) is None and signing.visitor({}) is None
    statuses = []
    for _ in range(FREE_TRIES + 1):
        with pytest.raises(Refusal) as caught:
            signing.check(signed("anna", "a guess"), address="6.6.6.6")
        statuses.append(caught.value.status)
    assert statuses == [401] * FREE_TRIES + [429]
    with pytest.raises(Refusal):  # not even with the right one
        signing.check(signed("anna", PASSWORD), address="6.6.6.6")
    signing.check(signed("anna", PASSWORD), address="1.1.1.1")
    users.add(path, "anna", password="another long password", role="viewer")
    assert signing.visitor(session) is None


def test_guesses_at_a_time_are_counted_too(tmp_path: Path) -> None:
    """A hash takes long: guesses that began before the first one failed are not free."""
    path = tmp_path / "users.json"
    users.add(path, "anna", password=PASSWORD, role="viewer")
    known, looked_at, go_on = users.Users(path), [], Event()

    class Slow:
        def verify(self, name: str, password: str) -> object:
            looked_at.append(password)
            assert go_on.wait(WAIT_S)
            return known.verify(name, password)

    signing = SignIn(Slow())  # type: ignore[arg-type]

    def guess(number: int) -> int:
        try:
            signing.check(signed("anna", f"guess {number}"), address="6.6.6.6")
        except Refusal as refusal:
            return refusal.status
        return 200

    with ThreadPoolExecutor(20) as pool:
        tries = [pool.submit(guess, number) for number in range(20)]
        wait(lambda: sum(each.done() for each in tries) == 20 - FREE_TRIES)
        go_on.set()
    assert sorted(each.result() for each in tries) == [401] * FREE_TRIES + [429] * (20 - FREE_TRIES)
    assert len(looked_at) == FREE_TRIES


def test_who_signs_in_often_is_not_slowed(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    users.add(path, "anna", password=PASSWORD, role="viewer")
    signing = SignIn(users.Users(path))
    for _ in range(FREE_TRIES + 2):
        assert signing.check(signed("anna", PASSWORD), address="1.1.1.1")[1] == "anna"


def a_studio(tmp_path: Path, **given: Any) -> Studio:
    return Studio(Settings.model_validate({"home": tmp_path / "home", **given}))


def smoke(**changes: Any) -> dict[str, Any]:
    return load_config("phantom_cpu_smoke", overrides=changes).model_dump(mode="json")


@pytest.mark.parametrize(("given", "code"), [
    ({"read_only": True}, "app.read_only"), ({"access": "sign-in", "users_file": "u"}, "app.viewer"),
])  # fmt: skip
def test_a_viewer_changes_nothing(tmp_path: Path, given: dict[str, Any], code: str) -> None:
    studio = a_studio(tmp_path, **given)
    run = studio.store.create_run(parse_config({})).run_id
    acts = [
        lambda: studio.launch(smoke(), by=VIEWER), lambda: studio.plan(smoke(), by=VIEWER),
        lambda: studio.cancel(run, by=VIEWER), lambda: studio.resume(run, by=VIEWER),
        lambda: studio.extend(run, 1, by=VIEWER), lambda: studio.drop_extension(run, by=VIEWER),
        lambda: studio.fork(run, stage="generation", values={}, by=VIEWER),
    ]  # fmt: skip
    for act in acts:
        with pytest.raises(UserError) as caught:
            act()
        assert caught.value.code == code
    assert [record.run_id for record in studio.store.list()] == [run]
    assert not studio.permissions.may_change(VIEWER, run) and studio.permissions.may_change(OPERATOR, run)


def test_it_is_noted_who_did_what(tmp_path: Path) -> None:
    studio = a_studio(tmp_path, access="sign-in", users_file="u")
    run = studio.launch(smoke(), by=OPERATOR)
    studio.cancel(run, by=Visitor("user:other", "other", "operator"))
    lines = [line.text for line in studio.store.events(run)]
    assert "Started by o." in lines and "Cancelled by other." in lines
    assert studio.store.get(run).started_by == "o"


def test_a_visitor_of_a_demonstration_acts_on_one_run_of_their_own(tmp_path: Path) -> None:
    studio = a_studio(tmp_path, access="demo", demo_waiting=2)
    own = studio.launch(smoke(name="rude words"), by=ANNA)
    assert studio.store.get(own).name == "phantom_cpu_smoke"
    with pytest.raises(UserError) as caught:
        studio.launch(smoke(), by=ANNA)
    assert caught.value.code == "app.one_run"
    for act in (studio.cancel, studio.resume, studio.drop_extension):
        with pytest.raises(UserError) as caught:
            act(own, by=BERT)
        assert caught.value.code == "app.not_yours"
    with pytest.raises(UserError):
        studio.extend(own, 1, by=BERT)
    with pytest.raises(UserError):
        studio.fork(own, stage="federated_training", values=smoke(), by=BERT)
    assert studio.permissions.may_change(ANNA, own) and not studio.permissions.may_change(BERT, own)
    studio.launch(smoke(), by=BERT)
    with pytest.raises(UserError) as caught:
        studio.launch(smoke(), by=Visitor("visitor:c", "a visitor", "demo"))
    assert caught.value.code == "app.demo_busy"
    with pytest.raises(UserError) as caught:
        studio.launch(smoke(), by=Visitor("address:1.2.3.4", "a visitor", "demo"))
    assert caught.value.code == "app.no_cookie"
    studio.cancel(own, by=ANNA)
    assert studio.store.get(own).status == "cancelled"


def test_a_demonstration_does_not_extend_beyond_its_preset(tmp_path: Path) -> None:
    studio = a_studio(tmp_path, access="demo")
    own = studio.launch(smoke(**{"federation.rounds": 1}), by=ANNA)
    studio.cancel(own, by=ANNA)
    with pytest.raises(UserError) as caught:
        studio.extend(own, 40, by=ANNA)
    assert caught.value.code == "app.demo_settings"


@pytest.mark.parametrize(("key", "value", "allowed"), [
    ("federation.rounds", 1, True), ("federation.rounds", 2, True), ("seed", 7, True),
    ("data.held_out", "endoscope_wide", True),
    ("federation.rounds", 3000, False), ("data.image_px", 2048, False), ("generator.steps", 10**6, False),
    ("student.weights", "/etc/passwd", False), ("generator.backbone", "/etc", False), ("method", "fedtinysam", False),
    ("data.images_per_site", 40, False), ("distillation.epochs", 1, True), ("threads", 1024, False),
])  # fmt: skip
def test_a_demonstration_starts_a_preset_or_less_of_it(key: str, value: Any, allowed: bool) -> None:
    config = load_config("phantom_cpu_smoke", overrides={key: value})
    if allowed:
        demo.check(config)
    else:
        with pytest.raises(UserError, match=key):
            demo.check(config)


def test_a_demonstration_offers_what_it_accepts(tmp_path: Path) -> None:
    studio = a_studio(tmp_path, access="demo")
    own = studio.launch(smoke(**{"federation.rounds": 1}), by=ANNA)
    run = studio.store.get(own)
    assert studio.permissions.may_extend(ANNA, run)
    longest = run.config.model_copy(update={"federation": load_config("phantom_cpu_smoke").federation})
    record = replace(run, config_json=longest.model_dump_json())
    assert not studio.permissions.may_extend(ANNA, record) and studio.permissions.may_extend(OPERATOR, record)
    blocks = build_app(studio).blocks.values()
    shown = {block.elem_id for block in blocks if getattr(block, "visible", False) and block.elem_id}
    rounds = next(block for block in blocks if block.elem_id == "field-federation-rounds")
    assert rounds.info.endswith(f"). {text.DEMO_LOWERED}") and "10000" not in rounds.info
    offered = {f"field-{key.replace('.', '-')}" for key in demo.OFFERED}
    assert {elem_id for elem_id in shown if elem_id.startswith("field-")} == offered
    assert {elem_id for elem_id in shown if elem_id.startswith("section-")} == {
        f"section-{name}" for name in ("run", "data", "federation", "generator", "generation", "foundation",
                                       "distillation")
    }  # fmt: skip


def test_words_for_others_do_not_say_where_the_files_lie(tmp_path: Path) -> None:
    home = tmp_path / "a & b"
    local, others = Studio(Settings(home=home)), Studio(Settings(home=home, access="demo"))
    error = UserError("x", what=f"The folder {home}/runs/r1 is gone.", why=f"{home} is full.", fix=f"Look at '{home}'.")

    def fail() -> None:
        raise error

    told = others.attempt(fail)[1]
    assert "The folder runs/r1 is gone." in told and "the home folder is full." in told, told
    assert str(tmp_path) not in told and "Look at &#x27;the home folder&#x27;." in told
    assert escape(str(home)) in local.attempt(fail)[1], "whoever sits at the machine is told the path"
    assert others.told(f"{home}-old/x and /x{home}/y") == f"{home}-old/x and /x{home}/y", "other folders"
    assert others.told(f"{settings.REPOSITORY}/assets/x") == "assets/x"


def test_what_the_store_warns_of_is_for_operators(tmp_path: Path) -> None:
    studio = a_studio(tmp_path, access="sign-in", users_file="u")
    studio.store.warnings = (f"Others can read {studio.store.home}/x.",)
    for by, expected in ((OPERATOR, "Others can read x."), (VIEWER, "")):
        shown = train.live_values(studio, None, None, {}, by=by)
        assert len(shown) == train.NUM_LIVE and expected in shown[1]
        assert bool(shown[1]) == bool(expected)
        run = studio.store.create_run(parse_config({})).run_id
        assert train.live_values(studio, run, "follow", {}, by=by)[1] == shown[1]


def test_old_runs_of_a_demonstration_go_and_others_stay(tmp_path: Path) -> None:
    studio = a_studio(tmp_path, access="demo", demo_hours=1)
    old, kept = studio.launch(smoke(), by=ANNA), studio.launch(smoke(), by=PROGRAM)
    for run in (old, kept):
        studio.store.set_status(run, "cancelled")
        studio.store.update_run(run, created_at=1.0)
    studio.permissions.forget_old_demos()
    assert [run.run_id for run in studio.store.list()] == [kept]
    assert not studio.store.run_dir(old).exists()


PLACES = (
    "server", "ray_address", "data.root", "data.test_root", "data.public_root", "student.weights", "teacher.weights",
    "generator.backbone", "generator.controlnet", "release.inception",
)  # fmt: skip


def test_every_place_that_a_configuration_can_name_is_known() -> None:
    assert set(place_keys()) == set(PLACES)
    fields = [
        (f"{section}.{key}" if section else key, str(field))
        for section, fields in (
            ("", RunConfig.model_fields),
            *((name, type(part).model_fields) for name, part in RunConfig() if isinstance(part, Section)),
        )
        for key, field in fields.items()
    ]
    # What takes a path's length or type is a place, whatever it is marked as.
    assert {key for key, told in fields if "Path" in told or "max_length=4096" in told} <= set(PLACES)


@pytest.mark.parametrize("key", [key for key in PLACES if "." in key])
def test_paths_of_the_server_are_no_oracle(tmp_path: Path, key: str) -> None:
    allowed, secret = tmp_path / "allowed", tmp_path / "secret"
    for folder in (allowed, secret):
        folder.mkdir()
    (allowed / "link").symlink_to(secret)
    studio = a_studio(tmp_path, access="sign-in", users_file="u", allowed_roots=str(allowed))
    told = set()
    for path in (
        secret,
        tmp_path / "absent",
        allowed / "link",
        allowed / ".." / "secret",
        Path("/etc/passwd"),
        "~root",
    ):
        with pytest.raises(UserError) as caught:
            studio.plan(_with_path(key, str(path)), by=OPERATOR)
        told.add((caught.value.code, caught.value.what, caught.value.why, caught.value.fix))
    assert len(told) == 1 and next(iter(told))[0] == "app.path_refused"
    below = _with_path(key, str(allowed / "absent"))
    if key == "release.inception":  # the sites read it
        assert studio.plan(below, by=OPERATOR)
        return
    with pytest.raises(UserError) as caught:  # below an allowed folder the plan may say what is there
        studio.plan(below, by=OPERATOR)
    assert caught.value.code != "app.path_refused"


def _with_path(key: str, path: str) -> dict[str, Any]:
    source = {"data.source": "folder", "data.root": path} if key == "data.root" else {key: path}
    if key == "data.test_root":
        source |= {"data.protocol": "fixed-test"}
    if key == "data.public_root":
        source |= {"method": "samfed"}
    return smoke(**source)


def test_sites_of_a_folder_are_told_below_allowed_ones_alone(tmp_path: Path) -> None:
    names = TASKS["polyp"].sites[:2]
    write_dataset("polyp", tmp_path / "data", images_per_site=2, image_px=64, sites=names)
    local = Studio(Settings(home=tmp_path / "one"))
    closed = Studio(Settings(home=tmp_path / "two", access="demo"))
    opened = Studio(Settings(home=tmp_path / "three", access="demo", allowed_roots=(tmp_path,)))
    root = str(tmp_path / "data")
    seen = [studio.sites("folder", None, root, by=OPERATOR) for studio in (local, closed, opened)]
    assert seen == [tuple(sorted(names)), (), tuple(sorted(names))]
    assert closed.sites("folder", None, "~x/y", by=OPERATOR) == opened.sites("folder", None, "a\0b", by=OPERATOR) == ()
    for by in (VIEWER, ANNA):
        assert opened.sites("folder", None, root, by=by) == (), "who may start no run of a folder learns no name in it"
        assert opened.sites("phantom", "fundus", None, by=by)


def test_on_this_machine_alone_everybody_may_everything(tmp_path: Path) -> None:
    studio = a_studio(tmp_path)
    run = studio.launch(smoke(**{"federation.rounds": 5}), by=LOCAL)
    studio.cancel(run, by=LOCAL)
    assert studio.store.get(run).status == "cancelled" and studio.store.get(run).started_by is None
