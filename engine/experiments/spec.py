"""An experiment as data: systems x datasets x held-out sites x seeds, read from one TOML of ``experiments/``."""

from __future__ import annotations

import csv
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from engine.config_fields import Section
from engine.errors import UserError
from engine.experiments.measures import MEASURES

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
PUBLISHED_COLUMNS = ("system", "column", "measure", "value", "source")
Scale = Literal["mini", "paper"]
Overrides = dict[str, Any]
"""Dotted keys of a run's configuration and their values."""


class ColumnSpec(Section):
    """One column of the table: a dataset, or one class of it."""

    title: str
    class_name: str | None = Field(None, description="The class measured; the mean over classes when left out")
    published: str | None = Field(None, description="Published column beside it, of other images; its title's")


class DatasetSpec(Section):
    """Images, and the sites that are held out one after the other."""

    name: str
    title: str
    preset: str = Field(description="Configuration that all systems start from")
    held_out: tuple[str, ...] | Literal["all"] = Field(
        (), description="Sites held out, a run each, or all of the dataset's; the preset's own when left out"
    )
    overrides: Overrides = Field({}, description="Keys of this dataset's cells")
    columns: tuple[ColumnSpec, ...] = ()

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites held out, one empty name where the preset says it; see ``cells.resolved`` for ``all``."""
        return (self.held_out if isinstance(self.held_out, tuple) else ()) or ("",)

    @property
    def all_columns(self) -> tuple[ColumnSpec, ...]:
        """The table's columns of this dataset: one of its mean over classes where none is named."""
        return self.columns or (ColumnSpec(title=self.title),)


class SystemSpec(Section):
    """A row of the table: a method of the catalogue with keys of its own, and which of its models is measured."""

    name: str
    title: str
    method: str
    model: str | None = Field(None, description="Model measured; the one that the method deploys when left out")
    overrides: Overrides = Field({}, description="Keys of this system's cells")
    mini: Overrides = Field({}, description="Further keys at this scale")
    paper: Overrides = Field({}, description="Further keys at this scale")


class ScaleSpec(Section):
    """What is run at one scale."""

    seeds: tuple[int, ...] = Field(min_length=1)
    overrides: Overrides = Field({}, description="Keys of every cell; a dataset's and a system's win over them")
    datasets: tuple[DatasetSpec, ...] = Field(min_length=1)


class ExperimentSpec(Section):
    """One table or figure."""

    title: str
    source: str = Field(description="Where the published figures stand")
    measures: tuple[str, ...] = Field(min_length=1)
    reference: str | None = Field(None, description="System that the others are compared with, image by image")
    note: str = ""
    systems: tuple[SystemSpec, ...] = Field(min_length=1)
    mini: ScaleSpec | None = None
    paper: ScaleSpec | None = None

    @model_validator(mode="after")
    def _check(self) -> ExperimentSpec:
        names = [system.name for system in self.systems]
        if len(set(names)) < len(names):
            raise ValueError("two systems have one name")
        if self.reference is not None and self.reference not in names:
            raise ValueError(f"reference '{self.reference}' is none of the systems")
        unknown = [name for name in self.measures if name not in MEASURES]
        if unknown:
            raise ValueError(f"measures {unknown} are not known; there are {', '.join(MEASURES)}")
        for scale in (self.mini, self.paper):
            titles = [column.title for dataset in scale.datasets for column in dataset.all_columns] if scale else []
            if len(set(titles)) < len(titles):
                raise ValueError("two columns have one title")
        return self

    def at(self, scale: Scale) -> ScaleSpec:
        """Return what is run at ``scale``; ``UserError`` ``experiment.no_scale`` where it has no such part."""
        found: ScaleSpec | None = getattr(self, scale)
        if found is None:
            raise UserError(
                "experiment.no_scale",
                what=f"'{self.title}' has no part [{scale}].",
                why="Datasets and seeds of a scale are written there.",
                fix="Choose the other scale, or add the part to the experiment's file.",
            )
        return found


def tables() -> tuple[str, ...]:
    """Return the names of the shipped tables and figures, without ``table`` before a number."""
    return tuple(sorted(path.stem.removeprefix("table") for path in FOLDER.glob("*.toml")))


def experiment_path(which: str) -> Path:
    """Return the file of a table's number, of a figure's name, or a path as it is."""
    if which.endswith(".toml"):
        return Path(which)
    return FOLDER / (f"table{which}.toml" if which.isdigit() else f"{which}.toml")


def load_experiment(which: str) -> ExperimentSpec:
    """Return an experiment; ``UserError`` ``experiment.not_found`` or ``experiment.invalid``, which name the fault."""
    path = experiment_path(which)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            "experiment.not_found",
            what=f"There is no table '{which}'.",
            why="A table is filled from the file that says what is compared on what.",
            fix=f"Tables: {', '.join(tables())}; or give the path of an experiment's TOML file.",
        ) from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise _invalid(path, str(error)) from error
    try:
        return ExperimentSpec.model_validate(values)
    except ValidationError as error:
        named = [f"{'.'.join(map(str, e['loc'])) or 'experiment'}: {e['msg']}" for e in error.errors()]
        raise _invalid(path, "; ".join(named)) from error


def load_published(which: str) -> dict[tuple[str, str, str], tuple[float, str]]:
    """Return the published figures of a table, value and source by system, column and measure.

    Nothing where none are known. Raises ``UserError`` ``experiment.invalid`` for a file that says one figure twice,
    or anything but a number.
    """
    path = experiment_path(which)
    path = path.parent / "published" / f"{path.stem}.csv"
    if not path.is_file():
        return {}
    found: dict[tuple[str, str, str], tuple[float, str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = (row["system"], row["column"], row["measure"])
            if key in found:
                raise _invalid(path, f"{', '.join(key)} is there twice")
            try:
                found[key] = (float(row["value"]), row["source"])
            except ValueError as error:
                raise _invalid(path, f"{', '.join(key)}: {error}") from error
    return found


def _invalid(path: Path, fault: str) -> UserError:
    return UserError(
        "experiment.invalid",
        what=f"{path.name} cannot be used: {fault}.",
        why="What is compared on what must be known before anything runs.",
        fix="Correct the named keys; the files in experiments/ are examples.",
    )
