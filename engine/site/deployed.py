"""A site's program that stands alone at its hospital: it opens the runs that it is asked for, on its own images."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

import torch

from engine.config import RunConfig, parse_config
from engine.data.datasets import Federation, load_site
from engine.data.phantoms import TASKS
from engine.data.problems import Problem, raise_problems
from engine.errors import UserError
from engine.federation.descriptions import SiteDescription
from engine.federation.tasks import (
    BESIDE,
    DESCRIBE,
    LONG,
    READ_EVERYTHING,
    TRAIN_GENERATOR,
    Listener,
    SiteReply,
    SiteRequest,
)
from engine.methods import catalogue
from engine.models.assets import list_assets
from engine.models.roles import at_site
from engine.runs.checkpoint import CheckpointStore
from engine.runs.identity import checkpoint_hash
from engine.site import told
from engine.site.consent import Consent
from engine.site.data import SiteData, sites_here
from engine.site.own_folder import check_own_folder
from engine.site.program import SiteProgram
from engine.site.side_work import SideWork
from engine.site.state import SiteState
from engine.site.tasks.describe import DESCRIPTION
from engine.version import check_same, program_version

DATASET = "dataset"
"""Text of a description's reply: what all sites of a federation must have in common, as JSON."""
PROGRAM = "program"
"""Text of a description's reply, and key of what says which run asks: the version of the program."""
ANSWERED, MAX_ROUNDS_LETTERS = "answered", 100_000
"""Key of what says which run asks: rounds that the server has this site's answers of, a list as JSON."""
IMAGES = "images.json"
"""In a site's folder of a run: digests of the images that it began with."""
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")


def program(site: str, data: Path, folder: Path, say: Callable[[str], None]) -> Consent:
    """Return the program that `site up` serves: ``data`` holds dataset.toml and the site's own images.

    It answers what the site allows; ``folder`` has its rules, its decisions and its record. ``UserError``
    ``site.folder`` where ``data`` is another folder; a site of phantoms can go without images.
    """
    try:
        check_own_folder(data, site=site)
    except UserError as error:
        if not any(site in task.sites for task in TASKS.values()):
            raise
        say(f"Nothing but runs of phantoms can be answered: {error}")
    return Consent(DeployedSite(site, data=data, folder=folder, say=say), site, folder, say)


@dataclass(frozen=True)
class _Opened:
    """A run at this site."""

    config: RunConfig
    federation: Federation
    data: SiteData
    program: SiteProgram
    folder: Path
    beside: SideWork


class DeployedSite:
    """Answers for one site; keeps the run open that was asked for last, and each run's state below ``folder/runs``."""

    def __init__(self, site: str, *, data: Path, folder: Path, say: Callable[[str], None]) -> None:
        self._site, self._data, self._folder, self._say = site, data, folder, say
        self._key: tuple[str, str] | None = None
        self._run: _Opened | None = None
        self._task = ""
        self._answered: tuple[int, ...] = ()
        self._asked_at = monotonic()

    def answer(self, request: SiteRequest, *, run: Mapping[str, str], listener: Listener) -> SiteReply:
        """Answer a request of the run whose id and configuration ``run`` gives."""
        check_same(run.get("program", ""), site=self._site, at_site=True)
        self._answered = _rounds(run.get(ANSWERED, "[]"), site=self._site)
        opened = self._opened(run)
        self._task, self._asked_at = request.task, monotonic()
        if request.task == READ_EVERYTHING:
            return self._read_everything(opened, listener)
        if request.task != DESCRIBE:  # a plan, which is no run, asks nothing else
            _check_unchanged(opened.data.description(), opened.folder / IMAGES)
        if request.task in LONG:
            if request.settings.get(BESIDE):
                return opened.beside.answer(request, run=run, listener=listener)
            opened.beside.stop()  # it is waited for now, and goes on here from what is kept
        try:
            reply = opened.program.answer(request, listener=listener)
        finally:
            self._asked_at = monotonic()
        if request.task != DESCRIBE:
            return reply
        about = opened.federation
        dataset = {"name": about.name, "task": about.task, "modality": about.modality, "classes": about.classes}
        dataset |= {"value_range": about.value_range, "slice_axis": about.slice_axis, "window": about.window}
        texts = {**reply.texts, DATASET: json.dumps(dataset), PROGRAM: program_version()}
        told.keep(opened.folder, dataset=texts[DATASET], description=texts[DESCRIPTION])
        return SiteReply(reply.arrays, reply.metrics, reply.num_examples, texts)

    def idle(self) -> None:
        """Stop work beside that nobody asks about any more."""
        if self._run is not None:
            self._run.beside.stop_if_forgotten(asked_at=self._asked_at)

    def _opened(self, run: Mapping[str, str]) -> _Opened:
        key = (run.get("id", ""), run.get("config", ""))
        if self._run is None or key != self._key:
            if self._run is not None:
                self._run.beside.stop()
            self._run = None  # its images and models go before the next ones come
            self._run, self._key = self._open(*key), key
        return self._run

    def _open(self, run_id: str, text: str) -> _Opened:
        config = self._config(run_id, text)
        held_out = config.data.held_out == self._site
        federation = load_site(config.data, self._site, root=self._data, held_out=held_out, seed=config.seed)
        data = sites_here(config, federation=federation)[self._site]
        folder = self._folder / "runs" / run_id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = catalogue.method(config.method).stage_names
        if config.threads is not None:
            torch.set_num_threads(config.threads)

        def state() -> SiteState:
            averaging = next((found.name for found in catalogue.stages(names) if found.averages), names[0])
            stage = "generator_training" if self._task == TRAIN_GENERATOR else averaging
            return SiteState(
                folder,
                CheckpointStore(
                    folder / "checkpoints",
                    lambda scope: checkpoint_hash(config, names, scope),
                    warn=self._say,
                    scope=stage,
                ),
                run_id=run_id,
                answered=self._answered,
            )

        self._say(f"Opened the run {run_id}: {len(data.train)} images to train on, {len(data.test)} to test on.")
        beside = SideWork(
            self._site,
            data=self._data,
            folder=self._folder,
            run_folder=folder,
            num_images=max(1, len(data.train)),
            threads=config.threads,
        )
        program = SiteProgram(data, config=at_site(config, self._site), state=state)
        return _Opened(config, federation, data, program, folder, beside)

    def _config(self, run_id: str, text: str) -> RunConfig:
        try:
            values = json.loads(text)
            values["data"]["root"] = str(self._data)
            config = parse_config(values)
        except (ValueError, KeyError, TypeError, UserError) as error:
            raise UserError(
                "federation.other_version",
                what=f"Site {self._site} cannot read the run's settings: {error}",
                why="Server and sites must have one version of this program.",
                fix="Install the coordinator's version at the site.",
            ) from error
        if _RUN_ID.fullmatch(run_id) is None:
            raise ValueError(f"a run's id was expected, not {run_id!r}")
        known = {asset.name for asset in list_assets()}
        parts = (
            config.student.weights,
            config.teacher.weights,
            config.generator.backbone,
            config.generator.controlnet,
            config.release.inception,
        )
        unknown = [name for name in parts if name is not None and name.partition("@sha256:")[0] not in known]
        if unknown:
            raise UserError(
                "federation.weights_elsewhere",
                what=f"The run starts from '{unknown[0]}', which is no name of the registry.",
                why="A server names no files of a site.",
                fix="Use weights that `weights list` names.",
            )
        return config

    def _read_everything(self, opened: _Opened, listener: Listener) -> SiteReply:
        problems: dict[tuple[str, str], Problem] = {}
        done, sets = 0, (opened.data.train, opened.data.validation, opened.data.test)
        total = sum(len(images) for images in sets)
        for images in sets:
            for index in range(len(images)):
                listener.progress(done, total)
                try:
                    images.read(index)
                except UserError as error:  # a damaged volume is one fault, not one for each slice
                    problem = Problem(error.code, error.what, error.fix, site=self._site)
                    problems.setdefault((error.code, error.what), problem)
                done += 1
        raise_problems(list(problems.values()), dataset=opened.federation.name)
        return SiteReply({}, {}, max(1, total))


class _Beside:
    """The same site in a process beside its program, for one run."""

    def __init__(self, site: DeployedSite, run: Mapping[str, str]) -> None:
        self._site, self._run = site, run

    def answer(self, request: SiteRequest, *, stage: str, listener: Listener) -> SiteReply:
        """Do the work at once; ``stage`` is the task's own here."""
        settings = {key: value for key, value in request.settings.items() if key != BESIDE}
        return self._site.answer(replace(request, settings=settings), run=self._run, listener=listener)


def open_beside(site: str, data: str, folder: str, run: Mapping[str, str]) -> _Beside:
    """Return what answers in a process beside a site's program (``engine.site.side_work``), which has allowed it."""
    return _Beside(DeployedSite(site, data=Path(data), folder=Path(folder), say=print), run)


def _check_unchanged(now: SiteDescription, path: Path) -> None:
    """Note which images a run has begun with here, or compare: a program that is started again reads them anew."""
    digests = json.dumps(dict(now.digests), sort_keys=True)
    if not path.is_file():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(digests, encoding="utf-8")
        part.replace(path)
    elif path.read_text(encoding="utf-8") != digests:
        raise UserError(
            "run.data_changed",
            what=f"The images of {now.name} are not those that this run began with.",
            why="Going on with others would mix two datasets: what was trained on before may be validated on now.",
            fix="Put the files and meta.csv back as they were, or start a new run on the data as they are.",
        )


def _rounds(text: str, *, site: str) -> tuple[int, ...]:
    try:
        found = json.loads(text) if len(text) <= MAX_ROUNDS_LETTERS else None
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(type(number) is int and number >= 0 for number in found):
        raise UserError(
            "federation.bad_request",
            what=f"Site {site} was told of rounds that cannot be: {text!r:.60}.",
            why="The server says which rounds of the run it has this site's answers of.",
            fix="Run one version of the program at the server and at the sites.",
        )
    return tuple(found)
