"""Between the server's requests and the site's program: what nobody has allowed is not answered, all of it is recorded.

Torch-free.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from engine.errors import UserError
from engine.federation.payload import payload_bytes
from engine.federation.release import WITHHELD, reason_to_withhold
from engine.federation.tasks import (
    APPROVAL,
    AT_WORK,
    DESCRIBE,
    EVALUATE,
    MEASURE_STATISTICS,
    SHARE_MASKS,
    SHARE_NORMALISATION,
    SHARE_OWN,
    TELL_APPEARANCE,
    TRAIN_FUSED,
    TRAIN_GENERATOR,
    TRAIN_STUDENT,
    TRAIN_UNLABELLED,
    Listener,
    SiteReply,
    SiteRequest,
)
from engine.methods import catalogue
from engine.site.audit import AuditLog, digest
from engine.site.policy import Decisions, Policy, State, identity, read_policy

AUDIT_FILE = "audit.jsonl"
LEAVING = {
    TRAIN_STUDENT: "student",
    TRAIN_UNLABELLED: "student",
    TRAIN_FUSED: "public_predictions",
    MEASURE_STATISTICS: "statistics",
    SHARE_NORMALISATION: "normalisation",
    SHARE_OWN: "own",
    TRAIN_GENERATOR: "generator",
    SHARE_MASKS: "masks",
    EVALUATE: "figures",
    TELL_APPEARANCE: "appearance",
}
"""Kind of what a task's reply carries beside numbers."""
LEARNT = (
    TRAIN_STUDENT, TRAIN_UNLABELLED, TRAIN_FUSED, MEASURE_STATISTICS, SHARE_NORMALISATION, SHARE_OWN, TRAIN_GENERATOR,
    SHARE_MASKS, TELL_APPEARANCE,
)  # fmt: skip
"""Tasks whose replies come from the training images."""
OPEN = (DESCRIBE, APPROVAL)
"""Asked before anybody has decided: counts and digests go up, and what was decided."""
STATE, REASON = "state", "reason"
RULES = "the site's rules"
"""Who has decided where no person has."""
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
MAX_CONFIG_LETTERS = 200_000
_SKIPPED = (("release", "on_withheld"), ("federation", "on_failure"))


class Answering(Protocol):
    """A site's program."""

    def answer(self, request: SiteRequest, *, run: Mapping[str, str], listener: Listener) -> SiteReply:
        """Answer a request of a run."""

    def idle(self) -> None:
        """Hear that nothing is asked just now."""


@dataclass(frozen=True)
class Consent:
    """Answers through ``program`` what the site ``site`` allows; ``folder`` has its rules, decisions and record."""

    program: Answering
    site: str
    folder: Path
    say: Callable[[str], None] = print
    _said: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By run, which decision was told and recorded last, and the digest of its settings."""
    _told: dict[tuple[str, str, int], int] = field(default_factory=dict)
    """By run, task and round of work that goes on, how often it was told how far it is."""

    def answer(self, request: SiteRequest, *, run: Mapping[str, str], listener: Listener) -> SiteReply:
        """Answer, or raise ``UserError`` ``federation.refused`` or ``federation.not_approved``.

        What was asked, what left and what was not answered, for whatever reason, is recorded; of the questions whether
        a run may take part, which come every few seconds, those that change something; of long work that is asked about
        again and again, its beginning, and with its end how often it was told how far it is.
        """
        run_id, audit = self._run_id(run), AuditLog(self.folder / AUDIT_FILE)
        about = {"run": run_id, "task": request.task, "round": request.round}
        if request.task == APPROVAL:
            return self._decision(run, audit=audit, about=about)
        key = (run_id, request.task, request.round)
        if key not in self._told:
            audit.append("asked", **about, bytes=payload_bytes(request.arrays))
        try:
            by = self._allow(request, run)
            if self._keeps_generator(request, run):
                reply = _KEPT_BACK  # nothing is trained for it
            else:
                reply = self.program.answer(self._within_limits(request), run=run, listener=listener)
            if AT_WORK in reply.texts and not reply.arrays:
                self._told[key] = self._told.get(key, 0) + 1
                return reply
            by = self._allow(request, run)  # somebody may have refused it while this was at work
            reply = _KEPT_BACK if self._keeps_generator(request, run) else reply
            words = json.dumps([reply.metrics, reply.texts, reply.num_examples], sort_keys=True).encode()
            self._check_reply(request, reply, words_bytes=len(words), run_id=run_id, audit=audit)
        except Exception as error:
            self._told.pop(key, None)
            code = error.code if isinstance(error, UserError) else type(error).__name__
            audit.append("not answered", **about, code=code, why=str(getattr(error, "what", error))[:300])
            raise
        kind = LEAVING.get(request.task, "metrics") if reply.arrays else "metrics"
        left = {"kind": kind, "bytes": payload_bytes(reply.arrays), "digest": digest(reply.arrays)}
        told = {"words_bytes": len(words), "words_digest": hashlib.sha256(words).hexdigest()}
        if times := self._told.pop(key, 0):
            told |= {"progress_told": times}
        audit.append("left", **about, **left, **told, approved_by=by)
        return reply

    def told_progress(self, task: str, round_number: int, steps: Sequence[tuple[int, int]], *, run_id: str) -> None:
        """Record in one line all that was told of how far a request was: that is more often than anybody reads."""
        words = json.dumps(steps).encode()
        AuditLog(self.folder / AUDIT_FILE).append(
            "left",
            run=run_id if RUN_ID.fullmatch(run_id) else "",
            task=task,
            round=round_number,
            kind="metrics",
            bytes=0,
            digest=digest({}),
            words_bytes=len(words),
            words_digest=hashlib.sha256(words).hexdigest(),
            progress_told=len(steps),
        )

    def idle(self) -> None:
        """Let the program know that nothing is asked just now."""
        self.program.idle()

    def _run_id(self, run: Mapping[str, str]) -> str:
        """Return the run's id; it becomes the name of a file here, and what a server sends is not trusted."""
        run_id = run.get("id", "")
        if RUN_ID.fullmatch(run_id) is None or len(run.get("config", "")) > MAX_CONFIG_LETTERS:
            raise UserError(
                "federation.bad_request",
                what=f"Site {self.site} was asked in the name of a run that cannot be: {run_id!r:.60}.",
                why="A run is known by letters, digits, - and _, and its settings are some kilobytes.",
                fix="Run one version of the program at the server and at the sites.",
            )
        return run_id

    def _allow(self, request: SiteRequest, run: Mapping[str, str]) -> str:
        """Return who has allowed the request; raise where nobody has."""
        policy, run_id, config = read_policy(self.folder), run.get("id", ""), run.get("config", "")
        kind, keeps_generator = LEAVING.get(request.task), self._keeps_generator(request, run)
        decisions = Decisions(self.folder)
        if request.task not in OPEN:  # whatever was asked first: what is not listed cannot be refused
            decisions.ask(run_id, config, kinds=kinds_of(config))
        if kind is not None and policy.kinds is not None and kind not in policy.kinds and not keeps_generator:
            raise self._refused(f"its rules do not let '{kind}' leave")
        if request.task in OPEN:
            return ""
        if kind in decisions.without(run_id, config) and not keeps_generator:
            who = decisions.state(run_id, config)[1]
            raise self._refused(f"{who} there does not let '{kind}' leave in this run")
        state, by, reason = standing(self.folder, run_id, config)
        if state == "refused":
            raise self._refused(reason or "somebody there has refused this run")
        if state == "waiting":
            raise UserError(
                "federation.not_approved",
                what=f"Nobody at {self.site} has approved the run {run_id} yet.",
                why="What a run asks for is shown to the site before it takes part.",
                fix=f"Ask {self.site} to run: python -m engine site approve FOLDER {run_id}",
            )
        return by

    def _keeps_generator(self, request: SiteRequest, run: Mapping[str, str]) -> bool:
        """Return whether a generator is asked for that stays, in a run that goes on without it: that is told."""
        without = {LEAVING[TRAIN_GENERATOR]}
        if request.task != TRAIN_GENERATOR or not without <= _stays(
            self.folder, run.get("id", ""), run.get("config", "")
        ):
            return False
        return not indispensable(run.get("config", ""), without=without)

    def _decision(self, run: Mapping[str, str], *, audit: AuditLog, about: Mapping[str, Any]) -> SiteReply:
        """Return what was decided of a run, and record it where it was not told before."""
        reply = self._decided(run)
        state, asked = reply.texts[STATE], identity(run.get("config", ""))
        if self._said.get(about["run"]) != (state, asked):
            audit.append("asked", **about, bytes=0, decision=state)
            self._said[about["run"]] = state, asked
            if state == "waiting":
                self.say(
                    f"The run {about['run']} asks to take part. Look at it: site runs {self.folder}. Allow it: "
                    f"site approve {self.folder} {about['run']}. Else: site refuse {self.folder} {about['run']}"
                )
        return reply

    def _decided(self, run: Mapping[str, str]) -> SiteReply:
        run_id, config = run.get("id", ""), run.get("config", "")
        Decisions(self.folder).ask(run_id, config, kinds=kinds_of(config))
        state, _, reason = standing(self.folder, run_id, config)
        return SiteReply({}, {}, 1, {STATE: state, REASON: reason})

    def _within_limits(self, request: SiteRequest) -> SiteRequest:
        """Return the request with the site's own limits of a generator in place of whatever the server has set."""
        limits = read_policy(self.folder).limits
        if request.task != TRAIN_GENERATOR or limits is None:
            return request
        return replace(request, settings={**request.settings, **limits.settings()})

    def _check_reply(
        self, request: SiteRequest, reply: SiteReply, *, words_bytes: int, run_id: str, audit: AuditLog
    ) -> None:
        policy = read_policy(self.folder)
        if request.task == TRAIN_GENERATOR and policy.limits is not None and reply.arrays:
            reason = reason_to_withhold(reply.metrics, policy.limits)
            if reason is not None:  # the program has withheld it already; the site does not depend on that
                raise self._refused(f"its generator stays, for {reason}")
        if request.task in LEARNT and reply.num_examples < policy.smallest_images:
            raise self._refused(f"it has {reply.num_examples} images, and its rules ask for {policy.smallest_images}")
        if policy.most_megabytes is None:
            return
        left = [entry for entry in audit.entries() if entry["event"] == "left" and entry["run"] == run_id]
        sent = sum(entry["bytes"] + entry.get("words_bytes", 0) for entry in left)  # older records have none
        megabytes = (sent + payload_bytes(reply.arrays) + words_bytes) / 1e6
        if megabytes > policy.most_megabytes:
            raise self._refused(f"{megabytes:.1f} MB would leave, and its rules allow {policy.most_megabytes:g} MB")

    def _refused(self, why: str) -> UserError:
        return UserError(
            "federation.refused",
            what=f"Site {self.site} does not take part in this: {why}.",
            why="What leaves a site is the site's decision.",
            fix=f"Talk to {self.site}, change the run, or leave the site out (data.sites).",
        )


_KEPT_BACK = SiteReply({}, {WITHHELD: 1.0}, 1)


def standing(folder: Path, run_id: str, config: str) -> tuple[State, str, str]:
    """Return (state, who decided, reason) of a run with this configuration at the site in ``folder``.

    What a person has decided comes before the rules: automatic ones approve what nobody has decided about.
    """
    policy, decisions = read_policy(folder), Decisions(folder)
    state, by, reason = decisions.state(run_id, config)
    if state == "refused":
        return state, by, reason
    if missing := indispensable(config, without=_stays(folder, run_id, config)):
        by_rule = policy.kinds is not None and missing[0] not in policy.kinds
        who, verb = (RULES, "its rules do") if by_rule else (by, "somebody there does")
        return "refused", who, f"{verb} not let '{missing[0]}' leave"
    if policy.approval == "automatic" and decisions.rules_decide(run_id, config):
        return "approved", RULES, RULES
    return state, by, reason


def _stays(folder: Path, run_id: str, config: str) -> set[str]:
    """Return the kinds that do not leave in a run: by the site's rules, or by what somebody has approved."""
    policy = read_policy(folder)
    ruled = set() if policy.kinds is None else set(LEAVING.values()) - set(policy.kinds)
    return ruled | set(Decisions(folder).without(run_id, config))


def kinds_of(config: str) -> tuple[str, ...]:
    """Return the kinds that may leave a site in a run with this configuration; all where its method is unknown."""
    try:
        values = json.loads(config)
        method = catalogue.methods()[values["method"]]
        sent = {kind.name for stage in method.stages for kind in stage.sends if kind.is_sent(values)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return tuple(sorted(set(LEAVING.values())))
    return tuple(sorted(sent & set(LEAVING.values())))


def indispensable(config: str, *, without: Collection[str]) -> list[str]:
    """Return those of the kinds ``without`` that a run with this configuration cannot do without, sorted.

    It goes on without a site's generator where ``release.on_withheld`` is ``skip``, and then without the masks that
    only this generator would draw from; without masks or the figures of its images where ``federation.on_failure`` is.
    """
    spared = {kind for kind in kinds_of(config) if catalogue.kinds()[kind].is_optional}
    try:
        values = json.loads(config)
        skips = {section: values[section][key] == "skip" for section, key in _SKIPPED}
    except (ValueError, KeyError, TypeError):
        skips = {}
    if skips.get("release"):
        spared |= {"generator"} | ({"masks"} if "generator" in without else set())
    if skips.get("federation"):
        spared |= {"masks", "figures"}
    return sorted(set(kinds_of(config)) & set(without) - spared)


def rules(policy: Policy) -> str:
    """Return the rules as a sentence for the site's operator."""
    kinds = "everything that a run asks for" if policy.kinds is None else ", ".join(policy.kinds) or "nothing"
    most = "" if policy.most_megabytes is None else f", at most {policy.most_megabytes:g} MB in a run"
    if policy.limits is not None:
        copies = "" if policy.most_copies is None else f" and at most {policy.most_copies} copies"
        most += f", generators with a membership AUC of at most {policy.most_membership_auc:g}{copies}"
    who = "each run waits for approval" if policy.approval == "each_run" else "runs need no approval"
    return f"{who}; may leave: {kinds}{most}; nothing learnt from fewer than {policy.smallest_images} images."
