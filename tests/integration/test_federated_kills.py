"""Each reply is written once, and a SIGKILL at any of them costs nothing but the work since: bits, bytes, leftovers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

SITES, ROUNDS = 2, 2
PROGRAM = Path(__file__).with_name("federated_kills.py")


CODECS = ("", pytest.param("topk,int8,zstd", marks=pytest.mark.slow))


@pytest.fixture(scope="module", params=CODECS)
def found(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Any]:
    codec = [request.param] if request.param else []
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path_factory.mktemp("kills")), *codec],
        capture_output=True, text=True, cwd=ROOT, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # With updates down a state has the model that the sites have beside the server's.
    return {**json.loads(done.stdout.splitlines()[-1]), "models_in_a_state": 2 if codec else 1}


def test_a_round_writes_its_replies_once_and_one_new_average(found: dict[str, Any]) -> None:
    replies = [name for name, _ in found["saves"] if name.startswith("federated_replies/")]
    states = [name for name, _ in found["saves"] if name == "federated_training"]
    assert len(replies) == len(set(replies)) == SITES * ROUNDS and len(states) == ROUNDS
    models = SITES * ROUNDS + ROUNDS * found["models_in_a_state"]
    # Beside the weights: names, checksums and figures, some KB a file.
    assert models < sum(size for _, size in found["saves"]) / found["model_bytes"] < 1.1 * models


def test_killed_at_any_reply_it_ends_with_the_same_bits(found: dict[str, Any]) -> None:
    assert len(found["kills"]) == len(found["saves"]) + ROUNDS == 8
    for kill in found["kills"]:
        assert kill["ended"] == 9 and kill["went_on"] == 0, kill
        assert kill["same"] and kill["left"] == [], kill


def test_what_was_written_is_not_asked_for_again(found: dict[str, Any]) -> None:
    whole = [name for name, _ in found["saves"]]
    for kill in found["kills"]:
        first, second = ([name for name, _ in kill[part]] for part in ("first", "second"))
        assert first == whole[: kill["at"] + (not kill["before"])], kill
        assert first + second == whole, kill
