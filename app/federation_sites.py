"""Who of a federation across machines is there just now: on the form of a new run, before it asks anybody."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from app import markup, site_text
from app.access import visitor_of
from app.studio import Studio

if TYPE_CHECKING:
    from engine.deployment.server import Status


def add(studio: Studio, *, backend: Any, server: Any) -> None:
    """Place the part below the form, hidden until its fields ``backend`` and ``server`` name a federation.

    It looks when one of them changes, and when its button is pressed.
    """
    with gr.Column(visible=False, elem_id="federation") as column:
        table = gr.HTML(elem_id="federation-sites")
        again = gr.Button(site_text.FEDERATION_AGAIN, size="sm", elem_id="federation-again")

    def look(request: gr.Request, where: str | None, folder: str | None) -> list[Any]:
        if where != "superlink" or not (folder or "").strip():
            return [gr.Column(visible=False), ""]
        found, box = studio.attempt(lambda: studio.federation(str(folder), by=visitor_of(request)))
        return [gr.Column(visible=True), box or studio.told(shown(found))]

    for event in (backend.change, server.change, again.click):
        event(
            look,
            [backend, server],
            [column, table],
            api_visibility="private",
            show_progress="hidden",
            trigger_mode="always_last",
        )


def shown(view: Status, *, now: float | None = None) -> str:
    """Return the sites with their state as HTML: who is accepted and there, who is not, and what to do about it."""
    moment = time.time() if now is None else now
    words = site_text.CONNECTION if view.running else {}
    rows = [
        (
            site.name,
            site_text.ACCEPTANCE[site.state],
            words.get(site.connection, site_text.CONNECTION_UNKNOWN) if site.state == "accepted" else "-",
            _ago(site.last_seen, now=moment),
        )
        for site in view.sites
    ]
    away = [site.name for site in view.sites if site.state == "accepted" and site.connection != "online"]
    if not view.running:
        said = site_text.FEDERATION_DOWN
    elif away:
        said = site_text.FEDERATION_AWAY.format(sites=", ".join(away))
    else:
        said = site_text.FEDERATION_ALL if rows else site_text.FEDERATION_NONE
    table = markup.table(site_text.FEDERATION_COLUMNS, rows, label=site_text.FEDERATION_HEADING) if rows else ""
    notes = "".join(f"<p>{escape(warning)}</p>" for warning in view.warnings)
    return f"<h4>{site_text.FEDERATION_HEADING}</h4>{markup.quiet(said)}{table}{notes}"


def _ago(seen: float | None, *, now: float) -> str:
    if seen is None:
        return "-"
    seconds = max(0.0, now - seen)
    if seconds < 120:
        return site_text.SECONDS_AGO.format(seconds=seconds)
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seen))
