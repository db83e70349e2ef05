"""The server of a federation: Flower's SuperLink with the settings that keep it safe, and who may connect to it."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from engine.deployment import certificates, federations
from engine.deployment.federations import Federation
from engine.deployment.processes import Say, Supervised, only_one
from engine.deployment.proxies import write_proxies
from engine.deployment.settings import split_address
from engine.errors import UserError

if TYPE_CHECKING:
    from engine.federation.backends.superlink import Control, Link, Node

START_S = 120.0
"""How long a SuperLink may take to start: it imports for 5 to 20 s (ours)."""
LOOK_S = 2.0
"""How often the server looks for sites that were added or revoked meanwhile (ours)."""
CHECK_S = 30.0
"""How often it looks for keys that somebody else has registered: who has an account on this machine could (ours)."""
SAFE_SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""With these, Flower opens no connection of its own and installs nothing."""


@dataclass(frozen=True)
class SiteView:
    """A site as ``status`` shows it; ``connection`` is online, offline, never seen, or unknown without a server."""

    name: str
    state: str
    connection: str
    last_seen: float | None
    fingerprint: str | None


@dataclass(frozen=True)
class Status:
    """What ``status`` shows of a federation."""

    running: bool
    sites: tuple[SiteView, ...]
    ca: certificates.Validity
    server_certificate: certificates.Validity
    hosts: tuple[str, ...]
    warnings: tuple[str, ...]
    log: Path


def link_of(federation: Federation) -> Link:
    """Return how this machine's worker reaches the federation's SuperLink."""
    from engine.federation.backends.superlink import Link

    try:
        secret = federation.secret.read_bytes()
    except OSError as error:
        raise UserError(
            "deployment.file",
            what=f"{federation.secret} cannot be read: {error.strerror}.",
            why="Only who reads it may send questions to the sites.",
            fix="Start the run as the user that the server runs as, on the server's machine.",
        ) from error
    ca = federation.server / "ca.crt"
    certificates.read_certificate(ca)
    return Link(federation.address, ca.read_bytes(), secret)


def up(federation: Federation, *, stop: threading.Event, say: Say) -> int:
    """Run the federation's server until ``stop`` is set; return the last exit status of the SuperLink."""
    lock = only_one(federation.server / "running.lock", what=f"The server of {federation.name}")
    for warning in certificate_warnings(federation, refuse=True):
        say(warning)
    _check_port(federation)
    write_proxies(federation)
    link = Supervised(
        command(federation),
        name="The SuperLink",
        log=federation.server / "logs" / "superlink.log",
        env=environment(federation.server / "flower"),
        say=say,
    )
    link.start()
    try:
        control = _wait_until_it_answers(federation, link, stop=stop)
        if control is None:
            return link.end()
        say(f"The server of {federation.name} is up on {federation.address}; its log is {link.log}.")
        proxy = f"nginx -p {shlex.quote(str(federation.server))} -c nginx.conf"
        register = _Register(federation, control, say=say)
        register.bring_up_to_date()
        # Not before the keys are known: a site that is there at once would be refused, and not come back by itself.
        say(f"Sites connect to {federation.public_address}, where the proxy has to run: {proxy}")
        return link.supervise(stop, every_s=LOOK_S, look=register.look)
    finally:
        link.end()
        del lock


def command(federation: Federation) -> list[str]:
    """Return the SuperLink's command: TLS, node keys, loopback, and runs that only the secret's reader can serve."""
    server = federation.server
    return [
        str(Path(sys.executable).with_name("flower-superlink")),
        *("--host", "127.0.0.1", "--port", str(federation.port)),
        *("--ssl-ca-certfile", str(server / "ca.crt")),
        *("--ssl-certfile", str(server / "server.crt"), "--ssl-keyfile", str(server / "server.key")),
        *("--isolation", "process", "--superexec-auth-secret-file", str(federation.secret)),
        *("--enable-supernode-auth", "--database", str(server / "state.db")),
        "--disable-runtime-dependency-installation",
    ]


def environment(flower_home: Path) -> dict[str, str]:
    """Return this process's environment with the safe settings."""
    flower_home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return {**os.environ, **SAFE_SETTINGS, "FLWR_HOME": str(flower_home), "PYTHONUNBUFFERED": "1"}


def update_registrations(federation: Federation, control: Control, *, say: Say) -> None:
    """Register the keys of accepted sites and refuse all others, as the federation's folder says."""
    wanted = federations.accepted_keys(federation)
    known = {node.key_pem.strip(): node for node in control.nodes()}
    for name, key_pem in wanted.items():
        if key_pem.strip() not in known:
            try:
                control.register(name, key_pem)
            except UserError:
                # A command and the server itself may register at once; then the key is there.
                if key_pem.strip() not in {node.key_pem.strip() for node in control.nodes()}:
                    raise
            say(f"{name} may connect now (key {certificates.fingerprint(key_pem)}).")
    for key_pem, node in known.items():
        if key_pem not in {key.strip() for key in wanted.values()}:
            try:
                control.revoke(node.node_id)
            except UserError:
                if node.node_id in {other.node_id for other in control.nodes()}:
                    raise
            say(f"{node.name} may not connect any more (key {certificates.fingerprint(key_pem)}).")


def update_if_running(federation: Federation, *, say: Say) -> bool:
    """Register and revoke at once where the server is up; return whether it is."""
    if not _listening(federation):  # at once: Flower takes seconds to import
        return False
    from engine.federation.backends.superlink import Control

    control = Control(link_of(federation), outage_s=1.0)
    try:
        update_registrations(federation, control, say=say)
    except UserError as error:
        if error.code != "federation.server_unreachable":
            raise
        return False
    finally:
        control.close()
    return True


def status(federation: Federation) -> Status:
    """Return who may take part, who is online, and how long certificates are valid."""
    running = _listening(federation)
    nodes = _nodes(federation) if running else {}
    rows = []
    for site in federations.sites(federation):
        node = nodes.get((site.key_pem or b"").strip())
        connection = "unknown" if not running else "never seen"
        if node is not None and node.last_seen is not None:
            connection = "online" if node.online else "offline"
        rows.append(SiteView(site.name, site.state, connection, node.last_seen if node else None, site.fingerprint))
    return Status(
        running,
        tuple(rows),
        certificates.validity(federation.folder / "ca.crt"),
        certificates.validity(federation.server / "server.crt"),
        certificates.hosts_of(federation.server / "server.crt"),
        certificate_warnings(federation),
        federation.server / "logs" / "superlink.log",
    )


def _nodes(federation: Federation) -> dict[bytes, Node]:
    from engine.federation.backends.superlink import Control

    control = Control(link_of(federation), outage_s=1.0)
    try:
        return {node.key_pem.strip(): node for node in control.nodes()}
    finally:
        control.close()


def certificate_warnings(federation: Federation, *, refuse: bool = False) -> tuple[str, ...]:
    """Return what is or soon will be wrong with the certificates; with ``refuse`` a wrong one is a ``UserError``."""
    found = []
    host, _ = split_address(federation.public_address)
    server = federation.server / "server.crt"
    problems = []
    for name, path in (("The server's certificate", server), ("The federation's CA", federation.folder / "ca.crt")):
        left = certificates.validity(path).days_left
        if left < 0:
            problems.append(f"{name} expired {-left} days ago.")
        elif left < certificates.WARN_DAYS:
            found.append(f"{name} expires in {left} days: renew it with `federation renew`.")
    if host not in certificates.hosts_of(server):
        problems.append(f"The server's certificate is not for '{host}', which public_address gives to sites.")
    if problems and refuse:
        raise UserError(
            "deployment.certificate",
            what=" ".join(problems),
            why="Sites would refuse to talk to this server.",
            fix=f"Run: python -m engine federation renew {shlex.quote(str(federation.folder))}",
        )
    return (*problems, *found)


def _listening(federation: Federation) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", federation.port)) == 0


def _check_port(federation: Federation) -> None:
    if not _listening(federation):
        return
    raise UserError(
        "deployment.port_taken",
        what=f"Port {federation.port} of this machine is taken by another program.",
        why="The server listens there.",
        fix=f"Stop that program, or give another port in {federation.folder / federations.SETTINGS}.",
    )


def _wait_until_it_answers(federation: Federation, link: Supervised, *, stop: threading.Event) -> Control | None:
    from engine.federation.backends.superlink import Control

    control = Control(link_of(federation), outage_s=0.1)
    until = monotonic() + START_S
    while not stop.is_set():
        if link.exit_status() is not None or monotonic() > until:
            raise UserError(
                "deployment.not_started",
                what=f"The SuperLink did not start. The end of its log: {link.last_lines()}",
                why="Without it sites cannot connect.",
                fix=f"Look into {link.log}; where the words are not clear, send it to those who support you.",
            )
        try:
            control.nodes()
        except UserError as error:
            if error.code != "federation.server_unreachable":
                raise
            sleep(0.3)
            continue
        control.close()
        return Control(link_of(federation), outage_s=5.0)
    return None


class _Register:
    """Keeps who is registered with the SuperLink as the federation's folder says."""

    def __init__(self, federation: Federation, control: Control, *, say: Say) -> None:
        self._federation, self._control, self._say = federation, control, say
        self._seen, self._next = self._stamp(), monotonic() + CHECK_S

    def look(self) -> None:
        stamp, now = self._stamp(), monotonic()
        if (stamp != self._seen or now > self._next) and self.bring_up_to_date():
            self._seen, self._next = stamp, now + CHECK_S

    def bring_up_to_date(self) -> bool:
        try:
            update_registrations(self._federation, self._control, say=self._say)
        except UserError as error:  # a file that somebody is just editing, or the SuperLink between two starts
            self._say(f"Sites are as they were: {error.what}")
            return False
        return True

    def _stamp(self) -> tuple[tuple[str, int], ...]:
        files = [p for p in sorted((self._federation.folder / "sites").iterdir()) if p.suffix in (".toml", ".csr")]
        return tuple((path.name, path.stat().st_mtime_ns) for path in files)
