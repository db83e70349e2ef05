"""Who may do what: the page's mode, its visitors and their roles. The rules are applied by ``app.studio``. Torch-free.

A page that only this machine can reach asks nobody who they are. Every other page has one of four rules, and does not
start without one: read-only, a demonstration, sign-in, or the name that a trusted proxy gives.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from app import text
from app.settings import Access, Settings
from engine.errors import UserError

if TYPE_CHECKING:
    import gradio as gr

Role = Literal["viewer", "demo", "operator"]
HOST = re.compile(r"(?:\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::\d{1,5})?")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
NETWORK_BITS = 64
"""Of an IPv6 address, those that a provider gives to one of its customers."""
VISITOR_KEY = "visitor:"
"""How the keys of a demonstration's visitors begin; the store notes whose run it is by them."""
SCOPE_KEY = "dsfedmed.visitor"


@dataclass(frozen=True)
class Visitor:
    """Who asks. ``key`` tells visitors apart and is no secret; ``name`` is for people."""

    key: str
    name: str
    role: Role


LOCAL = Visitor("local", "this machine", "operator")
"""Everybody at a page that only this machine can reach."""
PROGRAM = Visitor("program", "the program", "operator")
"""The page itself, which starts the demo run."""
NOBODY = Visitor("nobody", "nobody", "viewer")


def visitor_of(request: gr.Request) -> Visitor:
    """Return who sent an event; the gate has noted it on the request."""
    return request.request.scope.get(SCOPE_KEY, NOBODY) if request.request else NOBODY


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def decide(settings: Settings) -> Access:
    """Return the mode of the page, never ``auto``.

    Raises ``UserError`` ``app.open_address`` where others can reach the page and nobody has said what they may do, or
    ``app.access_incomplete`` where the chosen mode lacks what it needs.
    """
    chosen = settings.access
    if settings.read_only:
        chosen = "read-only"
    elif chosen == "auto":
        chosen = _found(settings)
    if chosen == "local" and not is_loopback(settings.host):
        raise UserError(
            "app.open_address", what=text.OPEN_WHAT.format(host=settings.host), why=text.OPEN_WHY, fix=text.OPEN_FIX
        )
    if chosen == "sign-in" and settings.users_file is None:
        raise UserError("app.access_incomplete", what=text.NO_USERS_WHAT, why=text.NO_USERS_WHY, fix=text.NO_USERS_FIX)
    if chosen == "proxy" and not (settings.proxy_user_header and settings.proxy_addresses):
        raise UserError("app.access_incomplete", what=text.NO_PROXY_WHAT, why=text.NO_PROXY_WHY, fix=text.NO_PROXY_FIX)
    return chosen


def _found(settings: Settings) -> Access:
    if settings.users_file is not None:
        return "sign-in"
    if settings.proxy_user_header:
        return "proxy"
    return "demo" if settings.space else "local"


@dataclass(frozen=True)
class Hosts:
    """The names in a Host header that are this page's own: a page of somebody else's that leads here has another."""

    names: tuple[str, ...]
    any_address: bool
    """Whether any bare IP address will do: rebinding needs a name."""

    @classmethod
    def of(cls, settings: Settings) -> Hosts:
        """Return the names of a page with these settings."""
        names = [*LOOPBACK_NAMES, *settings.allowed_hosts, settings.space_host or ""]
        if settings.space:
            names.append("*.hf.space")
        if not is_loopback(settings.host):
            names += [settings.host, socket.gethostname()]
        return cls(tuple(name.lower() for name in names if name), any_address=not is_loopback(settings.host))

    def know(self, host: str) -> bool:
        """Return whether a Host header (with or without port) is one of the page's own."""
        name = host_name(host)
        if self.any_address and _is_address(name):
            return True
        return any(name == own or (own.startswith("*.") and name.endswith(own[1:])) for own in self.names)


def host_name(host: str) -> str:
    """Return a Host header's name or address without its port and brackets, lower case; "" for what is no such header.

    Addresses are made of it (``localhost:1@evil.example`` leads to ``evil.example``): all of it must be understood.
    """
    found = HOST.fullmatch(host.strip().lower())
    return (found["address"] or found["name"]) if found else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def household(address: str) -> str:
    """Return what is counted of an address, without its port: a network of IPv6 for one, which gives each of its users
    2**64 of them."""
    bare = address.strip()
    try:
        found = ipaddress.ip_address(bare)
    except ValueError:
        try:
            found = ipaddress.ip_address(host_name(bare))
        except ValueError:
            return bare[:60]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, NETWORK_BITS), strict=False))
    return str(found)


def is_trusted_proxy(address: str, proxies: tuple[str, ...]) -> bool:
    """Return whether a connection comes from one of the proxies (addresses or networks)."""
    try:
        came_from = ipaddress.ip_address(address)
        return any(came_from in ipaddress.ip_network(proxy, strict=False) for proxy in proxies)
    except ValueError:
        return False
