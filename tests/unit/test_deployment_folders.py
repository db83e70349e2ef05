"""A federation's and a site's folders: what is written, who may take part, and what is said about faults."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from engine.cli import main
from engine.deployment import certificates, federations, settings, site
from engine.deployment.proxies import TEMPLATES, write_proxies
from engine.deployment.server import certificate_warnings, command, environment, link_of
from engine.errors import UserError
from engine.federation.backends import fleet
from engine.site.policy import Policy, read_policy


@pytest.fixture
def federation(tmp_path: Path) -> federations.Federation:
    made = federations.create(tmp_path / "fed", name='a "federation"', public_address="fed.example.org:9443", port=9093)
    write_proxies(made)
    return made


def refused(code: str, call: object, *args: object, **options: object) -> UserError:
    with pytest.raises(UserError) as raised:
        call(*args, **options)  # type: ignore[operator]
    assert raised.value.code == code
    return raised.value


def test_settings_are_read_back_and_may_be_edited(federation: federations.Federation) -> None:
    assert federations.load(federation.folder) == federation
    path = federation.folder / federations.SETTINGS
    path.write_text(path.read_text().replace("9093", "7000").replace("9443", "443") + "\n# ours\n")
    edited = federations.load(federation.folder)
    assert (edited.port, edited.public_address) == (7000, "fed.example.org:443")
    path.write_text("name = 3 x")
    assert str(path) in refused("deployment.settings", federations.load, federation.folder).what
    path.write_text('name = "a"\nport = 1\n')
    assert "'public_address' is missing" in refused("deployment.settings", federations.load, federation.folder).what


def test_a_federation_is_not_made_twice_and_folders_are_the_owner_s(federation: federations.Federation) -> None:
    refused("deployment.exists", federations.create, federation.folder, name="b", public_address="b:1")
    for folder in (federation.folder, federation.server, federation.server / "logs", federation.folder / "sites"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert federation.secret.stat().st_mode & 0o777 == 0o600 and len(federation.secret.read_bytes()) == 64


@pytest.mark.parametrize(
    "words",
    [
        "port = 99999",
        "port = 0",
        'port = "abc"',
        "port = true",
        "port = 1.5",
        "name = 3",
        "public_address = 9443",
        "name = [1, 2]",
    ],
)
def test_settings_that_cannot_be_are_named_with_their_file(
    words: str, federation: federations.Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    key, path = words.partition(" ")[0], federation.folder / federations.SETTINGS
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{key} =")]
    path.write_text("\n".join([*lines, words]))
    assert str(path) in (said := refused("deployment.settings", federations.load, federation.folder).what)
    assert f"{key} is {words.partition(' = ')[2].replace(chr(34), chr(39))}" in said
    assert main(["federation", "status", str(federation.folder)]) == 2 and "Traceback" not in capsys.readouterr().err


def test_settings_of_a_site_that_cannot_be_are_named_with_their_file(federation: federations.Federation) -> None:
    toml = federations.invite(federation, "north") / "site.toml"
    written = toml.read_text()
    for words in ("data = 3", "site = true", "server = 9443", 'site = "../north"', 'site = ""', 'site = "no rth"'):
        key = words.partition(" ")[0]
        toml.write_text(re.sub(rf"(?m)^{key} = .*$", words, written))
        assert str(toml) in refused("deployment.settings", site.load, toml.parent).what
    toml.write_text(written.replace("fed.example.org:9443", "fed.example.org"))
    assert str(toml) in refused("deployment.address", site.load, toml.parent).what


ADDRESSES = (
    "fed.example.org", "https://a:1", ":9", " :9443", "a b:1", "a\n:1", "a..b:1", "-a:1", "[]:1", "a:0", "a:70000",
    "a:x", "a:\u0661", f"a:{'1' * 5000}", f"{'a' * 64}.org:1", f"{'a.' * 130}org:1", "ü..b:1", "füd.example:9443",
)  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_that_are_none(address: str, tmp_path: Path) -> None:
    error = refused("deployment.address", federations.create, tmp_path / "fed", name="a", public_address=address)
    assert not (tmp_path / "fed").exists(), "nothing is written before"
    if address.startswith("füd"):
        assert "xn--fd-xka.example:9443" in error.fix


@pytest.mark.parametrize(
    "address", ["a:1", "a_b.example.org:443", "10.0.0.1:9443", "[::1]:9443", "xn--fd-xka.example:9"]
)
def test_addresses_that_a_certificate_can_be_made_for(address: str, tmp_path: Path) -> None:
    made = federations.create(tmp_path / "fed", name="a", public_address=address)
    assert certificate_warnings(made) == ()


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", ".a", "-a", "ä", "a" * 64])
def test_names_that_no_site_can_have(federation: federations.Federation, name: str) -> None:
    refused("deployment.site_name", federations.invite, federation, name)


def test_what_a_site_gets_holds_no_secret_and_is_not_signed(federation: federations.Federation) -> None:
    folder = federations.invite(federation, "north")
    assert sorted(path.name for path in folder.iterdir()) == ["README.txt", "ca.crt", "policy.toml", "site.toml"]
    told = (folder / "README.txt").read_text()
    assert len(told.splitlines()) == 5 and "Copy this folder" in told and "IMAGES --site north" in told
    assert "holds dataset.toml and north/images" in told and "north/images" in (folder / "site.toml").read_text()
    assert all(b"PRIVATE" not in path.read_bytes() for path in folder.iterdir())
    assert read_policy(folder) == Policy(), "the rules that come with it are the careful ones"
    toml = folder / "site.toml"
    toml.write_text(toml.read_text().replace('data = ""', "data = '/images'") + 'note = "ours"\n')
    read = site.load(folder)
    assert (read.name, read.server, read.data) == ("north", "fed.example.org:9443", Path("/images"))
    assert site.load(folder, data=Path("/other"), server="a:1").server == "a:1"


def test_a_site_from_invitation_to_revocation(federation: federations.Federation, tmp_path: Path) -> None:
    folder = shutil.move(federations.invite(federation, "north"), tmp_path / "north")
    here = site.load(Path(folder))
    told = site.make_keys(here)
    assert site.make_keys(here) == told, "asking again changes nothing"
    assert federations.accepted_keys(federation) == {}
    federations.accept(federation, "north", here.folder / "site.csr")
    assert federations.find_site(federation, "north").fingerprint == told
    assert list(federations.accepted_keys(federation)) == ["north"]
    federations.revoke(federation, "north")
    assert federations.accepted_keys(federation) == {}
    error = refused("deployment.key_used", federations.accept, federation, "north", here.folder / "site.csr")
    assert "--new" in error.fix
    assert site.make_keys(here, new=True) != told
    federations.accept(federation, "north", here.folder / "site.csr")
    assert list(federations.accepted_keys(federation)) == ["north"]


def test_whatever_a_setting_says_is_read_back(tmp_path: Path) -> None:
    told = {"data": 'C:\\images "a"\t\n\x00\x1b\x7f\u2028\U0001f600é', "port": 9}
    (tmp_path / "x.toml").write_text(settings.to_toml(told), encoding="utf-8")
    assert settings.read_toml(tmp_path / "x.toml", texts=("data",), ports=("port",)) == told


@pytest.mark.parametrize("state", ["acepted", "Accepted", ""])
def test_a_state_that_there_is_none_of_is_named_with_its_file(state: str, federation: federations.Federation) -> None:
    """It would leave the site out of runs without a word."""
    federations.invite(federation, "south")
    path = federation.folder / "sites" / "south.toml"
    path.write_text(path.read_text().replace("invited", state))
    said = refused("deployment.settings", federations.accepted_keys, federation).what
    assert str(path) in said and f"'{state}'" in said and "invited, accepted, revoked" in said


def test_an_accepted_site_whose_request_is_gone_is_named(federation: federations.Federation, tmp_path: Path) -> None:
    certificates.make_site_keys(tmp_path, site="north")
    federations.accept(federation, "north", tmp_path / "site.csr")
    (federation.folder / "sites" / "north.csr").unlink()
    assert "north.csr" in refused("deployment.request", federations.accepted_keys, federation).what
    path = federation.folder / "sites" / "north.toml"
    path.write_text(path.read_text().replace("accepted", "invited"))
    federations.accept(federation, "north", tmp_path / "site.csr")
    assert list(federations.accepted_keys(federation)) == ["north"]


def test_one_key_for_two_sites_is_refused(federation: federations.Federation, tmp_path: Path) -> None:
    certificates.make_site_keys(tmp_path, site="north")
    federations.accept(federation, "north", tmp_path / "site.csr")
    refused("deployment.request", federations.accept, federation, "south", tmp_path / "site.csr")
    refused("deployment.site_exists", federations.invite, federation, "north")
    refused("deployment.no_site", federations.revoke, federation, "east")


def test_what_stops_a_site_before_it_starts(federation: federations.Federation, tmp_path: Path) -> None:
    folder = federations.invite(federation, "north")

    def up(**options: object) -> object:
        return site.up(site.load(folder, **options), stop=None, say=print)  # type: ignore[arg-type]

    refused("deployment.no_site_folder", site.load, tmp_path)
    assert f"python -m engine site keys {folder}" in refused("deployment.no_keys", up).fix
    site.make_keys(site.load(folder))
    refused("deployment.no_data", up)
    refused("deployment.no_data", up, data=tmp_path / "missing")
    (folder / "site.key").chmod(0o644)
    assert "chmod 600" in refused("deployment.key_readable", up, data=tmp_path).fix
    (folder / "site.key").chmod(0o600)
    (folder / "ca.crt").unlink()
    refused("deployment.file", up, data=tmp_path)


def test_a_server_is_refused_with_a_certificate_that_sites_would_refuse(
    federation: federations.Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert certificate_warnings(federation) == ()
    monkeypatch.setattr(certificates, "SERVER_DAYS", 20)
    certificates.make_server_certificate(federation.folder, hosts=["fed.example.org"], into=federation.server)
    (warning,) = certificate_warnings(federation, refuse=True)
    assert "expires in 19 days" in warning and "federation renew" in warning
    monkeypatch.setattr(certificates, "SERVER_DAYS", 0)
    certificates.make_server_certificate(federation.folder, hosts=["other.org"], into=federation.server)
    error = refused("deployment.certificate", certificate_warnings, federation, refuse=True)
    assert "expired" in error.what and "not for 'fed.example.org'" in error.what
    assert error.fix == f"Run: python -m engine federation renew {federation.folder}"


def test_the_superlink_is_started_with_tls_keys_and_on_loopback_only(federation: federations.Federation) -> None:
    words = command(federation)
    given = dict(pairwise(words))
    assert (given["--host"], given["--port"], given["--isolation"]) == ("127.0.0.1", "9093", "process")
    assert {"--enable-supernode-auth", "--disable-runtime-dependency-installation"} <= set(words)
    assert "--insecure" not in words and Path(given["--ssl-keyfile"]).is_file()
    safe = environment(federation.server / "flower")
    assert (safe["FLWR_TELEMETRY_ENABLED"], safe["FLWR_DISABLE_UPDATE_CHECK"]) == ("0", "1")


def test_proxies_name_what_sites_ask_alone(federation: federations.Federation) -> None:
    nginx = (federation.server / "nginx.conf").read_text()
    caddy = (federation.server / "Caddyfile").read_text()
    assert "listen 9443 ssl;" in nginx and "https://127.0.0.1:9093;" in nginx and nginx.count("proxy_pass") == 1
    assert ":9443 {" in caddy and caddy.count("reverse_proxy") == 1
    (through,) = set(re.findall(r"\^/v1/fleet/\((\S+)\)\$", nginx)) & set(re.findall(r"\^/v1/fleet/\((\S+)\)\$", caddy))
    asked = set(re.findall(r"self\._client\.([A-Z]\w+)", Path(fleet.__file__).read_text()))
    assert set(through.split("|")) == {re.sub(r"(?<!^)([A-Z])", r"-\1", name).lower() for name in asked}
    assert nginx.count("$") + caddy.count("$") == 2, "everything is filled in"


@pytest.mark.skipif(shutil.which("caddy") is None, reason="caddy is not installed here")
def test_caddy_takes_its_file_as_it_is_written(federation: federations.Federation) -> None:
    """The whole of it behind Caddy is tests/deployment's."""
    for words in (["validate", "--config", "Caddyfile"], ["fmt", "Caddyfile"]):
        done = subprocess.run(["caddy", *words], cwd=federation.server, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == (federation.server / "Caddyfile").read_text()


def test_the_containers_run_documented_commands_and_a_site_opens_no_port() -> None:
    def services(name: str) -> dict:
        return yaml.safe_load((TEMPLATES / name).read_text())["services"]

    server, alone = services("compose-server.yaml"), services("compose-site.yaml")["site"]
    for one in (server["server"], alone):
        assert one["command"][:3] == ["python", "-m", "engine"]
        assert main([*one["command"][3:], "--help"]) == 0
        assert one["healthcheck"] == {"disable": True}, "the image's asks the page, which is not there"
        assert one["user"] == "${OWNER:-1000:1000}", "with no capability it reads only its own user's files"
    assert "ports" not in alone and "network_mode" not in alone
    assert [volume for volume in alone["volumes"] if volume.endswith(":/images:ro")]
    assert server["proxy"]["network_mode"] == "service:server" and "ports" not in server["proxy"]
    assert server["server"]["ports"] == ["${PUBLIC_PORT:-9443}:${PUBLIC_PORT:-9443}"], "the proxy's port, not Flower's"


def test_commands_to_copy_are_whole_whatever_a_folder_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "Ordner mit Leer ü" / "it's $HOME"
    assert main(["federation", "init", str(folder), "--address", "localhost:9443"]) == 0
    assert main(["federation", "add-site", str(folder), "north"]) == 0
    printed = capsys.readouterr().out
    told = [line.partition("python -m engine ")[2] for line in printed.splitlines() if "python -m engine" in line]
    assert len(told) == 3 and all(str(folder) in shlex.split(words) for words in told)
    here = site.load(folder / "for-sites" / "north", data=tmp_path)
    fixes = [(refused("deployment.no_keys", site.up, here, stop=None, say=print).fix, here.folder)]
    site.make_keys(here)
    here.key.chmod(0o644)
    fixes.append((refused("deployment.key_readable", site.up, here, stop=None, say=print).fix, here.key))
    made = federations.load(folder)
    monkeypatch.setattr(certificates, "SERVER_DAYS", 0)
    certificates.make_server_certificate(folder, hosts=["other.org"], into=made.server)
    fixes.append((refused("deployment.certificate", certificate_warnings, made, refuse=True).fix, folder))
    for fix, path in fixes:
        assert shlex.split(fix)[-1] == str(path)


def test_a_missing_ca_is_mended_by_a_copy_of_it(
    federation: federations.Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    (federation.folder / "ca.crt").unlink()
    assert main(["federation", "status", str(federation.folder)]) == 2
    said = capsys.readouterr().err
    assert "server/ca.crt" in said and "site keys" not in said
    assert "ca.crt" in refused("deployment.file", federations.invite, federation, "north").what
    (federation.server / "ca.crt").write_text("damaged")
    assert "ca.crt" in refused("deployment.file", link_of, federation).what
