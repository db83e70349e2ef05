"""What one hostile site of four does to the student on a site that nobody trains on, with and without the defences.

    python -m bench.hostile [--folder bench_hostile] [--rounds 3] [--images 12] [--seeds 1]
                           [--attacks NaN,oversized,...] [--quick] [--json]

Phantom liver at 64 px, TinySAM from the shipped weights: three sites of their own scanners are honest, a fourth (with
other patients of the first one's scanner) sends, in every round, what ATTACKS names; the scanner of the unseen site is
nobody's. All of it goes through the real messages, tasks, checks and aggregation. Without defences the replies are
averaged by FedAvg as they come, in a bare loop. Each defence lets a round go on with three replies. The figure is Dice
at probability 0.5 on the unseen site, in points, and beside it the difference from FedAvg of the three honest sites
alone. With ``--seeds N`` each cell is measured with so many seeds (other phantoms, splits and orders): the mean, and
the least and the most of the differences. It ends with 1 where a defence that is relied on (RELIED_ON) is more than a
point below that, with any seed. What is finished is
kept in the folder: a second call goes on, or prints. ``--quick`` is one round of three attacks on few images, to see
that it works; its figures mean nothing and are not judged.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from bench.hostile_table import HONEST, WITHOUT, failures, table
from bench.reporting import ConsoleReporter
from engine.config import RunConfig, parse_config
from engine.data.datasets import Federation, load_federation
from engine.errors import UserError
from engine.federation.aggregation import federated_average, make_aggregator
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.checks import VARIANCE_SUFFIX, RoundChecks
from engine.federation.client_app import build_client_app
from engine.federation.rounds import RoundResult, run_rounds
from engine.federation.tasks import TRAIN_STUDENT, Arrays, SiteReply, SiteRequest, SiteTask
from engine.models.arrays import buffer_names, load_arrays, model_arrays
from engine.models.objective import Objective
from engine.runs.checkpoint import CheckpointStore
from engine.seeding import numpy_generator
from engine.site.context import Models
from engine.site.data import SiteData
from engine.site.local_training import ImageSource, evaluate_site
from engine.site.program import SiteProgram
from engine.site.state import SiteState
from engine.stages.context import RunContext
from engine.stages.files import read_json, write_json

HOSTILE, SCANNER = "hostile", "ct_venous"
FIRST_SEED = 7
QUORUM = 3
OVERSIZED_FLOATS = 16_000_000
Attack = Callable[[SiteRequest, SiteReply], SiteReply]


def _floats(change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Attack:
    """Return an attack that changes every float array, given what was sent and what training made of it."""

    def attack(request: SiteRequest, reply: SiteReply) -> SiteReply:
        arrays = {
            name: change(request.arrays[name], array).astype(array.dtype) if array.dtype.kind == "f" else array
            for name, array in reply.arrays.items()
        }
        return replace(reply, arrays=arrays)

    return attack


def _noise(request: SiteRequest, reply: SiteReply) -> SiteReply:
    rng = numpy_generator(0, "hostile", request.round)
    noisy = _floats(lambda sent, made: rng.normal(size=made.shape))(request, reply)
    # Variances that are below 0 are another attack.
    arrays = {name: np.abs(a) if name.endswith(VARIANCE_SUFFIX) else a for name, a in noisy.arrays.items()}
    return replace(reply, arrays=arrays)


def _negative_variance(request: SiteRequest, reply: SiteReply) -> SiteReply:
    arrays = {name: -np.ones_like(a) if name.endswith(VARIANCE_SUFFIX) else a for name, a in reply.arrays.items()}
    return replace(reply, arrays=arrays)


def _wrong_shape(request: SiteRequest, reply: SiteReply) -> SiteReply:
    name = next(iter(reply.arrays))
    return replace(reply, arrays={**reply.arrays, name: np.zeros((7, 5), np.float32)})


def _oversized(request: SiteRequest, reply: SiteReply) -> SiteReply:
    return replace(reply, arrays={**reply.arrays, "more": np.zeros(OVERSIZED_FLOATS, np.float32)})


ATTACKS: dict[str, Attack] = {
    "NaN": _floats(lambda sent, made: np.full_like(made, np.nan)),
    "weights x 1000": _floats(lambda sent, made: 1000 * made),
    "random weights": _noise,
    "update x -1": _floats(lambda sent, made: sent - (made - sent)),
    "update x -10": _floats(lambda sent, made: sent - 10 * (made - sent)),
    "wrong shape": _wrong_shape,
    "oversized": _oversized,
    "zeros with n = 1e9": lambda request, reply: replace(
        _floats(lambda sent, made: np.zeros_like(made))(request, reply), num_examples=10**9
    ),
    "negative variance": _negative_variance,
    "flipped labels": lambda request, reply: reply,  # its images' masks are turned round instead
}
REFUSE = {"large_updates": "refuse", "update_norm_limit": 5.0}
DEFENCES: dict[str, dict[str, Any]] = {
    "refuse": REFUSE,
    "clip": {"large_updates": "clip", "update_norm_limit": 2.0},
    "refuse, median": {**REFUSE, "aggregation": "median"},
    "refuse, multi-Krum": {**REFUSE, "aggregation": "multi_krum"},
}
"""What the configuration says under [federation]; the checks of single replies are always on.

A quarter trimmed off four sites is the median."""
RELIED_ON = ("refuse, multi-Krum",)
QUICK = ("NaN", "update x -10", "flipped labels")


@dataclass(frozen=True)
class FlippedLabels:
    """A site's images with foreground and background exchanged."""

    images: ImageSource

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: np.ndarray, *, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the images and the masks turned round."""
        image_B3HW, mask_BKHW = self.images.batch(indices, rng=rng)
        return image_B3HW, 1 - mask_BKHW

    def content(self, indices: np.ndarray) -> np.ndarray:
        """Return what is picture, as it is."""
        return self.images.content(indices)


def configure(*, seed: int, rounds: int, images: int, federation: Mapping[str, Any]) -> RunConfig:
    """Return the run of one cell."""
    return parse_config(
        {
            "name": "hostile", "seed": seed, "device": "cpu", "precision": "fp32", "threads": 1, "method": "fedtinysam",
            "data": {"task": "liver", "images_per_site": 2 * images, "image_px": 64},
            "student": {"name": "tinysam", "weights": "tinysam-mini", "batch_norm": "kept"},
            "federation": {"rounds": rounds, "batch_size": 4, "learning_rate": 2e-4, **federation},
        }
    )  # fmt: skip


class Unheard:
    """A site's listener that nobody asks to stop."""

    def check_cancelled(self) -> None:
        """Go on."""

    def progress(self, step: int, total: int, *, message: str = "") -> None:
        """Pass over it."""

    def metric(self, name: str, value: float, *, step: int) -> None:
        """Pass over it."""


@lru_cache(maxsize=1)
def load_images(images: int, seed: int) -> Federation:
    """Return the phantoms, drawn once for all cells of a seed."""
    config = configure(seed=seed, rounds=1, images=images, federation={})
    return load_federation(config.data, seed=config.seed)


class Cell:
    """One run of the federation. Without an attack the fourth site is honest; ``alone`` the others are without it."""

    def __init__(
        self, config: RunConfig, federation: Federation, folder: Path, *, attack: str | None, alone: bool = False
    ) -> None:
        reporter = ConsoleReporter("hostile")
        checkpoints = CheckpointStore(folder / "checkpoints", config.content_hash(), warn=print)
        self.config, self.attack = config, attack
        self.context = RunContext(config=config, run_dir=folder, reporter=reporter, checkpoints=checkpoints)
        self.model = self.context.new_model("student")
        self.models = Models.of_run(config, num_classes=1)
        self.federation = federation
        images = {site: source.train for site, source in self.federation.sites.items()}
        half = {site: len(own) // 2 for site, own in images.items()}
        self.train: dict[str, ImageSource] = {site: own.subset(range(half[site])) for site, own in images.items()}
        if not alone:
            others = images[SCANNER].subset(range(half[SCANNER], 2 * half[SCANNER]))
            self.train[HOSTILE] = FlippedLabels(others) if attack == "flipped labels" else others
        self.sites = tuple(self.train)

    def task(self) -> SiteTask:
        """Return the sites' training task, the hostile one's changed."""
        federation, none = self.federation, self.federation.test.train
        about = {"classes": federation.classes, "modality": federation.modality}
        programs = {
            site: SiteProgram(
                SiteData(site, images, none, none, **about),  # type: ignore[arg-type]
                config=self.config,
                state=partial(SiteState, self.context.run_dir / "sites" / site, self.context.checkpoints),
                models=self.models,
            )
            for site, images in self.train.items()
        }

        def task(request: SiteRequest) -> SiteReply:
            reply = programs[request.site].answer(request, listener=Unheard())
            return ATTACKS[self.attack](request, reply) if self.attack and request.site == HOSTILE else reply

        return task

    def defended(self) -> tuple[float, int]:
        """Return Dice on the unseen site after all rounds, and the rounds in which the hostile site was refused."""
        config = self.config.federation
        counts = {site: len(images) for site, images in self.train.items()}
        buffers = buffer_names(self.model)
        results: list[RoundResult] = []
        arrays = run_rounds(
            InProcessGrid(build_client_app({TRAIN_STUDENT: self.task()}), sites=self.sites),
            arrays=model_arrays(self.model),
            sites=self.sites,
            rounds=config.rounds,
            task=TRAIN_STUDENT,
            aggregate=make_aggregator(config, buffers=buffers, num_examples=counts).aggregate,
            checks=RoundChecks(
                num_examples=counts,
                num_validation=dict.fromkeys(self.sites, 0),
                buffers=buffers,
                needed=("loss", "wall_s"),
                update_limit=config.update_norm_limit if config.large_updates == "refuse" else None,
            ),
            on_round=results.append,
            quorum=QUORUM,
        )
        accused = {site for result in results for site in result.failures} - {HOSTILE}
        if accused:
            raise UserError(
                "bench.wrong_site",
                what=f"Honest sites were refused: {sorted(accused)}.",
                why="A defence that leaves out honest sites is none.",
                fix="Raise update_norm_limit in DEFENCES.",
            )
        return self.dice(arrays), sum(bool(result.failures) for result in results)

    def undefended(self) -> float:
        """Return Dice on the unseen site after FedAvg of whatever comes. Raises what numpy and torch say of it."""
        task, arrays = self.task(), model_arrays(self.model)
        for number in range(1, self.config.federation.rounds + 1):
            replies = {site: task(SiteRequest(site, TRAIN_STUDENT, number, {}, arrays)) for site in self.sites}
            arrays = federated_average(replies, arrays)
            load_arrays(self.model, arrays)
        return self.dice(arrays)

    def dice(self, arrays: Arrays) -> float:
        """Return the mean Dice at probability 0.5 on the unseen site's images; a model of NaN predicts nothing."""
        load_arrays(self.model, arrays)
        score = evaluate_site(
            self.model,
            self.federation.test.test,
            batch_size=8,
            objective=Objective(pos_weight=self.config.pos_weight, dice_weight=self.config.dice_weight),
            placement=self.models.placement,
            check_cancelled=self.context.reporter.check_cancelled,
        )
        assert score is not None
        return score.dice


def measure(
    attack: str | None, defence: str | None, *, seed: int, rounds: int, images: int, alone: bool = False
) -> dict[str, Any]:
    """Return one cell: ``dice`` in points, and in how many rounds the site was ``refused``; or the ``error``."""
    config = configure(seed=seed, rounds=rounds, images=images, federation=DEFENCES[defence] if defence else {})
    with TemporaryDirectory() as folder:
        cell = Cell(config, load_images(images, seed), Path(folder), attack=attack, alone=alone)
        try:
            dice, refused = cell.defended() if defence else (cell.undefended(), 0)
        except (UserError, ValueError, RuntimeError) as error:  # a loss that is NaN, shapes that do not fit
            return {"dice": None, "refused": 0, "error": f"{error!s:.200}"}
    return {"dice": 100 * dice, "refused": refused}


def fill(file: Path, *, attacks: tuple[str, ...], seed: int, rounds: int, images: int) -> dict[str, dict[str, Any]]:
    """Measure every cell that ``file`` lacks, and keep each as it comes; keys are "attack | defence"."""
    cells: dict[str, dict[str, Any]] = read_json(file) if file.is_file() else {}
    wanted: list[tuple[str, str | None, str | None]] = [(WITHOUT, None, None)]
    wanted += [(name, attack, defence) for name, attack in _rows(attacks) for defence in (None, *DEFENCES)]
    for number, (name, attack, defence) in enumerate(wanted, start=1):
        key = f"{name} | {defence}"
        if key not in cells:
            cells[key] = measure(attack, defence, seed=seed, rounds=rounds, images=images, alone=name == WITHOUT)
            write_json(file, cells)
            print(f"seed {seed}, {number} of {len(wanted)}: {key}: {cells[key]}", file=sys.stderr, flush=True)
    return cells


def _rows(attacks: tuple[str, ...]) -> list[tuple[str, str | None]]:
    return [(HONEST, None), *((attack, attack) for attack in attacks)]


def attacks_of(text: str) -> tuple[str, ...]:
    """Return the attacks that are named in ``text``, commas between them."""
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in ATTACKS]:
        raise argparse.ArgumentTypeError(f"there is no attack '{unknown[0]}'; there are {', '.join(ATTACKS)}")
    return names


def main() -> int:
    """Measure what is not there yet, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("bench_hostile"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=12, help="phantoms at each site")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds each cell is measured with")
    every = ",".join(ATTACKS)
    parser.add_argument("--attacks", type=attacks_of, default=every, help="of these, in this order: %(default)s")
    parser.add_argument("--quick", action="store_true", help="one round, three attacks, few images")
    parser.add_argument("--json", action="store_true", help="print the cells as JSON")
    chosen = parser.parse_args()
    attacks = QUICK if chosen.quick else chosen.attacks
    rounds, images = (1, 4) if chosen.quick else (chosen.rounds, chosen.images)
    torch.set_num_threads(1)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    cells = {}
    for seed in range(FIRST_SEED, FIRST_SEED + chosen.seeds):
        file = chosen.folder / f"rounds_{rounds}_images_{images}_seed_{seed}.json"
        cells[seed] = fill(file, attacks=attacks, seed=seed, rounds=rounds, images=images)
    found = [] if chosen.quick else failures(cells, attacks=attacks, relied_on=RELIED_ON)
    if chosen.json:
        print(json.dumps({"cells": cells, "failures": found}, indent=1))
    else:
        rows = [name for name, _ in _rows(attacks)]
        print(table(list(cells.values()), rows=rows, defences=list(DEFENCES), rounds=rounds))
        print("* refused in every round, + in some; in brackets the points above the run without the site.")
        print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
