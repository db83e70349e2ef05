"""The weights registry ``assets/registry.json``: where each file comes from, its checksum, and where it lies here."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from engine.errors import UserError

ASSETS_FOLDER = Path(__file__).resolve().parents[2] / "assets"
REGISTRY_PATH = ASSETS_FOLDER / "registry.json"
_PIN = "@sha256:"


@dataclass(frozen=True)
class Asset:
    """One file of weights.

    ``file`` is relative to ``assets/`` for shipped files (they have ``made_by``, the command that makes them) and a
    bare file name for those that are fetched from ``url``. ``sha256`` is None where no trustworthy value is known.
    """

    name: str
    file: str
    licence: str
    sha256: str | None = None
    bytes: int | None = None
    url: str | None = None
    made_by: str | None = None
    model: str | None = None
    size: str | None = None
    note: str | None = None


def list_assets(*, registry: Path = REGISTRY_PATH) -> tuple[Asset, ...]:
    """Return the registry's rows, in its order."""
    known = {field.name for field in fields(Asset)}
    rows = json.loads(registry.read_text(encoding="utf-8"))["assets"]
    return tuple(
        Asset(name=name, **{key: value for key, value in row.items() if key in known}) for name, row in rows.items()
    )


def find_asset(name: str, *, registry: Path = REGISTRY_PATH) -> Asset:
    """Return the asset called ``name`` (its registry name or its file's name); UserError ``weights.unknown``."""
    bare = name.partition(_PIN)[0]
    rows = list_assets(registry=registry)
    for asset in rows:
        if bare in (asset.name, Path(asset.file).name):
            return asset
    raise UserError(
        "weights.unknown",
        what=f"There are no weights called {bare!r}.",
        why=f"The registry lists {', '.join(asset.name for asset in rows)}.",
        fix="Choose one of these names, or give the path of a .safetensors, .pth or .pt file.",
    )


def find_weights_folder(name_or_folder: str | Path) -> Path | None:
    """Return the folder called ``name_or_folder``: a path, or a name below ``assets/weights``; None where absent."""
    for folder in (Path(name_or_folder), ASSETS_FOLDER / "weights" / str(name_or_folder)):
        if folder.is_dir():
            return folder
    return None


def fetched_folder() -> Path:
    """Return where fetched weights are kept: ``weights`` in the studio's home (``DSFEDMED_HOME``)."""
    return Path(os.environ.get("DSFEDMED_HOME", "studio_home")) / "weights"


def asset_paths(asset: Asset, *, registry: Path = REGISTRY_PATH) -> tuple[Path, ...]:
    """Return the places where the file of ``asset`` may lie, the shipped one first."""
    return registry.parent / asset.file, fetched_folder() / Path(asset.file).name


def resolve(name: str, *, sha256: str | None = None, registry: Path = REGISTRY_PATH) -> Path:
    """Return the verified file of the weights called ``name``.

    Parameters
    ----------
    name : str
        A registry name or file name; ``NAME@sha256:HEX`` gives the checksum with it.
    sha256 : str or None
        Checksum to hold the file to, needed where the registry knows none.

    Raises
    ------
    UserError
        ``weights.unknown``, ``weights.absent`` (not fetched yet), ``weights.checksum`` (damaged or another file),
        ``weights.unverified`` (no checksum is known and none was given).
    """
    asset = find_asset(name, registry=registry)
    for path in asset_paths(asset, registry=registry):
        if path.is_file():
            check_file(path, asset=asset, sha256=sha256 or pinned_checksum(name))
            return path
    raise UserError(
        "weights.absent",
        what=f"The weights {asset.name!r} are not on this machine.",
        why=f"The file {Path(asset.file).name} lies in none of the folders that are searched.",
        fix=f"Make them with: {asset.made_by}"
        if asset.made_by
        else f"Run: python -m engine weights fetch {asset.name}",
    )


def pinned_checksum(name: str) -> str | None:
    """Return the checksum in ``NAME@sha256:HEX``, or None."""
    return name.partition(_PIN)[2].lower() or None


def check_file(path: Path, *, asset: Asset, sha256: str | None) -> None:
    """Hold ``path`` to the given checksum, or the registry's; UserError ``weights.checksum`` or ``.unverified``."""
    expected = sha256 or asset.sha256
    actual = file_sha256(path)
    if expected is None:
        raise UserError(
            "weights.unverified",
            what=f"The weights {asset.name!r} cannot be checked: no SHA-256 of {path.name} is published.",
            why=f"A file that nobody vouches for is not loaded by name; this one has SHA-256 {actual}.",
            fix=f"Compare it with a source that you trust, then load '{asset.name}{_PIN}{actual}'.",
        )
    if actual != expected.lower():
        raise UserError(
            "weights.checksum",
            what=f"The file {path} of the weights {asset.name!r} has SHA-256 {actual}.",
            why=f"It should have {expected.lower()}: the file is damaged or another one.",
            fix=f"Delete it and run: {asset.made_by or f'python -m engine weights fetch {asset.name}'}",
        )


def register_local(
    name: str,
    *,
    path: Path,
    licence: str,
    made_by: str,
    model: str | None = None,
    size: str | None = None,
    note: str | None = None,
    registry: Path = REGISTRY_PATH,
) -> Asset:
    """Enter the file ``path``, which lies under the registry's folder, as the weights ``name``; returns its row.

    Checksum and size are read from the file; an earlier row of that name is replaced. ``made_by`` is the command that
    makes the file again.
    """
    asset = Asset(
        name=name,
        file=path.resolve().relative_to(registry.parent.resolve()).as_posix(),
        licence=licence,
        sha256=file_sha256(path),
        bytes=path.stat().st_size,
        made_by=made_by,
        model=model,
        size=size,
        note=note,
    )
    document = json.loads(registry.read_text(encoding="utf-8"))
    row = {key: value for key, value in asdict(asset).items() if key != "name" and value is not None}
    document["assets"][name] = row
    temporary = registry.with_name(f"{registry.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(registry)
    return asset


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
