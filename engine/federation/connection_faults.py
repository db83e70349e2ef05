"""What is wrong with a connection between a site and its server, in words that a hospital's IT can act on."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from engine.errors import UserError

CLOCK_S = 300.0
"""A SuperLink refuses signed requests whose time differs by more (Flower's TIMESTAMP_TOLERANCE)."""
_EXPIRED, _NOT_YET, _SELF_SIGNED, _SELF_SIGNED_IN_CHAIN, _NO_ISSUER, _NO_LEAF, _HOST, _ADDRESS = (
    10, 9, 18, 19, 20, 21, 62, 64,
)  # fmt: skip
"""Codes of OpenSSL's certificate check (X509_V_ERR_*)."""
_ACTIVATION_FAILED = 2004
_OTHER_RUN_STATE = (2007, 2008)


@contextmanager
def plain_words(address: str) -> Iterator[None]:
    """Turn what httpx raises inside into a ``UserError`` ``federation.*`` about the server at ``address``."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise refusal(error.response, address=address) from error
    except httpx.TransportError as error:
        raise no_connection(error, address=address) from error
    except ValueError as error:
        if "protobuf" not in str(error):
            raise
        raise _other_answer(address, told="an answer that is not Flower's") from error


def no_connection(error: Exception, *, address: str) -> UserError:
    """Return why there is no connection: name, port, TLS, certificate, or a server that is down."""
    causes = list(_causes(error))
    certificate = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
    if certificate is not None:
        return _certificate_refused(certificate, address=address)
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return _other_answer(address, told="no TLS connection")
    why = "A site and its server talk over this one connection."
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return UserError(
            "federation.server_name",
            what=f"The name in the server's address '{address}' is not known to this network.",
            why=why,
            fix="Look for a spelling mistake in the address, or ask your network's administrators about the name.",
        )
    told = _first_words(error)
    return UserError(
        "federation.server_unreachable",
        what=f"The server at {address} cannot be reached: {told}.",
        why=why,
        fix="Ask the coordinator whether the server is up, and your network's administrators whether outgoing "
        f"connections to {address} are allowed.",
    )


def refusal(response: httpx.Response, *, address: str) -> UserError:
    """Return why the server refused a request."""
    code = _flower_code(response)
    if code == _ACTIVATION_FAILED:
        return UserError(
            "federation.key_refused",
            what=f"The server at {address} does not take this site's key.",
            why="Only keys that the coordinator has registered may take part, each with one program; this one is not "
            "registered, or not any more, or a program with it is connected already.",
            fix="Send the signing request of `site keys` to the coordinator, and ask whether the site was "
            "added or revoked. Where a copy of this folder runs at another machine, stop one of both.",
        )
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return _not_authorised(response, address=address)
    if code in _OTHER_RUN_STATE or response.status_code == httpx.codes.FORBIDDEN:
        return UserError(
            "federation.run_over",
            what=f"The server at {address} has ended this run.",
            why="Its worker stopped, or the server was started anew meanwhile.",
            fix="Resume the run.",
        )
    if code is None:
        return _other_answer(address, told=f"the answer {response.status_code} of another program")
    return UserError(
        "federation.server_refused",
        what=f"The server at {address} refused a request (Flower's error {code}): {response.text[:300]}.",
        why="Without an answer the work cannot go on.",
        fix="Look into the server's log, which `federation status` names.",
    )


def clock_difference_s(response: httpx.Response) -> float | None:
    """Return how many seconds this machine's clock is ahead of the server's, or None where it does not tell."""
    told = response.headers.get("date")
    if told is None:
        return None
    return (datetime.now(UTC) - parsedate_to_datetime(told)).total_seconds()


def _not_authorised(response: httpx.Response, *, address: str) -> UserError:
    ahead_s = clock_difference_s(response)
    if ahead_s is not None and abs(ahead_s) > CLOCK_S - 10.0:
        minutes, side = abs(ahead_s) / 60.0, "ahead of" if ahead_s > 0 else "behind"
        return UserError(
            "federation.clock",
            what=f"This machine's clock is {minutes:.0f} minutes {side} the server's.",
            why=f"A signed request that differs by more than {CLOCK_S / 60:.0f} minutes is refused.",
            fix="Set the clocks of both machines by a time server (NTP).",
        )
    return UserError(
        "federation.key_refused",
        what=f"The server at {address} does not accept this key.",
        why="The coordinator has revoked it, or the server was set up anew since it was registered.",
        fix="Ask the coordinator; a revoked site makes new keys with `site keys`.",
    )


def _certificate_refused(error: ssl.SSLCertVerificationError, *, address: str) -> UserError:
    code, why = error.verify_code, "A site talks to no server whose identity it cannot check."
    if code == _EXPIRED:
        what = f"The certificate of the server at {address} has expired."
        fix = "Ask the coordinator for a new one (`federation renew`), and look at this machine's clock."
    elif code == _NOT_YET:
        what = f"The certificate of the server at {address} is not valid yet by this machine's clock."
        fix = f"This machine's clock says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: set it by a time server (NTP)."
    elif code in (_HOST, _ADDRESS):
        what = f"The server at {address} has a certificate for another name: {error.verify_message}."
        fix = "Use the address that the coordinator gave, or ask for a certificate with this name."
    elif code in (_SELF_SIGNED, _SELF_SIGNED_IN_CHAIN, _NO_ISSUER, _NO_LEAF):
        what = f"The certificate of the server at {address} is not from this federation (wrong CA)."
        fix = "Compare ca.crt with the coordinator's, and ask whether a program of your network opens TLS connections."
    else:
        what = f"The certificate of the server at {address} is not accepted: {error.verify_message}."
        fix = "Show this to the coordinator."
    kind = "certificate_time" if code in (_EXPIRED, _NOT_YET) else "certificate"
    return UserError(f"federation.{kind}", what=what, why=why, fix=fix)


def _other_answer(address: str, *, told: str) -> UserError:
    return UserError(
        "federation.not_a_server",
        what=f"What answers at {address} is not a server of a federation: {told}.",
        why="Its address or port belongs to something else, or a proxy on the way answers in its place.",
        fix="Compare the address and port with the coordinator's; the proxy must pass on /v1/fleet/.",
    )


def _flower_code(response: httpx.Response) -> int | None:
    try:
        told = json.loads(response.text)
    except (ValueError, RecursionError):  # no JSON, no text, or made to break its reader
        return None
    code = told.get("code") if isinstance(told, dict) else None
    return code if isinstance(code, int) else None


def _first_words(error: Exception) -> str:
    told = str(error).strip() or type(error).__name__
    return told.splitlines()[0].rstrip(".")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
