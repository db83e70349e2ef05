"""Write phantoms to disk in the project's folder format, so that embedded data takes the same road as real data."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from engine.data.phantoms.base import Phantom, PhantomTask
from engine.data.phantoms.registry import TASKS, recipe_for, render
from engine.errors import UserError


def write_dataset(
    task: str,
    root: Path,
    *,
    images_per_site: int,
    sites: Sequence[str] | None = None,
    image_px: int = 256,
    seed: int = 1337,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write ``<root>/dataset.toml`` and ``<root>/<site>/{images,masks}/NAME.png`` with ``meta.csv`` (file, group).

    Several classes go to ``masks/<class>/NAME.png``; masks are 0 or 255. The folder is written beside ``root`` under a
    temporary name and renamed when complete, so a reader never sees half of it. ``progress(done, total)`` is called
    after each image.

    Returns
    -------
    Path
        ``root``.

    Raises
    ------
    UserError
        ``phantom.unknown_task``, ``phantom.unknown_site``, ``phantom.bad_size``, ``phantom.bad_count``;
        ``phantom.exists`` if ``root`` is there already and is not empty.
    """
    root = Path(root)
    recipe_for(task, image_px=image_px, index=0)
    chosen = list(TASKS[task].sites if sites is None else sites)
    check_request(root, images_per_site=images_per_site, num_sites=len(chosen))
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    total = images_per_site * len(chosen)
    try:
        for number, site in enumerate(chosen):
            drawn = (render(task, site=site, index=i, image_px=image_px, seed=seed) for i in range(images_per_site))
            for done in write_site(TASKS[task], drawn, folder=partial / site):
                if progress is not None:
                    progress(number * images_per_site + done, total)
        (partial / "dataset.toml").write_text(describe(TASKS[task], seed=seed, image_px=image_px), encoding="utf-8")
        partial.chmod(0o755)
        if root.exists():
            root.rmdir()
        partial.replace(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return root


def check_request(root: Path, *, images_per_site: int, num_sites: int) -> None:
    """Refuse an empty data set and a folder that holds something already."""
    if images_per_site < 1 or num_sites < 1:
        raise UserError(
            "phantom.bad_count",
            what=f"{images_per_site} images for {num_sites} sites were asked for.",
            why="A data set without images cannot be trained on.",
            fix="Ask for at least one image at one site.",
        )
    if root.exists() and any(root.iterdir()):
        raise UserError(
            "phantom.exists",
            what=f"The folder {root} is not empty.",
            why="Writing phantoms into it would mix two data sets.",
            fix="Name another folder or remove this one.",
        )


def write_site(task: PhantomTask, phantoms: Iterable[Phantom], *, folder: Path) -> Iterator[int]:
    """Write one site's images and masks, yielding how many are done after each, and ``meta.csv`` at the end."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for index, phantom in enumerate(phantoms):
        name = f"{phantom.site}_{index:04d}.png"
        Image.fromarray(phantom.image).save(folder / "images" / name, compress_level=1)
        write_masks(task, phantom, folder=folder / "masks", name=name)
        rows.append((name, phantom.group))
        yield index + 1
    with (folder / "meta.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("file", "group"), *rows])


def write_masks(task: PhantomTask, phantom: Phantom, *, folder: Path, name: str) -> None:
    """Write one mask a class, 0 or 255; a single class needs no folder of its own."""
    for plane, label in zip(phantom.mask, task.classes, strict=True):
        target = folder if len(task.classes) == 1 else folder / label
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(plane * 255).save(target / name, compress_level=1)


def describe(task: PhantomTask, *, seed: int, image_px: int) -> str:
    """Return ``dataset.toml`` for a phantom data set."""
    classes = ", ".join(f'"{label}"' for label in task.classes)
    return (
        f'name = "phantom_{task.name}"\ntask = "{task.name}"\nmodality = "{task.modality}"\nclasses = [{classes}]\n'
        'protocol = "leave-one-site-out"\nlicence = "Apache-2.0"\n'
        f'citation = "DSFedMed Studio procedural phantoms, seed {seed}, {image_px} px"\n'
    )
