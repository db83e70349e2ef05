"""Runs that ``bench.federation`` measures: with many simulated sites, on each back end, and of generators alone."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import psutil
import torch
from torch import nn

from bench.faults import SITES, Processes
from bench.parity import largest_difference
from bench.reporting import ConsoleReporter
from bench.simulated_sites import SimulatedContext, site_names
from engine.config import RunConfig, load_config, parse_config
from engine.data.phantoms import TASKS, write_dataset
from engine.federation.tasks import SHARE_MASKS
from engine.models.registry import build_model
from engine.runs import lifecycle
from engine.runs.checkpoint import CheckpointStore
from engine.runs.store import RunStore
from engine.stages.context import RunContext
from engine.stages.federated_training import FederatedTraining
from engine.stages.generator_training import GeneratorTraining

POLL_S = 0.2
GENERATOR_PRESET = "phantom_cpu_demo"
"""The smallest of the presets that are more than a smoke test: 120 steps of 4 images of 128 px at a site."""


@dataclass(frozen=True)
class Cell:
    """A simulated run: the process's peak memory in 10^6 bytes, and the seconds of a round."""

    peak_mb: float
    seconds_per_round: float


class Quiet(ConsoleReporter):
    """Tells nobody; what is kept of a run does not belong to the server's memory here."""

    def log(self, level: str, text: str) -> None:
        """Pass over it."""


def peak(folder: Path, *, num_sites: int, asked: int, rounds: int, small: bool) -> Cell:
    """Return the cell of a run in a process of its own: its peak is nobody else's."""
    words = [str(folder / "simulated"), str(num_sites), str(asked), str(rounds), "mini" if small else "5m"]
    done = subprocess.run([sys.executable, "-m", "bench.federation_runs", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return Cell(**json.loads(done.stdout.splitlines()[-1]))


def simulate(folder: Path, *, num_sites: int, asked: int, rounds: int, size: str) -> Cell:
    """Run the stage of federated training with TinySAM (``5m`` is 39 MB) at simulated sites, in this process."""
    federation = {"rounds": rounds, "participation": asked / num_sites}
    student = {"name": "tinysam", "size": size, "weights": None}
    config = parse_config({"device": "cpu", "precision": "fp32", "student": student, "federation": federation})

    def build() -> nn.Module:
        return build_model("tinysam", size=size, seed=1)

    context = SimulatedContext(
        config=config, run_dir=folder, reporter=Quiet("simulated"), names=site_names(num_sites), build=build
    )
    folder.mkdir()
    started = time.perf_counter()
    try:
        FederatedTraining().run(context)
    finally:
        shutil.rmtree(folder)
    return Cell(_peak_bytes() / 1e6, (time.perf_counter() - started) / rounds)


def _peak_bytes() -> float:
    """Return the largest resident memory that this process has had, bytes."""
    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):  # Windows
        return float(info.peak_wset)
    import resource

    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def backends() -> tuple[str, ...]:
    """Return the back ends that a configuration can name."""
    return get_args(RunConfig.model_fields["backend"].annotation)


def has_ray() -> bool:
    """Return whether sites can work side by side on Ray here."""
    from importlib.util import find_spec

    return "ray" in backends() and find_spec("ray") is not None


def differences(folder: Path, *, rounds: int) -> dict[str, tuple[float, int] | None]:
    """Return (largest difference from the run in one process, files compared) by back end; None where it is not here.

    FedTinySAM's whole run at three sites and an unseen one.
    """
    images = write_dataset("polyp", folder / "images", images_per_site=12, image_px=64)
    for other in (path for path in images.iterdir() if path.is_dir() and path.name not in SITES):
        shutil.rmtree(other)
    values: dict[str, Any] = {
        "method": "fedtinysam", "data.source": "folder", "device": "cpu", "threads": 1, "federation.rounds": rounds,
    }  # fmt: skip
    together = _run(folder / "together", {**values, "data.root": images})
    found: dict[str, tuple[float, int] | None] = {"ray": None, "superlink": None}
    if has_ray():
        found["ray"] = largest_difference(
            together, _run(folder / "ray", {**values, "data.root": images, "backend": "ray"})
        )
    with redirect_stdout(sys.stderr):  # what the commands tell is no part of the table
        processes = Processes(folder, images)
    try:
        processes.start()
        where = {"data.root": "none", "backend": "superlink", "server": processes.federation}
        found["superlink"] = largest_difference(together, _run(folder / "apart", {**values, **where}))
    finally:
        processes.end()
    return found


def _run(home: Path, values: Mapping[str, Any]) -> Path:
    """Run the smoke preset with these values; return the run's folder."""
    store = RunStore(home)
    run_id = lifecycle.submit(store, load_config("phantom_cpu_smoke", overrides=dict(values)))
    while store.get(run_id).active:
        lifecycle.reap(store)
        time.sleep(POLL_S)
    record = store.get(run_id)
    if record.status != "finished":
        raise SystemExit(f"the run {run_id} is {record.status}: {record.error}")
    return store.run_dir(run_id)


@dataclass(frozen=True)
class Generators:
    """Seconds of opening the sites (images read, processes there), and then of training their generators."""

    opened_s: float
    trained_s: float
    weights: Mapping[str, bytes]
    """What was uploaded, by file."""


def generator_seconds(folder: Path, *, steps: int | None) -> tuple[Generators, Generators, Generators] | None:
    """Return what four sites' generators took; None without Ray. Of the preset's steps, or of so many ``steps``.

    On Ray with two workers of one thread each; one after the other with one thread; and so with two threads, for those
    whose machine has two cores (other weights: sums have another order). Each in a process of its own, as a run is:
    Ray's workers load the generators' libraries, so the others have to, too. Ends the program where the weights of the
    first two are not the same to the bit.
    """
    if not has_ray():
        return None
    ways: list[dict[str, Any]] = [
        {"backend": "ray", "workers": 2, "threads": 1},
        {"backend": "local", "threads": 1},
        {"backend": "local", "threads": 2},
    ]
    found = []
    for number, way in enumerate(ways):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
            found.append(alone.submit(_generators, folder / f"way_{number}", steps=steps, **way).result())
    side_by_side, serial, two_threads = found
    names = sorted(serial.weights.keys() | side_by_side.weights.keys())
    differ = [name for name in names if serial.weights.get(name) != side_by_side.weights.get(name)]
    if differ or not names:
        raise SystemExit(f"the generators on Ray are others than those of one process: {', '.join(differ)}")
    return side_by_side, serial, two_threads


def _generators(folder: Path, *, steps: int | None, threads: int, **where: Any) -> Generators:
    torch.set_num_threads(threads)  # a run's worker does; a process begins with all cores
    names = list(TASKS["nuclei"].sites)[:5]
    values = {
        **where, "threads": threads, "device": "cpu", "precision": "fp32", "data.images_per_site": 8,
        "data.task": "nuclei", "data.sites": names, "data.held_out": names[-1],
    }  # fmt: skip
    if steps is not None:
        values["generator.steps"] = steps
    config = load_config(GENERATOR_PRESET, overrides=values)
    run_dir = folder / "generators"
    run_dir.mkdir(parents=True)
    store = CheckpointStore(run_dir / "checkpoints", config.content_hash(), warn=print)
    context = RunContext(config=config, run_dir=run_dir, reporter=Quiet("generators"), checkpoints=store)
    try:
        started = time.perf_counter()
        context.sites.ask(SHARE_MASKS, kind="masks")  # a run has asked its sites before: their processes are there
        opened = time.perf_counter()
        GeneratorTraining().run(context)
        trained_s = time.perf_counter() - opened
    finally:
        context.close()
    files = sorted(path for path in (run_dir / "generators").rglob("*") if path.is_file())
    weights = {path.relative_to(run_dir).as_posix(): path.read_bytes() for path in files}
    return Generators(opened - started, trained_s, weights)


def asynchronous_seconds(folder: Path, *, rounds: int, steps: int) -> tuple[float, float, float]:
    """Return seconds of rounds and generators: beside each other, one after the other; and of the work beside rounds.

    The smoke preset's whole run in one process, twice. Ends the program where a weight differs by a bit.
    """
    values = {"device": "cpu", "threads": 1, "federation.rounds": rounds, "generator.steps": steps}
    waited: list[float] = []
    found: list[dict[str, bytes]] = []
    beside_s = 0.0
    for name, asynchronous in (("beside", True), ("after", False)):
        run_dir = _run(folder / f"generators_{name}", {**values, "generator.asynchronous": asynchronous})
        stages = {stage.name: stage for stage in RunStore(folder / f"generators_{name}").stages(run_dir.name)}
        waited.append(sum(stages[key].wall_s for key in ("federated_training", "generator_training")))
        beside_s = max(beside_s, stages["generator_training"].beside_s)
        files = [path for part in ("models", "generators") for path in (run_dir / part).rglob("*.safetensors")]
        found.append({path.relative_to(run_dir).as_posix(): path.read_bytes() for path in files})
    if found[0] != found[1] or not found[0]:
        raise SystemExit("generators beside the rounds give other weights than generators after them")
    return waited[0], waited[1], beside_s


if __name__ == "__main__":
    torch.set_num_threads(1)
    path, *counts, size_name = sys.argv[1:]
    num_sites, asked, rounds = map(int, counts)
    cell = simulate(Path(path), num_sites=num_sites, asked=asked, rounds=rounds, size=size_name)
    print(json.dumps({"peak_mb": cell.peak_mb, "seconds_per_round": cell.seconds_per_round}))
