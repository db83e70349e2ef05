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
    from export.manifest import LooksMeasured, Manifest
    from export.runtime import BundleSession


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


def looks_here(config: RunConfig, session: BundleSession) -> LooksMeasured | None:
    """Return which way of looking is better on the sites' validation images, all of which lie on this machine."""
    from engine.evaluation.looks import compare_looks
    from engine.site.data import sites_here
    from export.manifest import LooksMeasured

    sites = (data for data in sites_here(config).values() if not len(data.test))
    images = (item.read() for data in sites for item in data.validation.items)
    found = compare_looks(session.manifest.eye, lambda image: session.run(image)[0], images)
    return None if found is None else LooksMeasured.model_validate(found)


def appearance(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder")],
    data: Annotated[Path | None, typer.Option(help="Folder of the dataset that it was trained on")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure what a bundle's training images look like and write it into its manifest; the model stays as it is.

    With it, whoever serves the model is told when an image is of another kind; bundles of new runs have that. It also
    measures on the sites' validation images whether the model sees more of an image as a whole, in parts, or in smaller
    parts that are enlarged, and the best one is what the model does by itself.
    """
    from export.manifest import MANIFEST_FILE
    from export.runtime import load_bundle

    session = load_bundle(bundle)
    manifest = session.manifest
    config = training_config(manifest, data)
    found, looks = measure_here(config), looks_here(config, session)
    new = manifest.model_copy(update={"appearance": found, "looks": looks})
    text = json.dumps(new.model_dump(mode="json"), indent=2, ensure_ascii=False)
    partial = bundle / f".{MANIFEST_FILE}.part"
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(bundle / MANIFEST_FILE)
    if as_json:
        told = {"bundle": str(bundle), "threshold": found.threshold, "num_validation": found.num_validation}
        print_json(told | {"looks": looks and looks.model_dump(), "best_looks": new.best_looks})
    else:
        images = sum(site.num_images for site in found.sites)
        limit = "none, for there are too few validation images" if found.threshold is None else f"{found.threshold:.2f}"
        print(f"{images} training images of {len(found.sites)} sites were measured. Limit: {limit}.")
        if looks is not None:
            print(
                f"Dice of {looks.num_images} validation images at their own resolution: {looks.whole:.3f} as a whole, "
                f"{looks.parts:.3f} in parts, {looks.fine:.3f} in smaller ones. By itself the model takes "
                f"'{new.best_looks}'."
            )
