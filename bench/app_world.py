"""What ``bench.app`` serves: a home with a run of many samples, and a bundle of TinySAM at 1024 px."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from engine.config import load_config, parse_config
from engine.data.phantoms import TASKS, render
from engine.models.registry import build_model
from engine.models.weights import load_weights
from engine.runs.events import StoreReporter
from engine.runs.store import RunStore
from engine.seeding import numpy_generator
from engine.types import SampleScore, SyntheticSample
from export.package import BundleContent, write_bundle

TASK = "nuclei"
AT_ONCE = 2000
"""Records of one transaction."""


def fill_samples(home: Path, num_samples: int) -> str:
    """Make a finished run with so many scored samples, all with the files of one picture, and return its id."""
    store = RunStore(home)
    config = load_config("phantom_cpu_smoke", overrides={"name": "many samples", "data.task": TASK})
    run_id = store.create_run(config).run_id
    store.update_run(run_id, status="running", attempt=1)
    folder = store.run_dir(run_id) / "samples"
    folder.mkdir(parents=True)
    drawn = render(TASK, site=TASKS[TASK].sites[0], index=0, image_px=128)
    Image.fromarray(drawn.image).save(folder / "one.png")
    Image.fromarray(np.repeat(drawn.mask[0][..., None] * np.uint8(255), 3, axis=2)).save(folder / "one_mask.png")
    reporter = StoreReporter(store, run_id, "mutual_distillation", attempt=1)
    rng = numpy_generator(0, "bench", "samples")
    l_gt, l_kl = rng.gamma(2.0, 0.2, num_samples), rng.gamma(2.0, 0.1, num_samples)
    score = 0.5 * (l_kl - l_gt)
    rank = np.empty(num_samples, int)
    rank[np.argsort(-score)] = np.arange(1, num_samples + 1)
    for first in range(0, num_samples, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, num_samples))
        reporter.samples([_sample(index) for index in numbers])
        chosen = 2 * rank <= num_samples
        reporter.scores(
            [
                SampleScore(_sample(i).sample_id, 0, l_gt[i], l_kl[i], score[i], int(rank[i]), bool(chosen[i]))
                for i in numbers
            ]
        )
        reporter.flush()
    store.set_status(run_id, "finished")
    store.close()
    return run_id


def _sample(index: int) -> SyntheticSample:
    site = TASKS[TASK].sites[index % 3]
    return SyntheticSample(
        sample_id=f"{site}/{index:05d}", site=site, index=index, seed=index, source_mask=f"{site}/train/000",
        mask_sharing="real", image_path=Path("samples/one.png"), mask_path=Path("samples/one_mask.png"),
        faithfulness_dice=0.8,
    )  # fmt: skip


def write_tinysam(folder: Path, weights: Path) -> None:
    """Export TinySAM at 1024 px with these weights as the bundle ``folder``; for its time, not for its masks."""
    config = parse_config({"data": {"image_px": 1024, "task": TASK}})
    model = build_model("tinysam", size="5m", num_classes=1, image_px=1024, seed=0)
    load_weights(model, weights)
    content = BundleContent(
        name="TinySAM 1024 px", role="distilled_student", task=TASK, modality=TASKS[TASK].modality,
        classes=("nucleus",), model=config.student.model_copy(update={"size": "5m"}), config=config, metrics=(),
        run_id="bench",
    )  # fmt: skip
    write_bundle(folder, model, content=content)
