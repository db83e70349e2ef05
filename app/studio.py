"""What the tabs ask for: the runs store, sample pictures, model bundles, and actions on runs. Torch-free.

One :class:`Studio` serves every browser; it keeps no state of any of them.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from app import bundle_cache, dataset_uploads, markup, model_card, model_offers, model_text, server_paths, text
from app.access import PROGRAM, Visitor, decide
from app.answers import Answers
from app.permissions import Permissions
from app.pictures import SamplePictures, sample_pictures
from app.pools import Pools
from app.scratch import Scratch
from app.settings import REPOSITORY, Settings
from app.tables import Tables
from app.uploads import Uploads
from engine.config import RunConfig, load_config, parse_config
from engine.errors import UserError
from engine.methods import catalogue
from engine.runs import joins, lifecycle
from engine.runs.join_results import Retraining, retrained_configs
from engine.runs.records import RunRecord, ScoredSample
from engine.runs.store import RunStore
from engine.types import SyntheticSample

if TYPE_CHECKING:
    from engine.data.tiling import Looks
    from engine.deployment.server import Status
    from engine.planning import Plan
    from export.manifest import Manifest
    from export.runtime import BundleSession

Result = TypeVar("Result")
Box = Callable[[UserError], str]
LOG = logging.getLogger(__name__)
THUMBNAIL_PX = 192
NEWEST_RUNS = 200
"""Runs that the picker offers."""


@dataclass(frozen=True)
class ModelChoice:
    """One bundle that the Segment tab offers; ``key`` says where it is from, not where it lies."""

    key: str
    label: str


class Studio:
    """Reads and acts on the home folder of ``settings``, for visitors whose rights it checks at every step."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.mode = decide(settings)
        self.store = RunStore(settings.home)
        self.tables = Tables(self.store)
        self.pools = Pools(self.store)
        self.scratch = Scratch(self.store.home)
        self.uploads = Uploads(self.scratch.path, settings)
        self.datasets = dataset_uploads.DatasetUploads(self.store, settings)
        self.answers = Answers(keep_s=60 * settings.keep_minutes)
        self.permissions = Permissions(self.store, settings, self.mode)
        self._hidden = {
            self.store.home: text.HOME_FOLDER,
            settings.models_dir: text.MODELS_FOLDER,
            REPOSITORY: text.PROGRAM_FOLDER,
        }
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    # Words

    def attempt(self, action: Callable[[], Result], *, box: Box = markup.user_error) -> tuple[Result | None, str]:
        """Return (result, "") or (None, the error's box); a ``UserError`` is expected, others are logged."""
        try:
            return action(), ""
        except UserError as error:
            return None, self.told(box(error))
        except Exception as error:
            # Without the error's own words: they may have the name of a file, and that a patient's.
            where = "".join(traceback.format_tb(error.__traceback__))
            LOG.error("unforeseen %s in the page\n%s", type(error).__name__, where)
            return None, markup.unexpected(error)

    def told(self, words: str, *, of: RunConfig | None = None) -> str:
        """Return words or HTML for the page: where others can reach it, they do not say where its files lie.

        ``of`` is the configuration of the run that they are about: its images and weights may lie anywhere.
        """
        if self.mode == "local":
            return words
        return server_paths.shortened(words, (server_paths.places(of) if of else {}) | self._hidden)

    # Samples

    def thumbnail(self, run_id: str, sample: SyntheticSample) -> np.ndarray:
        """Return a synthetic image with its mask outlined, (192, 192, 3) uint8 for a square image."""
        return sample_pictures(self.store.run_dir(run_id), sample, longest_px=THUMBNAIL_PX, predictions=False).outlined

    def pictures(self, run_id: str, sample: SyntheticSample) -> SamplePictures:
        """Return one pair in full, class by class."""
        return sample_pictures(self.store.run_dir(run_id), sample, class_names=self.class_names(run_id))

    def class_names(self, run_id: str) -> tuple[str, ...]:
        """Return the names of the run's classes in the order of their mask planes; none where its data set is gone."""
        from engine.planning.dataset import class_names

        try:
            return class_names(self.store.get(run_id).config.data)
        except (UserError, OSError):  # the run's own pictures are there all the same
            return ()

    def model_names(self, run_id: str) -> dict[str, str]:
        """Return what the run calls its ``student`` and its ``teacher``; TinySAM and SAM where it cannot be read."""
        try:
            return catalogue.family_titles(self.store.get(run_id).config)
        except UserError:
            return catalogue.family_titles()

    def sample(self, run_id: str, sample_id: str, epoch: int | None) -> ScoredSample | None:
        """Return one pair with its score at ``epoch`` (without one where it was not scored)."""
        found = self.store.sample(run_id, sample_id)
        if found is None:
            return None
        scores = self.store.scores(run_id, epoch=epoch, sample_id=sample_id) if epoch is not None else ()
        return ScoredSample(found, scores[-1] if scores else None)

    # Models

    def models(self) -> list[ModelChoice]:
        """Return the bundles of complete runs and the shipped ones, best first; broken ones are left out."""
        return [ModelChoice(found.key, model_offers.label(found)) for found in self.offers()]

    def shipped_models(self) -> list[model_offers.Offer]:
        """Return what is offered of the models that came with the program, best first."""
        return [found for found in self.offers() if found.key.startswith("shipped/")]

    def model_facts(self, key: str) -> tuple[str, str]:
        """Return what the page says of an offered bundle, and its model card as Markdown."""
        self.manifest(key)  # says what is wrong with a broken one
        (found,) = (found for found in self.offers() if found.key == key)
        return model_offers.facts(found), model_card.shown(self.bundle_folder(key))

    def manifest(self, key: str) -> Manifest:
        """Return the manifest of an offered bundle."""
        from export.manifest import read_manifest

        return read_manifest(self.bundle_folder(key))

    def session(self, key: str, *, looks: Looks | None = None, variant: str = "auto") -> BundleSession:
        """Return the loaded bundle; the last few stay in memory. ``looks`` None is the way measured to be better."""
        folder = self.bundle_folder(key)
        with self._lock:
            return bundle_cache.opened(folder, looks=looks, variant=variant)

    def offers(self) -> list[model_offers.Offer]:
        """Return what is offered, best first; of a broken bundle its name."""
        found = []
        for key, origin, folder in self._bundles():
            try:
                manifest = bundle_cache.manifest(folder, (folder / "manifest.json").stat().st_mtime)
            except UserError:
                found.append(model_offers.broken(key, folder.name, origin=origin))
                continue
            except FileNotFoundError:  # its run was deleted a moment ago
                continue
            found.append(model_offers.offer(key, manifest, origin=origin))
        return model_offers.best_first(found)

    def _bundles(self) -> list[tuple[str, str, Path]]:
        """Return key, origin in words and folder of what is there."""
        found, bundles = [], self.store.all_artefacts("bundle")
        for run in self.store.list(complete=True):
            for path in bundles.get(run.run_id, ()):
                origin = model_text.FROM_RUN.format(run_id=run.run_id)
                found.append((f"run/{run.run_id}/{path}", origin, self.store.run_dir(run.run_id) / path))
        if self.settings.models_dir.is_dir():
            there = (path for path in self.settings.models_dir.iterdir() if not path.name.startswith("."))
            for folder in sorted(path for path in there if path.is_dir()):
                found.append((f"shipped/{folder.name}", model_text.SHIPPED, folder))
        return [bundle for bundle in found if (bundle[2] / "manifest.json").is_file()]

    def bundle_folder(self, key: str) -> Path:
        """Return the folder behind ``key``; a browser may only name bundles that this page offers."""
        for known, _, folder in self._bundles():
            if known == key:
                return folder
        raise UserError(
            "app.model_unknown",
            what="The chosen model is not there any more.",
            why="A model is read from its run's folder.",
            fix="Choose another model from the list.",
        )

    # Files to download

    def save(self, name: str, content: bytes) -> str:
        """Write ``content`` for download and return its path, which nobody can guess; it goes when uploads do."""
        folder = self.scratch.path / secrets.token_urlsafe(16)
        folder.mkdir(mode=0o700)
        (folder / name).write_bytes(content)
        return str(folder / name)

    # Runs

    def runs(self, wanted: str | None = None) -> Sequence[RunRecord]:
        """Return the newest runs, and ``wanted`` where it is an older one."""
        newest = self.store.list(limit=NEWEST_RUNS)
        if not wanted or len(newest) < NEWEST_RUNS or wanted in {run.run_id for run in newest}:
            return newest
        try:
            return [*newest, self.store.get(wanted)]
        except UserError:  # there is none of that name
            return newest

    def plan(self, values: dict[str, Any], *, by: Visitor, fork: tuple[str, str] | None = None) -> Plan:
        """Return what a run of these nested values needs and sends; ``UserError`` where it cannot run.

        With ``fork`` (a run and a stage of it), what a fork needs that runs the stages from there on.
        """
        self.permissions.check_role(by)
        run_id, stage = fork or (None, None)
        config = self._allowed(values, by=by, fork_of=run_id)
        return self._planned(config, fork=None if run_id is None or stage is None else (run_id, stage))

    def sites(self, source: str | None, task: str | None, root: str | None, *, by: Visitor) -> tuple[str, ...]:
        """Return the sites of a phantom task or a folder; none for a folder that is no data set (yet).

        On a page that others can reach, none for a folder that this visitor may not name, or nobody may.
        """
        from engine.planning.dataset import site_names

        try:
            folder = Path(root.strip()).expanduser() if root and root.strip() else None
            roots = dataset_uploads.roots(self.settings) if by.role == "operator" else ()
            if folder is not None and self.mode != "local" and not server_paths.below(folder, roots):
                folder = None
            return site_names(source=source or "", task=task or "", root=folder)
        except (UserError, OSError, ValueError, RuntimeError):  # still being typed; the plan says what is wrong with it
            return ()

    def federation(self, folder: str, *, by: Visitor) -> Status:
        """Return who of the federation in ``folder`` is there; ``UserError`` where this visitor may not name it."""
        from engine.deployment import federations
        from engine.deployment.server import status

        self.permissions.check_role(by)
        path = Path(folder.strip()).expanduser()
        if self.mode != "local":
            roots = self.settings.allowed_roots if by.role == "operator" else ()  # a demonstration has no federation
            server_paths.check_folder(path, key="server", roots=roots)
        return status(federations.load(path))

    def launch(self, values: dict[str, Any], *, by: Visitor) -> str:
        """Plan and queue a run of these nested form values and return its id."""
        config = self._with_sites(self._allowed(values, by=by))
        planned = self._planned(config)
        with self._turn:
            self.permissions.check_turn(by)
            signed = self.permissions.signature(by)
            return lifecycle.submit(self.store, config, planned_s=planned.stage_seconds, by=signed)

    def fork(self, run_id: str, *, stage: str, values: dict[str, Any], by: Visitor) -> str:
        """Plan and queue a run of these nested values that takes over what ``run_id`` did before ``stage``."""
        self.permissions.check_run(by, run_id)
        config = self._allowed(values, by=by, fork_of=run_id)
        planned = self._planned(config, fork=(run_id, stage))
        with self._turn:
            self.permissions.check_turn(by)
            signed, planned_s = self.permissions.signature(by), planned.stage_seconds
            return lifecycle.fork(self.store, run_id, stage=stage, config=config, planned_s=planned_s, by=signed)

    def plan_join(self, run_id: str, sites: str, *, by: Visitor) -> tuple[Plan, list[Retraining]]:
        """Return what it would take that ``sites`` (names with commas between) join the run, and training all anew."""
        _, planned, retraining = self._joined(run_id, sites, by=by)
        return planned, [Retraining.planned(method, figures) for method, figures in retraining.items()]

    def join(self, run_id: str, sites: str, *, by: Visitor) -> str:
        """Plan and queue a run in which ``sites`` join the finished one."""
        config, planned, retraining = self._joined(run_id, sites, by=by)
        with self._turn:
            self.permissions.check_turn(by)
            return joins.join(
                self.store, run_id, config=config, classes=planned.classes, modality=planned.modality,
                planned_s=planned.stage_seconds, retraining=retraining, by=self.permissions.signature(by),
            )  # fmt: skip

    def extend(self, run_id: str, further_rounds: float | None, *, by: Visitor) -> None:
        """Let a run that has ended train for so many more federated rounds, and repeat the stages after them."""
        self.permissions.check_run(by, run_id)
        record = self.store.get(run_id)
        if further_rounds is None or not math.isfinite(further_rounds) or further_rounds != int(further_rounds):
            raise UserError("app.rounds", what=text.ROUNDS_WHAT, why=text.ROUNDS_WHY, fix=text.ROUNDS_FIX)
        rounds = record.config.federation.rounds + int(further_rounds)
        longer = lifecycle.longer_config(record, rounds=rounds)
        self.permissions.check_config(by, longer, taken_from=record.config)
        self._planned(self._with_sites(longer, run_id))
        with self._turn:
            self.permissions.check_turn(by)
            lifecycle.extend(self.store, run_id, rounds=rounds, by=self.permissions.signature(by))

    def cancel(self, run_id: str, *, by: Visitor) -> None:
        """Ask a run to stop at its next step."""
        self.permissions.check_run(by, run_id)
        lifecycle.cancel(self.store, run_id, by=self.permissions.signature(by))

    def delete(self, run_id: str, *, by: Visitor) -> None:
        """Delete a run that has ended, with its files; who did it is kept in the home."""
        self.permissions.check_run(by, run_id)
        lifecycle.delete(self.store, run_id, by=self.permissions.signature(by))

    def resume(self, run_id: str, *, by: Visitor) -> None:
        """Put a stopped run back in the queue."""
        self.permissions.check_run(by, run_id)
        with self._turn:
            self.permissions.check_turn(by)
            lifecycle.resume(self.store, run_id, by=self.permissions.signature(by))

    def drop_extension(self, run_id: str, *, by: Visitor) -> None:
        """Give up the extension of a run that has stopped; the results of before stay."""
        self.permissions.check_run(by, run_id)
        lifecycle.drop_extension(self.store, run_id, by=self.permissions.signature(by))

    def start_demo(self) -> str:
        """Queue the demo run unless the home has one; return what to tell the person, who has the page in any case."""
        if any(run.name == text.DEMO_NAME for run in self.store.list()):
            return text.DEMO_THERE
        try:
            run_id = self.launch(load_config(text.DEMO_NAME).model_dump(mode="json"), by=PROGRAM)
        except UserError as error:
            return text.DEMO_NOT_STARTED.format(error=error)
        return text.DEMO_STARTED.format(run_id=run_id)

    def load_readers(self) -> None:
        """Import what reads medical files, a second's work that the first visitor with one would wait for."""
        from engine.data.readers import load_all

        self.attempt(load_all)

    def keep_queue_moving(self, stop: threading.Event, *, every_s: float = 2.0, tidy_s: float = 15.0) -> None:
        """Start waiting runs, mark those whose worker died and delete what is too old, until ``stop`` is set."""
        tidied = 0.0
        while not stop.wait(every_s):
            steps: list[Callable[[], object]] = [lambda: lifecycle.advance_queue(self.store)]
            if time.monotonic() - tidied > tidy_s:
                tidied = time.monotonic()
                steps += [self.uploads.sweep, self.permissions.forget_old_demos, self.datasets.sweep]
            for step in steps:
                if self.attempt(step)[1]:
                    LOG.error("the queue of runs could not be moved on, or old files not be deleted")

    def _allowed(self, values: dict[str, Any], *, by: Visitor, fork_of: str | None = None) -> RunConfig:
        """Return the configuration in ``values`` where the visitor may start it."""
        taken_from = None if fork_of is None else self.store.get(fork_of).config
        return self.permissions.check_config(by, parse_config(values), taken_from=taken_from)

    def _joined(self, run_id: str, sites: str, *, by: Visitor) -> tuple[RunConfig, Plan, dict[str, dict[str, Any]]]:
        from engine.planning.joining import plan_join

        self.permissions.check_run(by, run_id)
        parent, names = self.store.get(run_id), [name.strip() for name in sites.split(",") if name.strip()]
        config = joins.joined_config(self.store, run_id, names)
        self.permissions.check_config(by, config, taken_from=parent.config)
        retrained = retrained_configs(config, method=joins.earlier_of(self.store, run_id).method)
        planned, retraining = plan_join(config, retrained=retrained, home=self.store.home)
        joins.check_join(self.store, run_id, config=config, classes=planned.classes, modality=planned.modality)
        return config, planned, retraining

    def _with_sites(self, config: RunConfig, run_id: str | None = None) -> RunConfig:
        from engine.planning import with_sites

        return with_sites(config, run_dir=None if run_id is None else self.store.run_dir(run_id))

    def _planned(self, config: RunConfig, *, fork: tuple[str, str] | None = None) -> Plan:
        from engine.planning import plan

        if fork is None:
            return plan(self._with_sites(config), home=self.store.home)
        run_id, stage = fork
        lifecycle.check_fork(self.store, run_id, config, stage=stage)
        return plan(self._with_sites(config, run_id), home=self.store.home, first_stage=stage)
