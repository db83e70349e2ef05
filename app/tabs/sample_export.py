"""The list of a run's samples at one epoch as a CSV file, made when it is asked for and kept for a while."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from cachetools import LRUCache

from app import markup, region_text, sample_csv, sample_text
from app.asked_samples import Asked, chosen, read
from app.studio import Studio

KEPT = 32
"""Lists on the disk at a time, of all visitors (ours)."""


class Lists:
    """Files in ``folder`` under paths that nobody can guess; the one that was made or asked for longest ago goes."""

    def __init__(self, folder: Path, *, kept: int = KEPT) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._files: LRUCache[Path, None] = LRUCache(kept)

    def write(self, name: str, lines: Iterable[str]) -> Path:
        """Write ``lines`` as they come to a new file of that name and return its path."""
        folder = self._folder / secrets.token_urlsafe(16)
        folder.mkdir(mode=0o700)
        path = folder / name
        with path.open("w", encoding="utf-8", newline="") as file:
            file.writelines(lines)
        with self._lock:
            if self._files.currsize >= self._files.maxsize:
                gone, _ = self._files.popitem()
                shutil.rmtree(gone.parent, ignore_errors=True)  # it may have gone with what is too old
            self._files[path] = None
        return path


@dataclass(frozen=True)
class Parts:
    """The button, the file, and what is said of it."""

    button: gr.Button
    download: gr.DownloadButton
    message: gr.HTML

    def wire(self, studio: Studio, asked: list[Any]) -> None:
        """Make the list of what the controls ``asked`` show; one of other values is offered no more."""
        lists = Lists(studio.scratch.path)

        def make(*controls: Any) -> dict[Any, Any]:
            wanted = Asked(*controls)
            found, box = studio.attempt(lambda: written(studio, lists, wanted))
            if found is None:
                return {self.download: gr.DownloadButton(visible=False), self.message: box}
            path, said = found
            return {self.download: gr.DownloadButton(value=str(path), visible=True), self.message: markup.quiet(said)}

        outputs: list[Any] = [self.download, self.message]
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        self.button.click(
            make, asked, outputs, api_visibility="private", show_progress_on=self.message, concurrency_limit=1
        )
        hide = "() => [{__type__: 'update', visible: false}, '']"
        run, epoch, site, *_, weight, rate, region = asked
        changed = [run.change, epoch.input, site.input, weight.input, rate.input, region.change]
        gr.on(changed, None, None, outputs, js=hide, queue=False, **quiet)


def place() -> Parts:
    """Place the button."""
    gr.HTML(markup.quiet(sample_text.LIST_NOTE))
    with gr.Row(elem_classes="actions"):
        button = gr.Button(sample_text.LIST_BUTTON, size="sm", elem_id="samples-list")
        download = gr.DownloadButton(
            sample_text.LIST_DOWNLOAD, size="sm", variant="primary", visible=False, elem_id="samples-list-csv"
        )
    return Parts(button, download, gr.HTML(elem_id="samples-list-message"))


def written(studio: Studio, lists: Lists, asked: Asked) -> tuple[Path, str]:
    """Write the list of what is asked for; return its path, and what it is in words."""
    ranked, run_id = read(studio, asked), studio.store.get(asked.run_id or "").run_id
    found, total = chosen(ranked, asked), len(ranked.pool)
    part = "" if found is None else f"_{found.region.kind}"
    values = f"lambda{ranked.values.weight:g}_rate{ranked.values.rate:g}"
    name = f"samples_{run_id}_epoch{asked.epoch + 1}_{values}{part}.csv"
    if found is None:
        path = lists.write(name, sample_csv.lines(ranked, epoch=asked.epoch))
        return path, sample_text.LIST_READY.format(name=name, rows=total)
    path = lists.write(name, sample_csv.lines(ranked, epoch=asked.epoch, within=found.mask))
    place = region_text.PLACES[found.region.kind]
    return path, region_text.LISTED.format(name=name, rows=found.count, total=total, place=place)
