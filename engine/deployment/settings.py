"""Settings that people edit: TOML of texts and whole numbers, and addresses. What cannot be is named with its file."""

from __future__ import annotations

import ipaddress
import json
import re
import tomllib
from pathlib import Path

from engine.errors import UserError

PUBLIC_PORT = 9443
"""Port that sites connect to, the proxy's (ours)."""
MAX_HOST_LETTERS = 253
SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
"""A site's name is that of a folder, and of a certificate."""
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")


def to_toml(values: dict[str, str | int]) -> str:
    """Return texts and whole numbers as TOML."""
    rows = []
    for key, value in values.items():
        # A basic string of TOML is one of JSON, but for one control character that JSON lets through.
        text = (
            str(value) if isinstance(value, int) else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        )
        rows.append(f"{key} = {text}\n")
    return "".join(rows)


def read_toml(
    path: Path, *, texts: tuple[str, ...], ports: tuple[str, ...] = (), optional: tuple[str, ...] = ()
) -> dict[str, object]:
    """Return a file's values; ``UserError`` ``deployment.settings`` names the file and the line or key.

    ``texts`` and ``ports`` are keys that it must have; those of ``optional`` are texts where they are there.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise bad_settings(path, str(error)) from error
    for key in (*texts, *ports):
        if key not in values:
            raise bad_settings(path, f"'{key}' is missing")
    for key in (*texts, *optional):
        if key in values and not isinstance(values[key], str):
            raise bad_settings(path, f"{key} is {_shown(values[key])}, and has to be a text in quotes")
    for key in ports:
        if type(values[key]) is not int or not 0 < values[key] < 65_536:
            raise bad_settings(path, f"{key} is {_shown(values[key])}, and has to be a whole number from 1 to 65535")
    return values


def bad_settings(path: Path, problem: str) -> UserError:
    """Return what is said of a file of settings that cannot be."""
    return UserError(
        "deployment.settings",
        what=f"{path} cannot be read: {problem}.",
        why="The program does not guess settings.",
        fix="Lines are `key = value`, texts in double quotes; a backslash is written \\\\, or use single quotes.",
    )


def split_address(text: str, *, file: Path | None = None) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; ``UserError`` ``deployment.address`` where it is not one.

    ``file`` is where it is written.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    digits = port.isascii() and port.isdecimal() and len(port) < 6
    if not _is_host(host) or not digits or not 0 < int(port) < 65_536:
        plain = _in_ascii(host)
        raise UserError(
            "deployment.address",
            what=f"'{text}' is not an address{'' if file is None else f' ({file})'}.",
            why="Sites find the server by a name or number and a port."
            if plain is None
            else "Certificates and proxies have names in ASCII alone.",
            fix=f"Give HOST:PORT, for instance {plain or 'federation.example.org'}:{port if plain else PUBLIC_PORT}.",
        )
    return host, int(port)


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return len(text) <= MAX_HOST_LETTERS and _HOST_NAME.fullmatch(text) is not None
    return True


def _in_ascii(host: str) -> str | None:
    """Return a name of other letters as it is asked for in the network (IDNA); None for one that is none either way."""
    if host.isascii():
        return None
    try:
        plain = host.encode("idna").decode("ascii")
    except UnicodeError:
        return None
    return plain if _is_host(plain) else None


def _shown(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
