"""What looking in parts gives: Dice, things counted and time, beside the whole reduced to the model's side.

    python -m bench.parts [--bundle assets/models/nuclei_cpu] [--data data]

The images are those that the model's training never fitted: all of the site that was held out, and the validation
images of the sources. Dice is at each image's own resolution, not on the model's grid as in results. Things are pieces
that do not touch; the error is |found - true|, a mean over images. Intervals are 95 % bootstraps over patients (images
without a patient) of the difference in Dice. ``--data`` is the folder of the bundle's dataset.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from engine.cli.appearance import training_config
from engine.data.imagesets import ImageSet
from engine.data.tiling import Looks
from engine.errors import UserError
from engine.evaluation.bootstrap import mean_interval
from engine.evaluation.mask_dice import mean_dice
from engine.seeding import numpy_generator
from engine.site.data import sites_here
from export.outputs.pieces import num_components
from export.runtime import BundleSession, load_bundle

LOOKS: tuple[Looks, ...] = get_args(Looks)
RESAMPLES = 10_000


@dataclass(frozen=True)
class Row:
    """One image looked at one way."""

    dice: float
    found: int
    true: int
    wall_ms: float


def rows(session: BundleSession, images: ImageSet) -> list[Row]:
    """Return what a session makes of each image; things are of all classes as one."""
    made = []
    for item in images.items:
        image, true_KHW = item.read()
        mask_KHW, wall_ms = session.masks(image)
        found, true = (num_components(masks.any(axis=0)) for masks in (mask_KHW, true_KHW))
        made.append(Row(mean_dice(mask_KHW, true_KHW), found, true, wall_ms))
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a site and way of looking, and the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path(__file__).parents[1] / "assets" / "models" / "nuclei_cpu")
    parser.add_argument("--data", type=Path, default=Path("data"))
    options = parser.parse_args(arguments)
    try:
        session = load_bundle(options.bundle)
        manifest = session.manifest
        sites = sites_here(training_config(manifest, options.data / str(manifest.config["data"]["root"])))
    except UserError as error:
        print(f"{error.what} {error.why} {error.fix}", file=sys.stderr)
        return 2
    for name, site in sites.items():
        images = site.test if len(site.test) else site.validation
        kind = "unseen" if len(site.test) else "validation"
        found = {looks: rows(session.looking(looks), images) for looks in LOOKS}
        print(f"{name} ({kind}): {len(images)} images, {np.mean([row.true for row in found['whole']]):.1f} things each")
        for looks, of_it in found.items():
            dice, count = np.mean([row.dice for row in of_it]), np.mean([row.found for row in of_it])
            error = np.mean([abs(row.found - row.true) for row in of_it])
            wall_ms = np.median([row.wall_ms for row in of_it])
            print(f"  {looks:6} Dice {dice:.3f}   things {count:6.1f}   error {error:5.1f}   {wall_ms:6.0f} ms")
        groups = [item.patient or "" for item in images.items]
        for looks in LOOKS[1:]:
            gain = [one.dice - whole.dice for whole, one in zip(found["whole"], found[looks], strict=True)]
            rng = numpy_generator(0, "bootstrap", looks, name)
            ends = mean_interval(gain, groups=groups, num_samples=RESAMPLES, rng=rng)
            told = f" [{ends[0]:+.3f}, {ends[1]:+.3f}]" if ends else ""
            print(f"  {looks} - whole: {np.mean(gain):+.3f}{told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
