"""Sites with students of different kinds: each trains and is measured with its own, and nothing is averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from engine.config import RunConfig, parse_config
from engine.errors import UserError
from engine.federation.connect import connect
from engine.federation.sites import Server, Sites
from engine.federation.tasks import EVALUATE, OWN_ROUND, TRAIN_STUDENT, VALIDATE_STUDENT
from engine.models.registry import build_model
from engine.models.roles import at_site
from engine.planning.plan import plan
from engine.runs.checkpoint import CheckpointStore
from engine.stages.context import RunContext
from engine.stages.federated_training import FederatedTraining
from engine.types import Traffic

SITES = ("dapi_20x", "he_pink")
VALUES: dict[str, Any] = {
    "method": "fedtinysam", "device": "cpu", "precision": "fp32", "seed": 3, "threads": 1,
    "data": {"task": "nuclei", "images_per_site": 4, "image_px": 32, "sites": list(SITES), "held_out": "he_violet",
             "validation_fraction": 0.3},
    "student": {"name": "tinysam", "weights": None},
    "federation": {"rounds": 2, "batch_size": 4, "site_students": ["he_pink=unet/mini"]},
}  # fmt: skip


def configure(**federation: Any) -> RunConfig:
    return parse_config({**VALUES, "federation": {**VALUES["federation"], **federation}})


def connected(folder: Path) -> tuple[Sites, list[Traffic]]:
    traffic: list[Traffic] = []
    store = CheckpointStore(folder / "checkpoints", "hash", warn=print)
    server = Server(check_cancelled=lambda: None, traffic=traffic.append)
    state = {"state_root": folder / "sites", "checkpoints": lambda: store, "server": lambda: server}
    return connect(configure(), **state), traffic


def test_each_site_trains_keeps_and_measures_a_student_of_its_own_kind(tmp_path: Path) -> None:
    sites, traffic = connected(tmp_path)
    losses = {}
    for number in (1, 2):
        replies = sites.ask(TRAIN_STUDENT, kind="student", round_number=number)
        assert all(not reply.arrays for reply in replies.values())
        losses[number] = {site: reply.metrics["loss"] for site, reply in replies.items()}
    assert all(losses[2][site] < losses[1][site] for site in SITES), "it goes on from its own weights"
    assert {record.kind for record in traffic} == {"metrics"}, "no weight crosses"
    for site, kind in zip(SITES, ("tinysam", "unet"), strict=True):
        kept = load_file(tmp_path / "sites" / site / "own_round_000002.safetensors")
        assert kept.keys() == build_model(kind, size="mini", image_px=32, seed=0).state_dict().keys()
    settings = {"role": "student", "model": "personal_student", "split": "validation", OWN_ROUND: 2}
    figures = sites.ask(EVALUATE, kind="evaluated", reply_kind="figures", settings=settings)
    assert all(reply.arrays["dice"].shape == (reply.num_examples, 1) for reply in figures.values())
    again, _ = connected(tmp_path)
    first, second = (s.ask(VALIDATE_STUDENT, kind="student", round_number=2) for s in (sites, again))
    for site in SITES:
        assert first[site].metrics["val_loss"] == second[site].metrics["val_loss"], "a site that was restarted has it"


def test_a_site_sees_its_own_student_in_the_settings() -> None:
    config = configure()
    assert at_site(config, "dapi_20x") is config
    there = at_site(config, "he_pink")
    assert (there.student.name, there.student.size, there.student.weights) == ("unet", "mini", None)
    assert there.data == config.data and there.federation == config.federation


def test_averaging_refuses_models_that_have_no_weights_in_common(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", "hash", warn=print)
    context = RunContext(config=configure(), run_dir=tmp_path, reporter=None, checkpoints=store)  # type: ignore[arg-type]
    for refuse in (lambda: FederatedTraining().run(context), lambda: plan(configure(), home=tmp_path)):
        with pytest.raises(UserError, match=r"are to be averaged, .* others \(he_pink: unet/mini\)") as caught:
            refuse()
        assert caught.value.code == "sharing.architectures"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["he_pink"], "'he_pink' is not SITE=MODEL/SIZE"),
        (["he_pink=unet"], "'he_pink=unet' is not SITE=MODEL/SIZE"),
        (["a=unet/mini", "a=sam/mini"], "a site has two models"),
    ],
)
def test_what_is_no_mapping_is_refused(given: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        configure(site_students=given)


@pytest.mark.parametrize(
    ("given", "words"),
    [("nowhere=unet/mini", "names 'nowhere', which does not train"), ("he_pink=unet/huge", "no model unet/huge")],
)
def test_a_plan_knows_sites_and_models(given: str, words: str) -> None:
    from engine.planning.compatibility import check_site_students

    with pytest.raises(UserError, match=words):
        check_site_students(configure(site_students=[given]), ("evaluation",), sources=SITES)
