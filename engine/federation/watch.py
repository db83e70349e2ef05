"""What each site does, as the server hears of it: from messages sent and received, progress told, and failures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from engine.federation.descriptions import FederationDescription, SiteDescription
from engine.federation.task_titles import round_told
from engine.federation.tasks import DECISIONS
from engine.types import SiteActivity, SiteFailure, Traffic


@dataclass(frozen=True)
class Told:
    """Where the watch tells what it has heard."""

    site: Callable[[SiteActivity], None] = lambda _activity: None
    failure: Callable[[SiteFailure], None] = lambda _failure: None


class SiteWatch:
    """Keeps what every site of a federation does, and tells each change.

    Parameters
    ----------
    description : FederationDescription
        The sites.
    told : callable
        Gives where to tell it: each stage has its own.
    """

    def __init__(self, description: FederationDescription, *, told: Callable[[], Told]) -> None:
        self._told = told
        self._task = ""
        every = (*description.sources, *description.tests)
        self._sites: Mapping[str, SiteActivity] = {site.name: _idle(site) for site in every}
        self._now = dict(self._sites)

    def asks(self, task: str) -> None:
        """Note what the messages are about that follow."""
        self._task = task

    def traffic(self, record: Traffic) -> None:
        """A message down: the site has been asked. One up: it has answered."""
        if record.site not in self._now:
            return
        # A message is told more than once: its arrays, and the figures beside them.
        if record.direction == "down":
            asked = {"task": self._task, "state": "asked", "round": record.round, "step": 0, "total": 0}
            self._tell(replace(self._now[record.site], **asked))
        elif self._now[record.site].state != "answered":
            done = self._now[record.site]
            self._tell(replace(done, state="answered", step=done.total, seen_at=time.time()))

    def progress(self, site: str, round_number: int, step: int, total: int) -> None:
        """The site is at work."""
        if site in self._now:
            at_work = {"state": "working", "step": step, "total": total, "seen_at": time.time()}
            self._tell(replace(self._now[site], task=self._task, round=round_number, **at_work))

    def seen(self, site: str, at: float) -> None:
        """The site was connected ``at`` (seconds since 1970) while it is waited for: it need not tell its steps."""
        now = self._now.get(site)
        if now is not None and now.state in ("asked", "working") and at > (now.seen_at or 0.0):
            self._tell(replace(now, seen_at=at))

    def failed(self, failure: SiteFailure) -> None:
        """The site has no usable reply. Numbers of other questions than rounds say nothing to people."""
        self._told().failure(replace(failure, round=round_told(self._task, failure.round) or 0))
        if failure.site in self._now:
            self._tell(
                replace(self._now[failure.site], state=DECISIONS.get(failure.code, "failed"), round=failure.round)
            )

    def _tell(self, activity: SiteActivity) -> None:
        if activity != self._now[activity.site]:
            self._now[activity.site] = activity
            self._told().site(activity)


def _idle(site: SiteDescription) -> SiteActivity:
    images = {"num_train": site.num_train, "num_validation": site.num_validation, "num_test": site.num_test}
    return SiteActivity(site.name, **images)
