"""A federation's folder at the server: its settings, certificates and sites, as files that people can read and edit.

federation.toml      name, public address, port on this machine
ca.crt  ca.key       the CA; ca.key is needed for `init` and `renew` only
server/              what the server runs with: certificate, secret, database, logs, configurations of proxies
sites/NAME.toml      what is known of a site; NAME.csr, the signing request that was accepted
for-sites/NAME/      what the site gets: site.toml, ca.crt, README.txt; nothing in it is secret
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from engine.deployment import certificates
from engine.deployment.settings import SITE_NAME, bad_settings, read_toml, split_address, to_toml
from engine.errors import UserError
from engine.federation.backends.notes import write_note

SETTINGS = "federation.toml"
SERVER_PORT = 9093
"""Port of the SuperLink on loopback (ours)."""
SiteState = Literal["invited", "accepted", "revoked"]


@dataclass(frozen=True)
class Federation:
    """A federation's folder and settings; ``public_address`` is ``HOST:PORT`` for sites."""

    folder: Path
    name: str
    public_address: str
    port: int

    @property
    def server(self) -> Path:
        """The folder that the server runs with."""
        return self.folder / "server"

    @property
    def address(self) -> str:
        """Where the SuperLink listens on this machine."""
        return f"127.0.0.1:{self.port}"

    @property
    def secret(self) -> Path:
        """The file whose reader may act as the server's worker."""
        return self.server / "worker.secret"


@dataclass(frozen=True)
class Site:
    """A site as the coordinator knows it; ``key_pem`` is its public key, once its request has come."""

    name: str
    state: SiteState
    changed_at: str
    key_pem: bytes | None

    @property
    def fingerprint(self) -> str | None:
        """What to compare with the site over the phone."""
        return certificates.fingerprint(self.key_pem) if self.key_pem else None


def create(folder: Path, *, name: str, public_address: str, port: int = SERVER_PORT) -> Federation:
    """Make a federation's folder with its CA, the server's certificate and secret."""
    host, _ = split_address(public_address)
    if (folder / SETTINGS).exists():
        raise UserError(
            "deployment.exists",
            what=f"{folder} holds a federation already.",
            why="A new CA would lock all its sites out.",
            fix="Choose another folder, or renew the server's certificate with `federation renew`.",
        )
    made = Federation(folder, name, public_address, port)
    for place in (folder, made.server, made.server / "logs", folder / "sites", folder / "for-sites"):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.chmod(0o700)
    certificates.make_ca(folder, federation=name)
    certificates.make_server_certificate(folder, hosts=[host], into=made.server)
    certificates.write_public(made.server / "ca.crt", (folder / "ca.crt").read_bytes())
    certificates.write_private(made.secret, secrets.token_hex(32).encode())
    settings = {"name": name, "public_address": public_address, "port": port}
    (folder / SETTINGS).write_text(
        "# What sites are told is public_address, HOST:PORT of the proxy. The server itself listens on this machine's\n"
        "# loopback at port. Edit both as you like, then start the server again.\n" + to_toml(settings),
        encoding="utf-8",
    )
    return made


def load(folder: Path) -> Federation:
    """Return the federation in a folder; ``UserError`` ``deployment.no_federation`` where there is none."""
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(
            "deployment.no_federation",
            what=f"{folder} holds no federation: {SETTINGS} is missing.",
            why="Sites, certificates and the server's settings are kept there.",
            fix="Name the folder of `federation init`, or make one with it.",
        )
    written = read_toml(path, texts=("name", "public_address"), ports=("port",))
    split_address(str(written["public_address"]), file=path)
    return Federation(folder, str(written["name"]), str(written["public_address"]), int(str(written["port"])))


def sites(federation: Federation) -> tuple[Site, ...]:
    """Return the sites of a federation, sorted by name."""
    return tuple(_site(path) for path in sorted((federation.folder / "sites").glob("*.toml")))


def find_site(federation: Federation, name: str) -> Site:
    """Return one site; ``UserError`` ``deployment.no_site`` names those that there are."""
    known = {site.name: site for site in sites(federation)}
    if name not in known:
        raise UserError(
            "deployment.no_site",
            what=f"There is no site '{name}' in this federation.",
            why=f"Its sites: {', '.join(known) or 'none'}.",
            fix="Add it with `federation add-site`.",
        )
    return known[name]


_SITE_POLICY = """\
# What this site lets runs do. Everything here may be edited; it holds from the next request on.
approval = "each_run"  # "each_run": site approve decides on each run; "automatic": what keeps the rules takes part
# kinds = ["student", "figures"]  # what may leave; all when left out. There are: student, normalisation, own,
#                                   generator, masks, statistics, figures
smallest_images = 1  # training images below which nothing learnt from them leaves
# most_megabytes = 500  # most that may leave in one run
generators = "as_asked"  # "checked": a generator leaves only after it was measured here, within the two limits below
# most_membership_auc = 0.9  # how well it may tell training from held-out images; 0.5 is not at all
# most_copies = 0  # copies of training images among what it draws
"""


def invite(federation: Federation, name: str) -> Path:
    """Write the folder that a new site gets; return it."""
    _check_name(name)
    if (federation.folder / "sites" / f"{name}.toml").exists():
        raise UserError(
            "deployment.site_exists",
            what=f"The site '{name}' is in this federation already.",
            why="Two sites of one name could not be told apart.",
            fix=f"Its folder is for-sites/{name}; give another name, or its signing request with --request.",
        )
    certificates.read_certificate(federation.folder / "ca.crt")
    folder = federation.folder / "for-sites" / name
    folder.mkdir(mode=0o700, exist_ok=True)
    certificates.write_public(folder / "ca.crt", (federation.folder / "ca.crt").read_bytes())
    settings = {"site": name, "server": federation.public_address, "data": "", "federation": federation.name}
    (folder / "site.toml").write_text(
        f"# data is the folder above this site's images: it holds dataset.toml and {name}/images, with {name}/masks.\n"
        "# Everything here may be edited; nothing is signed.\n" + to_toml(settings),
        encoding="utf-8",
    )
    (folder / "policy.toml").write_text(_SITE_POLICY, encoding="utf-8")
    (folder / "README.txt").write_text(_SITE_README.format(name=name), encoding="utf-8")
    _write_site(federation, name, "invited")
    return folder


def accept(federation: Federation, name: str, request: Path) -> Site:
    """Keep a site's signing request: its key may take part from the next time that the server looks."""
    key_pem = certificates.read_request(request, site=name)
    if not (federation.folder / "sites" / f"{name}.toml").exists():
        invite(federation, name)
    twins = [site.name for site in sites(federation) if site.key_pem == key_pem and site.name != name]
    old = find_site(federation, name)
    if twins or (old.state == "revoked" and old.key_pem == key_pem):
        whose = f"of the site '{twins[0]}'" if twins else "that was revoked"
        raise UserError(
            "deployment.key_used",
            what=f"The request's key is the one {whose}.",
            why="Every site has a key of its own, and a revoked key stays revoked.",
            fix="Ask the site to make new keys with `site keys --new`.",
        )
    certificates.write_public(federation.folder / "sites" / f"{name}.csr", request.read_bytes())
    _write_site(federation, name, "accepted")
    return find_site(federation, name)


def revoke(federation: Federation, name: str) -> None:
    """Note that a site's key may not take part any more."""
    find_site(federation, name)
    _write_site(federation, name, "revoked")


def accepted_keys(federation: Federation) -> dict[str, bytes]:
    """Return the public key (PEM) of every site that may take part, by name."""
    return {site.name: site.key_pem for site in sites(federation) if site.state == "accepted" and site.key_pem}


def _check_name(name: str) -> None:
    if SITE_NAME.fullmatch(name) is None:
        raise UserError(
            "deployment.site_name",
            what=f"'{name}' cannot be a site's name.",
            why="It names files, keys and rows of tables.",
            fix="Use at most 63 letters, digits, dots, dashes and underscores, a letter or digit first.",
        )


def _site(path: Path) -> Site:
    written = read_toml(path, texts=("state", "changed_at"))
    state, request = written["state"], path.with_suffix(".csr")
    if state not in get_args(SiteState):
        raise bad_settings(path, f"state is '{state}', and can be {', '.join(get_args(SiteState))}")
    key_pem = certificates.read_request(request, site=path.stem) if request.is_file() else None
    if state == "accepted" and key_pem is None:
        raise UserError(
            "deployment.request",
            what=f"{path} says that the site is accepted, but its signing request, {request.name}, is not there.",
            why="The site is known by the key in it, and would silently be left out.",
            fix='Restore the file from a backup; or write state = "invited" and accept the site anew by its site.csr.',
        )
    return Site(path.stem, state, str(written["changed_at"]), key_pem)  # type: ignore[arg-type]


def _write_site(federation: Federation, name: str, state: SiteState) -> None:
    path = federation.folder / "sites" / f"{name}.toml"
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    if not write_note(path, to_toml({"state": state, "changed_at": now}).encode()):
        raise UserError(
            "deployment.disk_full",
            what=f"The disk is full: {path} could not be written, and is as it was.",
            why="It says whether the site may take part.",
            fix="Free some space, then give the command again.",
        )


_SITE_README = """\
Copy this folder to a machine of {name}. FOLDER is where it lies there; commands are given in the folder of the program.
1. python -m engine site keys FOLDER       makes the site's key; send site.csr to the coordinator, site.key to nobody
2. Read the fingerprint to the coordinator by phone; they add the site.
3. python -m engine data check IMAGES --site {name}       IMAGES holds dataset.toml and {name}/images, with {name}/masks
4. python -m engine site up FOLDER --data IMAGES       needs one outgoing connection, to the address in site.toml
"""
