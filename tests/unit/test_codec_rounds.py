"""Rounds whose messages are coded, over real Flower messages: equal to a few independent lines, resumable, checked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config import FederationConfig
from engine.errors import UserError
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.checks import RoundChecks
from engine.federation.client_app import build_client_app
from engine.federation.codecs.layout import specs_of
from engine.federation.codecs.piece import BASE_ROUND, CODED, PieceCodec
from engine.federation.codecs.steps import Steps
from engine.federation.coded_rounds import CodedRounds
from engine.federation.payload import payload_bytes
from engine.federation.rounds import run_rounds
from engine.federation.tasks import SiteReply, SiteRequest
from engine.models.arrays import buffer_names, load_arrays, model_arrays
from engine.models.objective import Objective
from engine.site.coded import write_model
from engine.site.context import SiteContext
from engine.site.local_training import train_site
from engine.types import Traffic
from tests.unit.federation_world import CONFIG, CPU, SEED, SITES, SIZES, Discs, build_unet, student_tasks

Arrays = dict[str, np.ndarray]
SHARE = 0.2
BOTH = CONFIG.model_copy(
    update={"codec": ("topk", "int8", "zstd"), "codec_down": ("topk", "int8"), "topk_share": SHARE, "local_epochs": 1}
)
BUFFERS = buffer_names(build_unet())
Wrap = Callable[[SiteRequest, Callable[[SiteRequest], SiteReply]], SiteReply]


def rounds(
    root: Path, *, until: int, config: FederationConfig = BOTH, arrays: Arrays | None = None, start: int = 1,
    state: Mapping[str, Any] | None = None, wrap: Wrap | None = None, **how: Any,
) -> tuple[Arrays, dict[str, Any]]:  # fmt: skip
    """Run rounds in a new process's grid, the sites' disks kept; return the model and the state of the coding."""
    tasks = student_tasks(root, config=config)
    if wrap is not None:
        plain = dict(tasks)
        tasks = {name: lambda request, task=task: wrap(request, task) for name, task in plain.items()}
    coding = CodedRounds.of(config, buffers=BUFFERS)
    assert coding is not None
    coding.restore(state or {})
    grid = InProcessGrid(build_client_app(tasks), sites=SITES)
    first = model_arrays(build_unet()) if arrays is None else arrays
    end = run_rounds(grid, arrays=first, sites=SITES, rounds=until, start_round=start, coding=coding, **how)
    return end, coding.state()


def told(update: np.ndarray, share: float) -> np.ndarray:
    """What arrives of an update: its largest entries, in 127 steps of the largest."""
    flat, arrives = update.reshape(-1), np.zeros(update.size, np.float32)
    chosen = np.argsort(-np.abs(flat), kind="stable")[: max(1, int(np.ceil(share * flat.size - 1e-9)))]
    scale = np.float32(np.abs(flat[chosen]).max() / 127)
    if scale > 0:
        arrives[chosen] = np.rint(flat[chosen] / scale) * scale
    return arrives.reshape(update.shape)


def by_hand(root: Path, *, until: int) -> tuple[Arrays, Arrays]:
    """Return (the server's model, what the sites had of it) after rounds written out in numpy."""
    server = model_arrays(build_unet())
    floats = [name for name in server if name not in BUFFERS]
    had: Arrays = {}
    left = {site: {name: np.zeros_like(server[name]) for name in floats} for site in SITES}
    for number in range(1, until + 1):
        had = {n: had[n] + told(a - had[n], SHARE) if number > 1 and n in floats else a for n, a in server.items()}
        local = {}
        for site in SITES:
            model = CPU.place(build_unet())
            load_arrays(model, had)
            train_site(
                model, Discs(site, SIZES[site]), config=BOTH, objective=Objective(), seed=SEED, site=site,
                round_number=number, state_dir=root / site, placement=CPU, check_cancelled=lambda: None,
            )  # fmt: skip
            local[site] = model_arrays(model)
            for name in floats:
                update = local[site][name] - had[name] + left[site][name]
                arrives = told(update, SHARE)
                left[site][name] = update - arrives
                local[site][name] = had[name] + arrives
        after = {}
        for name, array in server.items():
            if array.dtype != np.float32:
                after[name] = local[SITES[0]][name]
                continue
            total = sum(SIZES[site] * local[site][name].astype(np.float64) for site in SITES)
            after[name] = (total / sum(SIZES.values())).astype(np.float32)
            if name in floats:
                after[name] = after[name] + (array - had[name])
        server = after
    return server, had


def same(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> bool:
    equal = [first[n].dtype == second[n].dtype and np.array_equal(first[n], second[n]) for n in second]
    return first.keys() == second.keys() and all(equal)


def test_rounds_are_those_of_a_few_independent_lines(tmp_path: Path) -> None:
    traffic: list[Traffic] = []
    found, state = rounds(tmp_path / "ours", until=3, on_traffic=traffic.append)
    expected, had = by_hand(tmp_path / "hand", until=3)
    assert same(found, expected)
    assert state["round"] == 3 and state["sites"] == sorted(SITES) and same(state["arrays"], had)
    assert not same(expected, had), "the sites have not been told everything yet"
    first = model_arrays(build_unet())
    specs = specs_of(first, buffers=BUFFERS)
    down = PieceCodec(Steps.of(BOTH.codec_down, topk_share=SHARE), specs)
    framed = len(CODED) + 128
    whole = framed + sum(array.nbytes for array in first.values())
    sent = {(r.round, r.site): r.payload_bytes for r in traffic if (r.kind, r.direction) == ("student", "down")}
    assert sent == {(n, s): whole if n == 1 else framed + down.content_bytes for n in (1, 2, 3) for s in SITES}
    most = framed + PieceCodec(Steps.of(BOTH.codec, topk_share=SHARE), specs).max_bytes
    up = [r.payload_bytes for r in traffic if (r.kind, r.direction) == ("student", "up")]
    assert len(up) == 9 and all(0.3 * most < count <= most for count in up)


def test_lossless_steps_change_no_bit(tmp_path: Path) -> None:
    packed = CONFIG.model_copy(update={"codec": ("zstd",), "codec_down": ("zstd",), "local_epochs": 1})
    found, state = rounds(tmp_path / "packed", until=2, config=packed)
    plain = CONFIG.model_copy(update={"local_epochs": 1})
    grid = InProcessGrid(build_client_app(student_tasks(tmp_path / "plain", config=plain)), sites=SITES)
    assert same(found, run_rounds(grid, arrays=model_arrays(build_unet()), sites=SITES, rounds=2)) and state == {}
    assert not list((tmp_path / "packed").rglob("*_round_*.safetensors")) or all(
        path.name.startswith("adam") for path in (tmp_path / "packed").rglob("*_round_*.safetensors")
    )


def test_a_run_that_goes_on_has_the_same_bits(tmp_path: Path) -> None:
    whole, _ = rounds(tmp_path / "whole", until=3)
    half, state = rounds(tmp_path / "half", until=1)
    assert same(rounds(tmp_path / "half", until=3, start=2, arrays=half, state=state)[0], whole)
    # Round 2 and a half of round 3, of which nobody has kept anything but the sites: they are asked again.
    half, state = rounds(tmp_path / "again", until=1)
    rounds(tmp_path / "again", until=3, start=2, arrays=half, state=state)
    assert same(rounds(tmp_path / "again", until=3, start=2, arrays=half, state=state)[0], whole)


def test_a_site_that_missed_a_round_is_sent_the_whole(tmp_path: Path) -> None:
    asked: dict[tuple[str, int], tuple[int, np.ndarray]] = {}

    def wrap(request: SiteRequest, task: Callable[[SiteRequest], SiteReply]) -> SiteReply:
        asked[request.site, request.round] = (int(request.settings[BASE_ROUND]), request.arrays[CODED])
        if (request.site, request.round) == ("south", 2):
            raise RuntimeError("the power is off")
        return task(request)

    _, state = rounds(tmp_path, until=3, wrap=wrap, quorum=2)
    assert {key: base for key, (base, _) in asked.items()} == {
        ("north", 1): 0, ("south", 1): 0, ("west", 1): 0, ("north", 2): 1, ("south", 2): 1, ("west", 2): 1,
        ("north", 3): 2, ("south", 3): 0, ("west", 3): 2,
    }  # fmt: skip
    whole = asked["south", 3][1].tobytes()
    floats = sorted(n for n in state["arrays"] if state["arrays"][n].dtype == np.float32)
    last = state["arrays"][floats[-1]].tobytes()
    assert whole.endswith(last), "what the others make of their update, to the bit"
    assert state["sites"] == sorted(SITES)


def test_a_site_that_has_lost_the_model_is_asked_again_with_the_whole(tmp_path: Path) -> None:
    undisturbed, _ = rounds(tmp_path / "undisturbed", until=3)
    half, state = rounds(tmp_path / "lost", until=2)
    for path in (tmp_path / "lost" / "west").glob("received_round_*"):
        path.unlink()
    bases = []

    def wrap(request: SiteRequest, task: Callable[[SiteRequest], SiteReply]) -> SiteReply:
        bases.append((request.site, int(request.settings[BASE_ROUND])))
        return task(request)

    found, _ = rounds(tmp_path / "lost", until=3, start=3, arrays=half, state=state, wrap=wrap)
    assert bases == [("north", 2), ("south", 2), ("west", 2), ("west", 0)] and same(found, undisturbed)


def test_a_site_that_has_lost_what_it_left_out_says_so(tmp_path: Path) -> None:
    half, state = rounds(tmp_path, until=2)
    for path in (tmp_path / "west").glob("left_round_*"):
        path.unlink()
    with pytest.raises(UserError, match="west has kept of its earlier updates is of round 0, its optimiser of round 2"):
        rounds(tmp_path, until=3, start=3, arrays=half, state=state)


def scaled(reply: SiteReply) -> SiteReply:
    """A site whose scales are infinite: the first of its message's floats after the exact arrays."""
    piece = reply.arrays[CODED].copy()
    piece[:] = 0
    return replace(reply, arrays={CODED: piece})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (scaled, "unpacks into|marks|does not begin"),
        (lambda reply: replace(reply, arrays={CODED: reply.arrays[CODED][:-1]}), "cannot be unpacked|unpacks into"),
        (lambda reply: replace(reply, arrays={CODED: np.zeros(10**6, np.uint8)}), "more than the"),
        (lambda reply: replace(reply, arrays={"x": np.zeros(3, np.uint8)}), "not one coded piece"),
        (lambda reply: replace(reply, arrays=model_arrays(build_unet())), "not one coded piece|more than the"),
    ],
)
def test_a_site_that_sends_no_piece_is_named(
    changed: Callable[[SiteReply], SiteReply], said: str, tmp_path: Path
) -> None:
    def wrap(request: SiteRequest, task: Callable[[SiteRequest], SiteReply]) -> SiteReply:
        reply = task(request)
        return changed(reply) if request.site == "south" else reply

    with pytest.raises(UserError, match=f"The reply of site south in round 1 cannot be used: .*({said})") as caught:
        rounds(tmp_path, until=1, wrap=wrap)
    assert caught.value.code == "federation.bad_reply"


def test_what_is_read_of_a_piece_is_checked_as_any_reply_is(tmp_path: Path) -> None:
    """An update of 1e38 in every weight is finite as it comes and cannot be used beside the others'."""
    config = BOTH.model_copy(update={"codec": ("int8",)})
    codec = PieceCodec(Steps.of(("int8",), topk_share=SHARE), specs_of(model_arrays(build_unet()), buffers=BUFFERS))

    def wrap(request: SiteRequest, task: Callable[[SiteRequest], SiteReply]) -> SiteReply:
        reply = task(request)
        if request.site != "west":
            return reply
        zero = {name: np.zeros_like(array) for name, array in model_arrays(build_unet()).items()}
        huge = {name: array if name in BUFFERS else array + np.float32(1e4) for name, array in zero.items()}
        return replace(reply, arrays=codec.encode(huge, base=zero).message)

    with pytest.raises(UserError, match=r"west.*its update is .* times as large as the median"):
        rounds(tmp_path, until=1, config=config, wrap=wrap, checks=RoundChecks(buffers=BUFFERS, update_limit=10.0))


def test_a_site_refuses_what_no_server_sends(tmp_path: Path) -> None:
    tasks = student_tasks(tmp_path, config=BOTH)
    request = SiteRequest("north", "train.student", 1, {BASE_ROUND: 0}, {CODED: np.zeros(5, np.uint8)})
    with pytest.raises(UserError, match=r"What site north was sent in round 1 cannot be read: .* has 5 bytes"):
        tasks["train.student"](request)
    shutil.rmtree(tmp_path / "north", ignore_errors=True)


def test_a_message_is_counted_as_its_piece() -> None:
    for size in (0, 1, 10**6):
        assert payload_bytes({CODED: np.zeros(size, np.uint8)}) == len(CODED) + 128 + size


@pytest.mark.parametrize("cut_off", [(1,), (2,), (2, 3)])
def test_a_site_whose_round_was_cut_off_before_its_message_takes_part_again(
    cut_off: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimiser has been kept, and what the message leaves has not; the round goes on without the site."""
    left: dict[int, list[bytes]] = {}

    def write(site: SiteContext, arrays: Arrays, *, received: Arrays, round_number: int) -> Any:
        if site.site == "south" and round_number in cut_off:
            raise RuntimeError("the power is off")
        return write_model(site, arrays, received=received, round_number=round_number)

    def wrap(request: SiteRequest, task: Callable[[SiteRequest], SiteReply]) -> SiteReply:
        if request.site == "south":
            files = sorted((tmp_path / "south").glob("left_round_*"))
            left[request.round] = [path.read_bytes() for path in files[-1:]]
        return task(request)

    monkeypatch.setattr("engine.site.tasks.student.write_model", write)
    took_part = []
    rounds(tmp_path, until=4, wrap=wrap, quorum=2, on_round=lambda r: took_part.append(sorted(r.metrics)))
    without = sorted(set(SITES) - {"south"})
    assert took_part == [without if number in cut_off else sorted(SITES) for number in (1, 2, 3, 4)]
    if cut_off == (2, 3):
        assert left[2] == left[3] == left[4] != [], "what round 1 has left is still to be sent"


def test_a_received_model_that_is_damaged_is_sent_again(tmp_path: Path) -> None:
    undisturbed, _ = rounds(tmp_path / "undisturbed", until=3)
    half, state = rounds(tmp_path / "damaged", until=2)
    newest = max((tmp_path / "damaged" / "west").glob("received_round_*"))
    newest.write_bytes(newest.read_bytes()[:-4] + b"\1\2\3\4")
    assert same(rounds(tmp_path / "damaged", until=3, start=3, arrays=half, state=state)[0], undisturbed)
