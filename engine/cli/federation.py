"""Commands of a federation across machines: the coordinator's, the server's and a site's."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli import site_decisions
from engine.cli.output import JsonFlag, print_json, print_table
from engine.errors import UserError

if TYPE_CHECKING:
    from engine.deployment.certificates import Validity

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)
server_app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)
site_app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)
FederationArgument = Annotated[Path, typer.Argument(help="The federation's folder at the server")]
for _command in (
    site_decisions.runs,
    site_decisions.approve,
    site_decisions.refuse,
    site_decisions.log,
    site_decisions.checks,
):
    site_app.command(_command.__name__)(_command)
site_app.command("begin-anew")(site_decisions.begin_anew)
SiteNameArgument = Annotated[str, typer.Argument(help="The site's name")]
SiteFolderArgument = Annotated[Path, typer.Argument(help="The site's folder, which the coordinator has sent")]


@app.command()
def init(
    folder: FederationArgument,
    address: Annotated[str, typer.Option("--address", help="HOST:PORT that sites connect to, the proxy's")],
    name: Annotated[str, typer.Option("--name", help="A name for people")] = "federation",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the server on this machine's loopback")] = 9093,
    as_json: JsonFlag = False,
) -> None:
    """Make a federation: its CA, the server's certificate and a proxy's configuration."""
    from engine.deployment import federations
    from engine.deployment.proxies import write_proxies

    made = federations.create(folder, name=name, public_address=address, port=port)
    write_proxies(made)
    if as_json:
        print_json({"folder": str(folder), "name": name, "public_address": address, "port": port})
        return
    print(f"Made the federation '{name}' in {folder}. Keep ca.key in it safe: whoever has it can pose as the server.")
    print(f"Add sites:  python -m engine federation add-site {shlex.quote(str(folder))} NAME")
    print(f"Start it:   python -m engine server up {shlex.quote(str(folder))}")


@app.command("add-site")
def add_site(
    folder: FederationArgument,
    site: SiteNameArgument,
    request: Annotated[
        Path | None, typer.Option("--request", help="The site's signing request (site.csr), once it has come")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make the folder that a new site gets, or accept the signing request that it has sent back."""
    from engine.deployment import federations, server

    federation = federations.load(folder)
    if request is None:
        made = federations.invite(federation, site)
        if as_json:
            print_json({"site": site, "state": "invited", "folder": str(made)})
            return
        print(f"Send {made} to {site}; nothing in it is secret, and its README.txt says what to do there.")
        print("They make their key and send site.csr back. Then:")
        print(f"  python -m engine federation add-site {shlex.quote(str(folder))} {site} --request site.csr")
        return
    accepted = federations.accept(federation, site, request)
    running = server.update_if_running(federation, say=lambda _: None)
    if as_json:
        print_json({"site": site, "state": "accepted", "fingerprint": accepted.fingerprint, "at_once": running})
        return
    print(f"{site} may take part{'' if running else ' as soon as the server is up'}. Its key's fingerprint is")
    print(f"  {accepted.fingerprint}")
    print("Compare it with the site's by phone; if it differs, revoke the site at once.")


@app.command()
def revoke(folder: FederationArgument, site: SiteNameArgument, as_json: JsonFlag = False) -> None:
    """Refuse a site's key from now on."""
    from engine.deployment import federations, server

    federation = federations.load(folder)
    federations.revoke(federation, site)
    running = server.update_if_running(federation, say=lambda _: None)
    if as_json:
        print_json({"site": site, "state": "revoked", "at_once": running})
    else:
        print(f"{site} may not take part any more. It can come back with new keys (site keys --new).")


@app.command()
def renew(folder: FederationArgument, as_json: JsonFlag = False) -> None:
    """Give the server a new certificate from the same CA, for the address in federation.toml."""
    from engine.deployment import certificates, federations
    from engine.deployment.settings import split_address

    federation = federations.load(folder)
    host, _ = split_address(federation.public_address)
    certificates.make_server_certificate(folder, hosts=[host], into=federation.server)
    until = certificates.validity(federation.server / "server.crt")
    if as_json:
        print_json({"hosts": [host], "ends": until.ends.isoformat()})
    else:
        print(f"The server's certificate for {host} is valid until {until.ends:%Y-%m-%d}.")
        print("Start the server and its proxy again.")


@app.command()
def status(folder: FederationArgument, as_json: JsonFlag = False) -> None:
    """Show sites, who is connected, and until when certificates are valid."""
    from engine.deployment import federations, server

    federation = federations.load(folder)
    view = server.status(federation)
    certificates = {"ca": view.ca, "server": view.server_certificate}
    if as_json:
        print_json(
            {"name": federation.name, "public_address": federation.public_address, "running": view.running}
            | {"log": str(view.log), "sites": [asdict(site) for site in view.sites], "warnings": view.warnings}
            | {"certificates": {name: _valid(found) for name, found in certificates.items()}, "hosts": view.hosts}
        )
        return
    print(f"{federation.name}: the server is {'up' if view.running else 'not up'}, its log is {view.log}")
    print(f"Sites connect to {federation.public_address}")
    for name, found in certificates.items():
        print(f"Certificate of the {name}: valid until {found.ends:%Y-%m-%d} ({found.days_left} days)")
    for warning in view.warnings:
        print(f"Note: {warning}")
    print()
    rows = [
        (site.name, site.state, site.connection, _ago(site.last_seen), site.fingerprint or "-") for site in view.sites
    ]
    print_table(("Site", "State", "Connection", "Last seen", "Key"), rows)


@server_app.command("up")
def server_up(folder: FederationArgument) -> None:
    """Run the federation's server in this terminal, until Ctrl-C or SIGTERM."""
    from engine.deployment import federations, server
    from engine.deployment.processes import stop_on_signals

    federation = federations.load(folder)
    status = server.up(federation, stop=stop_on_signals(), say=_say)
    if status == 2:
        log = federation.server / "logs" / "superlink.log"
        raise UserError(
            "deployment.not_started",
            what="The SuperLink refused its settings.",
            why="Without it sites cannot connect.",
            fix=f"Its reason is at the end of {log}.",
        )


@site_app.command("keys")
def site_keys(
    folder: SiteFolderArgument,
    new: Annotated[bool, typer.Option("--new", help="Make new keys in place of those that are there")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make the site's key pair here, and the signing request for the coordinator."""
    from engine.deployment import site as sites

    site = sites.load(folder)
    fingerprint = sites.make_keys(site, new=new)
    if as_json:
        print_json({"site": site.name, "request": str(folder / "site.csr"), "fingerprint": fingerprint})
        return
    print(f"Send {folder / 'site.csr'} to the coordinator. site.key stays here; nobody else needs it.")
    print(f"The key's fingerprint, to compare by phone:\n  {fingerprint}")


@site_app.command("up")
def site_up(
    folder: SiteFolderArgument,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of images; else the one in site.toml")] = None,
    server: Annotated[str | None, typer.Option("--server", help="HOST:PORT; else the one in site.toml")] = None,
) -> None:
    """Run the site's program in this terminal, until Ctrl-C or SIGTERM. It opens no port."""
    from engine.deployment import site as sites
    from engine.deployment.processes import stop_on_signals

    site = sites.load(folder, data=data, server=server)
    print(f"{site.name}: everything is kept in {site.log}", flush=True)
    sites.up(site, stop=stop_on_signals(), say=_say)


def _say(text: str) -> None:
    print(text, flush=True)


def _valid(found: Validity) -> dict[str, Any]:
    return {"begins": found.begins.isoformat(), "ends": found.ends.isoformat(), "days_left": found.days_left}


def _ago(seen: float | None) -> str:
    if seen is None:
        return "-"
    seconds = max(0.0, time.time() - seen)
    return f"{seconds:.0f} s ago" if seconds < 120 else time.strftime("%Y-%m-%d %H:%M", time.localtime(seen))
