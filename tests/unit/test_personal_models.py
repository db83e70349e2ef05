"""What crosses and what stays where sites keep parts of the model: keys, bytes, files, figures, all by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from engine.config import FederationConfig
from engine.errors import UserError
from engine.federation.tasks import SHARE_NORMALISATION, TRAIN_STUDENT, VALIDATE_STUDENT, SiteReply, SiteRequest
from engine.models.arrays import model_arrays
from engine.runs.checkpoint import CheckpointStore
from engine.site.program import SiteProgram
from engine.site.round_files import RoundFiles
from engine.stages.federated_training import FederatedTraining
from engine.types import RunCancelled, Traffic
from tests.unit import federation_by_hand as by_hand
from tests.unit.federation_by_hand import Switches, Weights
from tests.unit.federation_world import SITES, build_unet, student_tasks
from tests.unit.test_federation_by_hand import NORM, Curves, HandContext, Interrupted, close, configure

FEDBN: dict[str, Any] = {"federation": {"normalisation": "local"}}
HEADER = 128
"""Bytes of an .npy header for so few sides."""
COUNTER = "norm.num_batches_tracked"


class Counted(Curves):
    """Keeps what was counted."""

    def __init__(self) -> None:
        super().__init__()
        self.traffic_records: list[Traffic] = []

    def traffic(self, record: Traffic) -> None:
        self.traffic_records.append(record)

    def bytes_of(self, site: str, direction: str, kind: str) -> int:
        whose = (site, direction, kind)
        return sum(t.payload_bytes for t in self.traffic_records if (t.site, t.direction, t.kind) == whose)


def run(folder: Path, change: dict[str, Any], *, reporter: Any = None) -> Counted:
    config, reporter = configure(change), reporter or Counted()
    store = CheckpointStore(folder / "checkpoints", config.content_hash(), warn=print)
    FederatedTraining().run(HandContext(config=config, run_dir=folder, reporter=reporter, checkpoints=store))
    return reporter


def model(folder: Path, name: str = "fedavg_student") -> Weights:
    return {key: tensor.numpy() for key, tensor in load_file(folder / "models" / f"{name}.safetensors").items()}


def own(folder: Path, site: str, *, before: int = 1000) -> tuple[int, Weights]:
    number, kept = RoundFiles(folder / "sites" / site, "own", "own").load(before=before)
    return number, {key: tensor.numpy() for key, tensor in kept.items()}


@pytest.fixture
def crossed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Note (task, names down, names up) of every message."""
    seen: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
    honest = SiteProgram.answer

    def answer(program: SiteProgram, request: SiteRequest, **how: Any) -> SiteReply:
        reply = honest(program, request, **how)
        seen.append((request.task, tuple(sorted(request.arrays)), tuple(sorted(reply.arrays))))
        return reply

    monkeypatch.setattr(SiteProgram, "answer", answer)
    return seen


def test_exactly_what_is_shared_crosses_to_the_byte(crossed: list[Any], tmp_path: Path) -> None:
    counted = run(tmp_path, FEDBN)
    once, shared = tuple(sorted(NORM)), ("conv.weight",)
    assert set(crossed) == {
        (TRAIN_STUDENT, shared, shared), (VALIDATE_STUDENT, shared, ()), (SHARE_NORMALISATION, (), once)
    }  # fmt: skip
    assert len(crossed) == 3 * (2 + 1 + 1), "two rounds, the last average validated, the layers asked for once"
    message = len("conv.weight") + HEADER + 3 * 4
    layers = sum(len(name) + HEADER + 4 for name in NORM)
    for site in SITES:
        assert counted.bytes_of(site, "down", "student") == 3 * message
        assert counted.bytes_of(site, "up", "student") == 2 * message
        assert counted.bytes_of(site, "up", "normalisation") == layers == 11 + 9 + 17 + 16 + 4 * 132
        assert counted.bytes_of(site, "down", "normalisation") == 0


def test_what_no_round_sends_is_not_sent_once_either(crossed: list[Any], tmp_path: Path) -> None:
    run(tmp_path, {"federation": {"normalisation": "local", "local_parameters": ["norm.*"]}})
    assert SHARE_NORMALISATION not in {task for task, _, _ in crossed}
    assert not any(name.startswith("norm.") for _, down, up in crossed for name in (*down, *up))
    assert close(model(tmp_path), by_hand.train(Switches(local=NORM)).goes_on)


def test_the_rest_differs_between_sites_and_lies_on_their_disks(tmp_path: Path) -> None:
    run(tmp_path, FEDBN)
    expected = by_hand.train(Switches(local=NORM, mean_once=True))
    kept, batches = {site: own(tmp_path, site) for site in SITES}, {"north": 3, "south": 2, "west": 2}
    for site in SITES:
        number, arrays = kept[site]
        assert number == 2 and set(arrays) == {*NORM, COUNTER}
        assert close(arrays, expected.own[site]) and int(arrays[COUNTER]) == 2 * batches[site]
    assert len({arrays["norm.running_mean"].tobytes() for _, arrays in kept.values()}) == 3
    assert list(model(tmp_path, "personal_student")) == ["conv.weight"], "the server has no site's own part"
    assert np.array_equal(model(tmp_path, "personal_student")["conv.weight"], model(tmp_path)["conv.weight"])


def test_there_is_no_personal_model_where_all_is_shared(tmp_path: Path) -> None:
    """Everything of this model is trained or a statistic: "trainable" is another way to the same bits."""
    plain = run(tmp_path / "all", {})
    trained = run(tmp_path / "trainable", {"federation": {"shared": "trainable"}})
    names = [sorted(path.name for path in (tmp_path / which / "models").iterdir()) for which in ("all", "trainable")]
    assert names == [["fedavg_student.safetensors"]] * 2
    assert not list(tmp_path.rglob("own_round_*"))
    first, second = model(tmp_path / "all"), model(tmp_path / "trainable")
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert plain.points["loss"] == trained.points["loss"] and plain.points["val_dice"] == trained.points["val_dice"]
    counted = [sorted((t.site, t.direction, t.kind, t.round, t.payload_bytes) for t in r.traffic_records if t.kind
                      == "student") for r in (plain, trained)]  # fmt: skip
    assert counted[0] == counted[1]


def test_a_run_that_was_stopped_ends_with_the_same_bits_at_every_site(tmp_path: Path) -> None:
    change = {"federation": {"rounds": 4, "normalisation": "local", "local_epochs": 2}}
    run(tmp_path / "whole", change)
    with pytest.raises(RunCancelled):
        run(tmp_path / "again", change, reporter=Interrupted())
    run(tmp_path / "again", change)
    for name in ("fedavg_student", "personal_student"):
        whole, again = model(tmp_path / "whole", name), model(tmp_path / "again", name)
        assert all(np.array_equal(whole[key], again[key]) for key in whole)
    for site in SITES:
        (_, whole), (_, again) = own(tmp_path / "whole", site), own(tmp_path / "again", site)
        assert whole.keys() == again.keys() and all(np.array_equal(whole[key], again[key]) for key in whole)


def test_a_round_that_is_trained_again_starts_from_the_same_own_part(tmp_path: Path) -> None:
    """The server was killed after a site's round and asks for it again: the answer has the same bits."""
    config = FederationConfig(normalisation="local", batch_size=2, learning_rate=1e-2)
    sent = {name: array for name, array in model_arrays(build_unet()).items() if ".adn.N." not in name}
    assert 0 < len(sent) < len(model_arrays(build_unet()))
    replies = []
    for number in (1, 2, 2, 3, 2):  # each from a new process
        answer = student_tasks(tmp_path, config=config)[TRAIN_STUDENT]
        replies.append(answer(SiteRequest("north", TRAIN_STUDENT, number, {}, sent)))
    for again in (replies[2], replies[4]):
        assert all(np.array_equal(replies[1].arrays[name], again.arrays[name]) for name in sent)
    assert any(not np.array_equal(replies[1].arrays[name], replies[3].arrays[name]) for name in sent)
    with pytest.raises(UserError, match=r"Site north was sent \d+ arrays and shares \d+; .* is '") as caught:
        answer(SiteRequest("north", TRAIN_STUDENT, 3, {}, dict(list(sent.items())[1:])))
    assert caught.value.code == "federation.shares_other"


def test_the_own_part_of_the_best_round_goes_on_with_it(tmp_path: Path) -> None:
    """Patience ends a run four rounds after its best: the sites still have what belongs to that one."""
    federation = {"rounds": 20, "learning_rate": 0.4, "patience": 4, "normalisation": "local"}
    reporter = run(tmp_path, {"federation": federation, "pos_weight": 0.3})
    judged = {step: value for (site, step), value in reporter.points["val_dice"].items() if site is None}
    best = max(judged, key=lambda step: (judged[step], -step))
    expected = by_hand.train(Switches(rounds=best, rate=0.4, pos_weight=0.3, local=NORM, mean_once=True))
    last, _ = own(tmp_path, "north")
    assert 0 < best < last - 3
    assert close(model(tmp_path), expected.goes_on)
    for site in SITES:
        number, kept = own(tmp_path, site, before=best + 1)
        assert number == best and close(kept, expected.own[site])
