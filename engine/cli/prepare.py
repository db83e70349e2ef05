"""``data prepare``: official downloads of public datasets become dataset folders."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.output import JsonFlag, duration, print_json
from engine.errors import UserError

if TYPE_CHECKING:
    from engine.data.prepare.preparation import Report
    from engine.data.prepare.records import PublicDataset

SHOWN = 20
"""Files left out that are printed; prepared.json has them all."""
EVERY_S = 5.0


def prepare(
    name: Annotated[str | None, typer.Argument(help="A dataset of --list; with --list, that one alone")] = None,
    downloads: Annotated[
        Path | None, typer.Option("--from", help="Folder with its archives as downloaded, or extracted")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--to", help="New folder for the dataset")] = None,
    list_them: Annotated[bool, typer.Option("--list", help="Licence, citation, page and archives of each")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a dataset folder from the official downloads of a public dataset; killed and run again, it goes on."""
    from engine.data.prepare.preparation import prepare as prepare_dataset
    from engine.data.prepare.registry import DATASETS, find_dataset

    if list_them:
        _list([find_dataset(name)] if name else list(DATASETS.values()), as_json=as_json)
        return
    if name is None or downloads is None or folder is None:
        raise UserError(
            "prepare.what",
            what="A dataset's name, --from and --to are needed.",
            why="They say what is made, from which downloads, and where.",
            fix="See data prepare --list for the names and where to get the archives.",
        )
    report = prepare_dataset(find_dataset(name), downloads=downloads, folder=folder, progress=_Progress())
    if as_json:
        print_json(report.as_dict())
    else:
        _print(report)


def _list(datasets: list[PublicDataset], *, as_json: bool) -> None:
    if as_json:
        print_json({"datasets": [dataset.as_dict() for dataset in datasets]})
        return
    for dataset in datasets:
        print(f"{dataset.name}: {dataset.title} ({', '.join(dataset.classes)})")
        print(f"  Licence   {dataset.licence}\n  Citation  {dataset.citation}\n  Page      {dataset.page}")
        for part in dataset.parts:
            print(f"  Archive   {part.file}: {part.title}, {part.page}")
        print()


class _Progress:
    """Prints what is done and how long the rest may take, at the end of a step and every few seconds of it."""

    def __init__(self) -> None:
        self._step, self._began, self._said = "", 0.0, 0.0

    def __call__(self, step: str, done: int, total: int) -> None:
        now = time.monotonic()
        if step != self._step:
            self._step, self._began, self._said = step, now, now
        if done < total and now - self._said < EVERY_S:
            return
        self._said = now
        left = (now - self._began) * (total - done) / max(done, 1)
        share = f"{100 * done / max(total, 1):.0f} %"
        print(f"{step}: {share} ({done:,} of {total:,}), {duration(left)} left", file=sys.stderr, flush=True)


def _print(report: Report) -> None:
    total = sum(site.num_images for site in report.sites)
    print(f"{report.dataset.title}: {total} images of {len(report.sites)} site(s) in {report.folder}.")
    for site in report.sites:
        patients = f", {site.num_patients} patients" if site.num_patients else ""
        print(f"  {site.site}: {site.num_images} images{patients}")
    if report.num_resumed:
        print(f"{report.num_resumed} of them had been written before.")
    for note in report.notes:
        print(f"Note: {note}")
    for part in report.missing:
        print(f"Missing: {part.title} ({part.file}), from {part.page}")
    for one in report.left_out[:SHOWN]:
        print(f"Left out: {one.name}: {one.why}.")
    if len(report.left_out) > SHOWN:
        print(f"Left out: {len(report.left_out) - SHOWN} more, all in prepared.json.")
    print(f"Licence: {report.dataset.licence}\nCite: {report.dataset.citation}")
