"""Stage: every model of the run on images that no training saw, and on the sources' validation images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.evaluation import variants
from engine.evaluation.figures import unpack_figures
from engine.evaluation.looks import fault_of, together
from engine.evaluation.summary import Split, compare_models, summarise
from engine.federation.checks import bad_reply
from engine.federation.tasks import EVALUATE, LOOKS, SiteReply
from engine.methods.catalogue import ModelSpec
from engine.stages.context import RunContext
from engine.stages.files import write_json
from engine.stages.site_models import what_is_sent
from engine.types import EvaluationRow, ModelDifference

Entry = tuple[Split, str, int]
"""Split, site, number of images."""

ROWS_FILE = Path("evaluation") / "rows.json"
DIFFERENCES_FILE = Path("evaluation") / "differences.json"
IMAGES_FILE = Path("evaluation") / "images.json"
LOOKS_FILE = Path("evaluation") / "looks.json"
VARIANTS_FILE = Path("evaluation") / "variants.json"
"""Of each student by site: Dice at its own side and at half of it."""
FORMAT = 3
"""Of what an interrupted evaluation keeps; what another version has measured is measured again."""


class Evaluation:
    """Dice, IoU and HD95 with bootstrap intervals, and paired differences; nothing is chosen by the unseen site's."""

    name = "evaluation"

    # Each site measures what it is sent, side by side where the back end can; figures come back, without names.

    def run(self, context: RunContext) -> None:
        """Evaluate the models that this run's method has made; what an interrupted attempt has measured is kept."""
        models = context.models
        # The models made last come first: what each has gained is asked of them.
        pairs = [(made.name, other) for made in reversed(models) for other in made.compared_with]
        sets = _image_sets(context)
        state = context.checkpoints.load(self.name)
        if state is None or state.get("format") != FORMAT:
            state = {"format": FORMAT, "rows": {}, "images": {}}
        state.setdefault("looks", {})  # an attempt of before has asked for none
        state.setdefault("variants", {})
        total = len(models) * len(sets)
        lacking: set[str] = set()
        for number, model in enumerate(models):
            self._measure(context, state, model, number=number, sets=sets, lacking=lacking)
        complete = _complete(state, models, sets)
        if len(complete) < len(sets):
            absent = ", ".join(entry[1] for place, entry in enumerate(sets) if place not in complete)
            words = f"{absent} has failed, so its validation images are left out of the results of every model."
            context.reporter.log("warning", words)
        keys = [f"{model.name} {place}" for model in models for place in _places_of(model, sets) if place in complete]
        pooled = _pooled_images(context, sets, [image for key in keys for image in state["images"][key]])
        settings = {"config": context.config.evaluation, "seed": context.config.seed}
        rows = [*summarise(pooled, split="test", **settings), *_stored_rows(state, keys)]
        differences = compare_models(pooled, pairs=pairs, split="test", **settings)
        for place, (split, _, _) in enumerate(sets):
            of_set = [image for key in keys if key.endswith(f" {place}") for image in state["images"][key]]
            differences += compare_models(of_set, pairs=pairs, split=split, **settings)
        looks = {model: together(of_sites.values()) for model, of_sites in state["looks"].items()}
        write_json(context.run_dir / LOOKS_FILE, looks)
        write_json(context.run_dir / VARIANTS_FILE, state["variants"])
        self._record(context, rows, differences, images=[image for key in keys for image in state["images"][key]])
        context.reporter.progress(total, total)

    def _measure(
        self,
        context: RunContext,
        state: dict[str, Any],
        model: ModelSpec,
        *,
        number: int,
        sets: list[Entry],
        lacking: set[str],
    ) -> None:
        """Have a model measured where it has not been, but at the sites ``lacking``, which have failed in this attempt.

        Only validation images may be missing from what a run tells, where it goes on without sites that fail.
        """

        def lack(site: str, error: UserError) -> None:
            lacking.add(site)
            context.reporter.log("warning", f"{site} measures nothing: the run goes on without it. {error.what}")

        places = [place for place in _places_of(model, sets) if f"{model.name} {place}" not in state["rows"]]
        missing = [place for place in places if sets[place][0] == "test" or sets[place][1] not in lacking]
        arrays, completing = what_is_sent(context, model) if missing else ({}, {})
        for split in dict.fromkeys(sets[place][0] for place in missing):
            asked = {sets[place][1]: (place, sets[place]) for place in missing if sets[place][0] == split}
            words = f"{model.name}, {', '.join(asked) if len(asked) < 4 else f'{len(asked)} sites'}"
            done = number * len(sets) + min(place for place, _ in asked.values())
            context.reporter.progress(done, len(context.models) * len(sets), message=words)
            context.sites.ask(
                EVALUATE,
                kind="evaluated",
                reply_kind="figures",
                to=tuple(asked),
                arrays=arrays,
                settings={
                    "role": model.architecture,
                    "model": model.name,
                    "split": split,
                    LOOKS: split == "validation" and model.role == "student" and model.scope == "run",
                    **completing,
                },
                round_number=number + 1,
                on_reply=partial(_keep, context, state, model.name, asked),
                on_lack=lack if split == "validation" else None,
            )

    def _record(
        self,
        context: RunContext,
        rows: list[EvaluationRow],
        differences: list[ModelDifference],
        *,
        images: list[dict[str, Any]],
    ) -> None:
        write_json(context.run_dir / ROWS_FILE, [asdict(row) for row in rows])
        write_json(context.run_dir / DIFFERENCES_FILE, [asdict(difference) for difference in differences])
        write_json(context.run_dir / IMAGES_FILE, images)
        context.reporter.evaluation(rows)
        context.reporter.differences(differences)


def _keep(
    context: RunContext,
    state: dict[str, Any],
    name: str,
    asked: Mapping[str, tuple[int, Entry]],
    round_number: int,
    site: str,
    reply: SiteReply,
) -> SiteReply:
    """Keep what a site has measured of the model ``name``; which site answers first changes no result."""
    place, (split, _, count) = asked[site]
    # Nobody asks an unseen site for its looks: nothing is chosen by its images, whatever it sends.
    most = {"most_images": count if split == "validation" else 0}
    halves = {key: value for key, value in reply.metrics.items() if key in variants.NAMES}
    looks = {key: value for key, value in reply.metrics.items() if key not in halves}
    fault = fault_of(looks, **most) or variants.fault_of(
        halves, wanted=(variants.FULL_DICE, variants.HALF_DICE), **most
    )
    if fault is not None:
        raise bad_reply(site, round_number=round_number, problem=fault)
    images = unpack_figures(reply.arrays, model=name, site=site, classes=context.description.classes, num_images=count)
    rows = summarise(images, split=split, config=context.config.evaluation, seed=context.config.seed)
    state["rows"][f"{name} {place}"] = [asdict(row) for row in rows]
    state["images"][f"{name} {place}"] = images
    for told, what in ((looks, "looks"), (halves, "variants")):
        if told:
            state[what].setdefault(name, {})[site] = told
    context.checkpoints.save(Evaluation.name, state)
    return replace(reply, arrays={})  # it is kept; others need not wait beside it


def _places_of(model: ModelSpec, sets: list[Entry]) -> list[int]:
    """Return where a model is measured: a site's own model at the sites that have one, those that train."""
    return [place for place, (split, _, _) in enumerate(sets) if model.scope == "run" or split == "validation"]


def _complete(state: dict[str, Any], models: Sequence[ModelSpec], sets: list[Entry]) -> set[int]:
    """Return the places where no model is missing: what is compared is compared on the same images."""
    needed = [(model.name, place) for model in models for place in _places_of(model, sets)]
    return set(range(len(sets))) - {place for name, place in needed if f"{name} {place}" not in state["rows"]}


def _stored_rows(state: dict[str, Any], keys: list[str]) -> list[EvaluationRow]:
    return [EvaluationRow(**row) for key in keys for row in state["rows"][key]]


def _image_sets(context: RunContext) -> list[Entry]:
    """Return the unseen images first, then the sources' validation images where there are any."""
    tests: list[Entry] = [("test", site.name, site.num_test) for site in context.description.tests]
    sources: list[Entry] = [("validation", site.name, site.num_validation) for site in context.description.sources]
    return [entry for entry in [*tests, *sources] if entry[2]]


def _pooled_images(context: RunContext, sets: list[Entry], images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of all sites of a test set with several of them, as one site; none where there is one.

    Sites number their images and patients on their own, so the site's name goes with the number.
    """
    tested = {site for split, site, _ in sets if split == "test"}
    if len(tested) < 2:
        return []
    return [
        {
            **image,
            "name": f"{image['site']}/{image['name']}",
            "group": f"{image['site']}/{image['group']}" if image["group"] else "",
            "site": context.description.test_name,
        }
        for image in images
        if image["site"] in tested
    ]
