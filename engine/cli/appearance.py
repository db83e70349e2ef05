"""What the training images of a bundle look like, measured where they lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.output import JsonFlag, print_json

if TYPE_CHECKING:
    from engine.config import RunConfig
    from export.appearance import TrainingAppearance
    from export.manifest import Manifest


def measure_here(config: RunConfig) -> TrainingAppearance:
    """Return what the images of a run's sites look like, all of which lie on this machine."""
    from engine.federation.tasks import SiteReply
    from engine.site.appearance import tell
    from engine.site.data import sites_here
    from engine.stages.appearance import training_appearance

    replies = {}
    for name, data in sites_here(config).items():
        if len(data.test):
            continue
        told = tell(data.train, data.validation, check_cancelled=lambda: None)
        replies[name] = SiteReply(told.arrays, told.figures, len(data.train))
    return training_appearance(replies)


def training_config(manifest: Manifest, data: Path | None) -> RunConfig:
    """Return the configuration that a bundle was trained with, its dataset at ``data`` (None: as it says)."""
    from engine.config import parse_config

    values = dict(manifest.config)
    if data is not None:
        values["data"] = {**values["data"], "root": str(data)}
    return parse_config(values)


def appearance(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder")],
    data: Annotated[Path | None, typer.Option(help="Folder of the dataset that it was trained on")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure what a bundle's training images look like and write it into its manifest; the model stays as it is.

    With it, whoever serves the model is told when an image is of another kind. Bundles of new runs have it.
    """
    from export.manifest import MANIFEST_FILE, read_manifest

    manifest = read_manifest(bundle)
    config = training_config(manifest, data)
    found = measure_here(config)
    text = json.dumps(
        manifest.model_copy(update={"appearance": found}).model_dump(mode="json"), indent=2, ensure_ascii=False
    )
    partial = bundle / f".{MANIFEST_FILE}.part"
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(bundle / MANIFEST_FILE)
    if as_json:
        print_json({"bundle": str(bundle), "threshold": found.threshold, "num_validation": found.num_validation})
    else:
        images = sum(site.num_images for site in found.sites)
        limit = "none, for there are too few validation images" if found.threshold is None else f"{found.threshold:.2f}"
        print(f"{images} training images of {len(found.sites)} sites were measured. Limit: {limit}.")
