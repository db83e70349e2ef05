"""What a plan says of coded messages: bytes to the byte, from a table, of messages that real models make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine.config import RunConfig, parse_config
from engine.federation.codecs.layout import specs_of
from engine.federation.codecs.piece import CODED, PieceCodec
from engine.federation.codecs.steps import Steps
from engine.models.arrays import buffer_names
from engine.models.roles import build_role
from engine.models.state_keys import shared_parameters
from engine.planning.codec_bytes import HEADER_BYTES, codec_sentences, round_messages
from engine.planning.model_keys import model_keys
from engine.planning.plan import plan
from engine.planning.records import Plan

FRAME = len(CODED) + HEADER_BYTES
KEYS = model_keys("tinysam/mini", num_classes=1)
ALL = sum(key.num_bytes for key in KEYS)
EXACT = sum(key.num_bytes for key in KEYS if key.is_buffer)
NUMBERS = (ALL - EXACT) // 4
CHANNELS = sum(key.num_channels for key in KEYS if not key.is_buffer)


def configured(method: str = "fedtinysam", **federation: Any) -> RunConfig:
    data = {"task": "polyp", "images_per_site": 6, "image_px": 128, "sites": ["tower_hd", "guided_inset"]}
    data |= {"held_out": "portable_yellow"}
    return parse_config({"method": method, "device": "cpu", "data": data, "federation": {"rounds": 3, **federation}})


def model_of(config: RunConfig, *, num_classes: int) -> nn.Module:
    with torch.device("meta"):
        return build_role(config, "student", num_classes=num_classes)


@pytest.mark.parametrize("num_classes", [1, 2])
@pytest.mark.parametrize(
    ("codec", "settings"),
    [
        (("int8",), {}),
        (("fp16",), {"normalisation": "local"}),
        (("topk", "int8"), {"topk_share": 0.01}),
        (("topk", "int8", "zstd"), {"shared": "trainable"}),
        (("topk",), {"topk_share": 0.25, "local_parameters": ["mask_decoder.*"]}),
    ],
)
@pytest.mark.parametrize("method", ["fedtinysam", "fedunet", "fedavg_lora", "pfedsam"])
def test_the_table_gives_the_bytes_of_a_real_model_s_piece(
    method: str, codec: tuple[str, ...], settings: dict[str, Any], num_classes: int
) -> None:
    if method == "fedunet" and (settings.keys() & {"normalisation", "local_parameters"} or num_classes == 1):
        pytest.skip("a U-Net has no such layers or keys, and the table has that of two classes")
    config = configured(method, codec=codec, codec_down=codec, **settings)
    model = model_of(config, num_classes=num_classes)
    shared = shared_parameters(model, config.federation, name="m").of(model.state_dict())
    shapes = {n: np.broadcast_to(np.zeros((), str(t.dtype)[6:]), t.shape) for n, t in shared.items()}
    steps = Steps.of(codec, topk_share=config.federation.topk_share)
    real = PieceCodec(steps, specs_of(shapes, buffers=buffer_names(model)))
    found = round_messages(config, num_classes=num_classes, plain_bytes=1)
    assert found.sent_up == found.update_down == FRAME + real.max_bytes
    assert found.whole_down == FRAME + sum(array.nbytes for array in shapes.values()) + ("zstd" in codec)


def planned(tmp_path: Path, **federation: Any) -> Plan:
    return plan(configured(**federation), home=tmp_path)


def bytes_of(found: Plan, direction: str) -> set[int]:
    return {row.payload_bytes for row in found.traffic if (row.direction, row.kind) == (direction, "student")}


def test_a_plan_counts_each_round_s_messages(tmp_path: Path) -> None:
    int8 = FRAME + EXACT + NUMBERS + 4 * CHANNELS
    found = planned(tmp_path, codec=["int8"], codec_down=["fp16"])
    assert bytes_of(found, "up") == {3 * int8}
    # The first round's whole, two updates, and the last average as plain arrays, to be validated.
    assert bytes_of(found, "down") == {FRAME + ALL + 2 * (FRAME + EXACT + 2 * NUMBERS) + ALL}
    assert bytes_of(planned(tmp_path, codec=["zstd"]), "up") == {3 * (FRAME + ALL + 1)}
    assert bytes_of(planned(tmp_path, codec=["zstd"]), "down") == {4 * ALL}
    assert bytes_of(planned(tmp_path), "up") == {3 * ALL}


def test_where_rounds_ask_some_of_the_sites_a_site_may_need_the_whole(tmp_path: Path) -> None:
    """Of two sites one is asked: in round 1 with 1/2 the whole; later with 1/4 the update and with 1/4 the whole."""
    found = planned(tmp_path, codec_down=["fp16"], participation=0.5)
    update, whole = FRAME + EXACT + 2 * NUMBERS, FRAME + ALL
    assert bytes_of(found, "down") == {round(whole / 2 + 2 * (update / 4 + whole / 4) + ALL / 2)}
    assert any("one that missed a round is sent the whole student" in said for said in found.warnings)


def test_a_plan_says_how_the_student_is_written() -> None:
    part = configured(codec=["topk", "int8", "zstd"], codec_down=["fp16"], topk_share=0.05).federation
    assert codec_sentences(part) == (
        "Sites send the largest 5 % of each array's update, in 8 bits a number, packed by zstd. They are sent the "
        "update of each array, in 16 bits a number. What a message leaves out is added to the next; statistics and "
        "counters go as they are. Bytes of what zstd packs are counted at the most.",
    )
    assert codec_sentences(configured(codec=["zstd"]).federation) == (
        "Sites send the student, packed by zstd. They are sent the student as it is. Bytes of what zstd packs are "
        "counted at the most.",
    )
    assert codec_sentences(configured().federation) == ()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"topk_share": 0.2, "codec": ["int8"]}, "federation.topk_share has no effect"),
        ({"shared": "none", "codec": ["int8"]}, "federation.codec has no effect: no weights of a student cross"),
    ],
)
def test_a_codec_without_effect_is_said(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert any(said in warning for warning in planned(tmp_path, **settings).warnings)
