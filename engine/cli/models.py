"""Commands on models: pre-train, fetch weights, export, predict."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.options import open_store
from engine.cli.output import HomeOption, JsonFlag, print_json, print_table, size
from engine.errors import UserError

if TYPE_CHECKING:
    from engine.runs.store import RunStore
    from export.runtime import BundleSession

weights_app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)
SHIPPED_MODELS = Path(__file__).resolve().parents[2] / "assets" / "models"


def pretrain(
    job: Annotated[str, typer.Argument(help="vae, unet, controlnet, sam, tinysam or contact-sheet")],
    minutes: Annotated[
        float | None, typer.Option(min=0.01, max=100_000, help="Stop after so many minutes of training")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps")] = None,
    go_on: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, batches and noise")] = 2025,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores when left out")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make one of the mini foundation weights from generic phantoms, or the contact sheet of the generator."""
    import torch

    from engine.pretraining.contact_sheet import write_contact_sheet
    from engine.pretraining.jobs import DEFAULT_MINUTES, run_job
    from engine.pretraining.loop import Budget
    from engine.pretraining.settings import Settings

    if threads is not None:
        torch.set_num_threads(threads)
    if job == "contact-sheet":
        path = write_contact_sheet()
        print_json({"job": job, "path": str(path)}) if as_json else print(path)
        return
    minutes = DEFAULT_MINUTES.get(job) if minutes is None and steps is None else minutes
    history = run_job(
        job,
        budget=Budget(steps, minutes),
        settings=Settings(seed=seed),
        resume=go_on,
        log=lambda text: typer.echo(text, err=True),
    )
    if as_json:
        print_json({"job": job, "steps": history.step, "wall_s": history.wall_s, "measures": history.measures})
    else:
        print(f"{job}: {history.step} steps in {history.wall_s / 60:.1f} min; {history.measures}")


@weights_app.command("list")
def list_weights(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """List the weights that configurations may name, and whether they are here."""
    from engine.models.assets import asset_paths, list_assets

    open_store(home)
    rows = []
    for asset in list_assets():
        here = next((path for path in asset_paths(asset) if path.exists()), None)
        rows.append(asdict(asset) | {"path": None if here is None else str(here)})
    if as_json:
        print_json({"weights": rows})
        return
    cells = [
        (r["name"], size(r["bytes"]) if r["bytes"] else "-", "yes" if r["path"] else "no", r["note"] or "")
        for r in rows
    ]
    print_table(("Name", "Size", "Here", ""), cells, right=(1,))


@weights_app.command("fetch")
def fetch_weights(
    name: Annotated[str, typer.Argument(help="A name of `weights list`")],
    sha256: Annotated[str | None, typer.Option(help="Checksum to hold the file to")] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Fetch weights with their checksum verified; a broken transfer is taken up again where it ended."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from engine.models.downloads import fetch

    open_store(home)
    columns = (name, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=None)
        path = fetch(
            name, sha256=sha256, progress=lambda done, total: progress.update(task, completed=done, total=total)
        )
    if as_json:
        print_json({"name": name, "path": str(path), "bytes": path.stat().st_size})
    else:
        print(path)


def export(
    run_id: Annotated[str, typer.Argument(help="A run's id, or 'last'")],
    out: Annotated[Path, typer.Option("--out", help="New folder for the bundle")],
    role: Annotated[str | None, typer.Option(help="Model of the run, for instance distilled_teacher")] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Copy a run's model bundle, or export another of its models as one (ONNX with its parity checked)."""
    store = open_store(home)
    chosen = store.list(limit=1)[0].run_id if run_id == "last" and store.list(limit=1) else store.get(run_id).run_id
    if out.exists():
        raise UserError(
            "export.exists",
            what=f"{out} exists.",
            why="A bundle is a whole folder; another one is not overwritten.",
            fix="Give a folder that does not exist yet.",
        )
    if role is None:
        shutil.copytree(_bundle_of(store, chosen), out)
    else:
        _export_role(store, chosen, role=role, out=out)
    from export.manifest import read_manifest

    manifest = read_manifest(out)
    if as_json:
        print_json({"folder": str(out), "manifest": manifest.model_dump(mode="json")})
    else:
        print(f"{manifest.model.role} of {chosen} in {out}; ONNX and PyTorch differ by at most "
              f"{manifest.parity.max_abs_difference:.1e}.")  # fmt: skip


def predict(
    model: Annotated[str, typer.Argument(help="A run's id, a shipped model's name, or a bundle folder")],
    images: Annotated[list[Path], typer.Argument(help="Image files, DICOM series, zips of either, or folders of them")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the masks")] = Path("predictions"),
    overlay: Annotated[bool, typer.Option("--overlay", help="Write the image with the mask over it, too")] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Segment images unlike those of training, too; their files say so")
    ] = False,
    looks: Annotated[
        str | None,
        typer.Option("--looks", help="How to look at an image: whole, parts or fine; by itself what the bundle says"),
    ] = None,
    variant: Annotated[
        str,
        typer.Option("--variant", help="Which variant of the model: auto (the bundle's rule), full, half, int8, ..."),
    ] = "auto",
    threshold: Annotated[
        float, typer.Option("--threshold", min=0.01, max=0.99, help="Probability above which a pixel is in the mask")
    ] = 0.5,
    csv: Annotated[bool, typer.Option("--csv", help="Write measurements.csv: areas, volumes, diameters, ...")] = False,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Mask to compare with: Dice, IoU, HD95, surface Dice")
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option("--compare", help="A second model of the same classes: its masks, and how far both agree"),
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Segment images with an exported model, without PyTorch; one mask file an image or volume.

    A picture becomes PNG, a NIfTI volume one NIfTI on its own grid, a DICOM series one DICOM Segmentation.
    The whole image is reduced to the side of the model's input; in parts it is looked at at full resolution, so that
    small things stay apart; 'fine' parts are smaller and enlarged.
    A file that cannot be read, or is unlike the images that the model was trained on, does not keep the others from
    being segmented: it is named, and the status is 2.
    """
    from engine.cli.cases import Job, print_job, refuse_same_names, waiting_cases
    from export.levels import percent_of
    from export.pairs import Models

    folders = [_find_bundle(name, home) for name in (model, compare) if name is not None]
    models = Models.of(*_loaded(folders, looks=looks, variant=variant))
    with waiting_cases(images, out=out) as cases:
        refuse_same_names(cases)
        out.mkdir(parents=True, exist_ok=True)
        job = Job(models, out, overlay, reference, quiet=as_json, anyway=anyway, percent=percent_of(threshold))
        for case in models.cases(cases):
            try:
                job.segment(case)
            except UserError as error:
                if len(cases) == 1:
                    raise
                job.faults.append({"image": case[0].name, "error": error.as_dict()})
    if csv:
        job.write_csv()
    print_job(job, as_json=as_json)
    if job.faults:
        raise typer.Exit(2)


def _loaded(folders: list[Path], *, looks: str | None, variant: str) -> list[BundleSession]:
    """Return sessions of bundles that look as is wanted, or as was measured to be better for the first."""
    from export.looks import looks_of
    from export.manifest import read_manifest
    from export.runtime import load_bundle

    how = read_manifest(folders[0]).best_looks if looks is None else looks_of(looks)
    return [load_bundle(folder, looks=how, variant=variant) for folder in folders]


def _find_bundle(model: str, home: Path | None) -> Path:
    for folder in (Path(model), SHIPPED_MODELS / model):
        if (folder / "manifest.json").is_file():
            return folder
    store = open_store(home)
    newest = store.list(limit=1)
    return _bundle_of(store, newest[0].run_id if model == "last" and newest else model)


def _bundle_of(store: RunStore, run_id: str) -> Path:
    store.get(run_id)
    bundles = store.artefacts(run_id, kind="bundle")
    if not bundles:
        raise UserError(
            "export.no_bundle",
            what=f"The run '{run_id}' has no model bundle.",
            why="The export stage writes it at the end of a run.",
            fix=f"Finish the run (python -m engine resume {run_id}), or export a model that it has with --role.",
        )
    return store.run_dir(run_id) / bundles[-1].path


def _export_role(store: RunStore, run_id: str, *, role: str, out: Path) -> None:
    from engine.cli.appearance import measure_here
    from engine.data.datasets import load_federation
    from engine.methods import catalogue
    from engine.models.registry import build_model
    from engine.models.weights import load_weights
    from export.package import BundleContent, write_bundle

    run_dir, config = store.run_dir(run_id), store.get(run_id).config
    path = run_dir / "models" / f"{role}.safetensors"
    if not path.is_file():
        made = ", ".join(sorted(file.stem for file in path.parent.glob("*.safetensors"))) or "none yet"
        raise UserError(
            "export.no_model",
            what=f"The run '{run_id}' has no model '{role}'.",
            why="Only a model that a stage has saved can be exported.",
            fix=f"Choose one of: {made}.",
        )
    if any(model.name == role and model.scope == "site" for model in catalogue.method(config.method).models):
        raise UserError(
            "export.each_site",
            what=f"'{role}' is a model of each site, and the run's folder has only what all sites share of it.",
            why="The rest is at the sites.",
            fix="Run with export.site_models = true: the sites' own models then lie in the run's site_bundles.",
        )
    federation = load_federation(config.data, seed=config.seed)
    chosen = config.teacher if role.endswith("teacher") else config.student
    model = build_model(
        chosen.name,
        size=chosen.size,
        num_classes=len(federation.classes),
        image_px=config.data.image_px,
        seed=config.seed,
    )
    load_weights(model, path, strict=True)
    content = BundleContent(
        name=config.name,
        role=role,
        task=federation.task,
        modality=federation.modality,
        classes=federation.classes,
        model=chosen,
        config=config,
        metrics=[row for row in store.evaluation(run_id) if row.model == role],
        run_id=run_id,
        value_range=federation.value_range,
        slice_axis=federation.slice_axis,
        window=federation.window,
        appearance=measure_here(config),
    )
    write_bundle(out, model, content=content)
