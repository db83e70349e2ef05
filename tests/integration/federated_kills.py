"""A program: federated training that is killed before and after each of its writes, and goes on each time.

``python federated_kills.py FOLDER [STEPS]`` prints one JSON object: what the undisturbed run wrote, and for each kill
what the killed and the resumed process wrote, what was left, and whether the model has the same bits. STEPS, with
commas, is how messages are coded, both ways. One process with one thread forks them all: torch is imported once.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import UNet

from bench.reporting import ConsoleReporter
from engine.config import RunConfig, parse_config
from engine.data.phantoms import TASKS
from engine.federation.sites import Sites
from engine.runs.checkpoint import CheckpointStore
from engine.seeding import torch_generator
from engine.stages.context import Role, RunContext
from engine.stages.federated_training import FederatedTraining
from engine.stages.reply_files import REPLIES

ROUNDS = 2
DATA = {"task": "nuclei", "images_per_site": 4, "image_px": 32, "validation_fraction": 0.3, "augment": "flips_colour"}
MODEL = Path("models") / "fedavg_student.safetensors"


class Recorder(CheckpointStore):
    """Writes down each checkpoint in ``log`` (name, bytes), and kills the process at one of them."""

    def __init__(self, folder: Path, config: RunConfig, *, log: Path, kill_at: int | None, before: bool) -> None:
        super().__init__(folder, config.content_hash(), warn=print, scope="federated_training")
        self.log, self.kill_at, self.before, self.count = log, kill_at, before, 0

    def save(self, name: str, state: Any) -> Path:
        self._kill(before=True)
        path = super().save(name, state)
        with self.log.open("a") as file:
            file.write(json.dumps([name, path.stat().st_size]) + "\n")
        self._kill(before=False)
        self.count += 1
        return path

    def _kill(self, *, before: bool) -> None:
        if self.count == self.kill_at and before == self.before:
            os.kill(os.getpid(), signal.SIGKILL)


class SmallContext(RunContext):
    """A run's context whose student is a small U-Net with BatchNorm and dropout."""

    def new_model(self, role: Role) -> torch.nn.Module:
        """Return it with the same weights each time."""
        model = UNet(2, in_channels=3, out_channels=1, channels=(16, 32, 64), strides=(2, 2), norm="BATCH", dropout=0.1)
        generator = torch_generator(1, "unet")
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter.data, std=0.1, generator=generator)
        return model

    def open_sites(self, **where: Any) -> Sites:
        """Let the sites train it."""
        return super().open_sites(build=self.new_model, **where)


def configure(codec: list[str]) -> RunConfig:
    """Return three sites of phantoms, two of which train, with augmentation, whose messages are coded by ``codec``."""
    sites = list(TASKS["nuclei"].sites[:3])
    federation = {"rounds": ROUNDS, "batch_size": 2, "learning_rate": 1e-3, "codec": codec, "codec_down": codec}
    data = {**DATA, "sites": sites, "held_out": sites[2]}
    return parse_config({"data": data, "federation": federation, "device": "cpu", "precision": "fp32"})


def train(folder: Path, *, log: Path, kill_at: int | None = None, before: bool = False) -> int:
    """Run the stage in a forked process; return the signal that ended it, 0 for none."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            config = configure(sys.argv[2].split(",") if len(sys.argv) > 2 else [])
            store = Recorder(folder / "checkpoints", config, log=log, kill_at=kill_at, before=before)
            reporter = ConsoleReporter("killed")
            FederatedTraining().run(SmallContext(config=config, run_dir=folder, reporter=reporter, checkpoints=store))
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def written(log: Path) -> list[Any]:
    """Return what a log says."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def main(root: Path) -> None:
    """See the module's docstring."""
    torch.set_num_threads(1)
    whole = root / "whole"
    whole.mkdir()
    assert train(whole, log=root / "whole.log") == 0
    saves = written(root / "whole.log")
    # A site writes its own state before its reply is written: that is the moment before each. After a reply there is
    # nothing half done; after a round's state there are its replies.
    moments = [(at, True) for at in range(len(saves))]
    moments += [(at, False) for at, (name, _) in enumerate(saves) if name == "federated_training"]
    kills = [kill(root, at, before=before, whole=whole) for at, before in moments]
    print(json.dumps({"saves": saves, "kills": kills, "model_bytes": (whole / MODEL).stat().st_size}))


def kill(root: Path, at: int, *, before: bool, whole: Path) -> dict[str, Any]:
    """Kill a run at its write number ``at``, let it go on, and return what came of it."""
    folder, first, second = root / "killed", root / "first.log", root / "second.log"
    folder.mkdir()
    found: dict[str, Any] = {"at": at, "before": before}
    found["ended"] = train(folder, log=first, kill_at=at, before=before)
    found["went_on"] = train(folder, log=second)
    found |= {"first": written(first), "second": written(second)}
    found["same"] = (folder / MODEL).read_bytes() == (whole / MODEL).read_bytes()
    found["left"] = leftovers(folder)
    shutil.rmtree(folder)
    for log in (first, second):
        log.unlink(missing_ok=True)
    return found


def leftovers(folder: Path) -> list[str]:
    """Return what should be gone when the stage is over."""
    names = [path.relative_to(folder).as_posix() for path in (folder / "checkpoints").rglob("*")]
    return [name for name in names if REPLIES in name or name.endswith(".tmp")]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
