"""A site's border: what its program answers, what its description tells, and the figures that stand for its images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config import EvaluationConfig, parse_config
from engine.errors import UserError
from engine.evaluation.figures import GROUP, MEASURES, pack_figures, unpack_figures
from engine.evaluation.summary import summarise
from engine.federation.connect import connect, describe
from engine.federation.descriptions import DatasetAgreement, SiteDescription
from engine.federation.payload import payload_bytes
from engine.federation.sites import QUERIES_FROM, Server
from engine.federation.tasks import DESCRIBE, EVALUATE, VALIDATE_STUDENT, SiteRequest
from engine.models.arrays import model_arrays
from engine.models.roles import build_role
from engine.runs.checkpoint import CheckpointStore
from engine.types import Traffic
from tests.unit.federation_world import student_tasks

CONFIG = parse_config(
    {
        "data": {"task": "polyp", "images_per_site": 5, "image_px": 64, "sites": ["portable_yellow", "tower_hd"],
                 "held_out": "guided_inset", "validation_fraction": 0.2},
        "student": {"name": "tinysam", "weights": None}, "device": "cpu", "precision": "fp32", "seed": 3,
    }
)  # fmt: skip


def record(
    name: str, group: str, dice: float, *, class_name: str = "polyp", hd95: float | None = 2.5
) -> dict[str, Any]:
    figures = {"iou": dice / 2, "dice_five_thresholds": 0.25, "iou_five_thresholds": 0.125, "hd95_penalised_px": 9.0}
    areas = {"missed": 1, "spurious": 0, "predicted_px": 12.0, "true_px": 40.0}
    return {"name": name, "group": group, "site": "north", "model": "m", "class_name": class_name, "dice": dice,
            "hd95_px": hd95, **figures, **areas}  # fmt: skip


RECORDS = [
    record("smith_1.png", "smith", 0.1), record("adams_1.png", "adams", 0.9, hd95=None),
    record("smith_2.png", "smith", 0.4), record("alone.png", "", 0.7),
]  # fmt: skip


def unpacked(arrays: dict[str, np.ndarray], *, classes: tuple[str, ...] = ("polyp",)) -> list[dict[str, Any]]:
    return unpack_figures(arrays, model="m", site="north", classes=classes, num_images=4)


def test_figures_cross_whole_and_names_stay() -> None:
    arrays = pack_figures(RECORDS)
    assert arrays["dice"].tolist() == [[0.1], [0.9], [0.4], [0.7]]
    assert arrays[GROUP].tolist() == [2, 1, 2, 0], "patients are numbered in the order of their names"
    back = unpacked(arrays)
    assert [(r["name"], r["group"]) for r in back] == [
        ("00000", "00002"), ("00001", "00001"), ("00002", "00002"), ("00003", "")
    ]  # fmt: skip
    measured = [{key: r[key] for key in (*MEASURES, "class_name", "model", "site")} for r in RECORDS]
    assert [{key: r[key] for key in m} for r, m in zip(back, measured, strict=True)] == measured
    assert "smith" not in repr(arrays) + repr(back)


def test_a_table_from_figures_is_the_table_from_images() -> None:
    """The bootstrap draws patients in the order of their names: numbers keep that order."""
    settings: dict[str, Any] = {"split": "test", "config": EvaluationConfig(bootstrap_samples=200), "seed": 5}
    assert summarise(unpacked(pack_figures(RECORDS)), **settings) == summarise(RECORDS, **settings)


def test_several_classes_lie_side_by_side() -> None:
    both = [
        record(f"{n}.png", "", 0.1 * n + k, class_name=c)
        for n in range(4)
        for k, c in ((0.0, "cup"), (0.2, "disc"), (0.1, "mean"))
    ]
    arrays = pack_figures(both)
    assert arrays["dice"].shape == (4, 3) and arrays["dice"][2].tolist() == pytest.approx([0.2, 0.4, 0.3])
    assert [r["class_name"] for r in unpacked(arrays, classes=("cup", "disc"))][:3] == ["cup", "disc", "mean"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dice": np.full((4, 1), 99.0)}, "'dice' has values outside 0 to 1"),
        ({"hd95_px": np.full((4, 1), -3.0)}, "'hd95_px' has values outside 0 to inf"),
        ({"dice": np.full((4, 1), np.nan)}, "'dice' has values outside"),
        ({"missed": np.full((4, 1), 0.5)}, "'missed' has values that are no counts"),
        ({"iou": np.zeros((5, 1))}, r"'iou' is float64\(5, 1\), not float64\(4, 1\)"),
        ({"iou": np.zeros((4, 1), np.float32)}, "'iou' is float32"),
        ({GROUP: np.full(4, -1)}, "'group' is int64"),
        ({"secret": np.zeros(1)}, "it has .*secret"),
    ],
)
def test_figures_that_cannot_be_are_refused_by_name(change: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(UserError, match=f"from north cannot be used: {words}") as caught:
        unpacked({**pack_figures(RECORDS), **change})
    assert caught.value.code == "federation.bad_reply"


def test_a_site_does_not_do_what_it_does_not_know(tmp_path: Path) -> None:
    answer = student_tasks(tmp_path)[VALIDATE_STUDENT]
    with pytest.raises(UserError, match=r"Site north is asked for 'query\.images'") as caught:
        answer(SiteRequest("north", "query.images"))
    assert caught.value.code == "federation.unknown_task"


@pytest.fixture
def asked(tmp_path: Path) -> Any:
    """Give the sites of a small run and what was counted."""
    traffic: list[Traffic] = []
    store = CheckpointStore(tmp_path / "checkpoints", "hash", warn=print)
    server = Server(check_cancelled=lambda: None, traffic=traffic.append)
    return connect(CONFIG, state_root=tmp_path / "sites", checkpoints=lambda: store, server=lambda: server), traffic


def test_a_description_has_counts_and_digests_alone(asked: Any) -> None:
    sites, traffic = asked
    replies = sites.ask(DESCRIBE, kind="metrics", to=(*sites.names, "guided_inset"))
    told = {name: json.loads(reply.texts["description"]) for name, reply in replies.items()}
    assert told["tower_hd"].keys() == {"name", "role", "num_train", "num_validation", "num_test", "digests"}
    counts = [told[name][f"num_{part}"] for name in sorted(told) for part in ("train", "validation", "test")]
    assert counts == [0, 0, 5, 4, 1, 0, 4, 1, 0], "guided_inset is measured on, the others train on four of five"
    assert {record.kind for record in traffic} == {"metrics"}
    assert sites.description == describe(CONFIG)
    assert all(len(digest) == 64 for about in told.values() for digest in about["digests"].values())


def test_what_is_sent_to_measure_is_counted_as_that(asked: Any) -> None:
    sites, traffic = asked
    arrays = model_arrays(build_role(CONFIG, "student", num_classes=1))
    settings = {"role": "student", "model": "fedavg_student", "split": "test"}
    how: dict[str, Any] = {"kind": "evaluated", "reply_kind": "figures", "arrays": arrays, "settings": settings}
    reply = sites.ask(EVALUATE, to=["guided_inset"], round_number=1, **how)["guided_inset"]
    assert reply.num_examples == 5 and reply.arrays["dice"].shape == (5, 1)
    down, up = (next(r for r in traffic if r.kind == kind) for kind in ("evaluated", "figures"))
    assert (down.site, down.direction, down.payload_bytes) == ("guided_inset", "down", payload_bytes(arrays))
    assert (up.direction, up.payload_bytes) == ("up", payload_bytes(reply.arrays))


def test_a_query_about_a_round_is_counted_apart_from_it(asked: Any) -> None:
    sites, traffic = asked
    arrays = model_arrays(build_role(CONFIG, "student", num_classes=1))
    sites.ask(VALIDATE_STUDENT, kind="student", arrays=arrays, round_number=2, apart=True)
    assert {record.round for record in traffic} == {QUERIES_FROM + 2}


def test_nothing_crosses_for_a_test_set_of_the_servers_own(tmp_path: Path) -> None:
    from engine.data.phantoms import write_dataset

    root = write_dataset("polyp", tmp_path / "test", images_per_site=2, image_px=64, seed=9)
    values = CONFIG.model_dump(mode="json")
    values["data"] |= {"protocol": "fixed-test", "held_out": None, "test_root": str(root)}
    config = parse_config(values)
    traffic: list[Traffic] = []
    store = CheckpointStore(tmp_path / "checkpoints", "hash", warn=print)
    server = Server(check_cancelled=lambda: None, traffic=traffic.append)
    sites = connect(config, state_root=tmp_path / "sites", checkpoints=lambda: store, server=lambda: server)
    tests = [site.name for site in sites.description.tests]
    assert len(tests) > 1 and "tower_hd_test" in tests, "a site of the test that also trains has a name of its own"
    arrays = model_arrays(build_role(config, "student", num_classes=1))
    settings = {"role": "student", "model": "fedavg_student", "split": "test"}
    sites.ask(EVALUATE, kind="evaluated", to=tests[:1], arrays=arrays, settings=settings)
    assert traffic == []


TOLD = {"name": "north", "role": "source", "num_train": 4, "num_validation": 1, "num_test": 0,
        "digests": {"train": "a" * 64}}  # fmt: skip
AGREED = {"name": "set", "task": "polyp", "modality": "endoscopy", "classes": ["polyp"], "value_range": [0.0, 255.0],
          "slice_axis": 2, "window": "auto"}  # fmt: skip


def test_what_a_site_says_of_its_data_is_read() -> None:
    assert SiteDescription.from_site(json.dumps(TOLD), name="north", role="source").num_train == 4
    agreed = DatasetAgreement.from_site(json.dumps(AGREED))
    assert (agreed.classes, agreed.value_range) == (("polyp",), (0.0, 255.0))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "south"}, "it says that it is 'south' and a source"),
        ({"role": "test"}, "and a test"),
        ({"num_train": 10**9}, "images"),
        ({"num_validation": -1}, "images"),
        ({"num_train": 0, "num_validation": 0}, "images"),
        ({"num_train": 0}, "as a source"),
        ({"num_test": 3}, "as a source"),
        ({"num_train": "4"}, "num_train: Input should be a valid integer"),
        ({"num_train": 4.5}, "num_train"),
        ({"digests": {"train": "../etc"}}, "digests"),
        ({"digests": {"train": "a" * 30_000}}, "has 30,"),
    ],
)
def test_what_a_hostile_site_says_of_its_data_is_refused(change: dict[str, Any], problem: str) -> None:
    text = json.dumps({**TOLD, **change})
    with pytest.raises(ValueError, match=problem):
        SiteDescription.from_site(text, name="north", role="source")


@pytest.mark.parametrize(
    "change",
    [
        {"classes": []},
        {"classes": ["x" * 400]},
        {"slice_axis": 7},
        {"window": "wide"},
        {"value_range": [1]},
        {"name": ""},
        {"name": "a\nb"},
        {"modality": "MR\x1b[2J"},
        {"classes": ["cup\u202e"]},
    ],
)
def test_a_dataset_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        DatasetAgreement.from_site(json.dumps({**AGREED, **change}))


def test_no_description_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="its description: Invalid JSON"):
        DatasetAgreement.from_site("")
