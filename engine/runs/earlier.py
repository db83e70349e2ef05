"""What a run that continues a finished one has been given of it: models, generators, samples, figures. Torch-free.

It lies below ``earlier`` in the run's folder, linked to the finished run's files where that is safe, for as long as the
run is there; the stages put it in place. The finished run may be deleted meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.runs import folders
from engine.runs.outputs import link_or_copy

EARLIER = Path("earlier")
FACTS_FILE = EARLIER / "earlier.json"
JUDGE = "fedavg_student"
"""The model that has judged how faithful the samples are; it judges those of a new site, too."""
FOLDERS = ("generators", "generator_checks", "samples")


@dataclass(frozen=True)
class Earlier:
    """What is known of the finished run."""

    run_id: str
    name: str
    method: str
    """The system that it is; of a run that continued another one, of the first of them."""
    classes: tuple[str, ...]
    modality: str
    identity: Mapping[str, str]
    """Digests of its images, see ``engine.federation.descriptions``."""
    retraining: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By method: what training all sites anew was planned to take (``minutes``, ``payload_bytes``), or ``why`` not."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The sites that have trained in it, sorted."""
        return _named(self.identity, "train")

    @property
    def tests(self) -> tuple[str, ...]:
        """What it was tested on: the unseen site, or the test set."""
        return _named(self.identity, "test")


def read_earlier(run_dir: Path) -> Earlier:
    """Return what the run in ``run_dir`` was given; ``UserError`` ``join.nothing_given`` where that is not whole."""
    try:
        values = json.loads((run_dir / FACTS_FILE).read_text(encoding="utf-8"))
        return Earlier(**values | {"classes": tuple(values["classes"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            "join.nothing_given",
            what=f"{run_dir / FACTS_FILE}, which says what this run continues, cannot be read: {error}.",
            why="It works on models, generators and samples of a finished run, which are given to it when it is made.",
            fix="Add the site to the finished run again: `python -m engine join RUN SITE`.",
        ) from error


def check_alike(earlier: Earlier, *, classes: Sequence[str], modality: str) -> None:
    """Raise ``UserError`` ``join.sites_differ`` where the finished run has segmented something else."""
    for what, before, now in (
        ("classes", ", ".join(earlier.classes), ", ".join(classes)),
        ("modality", earlier.modality, modality),
    ):
        if before != now:
            raise UserError(
                "join.sites_differ",
                what=f"The data's {what}: {now}. Those of the run '{earlier.run_id}' were: {before}.",
                why="The new site joins models that segment these classes in these images.",
                fix="Correct dataset.toml or data.classes, or train a new run on the data as they are.",
            )


def check_unchanged_since(earlier: Earlier, digests: Mapping[str, str]) -> None:
    """Raise ``UserError`` ``run.data_changed`` where sites of the finished run have other images, or are missing.

    A site that was unseen and joins now is compared with itself by name alone: its images are cut now.
    """
    present, changed = {_site(key) for key in digests}, set()
    for key, digest in earlier.identity.items():
        if digests.get(key, digest) != digest or _site(key) not in present:
            changed.add(_site(key))
    if changed:
        raise UserError(
            "run.data_changed",
            what=f"The images of {', '.join(map(repr, sorted(changed)))} are not those of the run '{earlier.run_id}'.",
            why="What was trained on there may be validated on now.",
            fix="Put the files and meta.csv back as they were, or start a new run on the data as they are.",
        )


def give(source: Path, target: Path, *, facts: Earlier, models: Mapping[str, str]) -> None:
    """Give the run in ``target`` what it needs of the finished one in ``source``.

    ``models`` are names there by the names that they get here. Raises ``UserError`` ``run.folder_missing`` where a
    file is gone.
    """
    paths = {source / "models" / f"{old}.safetensors": f"models/{new}.safetensors" for new, old in models.items()}
    judge = source / "models" / f"{JUDGE}.safetensors"
    if judge.is_file():
        paths[judge] = f"models/{judge.name}"
    for folder in FOLDERS:
        for path in sorted((source / folder).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                paths[path] = path.relative_to(source).as_posix()
    missing = [path for path in paths if not path.is_file()]
    missing += [source / folder for folder in ("generators", "samples") if not (source / folder).is_dir()]
    if missing:
        raise UserError(
            "run.folder_missing",
            what=f"{missing[0]} of the finished run is not there any more.",
            why="A site joins the run's last models, its generators and its samples.",
            fix="Restore the run's folder from a backup, or train a new run with all sites.",
        )
    for path, name in paths.items():
        copy = target / EARLIER / name
        folders.make(copy.parent)
        link_or_copy(path, copy)
    facts_file = target / FACTS_FILE
    folders.make(facts_file.parent)
    facts_file.write_text(json.dumps(asdict(facts), indent=1, ensure_ascii=False), encoding="utf-8")


def put_in_place(run_dir: Path, name: str) -> None:
    """Give the folder ``name`` of the run what it was given there; what is there already stays."""
    root = run_dir / EARLIER
    for path in sorted((root / name).rglob("*")):
        place = run_dir / path.relative_to(root)
        if path.is_file() and not place.exists():
            folders.make(place.parent)
            temporary = place.with_name(f"{place.name}.partial")  # a folder that is there is taken for whole
            temporary.unlink(missing_ok=True)
            link_or_copy(path, temporary)
            temporary.replace(place)


def _named(identity: Mapping[str, str], part: str) -> tuple[str, ...]:
    return tuple(sorted(_site(key) for key in identity if key.startswith(f"{part} ")))


def _site(key: str) -> str:
    """Return the site of a key of ``Earlier.identity``, such as ``train north``."""
    return key.split(" ", 1)[1]
