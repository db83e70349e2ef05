"""Every method, stage, model and kind of message, described once. Torch-free: the page and the plan read it too.

A method is a file that calls :func:`register`. Those of this package are found by themselves; ``DSFEDMED_METHODS``
names the modules of others, separated by commas. Only these are ever imported: a configuration, a stored run or a
visitor of the page gives names that are looked up here and nothing else. Whatever depends on the name of a stage, a
model or a method derives from these records.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from engine.errors import UserError
from engine.methods.model_choice import FAMILIES, ModelChoice, chosen_model
from engine.methods.overlay import overlaid

MODULES_VARIABLE = "DSFEDMED_METHODS"
PACKAGE = "engine.methods"
PREDICTIONS = "predictions"
"""In ``StageSpec.records``: the stage adds both models' probability maps to samples that an earlier stage has drawn."""


@dataclass(frozen=True)
class KindSpec:
    """What a message between a site and the server may carry."""

    name: str
    title: str
    """Two or three words, for plots."""
    contents: str
    """A sentence: what it holds, and what it does not."""
    only_if: tuple[str, tuple[Any, ...]] | None = None
    """A dotted key of the configuration and the values with which it is sent; always when left out."""
    is_optional: bool = False
    """Whether a site that does not let it go takes part in the run all the same."""

    def is_sent(self, values: Mapping[str, Any]) -> bool:
        """Return whether a run with these nested values of its configuration sends it."""
        if self.only_if is None:
            return True
        key, wanted = self.only_if
        section, _, leaf = key.rpartition(".")
        return (values.get(section, {}) if section else values).get(leaf) in wanted


@dataclass(frozen=True)
class ModelSpec:
    """A model that a stage saves as ``models/NAME.safetensors``; all of a run's models are evaluated."""

    name: str
    title: str
    """What tables and plots call it; ``{student}`` and ``{teacher}`` stand for the configuration's models."""
    role: Literal["student", "teacher"]
    """``student`` runs at the sites; of a method's students the last one made is deployed. ``teacher``: the server."""
    architecture: str
    """Section of the configuration that says what it is built from."""
    compared_with: tuple[str, ...] = ()
    """Names of models: the differences to them are worked out."""
    scope: Literal["run", "site"] = "run"
    """``site``: each site has its own, made of what all share and of a part that stays there (``federation.shared``
    and its neighbours); there is none where the configuration keeps nothing at the sites. It is measured where it is.
    """


@dataclass(frozen=True)
class StageSpec:
    """One step of a method. A stage of one name is the same in every method that has it."""

    name: str
    title: str
    sentence: str
    """What it does, for the page's list of stages and the run's log."""
    entry: str
    """``module:Class`` with ``name`` and ``run(context)``; imported by the worker alone, so it may need torch."""
    cost: str
    """``module:function`` from a ``Workload`` to a ``StageCost``; imported by the plan, so it must not need torch."""
    reads: tuple[str, ...]
    """Sections of the configuration that no stage before it reads: their keys are part of its results' identity."""
    options: tuple[str, ...] = ()
    """Sections that it reads where a choice elsewhere says so; as long as they are at their defaults they are no part
    of its results' identity, so that results from before such a choice existed stay what they are."""
    makes: tuple[ModelSpec, ...] = ()
    keeps: tuple[str, ...] = ()
    """Folders below the run's in which it keeps files beside the artefacts that it records."""
    records: tuple[str, ...] = ()
    """Tables of the store that this stage alone writes: samples, scores, evaluation, differences; or PREDICTIONS."""
    sends: tuple[KindSpec, ...] = ()
    early: str | None = None
    """A switch of the configuration, as a dotted key: where it is on, the stage's ``begin(context)`` is called before
    the run's first stage, and what sites do for it goes on beside the stages before it."""
    step: str = "epoch"
    """What the steps of its curves are."""
    trains: bool = True
    """Whether it trains or generates; measuring and packing do not."""
    trains_at_sites: bool = False
    """Whether its training is the sites' work, all or most of it."""
    averages: bool = False
    """Whether it averages the sites' models, which then have to be of one kind."""
    reads_labels: bool = False
    """Whether it needs the masks of the sites' training images."""
    grows: bool = False
    """Whether more ``federation.rounds`` let it go on from its checkpoint; only a method's first stage may."""
    takes_over: bool = False
    """Whether it begins with what a finished run has left, given when the run is made; only a first stage may."""

    def begins_early(self, values: Mapping[str, Any]) -> bool:
        """Return whether it does in a run with these nested values of its configuration."""
        if self.early is None:
            return False
        section, _, leaf = self.early.rpartition(".")
        return bool(values.get(section, {}).get(leaf, False))


@dataclass(frozen=True)
class MethodSpec:
    """A system: its stages run in order, each resumable on its own."""

    name: str
    title: str
    paper: str
    stages: tuple[StageSpec, ...]
    overlay: Mapping[str, Any] = field(default_factory=dict)
    """Dotted keys of the configuration, and the values that make it this system, whatever else is asked for."""
    student: ModelChoice | None = None
    """The model that it trains at the sites, where it is this system by that; else the configuration's."""
    sentence: str = ""
    """What it is, for people who choose."""
    trains: str = ""
    """A sentence: which parameters learn, and where."""
    crosses: str = ""
    """A sentence: which parameters leave a site."""
    titles: Mapping[str, str] = field(default_factory=dict)
    """Its own names of its models, by the name in the catalogue; of the others, the model's title."""
    places: tuple[str, ...] = ("local", "superlink")
    """Back ends on which it can run."""
    joined_by: str = ""
    """The method that adds a site to a finished run of this one; none where sites train no generator."""

    @property
    def continues(self) -> bool:
        """Whether its runs continue a finished one, so that none can be started by itself."""
        return any(stage.takes_over for stage in self.stages)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the stages in order."""
        return tuple(stage.name for stage in self.stages)

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """The models that it makes, in the order of making."""
        return tuple(model for stage in self.stages for model in stage.makes)

    def last_model(self, role: Literal["student", "teacher"]) -> str | None:
        """Return the name of the model of this role that it makes last for all sites; None where it makes none."""
        made = [model.name for model in self.models if (model.role, model.scope) == (role, "run")]
        return made[-1] if made else None

    @property
    def reads_labels(self) -> bool:
        """Whether it needs the masks of the sites' training images."""
        return any(stage.reads_labels for stage in self.stages)

    @property
    def sections(self) -> tuple[str, ...]:
        """Sections of the configuration that its stages read."""
        return sections_of(self.stage_names)

    @property
    def fixed(self) -> Mapping[str, Any]:
        """Dotted keys of the configuration that it fixes, and their values."""
        return {**self.overlay, **({"student.name": self.student.name} if self.student else {})}

    def applied_to(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the nested ``values`` of a configuration made this system's; ``values`` stay as they are."""
        values = overlaid(values, self.overlay)
        return values if self.student is None else chosen_model(values, "student", self.student)


METRICS = KindSpec(
    "metrics", "numbers", "Numbers that go with a message: round and settings down; loss, Dice and image counts up."
)
"""Goes with every message, whatever the stage."""

_methods: dict[str, MethodSpec] = {}
_known: dict[tuple[type, str], Any] = {}
"""Stages, models and kinds of the registered methods by class and name."""
_lock = threading.RLock()
_is_loaded = False


def register(method: MethodSpec) -> MethodSpec:
    """Add a method; registering an equal one again changes nothing. Raises ``ValueError`` for a faulty description."""
    with _lock:
        known = _parts(method)
        for part in [method, *known.values()]:
            if not part.name.isidentifier() or part.name != part.name.lower():
                raise ValueError(f"'{part.name}' is no name: letters, digits and underscores in lower case")
        if _methods.get(method.name, method) != method:
            raise ValueError(f"there is another method '{method.name}' already")
        for (kind, name), part in known.items():
            if _known.get((kind, name), part) != part:
                raise ValueError(f"there is another {kind.__name__} '{name}' already")
        _check_against_schema(method)
        if any(stage.grows or stage.takes_over for stage in method.stages[1:]):
            raise ValueError(f"only the first stage of '{method.name}' can grow with the rounds, or take over")
        _known.update(known)
        _methods[method.name] = method
    return method


def methods() -> Mapping[str, MethodSpec]:
    """Return the methods by name; ``UserError`` ``method.module`` for a module of others that cannot be imported."""
    global _is_loaded
    with _lock:
        if not _is_loaded:
            _is_loaded = True
            try:
                _import_all()
            except BaseException:
                _is_loaded = False
                raise
        return _methods


def method(name: str) -> MethodSpec:
    """Return the method called ``name``; ``UserError`` ``method.unknown``, which lists those that there are."""
    found = methods().get(name)
    if found is None:
        raise UserError(
            "method.unknown",
            what=unknown_method(name),
            why="Its stages are not known here, so nothing can be planned or run.",
            fix=f"Choose one of them, or name the module that registers it in {MODULES_VARIABLE}.",
        )
    return found


def unknown_method(name: str) -> str:
    """Return the sentence that refuses the method ``name``."""
    return f"There is no method '{name}'; there are {', '.join(methods())}."


def stage(name: str) -> StageSpec | None:
    """Return a stage, or ``None`` for one of a method that is not registered here."""
    methods()
    return _known.get((StageSpec, name))


def stages(names: Iterable[str]) -> tuple[StageSpec, ...]:
    """Return the stages of these names that are known, in the order given."""
    return tuple(found for name in names if (found := stage(name)) is not None)


def sections_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return the sections of the configuration that the stages of these names read, each once."""
    return tuple(dict.fromkeys(section for found in stages(names) for section in (*found.reads, *found.options)))


def options_of(names: Iterable[str]) -> frozenset[str]:
    """Return those of :func:`sections_of` that are options of a stage."""
    return frozenset(section for found in stages(names) for section in found.options)


def records_of(names: Iterable[str], what: str) -> bool:
    """Return whether one of the stages of these names records ``what``."""
    return any(what in found.records for found in stages(names))


def kinds() -> dict[str, KindSpec]:
    """Return every kind of content that a message may carry, by name."""
    methods()
    found = [part for part in _known.values() if isinstance(part, KindSpec)]
    return {kind.name: kind for kind in [*found, METRICS]}


def method_title(name: str) -> str:
    """Return what people call a method; its name where it is not registered here."""
    found = methods().get(name)
    return name if found is None else found.title


def stage_title(name: str) -> str:
    """Return what people call a stage; its name where it is not registered here."""
    found = stage(name)
    return name if found is None else found.title


class RunModels(Protocol):
    """The part of a run's configuration that names of models depend on."""

    method: str
    student: Any
    teacher: Any


def model_title(name: str, config: RunModels | None = None) -> str:
    """Return what a run of ``config`` calls a model (of TinySAM and SAM if left out); its name if not registered."""
    methods()
    found = _known.get((ModelSpec, name))
    if found is None:
        return name
    own = None if config is None else methods().get(config.method)
    title = found.title if own is None else own.titles.get(name, found.title)
    return title.format(**family_titles(config))


def family_titles(config: RunModels | None = None) -> dict[str, str]:
    """Return what a run calls the families of its ``student`` and ``teacher``: TinySAM and SAM if left out."""
    if config is None:
        return {"student": FAMILIES["tinysam"], "teacher": FAMILIES["sam"]}
    return {"student": FAMILIES[config.student.name], "teacher": FAMILIES[config.teacher.name]}


def load_entry(entry: str) -> Any:
    """Return what ``module:name`` names; ``UserError`` ``method.entry`` where there is no such thing."""
    module, _, name = entry.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            "method.entry",
            what=f"'{entry}', which a method names, cannot be imported: {error}.",
            why="The work of a stage is written there.",
            fix="Correct the entry in the method's file, or install what its module needs.",
        ) from error


def make_stages(chosen: MethodSpec) -> tuple[Any, ...]:
    """Return the stages of a method, ready to run, in order. Imports torch."""
    made = tuple(load_entry(stage.entry)() for stage in chosen.stages)
    for stage, spec in zip(made, chosen.stages, strict=True):
        if stage.name != spec.name:
            raise UserError(
                "method.entry",
                what=f"The stage of {spec.entry} calls itself '{stage.name}', its description '{spec.name}'.",
                why="Checkpoints and records are kept by this name.",
                fix="Give both the same name.",
            )
    return made


def _parts(method: MethodSpec) -> dict[tuple[type, str], Any]:
    sent = (kind for stage in method.stages for kind in stage.sends)
    parts: list[StageSpec | ModelSpec | KindSpec] = [*method.stages, *method.models, *sent]
    found: dict[tuple[type, str], Any] = {}
    for part in parts:
        if found.setdefault((type(part), part.name), part) != part:
            raise ValueError(f"'{method.name}' has two different parts called '{part.name}'")
    return found


def _check_against_schema(method: MethodSpec) -> None:
    """A section that is misspelt in ``reads`` would be missing from the identity of results."""
    from engine.config_keys import section_keys  # the configuration asks this module for the methods' names

    keys = section_keys()
    for stage in method.stages:
        wrong = [section for section in (*stage.reads, *stage.options) if section not in keys]
        wrong += [model.architecture for model in stage.makes if model.architecture not in keys]
        wrong += [f"federation (of '{stage.name}')"] if stage.grows and "federation" not in stage.reads else []
        if wrong:
            raise ValueError(f"'{stage.name}' does not name sections of the configuration as it should: {wrong}")
    unknown = [name for name in method.titles if name not in {model.name for model in method.models}]
    if unknown:
        raise ValueError(f"'{method.name}' names models that it does not make: {unknown}")
    switches = [stage.early for stage in method.stages if stage.early is not None]
    for key in [*method.overlay, *switches]:
        section, _, leaf = key.rpartition(".")
        if leaf not in keys.get(section, ()):
            raise ValueError(f"'{method.name}' names no key of the configuration: {key}")


def _import_all() -> None:
    package = importlib.import_module(PACKAGE)
    for found in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{PACKAGE}.{found.name}")
    for module in filter(None, (name.strip() for name in os.environ.get(MODULES_VARIABLE, "").split(","))):
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a file of others raises: the page must be able to say it
            raise UserError(
                "method.module",
                what=f"The module '{module}', which {MODULES_VARIABLE} names, cannot be imported: "
                f"{type(error).__name__}: {error}.",
                why="It registers a method, and every process of the program has to know the same ones.",
                fix=f"Correct the file, put its folder on PYTHONPATH, or take it out of {MODULES_VARIABLE}.",
            ) from error
