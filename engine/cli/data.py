"""Commands on datasets: check every file, preview the partition, write phantoms."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.options import ConfigOption, HeldOutOption, PresetOption, SetOption, parse_settings, read_config
from engine.cli.output import JsonFlag, print_json, print_table
from engine.cli.prepare import prepare
from engine.errors import UserError

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.data.datasets import Federation
    from engine.data.problems import Problem

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)
app.command()(prepare)
RootArgument = Annotated[Path | None, typer.Argument(help="Dataset folder; or use --preset or --config")]


@app.command()
def check(
    root: RootArgument = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    held_out: HeldOutOption = None,
    settings: SetOption = None,
    site: Annotated[
        str | None,
        typer.Option("--site", help="One site alone, as its images lie at a hospital: no others are needed"),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Read every image and mask of a dataset; name every fault, and what a person should know all the same."""
    from engine.data.folders import read_folders
    from engine.data.problems import Problem, faults_of, warnings_of

    chosen = _config(root, preset=preset, config=config, held_out=held_out, settings=settings)
    chosen = chosen if site is None else _alone(chosen, site)
    problems: Sequence[Problem] = ()
    if chosen.data.source == "folder":
        try:
            problems = read_folders(chosen.data, thorough=True).problems
        except UserError as error:  # there is nothing to look at: one fault
            problems = (Problem(error.code, error.what, error.fix),)
    if site is not None:
        problems = [_of_one_site(problem, site) for problem in problems]
    warnings = warnings_of(problems)
    if faults_of(problems):
        _print_faults(faults_of(problems), warnings, dataset=chosen.data.root or Path(), as_json=as_json)
        raise typer.Exit(2)
    federation = _loaded(chosen, site)
    counts = {name: len(found.train) + len(found.validation) for name, found in federation.sites.items()}
    if federation.test.name:
        counts[federation.test.name] = len(federation.test.test)
    if as_json:
        told = {"faults": [], "warnings": [problem.as_dict() for problem in warnings]}
        print_json({"dataset": federation.name, "classes": list(federation.classes), "images": counts} | told)
        return
    print(
        f"{federation.name}: no faults in {sum(counts.values())} images of {len(counts)} site{'s'[: len(counts) != 1]}."
    )
    _print_list(warnings, title="warning(s)")


def _alone(config: RunConfig, site: str) -> RunConfig:
    """Return ``config`` with one site: held out where that was asked for, else one that trains."""
    if config.data.held_out not in (None, site):
        raise UserError(
            "cli.one_site",
            what=f"--site {site} and --held-out {config.data.held_out} name two sites.",
            why="One site's images are looked at: as those of a site that trains, or of the one that is held out.",
            fix=f"Leave --held-out away, or give --held-out {site}.",
        )
    changed = {"sites": (site,), "protocol": "leave-one-site-out", "test_root": None}
    return config.model_copy(update={"data": config.data.model_copy(update=changed)})


def _loaded(config: RunConfig, site: str | None) -> Federation:
    from engine.data.datasets import load_federation, load_site

    if site is None:
        return load_federation(config.data, seed=config.seed, thorough=config.data.source == "phantom")
    held_out = config.data.held_out == site
    return load_site(config.data, site, root=config.data.root or Path(), held_out=held_out, seed=config.seed)


def _of_one_site(problem: Problem, site: str) -> Problem:
    """Return what a problem of the whole dataset is where one site alone was looked at: others may have the class."""
    if problem.code != "data.class_nowhere":
        return problem
    return replace(problem, what=problem.what.replace("any site", f"site '{site}'"), site=site, weight="warning")


def _print_faults(faults: Sequence[Problem], warnings: Sequence[Problem], *, dataset: Path, as_json: bool) -> None:
    """Print one entry a fault; as JSON beside the error that a run would stop with."""
    from engine.data.problems import raise_problems

    try:
        raise_problems(faults, dataset=dataset.name)
    except UserError as error:
        if as_json:
            told = {"faults": [p.as_dict() for p in faults], "warnings": [p.as_dict() for p in warnings]}
            print_json({"error": error.as_dict()} | told)
            return
    _print_list(faults, title=f"fault(s) in {dataset}")
    _print_list(warnings, title="warning(s)")


def _print_list(problems: Sequence[Problem], *, title: str) -> None:
    if problems:
        print(f"{len(problems)} {title}.", file=sys.stderr)
    for problem in problems:
        where = f"{problem.file}: " if problem.file is not None else ""
        print(f"- {where}{problem.what}\n  Fix: {problem.fix}", file=sys.stderr)


@app.command()
def preview(
    root: RootArgument = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    held_out: HeldOutOption = None,
    settings: SetOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show how a dataset is cut: images, patients, foreground and brightness of every site."""
    from engine.data.datasets import load_federation
    from engine.data.partition import partition_preview

    chosen = _config(root, preset=preset, config=config, held_out=held_out, settings=settings)
    federation = load_federation(chosen.data, seed=chosen.seed)
    sites = partition_preview(federation)
    if as_json:
        print_json(
            {"dataset": federation.name, "classes": list(federation.classes), "sites": [asdict(s) for s in sites]}
        )
        return
    rows = [
        (
            *(s.site, s.role, s.num_train, s.num_validation, s.num_test, s.num_groups, f"{s.mean_intensity:.3f}"),
            *(f"{100 * s.foreground_share[name]:.1f} %" for name in federation.classes),
        )
        for s in sites
    ]
    header = ("Site", "Role", "Train", "Validation", "Test", "Patients", "Brightness", *federation.classes)
    print_table(header, rows, right=range(2, len(header)))


@app.command()
def phantoms(
    task: Annotated[str, typer.Argument(help="fundus, prostate, nuclei, skin, liver or polyp")],
    out: Annotated[Path, typer.Option("--out", help="New folder for the dataset")],
    images: Annotated[int, typer.Option(min=1, help="Images at each site")] = 40,
    px: Annotated[int, typer.Option(min=32, help="Side of an image, pixels")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the dataset")] = 1337,
    as_json: JsonFlag = False,
) -> None:
    """Write phantoms with exact masks as a dataset folder."""
    from engine.data.phantoms import write_dataset

    root = write_dataset(task, out, images_per_site=images, image_px=px, seed=seed)
    if as_json:
        print_json({"root": str(root), "task": task, "images_per_site": images, "image_px": px, "seed": seed})
    else:
        site = min(path.name for path in root.iterdir() if path.is_dir())
        run = f"python -m engine run --preset phantom_cpu_smoke --data {shlex.quote(str(root))} --held-out {site}"
        print(f"Written to {root}. Run it with: {run}")


def _config(
    root: Path | None,
    *,
    preset: str | None,
    config: Path | None,
    held_out: str | None,
    settings: list[str] | None,
) -> RunConfig:
    from engine.config import parse_config

    if root is None or preset is not None or config is not None:
        return read_config(preset=preset, config=config, data=root, held_out=held_out, settings=settings)
    data = {"source": "folder", "root": str(root), "held_out": held_out}
    edits = {
        key.removeprefix("data."): value for key, value in parse_settings(settings).items() if key.startswith("data.")
    }
    return parse_config({"data": data | edits})
