"""What the server's stages read, and what the synthetic pool is made of, recorded while they run.

No image of a validation or test split may reach a generator, SAM or the distillation, nor may its mask; and each pair
must be what its record says.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.reporting import ConsoleReporter
from engine.config import RunConfig, load_config, parse_config
from engine.data.datasets import load_federation
from engine.data.imagesets import ImageSet, PixelCache
from engine.distillation.pool import SyntheticItem, decode_mask
from engine.generation.backbone import build_backbone, load_backbone, save_backbone
from engine.generation.controlnet import load_controlnet
from engine.generation.sampling import generate
from engine.runs.checkpoint import CheckpointStore
from engine.stages.context import RunContext
from engine.stages.foundation_finetuning import FoundationFinetuning
from engine.stages.generation import Generation
from engine.stages.generator_training import GeneratorTraining
from engine.stages.mutual_distillation import MutualDistillationStage
from engine.stages.synthetic_set import read_samples
from engine.types import RELEASED

STAGES = (GeneratorTraining(), Generation(), FoundationFinetuning(), MutualDistillationStage())


class Recorded:
    """One run of the stages after federated training: its context, and each stage's reads."""

    def __init__(self, config: RunConfig, run_dir: Path) -> None:
        checkpoints = CheckpointStore(run_dir / "checkpoints", config.content_hash(), warn=print)
        self.context = RunContext(
            config=config, run_dir=run_dir, reporter=ConsoleReporter("test"), checkpoints=checkpoints
        )
        self.federation = load_federation(config.data, seed=config.seed)
        self.items: dict[str, set] = defaultdict(set)
        self.augmented: dict[str, set] = defaultdict(set)
        self.context.save_model(self.context.new_model("student"), "fedavg_student")
        get, batch = PixelCache.get, ImageSet.batch
        with pytest.MonkeyPatch.context() as patch:
            for stage in STAGES:
                name = stage.name

                def recorded_get(cache, item, name=name, **settings):
                    self.items[name].add(item)
                    return get(cache, item, **settings)

                def recorded_batch(images, indices, *, rng=None, name=name):
                    if rng is not None:
                        self.augmented[name] |= {images.items[int(index)] for index in indices}
                    return batch(images, indices, rng=rng)

                patch.setattr(PixelCache, "get", recorded_get)
                patch.setattr(ImageSet, "batch", recorded_batch)
                stage.run(self.context)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Recorded:
    folder = tmp_path_factory.mktemp("provenance")
    save_backbone(build_backbone("mini", seed=1), folder / "ldm")
    values = load_config("phantom_cpu_smoke").model_dump(mode="json")
    values["student"]["weights"] = values["teacher"]["weights"] = None
    values["data"] |= {
        "task": "fundus", "held_out": "handheld_camera", "images_per_site": 7, "validation_fraction": 0.3,
        "augment": "flips_colour",
    }  # fmt: skip
    values["generator"] |= {"backbone": str(folder / "ldm"), "controlnet": "controlnet-mini", "steps": 2}
    values["generation"] |= {"sampler_steps": 2, "images_per_mask": 2, "released_share": 0.3}
    values["distillation"] |= {"selection_rate": 1.0}
    values["precision"] = "fp32"
    (folder / "run").mkdir()
    return Recorded(parse_config(values), folder / "run")


def split(recorded: Recorded, name: str) -> set:
    return {item for site in recorded.federation.sites.values() for item in getattr(site, name).items}


def test_generators_and_masks_come_from_training_images_alone(recorded):
    train, validation = split(recorded, "train"), split(recorded, "validation")
    unseen = recorded.federation.test
    test = {item for images in (unseen.train, unseen.validation, unseen.test) for item in images.items}
    assert len(validation) >= 3 and len(test) >= 3
    assert train.isdisjoint(validation | test)
    assert recorded.items["generator_training"] == train
    real = {item for item in recorded.items["generation"] if not isinstance(item, SyntheticItem)}
    assert real == train


@pytest.mark.parametrize("stage", ["foundation_finetuning", "mutual_distillation"])
def test_sam_and_the_distillation_read_the_synthetic_pool_and_nothing_else(recorded, stage):
    expected = {recorded.context.run_dir / sample.image_path for sample in read_samples(recorded.context.run_dir)}
    pairs = {item for item in recorded.items[stage] if isinstance(item, SyntheticItem)}
    assert {item.image for item in pairs} == expected
    # The sites, not the server, measure the distilled student on their validation images when they receive it.
    at_sites = split(recorded, "validation") if stage == "mutual_distillation" else set()
    assert recorded.items[stage] - pairs == at_sites
    assert {item.image for item in recorded.augmented[stage]} == expected


def test_nothing_is_augmented_but_what_sam_and_the_student_train_on(recorded):
    assert set(recorded.augmented) == {"foundation_finetuning", "mutual_distillation"}


def test_every_mask_of_the_pool_is_a_training_mask_of_its_site(recorded):
    context = recorded.context
    counts: dict[str, list[int]] = defaultdict(list)
    for sample in read_samples(context.run_dir):
        train = recorded.federation.sites[sample.site].train
        with Image.open(context.run_dir / sample.mask_path) as picture:
            mask = decode_mask(picture, num_classes=2)
        same = [i for i in range(len(train)) if np.array_equal(train.read_mask(i), mask)]
        assert len(same) == 1
        assert sample.source_mask == f"{sample.site} mask {same[0]}"
        counts[sample.site].append(same[0])
    for site, images in recorded.federation.sites.items():
        assert sorted(counts[site]) == sorted(2 * list(range(len(images.train)))), "each mask twice"


def test_every_image_is_what_its_record_says(recorded):
    """Drawn again from its seed, its generator and its mask, it is the same picture; no two pairs share a seed."""
    context = recorded.context
    samples = read_samples(context.run_dir)
    assert len({sample.seed for sample in samples}) == len(samples)
    backbone = load_backbone(context.config.generator.backbone)
    for sample in [*samples[:3], *samples[-3:], next(s for s in samples if s.generator == RELEASED)]:
        source = "controlnet-mini" if sample.generator == RELEASED else context.generator_dir(sample.site)
        with Image.open(context.run_dir / sample.mask_path) as picture:
            mask = decode_mask(picture, num_classes=2)
        image = generate(
            backbone, load_controlnet(source), mask[None], seeds=[sample.seed],
            prompt=recorded.federation.modality, steps=2,
            guidance=context.config.generation.guidance_scale, precision="fp32",
        )[0]  # fmt: skip
        with Image.open(context.run_dir / sample.image_path) as picture:
            stored = np.asarray(picture.convert("RGB"))
        assert np.abs(image.astype(int) - stored.astype(int)).max() <= 1, sample.sample_id
