"""Stage: the server turns the sites' generators and shared masks into the synthetic set (Eq. 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from engine.data.transforms import mask_to_grid
from engine.distillation.pool import encode_mask
from engine.errors import UserError
from engine.evaluation.measures import dice
from engine.federation.checks import check_masks
from engine.federation.payload import unpack_masks
from engine.federation.tasks import SHARE_MASKS, SiteReply
from engine.generation.generators import kind_of
from engine.models.execution import autocast, place_images
from engine.seeding import derive_seed, numpy_generator
from engine.stages.context import RunContext
from engine.stages.synthetic_set import load_pool, write_samples
from engine.types import RELEASED, SyntheticSample

_MASKS = "shared_masks"


class Generation:
    """Eq. 2: x~ = g(m; Phi_c of site k) for the masks m that site k shares; image, mask and provenance are stored."""

    name = "generation"

    def run(self, context: RunContext) -> None:
        """Collect masks, generate what is missing, and measure how faithful each pair is."""
        masks = _collect_masks(context, self.drawn_sites(context))
        plan = _plan_samples(context, masks)
        self._generate(context, plan, masks)
        samples = _measure_faithfulness(context, [sample for site in plan.values() for sample in site])
        samples = [*self.earlier_samples(context), *samples]
        write_samples(context.run_dir, samples)
        context.reporter.samples(samples)

    def drawn_sites(self, context: RunContext) -> tuple[str, ...]:
        """Return the sites whose masks are drawn from: the sources."""
        return context.sites.names

    def earlier_samples(self, context: RunContext) -> list[SyntheticSample]:
        """Return the pairs that come before those that are drawn here: none."""
        return []

    def _generate(
        self, context: RunContext, plan: dict[str, list[SyntheticSample]], masks: dict[str, np.ndarray]
    ) -> None:
        config, generator = context.config.generation, context.config.generator
        total = sum(len(samples) for samples in plan.values())
        done = 0
        kind, setup = kind_of(context.config), context.generators
        for site, drawn_by, samples in _by_generator(plan):
            missing = {sample.index for sample in samples if not (context.run_dir / sample.image_path).is_file()}
            done += len(samples) - len(missing)
            if not missing:
                continue
            source = generator.controlnet if drawn_by == RELEASED else context.generator_dir(site)
            assert source is not None  # parse_config refuses a released share without a released ControlNet
            drawing = kind.load(source, setup)
            for start in range(0, len(samples), config.batch_size):
                # A batch that was interrupted is drawn again as a whole: in another one the last bits may differ.
                batch = samples[start : start + config.batch_size]
                absent = [sample.index in missing for sample in batch]
                if not any(absent):
                    continue
                context.reporter.progress(done, total, message=f"{site}: {done} of {total} images")
                mask_BKHW = masks[site][[sample.index // config.images_per_mask for sample in batch]]
                images = drawing.sample(
                    mask_to_grid(mask_BKHW, generator.image_px),
                    seeds=[sample.seed for sample in batch],
                    check_cancelled=context.reporter.check_cancelled,
                )
                for sample, image, mask, is_absent in zip(batch, images, mask_BKHW, absent, strict=True):
                    if is_absent:
                        _write_pair(context.run_dir, sample, image=image, mask_KHW=mask)
                context.reporter.samples(batch)
                done += sum(absent)
        context.reporter.progress(done, total)


def _collect_masks(context: RunContext, sites: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the masks that ``sites`` share, uint8 (N, K, H, W) at ``data.image_px``; asked for once, then kept."""
    stored = context.checkpoints.load(_MASKS)
    if stored is not None:
        return dict(stored["masks"])
    # Of a site that has withheld its generator nothing is drawn, so its masks stay as well.
    drawn_for = [site for site in sites if context.generator_dir(site).is_dir()]
    size = {"num_classes": len(context.description.classes), "image_px": context.config.data.image_px}

    def check(_round: int, site: str, reply: SiteReply) -> None:
        check_masks(reply, site=site, at_most=_num_masks(context, site), **size)

    def lack(site: str, error: UserError) -> None:
        words = f"{site} has shared no masks, and nothing is drawn for it: the run goes on without. {error.what}"
        context.reporter.log("warning", words)

    replies = context.sites.ask(SHARE_MASKS, kind="masks", to=drawn_for, on_reply=check, on_lack=lack)
    if not replies:
        raise UserError(
            "generation.no_masks",
            what="No site has shared masks: every one that was asked has failed.",
            why="Without any, the server has nothing to draw synthetic images from.",
            fix="Mend the named sites, then resume the run.",
        )
    masks = {site: unpack_masks(reply.arrays) for site, reply in replies.items()}
    context.checkpoints.save(_MASKS, {"masks": masks})
    return masks


def _num_masks(context: RunContext, site: str) -> int:
    """Return how many masks a site is asked for."""
    num_train = context.description.num_train[site]
    return min(num_train, context.config.generation.max_masks_per_site or num_train)


def _by_generator(plan: dict[str, list[SyntheticSample]]) -> Iterator[tuple[str, str, list[SyntheticSample]]]:
    """Give (site, generator, samples) for every ControlNet that has something to draw from a site's masks."""
    for site, samples in plan.items():
        for drawn_by in (site, RELEASED):
            if chosen := [sample for sample in samples if sample.generator == drawn_by]:
                yield site, drawn_by, chosen


def _plan_samples(context: RunContext, masks: dict[str, np.ndarray]) -> dict[str, list[SyntheticSample]]:
    config = context.config.generation
    plan: dict[str, list[SyntheticSample]] = {}
    for site, shared in masks.items():
        plan[site] = []
        count = len(shared) * config.images_per_mask
        rng = numpy_generator(context.config.seed, "generation", "released", site)
        released = set(rng.permutation(count)[: round(config.released_share * count)].tolist())
        for index in range(count):
            stem = Path("samples") / site / f"{index:05d}"
            plan[site].append(
                SyntheticSample(
                    sample_id=f"{site}/{index:05d}",
                    site=site,
                    index=index,
                    seed=derive_seed(context.config.seed, "generation", site, index),
                    # A number, not a file name: names can identify patients.
                    source_mask=f"{site} mask {index // config.images_per_mask}",
                    mask_sharing=config.mask_sharing,
                    image_path=stem.with_suffix(".png"),
                    mask_path=stem.with_name(f"{stem.name}_mask.png"),
                    generator=RELEASED if index in released else site,
                )
            )
    return plan


def _write_pair(run_dir: Path, sample: SyntheticSample, *, image: np.ndarray, mask_KHW: np.ndarray) -> None:
    """Write the mask, then the image under a temporary name: an image that is there is a pair that is complete."""
    path = run_dir / sample.image_path
    path.parent.mkdir(parents=True, exist_ok=True)
    encode_mask(mask_KHW).save(run_dir / sample.mask_path)
    temporary = path.with_suffix(".partial")
    Image.fromarray(image).save(temporary, format="PNG")
    temporary.replace(path)


def _measure_faithfulness(context: RunContext, samples: list[SyntheticSample]) -> list[SyntheticSample]:
    """Return the samples with the Dice of the federated student on each pair."""
    write_samples(context.run_dir, samples)
    pool = load_pool(context)
    student = context.load_model("student", "fedavg_student").eval()
    measured = []
    for start in range(0, len(pool), 16):
        context.reporter.check_cancelled()
        indices = np.arange(start, min(start + 16, len(pool)))
        image, mask = pool.batch(indices)
        with torch.no_grad(), autocast(context.device, context.config.precision):
            logits = student(place_images(image, context.device)).float().cpu()
        truth = torch.from_numpy(mask_to_grid(mask, logits.shape[-1])).bool()
        scores = dice(logits > 0, truth).mean(dim=1)
        measured += [replace(samples[i], faithfulness_dice=float(d)) for i, d in zip(indices, scores, strict=True)]
    return measured
