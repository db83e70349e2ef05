"""Three small stages in place of those of fedtinysam, for tests of the worker: a random walk, checkpointed every step.

``data.task`` steers the first stage: ``bad`` raises a UserError, ``crash`` any other error, ``deaf`` never comes to a
step boundary, ``full`` meets a full disk. ``data.images_per_site`` is its pause between two steps in milliseconds,
``federation.rounds`` their number.
"""

from __future__ import annotations

import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.config import RunConfig
from engine.errors import UserError
from engine.runs.checkpoint import CheckpointStore
from engine.seeding import torch_generator
from engine.types import EvaluationRow, Reporter, RunCancelled, Traffic


@dataclass
class RunContext:
    """The part of the real context that these stages use."""

    config: RunConfig
    run_dir: Path
    reporter: Reporter
    checkpoints: CheckpointStore

    def close(self) -> None:
        """Nothing is open."""


class Walk:
    """Adds a random number per round; the generator's state is part of the checkpoint."""

    name = "federated_training"

    def run(self, context: RunContext) -> None:
        """Walk ``federation.rounds`` steps and write the place reached to ``walk.txt``."""
        config = context.config
        self._misbehave(config.data.task, context)
        draws = torch_generator(config.seed, "walk")
        state: dict[str, Any] = context.checkpoints.load(self.name) or {"step": 0, "x": torch.zeros(3)}
        if "draws" in state:
            draws.set_state(state["draws"])
        while state["step"] < config.federation.rounds:
            state = {"step": state["step"] + 1, "x": state["x"] + torch.randn(3, generator=draws)}
            state["draws"] = draws.get_state()
            context.reporter.metric("x", float(state["x"][0]), step=state["step"])
            context.reporter.traffic(Traffic("a", "up", "student", 12, round=state["step"]))
            context.checkpoints.save(self.name, state)
            context.reporter.progress(state["step"], config.federation.rounds, message=f"step {state['step']}")
            time.sleep(config.data.images_per_site / 1000)
        (context.run_dir / "walk.txt").write_text(" ".join(value.hex() for value in state["x"].tolist()))
        context.reporter.artefact("model", context.run_dir / "walk.txt")

    @staticmethod
    def _misbehave(task: str, context: RunContext) -> None:
        if task == "bad":
            raise UserError("data.bad", what="The data are bad.", why="They cannot be read.", fix="Mend them.")
        if task == "crash":
            raise ZeroDivisionError("one over nothing")
        if task == "full":
            context.checkpoints.save("federated_training", {"step": 1, "x": torch.zeros(3)})
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
            context.checkpoints.save("federated_training", {"step": 2, "x": torch.zeros(1_000_000)})
        while task == "deaf":
            context.checkpoints.load("nothing")
            time.sleep(0.1)


class Judge:
    """Writes one line of the results table."""

    name = "evaluation"

    def run(self, context: RunContext) -> None:
        """Record the number of bootstrap samples as Dice."""
        if context.config.data.task == "stubborn":
            raise RunCancelled("never asked")
        dice = context.config.evaluation.bootstrap_samples / 1000
        context.reporter.evaluation([EvaluationRow("m", "z", "test", "c", 3, dice, 0.1, 0.9, 0.4, 0.5, 0.3, None)])
        context.checkpoints.save(self.name, {"dice": dice})


class Pack:
    """Copies the walk's result."""

    name = "export"

    def run(self, context: RunContext) -> None:
        """Write ``bundle/walk.txt``."""
        target = context.run_dir / "bundle" / "walk.txt"
        target.parent.mkdir(exist_ok=True)
        target.write_text((context.run_dir / "walk.txt").read_text())
        context.reporter.artefact("bundle", target.parent)


STAGES = {stage.name: stage for stage in (Walk(), Judge(), Pack())}
"""What stands in for the stages of fedtinysam."""


class Broken(Walk):
    """Fails as it begins, with a reason."""

    def run(self, context: RunContext) -> None:
        """Raise the UserError of bad data."""
        self._misbehave("bad", context)


BROKEN_STAGES = STAGES | {Broken.name: Broken()}
