"""Runs whose processes are killed at random moments: what survives, and what is lost.

    python -m bench.faults [--kills 30] [--in-process 0] [--policy retry] [--folder bench_faults] [--json]

The smoke preset's whole run at three sites and an unseen one, each a program of its own over TLS
(``engine/deployment``), with ``federation.on_failure`` as ``--policy`` says. While it runs, SIGKILL hits a random one
of: a site's program, the SuperLink, the run's worker. Programs and SuperLink are started again by what supervises them,
the worker by resuming the run, as a person would. With ``--in-process N`` there is also a run in one process whose
worker is killed N times.

A run in one process, and with ``retry`` the deployed one too, must end with every model, generator, sample and row of
the results of the run that nobody disturbed. With ``skip`` a round may go on without a site, so the models may differ:
then the record must be complete. For every round it says of every site whether it took part, and of one that did not,
why; and the run must have finished, with results of every model.

Prints a table of faults, and ends with 1 where something is lost.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.parity import largest_difference, run_to_end
from engine.cli import main as cli
from engine.config import RunConfig, load_config
from engine.data.phantoms import write_dataset
from engine.deployment import federations
from engine.deployment.server import status
from engine.runs import lifecycle
from engine.runs.store import RunStore
from engine.seeding import numpy_generator
from engine.stages.federated_training import TOOK_PART

SITES = ("guided_inset", "portable_yellow", "scope_octagon", "tower_hd")
START_S, POLL_S = 300.0, 0.2
PAUSE_S = (1.0, 12.0)
"""Shortest and longest time from one kill to the next."""
MOST_RESUMES = 100
LONGEST_WORK_S = 2.0
"""Of a run in one process: its worker is killed within so many seconds of a stage's work."""


class Processes:
    """The server and the sites of a federation, as commands in sessions of their own."""

    def __init__(self, folder: Path, images: Path) -> None:
        self.federation = folder / "federation"
        ports = [_free_port() for _ in range(2)]
        _command(
            "federation", "init", str(self.federation), "--address", f"localhost:{ports[0]}", "--port", str(ports[1])
        )
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._folder, self._images, self._address = folder, images, f"localhost:{ports[1]}"
        for site in SITES:
            self._join(site)

    def start(self) -> None:
        """Start everything and wait until all sites are connected."""
        self._start("server", "server", "up", str(self.federation))
        for site in SITES:
            data = str(self._folder / "at" / site / "images")
            self._start(site, "site", "up", str(self._folder / "at" / site), "--data", data, "--server", self._address)
        until = time.monotonic() + START_S
        while self._online() != set(SITES):
            if time.monotonic() > until:
                raise SystemExit(f"not all sites have connected; see {self._folder}")
            time.sleep(POLL_S)

    def _online(self) -> set[str]:
        sites = status(federations.load(self.federation)).sites
        return {site.name for site in sites if site.connection == "online"}

    def pid_of(self, target: str) -> int | None:
        """Return the process to be killed: the SuperLink of ``server``, or a site's program; None if away."""
        word = "flower-superlink" if target == "server" else "engine.deployment.site_process"
        try:
            children = psutil.Process(self._started[target].pid).children(recursive=True)
            return next((child.pid for child in children if any(word in part for part in child.cmdline())), None)
        except psutil.Error:
            return None

    def end(self) -> None:
        """End everything."""
        for process in reversed(self._started.values()):
            process.terminate()
        for process in self._started.values():
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()

    def _join(self, site: str) -> None:
        folder = self._folder / "at" / site
        folder.parent.mkdir(exist_ok=True)
        _command("federation", "add-site", str(self.federation), site)
        (self.federation / "for-sites" / site).rename(folder)
        _command("site", "keys", str(folder))
        _command("federation", "add-site", str(self.federation), site, "--request", str(folder / "site.csr"))
        (folder / "policy.toml").write_text('approval = "automatic"\n', encoding="utf-8")
        (folder / "images").mkdir()
        shutil.copy(self._images / "dataset.toml", folder / "images")
        shutil.copytree(self._images / site, folder / "images" / site)

    def _start(self, name: str, *words: str) -> None:
        with (self._folder / f"{name}.txt").open("ab") as output:
            command = [sys.executable, "-m", "engine", *words]
            self._started[name] = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )


def run_through(processes: Processes, store: RunStore, config: RunConfig, *, kills: int) -> tuple[str, Counter[str]]:
    """Run ``config``, killing a random process every few seconds; return the run's id and the faults by target."""
    rng = numpy_generator(7, "faults")
    run_id, faults = lifecycle.submit(store, config), Counter[str]()
    due = time.monotonic() + START_S / 10
    while True:
        lifecycle.reap(store)
        record = store.get(run_id)
        if not record.active:
            if record.status == "finished":
                return run_id, faults
            if faults["resumed"] >= MOST_RESUMES or (record.status == "failed" and not sum(faults.values())):
                raise SystemExit(f"the run {run_id} is {record.status}: {record.error}")
            faults["resumed"] += 1
            lifecycle.resume(store, run_id)
        elif time.monotonic() > due and sum(faults.values()) - faults["resumed"] < kills:
            _strike(processes, record.pid, faults, rng=rng)
            due = time.monotonic() + float(rng.uniform(*PAUSE_S))
        time.sleep(POLL_S)


def _strike(processes: Processes, worker: int | None, faults: Counter[str], *, rng: np.random.Generator) -> None:
    target = str(rng.choice(["worker", "server", *SITES]))
    pid = worker if target == "worker" else processes.pid_of(target)
    if pid is None:
        return
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    faults["site" if target in SITES else target] += 1
    print(f"  killed {target}", file=sys.stderr, flush=True)


def incomplete(store: RunStore, run_id: str, config: RunConfig) -> list[str]:
    """Return what the record of a run that may skip sites lacks, a phrase each; empty when it is complete."""
    curves = store.metrics(run_id, name=TOOK_PART)
    took_part = {
        (step, curve.site): value for curve in curves for step, value in zip(curve.steps, curve.values, strict=True)
    }
    lines = [line.text for line in store.events(run_id, limit=1_000_000) if line.level == "warning"]
    sources = [site for site in SITES if site != config.data.held_out]
    missing = []
    for number in range(1, config.federation.rounds + 1):
        for site in sources:
            value = took_part.get((number, site))
            if value is None:
                missing.append(f"whether {site} took part in round {number}")
            elif not value and not any(line.startswith(f"Round {number}, {site}: ") for line in lines):
                missing.append(f"why {site} was left out of round {number}")
    return missing


def measure(folder: Path, *, kills: int, in_process: int, policy: str) -> dict[str, Any]:
    """Return the faults by process, how often runs were resumed, and what the results or the record lack."""
    images = write_dataset("polyp", folder / "images", images_per_site=12, image_px=64)
    values = {"data.source": "folder", "device": "cpu", "threads": 1, "federation.on_failure": policy}
    whole = load_config("phantom_cpu_smoke", overrides={**values, "data.root": images})
    together = RunStore(folder / "together")
    undisturbed, _ = run_to_end(together, whole, kills=0)
    rows = {}
    if in_process:
        run_id, killed = run_to_end(together, whole, kills=in_process, longest_work_s=LONGEST_WORK_S)
        difference, count = largest_difference(together.run_dir(undisturbed), together.run_dir(run_id))
        rows["one process"] = {"killed": {"worker": killed}, "resumed": killed, "difference": difference,
                               "compared": count, "exact": True, "lacks": []}  # fmt: skip
    if kills:
        rows["deployed"] = _deployed(folder, images, values, policy=policy, kills=kills,
                                     whole=together.run_dir(undisturbed))  # fmt: skip
    for row in rows.values():
        row["lost"] = sum(row["killed"].values()) if row["lacks"] or (row["exact"] and row["difference"]) else 0
    return rows


def _deployed(
    folder: Path, images: Path, values: dict[str, Any], *, policy: str, kills: int, whole: Path
) -> dict[str, Any]:
    with redirect_stdout(sys.stderr):  # what the commands tell is no part of the table
        processes = Processes(folder, images)
    try:
        processes.start()
        where = {"data.root": "none", "backend": "superlink", "server": processes.federation}
        store = RunStore(folder / "apart")
        config = load_config("phantom_cpu_smoke", overrides={**values, **where})
        run_id, faults = run_through(processes, store, config, kills=kills)
    finally:
        processes.end()
    difference, count = largest_difference(whole, store.run_dir(run_id))
    killed = {target: faults[target] for target in ("site", "server", "worker")}
    left_out = sum(value == 0 for curve in store.metrics(run_id, name=TOOK_PART) for value in curve.values)
    lacks = incomplete(store, run_id, config) if policy == "skip" else []
    return {"killed": killed, "resumed": faults["resumed"], "difference": difference, "compared": count,
            "exact": policy == "retry", "left_out": left_out, "lacks": lacks}  # fmt: skip


def main() -> int:
    """Measure and print; return 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="processes of the deployed run to kill; 0: no such run")
    parser.add_argument("--in-process", type=int, default=0, help="kills of the worker of a run in one process")
    parser.add_argument("--policy", choices=("retry", "skip"), default="retry", help="federation.on_failure")
    parser.add_argument("--folder", type=Path, default=Path("bench_faults"), help="is made; must not exist")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True)
    found = measure(chosen.folder.resolve(), kills=chosen.kills, in_process=chosen.in_process, policy=chosen.policy)
    if chosen.json:
        print(json.dumps(found))
        return int(any(row["lost"] for row in found.values()))
    print("Run          Process   Killed  Survived  Lost")
    for where, row in found.items():
        for target, number in row["killed"].items():
            lost = number if row["lost"] else 0
            print(f"{where:12} {target:8} {number:7d} {number - lost:9d} {lost:5d}")
    for where, row in found.items():
        print(f"{where}: resumed {row['resumed']} times; largest difference from the undisturbed run "
              f"{row['difference']:g} over {row['compared']} files")  # fmt: skip
        if "left_out" in row and chosen.policy == "skip":
            print(f"{where}: sites were left out of rounds {row['left_out']} times; the record lacks "
                  f"{'; '.join(row['lacks']) or 'nothing'}")  # fmt: skip
    return int(any(row["lost"] for row in found.values()))


def _command(*words: str) -> None:
    if cli(list(words)):
        raise SystemExit(f"`{' '.join(words)}` has failed")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
