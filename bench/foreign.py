"""How often the shipped model says that an image is unlike those of its training: of its own kind, and of others.

    python -m bench.foreign [--bundle assets/models/nuclei_cpu] [--data data] [--images 200]

Its own images are those of the site that its training never saw. Half of the foreign ones are phantoms of every other
task, spread over their sites, half are PolypGen's frames, spread over its hospitals; the threshold in the bundle has
seen neither. Every image is judged as pixels alone (``export.foreign``), as a photograph would be: no file says what
it is. ``--data`` is the folder that holds ``nuclei_dsb2018`` and ``polypgen``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from engine.cli.appearance import training_config
from engine.data.modalities import Origin
from engine.data.names import visible_files
from engine.data.phantoms import TASKS, render
from engine.data.readers import is_supported, read_image
from engine.errors import UserError
from engine.site.data import sites_here
from export.foreign import reasons
from export.runtime import BundleSession, load_bundle

FIRST_PHANTOM = 7000
"""Far from the indices that runs train on."""


def own_images(session: BundleSession, data: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the images of the site that was held out, under its name."""
    manifest = session.manifest
    config = training_config(manifest, data / str(manifest.config["data"]["root"]))
    for name, site in sites_here(config).items():
        for item in site.test.items:
            yield name, item.picture()


def phantoms(count: int, *, not_of: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield ``count`` phantoms of all tasks but one, a site after the other, under their tasks' names."""
    sites = [(task, site) for task, spec in TASKS.items() if task != not_of for site in spec.sites]
    for number in range(count):
        task, site = sites[number % len(sites)]
        drawn = render(task, site=site, index=FIRST_PHANTOM + number // len(sites), image_px=256)
        yield f"phantom {task}", drawn.image


def polypgen(count: int, data: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield ``count`` frames, as evenly from each hospital, and over each one's files, as they can be."""
    root = data / "polypgen"
    folders = sorted(path for path in root.glob("*/images") if path.is_dir())
    if not folders:
        raise UserError(
            "bench.no_data",
            what=f"There is no PolypGen in '{root}'.",
            why="Half of the foreign images are its frames.",
            fix="Name the folder that holds polypgen with --data.",
        )
    for number, folder in enumerate(folders):
        files = [file for file in visible_files(folder) if is_supported(file)]
        wanted = count // len(folders) + (number < count % len(folders))
        for index in range(wanted):
            yield "polypgen", read_image(files[index * len(files) // wanted])[0]


def count_notices(session: BundleSession, images: Iterator[tuple[str, np.ndarray]]) -> dict[str, tuple[int, int]]:
    """Return (images with a notice, images) by name."""
    found: dict[str, tuple[int, int]] = {}
    for name, image in images:
        noticed, total = found.get(name, (0, 0))
        found[name] = noticed + bool(reasons(session, image, Origin())), total + 1
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a kind of image, and the two shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path(__file__).parents[1] / "assets" / "models" / "nuclei_cpu")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--images", type=int, default=200, help="foreign images")
    options = parser.parse_args(arguments)
    try:
        session = load_bundle(options.bundle)
        own = count_notices(session, own_images(session, options.data))
        half = options.images // 2
        foreign = count_notices(session, phantoms(options.images - half, not_of=session.manifest.task))
        foreign |= count_notices(session, polypgen(half, options.data))
    except UserError as error:
        print(f"{error.what} {error.why} {error.fix}", file=sys.stderr)
        return 2
    for kind, rows in (("own", own), ("foreign", foreign)):
        for name, (noticed, total) in rows.items():
            print(f"{kind:8} {name:24} notice on {noticed:3} of {total:3}")
        noticed, total = (sum(row[part] for row in rows.values()) for part in (0, 1))
        print(f"{kind:8} {'all':24} notice on {noticed:3} of {total:3} ({100 * noticed / total:.1f} %)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
