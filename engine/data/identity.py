"""What a run's data were when it began, so that a resumed run does not go on with others. Torch-free."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from engine.data.datasets import Federation
from engine.data.sources import FolderItem, Item
from engine.errors import UserError

FILE = Path("data") / "identity.json"
"""Below a run's folder. It holds digests only: names of files can identify patients."""


def check_unchanged(federation: Federation, path: Path) -> None:
    """Note the identity of the data in ``path``, or compare with what was noted there.

    Raises ``UserError`` ``run.data_changed``, which names the sites: an image trained on before could be validated on
    now, and n_k would no longer be what the averages were made with.
    """
    now = {f"{role} {name}": digest for role, name, digest in _digests(federation)}
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(now, indent=1), encoding="utf-8")
        temporary.replace(path)
        return
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(
            "stage.output_damaged",
            what=f"{path}, which says what data this run began with, cannot be read: {error}.",
            why="The run could go on with other images than it began with, and nobody would know.",
            fix="Restore the run's folder from a backup; where you know that the data are the same, delete the file.",
        ) from error
    changed = sorted({key.split(" ", 1)[1] for key in before.keys() | now.keys() if before.get(key) != now.get(key)})
    if changed:
        raise UserError(
            "run.data_changed",
            what=f"The images of {', '.join(repr(site) for site in changed)} are not those that this run began with.",
            why="Going on with others would mix two datasets: what was trained on before may be validated on now.",
            fix="Put the files and meta.csv back as they were, or start a new run on the data as they are.",
        )


def _digests(federation: Federation) -> list[tuple[str, str, str]]:
    found = []
    for name, site in federation.sites.items():
        found += [("train", name, _digest(site.train.items)), ("validation", name, _digest(site.validation.items))]
    return [*found, ("test", federation.test.name, _digest(federation.test.test.items))]


def _digest(items: tuple[Item, ...]) -> str:
    """Return a digest of which images these are: names, patients and the sizes of their files, bytes."""
    digest = hashlib.sha256()
    for item in items:
        sizes = [path.stat().st_size for path in (item.image, *item.masks)] if isinstance(item, FolderItem) else []
        digest.update(json.dumps([item.site, item.name, item.group, sizes]).encode())
    return digest.hexdigest()
