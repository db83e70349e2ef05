"""What the tabs ask for: the runs store, sample pictures, model bundles, and actions on runs. Torch-free.

One :class:`Studio` serves every browser; it keeps no state of any of them.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from app import markup, text
from app.pictures import SamplePictures, sample_pictures
from app.scratch import Scratch
from app.settings import Settings
from engine.config import load_config, parse_config
from engine.errors import UserError
from engine.runs import lifecycle
from engine.runs.records import RunRecord, ScoredSample
from engine.runs.store import RunStore
from engine.types import SyntheticSample

if TYPE_CHECKING:
    from engine.planning import Plan
    from export.manifest import Manifest
    from export.runtime import BundleSession

Result = TypeVar("Result")
LOG = logging.getLogger(__name__)
THUMBNAIL_PX = 192
NEWEST_RUNS = 200
"""Runs that the picker offers."""


@dataclass(frozen=True)
class ModelChoice:
    """One bundle that the Segment tab offers; ``key`` is its folder."""

    key: str
    label: str


def attempt(action: Callable[[], Result]) -> tuple[Result | None, str]:
    """Return (result, "") or (None, the error's box); only a ``UserError`` is expected, others are logged in full."""
    try:
        return action(), ""
    except UserError as error:
        return None, markup.user_error(error)
    except Exception as error:
        LOG.exception("unforeseen error in the page")
        return None, markup.unexpected(error)


class Studio:
    """Reads and acts on the home folder of ``settings``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = RunStore(settings.home)
        self.scratch = Scratch(self.store.home)
        self._lock = threading.Lock()

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

    def sample(self, run_id: str, sample_id: str, epoch: int | None) -> ScoredSample | None:
        """Return one pair with its score at ``epoch`` (without one where it was not scored)."""
        found = self.store.sample(run_id, sample_id)
        if found is None:
            return None
        scores = self.store.scores(run_id, epoch=epoch, sample_id=sample_id) if epoch is not None else ()
        return ScoredSample(found, scores[-1] if scores else None)

    # Models

    def models(self) -> list[ModelChoice]:
        """Return the bundles of complete runs, newest first, then the shipped ones; broken folders are left out."""
        choices = []
        for run in self.store.list(complete=True):
            for artefact in self.store.artefacts(run.run_id, kind="bundle"):
                label = text.MODEL_RUN.format(name=run.name, run_id=run.run_id)
                choices += self._choice(self.store.run_dir(run.run_id) / artefact.path, label)
        if self.settings.models_dir.is_dir():
            for folder in sorted(path for path in self.settings.models_dir.iterdir() if path.is_dir()):
                choices += self._choice(folder, text.MODEL_SHIPPED.format(name=folder.name))
        return choices

    def manifest(self, key: str) -> Manifest:
        """Return the manifest of an offered bundle."""
        from export.manifest import read_manifest

        return read_manifest(self._bundle_folder(key))

    def session(self, key: str) -> BundleSession:
        """Return the loaded bundle; the last few stay in memory, by folder and time of writing."""
        folder = self._bundle_folder(key)
        with self._lock:
            return _load_session(folder, (folder / "manifest.json").stat().st_mtime)

    def _bundle_folder(self, key: str) -> Path:
        """Return the folder behind ``key``; a browser may only name bundles that this page offers."""
        if key not in {choice.key for choice in self.models()}:
            raise UserError(
                "app.model_unknown",
                what="The chosen model is not there any more.",
                why="A model is read from its run's folder.",
                fix="Choose another model from the list.",
            )
        return Path(key)

    def _choice(self, folder: Path, label: str) -> list[ModelChoice]:
        return [ModelChoice(str(folder), label)] if (folder / "manifest.json").is_file() else []

    # Files to download

    def save(self, name: str, content: bytes) -> str:
        """Write ``content`` for download and return its path; the folder goes when the page's process ends."""
        folder = self.scratch.path / hashlib.sha256(content).hexdigest()[:16]
        folder.mkdir(exist_ok=True)
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

    def plan(self, values: dict[str, Any], *, fork: tuple[str, str] | None = None) -> Plan:
        """Return what a run of these nested values needs and sends; ``UserError`` where it cannot run.

        With ``fork`` (a run and a stage of it), what a fork needs that runs the stages from there on.
        """
        from engine.planning import plan

        config = parse_config(values)
        if fork is None:
            return plan(config, home=self.store.home)
        run_id, stage = fork
        lifecycle.check_fork(self.store, run_id, config, stage=stage)
        return plan(config, home=self.store.home, first_stage=stage)

    def sites(self, source: str | None, task: str | None, root: str | None) -> tuple[str, ...]:
        """Return the sites of a phantom task or a folder; none for a folder that is no data set (yet)."""
        from engine.planning.dataset import site_names

        folder = Path(root.strip()).expanduser() if root and root.strip() else None
        try:
            return site_names(source=source or "", task=task or "", root=folder)
        except (UserError, OSError):  # somebody is still typing; the plan says what is wrong with a folder
            return ()

    def launch(self, values: dict[str, Any]) -> str:
        """Plan and queue a run of these nested form values and return its id."""
        self._refuse_read_only()
        planned = self.plan(values)
        return lifecycle.submit(self.store, parse_config(values), planned_s=planned.stage_seconds)

    def fork(self, run_id: str, *, stage: str, values: dict[str, Any]) -> str:
        """Plan and queue a run of these nested values that takes over what ``run_id`` did before ``stage``."""
        self._refuse_read_only()
        planned = self.plan(values, fork=(run_id, stage))
        config = parse_config(values)
        return lifecycle.fork(self.store, run_id, stage=stage, config=config, planned_s=planned.stage_seconds)

    def extend(self, run_id: str, further_rounds: float | None) -> None:
        """Let a run that has ended train for so many more federated rounds, and repeat the stages after them."""
        self._refuse_read_only()
        record = self.store.get(run_id)
        if further_rounds is None or further_rounds != int(further_rounds):
            raise UserError("app.rounds", what=text.ROUNDS_WHAT, why=text.ROUNDS_WHY, fix=text.ROUNDS_FIX)
        rounds = record.config.federation.rounds + int(further_rounds)
        longer = lifecycle.longer_config(record, rounds=rounds)
        self.plan(longer.model_dump(mode="json"))
        lifecycle.extend(self.store, run_id, rounds=rounds)

    def cancel(self, run_id: str) -> None:
        """Ask a run to stop at its next step."""
        self._refuse_read_only()
        lifecycle.cancel(self.store, run_id)

    def resume(self, run_id: str) -> None:
        """Put a stopped run back in the queue."""
        self._refuse_read_only()
        lifecycle.resume(self.store, run_id)

    def start_demo(self) -> str:
        """Queue the demo run unless the home has one; return what to tell the person, who has the page in any case."""
        if any(run.name == text.DEMO_NAME for run in self.store.list()):
            return text.DEMO_THERE
        try:
            run_id = self.launch(load_config(text.DEMO_NAME).model_dump(mode="json"))
        except UserError as error:
            return text.DEMO_NOT_STARTED.format(error=error)
        return text.DEMO_STARTED.format(run_id=run_id)

    def keep_queue_moving(self, stop: threading.Event, *, every_s: float = 2.0) -> None:
        """Start waiting runs and mark those whose worker died, until ``stop`` is set; runs in a thread of its own."""
        while not stop.wait(every_s):
            _, box = attempt(lambda: lifecycle.advance_queue(self.store))
            if box:
                LOG.error("the queue of runs could not be moved on")

    def _refuse_read_only(self) -> None:
        if self.settings.read_only:
            raise UserError("app.read_only", what=text.READ_ONLY_WHAT, why=text.READ_ONLY_NOTE, fix=text.READ_ONLY_FIX)


@lru_cache(maxsize=4)
def _load_session(folder: Path, _written: float) -> BundleSession:
    from export.runtime import load_bundle

    return load_bundle(folder)
