"""The users file: ``python -m app.users FILE add NAME --role operator``. Passwords are kept as Argon2id hashes."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from engine.errors import UserError

UserRole = Literal["viewer", "operator"]
LEAST_LETTERS, MOST_LETTERS = 10, 256
"""Of a password (ours)."""
_HASHER = PasswordHasher()
_STAND_IN = _HASHER.hash("a password that nobody has")
"""Verified for unknown names, so that the time of an answer does not tell which names there are."""
_ONE_AT_A_TIME = threading.Lock()
"""A hash takes 64 MiB while it is made."""


@dataclass(frozen=True)
class User:
    """One row of the users file."""

    name: str
    role: UserRole
    password_hash: str


class Users:
    """The users file, read again whenever it has changed: who is removed from it is out at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int] | None = None
        self._users: dict[str, User] = {}
        self._read()

    def find(self, name: str) -> User | None:
        """Return a user, or None."""
        self._read()
        return self._users.get(name)

    def verify(self, name: str, password: str) -> User | None:
        """Return the user if the password is theirs."""
        user = self.find(name)
        with _ONE_AT_A_TIME:
            try:
                _HASHER.verify(user.password_hash if user else _STAND_IN, password[: MOST_LETTERS + 1])
            except (Argon2Error, InvalidHashError):
                return None
        return user

    def _read(self) -> None:
        try:
            status = self.path.stat()
        except OSError as error:
            raise _unreadable(self.path, error.strerror or str(error)) from error
        if self._stamp == (status.st_mtime_ns, status.st_size):
            return
        self._users = read(self.path)
        self._stamp = (status.st_mtime_ns, status.st_size)


def read(path: Path) -> dict[str, User]:
    """Return the users of a file by name; raises ``UserError`` ``app.users_file``."""
    try:
        rows: Any = json.loads(path.read_text(encoding="utf-8"))
        users = {name: User(name, row["role"], row["password"]) for name, row in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, str(error)) from error
    if any(user.role not in get_args(UserRole) for user in users.values()):
        raise _unreadable(path, "a role is neither viewer nor operator")
    return users


def write(path: Path, users: dict[str, User]) -> None:
    """Replace the file at once; only its owner can read it."""
    rows = {user.name: {"role": user.role, "password": user.password_hash} for user in users.values()}
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 600
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(rows, file, indent=2)
    Path(temporary).replace(path)


def add(path: Path, name: str, *, password: str, role: UserRole) -> None:
    """Add a user, or give one a new password and role. Raises ``UserError`` ``app.password`` for a poor one."""
    if not LEAST_LETTERS <= len(password) <= MOST_LETTERS:
        raise UserError(
            "app.password",
            what=f"The password has {len(password)} letters.",
            why="Somebody who tries passwords finds short ones.",
            fix=f"Choose one of {LEAST_LETTERS} to {MOST_LETTERS} letters; several words are easy to keep in mind.",
        )
    users = read(path) if path.exists() else {}
    write(path, users | {name: User(name, role, _HASHER.hash(password))})


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(
        "app.users_file",
        what=f"The users file {path} cannot be read: {reason}.",
        why="It says who may sign in.",
        fix=f"Write it with `python -m app.users {path} add NAME --role operator`.",
    )


def _asked_password(*, from_input: bool) -> str:
    if from_input:
        return sys.stdin.readline().rstrip("\n")
    first, again = getpass.getpass("Password: "), getpass.getpass("Again: ")
    if first != again:
        raise UserError(
            "app.password", what="The two passwords differ.", why="One was mistyped.", fix="Type the same one twice."
        )
    return first


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and change the users file."""
    parser = argparse.ArgumentParser(prog="python -m app.users", description="Who may sign in to the page.")
    parser.add_argument("file", type=Path, help="the users file (DSFEDMED_USERS_FILE)")
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="add somebody, or change their password and role")
    adding.add_argument("name")
    adding.add_argument("--role", choices=get_args(UserRole), default="viewer", help="viewer (default) or operator")
    adding.add_argument("--password-stdin", action="store_true", help="read the password from the standard input")
    commands.add_parser("remove", help="take somebody's access away").add_argument("name")
    commands.add_parser("list", help="show the names and roles")
    given = parser.parse_args(arguments)
    try:
        if given.command == "add":
            add(given.file, given.name, password=_asked_password(from_input=given.password_stdin), role=given.role)
        elif given.command == "remove":
            write(given.file, {name: user for name, user in read(given.file).items() if name != given.name})
        else:
            print("\n".join(f"{user.name}\t{user.role}" for user in read(given.file).values()))
    except UserError as error:
        print(f"{error.what} {error.why} {error.fix}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
