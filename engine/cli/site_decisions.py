"""Commands at a site: which runs have asked, letting them take part or not, and the record of what left."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.output import JsonFlag, print_json, print_table, size
from engine.errors import UserError
from engine.methods import catalogue

if TYPE_CHECKING:
    from engine.planning.at_site import SiteShare

FolderArgument = Annotated[Path, typer.Argument(help="The site's folder")]
RunIdArgument = Annotated[str, typer.Argument(help="The run's id, as `site runs` shows it, or 'last' for the newest")]


def runs(folder: FolderArgument, as_json: JsonFlag = False) -> None:
    """Show the site's rules, and every run that has asked to take part."""
    from engine.deployment import site as sites
    from engine.site.consent import rules, standing
    from engine.site.policy import Decisions, read_policy

    site = sites.load(folder)
    policy, asked = read_policy(folder), Decisions(folder).all()
    stands = [standing(folder, run["run"], run["settings"]) for run in asked]
    asked = [{**run, "state": now[0], "by": now[1], "reason": now[2]} for run, now in zip(asked, stands, strict=True)]
    shares = [_share(folder, run) for run in asked]
    if as_json:
        expected = [None if share is None else share.as_json() for share in shares]
        told = [{**run, "expected": share} for run, share in zip(asked, expected, strict=True)]
        print_json({"site": site.name, "rules": policy.model_dump(mode="json"), "runs": told})
        return
    print(f"Rules of {site.name} (policy.toml): {rules(policy)}")
    rows = [
        (
            run["run"],
            run["state"] + _but(run.get("without", [])),
            run["asked_at"],
            run["by"] or "-",
            _asks_for(run["settings"]),
            _would_leave([kind for kind in run["kinds"] if kind not in run.get("without", [])], share),
            "-" if share is None else f"about {share.train_minutes:.0f} min" if share.train_minutes >= 1 else "< 1 min",
        )
        for run, share in zip(asked, shares, strict=True)
    ]
    if rows:
        print_table(("Run", "State", "Asked at", "By", "What it is", "What would leave", "Training here"), rows)
    else:
        print("No run has asked to take part.")


def approve(
    folder: FolderArgument,
    run_id: RunIdArgument,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="A kind that does not leave in it, as `site runs` shows them")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Let a run take part with the settings that it has asked with, in all that it asks for or without some of it."""
    from engine.deployment import site as sites
    from engine.site.policy import Decisions

    sites.load(folder)  # before anything is said of its runs
    stays, run_id = tuple(without or ()), Decisions(folder).find(run_id)
    _check_partial(run_id, *Decisions(folder).settings_of(run_id), without=stays)
    _decide(folder, run_id, "approved", as_json=as_json, without=stays)


def refuse(
    folder: FolderArgument,
    run_id: RunIdArgument,
    reason: Annotated[str, typer.Option("--reason", help="What the coordinator is told")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Let a run not take part, or no longer."""
    _decide(folder, run_id, "refused", reason=reason, as_json=as_json)


def begin_anew(folder: FolderArgument, run_id: RunIdArgument, as_json: JsonFlag = False) -> None:
    """Let this site begin its own state of a run anew, where it has lost it: the run goes another way from there on."""
    from engine.deployment import site as sites
    from engine.site.audit import AuditLog
    from engine.site.consent import AUDIT_FILE, RUN_ID
    from engine.site.kept_state import accept_new_beginning
    from engine.site.policy import Decisions

    site, by = sites.load(folder), getpass.getuser()
    if RUN_ID.fullmatch(run_id) is None:
        raise UserError(
            "site.no_such_run",
            what=f"'{run_id}' cannot be a run's id.",
            why="A run is known by letters, digits, - and _.",
            fix="Take the id from the coordinator's message, or from `site runs`.",
        )
    run_id = Decisions(folder).find(run_id)
    accept_new_beginning(folder / "runs" / run_id, by=by)
    AuditLog(folder / AUDIT_FILE).append("begins anew", run=run_id, by=by)
    if as_json:
        print_json({"site": site.name, "run": run_id, "state": "begins anew"})
    else:
        print(f"{site.name}: may begin its own state of the run {run_id} anew. The coordinator resumes the run.")


def log(folder: FolderArgument, as_json: JsonFlag = False) -> None:
    """Check and show the site's record: every request, and everything that left."""
    from engine.deployment import site as sites
    from engine.site.audit import NEW_RECORD, AuditLog
    from engine.site.consent import AUDIT_FILE

    site = sites.load(folder)
    entries = AuditLog(folder / AUDIT_FILE).entries()
    follows = bool(entries) and entries[0]["event"] == NEW_RECORD
    if as_json:
        print_json({"entries": entries, "whole": not follows if entries else None})  # of nothing nobody can tell
        return
    if not entries:
        print(f"Nothing was asked of {site.name} yet: there is no record.")
        return
    rows = [
        (entry["at"], entry["event"], entry.get("run", ""), entry.get("task", ""), _what(entry)) for entry in entries
    ]
    print_table(("At (UTC)", "What", "Run", "Task", ""), rows)
    left = [entry for entry in entries if entry["event"] == "left"]
    arrays, words = (sum(entry.get(key, 0) for entry in left) for key in ("bytes", "words_bytes"))
    print(
        f"The record is whole{' since the one before it was gone' if follows else ''}: {len(entries)} lines; "
        f"{size(arrays)} of arrays and {size(words)} of figures and words have left this site."
    )


def checks(folder: FolderArgument, as_json: JsonFlag = False) -> None:
    """Show what was measured of this site's generators, and where copies lie beside their originals."""
    from engine.deployment import site as sites
    from engine.site.audit import AuditLog
    from engine.site.checks import read_reports
    from engine.site.consent import AUDIT_FILE

    site, record = sites.load(folder), AuditLog(folder / AUDIT_FILE)
    record.check_there()
    found = read_reports(folder)
    if as_json:
        print_json({"checks": found})
        return
    rows = [
        (
            check["run"],
            check["state"],
            _figure(check, "membership_auc"),
            _figure(check, "copies"),
            check["pairs"] or "-",
        )
        for check in found
    ]
    if rows:
        print_table(("Run", "Generator", "Membership AUC", "Copies", "Pairs (they stay here)"), rows)
    elif not record.entries():
        print(f"Nothing was asked of {site.name} yet.")
    else:
        print(f"No generator of {site.name} was measured.")


def _asks_for(settings: str) -> str:
    """Return in a few words what a run does here, of settings that a server has sent: they may be anything."""
    try:
        values = json.loads(settings)
        method, rounds = values["method"], values.get("federation", {}).get("rounds")
        generator = values.get("generator", {}).get("steps")
        known = catalogue.methods()[method]
    except (ValueError, TypeError, KeyError, AttributeError):
        return "settings that this version does not know"
    said = [known.title, f"{rounds} rounds" if isinstance(rounds, int) else ""]
    trains = any(stage.name == "generator_training" for stage in known.stages)
    said.append(f"a generator of {generator} steps" if trains and isinstance(generator, int) else "")
    return ", ".join(word for word in said if word)


def _share(folder: Path, run: dict[str, Any]) -> SiteShare | None:
    """Return what a run would take here; None where the site has told nothing of its data for it yet."""
    from engine.planning.at_site import share_of
    from engine.site import told
    from engine.site.consent import RUN_ID

    if RUN_ID.fullmatch(run["run"]) is None:
        return None
    kept = told.read(folder / "runs" / run["run"])
    return None if kept is None else share_of(run["settings"], dataset=kept[0], description=kept[1], home=folder)


def _would_leave(kinds: list[str], share: SiteShare | None) -> str:
    """Return the kinds, with the bytes of those that take more than a few KB, and epsilon of those that are noised."""
    from engine.accounting import epsilon_words

    known, spent = ({}, {}) if share is None else (share.up_bytes, share.epsilon)
    said = [f"{kind} {size(known[kind])}" if kind in known else kind for kind in kinds]
    noised = {kind: f" (epsilon {epsilon_words(value)} at most)" for kind, value in spent.items()}
    return ", ".join(words + noised.get(kind, "") for words, kind in zip(said, kinds, strict=True)) or "nothing"


def _figure(check: dict[str, Any], name: str) -> str:
    value = check["figures"].get(name)
    return "-" if value is None else f"{value:.2f}".removesuffix(".00")


def _what(entry: dict[str, Any]) -> str:
    if entry["event"] == "left":
        words = entry.get("words_bytes")  # lines of before have none
        told = "" if words is None else f"figures and words, {size(words)}, sha256 {entry['words_digest'][:12]}"
        if told and not entry["bytes"]:
            return told
        arrays = f"{entry['kind']}, {size(entry['bytes'])}, sha256 {entry['digest'][:12]}"
        return f"{arrays}; {told}" if told else arrays
    return str(entry.get("why") or entry.get("decision") or entry.get("by") or "")


def _check_partial(run_id: str, settings: str, kinds: list[str], *, without: tuple[str, ...]) -> None:
    """Raise ``UserError`` where a run cannot be approved without these kinds."""
    from engine.site.consent import indispensable

    unknown = [kind for kind in without if kind not in kinds]
    if unknown:
        raise UserError(
            "site.no_such_kind",
            what=f"The run {run_id} would send no '{unknown[0]}' from here; it asks for {', '.join(kinds)}.",
            why="What is not asked for cannot be kept back.",
            fix="Name one of these kinds.",
        )
    if missing := indispensable(settings, without=without):
        raise UserError(
            "site.kind_needed",
            what=f"The run {run_id} cannot do without the '{missing[0]}' of a site.",
            why="With these settings it would end as soon as that stays here.",
            fix="Refuse the run, or ask the coordinator for one with release.on_withheld = 'skip' (generators) or "
            "federation.on_failure = 'skip' (masks, figures).",
        )


def _decide(
    folder: Path, run_id: str, state: Any, *, as_json: bool, reason: str = "", without: tuple[str, ...] = ()
) -> None:
    from engine.deployment import site as sites
    from engine.site.audit import AuditLog
    from engine.site.consent import AUDIT_FILE, standing
    from engine.site.policy import Decisions

    site, run_id = sites.load(folder), Decisions(folder).find(run_id)
    decided = Decisions(folder).decide(run_id, state, reason=reason, without=without)
    kept_back = {"without": decided["without"]} if without else {}
    about = {"run": run_id, "by": decided["by"], "config": decided["config"], "why": reason}
    AuditLog(folder / AUDIT_FILE).append(state, **about, **kept_back)
    if as_json:
        print_json({"site": site.name, "run": run_id, "state": state, "by": decided["by"], **kept_back})
        return
    now, _, why = standing(folder, run_id, decided["settings"])
    still = f", and takes no part all the same: {why}" if (state, now) == ("approved", "refused") else ""
    print(f"{site.name}: the run {run_id} is {state}{_but(decided['without'])}{still}.")


def _but(without: list[str]) -> str:
    return f" without {', '.join(without)}" if without else ""
