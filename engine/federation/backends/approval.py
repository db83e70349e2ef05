"""Who takes part in a run at other machines: the sites that allow it, as each says before anything else is asked.

With ``federation.on_failure = "skip"`` a run goes on without the sites that refuse it, and after
``federation.deadline_s`` without those that have not decided, as long as a round's quorum is left (ours). Who is left
out then stays so in this run: a site that came in between two stages would have trained nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep, time

from engine.config import FederationConfig
from engine.errors import UserError, one_line
from engine.federation.checks import bad_reply
from engine.federation.descriptions import SiteDescription
from engine.federation.rounds import quorum_of
from engine.federation.sites import Server
from engine.federation.tasks import APPROVAL, DECISIONS, SiteReply
from engine.types import SiteActivity, SiteFailure, SiteState

APPROVAL_POLL_S = 5.0
"""How often sites that have not decided are asked (ours)."""
TAKES_PART_FILE = "takes_part.json"
"""Among what the server keeps of the sites: who takes part, and who was left out and why."""
_STATES: Mapping[str, SiteState] = {"refused": "refused", "waiting": "undecided", "approved": "answered"}


class Approvals:
    """Asks sites whether they take part, by ``ask(sites)``, which returns their replies by name.

    Parameters
    ----------
    config : FederationConfig
        What becomes of a run that not all of its sites allow.
    run_id : str
        As sites call the run.
    server : callable
        Gives where a stop, and what sites have said, is heard.
    kept : Path, optional
        The file that keeps who takes part; without one every attempt finds it out anew.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[str]], Mapping[str, SiteReply]],
        *,
        config: FederationConfig,
        run_id: str,
        server: Callable[[], Server],
        kept: Path | None,
    ) -> None:
        self._ask, self._config, self._run_id, self._server, self._kept = ask, config, run_id, server, kept

    def wait(self, sources: Sequence[SiteDescription], *, tests: Sequence[SiteDescription]) -> tuple[str, ...]:
        """Wait until it is clear who takes part; return the names of the sources that do, in their order.

        Nothing but counts has been asked for before. ``tests`` are needed whatever the configuration says. Raises
        ``UserError`` ``federation.refused``, which names who does not take part and cannot be gone on without.
        """
        known = _read(self._kept)
        left_out = dict(known or {})
        begun = monotonic()
        waiting = {site.name: site for site in (*sources, *tests) if site.name not in left_out}
        needed = {site.name for site in tests}
        while waiting:
            for name, reply in self._ask(list(waiting)).items():
                state, reason = reply.texts.get("state", ""), one_line(reply.texts.get("reason", "")[:500])
                if state not in _STATES:
                    raise bad_reply(name, round_number=0, problem=f"its decision is {state!r:.40}")
                self._tell(waiting[name], state)
                if state == "refused":
                    error = _refused(name, reason)
                    if known is None:
                        self._leave_out(name, error, left_out, sources=sources, needed=needed)
                    elif self._config.on_failure != "skip":
                        raise error
                if state != "waiting":
                    del waiting[name]
            if waiting and known is None and self._is_over(begun):
                for name in list(waiting):
                    self._leave_out(name, _undecided(name), left_out, sources=sources, needed=needed)
                    del waiting[name]
            if waiting:
                self._pause(waiting)
        if known is None:
            _write(self._kept, left_out)
        return tuple(site.name for site in sources if site.name not in left_out)

    def _is_over(self, begun: float) -> bool:
        deadline_s = self._config.deadline_s
        return self._config.on_failure == "skip" and deadline_s is not None and monotonic() - begun >= deadline_s

    def _leave_out(
        self,
        site: str,
        error: UserError,
        left_out: dict[str, str],
        *,
        sources: Sequence[SiteDescription],
        needed: set[str],
    ) -> None:
        """Note that the run goes on without a site, or raise ``error`` where it cannot."""
        left = len(sources) - len(left_out) - 1
        quorum = quorum_of(self._config, num_sites=len(sources))
        stops = quorum is None or site in needed or left < quorum
        outcome = "stopped" if stops else "left_out"
        self._server().watched.failure(SiteFailure(site, 0, 0, time(), error.code, error.what, outcome))
        if stops:
            raise error
        left_out[site] = error.what

    def _tell(self, about: SiteDescription, said: str) -> None:
        counts = (about.num_train, about.num_validation, about.num_test)
        now = SiteActivity(about.name, *counts, task=APPROVAL, state=_STATES[said], seen_at=time())
        self._server().watched.site(now)

    def _pause(self, waiting: Mapping[str, SiteDescription]) -> None:
        how = f"somebody there decides with: site approve FOLDER {self._run_id}"
        self._server().tell(f"waiting for the approval of {', '.join(waiting)}; {how}")
        until = monotonic() + APPROVAL_POLL_S
        while monotonic() < until:
            self._server().check_cancelled()
            sleep(0.2)


def _refused(site: str, reason: str) -> UserError:
    return UserError(
        "federation.refused",
        what=f"{site} does not take part in this run: {reason}",
        why="What leaves a site is the site's decision.",
        fix=f"Talk to {site}, change the run, leave the site out (data.sites) or go on without who refuses "
        "(federation.on_failure = 'skip'); then resume it.",
    )


def _undecided(site: str) -> UserError:
    return UserError(
        next(code for code, state in DECISIONS.items() if state == "undecided"),
        what=f"{site} had not decided about this run when its time was over (federation.deadline_s).",
        why="What leaves a site is the site's decision.",
        fix=f"Talk to {site}, give it more time, or leave the site out (data.sites); then resume the run.",
    )


def _read(path: Path | None) -> dict[str, str] | None:
    """Return who was left out and why; None where nobody has decided yet."""
    if path is None or not path.is_file():
        return None
    try:
        return {str(site): str(why) for site, why in json.loads(path.read_text("utf-8"))["left_out"].items()}
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise UserError(
            "stage.output_damaged",
            what=f"{path}, which says which sites take part in this run, cannot be read: {error}.",
            why="A site that was left out could come in between two stages, with models that it has not trained.",
            fix="Restore the run's folder from a backup; where no site was left out, delete the file.",
        ) from error


def _write(path: Path | None, left_out: Mapping[str, str]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"left_out": dict(left_out)}, indent=1), encoding="utf-8")
    part.replace(path)
