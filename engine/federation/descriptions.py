"""What a site says of its data before a run begins, and what the server knows of the whole: no pixels. Torch-free."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from engine.data.pixels import Window
from engine.errors import UserError, is_plain

MAX_TOLD_LETTERS = 20_000
MAX_IMAGES = 10_000_000
MAX_WORDS, MAX_WORD_LETTERS = 100, 300
"""Limits of what a site can say of its data (ours)."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_Told = TypeVar("_Told")
IDENTITY_FILE = Path("data") / "identity.json"
"""Below a run's folder: digests only, for names of files can identify patients."""


@dataclass(frozen=True)
class SiteDescription:
    """One site's numbers of images, and digests that tell whether they are the same another day.

    ``role`` is ``source`` for a site that trains, ``test`` for images that no training sees.
    """

    name: str
    role: Literal["source", "test"]
    num_train: int
    num_validation: int
    num_test: int
    digests: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of names, patients and file sizes of ``train``, ``validation`` or ``test``."""

    def as_json(self) -> str:
        """Return it as one JSON object."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_site(cls, text: str, *, name: str, role: str) -> SiteDescription:
        """Return what the site ``name`` has told; ValueError says what in it cannot be."""
        told = _read(cls, text)
        counts = (told.num_train, told.num_validation, told.num_test)
        if (told.name, told.role) != (name, role):
            raise ValueError(f"it says that it is {told.name!r:.60} and a {told.role}")
        if not all(0 <= count <= MAX_IMAGES for count in counts) or not sum(counts):
            raise ValueError(f"it says that it has {counts} images")
        if (role == "test") != bool(told.num_test) or (role == "source") != bool(told.num_train):
            raise ValueError(f"as a {role} it says that it has {counts} images to train, validate and test on")
        if not all(len(key) < 20 and _SHA256.fullmatch(value) for key, value in told.digests.items()):
            raise ValueError("its digests are none")
        return told


@dataclass(frozen=True)
class DatasetAgreement:
    """What the dataset.toml of all sites have in common; a run trains one model on all of them."""

    name: str
    task: str
    modality: str
    classes: tuple[str, ...]
    value_range: tuple[float, float] | None
    slice_axis: Literal[0, 1, 2]
    window: Window

    @classmethod
    def from_site(cls, text: str) -> DatasetAgreement:
        """Return what a site has told; ValueError says what in it cannot be."""
        told = _read(cls, text)
        words = (told.name, told.task, told.modality, *told.classes)
        if not told.classes or len(words) > MAX_WORDS or any(not 0 < len(word) <= MAX_WORD_LETTERS for word in words):
            raise ValueError("its dataset has no classes, or names that are too long")
        if not all(map(is_plain, words)):
            raise ValueError("its dataset has names with line breaks, or with letters that nobody sees")
        return told


@dataclass(frozen=True)
class FederationDescription:
    """The dataset as all sites agree on it, and its sites: ``sources`` sorted by name, then those of the test."""

    name: str
    task: str
    modality: str
    classes: tuple[str, ...]
    sources: tuple[SiteDescription, ...]
    tests: tuple[SiteDescription, ...]
    test_name: str
    """What the test is called where it has several sites."""
    test_digest: str = ""
    """Of all its images, as a site's digests are."""
    test_at_server: bool = False
    """Whether the test is a fixed set of the server's own: nothing crosses a border when it is measured on."""
    value_range: tuple[float, float] | None = None
    slice_axis: Literal[0, 1, 2] = 2
    window: Window = "auto"

    @property
    def source_names(self) -> tuple[str, ...]:
        """The sites that train, in order."""
        return tuple(site.name for site in self.sources)

    @property
    def num_train(self) -> dict[str, int]:
        """Training images of each source."""
        return {site.name: site.num_train for site in self.sources}

    @property
    def num_validation(self) -> dict[str, int]:
        """Validation images of each source."""
        return {site.name: site.num_validation for site in self.sources}


def _read(kind: type[_Told], text: str) -> _Told:
    if len(text) > MAX_TOLD_LETTERS:
        raise ValueError(f"its description has {len(text):,} letters")
    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'its description'}: {first['msg']}") from error


def check_unchanged(federation: FederationDescription, path: Path) -> None:
    """Note the identity of the data in ``path``, or compare with what was noted there.

    Raises ``UserError`` ``run.data_changed``, which names the sites: an image trained on before could be validated on
    now, and n_k would no longer be what the averages were made with.
    """
    now = digests_of(federation)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(now, indent=1), encoding="utf-8")
        temporary.replace(path)
        return
    try:
        before: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
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


def digests_of(federation: FederationDescription) -> dict[str, str]:
    """Return the digests of every site's images by what they are for (train, validation, test) and the site."""
    found = {f"{part} {site.name}": digest for site in federation.sources for part, digest in site.digests.items()}
    return found | {f"test {federation.test_name}": federation.test_digest}


def noted_sites(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Return the sites that train and those of the test that :func:`check_unchanged` has noted; None where it has not.

    A file that cannot be read says nothing here: :func:`check_unchanged` refuses it.
    """
    try:
        noted = [key.partition(" ") for key in dict(json.loads(path.read_text(encoding="utf-8")))]
    except (OSError, ValueError, TypeError):
        return None
    sources, tests = (tuple(sorted(site for part, _, site in noted if part == wanted)) for wanted in ("train", "test"))
    return (sources, tests) if sources and tests else None
