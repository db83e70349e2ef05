"""Work that sites do beside everything else that they are asked, and that the server fetches when it is ready."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, sleep

from engine.errors import UserError
from engine.federation.checks import NO_MORE_CHECKS
from engine.federation.exchange import Questions, no_check
from engine.federation.tasks import SiteReply

LOOK_EVERY_S = 2.0
"""How often the server looks for replies while it is busy with something else (ours)."""
WAIT_S = 0.5
"""How often it looks where it has nothing else to do (ours)."""
OF_THE_SERVER = "run."
"""How the codes begin of faults of the server itself, such as a full disk; others are the site's."""


@dataclass(frozen=True, eq=False)
class Work:
    """One question to several sites.

    ``on_reply`` is given each reply when it has come and been checked, ``on_failure`` what a site has in its place: it
    ends nothing, for nobody needs the reply yet. What ``on_reply`` raises is the site's failure, too, unless it is one
    of the server's own (``run.*``).
    """

    questions: Questions
    on_reply: Callable[[str, SiteReply], None]
    on_failure: Callable[[str, UserError], None]

    @property
    def is_done(self) -> bool:
        """Whether nothing is to come any more."""
        return not self.questions.waiting

    def fetch(self) -> None:
        """Take the replies that are there."""
        for site, answer in self.questions.answers(check_cancelled=no_check):
            if isinstance(answer, UserError):
                self.on_failure(site, answer)
                continue
            try:
                NO_MORE_CHECKS.check(answer, site=site, round_number=0, sent=None)
                self.on_reply(site, answer)
            except UserError as error:
                if error.code.startswith(OF_THE_SERVER):
                    raise
                self.on_failure(site, error)
            del answer  # the next one comes before this name is given away


class Beside:
    """All such work of a run. Whoever waits for something else calls :meth:`look` meanwhile."""

    def __init__(self) -> None:
        self._works: list[Work] = []
        self._looked_at = float("-inf")

    def add(self, work: Work) -> None:
        """Fetch what it brings from now on."""
        self._works.append(work)

    def look(self) -> None:
        """Take what is there, at most every ``LOOK_EVERY_S`` seconds."""
        if self._works and monotonic() - self._looked_at >= LOOK_EVERY_S:
            self._fetch()

    def finish(self, *, check_cancelled: Callable[[], None]) -> None:
        """Wait until all of it is done."""
        while self._works:
            check_cancelled()
            self._fetch()
            if self._works:
                sleep(WAIT_S)

    def _fetch(self) -> None:
        for work in self._works:
            work.fetch()
        self._works = [work for work in self._works if not work.is_done]
        self._looked_at = monotonic()
