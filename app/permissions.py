"""Which visitor may do what to which run; ``app.studio`` asks before it acts, whatever the buttons showed."""

from __future__ import annotations

import time

from app import dataset_uploads, demo, server_paths, text
from app.access import VISITOR_KEY, Visitor
from app.settings import Access, Settings
from engine.config import RunConfig
from engine.errors import UserError
from engine.methods import catalogue
from engine.runs.records import RunRecord
from engine.runs.store import RunStore


class Permissions:
    """The rules of a page in ``mode`` over the runs of ``store``."""

    def __init__(self, store: RunStore, settings: Settings, mode: Access) -> None:
        self._store, self._settings, self._mode = store, settings, mode

    def check_role(self, by: Visitor) -> None:
        """Raise ``UserError`` ``app.read_only`` or ``app.viewer`` for somebody who may only look."""
        if by.role != "viewer":
            return
        if self._mode == "read-only":
            raise UserError("app.read_only", what=text.READ_ONLY_WHAT, why=text.READ_ONLY_NOTE, fix=text.READ_ONLY_FIX)
        raise UserError("app.viewer", what=text.VIEWER_WHAT, why=text.VIEWER_WHY, fix=text.VIEWER_FIX)

    def check_config(self, by: Visitor, config: RunConfig, *, taken_from: RunConfig | None = None) -> RunConfig:
        """Return the configuration that this visitor may plan and start, or raise ``UserError``."""
        self.check_role(by)
        if self._mode != "local":
            server_paths.check(config, roots=dataset_uploads.roots(self._settings), taken_from=taken_from)
        if by.role != "demo":
            return config
        demo.check(config)
        return demo.named(config)

    def check_turn(self, by: Visitor) -> None:
        """Raise ``UserError`` where a visitor of a demonstration has a run that has not ended, or too many wait."""
        if by.role != "demo":
            return
        if not by.key.startswith(VISITOR_KEY):
            raise UserError("app.no_cookie", what=text.COOKIE_WHAT, why=text.COOKIE_WHY, fix=text.COOKIE_FIX)
        active = self._store.list(status=["queued", "running"])
        for run in active:
            if self._is_own(by, run.run_id):
                what = text.ONE_RUN_WHAT.format(run_id=run.run_id)
                raise UserError("app.one_run", what=what, why=text.ONE_RUN_WHY, fix=text.ONE_RUN_FIX)
        if len(active) >= self._settings.demo_waiting:
            what = text.BUSY_WHAT.format(count=len(active))
            raise UserError("app.demo_busy", what=what, why=text.BUSY_WHY, fix=text.BUSY_FIX)

    def check_run(self, by: Visitor, run_id: str) -> None:
        """Raise ``UserError`` unless the visitor may stop, resume and go on with this run."""
        self.check_role(by)
        self._store.get(run_id)
        if not self.may_change(by, run_id):
            what = text.NOT_YOURS_WHAT.format(run_id=run_id)
            raise UserError("app.not_yours", what=what, why=text.NOT_YOURS_WHY, fix=text.NOT_YOURS_FIX)

    def may_change(self, by: Visitor, run_id: str) -> bool:
        """Return whether the visitor may change this run: what decides which buttons are shown."""
        return by.role == "operator" or (by.role == "demo" and self._is_own(by, run_id))

    def may_extend(self, by: Visitor, run: RunRecord) -> bool:
        """Return whether the visitor may give the run one more round: a demonstration's presets bound it."""
        if by.role != "demo":
            return True
        values = run.config.model_dump(mode="json")
        values["federation"]["rounds"] += 1
        return demo.allows(values)

    def may_join(self, by: Visitor, run: RunRecord) -> bool:
        """Return whether the visitor may add a site to the run: a finished one, of a method with generators."""
        method = catalogue.methods().get(run.method)
        return by.role == "operator" and run.status == "finished" and method is not None and bool(method.joined_by)

    def signature(self, by: Visitor) -> str | None:
        """Return what the run's log and its record say of who asked; None where nobody is told apart."""
        if self._mode == "local":
            return None
        return by.key if by.key.startswith(VISITOR_KEY) else by.name

    def forget_old_demos(self) -> None:
        """Delete the runs that visitors of a demonstration have started long ago, and the oldest of too many.

        One at a time for each, stopped as soon as it is queued, would be thousands in an hour.
        """
        if self._mode != "demo":
            return
        oldest = time.time() - 3600 * self._settings.demo_hours
        ended = [run for run in self._store.list() if not run.active and self._is_demo(run)]  # newest first
        for at, run in enumerate(ended):
            if run.created_at < oldest or at >= self._settings.demo_runs:
                self._store.delete(run.run_id)

    def _is_own(self, by: Visitor, run_id: str) -> bool:
        return by.key.startswith(VISITOR_KEY) and self._store.get(run_id).started_by == by.key

    def _is_demo(self, run: RunRecord) -> bool:
        return run.started_by is not None and run.started_by.startswith(VISITOR_KEY)
