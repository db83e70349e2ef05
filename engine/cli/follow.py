"""Following a run: a live display on a terminal, plain lines elsewhere; and the tables at its end.

Progress goes to standard error, so that standard output carries results alone.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from engine.cli.gate_table import print_gate
from engine.cli.join_tables import print_join
from engine.cli.output import duration, print_table, size
from engine.runs import lifecycle
from engine.runs.alerts import alerts_of
from engine.runs.records import RunView, StageRecord, TrafficTotal
from engine.runs.sites import site_views

if TYPE_CHECKING:
    from engine.runs.store import RunStore

POLL_S = 0.4
PLAIN_EVERY_S = 5.0
MOST_SITES = 50
_MARKS = {"finished": "done", "running": ">", "pending": "", "failed": "failed", "cancelled": "stopped"}


def follow(store: RunStore, run_id: str) -> None:
    """Show the run's progress until it ends. Ctrl-C asks it to stop, a second one leaves it alone."""
    # A shell starts background commands with SIGINT ignored, and Python leaves it so: an interrupt must still stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    console = Console(stderr=True)
    log = _LogTail(store, run_id)
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=False) as live:
            _watch(store, run_id, lambda view: _update_live(live, store, log, view))
    else:
        printer = _PlainPrinter()
        _watch(store, run_id, lambda view: (log.print_new(printer.say), printer.show(view)))
    for line in log.new_lines():
        console.print(line, style="dim", markup=False, highlight=False)
    record = store.get(run_id)
    if record.error:
        console.print(f"Error ({record.error['code']}): {record.error['what']}", style="red", markup=False)
        console.print(f"  Why: {record.error['why']}\n  Fix: {record.error['fix']}", markup=False)
    if (note := store.view(run_id).note) is not None:
        console.print(f"Note: {note}", style="yellow", markup=False)
    if record.resumable:
        console.print(f"What exists is kept. Go on with: python -m engine resume {run_id}", markup=False)


def print_results(store: RunStore, run_id: str) -> None:
    """Print the results table of the unseen site and what crossed each site's border, where there is any."""
    from engine.evaluation.spread import site_spread
    from engine.evaluation.tables import LEGEND, format_differences, format_spread, format_table, named

    config = store.get(run_id).config
    measured = named(store.evaluation(run_id), config)
    rows = [row for row in measured if row.split == "test"]
    if rows:
        print(f"\nOn the unseen site:\n\n{format_table(rows)}\n\n{LEGEND}\n")
    differences = [row for row in named(store.differences(run_id), config) if row.split == "test"]
    if differences:
        print(f"Differences on the same images:\n\n{format_differences(differences)}\n")
    for split in ("test", "validation"):
        spread = [row for row in site_spread(measured) if row.split == split]
        if spread:
            print(f"Over the sites, on their {split} images:\n\n{format_spread(spread)}\n")
    print_gate(store, run_id)
    _print_traffic(store.traffic(run_id))
    print_join(store, run_id)
    for artefact in store.artefacts(run_id):
        if artefact.kind in ("bundle", "report"):
            print(f"{artefact.kind.capitalize()}: {store.run_dir(run_id) / artefact.path}")


def print_sites(store: RunStore, run_id: str) -> None:
    """Print what each site does, the worst first."""
    from engine.federation.task_titles import round_told, task_title

    rows = []
    for view in site_views(store, store.work_id(run_id), active=store.get(run_id).active):
        now = view.now
        at = f", step {now.step} of {now.total}" if now.state == "working" and now.total else ""
        seen = "-" if now.seen_at is None else time.strftime("%H:%M:%S", time.localtime(now.seen_at))
        failed = f"{len(view.failures)}, last: {view.failures[-1].what[:80]}" if view.failures else ""
        score = "-" if view.score is None else f"{view.score:.3f}"
        doing = f"{task_title(now.task) or '-'}{f', round {now.round}' if round_told(now.task, now.round) else ''}{at}"
        if view.beside is not None and view.beside.state in ("asked", "working"):
            step = f", step {view.beside.step} of {view.beside.total}" if view.beside.total else ""
            doing += f"; beside: {task_title(view.beside.task)}{step}"
        images = now.num_train + now.num_validation + now.num_test
        rows.append((now.site, now.state, doing, images, score, size(view.bytes_up), size(view.bytes_down), seen,
                     failed))  # fmt: skip
    if not rows:
        print("No site has been asked yet.")
        return
    columns = ("Site", "State", "Does", "Images", "Dice", "Sent", "Received", "Heard", "Failures")
    print_table(columns, rows[:MOST_SITES], right=(3, 4, 5, 6))
    if len(rows) > MOST_SITES:
        print(f"The first {MOST_SITES} of {len(rows)} sites, those in need first; --json gives all.")
    for alert in alerts_of(store, run_id):
        print(f"Look into: {alert.what} {alert.fix}")


def _print_traffic(totals: Sequence[TrafficTotal]) -> None:
    """Print the bytes of every site, a column for each kind and direction."""
    if not totals:
        return
    ways = sorted({(total.kind, total.direction) for total in totals})
    sums: Counter[tuple[str, str, str]] = Counter()
    for total in totals:
        sums[total.site, total.kind, total.direction] += total.payload_bytes
    rows = []
    for site in sorted({total.site for total in totals}):
        cells = [sums[site, kind, direction] for kind, direction in ways]
        rows.append((site, *(size(cell) for cell in cells), size(sum(cells))))
    print_table(
        ("Site", *(f"{kind} {direction}" for kind, direction in ways), "In all"), rows, right=range(1, len(ways) + 2)
    )
    print(f"{size(sum(total.payload_bytes for total in totals))} crossed the sites' borders.")


def _watch(store: RunStore, run_id: str, show: Callable[[RunView], object]) -> None:
    asked = False
    while True:
        try:
            lifecycle.advance_queue(store)
            view = store.view(run_id)
            show(view)
            if not view.run.active:
                return
            time.sleep(POLL_S)
        except KeyboardInterrupt:
            if asked or not store.get(run_id).active:
                state = "is stopping" if asked else "has ended"
                print(f"\n{run_id} {state}. See it with: python -m engine show {run_id}", file=sys.stderr)
                raise
            asked = True
            print("\nStopping at the next step (Ctrl-C again stops waiting for it).", file=sys.stderr)
            lifecycle.cancel(store, run_id)


class _LogTail:
    """The run's warnings and errors, each given once."""

    def __init__(self, store: RunStore, run_id: str) -> None:
        self._store, self._run_id = store, run_id
        last = store.events(run_id, limit=1)
        self._after = last[-1].id if last else 0

    def new_lines(self) -> list[str]:
        lines = self._store.events(self._run_id, after_id=self._after)
        self._after = lines[-1].id if lines else self._after
        return [f"{line.level}: {line.text}" for line in lines if line.level != "info"]

    def print_new(self, say: Callable[[str], None]) -> None:
        for line in self.new_lines():
            say(line)


class _PlainPrinter:
    """Lines for a log file: at each change of stage, and every few seconds in between."""

    def __init__(self) -> None:
        self._last: tuple[str, str, str] | None = None
        self._last_at = float("-inf")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def show(self, view: RunView) -> None:
        stage = _current(view)
        name, status = (stage.name, stage.status) if stage else ("", "")
        state = (view.run.status, name, status)
        now = time.monotonic()
        if state == self._last and now - self._last_at < PLAIN_EVERY_S:
            return
        self._last, self._last_at = state, now
        left = f", {duration(view.eta_s)} left in all" if view.eta_s is not None and view.run.active else ""
        if stage is None:
            self.say(f"{view.run.run_id} {view.run.status}")
        else:
            done = f"{100 * stage.fraction:3.0f} %"
            self.say(f"{view.run.run_id} {view.run.status}: {name} {done} {view.note or stage.message}{left}".rstrip())


def _current(view: RunView) -> StageRecord | None:
    """Return the stage that the run waits for (later ones may go on beside it), or the last that ran."""
    begun = [stage for stage in view.stages if stage.status != "pending"]
    running = [stage for stage in begun if stage.status == "running"]
    return (running[:1] or begun or [None])[-1]


def _update_live(live: Live, store: RunStore, log: _LogTail, view: RunView) -> None:
    log.print_new(lambda text: live.console.print(text, style="yellow", markup=False))
    table = Table.grid(padding=(0, 1))
    for _ in range(6):
        table.add_column()
    for stage in view.stages:
        table.add_row(
            Text(_MARKS[stage.status], style="green" if stage.status == "finished" else ""),
            stage.name,
            ProgressBar(total=1.0, completed=stage.fraction, width=28),
            f"{100 * stage.fraction:3.0f} %",
            duration(stage.wall_s or None),
            Text(f"{duration(stage.eta_s)} left" if stage.status == "running" else ""),
        )
    running = _current(view)
    line = f"{view.run.name} ({view.run.run_id}): {view.run.status}"
    if view.run.active:
        line += f", {duration(view.eta_s)} left in all"
    message = view.note or (running.message if running is not None and view.run.active else "")
    live.update(Group(Text(line, style="bold"), table, Text(message), Text(_latest_metrics(store, view), style="dim")))


def _latest_metrics(store: RunStore, view: RunView) -> str:
    """Return the newest value of each curve of the running stage that is not a site's own."""
    if view.run.stage is None:
        return ""
    curves = [curve for curve in store.metrics(view.run.run_id, stage=view.run.stage) if curve.site is None]
    return "  ".join(f"{curve.name} {curve.values[-1]:.4g} ({curve.steps[-1]})" for curve in curves[:6])
