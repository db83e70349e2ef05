"""The cells of an experiment: one run's configuration for each system, dataset, held-out site and seed. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from engine.config import MAX_NAME_LETTERS, ModelConfig, RunConfig, load_config
from engine.errors import UserError
from engine.experiments.spec import DatasetSpec, ExperimentSpec, Scale, SystemSpec
from engine.federation.connect import describe
from engine.methods import catalogue
from engine.runs.lifecycle import with_absolute_paths

LEFT_OUT = "none"
"""Stands for no value, which TOML cannot write, as it does on the command line."""


@dataclass(frozen=True)
class Cell:
    """One run of the experiment. Several cells may share a run: a system that is another's model is measured in it."""

    system: SystemSpec
    dataset: DatasetSpec
    held_out: str
    """Site held out; empty where the preset says it."""
    seed: int
    config: RunConfig | None
    """``None`` where this version cannot run it: see ``missing`` and ``fault``."""
    missing: str = ""
    """Why the system is not in this version; empty where it is."""
    fault: UserError | None = None
    """What is wrong with its configuration."""

    @cached_property
    def key(self) -> str:
        """Identity of its run's numbers; empty without a configuration."""
        return "" if self.config is None else self.config.content_hash()

    @property
    def title(self) -> str:
        """Return what people call the cell."""
        site = f", without {self.held_out}" if self.held_out else ""
        return f"{self.system.title} on {self.dataset.title}{site}, seed {self.seed}"

    @property
    def model(self) -> str:
        """Name of the model that is measured: the experiment's choice, else the last student that the method makes."""
        if self.system.model is not None:
            return self.system.model
        return self._last_student("run") or ""

    @property
    def site_model(self) -> str:
        """Name of each site's own model; empty where the experiment chooses a model, or the method makes none."""
        return "" if self.system.model is not None else self._last_student("site") or ""

    def _last_student(self, scope: str) -> str | None:
        models = catalogue.method(self.system.method).models
        return next((m.name for m in reversed(models) if m.role == "student" and m.scope == scope), None)


def make_cells(
    experiment: ExperimentSpec,
    scale: Scale,
    *,
    seeds: int | None = None,
    data: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> tuple[Cell, ...]:
    """Return every cell at ``scale``, by system, dataset, held-out site and seed.

    Parameters
    ----------
    seeds : int or None
        So many of the seeds; more than the file names go on from its last, one by one.
    data : Path or None
        Folder that holds the datasets' folders, in place of the one that the presets name.
    settings : mapping or None
        Dotted keys that win over all others.
    """
    spec = experiment.at(scale)
    known = list(spec.seeds)
    wanted = len(known) if seeds is None else seeds
    known += [known[-1] + step for step in range(1, wanted - len(known) + 1)]
    return tuple(
        _cell(system, dataset, held_out, seed, scale, spec.overrides, data, settings or {})
        for system in experiment.systems
        for dataset in spec.datasets
        for held_out in dataset.sites
        for seed in known[:wanted]
    )


def resolved(experiment: ExperimentSpec, scale: Scale, *, data: Path | None = None) -> ExperimentSpec:
    """Return the experiment with the names of a dataset's sites where it says that each is held out once.

    A dataset that cannot be read stays as it is: its cells then fail by themselves, and say why.
    """
    spec = experiment.at(scale)
    datasets = tuple(_with_sites(dataset, {**spec.overrides, **dataset.overrides}, data) for dataset in spec.datasets)
    return experiment.model_copy(update={scale: spec.model_copy(update={"datasets": datasets})})


def _with_sites(dataset: DatasetSpec, keys: Mapping[str, Any], data: Path | None) -> DatasetSpec:
    if dataset.held_out != "all":
        return dataset
    try:
        found = describe(with_absolute_paths(_with_data_in(load_config(dataset.preset, overrides=dict(keys)), data)))
    except UserError:
        return dataset
    names = sorted({site.name for site in (*found.sources, *found.tests)})
    return dataset.model_copy(update={"held_out": tuple(names)})


def _cell(
    system: SystemSpec,
    dataset: DatasetSpec,
    held_out: str,
    seed: int,
    scale: Scale,
    common: Mapping[str, Any],
    data: Path | None,
    settings: Mapping[str, Any],
) -> Cell:
    of_scale = system.mini if scale == "mini" else system.paper
    keys = {**common, **dataset.overrides, **system.overrides, **of_scale, "method": system.method, "seed": seed}
    name = f"{system.name} {dataset.name} {held_out or 'held-out'} {seed}"[:MAX_NAME_LETTERS]
    keys |= {"name": name} | ({"data.held_out": held_out} if held_out else {}) | dict(settings)
    keys = {key: None if value == LEFT_OUT else value for key, value in keys.items()}
    about = (system, dataset, held_out, seed)
    missing = not_in_this_version(keys)
    if missing:
        return Cell(*about, None, missing=missing)
    try:
        config = load_config(dataset.preset, overrides=keys)
    except UserError as error:
        return Cell(*about, None, fault=error)
    return Cell(*about, with_absolute_paths(_with_data_in(config, data)))


def not_in_this_version(keys: Mapping[str, Any]) -> str:
    """Return what a cell asks for that this version does not have: a method or a model; empty where it has all."""
    method = keys.get("method", "")
    if method not in catalogue.methods():
        return f"there is no method '{method}' in this version"
    models = get_args(ModelConfig.model_fields["name"].annotation)
    for key in ("student.name", "teacher.name"):
        if key in keys and keys[key] not in models:
            return f"there is no model '{keys[key]}' in this version"
    return ""


def _with_data_in(config: RunConfig, data: Path | None) -> RunConfig:
    """Return ``config`` with its folders of images looked for in ``data``."""
    if data is None:
        return config
    roots = {name: getattr(config.data, name) for name in ("root", "test_root", "public_root")}
    moved = {key: data / root.name for key, root in roots.items() if root is not None}
    return config.model_copy(update={"data": config.data.model_copy(update=moved)})


def distinct(cells: Sequence[Cell]) -> dict[str, RunConfig]:
    """Return the configurations to run, each once, in the cells' order."""
    return {cell.key: cell.config for cell in cells if cell.config is not None}
