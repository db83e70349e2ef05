"""``python -m engine.pretraining JOB``: the same jobs as ``python -m engine pretrain``, and the contact sheet."""

from __future__ import annotations

import sys
from typing import Annotated

import torch
import typer

from engine.errors import UserError
from engine.pretraining.contact_sheet import write_contact_sheet
from engine.pretraining.jobs import DEFAULT_MINUTES, run_job
from engine.pretraining.loop import Budget
from engine.pretraining.settings import Settings


def main(
    job: Annotated[str, typer.Argument(help=f"{', '.join(DEFAULT_MINUTES)} or contact-sheet")],
    minutes: Annotated[float | None, typer.Option(help="Stop after so many minutes of training")] = None,
    steps: Annotated[int | None, typer.Option(help="Stop after so many steps")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint")] = False,
    seed: Annotated[int, typer.Option(help="Seed of weights, batches and noise")] = 2025,
    threads: Annotated[int | None, typer.Option(help="CPU threads; all cores when left out")] = None,
) -> None:
    """Make one of the mini foundation weights, or the contact sheet of the generator."""
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        if job == "contact-sheet":
            typer.echo(str(write_contact_sheet()))
            return
        if minutes is None and steps is None:
            minutes = DEFAULT_MINUTES.get(job)
        run_job(job, budget=Budget(steps, minutes), settings=Settings(seed=seed), resume=resume, log=_tell)
    except UserError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)


def _tell(text: str) -> None:
    typer.echo(text)
    sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
