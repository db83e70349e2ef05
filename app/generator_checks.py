"""The table of what each site measured of its generator. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app import markup, text_checks
from app.viewmodels import number
from engine.federation import release as names

Checks = Mapping[str, Mapping[str, Any]]


def table(checks: Checks) -> str:
    """Return the figures of each site, and why one has withheld its generator; nothing where none was asked."""
    if not checks:
        return ""
    withheld = [
        text_checks.WITHHELD.format(site=site, reason=check["reason"])
        for site, check in checks.items()
        if check["state"] == "withheld"
    ]
    inner = markup.table(text_checks.COLUMNS, rows(checks), label=text_checks.HEADING)
    said = "".join(markup.notice(sentence) for sentence in withheld)
    return f"<h3>{text_checks.HEADING}</h3>{said}{markup.quiet(text_checks.NOTE)}{inner}"


def rows(checks: Checks) -> list[list[str]]:
    """Return one line a site, in the order of ``text_checks.COLUMNS``."""
    return [_row(site, check) for site, check in sorted(checks.items())]


def _row(site: str, check: Mapping[str, Any]) -> list[str]:
    figures = check["figures"]

    def shown(name: str, digits: int = 2) -> str:
        return number(figures.get(name), digits=digits)

    auc = shown(names.AUC)
    if names.AUC_LOW in figures:
        auc += f" ({shown(names.AUC_LOW)} to {shown(names.AUC_HIGH)})"
    faithful = shown(names.FAITHFULNESS)
    if names.FAITHFULNESS in figures:
        faithful += f" ({shown(names.FAITHFULNESS_REAL)})"
    return [
        site,
        text_checks.STATE[check["state"]],
        auc,
        shown(names.COPIES, 0),
        shown(names.RATIO),
        faithful,
        shown(names.FRECHET),
        shown(names.KERNEL, 3),
        shown(names.FLD, 1),
        f"{shown(names.MEMBERS, 0)} / {shown(names.HELD_OUT, 0)}",
    ]
