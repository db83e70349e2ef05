"""What the page costs those who wait for it: ``python -m bench.app [--quick] [--tinysam WEIGHTS]``.

Starts the page as `make demo` does, and measures in a real Chromium when something is painted and when the tabs can be
used, from the start of the process; its memory when nobody has asked for a minute; the time of an answer to an image
over loopback; visitors who segment at once while a run trains; and the time until the Samples tab shows
10,000 samples. Prints a table, or JSON with ``--json``; returns 1 where a limit is missed. With ``--quick`` everything
is small and no limit is judged. Times are those of this machine as busy as it is: the table says how busy.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import app_world, bombs, click_times
from bench.attack_client import ROOT, START_S, Server, Visitor, serving
from engine.errors import UserError
from engine.runs import lifecycle
from engine.runs.store import RunStore

MODEL, TINYSAM = "shipped/nuclei_cpu", "shipped/tinysam_1024"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
PRESET = "phantom_cpu_demo"


@dataclass(frozen=True)
class Row:
    """One figure, and the most that it should be."""

    what: str
    value: float | None
    unit: str
    at_most: float | None
    how: str

    @property
    def holds(self) -> bool:
        """Return whether the limit is kept, or there is none."""
        return self.at_most is None or self.value is None or self.value <= self.at_most


@contextmanager
def chromium() -> Iterator[Any]:
    """Give a running Chromium, the system's or Playwright's own."""
    from playwright.sync_api import sync_playwright

    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS), timeout=1000 * START_S)
        yield browser
        browser.close()


def open_page(browser: Any, address: str) -> Any:
    """Return a fresh profile's page at an address, loaded so far that it has a document."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(1000 * START_S)
    page.goto(address, wait_until="commit")
    return page


def start_rows(browser: Any, home: Path, models: Path, *, idle_s: float) -> list[Row]:
    """Return when the page is painted and usable after its process was started, and its memory when it is idle."""
    began = time.perf_counter()
    with serving(home, DSFEDMED_MODELS_DIR=str(models)) as server:
        serves_s = time.perf_counter() - began
        page = open_page(browser, server.address)
        opened_s = time.perf_counter() - began
        page.wait_for_function(PAINT)
        painted_s = serves_s + page.evaluate(PAINT) / 1000
        page.get_by_role("tab", name="Segment").click()
        page.locator("#model").wait_for(state="visible")
        usable_s = time.perf_counter() - began
        page.context.close()
        time.sleep(idle_s)
        memory = _memory_mb(server)
    how = (
        f"from the start of the process; it serves after {serves_s:.1f} s, the document is there after {opened_s:.1f} s"
    )
    return [
        Row("first paint", painted_s, "s", 5.0, how),
        Row("tabs usable", usable_s, "s", 8.0, "the Segment tab has opened on a click"),
        Row("idle memory", memory, "MB", 700.0, f"{idle_s:.0f} s after one visitor has gone"),
    ]


def _memory_mb(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0]) / 1e6


def answer_rows(server: Server, model: str, *, limit_ms: float, repeats: int) -> list[Row]:
    """Return p50 and p95 of answers to one image, after a first one that loads the model."""
    visitor = Visitor(server)
    visitor.read_config()
    _ask(visitor, model)
    walls, own = zip(*(_ask(visitor, model) for _ in range(repeats)), strict=True)
    how = f"{repeats} answers over loopback; the model alone {np.percentile(own, 50):.0f} ms"
    return [
        Row(f"click to mask, {model}, p50", float(np.percentile(walls, 50)), "ms", None, how),
        Row(f"click to mask, {model}, p95", float(np.percentile(walls, 95)), "ms", limit_ms, how),
    ]


def _ask(visitor: Visitor, model: str) -> tuple[float, float]:
    """Upload an image and segment it as the model does by itself; return the ms of the answer, and of the model."""
    event = next(one["id"] for one in visitor.events if one["api_name"] == "segment")
    path = visitor.upload("eye.png", bombs.honest_png()).json()[0]
    began = time.perf_counter()
    told = visitor.call(event, [{"path": path, "meta": {"_type": "gradio.FileData"}}, model, 1, True, "", ""])
    wall_ms = 1000 * (time.perf_counter() - began)
    if not isinstance(told, dict) or "data" not in told:
        raise RuntimeError(f"the page did not answer: {told}")
    return wall_ms, float(told["data"][1]["wall_ms"])


def click_rows(*, tinysam: bool, repeats: int) -> list[Row]:
    """Return p50 and p95 of clicks that ask a decoder, where the image's features are kept, on the server's side."""
    rows = []
    for size, image_px in click_times.SIZES[: 1 + tinysam]:
        firsts, clicks = click_times.measure(size, image_px, repeats=repeats, threads=None)
        how = f"{repeats} clicks, random weights; the first answer {np.percentile(firsts, 50):.0f} ms"
        name = f"a further click, tinysam/{size} at {image_px} px"
        rows += [
            Row(f"{name}, p50", float(np.percentile(clicks, 50)), "ms", None, how),
            Row(f"{name}, p95", float(np.percentile(clicks, 95)), "ms", click_times.LIMITS_MS[size], how),
        ]
    return rows


def crowd_rows(server: Server, *, visitors: int, repeats: int) -> list[Row]:
    """Return errors and p95 of so many visitors who segment at once while a run trains."""
    store = RunStore(server.home)
    first = Visitor(server)
    first.read_config()
    submit = next(one["id"] for one in first.events if one["api_name"] == "submit")
    run_id = first.call(submit, ["", PRESET])["data"][0]["run_id"]
    deadline = time.monotonic() + START_S
    while not any(stage.step for stage in store.stages(run_id)):
        if time.monotonic() > deadline or not store.get(run_id).active:
            raise RuntimeError(f"the run does not train: {store.get(run_id).status}")
        time.sleep(0.5)

    def visit(_: int) -> list[float | str]:
        found: list[float | str] = []
        try:
            visitor = Visitor(server)
            visitor.read_config()
            found += [_ask(visitor, MODEL)[0] for _ in range(repeats)]
        except Exception as error:  # whatever went wrong for a visitor is what is counted
            found.append(f"{type(error).__name__}: {error}")
        return found

    with ThreadPoolExecutor(visitors) as pool:
        answers = [answer for found in pool.map(visit, range(visitors)) for answer in found]
    trains = store.get(run_id).status == "running"
    with suppress(UserError):  # it may have ended meanwhile
        lifecycle.cancel(store, run_id)
    store.close()
    walls = [answer for answer in answers if isinstance(answer, float)]
    errors = [answer for answer in answers if isinstance(answer, str)]
    how = f"{visitors} visitors, {repeats} images each, the run {'trained' if trains else 'had ended'} all the while"
    p95 = float(np.percentile(walls, 95)) if walls else None
    return [
        Row("segmenting at once: errors", float(len(errors)), "", 0.0, "; ".join(errors[:2]) or how),
        Row("segmenting at once: p95", p95, "ms", None, how),
    ]


def samples_rows(browser: Any, server: Server, run_id: str, *, num_samples: int) -> list[Row]:
    """Return the time from the click on the Samples tab to its first picture, and from another lambda to its answer."""
    page = open_page(browser, f"{server.address}/?run={run_id}")
    tab = page.get_by_role("tab", name="Samples")
    tab.wait_for()
    page.wait_for_function("() => document.querySelector('#run input')?.value")  # the run of the address is chosen
    began = time.perf_counter()
    tab.click()
    page.wait_for_function("() => [...document.querySelectorAll('#gallery img')].some((img) => img.naturalWidth > 0)")
    took_s = time.perf_counter() - began
    typed = page.locator("#what-if-weight input[type=number]")
    typed.wait_for()
    began = time.perf_counter()
    typed.fill("0.8")
    typed.press("Enter")
    page.wait_for_function("() => document.querySelector('#what-if-count b')")
    answered_s = time.perf_counter() - began
    page.context.close()
    return [
        Row(f"Samples tab of {num_samples:,} samples", took_s, "s", 2.0, "from the click to the first picture"),
        Row("their ranks with another lambda", answered_s, "s", 0.5, "from the key to what would change, in the page"),
    ]


def measure(folder: Path, *, quick: bool, visitors: int, tinysam: Path | None) -> list[Row]:
    """Return all rows; ``folder`` takes the homes."""
    models = folder / "models"
    shutil.copytree(ROOT / "assets" / "models", models)
    if tinysam is not None:
        app_world.write_tinysam(models / "tinysam_1024", tinysam)
    num_samples, repeats = (200, 3) if quick else (10_000, 40)
    many = app_world.fill_samples(folder / "home", num_samples)
    with chromium() as browser:
        rows = start_rows(browser, folder / "empty", models, idle_s=2.0 if quick else 60.0)
        limits = {"DSFEDMED_MODELS_DIR": str(models), "DSFEDMED_MAX_RUNNING": "1", "DSFEDMED_VISITOR_FILES": "400"}
        with serving(folder / "home", **limits) as server:
            rows += answer_rows(server, MODEL, limit_ms=100.0, repeats=repeats)
            if tinysam is not None:
                rows += answer_rows(server, TINYSAM, limit_ms=300.0, repeats=repeats)
            rows += click_rows(tinysam=tinysam is not None, repeats=repeats)
            rows += samples_rows(browser, server, many, num_samples=num_samples)
            rows += crowd_rows(server, visitors=2 if quick else visitors, repeats=2 if quick else 5)
    return rows


def table(rows: list[Row], *, judged: bool) -> str:
    """Return the rows as text."""
    lines = [["What", "Value", "At most", "", ""]]
    for row in rows:
        value = "-" if row.value is None else f"{row.value:.4g} {row.unit}".strip()
        missed = "MISSED" if judged and not row.holds else ""
        lines.append([row.what, value, "" if row.at_most is None else f"{row.at_most:g}", row.how, missed])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; return 1 where a limit is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.app", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few samples, visitors and answers; no limit is judged")
    parser.add_argument("--visitors", type=int, default=20, help="who segment at once")
    parser.add_argument("--tinysam", type=Path, metavar="WEIGHTS", help="also TinySAM at 1024 px, with these weights")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    chosen = parser.parse_args(arguments)
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), quick=chosen.quick, visitors=chosen.visitors, tinysam=chosen.tinysam)
    missed = [] if chosen.quick else [row.what for row in rows if not row.holds]
    machine = {"cpus": os.cpu_count(), "load_before": before}
    if chosen.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "machine": machine, "missed": missed}, indent=1))
    else:
        print(f"{machine['cpus']} CPUs, load {before:.1f} before\n{table(rows, judged=not chosen.quick)}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
