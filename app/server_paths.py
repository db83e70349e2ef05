"""Which files of the server a run may name, and which the page may, where others can reach it. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

from app import text
from engine.config import RunConfig
from engine.config_keys import place_keys
from engine.errors import UserError
from engine.models.assets import list_assets


def below(path: Path, roots: tuple[Path, ...]) -> bool:
    """Return whether ``path``, links followed, is one of ``roots`` or lies below one."""
    try:
        real = path.expanduser().resolve()
        return any(real.is_relative_to(root.expanduser().resolve()) for root in roots)
    except (OSError, RuntimeError, ValueError):  # a loop of links, no such user, a NUL in the name
        return False


def check(config: RunConfig, *, roots: tuple[Path, ...], taken_from: RunConfig | None = None) -> None:
    """Raise ``UserError`` ``app.path_refused`` for a file or folder that lies below none of ``roots``.

    What is there is not looked at: the answer tells nobody whether a path exists. Names of the weights' registry are
    no paths; what ``taken_from``, the run that is forked, names already may stay. A cluster's address is refused like
    a path: what answers there can run code in the server's process.
    """
    names = {asset.name for asset in list_assets()} | {Path(asset.file).name for asset in list_assets()}
    for key, place in place_keys().items():
        value = _value(config, key)
        if value is None or (taken_from is not None and value == _value(taken_from, key)):
            continue
        if place.kind == "source" and value.partition("@sha256:")[0] in names:
            continue
        check_folder(Path(value), key=key, roots=roots)


def check_folder(path: Path, *, key: str, roots: tuple[Path, ...]) -> None:
    """Raise ``UserError`` ``app.path_refused`` where ``path``, which the field ``key`` names, is below none of them."""
    if not below(path, roots):
        raise UserError(
            "app.path_refused",
            what=text.PATH_WHAT.format(key=key),
            why=text.PATH_WHY,
            fix=text.PATH_FIX if roots else text.PATH_FIX_NONE,
        )


def places(config: RunConfig) -> dict[Path, str]:
    """Return the files and folders that a run names, each with the last part of its name."""
    values = (_value(config, key) for key in place_keys())
    return {Path(value): Path(value).name for value in values if value and Path(value).is_absolute()}


def shortened(words: str, folders: Mapping[Path, str]) -> str:
    """Return words or HTML in which what lies below one of ``folders`` is named from there on.

    A folder itself is called by its words in ``folders``.
    """
    there = {path: name for folder, name in folders.items() for path in (folder.absolute(), folder.resolve())}
    named = [(str(path), name) for path, name in there.items() if path != Path(path.anchor)]
    for path, name in sorted(named, key=lambda row: -len(row[0])):
        for spelt in {path, escape(path)}:
            words = re.sub(rf"(?<![\w.-]){re.escape(spelt)}/(?=[\w.])", "", words)
            words = re.sub(rf"(?<![\w.-]){re.escape(spelt)}/?(?![\w-])", name, words)
    return words


def _value(config: RunConfig, key: str) -> str | None:
    section, _, leaf = key.rpartition(".")
    value = getattr(getattr(config, section) if section else config, leaf)
    return None if value is None else str(value)
