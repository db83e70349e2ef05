"""Which datasets of this server the form of a new run offers by name, so that nobody writes a path. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from app import data_text
from app.access import Visitor
from app.dataset_uploads import TAUGHT
from engine.errors import UserError

if TYPE_CHECKING:
    from app.studio import Studio
    from engine.data.found_folders import FoundFolder

SEARCH_S = 3.0
"""For looking through folders; what was found until then is offered (ours)."""
Choices = list[tuple[str, str]]


def roots(studio: Studio) -> tuple[Path, ...]:
    """Return the folders below which datasets are offered.

    Where the operator has named none, a page that only this machine can reach looks below the folder it was started in.
    """
    named = studio.settings.allowed_roots or ((Path.cwd(),) if studio.mode == "local" else ())
    return (*named, studio.datasets.folder)


def offered(studio: Studio, *, by: Visitor) -> tuple[Choices, str]:
    """Return the datasets as choices, label and path, and what to say below them; none for who is no operator."""
    from engine.data.found_folders import find_datasets

    below = roots(studio)
    if by.role != "operator" or not below:
        return [], data_text.FOLDERS_NO_ROOT
    found, is_complete = find_datasets([root.expanduser().absolute() for root in below], most_s=SEARCH_S)
    if not found:
        return [], data_text.FOLDERS_NONE.format(roots=", ".join(_last(root) for root in below))
    said = data_text.FOLDERS_INFO if is_complete else data_text.FOLDERS_CUT.format(count=len(found))
    return choices(found, below), said


def take(studio: Studio, upload: str | None, *, by: Visitor) -> Path | None:
    """Unpack a zip that ``by`` has uploaded and return where the dataset lies; None where there is none.

    Raises ``UserError`` ``app.upload_who`` for who is no operator, and those of ``DatasetUploads.take``.
    """
    if not upload:
        return None
    studio.permissions.check_role(by)
    if by.role != "operator":
        what, why, fix = data_text.UPLOAD_WHO_WHAT, data_text.UPLOAD_WHO_WHY, data_text.UPLOAD_WHO_FIX
        raise UserError("app.upload_who", what=what, why=why, fix=fix)
    return studio.datasets.take(Path(upload), name=studio.uploads.name_of(Path(upload)))


def choices(found: Sequence[FoundFolder], below: Sequence[Path]) -> Choices:
    """Return label and path of each, by name: the label says where it lies below its root and what it holds."""
    told = [(_label(one, below), str(one.path)) for one in found]
    return sorted(told, key=lambda choice: choice[0].casefold())


def _label(one: FoundFolder, below: Sequence[Path]) -> str:
    name = _taught(one) or next(
        (
            f"{_last(root)}/{one.path.relative_to(root.expanduser().absolute()).as_posix()}".removesuffix("/.")
            for root in below
            if one.path.is_relative_to(root.expanduser().absolute())
        ),
        one.path.name,
    )
    words = data_text.FOLDER_FOREIGN if one.layout == "nnunet" else data_text.FOLDER
    return words.format(name=name, images=f"{one.num_images:,}", sites=one.num_sites)


def _taught(one: FoundFolder) -> str:
    """Return what a person has called a dataset that was made here of corrected masks; "" for others."""
    from engine.data.description import read_description

    if not one.path.name.startswith(TAUGHT):
        return ""
    try:
        about = read_description(one.path)
    except UserError:  # changed by hand since; the list says where it lies
        return ""
    return about.name if about else ""


def _last(root: Path) -> str:
    return root.expanduser().absolute().name or str(root)
