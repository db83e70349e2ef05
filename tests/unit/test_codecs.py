"""Steps of ``federation.codec``: bytes and numbers worked out by hand, error feedback, and pieces that lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.config import parse_config
from engine.errors import UserError
from engine.federation.codecs.layout import ArraySpec, CodedFault, Part, join, specs_of, split
from engine.federation.codecs.piece import CODED, PieceCodec
from engine.federation.codecs.steps import Steps
from engine.federation.codecs.topk import TopK
from engine.federation.codecs.zstd import AS_IT_IS, PACKED

F = np.float32
BASE = {
    "a.weight": np.array([[1, 1, 1], [2, 2, 2]], F),
    "b.running_mean": np.array([5, 6], F),
    "c.num": np.array(3, np.int64),
    "d.bias": np.array([0, 0], F),
}
NEW = {
    "a.weight": np.array([[1.5, 1, 0], [2, 2.25, 2]], F),
    "b.running_mean": np.array([7.125, 8], F),
    "c.num": np.array(4, np.int64),
    "d.bias": np.array([-1, 0.25], F),
}
SPECS = specs_of(NEW, buffers={"b.running_mean", "c.num"})
EXACT_BYTES = 8 + 2 * 4
"""The counter and the statistics."""


def codec(*names: str, share: float = 0.5, specs: Any = SPECS) -> PieceCodec:
    return PieceCodec(Steps.of(names, topk_share=share), specs)


def crossed(*names: str, share: float = 0.5) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], int]:
    """Return what arrives of NEW, what is left, and the bytes of the piece."""
    chosen = codec(*names, share=share)
    coded = chosen.encode(NEW, base=BASE)
    return chosen.decode(coded.message, base=BASE), coded.residual, len(coded.message[CODED])


def test_parameters_alone_may_lose_something() -> None:
    assert [(spec.name, spec.is_coded, spec.num_channels) for spec in SPECS] == [
        ("a.weight", True, 2), ("b.running_mean", False, 1), ("c.num", False, 1), ("d.bias", True, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("names", [("fp16",), ("int8",), ("topk",), ("topk", "int8", "zstd"), ("zstd",)])
def test_statistics_and_counters_stay_exact(names: tuple[str, ...]) -> None:
    arrived, left, _ = crossed(*names)
    for name in ("b.running_mean", "c.num"):
        assert arrived[name].dtype == NEW[name].dtype and np.array_equal(arrived[name], NEW[name])
        assert name not in left
    assert all(arrived[name].shape == NEW[name].shape for name in NEW)
    assert all(array.flags.writeable for array in arrived.values())


def test_int8_has_a_scale_for_each_output_channel() -> None:
    arrived, left, num_bytes = crossed("int8")
    # Updates of a.weight: [0.5, 0, -1] and [0, 0.25, 0], so scales 1 / 127 and 0.25 / 127; 0.5 is 63.5 scales, which
    # goes to the even 64. Of d.bias, a vector: [-1, 0.25] with one scale 1 / 127; 0.25 is 31.75 scales, goes to 32.
    scale = F(1) / F(127)
    expected = np.array([[1 + 64 * scale, 1, 1 - 127 * scale], [2, 2.25, 2]], F)
    assert np.allclose(arrived["a.weight"], expected, rtol=0, atol=2e-7)
    assert np.allclose(arrived["d.bias"], [-1, 32 / 127], rtol=0, atol=2e-7)
    assert np.allclose(left["a.weight"], [[0.5 - 64 / 127, 0, 0], [0, 0, 0]], rtol=0, atol=2e-7)
    assert np.allclose(left["d.bias"], [0, 0.25 - 32 / 127], rtol=0, atol=2e-7)
    assert num_bytes == EXACT_BYTES + (2 * 4 + 6) + (4 + 2)


def test_a_channel_without_update_has_scale_zero() -> None:
    chosen = codec("int8")
    coded = chosen.encode(BASE, base=BASE)
    arrived = chosen.decode(coded.message, base=BASE)
    assert all(np.array_equal(arrived[name], BASE[name]) for name in BASE)


def test_fp16_halves_the_bytes_of_the_update_not_of_the_weight() -> None:
    base, new = {"w": np.array([1000], F)}, {"w": np.array([1000 + 2**-12], F)}
    chosen = codec("fp16", specs=specs_of(new, buffers=()))
    coded = chosen.encode(new, base=base)
    # The update, 2 ** -12, is a half exactly; the weight would not be: halves near 1000 are 0.5 apart.
    assert chosen.decode(coded.message, base=base)["w"][0] == new["w"][0]
    assert len(coded.message[CODED]) == 2 and coded.residual["w"][0] == 0
    far = chosen.encode({"w": np.array([1e6], F)}, base={"w": np.zeros(1, F)})
    assert far.residual["w"][0] == F(1e6) - F(65504)


def test_topk_sends_the_largest_and_keeps_the_rest() -> None:
    arrived, left, num_bytes = crossed("topk", share=0.3)
    # Of a.weight's 6 updates 2 go: -1 and 0.5; of d.bias's 2 one: -1.
    assert arrived["a.weight"].tolist() == [[1.5, 1, 0], [2, 2, 2]]
    assert left["a.weight"].tolist() == [[0, 0, 0], [0, 0.25, 0]]
    assert arrived["d.bias"].tolist() == [-1, 0] and left["d.bias"].tolist() == [0, 0.25]
    assert num_bytes == EXACT_BYTES + (1 + 2 * 4) + (1 + 4), "a byte of bits each, and the numbers"


def test_what_is_left_goes_later() -> None:
    chosen = codec("topk", "int8", share=0.3)
    first = chosen.encode(NEW, base=BASE)
    second = chosen.encode(BASE, base=BASE, residual=first.residual)
    # Nothing new is learnt; what was left of a.weight, 0.25 and the rounding of 0.5, goes now.
    arrived = chosen.decode(second.message, base=BASE)
    assert arrived["a.weight"][1, 1] == pytest.approx(2.25, abs=0.25 / 254)
    total = sum((chosen.decode(m.message, base=BASE)["a.weight"] - BASE["a.weight"]) for m in (first, second))
    assert np.allclose(total + second.residual["a.weight"], NEW["a.weight"] - BASE["a.weight"], rtol=0, atol=1e-6)


def test_error_feedback_brings_everything_in_the_end() -> None:
    """With the same small step in every round, the sum of what arrives follows the sum of the steps."""
    rng = np.random.default_rng(5)
    step = {"w": rng.normal(0, 1e-3, (8, 40)).astype(F)}
    zero = {"w": np.zeros((8, 40), F)}
    chosen = codec("topk", "int8", share=0.1, specs=specs_of(step, buffers=()))
    residual, total = None, np.zeros((8, 40))
    for _ in range(50):
        coded = chosen.encode(step, base=zero, residual=residual)
        total += chosen.decode(coded.message, base=zero)["w"]
        residual = coded.residual
    assert residual is not None
    assert np.allclose(total + residual["w"], 50 * step["w"], rtol=0, atol=1e-5)
    assert np.abs(residual["w"]).max() < 20 * np.abs(step["w"]).max(), "it does not grow with the rounds"


@pytest.mark.parametrize(
    ("size", "share", "kept", "dtype", "count"),
    [
        (30, 0.1, 3, "uint8", 4),  # 0.1 * 30 is 3.0000000000000004
        (31, 0.1, 4, "uint8", 4),
        (1, 0.1, 1, "uint8", 0),  # all go: nothing says where
        (5, 1.0, 5, "uint8", 0),
        (3200, 1 / 32, 100, "uint8", 400),  # 400 bytes of bits are as short as 100 places
        (3208, 1 / 32, 101, "uint8", 401),
        (3200, 0.03, 96, "uint32", 96),
    ],
)
def test_places_are_written_the_shorter_way(size: int, share: float, kept: int, dtype: str, count: int) -> None:
    topk = TopK(share)
    assert topk.num_kept(size) == kept and topk.part(size) == Part(dtype, count)
    update = np.random.default_rng(1).normal(size=size).astype(F)
    places = topk.choose(update)
    assert set(places) == set(np.argsort(-np.abs(update), kind="stable")[:kept]) and (np.diff(places) > 0).all()
    written = topk.write(places, size=size)
    assert written.dtype == dtype and len(written) == count
    assert np.array_equal(topk.read(written, size=size), places)


def test_of_equal_entries_the_first_go() -> None:
    assert TopK(0.5).choose(np.array([1, -1, 1, 1, 2, 0], F)).tolist() == [0, 1, 4]


def test_zstd_loses_nothing_and_wide_numbers_are_shuffled() -> None:
    arrived, left, num_bytes = crossed("zstd")
    assert not left and all(np.array_equal(arrived[name], NEW[name]) for name in NEW)
    assert num_bytes <= codec("zstd").max_bytes == sum(array.nbytes for array in NEW.values()) + 1
    arrays = [np.array([1, 2], np.uint8), np.array([0x0102, 0x0304], "<u2"), np.array([5], np.uint8)]
    assert join(arrays, shuffled=False) == bytes([2, 1, 4, 3, 1, 2, 5])
    data = join(arrays, shuffled=True)
    assert data == bytes([2, 4, 1, 3, 1, 2, 5])
    back = split(data, [Part(str(array.dtype), len(array)) for array in arrays], shuffled=True)
    assert all(np.array_equal(one, two) for one, two in zip(arrays, back, strict=True))


def test_zstd_packs_what_can_be_packed_and_leaves_the_rest() -> None:
    alike = {"w": np.full((64, 64), 0.5, F)}
    chosen = codec("zstd", specs=specs_of(alike, buffers=()))
    piece = chosen.encode(alike).message[CODED]
    assert piece[0] == PACKED and len(piece) < 100
    noise = {"w": np.random.default_rng(0).integers(0, 256, 4 * 64 * 64, np.uint8).view(F).reshape(64, 64)}
    piece = chosen.encode(noise).message[CODED]
    assert piece[0] == AS_IT_IS and len(piece) == chosen.max_bytes


@pytest.mark.parametrize("names", [("fp16",), ("int8",), ("topk", "int8"), ("topk", "fp16", "zstd")])
def test_an_update_that_is_no_number_is_refused_where_it_is_made(names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"The update of 'd\.bias' has numbers that are not finite"):
        codec(*names).encode({**NEW, "d.bias": np.array([np.nan, 0], F)}, base=BASE)


def piece_of(*names: str, share: float = 0.3) -> tuple[PieceCodec, np.ndarray]:
    chosen = codec(*names, share=share)
    return chosen, chosen.encode(NEW, base=BASE).message[CODED].copy()


def refused(chosen: PieceCodec, message: dict[str, np.ndarray]) -> str:
    with pytest.raises(CodedFault) as caught:
        chosen.decode(message, base=BASE)
    return str(caught.value)


def test_a_piece_of_another_kind_or_length_is_refused() -> None:
    chosen, piece = piece_of("int8")
    assert "not one coded piece" in refused(chosen, {"w": piece})
    assert "not one coded piece" in refused(chosen, {CODED: piece, "w": piece})
    assert "not bytes" in refused(chosen, {CODED: piece.reshape(1, -1)})
    assert "not bytes" in refused(chosen, {CODED: piece.astype(F)})
    for wrong in (piece[:-1], np.append(piece, np.uint8(0)), piece[:0]):
        assert f"has {len(wrong)} bytes, and the model's has 36" in refused(chosen, {CODED: wrong})


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0])
def test_a_scale_that_none_can_be_is_refused(scale: float) -> None:
    chosen, piece = piece_of("int8")
    piece[8:12] = np.frombuffer(F(scale).tobytes(), np.uint8)  # after the counter: the first scale of a.weight
    assert refused(chosen, {CODED: piece}) == "of 'a.weight' it has a scale that is negative or not finite"


def test_numbers_that_are_not_finite_are_refused() -> None:
    for name, itemsize in (("fp16", 2), ("topk", 4)):
        chosen, piece = piece_of(name)
        at = len(piece) - itemsize if name == "fp16" else 8  # the last number; the first behind the counter
        bad = np.float16(np.nan) if name == "fp16" else F(np.inf)
        piece[at : at + itemsize] = np.frombuffer(bad.tobytes(), np.uint8)
        assert "numbers that are not finite" in refused(chosen, {CODED: piece})


@pytest.mark.parametrize("bits", [0b11100000, 0b10000000, 0b10000010, 0b10000001])
def test_bits_that_mark_too_many_or_places_outside_are_refused(bits: int) -> None:
    chosen, piece = piece_of("topk")
    assert chosen.steps.chosen is not None
    piece[-2] = bits  # of a.weight: six places, two of which are marked
    assert "marks" in refused(chosen, {CODED: piece})


def test_places_outside_or_twice_are_refused() -> None:
    spec = (ArraySpec("w", "float32", (100, 100), is_coded=True),)
    chosen = codec("topk", share=0.001, specs=spec)
    base, new = {"w": np.zeros((100, 100), F)}, {"w": np.arange(10_000, dtype=F).reshape(100, 100)}
    piece = chosen.encode(new, base=base).message[CODED].copy()
    assert len(piece) == 10 * 4 + 10 * 4, "places are as wide as numbers, and come before them"
    places = piece[:40].view(np.uint32)
    assert places.tolist() == list(range(9_990, 10_000))
    for wrong, said in (([9_998, 10_000], "a place 10000 in an array of 10000"), ([9_998, 9_998], "one twice"),
                        ([9_999, 9_998], "not in ascending order")):  # fmt: skip
        places[-2:] = wrong
        with pytest.raises(CodedFault, match=said):
            chosen.decode({CODED: piece}, base=base)


def test_a_packed_piece_cannot_be_more_than_the_model() -> None:
    from imagecodecs import zstd_encode

    chosen, _ = piece_of("int8", "zstd")
    for claimed, said in ((10**8, "cannot be unpacked into 36 bytes"), (35, "unpacks into 35 bytes, not 36")):
        packed = np.frombuffer(bytes([PACKED]) + bytes(zstd_encode(bytes(claimed), level=19)), np.uint8)
        if len(packed) > chosen.max_bytes:
            assert "and the model's has 37" in refused(chosen, {CODED: packed})
            continue
        assert said in refused(chosen, {CODED: packed})
    assert "does not begin" in refused(chosen, {CODED: np.full(37, 9, np.uint8)})
    assert "unpacks into 5 bytes" in refused(chosen, {CODED: np.zeros(6, np.uint8)})
    assert "does not begin" in refused(chosen, {CODED: np.zeros(0, np.uint8)})


def test_a_bomb_is_not_unpacked() -> None:
    from imagecodecs import zstd_encode

    spec = (ArraySpec("w", "float32", (30, 10), is_coded=True),)
    bomb = bytes([PACKED]) + bytes(zstd_encode(bytes(10**7), level=19))
    chosen = codec("zstd", specs=spec)
    assert len(bomb) < chosen.max_bytes == 1201
    with pytest.raises(CodedFault, match="cannot be unpacked into 1,200 bytes"):
        chosen.decode({CODED: np.frombuffer(bomb, np.uint8)})


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (["int8", "topk"], "'topk' cannot come after 'int8'"),
        (["zstd", "int8"], "'int8' cannot come after 'zstd'"),
        (["fp16", "int8"], "'fp16' and 'int8' both say how numbers are written"),
        (["int8", "int8"], "'int8' is given twice"),
        (["lz4"], "'topk', 'fp16', 'int8' or 'zstd'"),
    ],
)
def test_a_senseless_order_is_refused_in_words(steps: list[str], said: str) -> None:
    for key in ("codec", "codec_down"):
        with pytest.raises(UserError, match=said) as caught:
            parse_config({"federation": {key: steps}})
        assert f"federation.{key}" in caught.value.what


def test_without_a_codec_a_run_is_known_by_the_hash_of_before() -> None:
    assert parse_config({"federation": {"codec": []}}).content_hash() == parse_config({}).content_hash()
    assert parse_config({"federation": {"codec": ["zstd"]}}).content_hash() != parse_config({}).content_hash()
